"""The pages of docs/: their files, commands and Python code run as they stand, in one folder, in
the order of the pages.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_packaging import ROOT, module_name, sources

from prunefront.search import cli
from prunefront.search.study import reference

PAGES = ("first-study.md", "table.md", "python.md", "own.md")
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.M | re.S)


def test_what_the_pages_show_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for page in PAGES:
        names: dict[str, object] = {}
        for language, file, text in BLOCK.findall((ROOT / "docs" / page).read_text()):
            if file:
                Path(file).write_text(text)
                importlib.invalidate_caches()
            elif language == "python":
                exec(compile(text, page, "exec"), names)
            else:
                for line in text.splitlines():
                    program, *arguments = shlex.split(line)
                    assert program == "prunefront"
                    if arguments[0] == "run":  # a Ray of its own
                        code = "from prunefront.search.cli import main; main()"
                        subprocess.run(
                            [sys.executable, "-c", code, *arguments], check=True, timeout=300
                        )
                        continue
                    monkeypatch.setattr("sys.argv", [program, *arguments])
                    with pytest.raises(SystemExit) as ended:
                        cli.main()
                    assert not ended.value.code, (line, capsys.readouterr())
    assert {path.name for path in Path("network").iterdir()} >= {
        "network.safetensors",
        "network.json",
        "network.onnx",
    }
    compared = Path("runs/first/report/compare.md").read_text()
    assert "against magnitude, layerwise" in compared
    assert re.search(r"^\| dns \| 800 \| 3 \|", compared, re.M)


def test_every_figure_is_computed_where_the_page_says():
    page = (ROOT / "docs" / "figures.md").read_text()
    named = re.findall(r"`(\w+)\.(\w+)`", page)
    assert len(named) > 20
    files = {path.stem: path for path in sources() if path.stem != "__init__"}
    for module, function in named:
        home = importlib.import_module(module_name(files[module]))
        assert callable(getattr(home, function)), (module, function)


def test_links_of_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_every_page_is_reached_from_a_readme_that_is_short():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    seen, pending = set[Path](), [readme]
    while pending:
        page = pending.pop()
        if page not in seen:
            seen.add(page)
            linked = re.findall(r"\]\((?!https?:)([^)#]+\.md)", page.read_text())
            pending += [(page.parent / link).resolve() for link in linked]
    pages = {page.name for page in (ROOT / "docs").rglob("*.md")}
    site = {"index.md"}  # the README, as the site's first page
    assert pages - site <= {page.name for page in seen}


def test_every_page_of_results_says_what_was_run_and_when():
    pages = list((ROOT / "docs" / "results").glob("*.md"))
    assert len(pages) >= 8
    for page in pages:
        text = page.read_text()
        assert re.search(r"`(python )?benchmarks/\w+\.py|studies/\w+\.toml", text), page.name
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", text), page.name


def test_the_reference_is_what_the_code_says():
    """Written by `python -m prunefront.search.study.reference > docs/reference.md`."""
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page == reference.page(reference.ours())
    for name, algorithm in reference.ours().items():
        assert f"### `{name}`" in page
        for parameter in algorithm.space:
            assert f"| `{parameter}` |" in page
