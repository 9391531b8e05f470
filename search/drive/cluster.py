"""Ray: one Tuner whose Searcher hands out what `Work` says; actors are reused, and Tune keeps no
record of its own.

A Ray of our own on this machine, or a running cluster. Ray runs what its clients send, so it is
never open: a client needs the token of the cluster, and a cluster that asks for none is refused.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import itertools
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import torch
from ray import cloudpickle, tune
from ray.exceptions import RayError
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors import SafetensorError

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, save
from ...trainables.data.share import Packed
from ...trainables.own import places
from ...trainables.records.parts import ask_parts
from ...trainables.tuning import CohortTrainable, Told
from .. import SETTINGS
from ..plan.generations import Planned
from ..study.parse import Study
from . import interrupts, losses
from .progress import Progress
from .work import Work

RETRIES = 3
"""How often a cohort whose worker died is carried on from the same rung before its members count as
failed.
"""
STORE = 100 << 20
"""Bytes of the object store of a Ray of our own, beside the data set."""
PATIENCE = 20.0
"""Seconds after which a cluster that does not answer is given up."""
TOKEN = "InvalidAuthToken"
"""What Ray says to a client whose token is wrong or missing."""
RECOUNT = 5.0
"""Seconds after which the nodes of a cluster are counted again."""


def workers(study: Study, joined: bool) -> int:
    """How many cohorts of `study` train at a time on this machine, or on the cluster. Raises
    Mistake if not one does.
    """
    nodes = (
        _nodes() if joined else [(len(os.sched_getaffinity(0)), float(torch.cuda.device_count()))]
    )
    slots = _slots(study, nodes)
    if not slots:
        where, cpus = (
            "a node of the cluster" if joined else "this machine",
            max([cpus for cpus, _ in nodes], default=0),
        )
        if cpus < study.about.cpus:
            raise Mistake(
                f"[study]: `cpus` is at most the {cpus} of {where}; got {study.about.cpus}"
            )
        gpus = max(gpus for cpus, gpus in nodes if cpus >= study.about.cpus)
        raise Mistake(
            f"[study]: `gpus` is at most the {gpus:g} of {where}; got {gpus_each(study):g}"
        )
    return slots


def _nodes() -> list[tuple[int, float]]:
    """CPUs and GPUs of each node of the cluster that is there now."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(has.get("CPU", 0)), has.get("GPU", 0.0)) for has in alive]


