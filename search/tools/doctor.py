"""What this machine has, whether a study will run on it, and what to do where not.

Looks only: no cluster is started, and Ray is not imported, which takes seconds. A look that fails
says so in its line.
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.metadata
import itertools
import os
import platform
import shutil
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ...analysis.rows.mistake import Mistake
from .. import DONE, FAILED, LONGEST_TEMPORARY
from ..console import Console
from ..study import discovery
from ..study.discovery import quoted, raised

MEMINFO, SHM, NVIDIA = Path("/proc/meminfo"), Path("/dev/shm"), Path("/proc/driver/nvidia")

DRIVER, WORKER = 0.8 * 2**30, 0.5 * 2**30
"""Bytes that Ray and the driver take, and each worker before it trains: 1.3 GiB for one worker (Ray
2.60, torch 2.14).
"""
SMALL = 64 << 20
"""Bytes of a file of numbers that is read, to say what is wrong with it."""
STORE, DISK = 100 << 20, 1 << 30
"""Bytes of Ray's object store, as `cluster.local_ray` asks for; less room than that on a disk is
noted.
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report: what was found, and what to do about it where a study runs (note) or
    none does (bad).
    """

    what: str
    advice: str = ""
    bad: bool = False
    task: str = ""  # lines of [task] that use it

    @property
    def mark(self) -> str:
        return "bad" if self.bad else "note" if self.advice else "ok"


def examine(console: Console, data: str | os.PathLike[str] | None = None) -> int:
    """Print what there is and what to do about it; returns an exit code. `data`: one more folder
    with data sets.
    """
    sections: dict[str, Iterable[Finding]] = {
        section: itertools.chain.from_iterable(map(guarded, looks))
        for section, looks in SECTIONS.items()
    }
    folders = (
        os.path.abspath(folder) for folder in (os.environ.get("PRUNEFRONT_DATA"), data) if folder
    )
    sections["data sets"] = guarded(data_sets, filter(os.path.isdir, dict.fromkeys(folders)))
    bad = 0
    for section, findings in sections.items():
        console.print(section, style="bold")
        for finding in findings:
            _print(console, finding)
            bad += finding.bad
    end = (
        f"no study will run here until what is bad ({bad}) is mended"
        if bad
        else "a study will run here"
    )
    console.print(end, style="bold")
    return FAILED if bad else DONE


def guarded(look: Callable[..., Iterator[Finding]], *given: Any) -> Iterator[Finding]:
    """What `look` finds; that it failed, if it does."""
    try:
        yield from look(*given)
    except Exception as error:  # what a strange machine may raise is not known beforehand
        bad = look is pytorch or isinstance(error, ImportError)
        advice = (
            "install prunefront again, with what it requires"
            if bad
            else "a study may run all the same"
        )
        yield Finding(f"{look.__name__.replace('_', ' ')}: {raised(error)}", advice, bad)


def _print(console: Console, finding: Finding) -> None:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=4)
    row.add_column(overflow="fold")
    row.add_row(
        Text(finding.mark, {"ok": "green", "note": "yellow", "bad": "bold red"}[finding.mark]),
        finding.what,
    )
    if finding.advice:
        row.add_row("", f"-> {finding.advice}")
    console.print(row)
    for line in finding.task.splitlines():
        console.say(f"          {line}")


def versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    version, ours, found = platform.python_version(), importlib.metadata.metadata("prunefront"), []
    bad = not SpecifierSet(needs := ours["Requires-Python"]).contains(version, prereleases=True)
    advice = (
        f"make a virtual environment with Python {needs} and install prunefront there"
        if bad
        else ""
    )
    yield Finding(
        f"Python {version} ({sys.executable}); prunefront {ours['Version']} needs {needs}",
        advice,
        bad,
    )
    for needed in map(Requirement, importlib.metadata.requires("prunefront") or []):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        version = next(
            (other.version for other in importlib.metadata.distributions(name=needed.name)), None
        )
        if version and needed.specifier.contains(version, prereleases=True):
            found.append(f"{needed.name} {version}")
        else:
            what = f"{needed.name} {version or 'is missing'}: prunefront needs {needed}"
            yield Finding(what, f"python -m pip install '{needed}'", bad=True)
    yield Finding(", ".join(found))


def pytorch() -> Iterator[Finding]:
    import torch

    with warnings.catch_warnings(
        record=True
    ) as caught:  # torch says in a warning why it sees no GPU
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    what = f"torch {torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU only'}"
    if count:
        yield Finding(f"{what}; {count} GPU{'s' * (count > 1)}")
        for number in range(count):
            yield from guarded(gpu, number)
    elif NVIDIA.exists() or shutil.which("nvidia-smi"):
        why = f" ({str(caught[0].message).splitlines()[0]})" if caught else ""
        advice = "install a torch built for the CUDA that `nvidia-smi` names, and see that CUDA_VISIBLE_DEVICES hides no GPU"
        yield Finding(
            f"{what}; an NVIDIA driver, but no GPU that torch can use{why}: trains on the CPU",
            advice,
        )
    else:
        yield Finding(f"{what}; no NVIDIA driver: trains on the CPU")


def gpu(number: int) -> Iterator[Finding]:
    import torch

    name, (major, minor) = (
        torch.cuda.get_device_name(number),
        torch.cuda.get_device_capability(number),
    )
    what = f"GPU {number}: {name}, compute capability {major}.{minor}"
    try:
        free, total = torch.cuda.mem_get_info(number)
        torch.ones(1, device=f"cuda:{number}").add(1).item()
    except Exception as error:  # no kernel for its generation, memory full, held by a process that does not share it
        advice = 'leave it out with CUDA_VISIBLE_DEVICES, or set `device = "cpu"` in [task]'
        yield Finding(f"{what}: cannot add two numbers ({raised(error)})", advice, bad=True)
    else:
        advice = (
            "see in `nvidia-smi` what fills it: cohorts are cut to what is free"
            if free < total / 2
            else ""
        )
        yield Finding(f"{what}, {_gib(total)}, {_gib(free)} free", advice)


def ray_token() -> Iterator[Finding]:
    """Ray's processes prove to each other who they are by a token: each run here makes its own, a
    cluster's lies in HOME.
    """
    file = Path(os.path.expanduser("~/.ray/auth_token"))
    if os.environ.get("RAY_AUTH_TOKEN"):
        yield Finding("Ray's token for --address: from RAY_AUTH_TOKEN")
    elif os.path.exists(file):
        advice = "others may read it, and run code as you with it: chmod 600 ~/.ray/auth_token"
        yield Finding(
            f"Ray's token for --address: {quoted(file)}",
            advice if file.stat().st_mode & 0o044 else "",
        )
    else:
        yield Finding("Ray's token: none for --address; a run on this machine makes its own")


def temporary_folder() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    length = len(os.fsencode(folder))
    if length > LONGEST_TEMPORARY:
        what = f"temporary folder {quoted(folder)}: {length} bytes, and at most {LONGEST_TEMPORARY} for Ray's sockets below it"
        yield Finding(what, "set TMPDIR to a shorter path, such as /tmp", bad=True)
    else:
        yield _disk("temporary folder", Path(folder), "set TMPDIR to a short path with room")


def shared_memory() -> Iterator[Finding]:
    free = shutil.disk_usage(SHM).free
    advice = f"Ray's store of {STORE >> 20} MiB goes to a disk, slower: make it larger (in a container: --shm-size=1g)"
    yield Finding(f"shared memory ({SHM}): {_gib(free)} free", advice if free < STORE else "")


def cores_and_memory() -> Iterator[Finding]:
    cores, advice = sorted(os.sched_getaffinity(0)), ""
    yield Finding(
        f"cores: {len(cores)} of {os.cpu_count()} may be used, a cohort on each (`cpus` = 1)"
    )
    kib = {line.split()[0]: int(line.split()[1]) for line in MEMINFO.read_text().splitlines()}
    total, free, swap = (kib[name] << 10 for name in ("MemTotal:", "MemAvailable:", "SwapFree:"))
    want, bad = DRIVER + WORKER * len(cores), free + swap < DRIVER + WORKER
    if bad:
        advice = f"free some: Ray, the driver and one worker take {_gib(DRIVER + WORKER)}"
    elif free < want:
        fit = ",".join(map(str, cores[: max(1, int((free - DRIVER) / WORKER))]))
        advice = f"Ray and a worker on each core take {_gib(want)} before they train: taskset -c {fit} prunefront run ..."
    yield Finding(f"memory: {_gib(total)}, {_gib(free)} free", advice, bad)


def runs_folder() -> Iterator[Finding]:
    runs = Path("runs") if Path("runs").is_dir() else Path()
    yield _disk("output (runs/)", runs.absolute(), "run where there is room, or give --out")


def _disk(what: str, folder: Path, advice: str) -> Finding:
    if why := _unwritable(folder):
        return Finding(f"{what} {quoted(folder)} {why}", advice, bad=True)
    room = shutil.disk_usage(folder)
    what = f"{what} {quoted(folder)}: {_gib(room.free)} free of {_gib(room.total)}"
    return Finding(what, advice if room.free < DISK else "")


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
    for name, good, advice in (
        ("PRUNEFRONT_DATA", os.path.isdir, "set it to the folder with your data sets"),
        (
            "CUDA_VISIBLE_DEVICES",
            lambda value: value.strip() not in ("", "-1"),
            "unset it to train on GPUs",
        ),
    ):
        value = os.environ.get(name)
        what = f"{name} is {'not set' if value is None else quoted(value)}"
        yield Finding(what, "" if value is None or good(value) else advice)


def data_sets(folders: Iterable[str]) -> Iterator[Finding]:
    """What there is to train on, with the lines of [task] that read it."""
    yield Finding("digits: of scikit-learn, needs no file", task='dataset = "digits"')
    for folder in folders:
        found = None
        for found in discovery.find(Path(folder)):
            what = f"{quoted(os.path.relpath(found.path, folder))}: {found.what}"
            yield Finding(
                what,
                doubts(found) if found.task else "download it or write it again",
                task=found.task,
            )
        if not found:
            yield Finding(
                f"no data set in {quoted(folder)}",
                "it may hold Parquet, IDX or .npz files, or images",
            )


def doubts(found: discovery.Found) -> str:
    """What is or may be wrong with a data set whose arrays are read in a moment; empty if nothing
    is known.
    """
    task = tomllib.loads(found.task)
    name = task.pop("dataset")
    if name not in ("npz", "features") or found.path.stat().st_size > SMALL:
        return ""
    try:
        import torch

        from ...trainables.data import splits as data

        return "; ".join(data.load(name, task, 0, torch.float32, torch.device("cpu")).cautions)
    except ImportError:  # said above
        return ""
    except Mistake as error:
        return str(error)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def pictures() -> Iterator[Finding]:
    from ...analysis.draw import render

    if why := render.hindrance():
        yield Finding(why, "raise it for `prunefront report` and `compare`")
    else:
        yield Finding("pictures of reports can be drawn")


SECTIONS: dict[str, tuple[Callable[[], Iterator[Finding]], ...]] = {
    "Python": (versions,),
    "PyTorch and GPUs": (pytorch,),
    "Ray": (ray_token, temporary_folder, shared_memory),
    "machine": (cores_and_memory, runs_folder, pictures),
    "environment": (variables,),
}
"""Heading -> what is looked at, in this order."""
