"""What is shipped, and who may import whom."""

from __future__ import annotations

import ast
import graphlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from test_package import train

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("search", "trainables", "analysis")
MEASURED = {
    "analysis/rows/table.py",
    "analysis/rows/goals.py",  # to leave them out
    "analysis/points/front.py",  # to leave them out
    "analysis/inference/across.py",
    "analysis/inference/verdicts.py",
    "trainables/records/training.py",
    "trainables/records/leaving.py",  # what leaves is held against what was measured
}
"""Files that may name columns of test data; so may the sections of the report."""


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(["prunefront", *parts])


def imported(path: Path, statements: Iterable[ast.AST]) -> set[str]:
    """Dotted names that statements of a file import, relative ones resolved below `prunefront`."""
    package = ["prunefront", *path.relative_to(ROOT).parent.parts]
    names: set[str] = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def strings(path: Path) -> list[str]:
    constants = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    names = imported(path, ast.walk(ast.parse(path.read_text())))
    heads = {name.split(".")[0] for name in names}
    bare = heads & set(FOLDERS)
    assert not bare, "a user's own folder of that name would shadow ours in the workers"
    ours = {name for name in names if name.startswith("prunefront.")}
    if folder == "analysis":
        assert not heads & {"torch", "ray", "optuna"}
        assert all(name.startswith("prunefront.analysis") for name in ours)
    if folder == "trainables":
        assert "optuna" not in heads
        assert "ray" not in heads or path.name == "tuning.py"
        may = ("prunefront.trainables", "prunefront.analysis.rows")
        assert all(name.startswith(may) for name in ours - {"prunefront.analysis"})
        if path.parent.name != "algorithms" and path.name != "__init__.py":
            shelf = "prunefront.trainables.algorithms."
            named = {name for name in ours if name.startswith(shelf)}
            assert all(name.startswith((f"{shelf}find", f"{shelf}_")) for name in named)


def test_no_modules_import_each_other_in_a_circle():
    """Statements at the head of a module are looked at, not those in functions or for types."""
    graph: dict[str, set[str]] = {}
    modules = {module_name(path) for path in sources()}
    for path in sources():
        names = imported(path, ast.parse(path.read_text()).body)
        graph[module_name(path)] = names & modules
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises CycleError, which names the circle


def test_the_driver_and_the_analysis_know_no_algorithm_by_name():
    shelf = (ROOT / "trainables" / "algorithms").glob("*.py")
    names = {path.stem for path in shelf if not path.stem.startswith("_")}
    for path in (ROOT / "search").rglob("*.py"):
        assert not names.intersection(strings(path)), path.name


def test_what_proposes_stops_or_plans_names_no_test_column():
    for path in sources():
        place = path.relative_to(ROOT)
        if any(text.endswith("_test") for text in strings(path)):
            assert str(place) in MEASURED or place.parts[:2] == ("analysis", "sections"), place


def test_trainables_import_without_ray_and_optuna():
    code = (
        "import sys; sys.modules['ray'] = None; sys.modules['optuna'] = None\n"
        "from prunefront.trainables import algorithms\n"
        "from prunefront.trainables.records import training\n"
        "from prunefront.trainables.training import memory, pruner\n"
        "assert 'dns' in algorithms.known()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools takes along what an earlier build left behind
    for package in ("prunefront", *FOLDERS):
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=without)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "pip wheel --no-deps --no-build-isolation --quiet --wheel-dir".split()
    command = [sys.executable, "-m", *build, str(folder), str(source)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_folders(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if name.startswith("prunefront/")}
    expected = {f"prunefront/{path.relative_to(ROOT)}" for path in sources()}
    expected |= {f"prunefront/{package}/py.typed" for package in FOLDERS} | {"prunefront/py.typed"}
    expected |= {f"prunefront/{path.name}" for path in (ROOT / "prunefront").glob("*.py*")}
    assert inside == expected
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in sources()}
    rooms = {".".join(["prunefront", *folder.relative_to(ROOT).parts]) for folder in folders}
    assert rooms | {"prunefront"} == set(listed)


def test_the_package_is_whole_in_a_wheel_and_from_the_root(wheel: Path, tmp_path: Path):
    """An editable install is what all other tests use."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    study = train(tmp_path / "study")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys, prunefront as pf\n"
        "print(len(pf.read(sys.argv[1])), 'torch' in sys.modules)\n"
        "import prunefront.search.study.parse as module; print(module.__file__)"
    )
    for first, folder in ((tmp_path / "installed", "prunefront"), (ROOT, ".")):
        environment = {**os.environ, "PYTHONPATH": str(first)}
        command = [sys.executable, "-c", code, str(study)]
        asked = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        )
        rows, place = asked.stdout.splitlines()
        assert rows == "4 False"
        assert Path(place) == first / folder / "search" / "study" / "parse.py"
