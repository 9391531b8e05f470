"""What is private to Ray: used where it is there, and left alone where it is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prunefront.search.drive import quick


def test_all_private_parts_are_there() -> None:
    gone = [name for name, there in quick.private_parts().items() if not there]
    assert not gone, "Ray changed: it starts later than it could"


def test_a_node_starts_with_one_worker_and_no_process_that_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []

    class Node:
        def start_monitor(self) -> None:
            started.append(["monitor"])

    services = SimpleNamespace(start_ray_process=lambda command, kind: started.append(command))
    monkeypatch.setattr(quick, "_node", lambda: Node)
    monkeypatch.setattr(quick, "_services", lambda: services)
    with quick.few_processes():
        Node().start_monitor()
        services.start_ray_process(["raylet", "--num_prestart_python_workers=8", "--x"], "raylet")
    assert started == [["raylet", "--num_prestart_python_workers=1", "--x"]]
    Node().start_monitor()
    assert started[1:] == [["monitor"]], "afterwards all is as it was"


@pytest.mark.parametrize("place", [None, SimpleNamespace()])
def test_where_the_private_parts_are_gone_ray_starts_as_it_does(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_node", "_services", "_class_cache"):
        monkeypatch.setattr(quick, name, lambda: place)
    assert not any(quick.private_parts().values())
    with quick.few_processes(), quick.inherited_environment():
        pass


def test_trials_have_no_environment_of_their_own() -> None:
    from ray.tune.execution import class_cache

    before = class_cache.DEFAULT_ENV_VARS
    assert before == {"PL_DISABLE_FORK": "1"}, "SETTINGS holds what Tune sets"
    with quick.inherited_environment():
        assert not class_cache.DEFAULT_ENV_VARS
        assert not class_cache.ENV_VARS_TO_PROPAGATE
    assert class_cache.DEFAULT_ENV_VARS is before
