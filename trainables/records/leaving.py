"""The last gate: a network leaves a study only if it is the one that its row measured.

The file that leaves is loaded back and measured again. Its FLOPs and parameters are the row's to
the digit. Its answers on the test split, in the row's precision, are the row's but for rounding: a
folded constant, or a stack on a GPU, may round otherwise, and so decide between two classes whose
logits are as good as equal. What is as good as equal is told by the kept network, removed
parameters zero, computed in float64: a class ties with the best one if its logit is at most `CLOSE`
of the largest absolute logit below it. Each answer of the file is the best class or ties with it,
and the row's number of right answers is one that ties can lead to. Where no example has a tie, both
are the same number.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake, Wrong
from ...analysis.rows.storage import Where
from ..data.dataset import Data
from ..measure import flops
from ..measure.members import EXAMPLES
from ..models import raised
from ..task import Task

CLOSE = {"float32": 1e-3, "float64": 1e-9}
"""By the type of parameters; that of float32 leaves room for the tf32 of a GPU."""
_RULE = "a network leaves only if it is the one that was measured"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a file answers on the test split, beside the network that was kept.

    right: of the file.  least, most: right answers of the kept network, if ties go against it or
    for it.  other: answers of the file that neither are the kept network's nor tie with it.
    """

    examples: int
    right: int
    least: int
    most: int
    other: int

    def fits(self, right: int) -> bool:
        """Whether so many right answers are the kept network's, ties aside."""
        return self.least <= right <= self.most


def task(folder: Where) -> Task:
    """The task whose networks are in `folder`, on the CPU. Raises Mistake if its data are not here,
    or are others now.
    """
    planned = table.planned(folder)
    if planned is not None and "task" in planned:
        fields = planned["task"]
        digest = planned["description"]["data_digest"]
    else:
        first = table.footers(folder)[0]
        fields = dict(first["task"])
        digest = fields.pop("data_digest")
    task = dataclasses.replace(Task(**fields), device="cpu")
    if task.data.digest != digest:
        rule = f"is as it was when the study ran, with digest {digest}"
        raise Mistake(f"dataset {task.dataset}: {rule}; got {task.data.digest}")
    return task


def check_counts(
    network: nn.Module,
    row: Mapping[str, Any],
    input_shape: tuple[int, ...],
) -> None:
    """Raise Wrong unless FLOPs and parameters of `network` are `flops_shrunk` and `params_shrunk`
    of its row.
    """
    row_flops = int(row["flops_shrunk"])
    row_params = int(row["params_shrunk"])
    recorded = f"its row counts {row_flops:,} FLOPs and {row_params:,} parameters"
    told = f"{row['member']}: {_RULE}: {recorded}"
    try:
        counts = flops.count(network, input_shape)
    except Exception as error:  # code of any model
        why = f"what would leave cannot be run: {raised(error)}"
        raise Wrong(f"{told}, and {why}; nothing was written") from error
    if counts.flops == row_flops and counts.params == row_params:
        return
    got = f"the file {counts.flops:,} and {counts.params:,}"
    raise Wrong(f"{told}, {got}; nothing was written")


def check_answers(
    network: Callable[[Tensor], Tensor],
    kept: nn.Module,
    row: Mapping[str, Any],
    data: Data,
) -> int:
    """Raise Wrong unless a file answers on the test split as its row says; returns the row's number
    of right answers.

    network: of the file, inputs -> logits.  kept: the network as it was kept, removed parameters
    zero.  Both are on the CPU, in the row's precision.
    """
    examples = len(data.labels["test"])
    recorded = round(row["accuracy_test"] * examples)
    answers = compare(network, kept, data)
    if not answers.other and answers.fits(recorded):
        return recorded
    more = ""
    if answers.other:
        more = f", and answers {answers.other} of them as the network that was kept does not"
    raise Wrong(
        f"{row['member']}: {_RULE}: "
        f"its row has {_share(recorded, examples)} test examples right, "
        f"the file {_share(answers.right, examples)}{more}; nothing was written"
    )


@torch.no_grad()
def compare(
    network: Callable[[Tensor], Tensor],
    kept: nn.Module,
    data: Data,
) -> Answers:
    """The answers of `network` on the test split, and which of them those of `kept` allow."""
    parameter = next(kept.parameters(), torch.empty(0))
    dtype = str(parameter.dtype).removeprefix("torch.")
    close = CLOSE[dtype]
    exact = copy.deepcopy(kept).double()
    right = least = most = other = examples = 0
    for x, labels in data.parts("test", EXAMPLES):
        answers = network(x).argmax(1)
        logits = _exactly(exact, kept, x)
        ties = _ties(logits, close)
        could = _at(ties, labels)
        is_alone = ties.sum(1) == 1
        must = could & is_alone
        may = _at(ties, answers)
        is_right = answers == labels
        right += int(is_right.sum())
        most += int(could.sum())
        least += int(must.sum())
        other += int((~may).sum())
        examples += len(labels)
    return Answers(examples, right, least, most, other)


def _ties(logits: Tensor, close: float) -> Tensor:
    """(n, classes) bool: the best class of each example, and those that tie with it."""
    best = logits.max(1, keepdim=True).values
    sizes = logits.abs()
    largest = sizes.max(1, keepdim=True).values
    least = best - close * largest
    ties = logits >= least
    # One that is not a number ties with none.
    answers = logits.argmax(1)
    classes = logits.shape[1]
    is_answer = nn.functional.one_hot(answers, classes).bool()
    return ties | is_answer


def _at(ties: Tensor, classes: Tensor) -> Tensor:
    """(n,) bool: whether the class of each example is among those that tie."""
    examples = torch.arange(len(classes))
    return ties[examples, classes]


def _exactly(exact: nn.Module, kept: nn.Module, x: Tensor) -> Tensor:
    """Logits in float64; as the model computes them where its code allows no other type."""
    try:
        return exact(x.double()).double()
    except RuntimeError:
        return kept(x).double()


def _share(right: int, examples: int) -> str:
    percent = 100 * right / examples
    return f"{right} of {examples} ({percent:.2f} %)"
