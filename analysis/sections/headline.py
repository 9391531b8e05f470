"""What was measured, in a sentence or two, and what to know before any verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from .. import page
from ..points import front, words
from ._section import Drawings, Section
from ._study import Study


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a study trained, and what that was charged."""

    model: str
    dataset: str
    ended: int
    done: int
    distinct: int
    """Networks that are not the same as another."""
    train_flops: float
    seconds: float
    unfinished: int


def counted(study: Study) -> Counts:
    """The counts of a study."""
    first, last = study.rows.iloc[0], study.last
    return Counts(
        model=first["model"],
        dataset=first["dataset"],
        ended=len(last),
        done=len(study.done),
        distinct=front.networks(study.done).nunique(),
        train_flops=last["train_flops"].sum(),
        seconds=last["seconds"].sum(),
        unfinished=len(study.unfinished),
    )


def html(study: Study, counts: Counts, _: Drawings) -> Iterator[str]:
    return told(counts, study.uncounted, study.cautions)


def told(counts: Counts, uncounted: Sequence[str], cautions: Sequence[str]) -> Iterator[str]:
    """The sentences. uncounted: operations without a FLOPs formula.  cautions: said as they are."""
    alike = ""
    if counts.distinct < counts.done:
        alike = f" ({counts.distinct} distinct networks)"
    flops = words.large(counts.train_flops)
    yield page.say(
        f"Model {counts.model} on {counts.dataset}: {counts.ended} members ended, "
        f"{counts.done} of them done{alike}. "
        f"Charged to them: {flops} training FLOPs and {counts.seconds:.3g} s, with "
        "what members share, a dense phase or a search, charged to each."
    )
    if uncounted:
        yield page.say(front.uncounted(uncounted))
    if counts.unfinished:
        yield page.say(
            f"The study is not finished: {counts.unfinished} members have rows but no last row, "
            "and are not in the figures."
        )
    for caution in cautions:
        yield page.say(caution)


SECTION = Section(name="headline", figures=counted, html=html)
