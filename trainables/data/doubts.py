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

LARGEST = math.sqrt(float(np.finfo(np.float32).max))
"""Magnitude that an input has at most, in every precision: float32 can hold its square, which a
deviation needs.
"""

DWARFED = 2.0**24
"""A value so many times larger than all others makes them one number in float32, once they are
standardised.
"""
HUGE = 1e9
"""Magnitude from which such a value is a mark for "no value", and not a probability beside many
that are nearly 0.
"""
MARK = 100
"""A value in several rows, so large and so many times larger than all others, may be such a mark.
"""

GLANCE = 1024
"""Examples, evenly spread over a split, in which columns are looked at first; what is found there
is then looked at in all.
"""
PART = 256
"""Examples that are looked at together."""
SHARED = 0.1
"""Share of a split that may be training examples too without a word."""
LEAST = 16
"""Examples from which on an order of rows is no accident."""
NAMED = 5
"""Columns or classes that a sentence names at most."""

FILL = "if it stands for a missing value, fill one in, or leave the row out"
"""What to do about a value that cannot be meant."""


def kinds(where: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    """Refuses inputs whose type is not one that torch takes. shape: (n, ...)."""
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return
    cure = _CURES.get(dtype.kind, "make them numbers")
    raise Mistake(
        f"{where}: inputs are numbers (n, ...) of at most 64 bits; got {dtype} {shape}; {cure}"
    )


_CURES = {
    "f": "make them float64",
    "c": "give real and imaginary parts as two features",
    "M": "give times as numbers, such as seconds since a day that you choose",
    "m": "give durations as numbers, such as seconds",
    "O": "equally long rows of numbers, without None, become an array of numbers",
}


def whole_labels(where: str, labels: np.ndarray) -> np.ndarray:
    """Labels (n,) as int64. Refuses what are no whole numbers from 0."""
    rule = f"{where}: labels are whole numbers from 0"
    if labels.dtype.kind not in "biu":
        shown = " ".join(str(labels[:3].tolist()).split())
        raise Mistake(f"{rule}; got {labels.dtype} {shown[:100]}")
    for extreme in (int(labels.min()), int(labels.max())):
        if not 0 <= extreme <= np.iinfo(np.int64).max:
            raise Mistake(f"{rule}; got {extreme}")
    return labels.astype(np.int64)


def classes(labels: Mapping[str, np.ndarray]) -> int:
    """The number of classes in labels by split. Refuses numbers without training examples, and
    labels that are no classes.
    """
    known, counts = np.unique(labels["train"], return_counts=True)
    shown = [f"{label} ({_examples(count)})" for label, count in zip(known, counts, strict=True)]
    if len(shown) > NAMED + 1:
        shown[NAMED:-1] = ["..."]
    labels_told = _several("1 label", f"{len(known):,} labels", len(known))
    got = f"got {labels_told} in {_examples(len(labels['train']))}: {', '.join(shown)}"
    cure = "number the classes so, and leave out rows that have none"
    if len(known) >= LEAST and 2 * len(known) > len(labels["train"]):
        raise Mistake(
            f"split train: a class has two training examples or more, on average; {got}; is the label an identifier?"
        )
    if known[-1] != len(known) - 1:
        rule = "labels number the classes 0, 1, 2, ... without a gap, each with training examples"
        gap = np.flatnonzero(known != np.arange(len(known)))[0]
        raise Mistake(f"split train: {rule}; {got}, and no example of class {gap}; {cure}")
    if len(known) == 1:
        raise Mistake(f"split train: has two classes or more; {got}")
    for split, others in labels.items():
        if (strange := np.setdiff1d(others, known)).size:
            count = int((others == strange[0]).sum())
            what = f"class {strange[0]} ({_examples(count)}), which `train` lacks"
            raise Mistake(
                f"split {split}: has the classes of `train`, 0 to {known[-1]}; got {what}; {cure}"
            )
    return len(known)


def lacking(labels: Mapping[str, np.ndarray], known: int) -> Iterator[str]:
    """Cautions about classes that a split has no examples of. labels: of all splits, what was
    carved out of `train` too.

    Refuses a class whose few examples were all carved out of `train`.
    """
    for split, given in labels.items():
        count = np.bincount(given, minlength=known)
        missing = np.flatnonzero(count == 0)
        if not missing.size:
            continue
        what = f"{_several('class', 'classes', len(missing))} {_listed(missing)}"
        if split == "train":
            left = sum(int((others == missing[0]).sum()) for others in labels.values())
            where = f"all {left} of class {missing[0]} were drawn for another split"
            raise Mistake(
                f"split train: has examples of each class; got none of {what}: {where}; give it more, or leave it out"
            )
        yield f"split {split} has no examples of {what}: its accuracy says nothing about that"


def numbers(
    where: str, inputs: np.ndarray, names: Sequence[str] = (), row: int | None = None
) -> None:
    """Refuses inputs (n, ...) that are not finite, or too large to be meant. names: of columns.
    row: of a single example.
    """
    if inputs.dtype.kind != "f":
        return
    largest = inputs.dtype.type(min(LARGEST, float(np.finfo(inputs.dtype).max)))
    for place in range(0, len(inputs), PART):
        part = inputs[place : place + PART]
        wrong = ~(np.abs(part) <= largest)  # NaN is no number to compare with
        if not wrong.any():
            continue
        first, *inside = (int(index) for index in np.argwhere(wrong)[0])
        value = _shown(part[(first, *inside)])
        at = f"row {place + first if row is None else row}"
        if len(inside) == 1:
            column = inputs[:, inside[0]]
            at = f"{column_name(names, inside[0])}, {at}"
        else:
            column = inputs
            at = f"{at} at {tuple(inside)}"
        rule = f"inputs are finite numbers of at most {LARGEST:.2g}, whose squares float32 can hold"
        more = int((~(np.abs(column) <= largest)).sum()) - 1
        others = f", and {more:,} more like it" if more else ""
        raise Mistake(f"{where}: {rule}; got {value} ({at}{others}); {FILL}")


def marks(where: str, inputs: np.ndarray, names: Sequence[str] = ()) -> list[str]:
    """Cautions about values that may stand for "no value" in inputs (n, d). Refuses those that
    leave nothing of the others.
    """
    if inputs.dtype.kind == "b":
        return []
    low, high = inputs.min(0), inputs.max(0)
    sizes = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    found: list[str] = []
    for place in map(int, np.flatnonzero(sizes >= MARK)):
        column = inputs[:, place].astype(np.float64)
        size = np.abs(column)
        large = size > sizes[place] / 2
        others = column[~large]
        if not others.size or others.min() == others.max():
            continue
        value, count = column[large][0], int(large.sum())
        share = f"{_shown(value)} in {count:,} of {len(column):,} rows, and from {_shown(others.min())} to "
        what = f"{column_name(names, place)}: {share}{_shown(others.max())} in the others"
        times = sizes[place] / np.abs(others).max()
        if times >= DWARFED and sizes[place] >= HUGE:
            rule = f"a value is less than {DWARFED:.2g} times as large as all others, or float32 cannot tell them apart"
            raise Mistake(f"{where}: {rule}; got {what}; {FILL}")
        if times >= MARK and count > 1 and len(np.unique(column[large])) <= 2:
            found.append(f"{where}: {what}; {FILL}")
    return found


def columns(
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
    if len(inputs) < LEAST:
        return []
    table = _Columns(inputs, labels, names, dtype)
    constant = table.constant()
    varying = [place for place in range(inputs.shape[1]) if place not in set(constant)]
    table.refuse_copies(varying)
    cautions = table.about_labels(varying)
    cautions += table.about_rows(varying)
    if same := table.duplicates(varying):
        cautions.append(
            f"{table.named(same)} {_several('repeats', 'repeat', len(same))} an earlier column"
        )
    if constant:
        cautions.append(
            f"{table.named(constant)} {_several('is', 'are', len(constant))} constant in {dtype}"
        )
    seen = "" if all_of_it else f" (in {len(inputs)} examples that were looked at)"
    return [f"split train: {caution}{seen}" for caution in cautions]


def shared(train: np.ndarray, others: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Cautions about examples of other splits, (n, ...) each, that are training examples too,
    looked for by a glance.
    """
    known = {row.tobytes() for row in train}
    for split, inputs in others.items():
        glance = inputs[spread(len(inputs), GLANCE)].astype(train.dtype)
        same = sum(row.tobytes() in known for row in glance)
        if same > SHARED * len(glance):
            yield f"split {split}: {same:,} of {len(glance):,} examples that were looked at are training examples too"


class _Columns:
    """Features (n, d) of training examples, a glance at them, and their labels."""

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        dtype: np.dtype[np.generic],
    ) -> None:
        self.inputs, self.labels, self.names, self.dtype = inputs, labels, names, dtype
        rows = spread(len(inputs), GLANCE)
        self.few, self.their = inputs[rows], labels[rows]
        self.counts = np.bincount(labels)

    def named(self, places: Sequence[int]) -> str:
        """`columns a, b, c`."""
        if len(places) == 1:
            return column_name(self.names, places[0])
        shown = [self.names[place] if self.names else place for place in places]
        return f"{len(places):,} of {self.inputs.shape[1]:,} columns ({_listed(shown)})"

    def constant(self) -> list[int]:
        """Columns of one value, as training will see them."""
        few = self.few.astype(self.dtype)
        likely = np.flatnonzero((few == few[0]).all(0))
        found = []
        for place in likely:
            column = self.inputs[:, place].astype(self.dtype)
            if (column == column[0]).all():
                found.append(int(place))
        return found

    def duplicates(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that are the same as an earlier one."""
        first: dict[bytes, list[int]] = {}
        found = []
        for place in places:
            alike = first.setdefault(self.few[:, place].tobytes(), [])
            column = self.inputs[:, place]
            if any(np.array_equal(column, self.inputs[:, other]) for other in alike):
                found.append(place)
            else:
                alike.append(place)
        return found

    def refuse_copies(self, places: Sequence[int]) -> None:
        """Refuses columns that have one value in each class, and another one in each other class;
        alone or together.
        """
        telling = self._one_value_a_class(places)
        if not telling:
            return
        firsts = np.unique(self.labels, return_index=True)[1]  # an example of each class
        values = self.inputs[firsts][:, telling]
        alone = [
            place
            for place, column in zip(telling, values.T, strict=True)
            if len(np.unique(column)) == len(firsts)
        ]
        copies = alone or telling
        if alone or len(np.unique(values, axis=0)) == len(firsts):
            rule = "features are no copies of the label, shifted or renamed"
            what = f"{self.named(copies)}, with one value for each class"
            raise Mistake(
                f"split train: {rule}; got {what}; leave {_several('it', 'them', len(copies))} out"
            )

    def about_labels(self, places: Sequence[int]) -> list[str]:
        """Cautions about columns that say much of the label."""
        cautions = []
        if telling := self._one_value_a_class(places):
            has = _several("has", "have", len(telling))
            cautions.append(
                f"{self.named(telling)} {has} one value in each class: was that made from the label?"
            )
        others = (place for place in places if place not in telling)
        if deciding := [
            place for place in others if self._decides(place) or self._separates(place)
        ]:
            tells = _several("tells", "tell", len(deciding))
            cautions.append(
                f"{self.named(deciding)} {tells} the label without the other columns: was that made from it?"
            )
        return cautions

    def about_rows(self, places: Sequence[int]) -> list[str]:
        """Cautions about columns that number the rows. Refuses them where the classes lie in blocks
        by that number.
        """
        identifiers, growing = [], []
        for place in self._ordered(places):
            column = self.inputs[:, place]
            kind = _order(column)
            if kind == "identifier":
                if _blocks(self.labels[np.argsort(column, kind="stable")]):
                    rule = "no feature is the number of a row where rows are in the order of their classes"
                    what = f"{self.named([place])}, from {_shown(column[0])} to {_shown(column[-1])} in {len(column):,} rows"
                    raise Mistake(f"split train: {rule}; got {what}; leave it out")
                identifiers.append(place)
            elif kind == "growing":
                growing.append(place)
        cautions = []
        if identifiers:
            are = _several("looks like an identifier", "look like identifiers", len(identifiers))
            cautions.append(
                f"{self.named(identifiers)} {are} of rows: leave out what is no property of an example"
            )
        if growing:
            move = _several("only grows or only falls", "only grow or only fall", len(growing))
            cautions.append(
                f"{self.named(growing)} {move} from row to row: leave out a time, or an identifier"
            )
        return cautions

    def _one_value_a_class(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that are the same for all examples of a class, unless that may be an
        accident.
        """
        if len(self.labels) - len(self.counts) < 10 + math.log2(self.inputs.shape[1]):
            return []
        likely = _functions(self.few[:, places], self.their)
        return [
            place
            for place, may in zip(places, likely, strict=True)
            if may and self._a_function(place)
        ]

    def _a_function(self, place: int) -> bool:
        """Whether a column is a function of the label."""
        return bool(_functions(self.inputs[:, [place]], self.labels)[0])

    def _decides(self, place: int) -> bool:
        """Whether the label is a function of a column, whose values repeat."""
        for column, labels in (
            (self.few[:, place], self.their),
            (self.inputs[:, place], self.labels),
        ):
            values, which = np.unique(column, return_inverse=True)
            if not 1 < len(values) <= len(column) / 4 or not _functions(labels[:, None], which)[0]:
                return False
        return True

    def _separates(self, place: int) -> bool:
        """Whether the classes lie one after the other along a column: a score, or a noisy copy of
        the label.

        Not said of one in the order of the rows, of which `about_rows` speaks.
        """
        steps = np.diff(self.few[:, place].astype(np.float64))
        if len(self.labels) - len(self.counts) < LEAST or (steps >= 0).all() or (steps <= 0).all():
            return False
        for column, labels in (
            (self.few[:, place], self.their),
            (self.inputs[:, place], self.labels),
        ):
            order = np.argsort(column, kind="stable")
            ranked, values = labels[order], column[order]
            changes = np.flatnonzero(ranked[1:] != ranked[:-1])
            present = len(np.unique(labels))
            if (
                present < 2
                or len(changes) != present - 1
                or (values[changes] == values[changes + 1]).any()
            ):
                return False
        return True

    def _ordered(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that may be an order of the rows, by a glance."""
        few = self.few
        sorted_up = (few[1:] >= few[:-1]).all(0)
        sorted_down = (few[1:] <= few[:-1]).all(0)
        ranked = np.sort(few, axis=0)
        whole = (
            (few == np.floor(few)).all(0) if few.dtype.kind == "f" else np.ones(few.shape[1], bool)
        )
        distinct = whole & (ranked[1:] != ranked[:-1]).all(0)
        likely = sorted_up | sorted_down | distinct
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
    whole = bool((column == np.floor(column)).all())
    every = count == len(column)
    if (steps >= 0).all() or (steps <= 0).all():
        even = np.allclose(steps, steps.mean(), rtol=1e-2, atol=0)
        if every and (whole or even):
            return "identifier"
        return "growing" if count >= LEAST else ""
    dense = float(column.max()) - float(column.min()) < 2 * len(column)
    return "identifier" if every and whole and dense and len(column) >= 2 * LEAST else ""


def _blocks(labels: np.ndarray) -> bool:
    """Whether labels (n,) change from one to the next less than half as often as in a random order."""
    shares = np.bincount(labels) / len(labels)
    by_chance = (len(labels) - 1) * (1 - float((shares**2).sum()))
    return int((labels[1:] != labels[:-1]).sum()) < by_chance / 2


def _functions(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Whether each column of values (n, d) is a function of `of` (n,): (d,) bool."""
    order = np.argsort(of, kind="stable")
    ranked = of[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    values = values[order]
    return (np.minimum.reduceat(values, starts, 0) == np.maximum.reduceat(values, starts, 0)).all(0)


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` rows out of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def column_name(names: Sequence[str], place: int) -> str:
    """A column as sentences name it."""
    return f"column `{names[place]}`" if names else f"column {place}"


def _listed(found: Iterable[object]) -> str:
    """The first few, with commas."""
    shown = list(map(str, found))
    return ", ".join(shown[:NAMED] + ["..."] * (len(shown) > NAMED))


def _examples(count: int) -> str:
    return _several("1 example", f"{count:,} examples", count)


def _several(one: str, more: str, count: int) -> str:
    return one if count == 1 else more


def _shown(value: object) -> str:
    return f"{float(value):.6g}"  # type: ignore[arg-type]
