"""Long work says how far it is, between rungs too."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_console import Page
from test_contract import TASK, several, taken

from prunefront.search.drive.progress import Progress
from prunefront.search.plan.generations import Planned
from prunefront.trainables import pulse, tuning
from prunefront.trainables.algorithms import find, known


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word is said."""
    monkeypatch.setattr(pulse, "EVERY", 0.0)


@pytest.mark.parametrize("name", sorted(known()))
@pytest.mark.usefixtures("eager")
def test_every_algorithm_says_how_far_it_is(name: str):
    """As it goes on: of one kind of work, words count upwards, to what was said to be all of it."""
    method, words = find(name), list[str]()
    parent = taken(method, TASK)[0]
    members = several(method, task=parent)
    state = method.start(parent, members)
    with pulse.heard(words.append):
        method.advance(parent, state)
    assert words
    counts: dict[str, list[int]] = {}
    for word in words:
        found = re.fullmatch(r"([a-z ]+) ([\d,]+) of ([\d,]+)", word)
        assert found is not None, word
        done, total = (int(number.replace(",", "")) for number in found.groups()[1:])
        assert 0 <= done <= total
        counts.setdefault(found[1], []).append(done)
    for kind, told in counts.items():
        assert (
            sum(later < earlier for earlier, later in itertools.pairwise(told)) < len(members) + 3
        ), (kind, told)


def test_words_are_few_and_the_listener_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    now, words = [0.0], list[str]()
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with pulse.heard(words.append):
        for step in range(1000):
            now[0] += 0.1
            pulse.tell("step", step, 1000)
    assert len(words) == pytest.approx(100 / pulse.EVERY, abs=1)
    assert words[0] == "step 50 of 1,000"
    now[0] += 100
    pulse.tell("step", 1000, 1000)
    assert words[-1] != "step 1,000 of 1,000"


def test_nobody_listens_at_no_cost():
    begun = time.perf_counter()
    for step in range(100_000):
        pulse.tell("step", step, 100_000)
    assert time.perf_counter() - begun < 1, "10 microseconds each would be far too much"


@pytest.mark.usefixtures("eager")
def test_a_worker_leaves_its_words_where_the_driver_reads_them(tmp_path: Path):
    worker = object.__new__(tuning.CohortTrainable)
    worker._folder, worker._limit = tmp_path, None
    worker._cohort = SimpleNamespace(name="abc")  # type: ignore[assignment]
    seen = list[str | None]()

    def segment():
        pulse.tell("step", 3, 8)
        seen.append(pulse.last_word(tmp_path, "abc"))
        return {"rung": 1}

    worker._segment = segment  # type: ignore[method-assign]
    assert worker.step() == {"rung": 1}
    assert seen == ["step 3 of 8"]
    assert pulse.last_word(tmp_path, "abc") is None
    assert not list((tmp_path / "state").iterdir())

    pulse.path(tmp_path, "abc").write_text("step 4 of 8")  # of a worker that was killed
    worker.step()
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.usefixtures("eager")
def test_a_folder_that_cannot_be_written_to_does_not_stop_training(tmp_path: Path):
    (tmp_path / "state").write_text("a file where the folder should be")
    with pulse.left_in(tmp_path, "abc"):
        pulse.tell("step", 1, 2)
    assert pulse.last_word(tmp_path, "abc") is None


def test_the_display_says_what_the_oldest_cohorts_do(tmp_path: Path):
    shows = Progress(tmp_path, lambda: (4, False), 0, 1, Page("ascii").console)
    assert shows._line() == "0/4 members; 0 s so far"
    cohorts = [
        Planned(name, arm, "dns", 1, (), (), ("", 0, 0))
        for name, arm in [("a", "one"), ("b", ""), ("c", "two")]
    ]
    shows.at_work = lambda: cohorts
    assert shows._line() == "0/4 members; 0 s so far"
    (tmp_path / "state").mkdir()
    for name in "abc":
        pulse.path(tmp_path, name).write_text(f"step 1 of {ord(name)}")
    assert (
        shows._line()
        == "0/4 members; 0 s so far; now one: step 1 of 97, dense networks: step 1 of 98"
    )
