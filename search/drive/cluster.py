"""Ray: starting it, joining it, tokens, and how many cohorts it trains at a time.

A Ray of our own on this machine, or a running cluster. Ray runs what its clients send, so it is
never open: a client needs the token of the cluster, and a cluster that asks for none is refused.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location
from .. import SETTINGS
from . import interrupts, quick

if TYPE_CHECKING:  # it imports torch, which takes longer than Ray
    from ..study.schema import Study

STORE_BYTES = 100 << 20
"""The object store of a Ray of our own, beside the data set."""
PATIENCE_SECONDS = 20.0
"""After so long a cluster that does not answer is given up."""
TOKEN = "InvalidAuthToken"
"""What Ray says to a client whose token is wrong or missing."""

Node = tuple[int, float]
"""CPUs and GPUs."""


def workers(study: Study, joined: bool) -> int:
    """How many cohorts of `study` train at a time on this machine, or on the cluster. Raises
    Mistake if not one does.
    """
    nodes = _nodes() if joined else [_this_machine()]
    slots = _slots(study, nodes)
    if slots:
        return slots
    where = "a node of the cluster" if joined else "this machine"
    wanted = study.about.cpus
    cpus = max((cpus for cpus, _ in nodes), default=0)
    if cpus < wanted:
        raise Mistake(f"[study]: `cpus` is at most the {cpus} of {where}; got {wanted}")
    gpus = max(gpus for cpus, gpus in nodes if cpus >= wanted)
    got = gpus_each(study)
    rule = f"`gpus` is at most the {gpus:g} of {where}"
    raise Mistake(f"[study]: {rule}; got {got:g}")


def slots_now(study: Study) -> int:
    """How many cohorts train at a time on the nodes that the running Ray has now."""
    return _slots(study, _nodes())


def _this_machine() -> Node:
    import torch

    return len(os.sched_getaffinity(0)), float(torch.cuda.device_count())


def _nodes() -> list[Node]:
    """The nodes of the cluster that are there now."""
    nodes: list[Node] = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            nodes.append((int(resources.get("CPU", 0)), resources.get("GPU", 0.0)))
    return nodes


def _slots(study: Study, nodes: Sequence[Node]) -> int:
    """How many cohorts fit on these nodes. None is on two nodes, no share of a GPU on two GPUs."""
    share = gpus_each(study)
    slots = 0
    for cpus, gpus in nodes:
        by_cpus = cpus // study.about.cpus
        slots += min(by_cpus, _on_gpus(gpus, share)) if share else by_cpus
    return slots


def _on_gpus(gpus: float, share: float) -> int:
    """How many cohorts of this share of a GPU, or of so many GPUs, the GPUs of a node hold."""
    if share <= 1:
        return int(gpus) * int(1 / share)
    return int(gpus // share)


def gpus_each(study: Study) -> float:
    """GPUs, or the share of one, for each cohort."""
    if study.about.gpus == "auto":
        on_gpu = study.task.torch_device.type == "cuda"
        return 1.0 if on_gpu else 0.0
    return float(study.about.gpus)


@contextlib.contextmanager
def local_ray(scratch: str | os.PathLike[str], cpus: int, room: int = 0) -> Iterator[None]:
    """A Ray of our own on this machine, quiet, its files and its token in `scratch`; one worker
    starts at once. room: bytes of the data set.
    """
    scratch = Path(scratch)
    options = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES + 2 * room,
        "_temp_dir": str(scratch / "ray"),
        "_system_config": quick.CONFIG,
    }
    with _token_in(scratch / "token"), _apart() as apart:
        starting = contextlib.ExitStack()
        starting.enter_context(apart)
        starting.enter_context(quick.few_processes())
        with _connected(starting, **options):
            yield


@contextlib.contextmanager
def _token_in(path: Path) -> Iterator[None]:
    """The token of this process in a file that its user alone can read, which Ray is told of."""
    before = os.environ.get("RAY_AUTH_TOKEN_PATH")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(_token())
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        del os.environ["RAY_AUTH_TOKEN_PATH"]
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
    anybody, we = _answers(address)
    if not anybody and not insecure:
        rule = "a cluster lets in only who has its token, since it runs whatever a client sends"
        cure = "start it with RAY_AUTH_MODE=token (docs/cluster.md)"
        or_else = "or say --insecure where nobody else can reach it"
        raise Mistake(f"--address {address}: {rule}; this one lets anybody in; {cure}, {or_else}")
    if TOKEN not in anybody and not insecure:
        we = anybody  # it may be open, or no Ray
    elif TOKEN in we and insecure:
        we = "it lets in only who has its token, and --insecure sends none"
    elif TOKEN in we:
        we = "it does not take our token"
    if we:
        token = "its token is in ~/.ray/auth_token or where RAY_AUTH_TOKEN_PATH says"
        rule = f"is HOST:PORT of the head of a Ray cluster, or auto; {token}"
        raise Mistake(f"--address {rule}; got {address}: {we}")
    handed = {name: os.environ[name] for name in SETTINGS if name.startswith("MALLOC")}
    with _connected(contextlib.nullcontext(), address=address, runtime_env={"env_vars": handed}):
        yield


def _answers(address: str) -> tuple[str, str]:
    """Why the cluster at `address` does not let in a client without a token, and why not us; empty
    where it does.
    """
    if address != "auto" and not _listens(address):
        nobody = "nothing listens there"
        return nobody, nobody
    without = {"RAY_AUTH_MODE": "disabled"}
    for name, value in os.environ.items():
        if not name.startswith("RAY_AUTH"):
            without[name] = value
    with ThreadPoolExecutor() as pool:
        anybody = pool.submit(_answer, address, without)
        we = pool.submit(_answer, address, dict(os.environ))
        return anybody.result(), we.result()


def _listens(address: str) -> bool:
    """Whether something listens at HOST:PORT: a client of Ray would wait for it for very long."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _answer(address: str, environment: Mapping[str, str]) -> str:
    """Why the cluster at `address` does not let in a client with this environment; empty if it
    does.
    """
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check"]
    if address != "auto":
        command += ["--address", address]
    try:
        asked = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no Ray answers there within {PATIENCE_SECONDS:g} s"
    if not asked.returncode:
        return ""
    lines = asked.stderr.strip().splitlines() or ["it does not answer"]
    return lines[-1].strip()[:300]


