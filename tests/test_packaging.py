"""What is shipped, and who may import whom."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("search", "trainables", "analysis")


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, relative ones resolved below `prunefront`."""
    package = ["prunefront", *path.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path):
    package, found = path.relative_to(ROOT).parts[0], imports(path)
    heads = {name.split(".")[0] for name in found}
    assert not heads & set(PACKAGES), "a user's own folder of that name would shadow ours in the workers"
    ours = {name for name in found if name.startswith("prunefront.")}
    if package == "analysis":
        assert not heads & {"torch", "ray"}
        assert all(name.startswith("prunefront.analysis") for name in ours)
    if package == "trainables":
        assert "ray" not in heads or path.name == "tuning.py"
        assert all(name.startswith(("prunefront.trainables", "prunefront.analysis")) for name in ours)
        may = tuple(f"prunefront.analysis.{name}" for name in ("goals", "mistake", "storage", "table"))
        assert all(name.startswith(may) for name in ours if name.startswith("prunefront.analysis."))
        if path.parent.name != "algorithms" and path.name != "__init__.py":
            assert not {n for n in ours if n.startswith("prunefront.trainables.algorithms.")} - {
                "prunefront.trainables.algorithms.find"
            }


def test_the_driver_knows_no_algorithm_by_name():
    names = {path.stem for path in (ROOT / "trainables" / "algorithms").glob("*.py")} - {"__init__"}
    for path in (ROOT / "search").glob("*.py"):
        words = {
            n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
        assert not words & names, path.name


def test_what_proposes_stops_or_plans_names_no_test_column():
    """Test columns are named where they are measured, recorded and shown; in front.py and goals.py, to leave them out."""
    may = {f"analysis/{name}.py" for name in ("table", "front", "goals", "answer", "sections", "verdicts")}
    may |= {"trainables/cohort.py", "trainables/leaving.py"}  # measured there; held against what leaves here
    for path in sources():
        texts = [
            n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
        if any(text.endswith("_test") for text in texts):
            assert str(path.relative_to(ROOT)) in may


def test_trainables_import_without_ray_and_optuna():
    code = (
        "import sys; sys.modules['ray'] = None; sys.modules['optuna'] = None\n"
        "from prunefront.trainables import algorithms, cohort, gradient, memory\n"
        "assert 'dns' in algorithms.known()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_wheel_holds_the_folders(tmp_path: Path):
    source = tmp_path / "source"  # a copy: setuptools would take along what an earlier build left behind
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
            "-w",
            str(tmp_path),
            str(source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if name.startswith("prunefront/")}
    expected = {f"prunefront/{path.relative_to(ROOT)}" for path in sources()}
    assert inside == expected | {f"prunefront/{package}/py.typed" for package in PACKAGES}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in sources()}
    assert {f"prunefront.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in folders} == set(listed)