def _slots(study: Study, nodes: Sequence[tuple[int, float]]) -> int:
    """How many cohorts fit on nodes with so many (CPUs, GPUs). None is on two nodes, and no share
    of a GPU on two GPUs.
    """
    each, slots = gpus_each(study), 0
    for cpus, gpus in nodes:
        fit = cpus // study.about.cpus
        slots += (
            min(fit, int(gpus) * int(1 / each) if each <= 1 else int(gpus // each)) if each else fit
        )
    return slots


def gpus_each(study: Study) -> float:
    """GPUs, or the share of one, for each cohort."""
    if study.about.gpus == "auto":
        return 1.0 if study.task.torch_device.type == "cuda" else 0.0
    return float(study.about.gpus)


def train(
    study: Study, work: Work, scratch: Path, packed: Packed | None, progress: Progress
) -> None:
    """Train what `work` hands out, on the Ray that runs and the nodes that it has at the time. An
    interrupt ends it early, without an error.

    packed: the data set for workers, put once into the object store.
    """
    task = json.dumps(
        {key: value for key, value in study.task.to_json().items() if key != "starts"}
    )
    shared = {
        "study": study.about.name,
        "task": task,
        "keep": study.about.keep != "none",
        "data": packed,
        "places": places(),
    }
    gpus = gpus_each(study)
    config = {
        "folder": str(work.folder.absolute() if isinstance(work.folder, Path) else work.folder),
        "threads": study.about.cpus,
        "workers": (max(1, int(1 / gpus)) if gpus else 0),
        "limit": study.about.limit,
        "limits": [str(limit) for limit in study.goals.constraints]
        if study.about.reduction_factor is not None
        else [],
    }
    hands = _HandOut(work, config, progress, lambda: _slots(study, _nodes()))
    progress.at_work = lambda: list(hands.going.values())
    report = _Report(hands)
    trainable = tune.with_resources(
        tune.with_parameters(CohortTrainable, **shared), {"cpu": study.about.cpus, "gpu": gpus}
    )
    losses.deaths_only()
    for attempt in itertools.count():
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(search_alg=hands, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"cohorts-{attempt}",
                storage_path=str(scratch / "tune"),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                callbacks=[report],
            ),
        )
        try:
            with interrupts.tune_listens():
                tuner.fit()
            break
        except Exception as error:
            if interrupts.heard():
                break
            if not losses.of_ray(error):
                raise
            report.all_lost(error)
    if hands.broken is not None:
        raise hands.broken


class _HandOut(Searcher):
    """Gives each trial the next segment of a cohort, and tells `Work` how it ended.

    count: of cohorts that train at a time; asked again while the study goes on, as nodes come and
    go.
    broken: what went wrong in the driver itself, in writing rows or in proposing; nothing more is
    handed out then.
    """

    def __init__(
        self, work: Work, config: dict[str, Any], progress: Progress, count: Callable[[], int]
    ) -> None:
        super().__init__()
        self.work, self.config, self.progress, self.count = work, config, progress, count
        self.slots, self.counted = count(), time.monotonic()
        self.broken: Exception | None = None
        self.going: dict[str, Planned] = {}  # trial -> cohort

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into Tune's snapshots."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        segment = None
        with self.guarded():
            if time.monotonic() - self.counted > RECOUNT:
                self.slots, self.counted = self.count(), time.monotonic()
            if self.broken is None:
                if len(self.going) >= self.slots:
                    return None
                segment = self.work.next()
        if segment is None:
            return Searcher.FINISHED if self.broken is not None or self.work.over else None
        self.going[trial_id] = segment.cohort
        return {**self.config, "line": list(segment.cohort.line), "upto": segment.upto}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if not error:
            self.ended(trial_id, None)

    def ended(self, trial_id: str, error: str | None) -> None:
        """A trial is over, well or for the reason `error`."""
        planned = self.going.pop(trial_id, None)
        if planned is not None:
            with self.guarded():
                self.work.ended(planned.name, error)

    def again(self, trial_id: str) -> None:
        """A trial was lost, and its cohort is the next to be handed out."""
        planned = self.going.pop(trial_id, None)
        if planned is not None:
            self.work.again(planned.name)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what goes wrong for the end: an error inside a Searcher would leave trials behind."""
        try:
            yield
        except Exception as error:
            self.broken = self.broken or error

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rows say what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the rows say what is done."""


class _Report(tune.Callback):
    """Tells the display how far cohorts are, and the hand-out why one failed."""

    def __init__(self, hands: _HandOut) -> None:
        self.hands, self.heard = hands, dict[str, float]()
        self.tries = collections.Counter[str]()  # of each cohort, from the rung where it is
        self.kills = losses.kernel_kills()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of a display goes into Tune's snapshots."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.heard[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.heard[trial.trial_id] = time.monotonic()
        planned = self.hands.going[trial.trial_id]
        self.tries[planned.name] = 0
        with self.hands.guarded():
            self.hands.progress.reached(planned, result["rung"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Try again, which Tune itself does not where a node dies under a trial that has not begun;
        at last give up.
        """
        self._lost(trial.trial_id, _error(trial))

    def all_lost(self, error: Exception) -> None:
        """Tune itself ended for `error`, and each cohort that trained is tried again."""
        for trial_id in list(self.hands.going):
            self._lost(trial_id, error)

    def _lost(self, trial_id: str, error: BaseException | str | None) -> None:
        with self.hands.guarded():
            name = self.hands.going[trial_id].name
            log = _logged(error, self.hands.work.folder, name)
            self.tries[name] += 1
            kills = losses.kernel_kills()
            memory = losses.memory(error, kills - self.kills)
            self.kills = kills
            why = self._late(trial_id) or memory
            if self.tries[name] <= RETRIES:
                how = f", in {self._split(trial_id)} parts" if memory else ""
                self.hands.again(trial_id)
                why = why or "lost to an error or a dead worker"
                self.hands.progress.note(
                    f"cohort {name}: {why}; carried on from its last rung{how}{log}"
                )
            elif (refused := _refused(error, self.hands.config["folder"])) is not None:
                self.hands.broken = self.hands.broken or refused
            else:
                why = why or _reason(error)
                self.hands.ended(trial_id, why)
                self.hands.progress.note(f"cohort {name}: failed for good: {why}{log}")

    def _split(self, trial_id: str) -> int:
        """Have the cohort of a trial trained in more parts; returns how many."""
        planned = self.hands.going[trial_id]
        return min(planned.size, ask_parts(self.hands.work.folder, planned.name, losses.PARTS))

    def _late(self, trial_id: str) -> str:
        limit = self.hands.config["limit"]
        since = time.monotonic() - self.heard.get(trial_id, time.monotonic())
        return (
            f"took more than the {limit:g} s that `limit` allows from rung to rung"
            if limit and since >= limit
            else ""
        )


@contextlib.contextmanager
def local_ray(scratch: str | os.PathLike[str], cpus: int, room: int = 0) -> Iterator[None]:
    """A Ray of our own on this machine, quiet, its files and its token in `scratch`. room: bytes of
    the data set.
    """
    scratch = Path(scratch)
    token, before = scratch / "token", os.environ.get("RAY_AUTH_TOKEN_PATH")
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(_token())
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    try:
        with (
            _apart() as starting,
            _connected(
                starting,
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=STORE + 2 * room,
                _temp_dir=str(scratch / "ray"),
            ),
        ):
            yield
    finally:
        token.unlink(missing_ok=True)
        os.environ.pop("RAY_AUTH_TOKEN_PATH")
        if before is not None:
            os.environ["RAY_AUTH_TOKEN_PATH"] = before


@functools.cache
def _token() -> str:
    """The token of every Ray that this process starts: Ray keeps the first one that it reads, as
    long as the process lives.
    """
    return secrets.token_hex(32)


@contextlib.contextmanager
def _apart() -> Iterator[contextlib.AbstractContextManager[None]]:
    """A process group for a Ray of our own, which is killed at the end; gives a context in which
    processes are started into it.

    A signal to the driver's group, as `timeout` and schedulers send it, would else end Ray under a
    driver that has to stop it. The group's first process kills it when the driver's end of a pipe
    is closed, however the driver ended.
    """
    keep = "trap '' HUP INT TERM; cat; kill -KILL 0"
    with subprocess.Popen(
        ["sh", "-c", keep], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0
    ) as keeper:
        yield _forks_join(keeper.pid)


_joins = 0
"""The process group that forked processes join; 0: their parent's."""


@contextlib.contextmanager
def _forks_join(group: int) -> Iterator[None]:
    global _joins
    _joins = group
    try:
        yield
    finally:
        _joins = 0


def _join() -> None:
    if _joins:
        os.setpgid(0, _joins)
        signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)


os.register_at_fork(after_in_child=_join)


@contextlib.contextmanager
def joined_ray(address: str, insecure: bool) -> Iterator[None]:
    """The cluster at `address`. Raises Mistake if none answers there, if it does not take the
    token, or if it is open.
    """
    stranger = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    }
    asking = [stranger | {"RAY_AUTH_MODE": "disabled"}, dict(os.environ)]
    if address != "auto" and not _listens(address):
        answers = ["nothing listens there"] * 2
    else:
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(functools.partial(_answer, address), asking))
    anybody, refused = answers
    if not anybody and not insecure:
        rule = "a cluster lets in only who has its token, since it runs whatever a client sends"
        cure = "start it with RAY_AUTH_MODE=token (docs/cluster.md), or say --insecure where nobody else can reach it"
        raise Mistake(f"--address {address}: {rule}; this one lets anybody in; {cure}")
    if TOKEN not in anybody and not insecure:
        refused = anybody  # it may be open, or no Ray
    elif TOKEN in refused:
        refused = (
            "it lets in only who has its token, and --insecure sends none"
            if insecure
            else "it does not take our token"
        )
    if refused:
        token = "its token is in ~/.ray/auth_token or where RAY_AUTH_TOKEN_PATH says"
        rule = f"is HOST:PORT of the head of a Ray cluster, or auto; {token}"
        raise Mistake(f"--address {rule}; got {address}: {refused}")
    handed = {name: os.environ[name] for name in SETTINGS if name.startswith("MALLOC")}
    with _connected(contextlib.nullcontext(), address=address, runtime_env={"env_vars": handed}):
        yield


