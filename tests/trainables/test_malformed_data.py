"""Malformed data, a short form of benchmarks/malformed_data.py: one sentence, exit 2, before Ray
starts.
"""

from __future__ import annotations

import pytest

from malformed_data import KINDS, SOUND, drawn, sound, trial
from prunefront.trainables.data import doubts


@pytest.mark.parametrize("form", SOUND)
def test_a_sound_data_set_reaches_ray(form: str):
    assert sound(form, 0) == "ends with Ray started"


@pytest.mark.parametrize(("name", "seed"), drawn(20, 18))
def test_a_malformed_data_set_is_refused_with_one_sentence(name: str, seed: int):
    sentence, wrong = trial(name, seed)
    assert not wrong
    assert sentence


def test_draws_repeat_and_reach_all_kinds():
    assert drawn(50, 3) == drawn(50, 3) != drawn(50, 4)
    assert {name for name, _ in drawn(len(KINDS), 0)} == KINDS.keys()


def test_a_fault_of_ours_is_no_refusal(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr(doubts, "count_classes", fails)
    wrong = sound("npz of features", 0)
    assert wrong == "ends with 70"
