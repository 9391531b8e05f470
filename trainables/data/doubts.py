"""Data are doubted before anything is trained on them.

A network learns from whatever it is given: the number of a row, a copy of the label, -3.4e38 where
there was no value. Training does not fail on them; its results are wrong. What cannot be meant is
refused; what may be meant is a caution: one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ...analysis.rows.mistake import Mistake

LARGEST_MAGNITUDE = math.sqrt(float(np.finfo(np.float32).max))
"""Magnitude that an input has at most, in every precision: float32 can hold its square, which a
deviation needs.
"""

DWARFING_FACTOR = 2.0**24
"""A value so many times larger than all others makes them one number in float32, once they are
standardised.
"""
HUGE_MAGNITUDE = 1e9
"""Magnitude from which such a value is a mark for "no value", and not a probability beside many
that are nearly 0.
"""
MARK_MAGNITUDE = 100
"""A value in several rows, so large and so many times larger than all others, may be such a mark.
"""

GLANCE_EXAMPLES = 1024
"""Examples, evenly spread over a split, in which columns are looked at first; what is noticed there
is then looked at in all.
"""
PART_EXAMPLES = 256
"""Examples that are looked at together."""
OVERLAP_SHARE = 0.1
"""Share of a split that may be training examples too without a word."""
ORDER_EXAMPLES = 16
"""Examples from which on an order of rows is no accident."""
NAMED_ITEMS = 5
"""Columns or classes that a sentence names at most."""

FILL = "if it stands for a missing value, fill one in, or leave the row out"
"""What to do about a value that cannot be meant."""

_CURES = {
    "f": "make them float64",
    "c": "give real and imaginary parts as two features",
    "M": "give times as numbers, such as seconds since a day that you choose",
    "m": "give durations as numbers, such as seconds",
    "O": "equally long rows of numbers, without None, become an array of numbers",
}


def check_types(
    where: str,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
) -> None:
    """Refuses inputs whose type is not one that torch takes. shape: (n, ...)."""
    kind = dtype.kind
    if kind in "biu":
        return
    if kind == "f" and dtype.itemsize <= 8:
        return
    cure = _CURES.get(kind, "make them numbers")
    rule = "inputs are numbers (n, ...) of at most 64 bits"
    raise Mistake(f"{where}: {rule}; got {dtype} {shape}; {cure}")


def whole_labels(where: str, labels: np.ndarray) -> np.ndarray:
    """Labels (n,) as int64. Refuses what are no whole numbers from 0."""
    rule = f"{where}: labels are whole numbers from 0"
    if labels.dtype.kind not in "biu":
        first = str(labels[:3].tolist())
        on_one_line = " ".join(first.split())
        start = on_one_line[:100]
        raise Mistake(f"{rule}; got {labels.dtype} {start}")
    lowest = int(labels.min())
    highest = int(labels.max())
    most = np.iinfo(np.int64).max
    for extreme in (lowest, highest):
        if not 0 <= extreme <= most:
            raise Mistake(f"{rule}; got {extreme}")
    return labels.astype(np.int64)


def count_classes(labels: Mapping[str, np.ndarray]) -> int:
    """The number of classes in labels by split. Refuses numbers without training examples, and
    labels that are no classes.
    """
    train = labels["train"]
    known = np.unique(train)
    count = len(known)
    cure = "number the classes so, and leave out rows that have none"
    if count >= ORDER_EXAMPLES and 2 * count > len(train):
        rule = "a class has two training examples or more, on average"
        got = _label_counts(train)
        raise Mistake(f"split train: {rule}; {got}; is the label an identifier?")
    if known[-1] != count - 1:
        rule = "labels number the classes 0, 1, 2, ... without a gap, each with training examples"
        is_off = known != np.arange(count)
        gap = np.flatnonzero(is_off)[0]
        got = f"{_label_counts(train)}, and no example of class {gap}"
        raise Mistake(f"split train: {rule}; {got}; {cure}")
    if count == 1:
        raise Mistake(f"split train: has two classes or more; {_label_counts(train)}")
    for split, others in labels.items():
        strange = np.setdiff1d(others, known)
        if not strange.size:
            continue
        first = strange[0]
        is_first = others == first
        examples = _examples(int(is_first.sum()))
        rule = f"has the classes of `train`, 0 to {known[-1]}"
        got = f"class {first} ({examples}), which `train` lacks"
        raise Mistake(f"split {split}: {rule}; got {got}; {cure}")
    return count


def _label_counts(labels: np.ndarray) -> str:
    """`got 3 labels in 200 examples: 0 (62 examples), ...`, of labels (n,)."""
    known, counts = np.unique(labels, return_counts=True)
    shown: list[str] = []
    for label, count in zip(known, counts, strict=True):
        examples = _examples(count)
        shown.append(f"{label} ({examples})")
    if len(shown) > NAMED_ITEMS + 1:
        shown[NAMED_ITEMS:-1] = ["..."]
    number = len(known)
    several = f"{number:,} labels"
    got = _several("1 label", several, number)
    examples = _examples(len(labels))
    listed = ", ".join(shown)
    return f"got {got} in {examples}: {listed}"


def missing_classes(
    labels: Mapping[str, np.ndarray],
    classes: int,
) -> Iterator[str]:
    """Cautions about classes that a split has no examples of. labels: of all splits, what was
    carved out of `train` too.

    Refuses a class whose few examples were all carved out of `train`.
    """
    for split, of_split in labels.items():
        counts = np.bincount(of_split, minlength=classes)
        missing = np.flatnonzero(counts == 0)
        if not missing.size:
            continue
        noun = _several("class", "classes", len(missing))
        what = f"{noun} {_listed(missing)}"
        if split == "train":
            lost = missing[0]
            examples = 0
            for others in labels.values():
                is_lost = others == lost
                examples += int(is_lost.sum())
            why = f"all {examples} of class {lost} were drawn for another split"
            cure = "give it more, or leave it out"
            raise Mistake(
                f"split train: has examples of each class; got none of {what}: {why}; {cure}"
            )
        yield f"split {split} has no examples of {what}: its accuracy says nothing about that"


def check_numbers(
    where: str,
    inputs: np.ndarray,
    names: Sequence[str] = (),
    row: int | None = None,
) -> None:
    """Refuses inputs (n, ...) that are not finite, or too large to be meant. names: of columns.
    row: of a single example.
    """
    if inputs.dtype.kind != "f":
        return
    for begin in range(0, len(inputs), PART_EXAMPLES):
        part = inputs[begin : begin + PART_EXAMPLES]
        wrong = _not_meant(part)
        if not wrong.any():
            continue
        places = np.argwhere(wrong)
        first, *inside = places[0].tolist()
        index = (begin + first, *inside)
        got = _told_number(inputs, index, names, row)
        most = f"{LARGEST_MAGNITUDE:.2g}"
        rule = f"inputs are finite numbers of at most {most}, whose squares float32 can hold"
        raise Mistake(f"{where}: {rule}; got {got}; {FILL}")


def _not_meant(values: np.ndarray) -> np.ndarray:
    """Where floating-point numbers are not finite, or too large: bool, of the same shape."""
    dtype = values.dtype
    holds = float(np.finfo(dtype).max)
    most = min(LARGEST_MAGNITUDE, holds)
    limit = dtype.type(most)
    is_meant = np.abs(values) <= limit
    return ~is_meant  # NaN is no number to compare with


def _told_number(
    inputs: np.ndarray,
    index: tuple[int, ...],
    names: Sequence[str],
    row: int | None,
) -> str:
    """The value at `index`, with its place, and how many more of its column are like it."""
    if row is None:
        row = index[0]
    at = f"row {row}"
    if len(index) == 2:
        place = index[1]
        column = inputs[:, place]
        at = f"{column_name(names, place)}, {at}"
    else:
        column = inputs
        at = f"{at} at {index[1:]}"
    wrong = _not_meant(column)
    more = int(wrong.sum()) - 1
    others = ""
    if more:
        others = f", and {more:,} more like it"
    value = _shown(inputs[index])
    return f"{value} ({at}{others})"


def doubt_marks(
    where: str,
    inputs: np.ndarray,
    names: Sequence[str] = (),
) -> list[str]:
    """Cautions about values that may stand for "no value" in inputs (n, d). Refuses those that
    leave nothing of the others.
    """
    if inputs.dtype.kind == "b":
        return []
    low = inputs.min(0).astype(np.float64)
    high = inputs.max(0).astype(np.float64)
    low_sizes = np.abs(low)
    high_sizes = np.abs(high)
    sizes = np.maximum(low_sizes, high_sizes)
    is_large = sizes >= MARK_MAGNITUDE
    large = np.flatnonzero(is_large)
    cautions: list[str] = []
    for place in large.tolist():
        name = column_name(names, place)
        column = inputs[:, place].astype(np.float64)
        cautions += _doubt_mark(where, name, column)
    return cautions


def _doubt_mark(where: str, name: str, column: np.ndarray) -> Iterator[str]:
    """A caution, or none, about a column (n,) float64."""
    sizes = np.abs(column)
    size = sizes.max()
    is_large = sizes > size / 2
    large = column[is_large]
    others = column[~is_large]
    if not others.size:
        return
    low = others.min()
    high = others.max()
    if low == high:
        return
    mark = _shown(large[0])
    rows = f"{mark} in {len(large):,} of {len(column):,} rows"
    span = f"from {_shown(low)} to {_shown(high)}"
    what = f"{name}: {rows}, and {span} in the others"
    largest_other = np.abs(others).max()
    times = size / largest_other
    if times >= DWARFING_FACTOR and size >= HUGE_MAGNITUDE:
        raise Mistake(
            f"{where}: a value is less than {DWARFING_FACTOR:.2g} times as large as all others, "
            f"or float32 cannot tell them apart; got {what}; {FILL}"
        )
    is_repeated = len(large) > 1 and len(np.unique(large)) <= 2
    if times >= MARK_MAGNITUDE and is_repeated:
        yield f"{where}: {what}; {FILL}"


def doubt_columns(
    inputs: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    dtype: np.dtype[np.generic],
    all_of_it: bool = True,
) -> list[str]:
    """Cautions about features of training examples (n, d) in the order of their file, with labels
    (n,).

    dtype: in which they will be.  all_of_it: or evenly spread examples only, of inputs that are
    read when they are reached. Refuses columns that copy the label, and identifiers by which the
    classes lie in blocks.
    """
    if len(inputs) < ORDER_EXAMPLES:
        return []
    columns = _Columns(inputs, labels, names, dtype)
    constant = columns.constant()
    without = set(constant)
    varying: list[int] = []
    for place in range(inputs.shape[1]):
        if place not in without:
            varying.append(place)
    columns.refuse_copies(varying)
    cautions = columns.about_labels(varying)
    cautions += columns.about_rows(varying)
    same = columns.duplicates(varying)
    if same:
        repeat = _several("repeats", "repeat", len(same))
        cautions.append(f"{columns.named(same)} {repeat} an earlier column")
    if constant:
        are = _several("is", "are", len(constant))
        cautions.append(f"{columns.named(constant)} {are} constant in {dtype}")
    seen = ""
    if not all_of_it:
        seen = f" (in {len(inputs)} examples that were looked at)"
    return [f"split train: {caution}{seen}" for caution in cautions]


def doubt_overlap(
    train: np.ndarray,
    others: Mapping[str, np.ndarray],
) -> Iterator[str]:
    """Cautions about examples of other splits, (n, ...) each, that are training examples too,
    looked for by a glance.
    """
    known: set[bytes] = set()
    for row in train:
        known.add(row.tobytes())
    for split, inputs in others.items():
        rows = spread(len(inputs), GLANCE_EXAMPLES)
        glance = inputs[rows].astype(train.dtype)
        same = 0
        for row in glance:
            if row.tobytes() in known:
                same += 1
        most = OVERLAP_SHARE * len(glance)
        if same > most:
            some = f"{same:,} of {len(glance):,} examples that were looked at"
            yield f"split {split}: {some} are training examples too"


class _Columns:
    """Features (n, d) of training examples, a glance at them, and their labels."""

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        dtype: np.dtype[np.generic],
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.names = names
        self.dtype = dtype
        rows = spread(len(inputs), GLANCE_EXAMPLES)
        self.glance = inputs[rows]
        self.glance_labels = labels[rows]
        counts = np.bincount(labels)
        self.repeats = len(labels) - len(counts)
        """Examples beside one of each class."""

    def named(self, places: Sequence[int]) -> str:
        """`columns a, b, c`."""
        if len(places) == 1:
            place = places[0]
            return column_name(self.names, place)
        count = self.inputs.shape[1]
        shown: Iterable[object] = places
        if self.names:
            shown = [self.names[place] for place in places]
        listed = _listed(shown)
        return f"{len(places):,} of {count:,} columns ({listed})"

    def constant(self) -> list[int]:
        """Columns of one value, as training will see them."""
        glance = self.glance.astype(self.dtype)
        is_likely = (glance == glance[0]).all(0)
        likely = np.flatnonzero(is_likely)
        constant: list[int] = []
        for place in likely.tolist():
            column = self.inputs[:, place].astype(self.dtype)
            is_first = column == column[0]
            if is_first.all():
                constant.append(place)
        return constant

    def duplicates(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that are the same as an earlier one."""
        firsts_by_glance: dict[bytes, list[int]] = {}
        duplicates: list[int] = []
        for place in places:
            glance = self.glance[:, place].tobytes()
            firsts = firsts_by_glance.setdefault(glance, [])
            if self._repeats_one_of(firsts, place):
                duplicates.append(place)
            else:
                firsts.append(place)
        return duplicates

    def _repeats_one_of(self, firsts: Sequence[int], place: int) -> bool:
        """Whether a column is the same as one of `firsts`."""
        column = self.inputs[:, place]
        for first in firsts:
            earlier = self.inputs[:, first]
            if np.array_equal(column, earlier):
                return True
        return False

    def refuse_copies(self, places: Sequence[int]) -> None:
        """Refuses columns that have one value in each class, and another one in each other class;
        alone or together.
        """
        telling = self._one_value_a_class(places)
        if not telling:
            return
        _, examples = np.unique(self.labels, return_index=True)  # one of each class
        values = self.inputs[examples][:, telling]
        alone: list[int] = []
        for place, column in zip(telling, values.T, strict=True):
            distinct = np.unique(column)
            if len(distinct) == len(examples):
                alone.append(place)
        if not alone:
            distinct = np.unique(values, axis=0)
            if len(distinct) != len(examples):
                return
        copies = alone or telling
        named = self.named(copies)
        what = f"{named}, with one value for each class"
        them = _several("it", "them", len(copies))
        rule = "features are no copies of the label, shifted or renamed"
        raise Mistake(f"split train: {rule}; got {what}; leave {them} out")

    def about_labels(self, places: Sequence[int]) -> list[str]:
        """Cautions about columns that say much of the label."""
        cautions: list[str] = []
        telling = self._one_value_a_class(places)
        if telling:
            has = _several("has", "have", len(telling))
            rule = f"{has} one value in each class"
            cautions.append(f"{self.named(telling)} {rule}: was that made from the label?")
        deciding: list[int] = []
        for place in places:
            if place in telling:
                continue
            if self._decides(place) or self._separates(place):
                deciding.append(place)
        if deciding:
            tells = _several("tells", "tell", len(deciding))
            rule = f"{tells} the label without the other columns"
            cautions.append(f"{self.named(deciding)} {rule}: was that made from it?")
        return cautions

    def about_rows(self, places: Sequence[int]) -> list[str]:
        """Cautions about columns that number the rows. Refuses them where the classes lie in blocks
        by that number.
        """
        identifiers: list[int] = []
        growing: list[int] = []
        for place in self._ordered(places):
            kind = _order(self.inputs[:, place])
            if kind == "identifier":
                self._refuse_blocks(place)
                identifiers.append(place)
            elif kind == "growing":
                growing.append(place)
        cautions: list[str] = []
        if identifiers:
            are = _several("looks like an identifier", "look like identifiers", len(identifiers))
            cure = "leave out what is no property of an example"
            cautions.append(f"{self.named(identifiers)} {are} of rows: {cure}")
        if growing:
            move = _several("only grows or only falls", "only grow or only fall", len(growing))
            cure = "leave out a time, or an identifier"
            cautions.append(f"{self.named(growing)} {move} from row to row: {cure}")
        return cautions

    def _refuse_blocks(self, place: int) -> None:
        """Refuses an identifier by which the classes lie in blocks."""
        column = self.inputs[:, place]
        order = np.argsort(column, kind="stable")
        if not _in_blocks(self.labels[order]):
            return
        rule = "no feature is the number of a row where rows are in the order of their classes"
        first = _shown(column[0])
        last = _shown(column[-1])
        span = f"from {first} to {last} in {len(column):,} rows"
        got = f"{self.named([place])}, {span}"
        raise Mistake(f"split train: {rule}; got {got}; leave it out")

    def _one_value_a_class(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that are the same for all examples of a class, unless that may be an
        accident.
        """
        columns = self.inputs.shape[1]
        least = 10 + math.log2(columns)
        if self.repeats < least:
            return []
        glances = self.glance[:, places]
        likely = _are_functions(glances, self.glance_labels)
        telling: list[int] = []
        for place, is_likely in zip(places, likely, strict=True):
            if not is_likely:
                continue
            column = self.inputs[:, [place]]
            if _are_functions(column, self.labels)[0]:
                telling.append(place)
        return telling

    def _glance_then_all(
        self,
        place: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A column and its labels: of few examples, which are quick to judge, and of all."""
        glance = self.glance[:, place]
        yield glance, self.glance_labels
        column = self.inputs[:, place]
        yield column, self.labels

    def _decides(self, place: int) -> bool:
        """Whether the label is a function of a column, whose values repeat."""
        for column, labels in self._glance_then_all(place):
            values, which = np.unique(column, return_inverse=True)
            most = len(column) / 4
            if not 1 < len(values) <= most:
                return False
            if not _are_functions(labels[:, None], which)[0]:
                return False
        return True

    def _separates(self, place: int) -> bool:
        """Whether the classes lie one after the other along a column: a score, or a noisy copy of
        the label.

        Not said of one in the order of the rows, of which `about_rows` speaks.
        """
        if self.repeats < ORDER_EXAMPLES:
            return False
        glance = self.glance[:, place].astype(np.float64)
        steps = np.diff(glance)
        if (steps >= 0).all() or (steps <= 0).all():
            return False
        for column, labels in self._glance_then_all(place):
            if not _are_separated(column, labels):
                return False
        return True

    def _ordered(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that may be an order of the rows, by a glance."""
        glance = self.glance
        later = glance[1:]
        earlier = glance[:-1]
        sorted_up = (later >= earlier).all(0)
        sorted_down = (later <= earlier).all(0)
        ranked = np.sort(glance, axis=0)
        is_change = ranked[1:] != ranked[:-1]
        distinct = is_change.all(0)
        if glance.dtype.kind == "f":
            whole = glance == np.floor(glance)
            distinct &= whole.all(0)
        likely = sorted_up | sorted_down
        likely |= distinct
        return [place for place in places if likely[place]]


def _order(column: np.ndarray) -> str:
    """What the values (n,) are: an `identifier` of rows, `growing` or falling, or nothing.

    An identifier is a different whole number in each row, in the order of rows or from a range that
    they fill by half at least; or grows by equal steps.
    """
    if column.dtype.kind == "b":
        return ""
    steps = np.diff(column.astype(np.float64))
    count = len(np.unique(column))
    floor = np.floor(column)
    is_whole = bool((column == floor).all())
    is_distinct = count == len(column)
    if (steps >= 0).all() or (steps <= 0).all():
        is_even = np.allclose(steps, steps.mean(), rtol=1e-2, atol=0)
        if is_distinct and (is_whole or is_even):
            return "identifier"
        if count >= ORDER_EXAMPLES:
            return "growing"
        return ""
    span = float(column.max()) - float(column.min())
    is_dense = span < 2 * len(column)
    are_many = len(column) >= 2 * ORDER_EXAMPLES
    if is_distinct and is_whole and is_dense and are_many:
        return "identifier"
    return ""


def _in_blocks(labels: np.ndarray) -> bool:
    """Whether labels (n,) change from one to the next less than half as often as by chance."""
    counts = np.bincount(labels)
    shares = counts / len(labels)
    squares = shares**2
    same_by_chance = float(squares.sum())
    steps = len(labels) - 1
    by_chance = steps * (1 - same_by_chance)
    is_change = labels[1:] != labels[:-1]
    changes = int(is_change.sum())
    return changes < by_chance / 2


def _are_separated(column: np.ndarray, labels: np.ndarray) -> bool:
    """Whether each class has values (n,) of its own, between no two of another class."""
    order = np.argsort(column, kind="stable")
    ranked = labels[order]
    values = column[order]
    is_change = ranked[1:] != ranked[:-1]
    changes = np.flatnonzero(is_change)
    present = len(np.unique(labels))
    if present < 2:
        return False
    if len(changes) != present - 1:
        return False
    before = values[changes]
    after = values[changes + 1]
    ties = before == after
    return not ties.any()


def _are_functions(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Whether each column of values (n, d) is a function of `of` (n,): (d,) bool."""
    order = np.argsort(of, kind="stable")
    ranked = of[order]
    values = values[order]
    changes = ranked[1:] != ranked[:-1]
    begins = np.concatenate([[True], changes])
    starts = np.flatnonzero(begins)
    least = np.minimum.reduceat(values, starts, 0)
    most = np.maximum.reduceat(values, starts, 0)
    is_one_value = least == most
    return is_one_value.all(0)


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` rows out of `count`, evenly spread."""
    even = np.linspace(0, count - 1, most)
    rows = even.astype(int)
    return np.unique(rows)


def column_name(names: Sequence[str], place: int) -> str:
    """A column as sentences name it."""
    if not names:
        return f"column {place}"
    return f"column `{names[place]}`"


def _listed(items: Iterable[object]) -> str:
    """The first few, with commas."""
    shown = [str(item) for item in items]
    if len(shown) > NAMED_ITEMS:
        shown[NAMED_ITEMS:] = ["..."]
    return ", ".join(shown)


def _examples(count: int) -> str:
    return _several("1 example", f"{count:,} examples", count)


def _several(one: str, more: str, count: int) -> str:
    if count == 1:
        return one
    return more


def _shown(value: object) -> str:
    return f"{float(value):.6g}"  # type: ignore[arg-type]
