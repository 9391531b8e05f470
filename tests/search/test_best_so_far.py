"""What a run says of the best networks while it goes on."""

from __future__ import annotations

import io
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
from test_report import FOOTER, measured

from prunefront.analysis.rows import rundir, table
from prunefront.search.console import Console
from prunefront.search.drive.progress import Progress


def line(tmp_path: Path, *changes: dict[str, Any]) -> str:
    """The line of progress after a cohort with these members wrote its last rows."""
    rows = [
        {**measured("dns", 0.5, seed, "x"), "rung": 1, **change}
        for seed, change in enumerate(changes)
    ]
    table.write(rundir.rows_file(tmp_path, "cohort", 1), rows, {"sparsity": pa.float64()}, FOOTER)
    progress = Progress(tmp_path, lambda: (len(rows), False), 0, 1, Console(file=io.StringIO()))
    progress.reached(types.SimpleNamespace(name="cohort", algorithm="dns", size=len(rows)), 1)  # type: ignore[arg-type]
    return progress._line()


def test_a_network_without_flops_is_no_news(tmp_path: Path) -> None:
    dead = {"accuracy_valid": 0.098, "flops_masked": 0, "flops_shrunk": 0}
    cut = {"accuracy_valid": 0.11, "flops_masked": 7, "flops_shrunk": 0}
    good = {"accuracy_valid": 0.97, "flops_masked": 1234}
    said = line(tmp_path, dead, cut, good)
    assert said.endswith("best so far: 97.0% at 1,234 FLOPs (masked)")
    assert "3/3 members" in said


def test_without_any_point_nothing_is_best(tmp_path: Path) -> None:
    odd = {"accuracy_valid": float("inf"), "flops_masked": 10}
    assert "best so far" not in line(tmp_path, odd)
