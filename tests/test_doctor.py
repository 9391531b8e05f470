"""What the doctor sees: machines that lack something, and data sets in a folder."""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import os
import subprocess
import sys
import tomllib
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
from rich.console import Console
from sklearn.datasets import load_digits

from prunefront.search import DONE, FAILED, cli, discovery, doctor
from prunefront.search.doctor import Finding
from prunefront.trainables import data

PIXELS, LABELS = (np.asarray(part) for part in load_digits(return_X_y=True))
DIGITS = (PIXELS[:40].reshape(-1, 8, 8) * 15).astype(np.uint8)
GIB = 2**30


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, no variables that matter, and a HOME and temporary folder of its own."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PRUNEFRONT_DATA", "PYTHONPATH", *doctor.RESULTS):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")


def marks(look: Callable[..., Iterator[Finding]], *given: Any) -> str:
    return " ".join(finding.mark for finding in doctor.guarded(look, *given))


def text(look: Callable[..., Iterator[Finding]], *given: Any) -> str:
    return "\n".join(f"{f.mark}: {f.what} -> {f.advice}" for f in doctor.guarded(look, *given))


def report(width: int = 400) -> tuple[int, str]:
    page = io.StringIO()
    return doctor.examine(Console(file=page, width=width)), page.getvalue()


def fails(error: Exception) -> Callable[..., Any]:
    def function(*given: Any, **options: Any) -> Any:
        raise error

    return function


def fake_gpu(monkeypatch: pytest.MonkeyPatch, free: float, add: Callable[[int], None] = lambda number: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Fake {number}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (int(free * GIB), 80 * GIB))
    monkeypatch.setattr(doctor, "_add", add)


# The whole report


def test_the_command_looks_at_everything_and_says_so_in_80_columns(tmp_path: Path):
    (tmp_path / "digits.npz").write_bytes(npz(x_train=DIGITS[:, None], y_train=LABELS[:40]))
    code = "import sys; from prunefront.search.cli import main; sys.modules['ray'] = None; main()"
    command = [sys.executable, "-W", "error", "-c", code, "doctor", "--data", str(tmp_path)]
    places = os.environ | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=places)
    assert made.stderr == ""
    lines = made.stdout.splitlines()
    for section in doctor.SECTIONS:
        at = lines.index(section)
        assert lines[at + 1].startswith(("ok ", "note ", "bad ")), section
    assert max(len(line) for line in lines if " = " not in line) <= 80
    assert f"Python {'.'.join(map(str, sys.version_info[:3]))}" in made.stdout
    assert f'path = "{tmp_path}/digits.npz"' in made.stdout
    bad = [line for line in lines if line.startswith("bad")]
    assert (made.returncode, lines[-1]) == (DONE, "a study will run here"), bad


@pytest.mark.parametrize(
    ("mark", "code", "end"),
    [
        ("ok", DONE, "a study will run here"),
        ("note", DONE, "a study will run here"),
        ("bad", FAILED, "no study will run here until what is bad (1) is mended"),
    ],
)
def test_what_makes_a_study_impossible_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, mark: Any, code: int, end: str):
    monkeypatch.setattr(doctor, "SECTIONS", {"one": (lambda: iter([Finding(mark, "found", "mend it")]),)})
    got, page = report()
    assert (got, [line.rstrip() for line in page.splitlines()]) == (code, ["one", f"{mark:<4}  found", "      -> mend it", end])


def test_a_look_that_fails_says_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    def first_look() -> Iterator[Finding]:
        yield Finding("ok", "this much")
        raise RuntimeError("strange\x1b[31m machine\nsecond line")

    monkeypatch.setattr(doctor, "SECTIONS", {"one": (first_look, lambda: iter([Finding("ok", "[bold]as it is[/bold]")]))})
    code, page = report()
    assert [line.rstrip() for line in page.splitlines()[1:4]] == [
        "ok    this much",
        "note  first look: cannot be found out (RuntimeError: strange?[31m machine)",
        "ok    [bold]as it is[/bold]",
    ]
    assert code == DONE


