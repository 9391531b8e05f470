"""The report in a real browser without a network: its script draws every chart, in light and in
dark, and nothing fails.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report import rows, save

from prunefront.analysis import report

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    "",
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(report.build(save(tmp_path_factory.mktemp("study"), rows()))))


def opened(page: Path, *more: str) -> tuple[str, str]:
    """What a browser says of the page, and its log; scripts have run, and no name can be looked up."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}",
        "--window-size=1300,1000", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
        "--virtual-time-budget=20000", *more, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_every_chart_is_drawn_by_the_script_and_the_console_is_quiet(page: Path):
    seen, log = opened(page, "--dump-dom")
    charts = [part.split('"', 1)[0] for part in page.read_text().split('<figure id="')[1:]]
    assert len(charts) >= 5
    for name in charts:
        inside = seen.split(f'<figure id="{name}"', 1)[1].split("</figure>", 1)[0]
        assert "vega-embed" in inside, f"{name} is still the picture for paper"
        assert 'class="marks"' in inside, name
    assert not [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize(("scheme", "background"), [(1, (255, 255, 255)), (0, (20, 23, 26))])
def test_light_and_dark_follow_the_reader(
    page: Path, tmp_path: Path, scheme: int, background: tuple[int, int, int]
):
    opened(
        page,
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={tmp_path / 'page.png'}",
    )
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert tuple(pixels[2, 2]) == background
    assert abs(pixels.sum(2) - sum(background)).max() > 400, "text stands out from the page"
