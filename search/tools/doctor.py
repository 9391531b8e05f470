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

MEMINFO = Path("/proc/meminfo")
SHM = Path("/dev/shm")
NVIDIA = Path("/proc/driver/nvidia")

DRIVER = 0.8 * 2**30
"""Bytes that Ray and the driver take: 1.3 GiB with one worker (Ray 2.60, torch 2.14)."""
WORKER = 0.5 * 2**30
"""Bytes that a worker takes before it trains."""
SMALL = 64 << 20
"""Bytes of a file of numbers that is read, to say what is wrong with it."""
STORE = 100 << 20
"""Bytes of Ray's object store, as `cluster.local_ray` asks for."""
DISK = 1 << 30
"""Bytes; less room on a disk is noted."""
COLOURS = {"ok": "green", "note": "yellow", "bad": "bold red"}


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
        if self.bad:
            return "bad"
        if self.advice:
            return "note"
        return "ok"


def examine(console: Console, data: str | os.PathLike[str] | None = None) -> int:
    """Print what there is and what to do about it; returns an exit code. `data`: one more folder
    with data sets.
    """
    sections: dict[str, Iterable[Finding]] = {}
    for section, looks in SECTIONS.items():
        sections[section] = itertools.chain.from_iterable(map(guarded, looks))
    sections["data sets"] = guarded(data_sets, _data_folders(data))
    bad = 0
    for section, findings in sections.items():
        console.print(section, style="bold")
        for finding in findings:
            _print(console, finding)
            bad += finding.bad
    if bad:
        console.print(f"no study will run here until what is bad ({bad}) is mended", style="bold")
        return FAILED
    console.print("a study will run here", style="bold")
    return DONE


def _data_folders(data: str | os.PathLike[str] | None) -> list[str]:
    """Folders that are there, each once."""
    folders: list[str] = []
    for given in (os.environ.get("PRUNEFRONT_DATA"), data):
        if not given:
            continue
        folder = os.path.abspath(given)
        if os.path.isdir(folder) and folder not in folders:
            folders.append(folder)
    return folders


def guarded(look: Callable[..., Iterator[Finding]], *given: Any) -> Iterator[Finding]:
    """What `look` finds; that it failed, if it does."""
    try:
        yield from look(*given)
    except Exception as error:  # what a strange machine may raise is not known beforehand
        bad = look is pytorch or isinstance(error, ImportError)
        advice = "a study may run all the same"
        if bad:
            advice = "install prunefront again, with what it requires"
        name = look.__name__.replace("_", " ")
        yield Finding(f"{name}: {raised(error)}", advice, bad)


def _print(console: Console, finding: Finding) -> None:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=4)
    row.add_column(overflow="fold")
    mark = finding.mark
    row.add_row(Text(mark, COLOURS[mark]), finding.what)
    if finding.advice:
        row.add_row("", f"-> {finding.advice}")
    console.print(row)
    for line in finding.task.splitlines():
        console.say(f"          {line}")


def versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    ours = importlib.metadata.metadata("prunefront")
    needs = ours["Requires-Python"]
    what = f"Python {version} ({sys.executable}); prunefront {ours['Version']} needs {needs}"
    if SpecifierSet(needs).contains(version, prereleases=True):
        yield Finding(what)
    else:
        advice = f"make a virtual environment with Python {needs} and install prunefront there"
        yield Finding(what, advice, bad=True)
    installed: list[str] = []
    for needed in map(Requirement, importlib.metadata.requires("prunefront") or []):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        version = _installed_version(needed.name)
        if version and needed.specifier.contains(version, prereleases=True):
            installed.append(f"{needed.name} {version}")
        else:
            what = f"{needed.name} {version or 'is missing'}: prunefront needs {needed}"
            yield Finding(what, f"python -m pip install '{needed}'", bad=True)
    yield Finding(", ".join(installed))


def _installed_version(name: str) -> str | None:
    for distribution in importlib.metadata.distributions(name=name):
        return distribution.version
    return None