def _listens(address: str) -> bool:
    """Whether something listens at HOST:PORT: a client of Ray would wait for it for very long."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _answer(address: str, environment: Mapping[str, str]) -> str:
    """Why the cluster at `address` does not let in a client with this environment; empty if it
    does.
    """
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    try:
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no Ray answers there within {PATIENCE:g} s"
    return (
        (asked.stderr.strip().splitlines() or ["it does not answer"])[-1].strip()[:300]
        if asked.returncode
        else ""
    )


def shared(folder: Location) -> None:
    """Raise Mistake if a node of the cluster does not see what is written to `folder`."""
    seen = (
        folder.absolute() if isinstance(folder, Path) else folder
    )  # workers have another current directory
    probe = seen / f".probe-{uuid.uuid4().hex}"
    probe.write_bytes(b"here")
    try:
        nodes = [
            node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
        ]
        where = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
        looks = {
            node: _sees.options(scheduling_strategy=strategy).remote(str(probe))
            for node, strategy in where.items()
        }
        blind = [node for node, look in looks.items() if not ray.get(look)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        rule = "with several nodes the output folder is one that all of them see: a shared file system, or s3:// and the like"
        raise Mistake(
            f"{folder}: {rule}; got one that {len(blind)} of {len(nodes)} nodes do not see"
        )


@ray.remote(num_cpus=0)
def _sees(probe: str) -> bool:
    from prunefront.analysis.rows.storage import locate

    return locate(probe).exists()


@contextlib.contextmanager
def _connected(starting: contextlib.AbstractContextManager[None], **options: Any) -> Iterator[None]:
    """Ray, started inside `starting`, as long as the block lasts."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = os.path.abspath(os.environ["RAY_AUTH_TOKEN_PATH"])
    try:
        # Workers look for modules first where the driver is now: a user's own torch.py there would
        # be taken for torch.
        with starting, contextlib.chdir("/"):
            _start(options)
        _end_at_once()
        interrupts.take()
        if interrupts.heard():  # by a handler that was Ray's
            raise KeyboardInterrupt
        yield
    finally:
        ray.shutdown()


