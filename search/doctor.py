"""What this machine has, whether a study will run on it, and what to do where not.

Looks only: no cluster is started, and Ray is not imported, which takes seconds. A look that fails says so in its line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import DONE, FAILED, discovery
from .discovery import quoted, raised

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Mark = Literal["ok", "note", "bad"]
"""As it should be; a study runs, but read this; no study runs."""

PROC, CGROUP, SHM = Path("/proc"), Path("/sys/fs/cgroup"), Path("/dev/shm")

DRIVER, WORKER = 0.8 * 2**30, 0.5 * 2**30
"""Bytes that Ray and the driver take, and each worker before it trains: 1.3 GiB for one worker (Ray 2.60, torch 2.14)."""
STORE = 100 << 20
"""Bytes of Ray's object store, as `cluster.local_ray` asks for."""
LITTLE_DISK = 1 << 30
SOCKET = "prunefront-01234567/ray/session_2000-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest path that Ray binds a socket to, below the temporary folder: the system allows 107 bytes in all."""

RESULTS = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables that change the last digits of results."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report: what was found, what to do about it, and lines of [task] that use it."""

    mark: Mark
    what: str
    advice: str = ""
    task: str = ""


def examine(console: Console, data: Path | None = None) -> int:
    """Print what there is and what to do about it; returns an exit code. `data`: one more folder with data sets."""
    bad = 0

    def show(findings: Iterator[Finding]) -> None:
        nonlocal bad
        for finding in findings:
            _print(console, finding)
            bad += finding.mark == "bad"

    for section, looks in SECTIONS.items():
        console.print(Text(section, "bold"))
        for look in looks:
            show(guarded(look))
    folders = (os.path.abspath(folder) for folder in (os.environ.get("PRUNEFRONT_DATA"), data) if folder)
    for folder in dict.fromkeys(folders):
        if os.path.isdir(folder):
            show(guarded(data_sets, Path(folder)))
    end = f"no study will run here until what is bad ({bad}) is mended" if bad else "a study will run here"
    console.print(Text(end, "bold"))
    return FAILED if bad else DONE


def guarded(look: Callable[..., Iterator[Finding]], *given: Any) -> Iterator[Finding]:
    """What `look` finds; that it failed, if it does."""
    try:
        yield from look(*given)
    except Exception as error:  # what a strange machine may raise is not known beforehand
        what = f"{look.__name__.replace('_', ' ')}: cannot be found out ({raised(error)})"
        if type(error) is ModuleNotFoundError:
            yield Finding("bad", what, "install prunefront again, with the packages that it requires")
        else:
            yield Finding("note", what)


def _print(console: Console, finding: Finding) -> None:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=4)
    row.add_column(overflow="fold")
    style = {"ok": "green", "note": "yellow", "bad": "bold red"}[finding.mark]
    row.add_row(Text(finding.mark, style), Text(_plain(finding.what)))
    if finding.advice:
        row.add_row("", Text(f"-> {_plain(finding.advice)}"))
    console.print(row)
    for line in finding.task.splitlines():
        console.print(Text(f"          {line}"), soft_wrap=True)


def _plain(text: str) -> str:
    """Text without control characters, which names of files and messages of errors may have."""
    return re.sub("[\x00-\x1f\x7f-\x9f]", "?", text)


def python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    ours = importlib.metadata.metadata("prunefront")
    needs = SpecifierSet(ours["Requires-Python"] or "")
    here = Path(__file__).parents[1]
    what = f"Python {platform.python_version()} ({sys.executable}); prunefront {ours['Version']} ({here}) needs {needs}"
    if needs.contains(platform.python_version(), prereleases=True):
        yield Finding("ok", what)
    else:
        yield Finding("bad", what, f"make a virtual environment with Python {needs} and install prunefront there")


def packages() -> Iterator[Finding]:
    found = []
    for needed in _requirements("prunefront"):
        extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
        mend = f"python -m pip install '{needed.name}{extras}{needed.specifier}'"
        version = _version(needed.name)
        if version is None:
            yield Finding("bad", f"{needed.name} is missing", mend)
        elif needed.specifier.contains(version, prereleases=True):
            found.append(f"{needed.name} {version}")
        else:
            yield Finding("bad", f"{needed.name} {version} is not {needed.specifier}", mend)
    yield Finding("ok", ", ".join(dict.fromkeys(found)))


