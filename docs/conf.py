"""The documentation site: `make docs` builds it into build/site.

The README is its first page. Docstrings are plain text with code in `backticks`, as in Markdown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

project = "prunefront"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["pictures.py", "conf.py"]
html_theme = "furo"
html_title = "prunefront"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
add_module_names = False
autodoc_default_options = {"exclude-members": "__init__, __new__, __reduce__"}

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")
"""A link, but no picture, to a file."""
MARKS = re.compile(r"([*_|\\])")
"""What reStructuredText would take for a mark."""


def read_page(app: Any, name: str, source: list[str]) -> None:
    """Make the README the first page, and text of links to files that are not on the site."""
    folder = (Path(app.srcdir) / name).parent
    if name == "index":
        readme = (ROOT / "README.md").read_text().replace("](docs/", "](")
        source[0] = readme + source[0]
    source[0] = LINK.sub(lambda match: _link(match, folder, Path(app.srcdir)), source[0])


def _link(match: re.Match[str], folder: Path, site: Path) -> str:
    file = (folder / match[2].partition("#")[0]).resolve()
    is_page = file.is_relative_to(site) and file.is_file()
    return match[0] if is_page else match[1]


def read_docstring(
    app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    """Make a docstring reStructuredText: code in two backticks, nothing else marked."""
    for number, line in enumerate(lines):
        parts, is_code = list[str](), False
        for part in line.split("`"):
            parts.append(f"``{part}``" if is_code else MARKS.sub(r"\\\1", part))
            is_code = not is_code
        lines[number] = "".join(parts)


def read_signature(
    app: Any, what: str, name: str, documented: Any, options: Any, signature: str, returns: str
) -> tuple[str, str]:
    """Leave modules of types out, as elsewhere, where a default keeps Sphinx from parsing it."""
    if signature:
        signature = re.sub(r"~[\w.]+\.", "", signature).replace("<factory>", "{}")
    return signature, returns


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