def private_functions() -> Iterator[Finding]:
    """Where a dependency promises nothing: what is in use, each with a public fall-back."""
    from ..propose import population
    from ..propose.learnt import quiet

    with quiet():
        yield Finding(f"Optuna: {population.in_use()}")
    from ...trainables.training.stack import functorch_in_use

    yield Finding(f"torch: {functorch_in_use()}")
    from ..drive.quick import private_parts

    gone = [name for name, is_there in private_parts().items() if not is_there]
    if gone:
        yield Finding(f"Ray: starts as it always does, later, for want of {', '.join(gone)}")
    else:
        yield Finding("Ray: private parts of it, so that it starts sooner")


def pytorch() -> Iterator[Finding]:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # torch says in a warning why it sees no GPU
        count = 0
        if torch.cuda.is_available():
            count = torch.cuda.device_count()
    target = "the CPU only"
    if torch.version.cuda:
        target = f"CUDA {torch.version.cuda}"
    what = f"torch {torch.__version__}, built for {target}"
    if count:
        yield Finding(f"{what}; {count} GPU{'s' * (count > 1)}")
        for number in range(count):
            yield from guarded(gpu, number)
    elif NVIDIA.exists() or shutil.which("nvidia-smi"):
        why = ""
        if caught:
            message = str(caught[0].message)
            why = f" ({message.splitlines()[0]})"
        yield Finding(
            f"{what}; an NVIDIA driver, but no GPU that torch can use{why}: trains on the CPU",
            "install a torch built for the CUDA that `nvidia-smi` names, "
            "and see that CUDA_VISIBLE_DEVICES hides no GPU",
        )
    else:
        yield Finding(f"{what}; no NVIDIA driver: trains on the CPU")


def gpu(number: int) -> Iterator[Finding]:
    import torch

    name = torch.cuda.get_device_name(number)
    major, minor = torch.cuda.get_device_capability(number)
    what = f"GPU {number}: {name}, compute capability {major}.{minor}"
    try:
        free, total = torch.cuda.mem_get_info(number)
        torch.ones(1, device=f"cuda:{number}").add(1).item()
    except Exception as error:
        # No kernel for its generation, memory full, held by a process that does not share it.
        advice = 'leave it out with CUDA_VISIBLE_DEVICES, or set `device = "cpu"` in [task]'
        yield Finding(f"{what}: cannot add two numbers ({raised(error)})", advice, bad=True)
        return
    advice = ""
    if free < total / 2:
        advice = "see in `nvidia-smi` what fills it: cohorts are cut to what is free"
    yield Finding(f"{what}, {_gib(total)}, {_gib(free)} free", advice)


def ray_token() -> Iterator[Finding]:
    """Ray's processes prove to each other who they are by a token: each run here makes its own, a
    cluster's lies in HOME.
    """
    what = "Ray's token for --address"
    file = Path(os.path.expanduser("~/.ray/auth_token"))
    if os.environ.get("RAY_AUTH_TOKEN"):
        yield Finding(f"{what}: from RAY_AUTH_TOKEN")
        return
    if not os.path.exists(file):
        yield Finding("Ray's token: none for --address; a run on this machine makes its own")
        return
    advice = ""
    if file.stat().st_mode & 0o044:
        risk = "others may read it, and run code as you with it"
        advice = f"{risk}: chmod 600 ~/.ray/auth_token"
    yield Finding(f"{what}: {quoted(file)}", advice)


def temporary_folder() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    length = len(os.fsencode(folder))
    if length <= LONGEST_TEMPORARY:
        yield _disk("temporary folder", Path(folder), "set TMPDIR to a short path with room")
        return
    limit = f"at most {LONGEST_TEMPORARY} for Ray's sockets below it"
    what = f"temporary folder {quoted(folder)}: {length} bytes, and {limit}"
    yield Finding(what, "set TMPDIR to a shorter path, such as /tmp", bad=True)


def shared_memory() -> Iterator[Finding]:
    free = shutil.disk_usage(SHM).free
    advice = ""
    if free < STORE:
        slow = f"Ray's store of {STORE >> 20} MiB goes to a disk, slower"
        advice = f"{slow}: make it larger (in a container: --shm-size=1g)"
    yield Finding(f"shared memory ({SHM}): {_gib(free)} free", advice)