def check_shared(folder: Location) -> None:
    """Raise Mistake if a node of the cluster does not see what is written to `folder`."""
    # Workers have another current directory.
    seen = folder.absolute() if isinstance(folder, Path) else folder
    probe = seen / f".probe-{uuid.uuid4().hex}"
    probe.write_bytes(b"here")
    try:
        nodes = [node["NodeID"] for node in ray.nodes() if _trains(node)]
        looks = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            looks.append(_sees.options(scheduling_strategy=there).remote(str(probe)))
        blind = [look for look in looks if not ray.get(look)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        rule = "with several nodes the output folder is one that all of them see"
        such_as = "a shared file system, or s3:// and the like"
        got = f"got one that {len(blind)} of {len(nodes)} nodes do not see"
        raise Mistake(f"{folder}: {rule}: {such_as}; {got}")


def _trains(node: Mapping[str, Any]) -> bool:
    """Whether a node lives and has CPUs for cohorts."""
    return node["Alive"] and bool(node["Resources"].get("CPU"))


@ray.remote(num_cpus=0)
def _sees(probe: str) -> bool:
    from prunefront.analysis.rows.storage import locate

    return locate(probe).exists()


@contextlib.contextmanager
def _connected(starting: contextlib.AbstractContextManager[Any], **options: Any) -> Iterator[None]:
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
    for _ in range(2):
        try:
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    rule = "Ray starts on this machine within the 30 s that it gives itself; twice it did not"
    busy = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs"
    raise Mistake(f"{rule}, at {busy}: try again when the machine is less busy")


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
