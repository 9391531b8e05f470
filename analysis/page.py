"""What the report's page is made of: the page itself, offline, light and dark, and its tables,
terms and figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from .draw import render

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #ffffff; --line: #d4d9df;
  --soft: #f3f5f7; --faint: #5c6670; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e3e7eb; --page: #14171a; --line: #363c43; --soft: #1e2328; --faint: #9aa4ae; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 82rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } p, li {
  max-width: 52rem; }
figure { margin: 1.5rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse;
  font-variant-numeric: tabular-nums; font-size: .84rem; }
th, td { padding: .2rem .4rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { background: var(--soft); white-space: normal; vertical-align: bottom; }
th:nth-child(-n+2), td:nth-child(-n+2), .search :is(th, td):is(:nth-child(3), :last-child) {
  text-align: left; }
.search td:last-child { white-space: normal; min-width: 8rem; } .search tr.first td {
  border-top: 2px solid var(--faint); }
td:nth-child(-n+2) { white-space: normal; max-width: 22rem; } td:nth-child(2) { min-width: 8rem; }
tr.other { color: var(--faint); } tr.front td:first-child { font-weight: 600; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.5rem; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; font-size: 10px; } h2, figure {
  break-inside: avoid; } }
"""

POLICY = "style-src 'unsafe-inline'; img-src data: blob:; script-src 'unsafe-inline' 'unsafe-eval'"
"""What a page may load: nothing but what it brings along."""


def page(study: str, body: str, pictures: Mapping[str, render.Picture]) -> str:
    """The page, with all that it needs inside; the policy in its head forbids fetching anything."""
    study = escape(study)
    specs = json.dumps(pictures).replace("<", "\\u003c")
    script = render.script() if pictures else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {POLICY}">
<title>{study}: accuracy against FLOPs</title><style>{STYLE}</style></head>
<body><h1>{study}: accuracy against FLOPs</h1>
{body}
<script>{script}</script>
<script>{{
const actions = {{export: true, source: false, compiled: false, editor: false}};
const options = {{renderer: "svg", actions}};
for (const [name, spec] of Object.entries({specs})) vegaEmbed("#" + name, spec, options);
}}</script></body></html>
"""


def grid(
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    kinds: Sequence[str] = (),
    kind: str = "",
) -> str:
    """A table of text; `kinds` is the CSS class of each line, `kind` that of the table."""
    classes = kinds or [""] * len(lines)
    rows = []
    for line, own in zip(lines, classes, strict=True):
        rows.append(f'<tr class="{own}">{_cells("td", line)}</tr>\n')
    return (
        f'<div class="wide"><table class="{kind}">'
        f"<thead><tr>{_cells('th', head)}</tr></thead>"
        f"<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    """Cells of a line: th or td."""
    cells = []
    for text in texts:
        cells.append(f"<{tag}>{escape(text)}</{tag}>")
    return "".join(cells)


def terms(pairs: Mapping[str, str]) -> str:
    """A list of terms, each with what it means."""
    lines = []
    for term, meaning in pairs.items():
        name = escape(term)
        description = escape(meaning)
        lines.append(f"<dt>{name}</dt><dd>{description}</dd>\n")
    return f"<dl>{''.join(lines)}</dl>\n"


def say(sentence: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(sentence)}</p>\n"


def details(summary: str, inner: str) -> str:
    """HTML that a reader opens by clicking on its summary, which is text."""
    return f"<details><summary>{escape(summary)}</summary>\n{inner}</details>\n"


def figure(name: str, drawings: Mapping[str, str]) -> str:
    """A chart as from `render.svg`, for paper and readers without scripts; the script puts one with
    tooltips in its place.

    Nothing where it could not be drawn, which the top of the page says.
    """
    if name not in drawings:
        return ""
    return f'<figure id="{name}">{drawings[name]}</figure>\n'


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as mappings, whose keys are text."""
    lines = frame.rename(columns=str).to_dict("records")
    return lines  # pyright: ignore[reportReturnType]


def label(line: Mapping[str, Any]) -> str:
    """The label of a line with `arm` and `control`."""
    return f"{line['arm']} (control)" if line["control"] else str(line["arm"])