def _start(options: Mapping[str, Any]) -> None:
    """Start Ray, or join it; a start that took too long, which a busy machine may do, is tried once
    more.

    Raises Mistake if that is too slow too. Ray itself waits for 30 s, which no setting changes
    (2.60).
    """
    for attempt in range(2):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt:
                rule = "Ray starts on this machine within the 30 s that it gives itself; twice it did not"
                busy = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs"
                raise Mistake(
                    f"{rule}, at {busy}: try again when the machine is less busy"
                ) from None


def _end_at_once() -> None:
    """Let ray.shutdown kill the processes of a Ray of our own without asking them first: they hear
    no SIGTERM.

    The function is private to Ray; without it, ray.shutdown waits a second for each of them.
    """
    worker = sys.modules.get("ray._private.worker")
    node: Any = getattr(worker, "_global_node", None)
    kill = getattr(node, "kill_all_processes", None)
    if kill is not None:
        node.kill_all_processes = functools.partial(_kill, kill)


def _kill(kill: Callable[..., None], **options: Any) -> None:
    kill(**{**options, "allow_graceful": False})


def _error(trial: Any) -> BaseException | str | None:
    """What a trial failed for, or its text; None if its worker just died. In the scratch folder,
    written by Tune in this process."""
    pickled, text = trial.pickled_error_file, trial.error_file
    try:
        return (
            cloudpickle.loads(Path(pickled).read_bytes())
            if pickled and Path(pickled).exists()
            else None
        )
    except Exception:  # a user's own exception may be one that cannot be made again
        return Path(text).read_text() if text and Path(text).exists() else None


def _refused(error: object, folder: str) -> OSError | None:
    """What the output folder answered, if a worker failed for that: the members are not to blame,
    and would be judged by it.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, SafetensorError):
        return OSError(errno.EIO, str(cause), folder)
    return cause if isinstance(cause, OSError) and str(cause.filename).startswith(folder) else None


def _reason(error: BaseException | str | None) -> str:
    """Why a member failed: type and first line of what its worker raised."""
    if error is None:
        return "its worker died"
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, RayError | str):  # Ray may have no more than the text of a traceback
        text = getattr(error, "traceback_str", str(cause))
        if "\n  File " in text or isinstance(cause, str):
            return _raised(text)[:300]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    kind = "" if isinstance(cause, Told) else f"{type(cause).__name__}: "
    return f"{kind}{lines[0] if lines else ''}"[:300]


def _raised(text: str) -> str:
    """Type and first line of the exception at the end of a traceback's text."""
    lines = text.rstrip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] + 1 :] if frames else lines[-1:]
    return next(
        (line.strip() for line in after if line.strip() and not line.startswith(" ")),
        "an error without a text",
    )


def _logged(error: BaseException | str | None, folder: Location, cohort: str) -> str:
    """Write the whole traceback of what a worker raised into the run's log; says where, or nothing
    if there is none.
    """
    if error is None:
        return ""
    number = 1 + len(list((folder / "log").glob(f"{cohort}-*.txt")))
    path = folder / "log" / f"{cohort}-{number}.txt"
    told = (
        error if isinstance(error, str) else getattr(error, "traceback_str", "")
    )  # str(error) leaves out lines
    if isinstance(error, BaseException) and not told:
        told = "".join(traceback.format_exception(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", told)  # Ray's colours
    try:
        save(path, text.encode(errors="backslashreplace"))
    except OSError:  # the folder is full, or away: rows that say so come first
        return ""
    return f"; traceback: {path}"
