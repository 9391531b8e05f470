"""What the doctor sees: machines that lack something, and data sets in a folder."""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from prunefront.search import DONE, FAILED, LONGEST_TEMPORARY
from prunefront.search.console import Console
from prunefront.search.drive import quick
from prunefront.search.study import discovery
from prunefront.search.tools import doctor
from prunefront.search.tools.doctor import Finding
from prunefront.trainables.data import readers

PIXELS, NUMBERS = (np.asarray(part)[:20].astype(np.uint8) for part in load_digits(return_X_y=True))
DIGITS = PIXELS.reshape(-1, 8, 8)
GIB = 2**30


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, none of the variables that are looked at, a HOME of its own."""
    for name in ("CUDA_VISIBLE_DEVICES", "PRUNEFRONT_DATA", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "here", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")


def text(look: Callable[..., Iterator[Finding]], *given: Any) -> str:
    return "\n".join(f"{f.mark}: {f.what} -> {f.advice}" for f in doctor.guarded(look, *given))


def report() -> tuple[int, str]:
    page = io.StringIO()
    return doctor.examine(Console(file=page, width=400)), page.getvalue()


def test_the_command_looks_at_everything_without_ray_in_80_columns(tmp_path: Path):
    np.savez(tmp_path / "data/digits.npz", x_train=DIGITS, y_train=NUMBERS)
    code = "import sys; from prunefront.search.cli import main; sys.modules['ray'] = None; main()"
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        "doctor",
        "--data",
        str(tmp_path / "data"),
    ]
    places = os.environ | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=places)
    assert made.stderr == ""
    lines = made.stdout.splitlines()
    for section in (*doctor.SECTIONS, "data sets"):
        assert lines[lines.index(section) + 1].startswith(("ok ", "note ", "bad ")), section
    assert max(len(line) for line in lines if " = " not in line) <= 80
    assert f"Python {'.'.join(map(str, sys.version_info[:3]))}" in made.stdout
    assert f'path = "{tmp_path}/data/digits.npz"' in made.stdout
    bad = [line for line in lines if line.startswith("bad")]
    assert (made.returncode, lines[-1]) == (DONE, "a study will run here"), bad


def test_what_is_bad_is_the_exit_code(monkeypatch: pytest.MonkeyPatch):
    for finding, lines, code in (
        (Finding("[b]found"), ["ok    [b]found"], DONE),
        (Finding("[b]found", "mend it"), ["note  [b]found", "      -> mend it"], DONE),
        (Finding("[b]found", "mend it", bad=True), ["bad   [b]found", "      -> mend it"], FAILED),
    ):
        monkeypatch.setattr(doctor, "SECTIONS", {"one": (lambda found=finding: iter([found]),)})
        got, page = report()
        assert [line.rstrip() for line in page.splitlines()][1 : 1 + len(lines)] == lines
        assert (got, page.endswith("\na study will run here\n")) == (code, code == DONE)


def test_a_look_that_fails_says_so_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "nothing")
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {})
    code, page = report()
    assert "note  versions: KeyError: 'Requires-Python'" in page
    assert "note  cores and memory: FileNotFoundError: " in page
    assert "ok    digits" in page
    assert code == DONE


def test_packages_that_are_missing_or_old_are_bad_with_the_command_that_mends_them(
    monkeypatch: pytest.MonkeyPatch,
):
    assert {line.split(":")[0] for line in text(doctor.versions).splitlines()} == {"ok"}
    known = importlib.metadata.distributions
    have = {"pandas": ["1.5.3"], "ray": [], "torch": ["2.6.0+cpu"], "rich": ["13.0.0rc1"]}

    def distributions(name: str) -> Any:
        return (
            [SimpleNamespace(version=version) for version in have[name]]
            if name in have
            else known(name=name)
        )

    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.12")
    old, *lines = text(doctor.versions).splitlines()
    assert old.startswith("bad: Python 3.10.12")
    assert lines[:-1] == [
        "bad: pandas 1.5.3: prunefront needs pandas>=2.2 -> python -m pip install 'pandas>=2.2'",
        "bad: ray is missing: prunefront needs ray[tune]>=2.52 -> python -m pip install 'ray[tune]>=2.52'",
        "bad: rich 13.0.0rc1: prunefront needs rich>=13 -> python -m pip install 'rich>=13'",
    ]
    assert "torch 2.6.0+cpu" in lines[-1]
    assert "pytest" not in lines[-1], "an extra that nobody asked for"


def test_a_torch_that_cannot_be_imported_is_bad(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert text(doctor.pytorch).startswith("bad: pytorch: ModuleNotFoundError: ")


def test_without_a_gpu_a_study_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def unavailable() -> bool:
        warnings.warn("the driver is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "nothing")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    built = f"torch {torch.__version__}, built for"
    assert text(doctor.pytorch) == f"ok: {built} CUDA 13.0; no NVIDIA driver: trains on the CPU -> "
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path)
    what = f"{built} the CPU only; an NVIDIA driver, but no GPU that torch can use (the driver is too old): trains on the CPU"
    assert text(doctor.pytorch).startswith(f"note: {what} -> install a torch built for the CUDA")


def test_gpus_with_their_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Fake {number}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda number: ((70, 10)[number] * GIB, 80 * GIB)
    )
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.zeros(size))
    first, second, third = text(doctor.pytorch).splitlines()
    assert first.endswith("; 2 GPUs -> ")
    assert second == "ok: GPU 0: Fake 0, compute capability 9.0, 80.0 GiB, 70.0 GiB free -> "
    assert third.startswith(
        "note: GPU 1: Fake 1, compute capability 9.0, 80.0 GiB, 10.0 GiB free -> see in"
    )
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.zeros(-1))
    bad = "bad: GPU 0: Fake 0, compute capability 9.0: cannot add two numbers (RuntimeError: "
    assert text(doctor.gpu, 0).startswith(bad)


def test_the_token_of_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    own = tmp_path / "home/.ray/auth_token"
    assert (
        text(doctor.ray_token)
        == "ok: Ray's token: none for --address; a run on this machine makes its own -> "
    )
    own.parent.mkdir()
    own.write_text("secret")
    own.chmod(0o644)
    assert text(doctor.ray_token).endswith("run code as you with it: chmod 600 ~/.ray/auth_token")
    own.chmod(0o600)
    assert text(doctor.ray_token) == f'ok: Ray\'s token for --address: "{own}" -> '
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert text(doctor.ray_token) == "ok: Ray's token for --address: from RAY_AUTH_TOKEN -> "


def test_a_temporary_folder_too_long_for_sockets_is_bad(monkeypatch: pytest.MonkeyPatch):
    """With 5 digits of a process, Ray 2.60 started in a folder of 21 bytes and not in one of 22."""
    assert LONGEST_TEMPORARY + len(str(os.getpid())) == 26
    monkeypatch.setattr(doctor, "_disk", lambda *given: Finding("room"))
    for over, start in ((0, "ok: room"), (1, 'bad: temporary folder "/tmp/éaa')):
        monkeypatch.setattr(
            doctor.tempfile, "tempdir", "/tmp/é".ljust(LONGEST_TEMPORARY - 1 + over, "a")
        )
        assert text(doctor.temporary_folder).startswith(start)


def test_folders_without_room_are_noted_and_those_that_cannot_be_written_to_are_bad(
    monkeypatch: pytest.MonkeyPatch,
):
    for free, mark in ((GIB << 5, "ok"), (64 << 20, "note")):
        monkeypatch.setattr(
            doctor.shutil,
            "disk_usage",
            lambda path, free=free: SimpleNamespace(free=free, total=GIB << 6),
        )
        assert text(doctor.shared_memory).startswith(f"{mark}: shared memory (/dev/shm): ")
        assert text(doctor.runs_folder).startswith(f'{mark}: output (runs/) "')
    assert text(doctor.runs_folder).endswith(
        "0.1 GiB free of 64.0 GiB -> run where there is room, or give --out"
    )
    monkeypatch.setattr(doctor.tempfile, "tempdir", "/proc")
    assert text(doctor.temporary_folder).startswith(
        'bad: temporary folder "/proc" cannot be written to ('
    )
    monkeypatch.chdir("/proc")
    assert text(doctor.runs_folder).startswith('bad: output (runs/) "/proc" cannot be written to (')


def test_memory_for_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4, 12)))
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "meminfo")
    for free, swap, mark, end in (
        (8, 0, "ok", "8.0 GiB free -> "),
        (3, 0, "note", "before they train: taskset -c 4,5,6,7 prunefront run ..."),
        (1, 4, "note", "before they train: taskset -c 4 prunefront run ..."),
        (1, 0, "bad", "1.0 GiB free -> free some: Ray, the driver and one worker take 1.3 GiB"),
    ):
        sizes = {"MemTotal": 16 << 20, "MemAvailable": free << 20, "SwapFree": swap << 20}
        (tmp_path / "meminfo").write_text(
            "".join(f"{name}:  {size} kB\n" for name, size in sizes.items())
        )
        cores, memory = text(doctor.cores_and_memory).splitlines()
        assert cores.startswith("ok: cores: 8 of ")
        assert memory.startswith(f"{mark}: memory: 16.0 GiB, ")
        assert memory.endswith(end)


def test_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert (
        text(doctor.variables)
        == "ok: PRUNEFRONT_DATA is not set -> \nok: CUDA_VISIBLE_DEVICES is not set -> "
    )
    for data_, gpus, expected in (("none", "", "note note"), (str(tmp_path), "0,1", "ok ok")):
        monkeypatch.setenv("PRUNEFRONT_DATA", data_)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        assert " ".join(finding.mark for finding in doctor.variables()) == expected


def parquet(path: Path, image: str = "image", label: str = "label") -> None:
    stream = io.BytesIO()
    Image.fromarray(DIGITS[0]).save(stream, "PNG")
    rows = [
        {image: {"bytes": stream.getvalue(), "path": None}, "coarse": 0, label: int(y)}
        for y in NUMBERS
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def idx(folder: Path, end: str = "", count: int = 20) -> None:
    folder.mkdir(parents=True)
    for kind, array in (("images-idx3", DIGITS[:count]), ("labels-idx1", NUMBERS)):
        header = bytes((0, 0, 8, array.ndim)) + b"".join(
            size.to_bytes(4, "big") for size in array.shape
        )
        content = header + array.tobytes()
        (folder / f"train-{kind}-ubyte{end}").write_bytes(
            gzip.compress(content) if end else content
        )


def images(folder: Path) -> None:
    for number in range(20):
        (folder / str(NUMBERS[number])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(DIGITS[number]).save(folder / str(NUMBERS[number]) / f"{number}.png")


def found(folder: Path) -> dict[str, dict[str, Any]]:
    """Path below `folder` -> the lines of [task] read as TOML."""
    return {
        str(f.path.relative_to(folder)): tomllib.loads(f.task) for f in discovery.discover(folder)
    }


def test_data_sets_of_known_kinds_are_found_with_the_lines_that_read_them(tmp_path: Path):
    top = tmp_path / "data"
    parquet(top / "a/digits-train.parquet")
    parquet(top / "a/digits-test.parquet")
    parquet(top / "b/set.parquet", "img", "fine_label")
    idx(top / "packed", ".gz")
    idx(top / "plain")
    images(top / "split/train")
    images(top / "split/test")
    images(top / "classes")
    np.savez(top / "set.npz", x_train=DIGITS, y_train=NUMBERS)
    (top / "cifar-100-python").mkdir()
    (top / "cifar-100-python/test").touch()
    parquet(top / ".hidden/set.parquet")
    (top / "again").symlink_to(top, target_is_directory=True)
    pq.write_table(pa.table({"x": [1]}), top / "numbers.parquet")
    pq.write_table(pa.table({"x": np.arange(20.0), "label": NUMBERS}), top / "table.parquet")
    np.savez(top / "weights.npz", w=DIGITS)
    paired = {"train": f"{top}/a/digits-train.parquet", "test": f"{top}/a/digits-test.parquet"}
    got = found(top)
    assert got == {
        "a/digits-train.parquet": {"dataset": "parquet"} | paired,
        "b/set.parquet": {
            "dataset": "parquet",
            "train": f"{top}/b/set.parquet",
            "image": "img",
            "label": "fine_label",
        },
        "packed": {"dataset": "idx", "root": f"{top}/packed"},
        "plain": {"dataset": "idx", "root": f"{top}/plain"},
        "split": {"dataset": "folder", "root": f"{top}/split"},
        "classes": {"dataset": "folder", "root": f"{top}/classes"},
        "table.parquet": {"dataset": "features", "train": f"{top}/table.parquet"},
        "set.npz": {"dataset": "npz", "path": f"{top}/set.npz"},
        "cifar-100-python": {"dataset": "torchvision", "name": "CIFAR100", "root": str(top)},
    }
    for task in got.values():
        name = task.pop("dataset")
        if name in readers.DATASETS and name != "torchvision":  # CIFAR's file was empty
            assert len(readers.DATASETS[name](**task)["train"][1]) == 20


def test_what_may_be_wrong_with_numbers_is_noted(tmp_path: Path):
    rows, labels = np.arange(200), np.arange(200) // 50
    noise = np.random.default_rng(0).normal(size=(200, 2))
    top = tmp_path / "data"
    for name, x in (
        ("fine", noise),
        ("constant", noise * [0, 1]),
        ("index", np.column_stack([noise, rows])),
    ):
        np.savez(top / f"{name}.npz", x_train=x, y_train=labels)
    constant, fine, index = (line for line in text(doctor.data_sets, [str(top)]).splitlines()[1:])
    assert constant.startswith('note: "constant.npz": arrays: x_train, y_train -> ')
    assert constant.endswith("-> dataset npz: split train: column 0 is constant in float32")
    assert fine == 'ok: "fine.npz": arrays: x_train, y_train -> '
    assert index.endswith("got column 2, from 0 to 199 in 200 rows; leave it out")


def test_files_that_are_broken_are_noted(tmp_path: Path):
    top = tmp_path / "data"
    assert (
        text(doctor.data_sets, [str(top)])
        .splitlines()[1]
        .startswith(f'note: no data set in "{top}" -> ')
    )
    parquet(top / "cut.parquet")
    np.savez(top / "cut.npz", x_train=DIGITS, y_train=NUMBERS)
    idx(top / "short")
    for name in ("cut.parquet", "cut.npz", "short/train-labels-idx1-ubyte"):
        (top / name).write_bytes((top / name).read_bytes()[:-1])
    idx(top / "uneven", ".gz", count=19)
    assert [
        line.split(": cannot be read (")[0]
        for line in text(doctor.data_sets, [str(top)]).splitlines()[1:]
    ] == [
        'note: "cut.npz"',
        'note: "cut.parquet"',
        'note: "short/train-images-idx3-ubyte"',
        'note: "uneven/train-images-idx3-ubyte.gz"',
    ]


def test_paths_are_written_for_toml_and_below_prunefront_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    top = tmp_path / 'data/a "quoted"\\ [bold]\n😀 name'
    idx(top)
    assert [task["root"] for task in found(top).values()] == [str(top)]
    monkeypatch.setenv("PRUNEFRONT_DATA", str(tmp_path / "data"))
    assert [task["root"] for task in found(top).values()] == [f"$PRUNEFRONT_DATA/{top.name}"]
    assert report()[0] == DONE


def test_private_functions_of_dependencies_are_told(monkeypatch: pytest.MonkeyPatch):
    from prunefront.search.propose import population
    from prunefront.trainables.training import stack

    monkeypatch.setattr(stack, "functorch_in_use", lambda: "all by hand", raising=False)
    usual = [finding.what for finding in doctor.private_functions()]
    assert "`_get_generation_key`" in usual[0]
    assert usual[1] == "torch: all by hand"
    assert usual[2] == "Ray: private parts of it, so that it starts sooner"
    monkeypatch.setattr(quick, "private_parts", lambda: {"one": True, "another": False})
    *_, lacking = doctor.private_functions()
    assert lacking.what == "Ray: starts as it always does, later, for want of another"
    monkeypatch.setattr(population, "generation_key", lambda: None)
    without = next(doctor.private_functions())
    assert "by public functions" in without.what
    assert without.mark == "ok"