def cores_and_memory() -> Iterator[Finding]:
    cores = sorted(os.sched_getaffinity(0))
    usable = f"{len(cores)} of {os.cpu_count()} may be used"
    yield Finding(f"cores: {usable}, a cohort on each (`cpus` = 1)")
    memory = _memory_bytes()
    free = memory["MemAvailable:"]
    what = f"memory: {_gib(memory['MemTotal:'])}, {_gib(free)} free"
    least = DRIVER + WORKER
    if free + memory["SwapFree:"] < least:
        advice = f"free some: Ray, the driver and one worker take {_gib(least)}"
        yield Finding(what, advice, bad=True)
        return
    advice = ""
    needed = DRIVER + WORKER * len(cores)
    if free < needed:
        fitting = int((free - DRIVER) / WORKER)
        workers = max(1, fitting)
        numbers = map(str, cores[:workers])
        fit = ",".join(numbers)
        take = f"Ray and a worker on each core take {_gib(needed)} before they train"
        advice = f"{take}: taskset -c {fit} prunefront run ..."
    yield Finding(what, advice)


def _memory_bytes() -> dict[str, int]:
    """Name with its colon -> bytes, as the system has it."""
    memory: dict[str, int] = {}
    for line in MEMINFO.read_text().splitlines():
        name, size, *_ = line.split()
        kib = int(size)
        memory[name] = kib << 10
    return memory


def runs_folder() -> Iterator[Finding]:
    runs = Path("runs")
    if not runs.is_dir():
        runs = Path()
    yield _disk("output (runs/)", runs.absolute(), "run where there is room, or give --out")


def _disk(what: str, folder: Path, advice: str) -> Finding:
    place = f"{what} {quoted(folder)}"
    why = _unwritable(folder)
    if why:
        return Finding(f"{place} {why}", advice, bad=True)
    room = shutil.disk_usage(folder)
    free = f"{_gib(room.free)} free of {_gib(room.total)}"
    what = f"{place}: {free}"
    if room.free < DISK:
        return Finding(what, advice)
    return Finding(what)


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
    data = os.environ.get("PRUNEFRONT_DATA")
    advice = ""
    if data is not None and not os.path.isdir(data):
        advice = "set it to the folder with your data sets"
    yield Finding(_variable("PRUNEFRONT_DATA", data), advice)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    advice = ""
    if devices is not None and devices.strip() in ("", "-1"):
        advice = "unset it to train on GPUs"
    yield Finding(_variable("CUDA_VISIBLE_DEVICES", devices), advice)


def _variable(name: str, value: str | None) -> str:
    if value is None:
        return f"{name} is not set"
    return f"{name} is {quoted(value)}"


def data_sets(folders: Iterable[str]) -> Iterator[Finding]:
    """What there is to train on, with the lines of [task] that read it."""
    yield Finding("digits: of scikit-learn, needs no file", task='dataset = "digits"')
    for folder in folders:
        empty = True
        for data_set in discovery.discover(Path(folder)):
            empty = False
            place = quoted(os.path.relpath(data_set.path, folder))
            advice = "download it or write it again"
            if data_set.task:
                advice = doubts(data_set)
            yield Finding(f"{place}: {data_set.what}", advice, task=data_set.task)
        if empty:
            advice = "it may hold Parquet, IDX or .npz files, or images"
            yield Finding(f"no data set in {quoted(folder)}", advice)


def doubts(data_set: discovery.Found) -> str:
    """What is or may be wrong with a data set whose arrays are read in a moment; empty if nothing
    is known.
    """
    options = tomllib.loads(data_set.task)
    name = options.pop("dataset")
    if name not in ("npz", "features") or data_set.path.stat().st_size > SMALL:
        return ""
    try:
        import torch

        from ...trainables.data import splits

        data = splits.load_data(name, options, 0, torch.float32, torch.device("cpu"))
    except ImportError:  # said above
        return ""
    except Mistake as error:
        return str(error)
    return "; ".join(data.cautions)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def pictures() -> Iterator[Finding]:
    from ...analysis.draw import render

    why = render.hindrance()
    if why:
        yield Finding(why, "raise it for `prunefront report` and `compare`")
        return
    yield Finding("pictures of reports can be drawn")


SECTIONS: dict[str, tuple[Callable[[], Iterator[Finding]], ...]] = {
    "Python": (versions, private_functions),
    "PyTorch and GPUs": (pytorch,),
    "Ray": (ray_token, temporary_folder, shared_memory),
    "machine": (cores_and_memory, runs_folder, pictures),
    "environment": (variables,),
}
"""Heading -> what is looked at, in this order."""