def test_no_look_crashes_on_a_machine_without_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for place in ("PROC", "CGROUP", "SHM"):
        monkeypatch.setattr(doctor, place, tmp_path / "nothing")
    monkeypatch.setattr(os, "sched_getaffinity", fails(AttributeError("not on this system")))
    monkeypatch.setattr(importlib.metadata, "version", fails(importlib.metadata.PackageNotFoundError("all")))
    monkeypatch.setattr(importlib.metadata, "metadata", fails(importlib.metadata.PackageNotFoundError("prunefront")))
    monkeypatch.setattr(doctor.shutil, "disk_usage", fails(OSError(5, "Input/output error")))
    monkeypatch.setattr(torch.cuda, "is_available", fails(RuntimeError("driver")))
    monkeypatch.setattr(data, "DATASETS", {"digits": fails(MemoryError())})
    code, page = report()
    assert code == FAILED
    assert page.count("cannot be found out") >= 7


def test_a_folder_that_is_none_is_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["prunefront", "doctor", "--data", "nowhere"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (2, "prunefront: --data: is a folder; got nowhere\n")


# Python and packages


def test_an_old_python_is_bad(monkeypatch: pytest.MonkeyPatch):
    assert marks(doctor.python) == "ok"
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.12")
    assert text(doctor.python).startswith("bad: Python 3.10.12")


def test_packages_that_are_missing_or_old_are_bad_with_the_command_that_mends_them(monkeypatch: pytest.MonkeyPatch):
    assert marks(doctor.packages) == "ok"
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tensorboardX":  # of ray[tune]
            raise importlib.metadata.PackageNotFoundError(name)
        return {"pandas": "1.5.3", "torch": "2.6.0+cpu", "rich": "13.0.0rc1"}.get(name) or known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    lines = text(doctor.packages).splitlines()
    assert sorted(line for line in lines if line.startswith("bad")) == [
        "bad: pandas 1.5.3 is not >=2.2 -> python -m pip install 'pandas>=2.2'",
        "bad: rich 13.0.0rc1 is not >=13 -> python -m pip install 'rich>=13'",
        *(line for line in lines if "tensorboardX is missing -> python -m pip install 'tensorboardX" in line),
    ]
    assert sum("tensorboardX" in line for line in lines) == 1
    assert "torch 2.6.0+cpu" in lines[-1]
    assert "pytest" not in lines[-1], "an extra that nobody asked for"


def test_a_ray_that_is_missing_is_bad(monkeypatch: pytest.MonkeyPatch):
    assert text(doctor.ray).startswith(f"ok: Ray {importlib.metadata.version('ray')}")
    monkeypatch.setattr(importlib.metadata, "version", fails(importlib.metadata.PackageNotFoundError("ray")))
    assert text(doctor.ray) == "bad: Ray is missing -> python -m pip install 'ray[tune]'"


def test_a_module_that_is_missing_is_bad(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert text(doctor.packages).startswith("bad: packages: cannot be found out (ModuleNotFoundError: ")


# torch and GPUs


@pytest.mark.parametrize(
    ("cuda", "driver", "expected"),
    [
        ("13.0", False, "note: torch {torch}, built for CUDA 13.0; no GPU driver found: trains on the CPU -> for a GPU, "),
        ("13.0", True, "note: torch {torch}, built for CUDA 13.0; NVIDIA driver 550.54.15, but no GPU that torch can use"),
        (None, True, "note: torch {torch}, built for the CPU only, beside NVIDIA driver 550.54.15: trains on the CPU -> "),
        (None, False, "ok: torch {torch}, built for the CPU only; no GPU driver found: trains on the CPU -> "),
    ],
)
def test_without_a_gpu_a_study_trains_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: str | None, driver: bool, expected: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(doctor, "PROC", tmp_path)
    if driver:
        (tmp_path / "driver/nvidia").mkdir(parents=True)
        line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
        (tmp_path / "driver/nvidia/version").write_text(line)
    else:
        monkeypatch.setattr(doctor, "_driver", lambda: "")
    assert text(doctor.pytorch).startswith(expected.format(torch=torch.__version__))


def test_why_torch_sees_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch):
    def unavailable() -> bool:
        import warnings

        warnings.warn("CUDA initialization: the driver is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor, "_driver", lambda: "NVIDIA driver")
    assert "(CUDA initialization: the driver is too old): trains on the CPU" in text(doctor.pytorch)


def test_gpus_with_their_memory(monkeypatch: pytest.MonkeyPatch):
    fake_gpu(monkeypatch, 70)
    first, second, third = text(doctor.pytorch).splitlines()
    assert first.startswith("ok: torch ")
    assert "2 GPUs" in first
    assert second == "ok: GPU 0: Fake 0, compute capability 9.0, 80.0 GiB, 70.0 GiB free -> "
    assert third.startswith("ok: GPU 1: Fake 1")
    fake_gpu(monkeypatch, 10)
    assert marks(doctor.pytorch) == "ok note note"


def test_a_gpu_that_cannot_compute_is_bad(monkeypatch: pytest.MonkeyPatch):
    fake_gpu(monkeypatch, 70, fails(RuntimeError("CUDA error: no kernel image is available\nmore")))
    assert marks(doctor.pytorch) == "ok bad bad"
    assert "cannot add two numbers (RuntimeError: CUDA error: no kernel image is available) -> " in text(doctor.pytorch)


def test_a_torch_that_cannot_be_imported_is_bad(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert text(doctor.pytorch).startswith("bad: torch cannot be imported (ModuleNotFoundError: ")


# What Ray needs


def test_the_token_of_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    own = tmp_path / "home/.ray/auth_token"
    assert text(doctor.ray_token) == f'ok: Ray\'s token: will be written to "{own}" -> '
    own.parent.mkdir()
    own.write_text("secret")
    own.chmod(0o600)
    assert text(doctor.ray_token) == f'ok: Ray\'s token: "{own}" -> '
    monkeypatch.setenv("HOME", "/proc")  # not even root can write there
    assert text(doctor.ray_token).startswith('bad: Ray writes a token to "/proc/.ray/auth_token": it cannot be written to (')
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert marks(doctor.ray_token) == "bad"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(own))
    assert marks(doctor.ray_token) == "ok"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert text(doctor.ray_token) == "ok: Ray's token: from RAY_AUTH_TOKEN -> "
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert text(doctor.ray_token).endswith("whoever reaches this machine's ports runs code as you -> unset RAY_AUTH_MODE")


def test_a_token_that_others_may_read_is_noted(monkeypatch: pytest.MonkeyPatch):
    modes = {"auth_token": 0o644}
    monkeypatch.setattr(Path, "stat", lambda path: SimpleNamespace(st_mode=modes.get(path.name, 0o755)))
    assert doctor._private(Path("/home/a name/auth_token")).advice == "chmod 600 '/home/a name/auth_token'"
    modes["a name"] = 0o700
    assert doctor._private(Path("/home/a name/auth_token")).mark == "ok", "behind a closed door"
    modes = {"auth_token": 0o600}
    assert doctor._private(Path("/home/a name/auth_token")).mark == "ok"


def test_the_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(doctor.tempfile, "tempdir", "/proc")
    assert text(doctor.temporary_folder).startswith('bad: temporary folder "/proc" cannot be written to (')
    monkeypatch.setattr(doctor.tempfile, "gettempdir", fails(FileNotFoundError("none")))
    assert marks(doctor.temporary_folder) == "bad"


def test_a_temporary_folder_too_deep_for_sockets_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With "/" and 5 digits of a process, Ray 2.60 started in a folder of 21 bytes and not in one of 22."""
    monkeypatch.setattr(doctor.os, "getpid", lambda: 24989)
    monkeypatch.setattr(doctor, "_disk", lambda *given: iter(()))
    monkeypatch.setattr(doctor.tempfile, "tempdir", "/tmp/aaaaaaaaaaaaaaaa")
    assert marks(doctor.temporary_folder) == ""
    monkeypatch.setattr(doctor.tempfile, "tempdir", "/tmp/aaaaaaaaaaaaaaaaa")
    assert "too long by 1 for the sockets" in text(doctor.temporary_folder)


def test_little_shared_memory_and_a_full_disk_are_noted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB << 5, total=GIB << 6))
    assert (marks(doctor.shared_memory), marks(doctor.runs_folder)) == ("ok", "ok")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20, total=GIB << 6))
    assert (marks(doctor.shared_memory), marks(doctor.runs_folder)) == ("note", "note")
    assert "0.1 GiB free of 64.0 GiB -> run where there is room, or give --out" in text(doctor.runs_folder)


def test_an_output_folder_that_cannot_be_written_to_is_bad(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/proc")
    assert text(doctor.runs_folder).startswith('bad: output (runs/) "/proc" cannot be written to (')


# The machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Eight cores, 64 GiB, and control groups to be written into the folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4, 12)))
    monkeypatch.setattr(doctor, "PROC", tmp_path / "proc")
    monkeypatch.setattr(doctor, "CGROUP", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 41943040 kB\nSwapFree: 0 kB\nHugePages_Total: 0\n")
    write(tmp_path / "proc/self/cgroup", "0::/user/job\n")
    return tmp_path


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_cores_and_memory_without_limits(machine: Path):
    write(machine / "cgroup/user/job/cpu.max", "max 100000\n")
    write(machine / "cgroup/user/job/memory.max", "max\n")
    assert text(doctor.cores).startswith("ok: cores: 8 of ")
    assert text(doctor.memory) == "ok: memory: 64.0 GiB, 40.0 GiB free -> "


def test_limits_of_control_groups_are_the_tightest_of_those_above(machine: Path):
    write(machine / "cgroup/user/cpu.max", "250000 100000\n")
    write(machine / "cgroup/user/job/cpu.max", "max 100000\n")
    write(machine / "cgroup/user/memory.max", str(8 * GIB))
    write(machine / "cgroup/user/job/memory.max", str(16 * GIB))
    assert text(doctor.cores).endswith("a quota allows the time of 2.5 -> train on fewer: taskset -c 4,5 prunefront run ...")
    assert "limited to 8.0 GiB for this process -> cohorts are sized" in text(doctor.memory)


def test_limits_of_control_groups_of_version_1(machine: Path):
    write(machine / "proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n")
    for name, content in {"cfs_quota_us": "50000\n", "cfs_period_us": "100000\n"}.items():
        write(machine / f"cgroup/cpu/cpu.{name}", content)
    write(machine / "cgroup/memory/memory.limit_in_bytes", str(2 * GIB))
    assert text(doctor.cores).endswith("the time of 0.5 -> train on fewer: taskset -c 4 prunefront run ...")
    assert text(doctor.memory).endswith("before they train: taskset -c 4,5 prunefront run ...")


@pytest.mark.parametrize(("free", "swap", "mark"), [(8, 0, "ok"), (3, 0, "note"), (1, 0, "bad"), (1, 4, "note")])
def test_memory_for_the_workers(machine: Path, free: int, swap: int, mark: str):
    lines = {"MemTotal": 16 * GIB, "MemAvailable": free * GIB, "SwapFree": swap * GIB}
    write(machine / "proc/meminfo", "".join(f"{name}: {size >> 10} kB\n" for name, size in lines.items()))
    assert marks(doctor.memory) == mark


# Variables


def test_variables_that_change_speed_or_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert marks(doctor.variables) == "ok"
    monkeypatch.setenv("PRUNEFRONT_DATA", str(tmp_path / "none"))
    assert "which is no folder -> set it" in text(doctor.variables)
    monkeypatch.setenv("PRUNEFRONT_DATA", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert marks(doctor.variables) == "ok ok ok"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert marks(doctor.variables) == "ok note note ok"


def test_files_that_hide_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert marks(doctor.shadows) == "ok"
    write(tmp_path / "here/random.py", "")
    write(tmp_path / "here/analysis/__init__.py", "")  # ours is prunefront.analysis
    write(tmp_path / "here/torch/readme.txt", "")  # a folder without __init__.py gives way
    write(tmp_path / "path/PIL/__init__.py", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}:{tmp_path / 'none'}:")
    assert text(doctor.shadows).splitlines() == [
        f'note: "{tmp_path}/here/random.py" hides the module random, in Ray\'s workers too -> rename it',
        f'note: "{tmp_path}/path/PIL/__init__.py" hides the module PIL, in Ray\'s workers too -> rename it',
    ]


# Data sets


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(path: Path, image: str = "image", label: str = "label", count: int = 40) -> None:
    rows = [
        {image: {"bytes": png(pixels), "path": None}, "coarse": 0, label: int(y)}
        for pixels, y in zip(DIGITS[:count], LABELS, strict=False)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def idx(folder: Path, split: str, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", DIGITS), ("labels-idx1", LABELS[:40].astype(np.uint8))):
        header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        content, name = header + array.tobytes(), f"{split}-{kind}-ubyte"
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


def images(folder: Path) -> None:
    for number in range(20):
        place = folder / str(LABELS[number])
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(DIGITS[number]))


def found(folder: Path) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Path below `folder` -> what it is, the lines of [task] read as TOML, the advice."""
    return {str(f.path.relative_to(folder)): (f.what, tomllib.loads(f.task), f.advice) for f in discovery.find(folder)}


def test_the_digits_are_there():
    assert [(f.mark, f.what, f.task) for f in doctor.built_in()] == [
        ("ok", "digits: 1,797 examples of 1 x 8 x 8", 'dataset = "digits"')
    ]


def test_data_sets_of_known_kinds_are_found_with_the_lines_that_read_them(tmp_path: Path):
    top = tmp_path / "data"
    parquet(top / "a/digits-train.parquet")
    parquet(top / "a/digits-test.parquet", count=7)
    parquet(top / "b/set.parquet", "img", "fine_label")
    idx(top / "packed", "train", packed=True)
    idx(top / "packed", "t10k", packed=True)
    idx(top / "plain", "train", packed=False)
    images(top / "split/train")
    images(top / "split/test")
    images(top / "classes")
    (top / "set.npz").write_bytes(npz(x_train=DIGITS[:, None], y_train=LABELS[:40]))
    write(top / "cifar-100-python/train", "")
    write(top / "cifar-100-python/test", "")
    parquet(top / ".hidden/set.parquet")
    (top / "again").symlink_to(top, target_is_directory=True)
    got = found(top)
    assert {path: what for path, (what, _, _) in got.items()} == {
        "a/digits-train.parquet": 'images in Parquet: 40; 7 in "digits-test.parquet"',
        "b/set.parquet": "images in Parquet: 40",
        "packed": "IDX images: train 40 of 8 x 8, t10k 40 of 8 x 8",
        "plain": "IDX images: train 40 of 8 x 8",
        "split": "images in folders: train, test; 10 classes",
        "classes": "images in folders: 10 classes",
        "set.npz": "arrays: train 40 x 1 x 8 x 8",
        "cifar-100-python": "CIFAR100 of torchvision",
    }
    assert {path: task for path, (_, task, _) in got.items()} == {
        "a/digits-train.parquet": {
            "dataset": "parquet",
            "train": f"{top}/a/digits-train.parquet",
            "test": f"{top}/a/digits-test.parquet",
        },
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
        "set.npz": {"dataset": "npz", "path": f"{top}/set.npz"},
        "cifar-100-python": {"dataset": "torchvision", "name": "CIFAR100", "root": str(top)},
    }
    assert not any(advice for _, _, advice in got.values())
    for _, task, _ in got.values():
        name = task.pop("dataset")
        if name in data.DATASETS and name != "torchvision":  # CIFAR's files were empty
            assert len(data.DATASETS[name](**task)["train"][1]) in (20, 40)


def test_a_test_file_with_other_columns_is_a_data_set_of_its_own(tmp_path: Path):
    parquet(tmp_path / "train.parquet")
    parquet(tmp_path / "test.parquet", image="img")
    assert {path: list(task) for path, (_, task, _) in found(tmp_path).items()} == {
        "train.parquet": ["dataset", "train"],
        "test.parquet": ["dataset", "train", "image"],
    }


def test_files_that_are_broken_are_noted_and_none_is_unpickled(tmp_path: Path):
    top = tmp_path / "data"
    parquet(top / "cut.parquet")
    (top / "cut.parquet").write_bytes((top / "cut.parquet").read_bytes()[:300])
    pq.write_table(pa.table({"x": [1]}), top / "numbers.parquet")
    parquet(top / "train.parquet")
    (top / "test.parquet").write_bytes(b"")
    (top / "objects.npz").write_bytes(npz(x_train=np.array([print, {}], dtype=object), y_train=LABELS[:2]))
    (top / "more.npz").write_bytes(npz(x_train=DIGITS, y_train=LABELS[:40], x_valid=DIGITS))
    (top / "weights.npz").write_bytes(npz(w=DIGITS))
    (top / "cut.npz").write_bytes(npz(x_train=DIGITS, y_train=LABELS)[:500])
    (top / "text.npz").write_bytes(npz(x_train=DIGITS, y_train=LABELS).replace(b"NUMPY", b"numpy"))
    idx(top / "cut", "train", packed=False)
    (top / "cut/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3\0\0\0\x05")
    idx(top / "short", "train", packed=False)
    (top / "short/train-labels-idx1-ubyte").write_bytes((top / "short/train-labels-idx1-ubyte").read_bytes()[:-1])
    idx(top / "uneven", "train", packed=True)
    (top / "uneven/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 39))))
    idx(top / "zipped", "train", packed=True)
    (top / "zipped/train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    write(top / "cifar-10-batches-py/data_batch_1", "")
    images(top / "empty")
    (top / "empty/a class without images").mkdir()
    got = found(top)
    whats = {path: what for path, (what, _, _) in got.items()}
    starts = {
        "cut.parquet": "cannot be read (ArrowInvalid: ",
        "test.parquet": "cannot be read (ArrowInvalid: ",
        "numbers.parquet": "no data set: no column of images",
        "train.parquet": "images in Parquet: 40",
        "objects.npz": 'arrays of Python objects, which are never unpickled: "x_train"',
        "more.npz": 'arrays that are no pair of `x_` and `y_` with train, valid or test: "x_valid"',
        "weights.npz": "no data set: no arrays",
        "cut.npz": "cannot be read (BadZipFile: ",
        "text.npz": "cannot be read (",
        "cut": "IDX files that cannot be read (error: unpack requires",
        "short": 'IDX files that cannot be read (ValueError: "train-labels-idx1-ubyte" has 47 bytes instead of 48)',
        "uneven": "IDX files: 39 images but 40 labels in train",
        "zipped": "IDX files that cannot be read (BadGzipFile: ",
        "cifar-10-batches-py": "CIFAR10 without test_batch, data_batch_2",
    }
    assert whats.keys() == starts.keys()
    assert [path for path in starts if not whats[path].startswith(starts[path])] == []
    assert [path for path, (_, task, _) in got.items() if task] == ["train.parquet"]
    lines = text(doctor.data_sets, top)
    assert lines.count("ok: ") == 2, "the one data set, and those that are none"
    assert 'left out: "numbers.parquet" (no data set: ' in lines


def test_paths_that_toml_must_escape_come_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    top = tmp_path / 'a "quoted"\\ [bold]\x7f\x1b\n😀 name'
    idx(top, "train", packed=False)
    ((_, task, _),) = found(top).values()
    assert task["root"] == str(top)
    monkeypatch.setenv("PRUNEFRONT_DATA", str(top.parent))
    ((_, task, _),) = found(top).values()
    assert task["root"] == f"$PRUNEFRONT_DATA/{top.name}"
    code, page = report()
    assert code == DONE
    assert "\x1b" not in page


@pytest.mark.parametrize("name", ["$HOME", "${HOME}", os.fsdecode(b"\xff")])
def test_a_path_that_a_study_file_cannot_name_is_noted(tmp_path: Path, name: str):
    idx(tmp_path / name, "train", packed=False)
    ((what, task, advice),) = found(tmp_path).values()
    assert what.endswith(", but a study file cannot name its path")
    assert (task, advice) == ({}, "rename it")


def test_a_folder_without_data_sets_and_one_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert text(doctor.data_sets, tmp_path).startswith(f'note: no data set found in "{tmp_path}"')
    monkeypatch.setattr(discovery, "FOLDERS", 2)
    assert "only its first 2 folders were looked into" in text(doctor.data_sets, tmp_path)
    assert text(doctor.data_sets, tmp_path / "none").startswith("ok: left out: ")
