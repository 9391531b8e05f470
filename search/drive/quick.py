"""A Ray of our own that starts soon: without the processes that nobody asks, and with one worker at
first. It imports what cohorts need while the driver makes a plan.

What is private to Ray is looked for first; where it is gone, Ray starts as it always does, later.
`private_parts` says what is in use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

UNASKED = ("start_monitor", "start_api_server", "start_log_monitor")
"""Methods that start processes of a node: an autoscaler without a cloud, a dashboard that is off,
and a reader of the logs that `log_to_driver=False` leaves unread. Each imports Ray, and the start
waits for one.
"""
CONFIG = {"preload_python_modules": ["prunefront.trainables.tuning"]}
"""Of Ray itself: what a worker imports before it is given anything to do."""
_PRESTART = "--num_prestart_python_workers="
_ENVIRONMENT = {"DEFAULT_ENV_VARS": {}, "ENV_VARS_TO_PROPAGATE": frozenset()}
"""What Tune gives each trial as an environment of its own. A worker that waits without one would
not be taken.
"""


def private_parts() -> dict[str, bool]:
    """What is private to Ray, and whether it is there and so in use."""
    parts: dict[str, bool] = {}
    for name in UNASKED:
        parts[name] = hasattr(_node(), name)
    parts["start_ray_process"] = hasattr(_services(), "start_ray_process")
    for name in _ENVIRONMENT:
        parts[name] = hasattr(_class_cache(), name)
    return parts


@contextlib.contextmanager
def few_processes() -> Iterator[None]:
    """A node that is started in the block has the processes that it needs, and one worker."""
    node, services = _node(), _services()
    with contextlib.ExitStack() as stack:
        for name in UNASKED:
            if hasattr(node, name):
                stack.enter_context(_replaced(node, name, _nothing))
        start = getattr(services, "start_ray_process", None)
        if start is not None:

            def started(command: list[str], *given: Any, **options: Any) -> Any:
                words = list(map(_with_one_worker, command))
                return start(words, *given, **options)

            stack.enter_context(_replaced(services, "start_ray_process", started))
        yield


@contextlib.contextmanager
def inherited_environment() -> Iterator[None]:
    """Trials have the environment of Ray itself, which is that of a driver that started it."""
    cache = _class_cache()
    with contextlib.ExitStack() as stack:
        for name, empty in _ENVIRONMENT.items():
            if hasattr(cache, name):
                stack.enter_context(_replaced(cache, name, empty))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, instead: Any) -> Iterator[None]:
    """An attribute of a module or class has another value in the block."""
    before = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _with_one_worker(word: str) -> str:
    """The word of a command line, where it says how many workers start at once: that it is one.
    Others start when they are given something to do: a small study has no use for them.
    """
    return f"{_PRESTART}1" if word.startswith(_PRESTART) else word


def _nothing(*_: object, **__: object) -> None:
    """What is started instead."""


def _node() -> Any:
    try:
        from ray._private.node import Node
    except ImportError:
        return None
    return Node


def _services() -> Any:
    try:
        from ray._private import services
    except ImportError:
        return None
    return services


def _class_cache() -> Any:
    try:
        from ray.tune.execution import class_cache
    except ImportError:
        return None
    return class_cache
