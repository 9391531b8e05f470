"""Losses of workers: whatever ended one, Tune takes it for the end of that worker alone; what it
was, whether it was memory, and where its traceback is.
"""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path
from typing import Any

from ray import cloudpickle, exceptions
from safetensors import SafetensorError

from ...analysis.rows import rundir
from ...analysis.rows.storage import Location, save
from ...trainables.records.parts import out_of_memory
from ...trainables.tuning import Told

PARTS = 4
"""Into how many parts each part of a cohort is cut when a worker with it runs out of memory; they
take turns.
"""
REASON_LETTERS = 300
"""How long the reason of a failed member is at most."""

_RAN_LOW = re.compile(
    r"running low on memory.*?was (?P<used>\S+) used / (?P<limit>\S+) limit", re.DOTALL
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = "  File "
"""How a line of a traceback begins that says where something was called."""


def deaths_only() -> bool:
    """Let Tune take every error of Ray's own, such as a worker killed for memory, as the death of
    an actor.

    Tune knows two kinds, the death of an actor and an exception in a task, and ends the whole
    search for any other. The function is private to Ray: returns whether it is there. Without it,
    `handout.train` starts Tune again.
    """
    try:
        from ray.air.execution._internal.actor_manager import RayActorManager

        failed = RayActorManager._actor_task_failed
    except (ImportError, AttributeError):
        return False
    if hasattr(failed, "deaths_only"):
        return True

    def translated(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, exceptions.RayActorError | exceptions.RayTaskError):
            kind = type(exception).__name__
            text = f"{kind}: {exception}"
            exception = exceptions.RayActorError(error_msg=text)
        failed(self, tracked_actor_task, exception)

    translated.deaths_only = True  # type: ignore[attr-defined]
    RayActorManager._actor_task_failed = translated
    return True


def of_ray(error: BaseException | None) -> bool:
    """Whether an error that ended Tune came from Ray, so that another worker may do better."""
    while error is not None and not isinstance(error, exceptions.RayError):
        error = error.__cause__
    return error is not None


def memory(error: object, kills: int) -> str:
    """How a worker ran out of memory, from the error that it left; empty: it did not, as far as is
    known.

    kills: processes that the kernel has killed for memory while the worker trained.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, Exception) and out_of_memory(cause):
        return "it ran out of memory"
    if low := _RAN_LOW.search(str(error)):
        return f"Ray ended its worker as memory ran low, at {low['used']} of {low['limit']}"
    if kills and not isinstance(error, exceptions.RayTaskError):
        return "the kernel ended its worker as memory ran out"
    return ""


def kernel_kills() -> int:
    """How many processes the kernel of this machine has killed for memory since it started; 0 where
    it does not tell.
    """
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    kills = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(kills[1]) if kills else 0


def of_trial(trial: Any) -> BaseException | str | None:
    """What a trial failed for, or its text; None if its worker just died. In the scratch folder,
    written by Tune in this process.
    """
    pickled = trial.pickled_error_file
    if not pickled or not Path(pickled).exists():
        return None
    try:
        return cloudpickle.loads(Path(pickled).read_bytes())
    except Exception:  # a user's own exception may be one that cannot be made again
        text = trial.error_file
        return Path(text).read_text() if text and Path(text).exists() else None


def refused(error: object, folder: str) -> OSError | None:
    """What the output folder answered, if a worker failed for that: the members are not to blame,
    and would be judged by it.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, SafetensorError):
        return OSError(errno.EIO, str(cause), folder)
    if isinstance(cause, OSError) and str(cause.filename).startswith(folder):
        return cause
    return None


def reason(error: BaseException | str | None) -> str:
    """Why a member failed: type and first line of what its worker raised."""
    if error is None:
        return "its worker died"
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, exceptions.RayError | str):  # Ray may have no more than a traceback's text
        text = getattr(error, "traceback_str", str(cause))
        if f"\n{_FRAME}" in text or isinstance(cause, str):
            raised = _last_raised(text)
            return raised[:REASON_LETTERS]
    kind = "" if isinstance(cause, Told) else f"{type(cause).__name__}: "
    first_line = _first_line(str(cause))
    return f"{kind}{first_line}"[:REASON_LETTERS]


def _first_line(text: str) -> str:
    """The first line that is not empty; empty if there is none."""
    for line in text.splitlines():
        if line.strip():
            return line.strip()
    return ""


def _last_raised(text: str) -> str:
    """Type and first line of the exception at the end of a traceback's text."""
    lines = text.rstrip().splitlines()
    after = lines[-1:]
    for number, line in enumerate(lines):
        if line.startswith(_FRAME):
            after = lines[number + 1 :]
    for line in after:
        if line.strip() and not line.startswith(" "):
            return line.strip()
    return "an error without a text"


def logged(error: BaseException | str | None, folder: Location, cohort: str) -> str:
    """Write the whole traceback of what a worker raised into the run's log; says where, or nothing
    if there is none.
    """
    if error is None:
        return ""
    path = rundir.next_log_file(folder, cohort)
    text = _COLOURS.sub("", _whole(error))
    try:
        save(path, text.encode(errors="backslashreplace"))
    except OSError:  # the folder is full, or away: rows that say so come first
        return ""
    return f"; traceback: {path}"


def _whole(error: BaseException | str) -> str:
    """The traceback of an error. str(error) leaves out lines where Ray has more."""
    if isinstance(error, str):
        return error
    told = getattr(error, "traceback_str", "")
    return told or "".join(traceback.format_exception(error))