def _requirements(name: str, extras: Collection[str] = ()) -> Iterator[Requirement]:
    """What a distribution requires, or what its `extras` add; with what the extras add that it asks for itself."""
    from packaging.requirements import Requirement

    def applies(needed: Requirement, extra: str) -> bool:
        return needed.marker is None or needed.marker.evaluate({"extra": extra})

    for needed in map(Requirement, importlib.metadata.requires(name) or []):
        if any(applies(needed, extra) for extra in extras) and not applies(needed, "") if extras else applies(needed, ""):
            yield needed
            if needed.extras and _version(needed.name) is not None:
                yield from _requirements(needed.name, needed.extras)


def _version(name: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(name) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def pytorch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a library of the system that is missing, a file of the user's named torch.py
        yield Finding("bad", f"torch cannot be imported ({raised(error)})", "python -m pip install --force-reinstall torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    what = f"torch {torch.__version__}, built for {build or 'the CPU only'}"
    with warnings.catch_warnings(record=True) as caught:  # torch says in a warning why it sees no GPU
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    why = "".join(f" ({str(warning.message).splitlines()[0]})" for warning in caught[:1])
    driver = _driver()
    if count:
        yield Finding("ok", f"{what}; {driver or 'a driver'}; {count} GPU{'s' * (count > 1)}")
        for number in range(count):
            yield from guarded(gpu, number)
    elif build and driver:
        advice = "compare what `nvidia-smi` lists with CUDA_VISIBLE_DEVICES, and its CUDA version with torch's"
        yield Finding("note", f"{what}; {driver}, but no GPU that torch can use{why}: trains on the CPU", advice)
    elif build:
        yield Finding("note", f"{what}; no GPU driver found: trains on the CPU", "for a GPU, install its driver")
    elif driver:
        advice = "python -m pip install --force-reinstall torch, with the index of a CUDA build (see PyTorch's page)"
        yield Finding("note", f"{what}, beside {driver}: trains on the CPU", advice)
    else:
        yield Finding("ok", f"{what}; no GPU driver found: trains on the CPU")


def _driver() -> str:
    """The GPU driver of this machine in words; empty if there is none."""
    with contextlib.suppress(OSError):
        version = re.search(r"\d+\.\d[\d.]*", (PROC / "driver/nvidia/version").read_text())
        return f"NVIDIA driver {version[0] if version else ''}".strip()
    if Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"):
        return "NVIDIA driver"
    return "ROCm driver" if Path("/dev/kfd").exists() else ""


def gpu(number: int) -> Iterator[Finding]:
    import torch

    name, (major, minor) = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
    what = f"GPU {number}: {name}, compute capability {major}.{minor}"
    try:
        free, total = torch.cuda.mem_get_info(number)
        _add(number)
    except Exception as error:  # no kernel for its generation, memory full, held by a process that does not share it
        advice = 'leave it out with CUDA_VISIBLE_DEVICES, or set `device = "cpu"` in [task]'
        yield Finding("bad", f"{what}: cannot add two numbers ({raised(error)})", advice)
        return
    what += f", {_gib(total)}, {_gib(free)} free"
    if free < total / 2:
        yield Finding("note", what, "see in `nvidia-smi` what fills it: cohorts are cut to what is free")
    else:
        yield Finding("ok", what)


def _add(number: int) -> None:
    import torch

    assert (torch.ones(1, device=f"cuda:{number}") + 1).item() == 2


def ray() -> Iterator[Finding]:
    version = _version("ray")
    if version is None:
        yield Finding("bad", "Ray is missing", "python -m pip install 'ray[tune]'")
        return
    yield Finding("ok", f"Ray {version} (not started here)")


def ray_token() -> Iterator[Finding]:
    """Ray's workers prove to each other who they are by a token; Ray makes a file of it in HOME if there is none."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        what = f"RAY_AUTH_MODE is {quoted(os.environ['RAY_AUTH_MODE'])}: whoever reaches this machine's ports runs code as you"
        yield Finding("note", what, "unset RAY_AUTH_MODE")
    elif os.environ.get("RAY_AUTH_TOKEN"):
        yield Finding("ok", "Ray's token: from RAY_AUTH_TOKEN")
    elif named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            there = bool(Path(named).read_text().strip())
        except OSError:
            there = False
        what = f"RAY_AUTH_TOKEN_PATH is {quoted(named)}, which is no file with a token"
        yield _private(Path(named)) if there else Finding("bad", what, "unset it, or name a file with a long random text")
    else:
        yield _own_token()


def _own_token() -> Finding:
    advice = "set HOME to a folder that can be written to, or RAY_AUTH_TOKEN to a long random text"
    try:
        file = Path.home() / ".ray/auth_token"
        if file.exists() and file.read_text().strip():
            return _private(file)
        why = _unwritable(next(folder for folder in file.parents if folder.exists()))
    except (OSError, RuntimeError) as error:
        return Finding("bad", f"Ray's token in HOME: {raised(error)}", advice)
    if why:
        return Finding("bad", f"Ray writes a token to {quoted(str(file))}: it {why}", advice)
    return Finding("ok", f"Ray's token: will be written to {quoted(str(file))}")


def _private(file: Path) -> Finding:
    """A note if others may read `file`."""
    what = f"Ray's token: {quoted(str(file))}"
    reached = all(folder.stat().st_mode & 0o011 for folder in file.absolute().parents)
    if reached and file.stat().st_mode & 0o044:
        return Finding(
            "note", f"{what}: others may read it, and run code as you with it", f"chmod 600 {shlex.quote(str(file))}"
        )
    return Finding("ok", what)


def temporary_folder() -> Iterator[Finding]:
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        yield Finding("bad", "no temporary folder can be written to", "set TMPDIR to a folder that can be")
        return
    length = len(os.fsencode(folder / SOCKET.format(pid=os.getpid())))
    if length > 107:
        what = f"temporary folder {quoted(str(folder))}: too long by {length - 107} for the sockets that Ray makes in it"
        yield Finding("bad", what, "set TMPDIR to a shorter path, such as /tmp")
    else:
        yield from _disk("temporary folder", folder, "set TMPDIR to a short path with room")


def shared_memory() -> Iterator[Finding]:
    free = shutil.disk_usage(SHM).free
    if free < STORE:
        what = (
            f"shared memory ({SHM}): {_gib(free)} free; Ray's store of {STORE >> 20} MiB goes to the temporary folder, slower"
        )
        yield Finding("note", what, "make it larger (in a container: --shm-size=1g)")
    else:
        yield Finding("ok", f"shared memory ({SHM}): {_gib(free)} free")


def cores() -> Iterator[Finding]:
    usable, there, quota = len(os.sched_getaffinity(0)), os.cpu_count() or 1, _cpu_quota()
    what = f"cores: {usable} of {there} may be used, a cohort on each (`cpus` = 1)"
    if quota is not None and quota < usable:
        yield Finding("note", f"{what}, but a quota allows the time of {quota:g}", f"train on fewer: {_on(int(quota))}")
    else:
        yield Finding("ok", what)


def _on(cores: int) -> str:
    """The command that runs a study on so many of the cores that this process may use."""
    return f"taskset -c {','.join(map(str, sorted(os.sched_getaffinity(0))[: max(1, cores)]))} prunefront run ..."


def memory() -> Iterator[Finding]:
    lines = (PROC / "meminfo").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, free, swap = (kib.get(name, 0) << 10 for name in ("MemTotal", "MemAvailable", "SwapFree"))
    what, limit = f"memory: {_gib(total)}, {_gib(free)} free", _memory_limit()
    if limit is not None and limit < total:
        what, free = f"{what}, limited to {_gib(limit)} for this process", min(free, limit)
    want = DRIVER + WORKER * len(os.sched_getaffinity(0))
    if free + swap < DRIVER + WORKER:
        yield Finding("bad", what, f"free {_gib(DRIVER + WORKER - free - swap)}: Ray, the driver and one worker take that much")
    elif free < want:
        advice = f"Ray and a worker on each core take {_gib(want)} before they train: {_on(int((free - DRIVER) / WORKER))}"
        yield Finding("note", what, advice)
    elif limit is not None and limit < total:
        yield Finding("note", what, "cohorts are sized by the machine's free memory: if workers die, give --max-cohort")
    else:
        yield Finding("ok", what)


def _cpu_quota() -> float | None:
    """Cores whose time the control groups of this process allow; None without a quota."""
    found = [text.split() for text in _cgroup("cpu", "cpu.max")]
    periods = _cgroup("cpu", "cpu.cfs_period_us")
    found += [[quota.strip(), period] for quota, period in zip(_cgroup("cpu", "cpu.cfs_quota_us"), periods, strict=True)]
    return min((int(quota) / int(period) for quota, period in found if quota not in ("max", "-1")), default=None)


def _memory_limit() -> int | None:
    """Bytes that the control groups of this process allow; None without a limit."""
    found = [text.strip() for text in (*_cgroup("memory", "memory.max"), *_cgroup("memory", "memory.limit_in_bytes"))]
    return min((int(text) for text in found if text != "max"), default=None)


def _cgroup(controller: str, name: str) -> list[str]:
    """What stands in the file `name` of this process's control group and those above it; versions 1 and 2."""
    found = []
    for line in (PROC / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = CGROUP / controller if controllers else CGROUP
        below = base / path.lstrip("/")
        for folder in (below, *(parent for parent in below.parents if parent.is_relative_to(base))):
            with contextlib.suppress(OSError):
                found.append((folder / name).read_text())
    return found


def runs_folder() -> Iterator[Finding]:
    runs = Path("runs") if Path("runs").is_dir() else Path()
    yield from _disk("output (runs/)", runs.absolute(), "run where there is room, or give --out")


def _disk(what: str, folder: Path, advice: str) -> Iterator[Finding]:
    why, what = _unwritable(folder), f"{what} {quoted(str(folder))}"
    if why:
        yield Finding("bad", f"{what} {why}", advice)
        return
    room = shutil.disk_usage(folder)
    what = f"{what}: {_gib(room.free)} free of {_gib(room.total)}"
    yield Finding("note", what, advice) if room.free < LITTLE_DISK else Finding("ok", what)


def _unwritable(folder: Path) -> str:
    """Why a file of 1 MiB cannot be written and locked in `folder`; empty if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"cannot be written to ({error.strerror})"
    return ""


def variables() -> Iterator[Finding]:
    def given(name: str) -> str:
        return f"{name} is {quoted(os.environ[name])}"

    if "OMP_NUM_THREADS" in os.environ:
        yield Finding("ok", f"{given('OMP_NUM_THREADS')}: workers use as many threads as `cpus` in [study], whatever it says")
    if (gpus := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        hidden = gpus.strip() in ("", "-1")
        yield Finding("note", given("CUDA_VISIBLE_DEVICES"), "unset it to train on GPUs") if hidden else Finding(
            "ok", given("CUDA_VISIBLE_DEVICES"))  # fmt: skip
    for name in RESULTS:
        if name in os.environ:
            yield Finding(
                "note", f"{given(name)}: it changes the last digits of results", f"unset {name}, or keep it for all runs"
            )
    data = os.environ.get("PRUNEFRONT_DATA")
    if data is None:
        yield Finding("ok", "PRUNEFRONT_DATA is not set; it may name the folder with your data sets")
    elif os.path.isdir(data):
        yield Finding("ok", given("PRUNEFRONT_DATA"))
    else:
        yield Finding("note", f"{given('PRUNEFRONT_DATA')}, which is no folder", "set it to the folder with your data sets")


def shadows() -> Iterator[Finding]:
    """Files of the user's that Python would import instead of an installed module: here, or in a folder of PYTHONPATH."""
    ours = {_canonical(needed.name) for needed in _requirements("prunefront")}
    installed = importlib.metadata.packages_distributions().items()
    names = set(sys.stdlib_module_names) | {name for name, owners in installed if ours & set(map(_canonical, owners))}
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    folders = dict.fromkeys(os.path.abspath(path) for path in (".", *paths))
    hidden = [
        (name, path)
        for folder in map(Path, folders)
        for name in sorted(names)
        for path in (folder / f"{name}.py", folder / name / "__init__.py")
        if path.is_file()
    ]
    for name, path in hidden:
        yield Finding("note", f"{quoted(str(path))} hides the module {name}, in Ray's workers too", "rename it")
    if not hidden:
        places = "the current folder and in those of PYTHONPATH" if paths else "the current folder"
        yield Finding("ok", f"nothing in {places} hides an installed module")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def built_in() -> Iterator[Finding]:
    """Data sets that need no option: they are read."""
    from ..trainables import data, models

    for name, function in data.DATASETS.items():
        if not any(models.options(function)[0].values()):
            inputs, _ = function()["train"]
            shape = " x ".join(map(str, inputs.shape[1:]))
            yield Finding("ok", f"{name}: {len(inputs):,} examples of {shape}", task=f"dataset = {quoted(name)}")


def data_sets(folder: Path) -> Iterator[Finding]:
    """What a folder holds, with the lines of [task] that read it."""
    count, others = 0, []
    for found in discovery.find(folder):
        name = quoted(os.path.relpath(found.path, folder))
        if found.options or found.advice:
            count += bool(found.options)
            yield Finding("note" if found.advice else "ok", f"{name}: {found.what}", found.advice, found.task)
        else:
            others.append(f"{name} ({found.what})")
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        yield Finding("ok", f"left out: {', '.join(others[:3])}{more}")
    if not count:
        yield Finding(
            "note", f"no data set found in {quoted(str(folder))}", "it may hold Parquet, IDX or .npz files, or images"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


SECTIONS: dict[str, tuple[Callable[[], Iterator[Finding]], ...]] = {
    "Python": (python, packages),
    "PyTorch and GPUs": (pytorch,),
    "Ray": (ray, ray_token, temporary_folder, shared_memory),
    "machine": (cores, memory, runs_folder),
    "environment": (variables, shadows),
    "data sets": (built_in,),
}
"""Heading -> what is looked at, in this order."""
