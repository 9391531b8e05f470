"""The pictures of the README, from the demo's output folder: the front, and the first screen of the
report.

python docs/pictures.py runs/digits
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREEN = (1300, 1500)
"""Width and height of the screenshot, pixels."""


def screenshot(browser: str, page: Path, picture: Path) -> None:
    """A page as a browser shows it at its beginning, light."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--blink-settings=preferredColorScheme=1",
            "--virtual-time-budget=20000",
            f"--user-data-dir={profile}",
            f"--window-size={SCREEN[0]},{SCREEN[1]}",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ]
        subprocess.run(command, capture_output=True, timeout=120, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder of `make demo`")
    report = parser.parse_args().folder / "report"
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"a screenshot needs one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 2
    HERE.mkdir(exist_ok=True)
    shutil.copy(report / "front.svg", HERE / "front.svg")
    screenshot(browser, report / "report.html", HERE / "report.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
