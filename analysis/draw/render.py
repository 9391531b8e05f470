"""How a chart becomes a picture: a Vega-Lite specification, then SVG, PNG or PDF; no browser, no
network.
"""

from __future__ import annotations

import functools
import re
import resource
import subprocess
import sys
from typing import Any

import altair as alt
import vl_convert

from ..rows.mistake import Mistake
from . import bundle

Picture = dict[str, Any]
"""A Vega-Lite specification."""
ROOM = 60
"""Pixels on the right of a picture that is a file."""
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML, and so no SVG, may hold."""
_TRIAL = "import vl_convert; vl_convert.vegalite_to_svg({'mark': 'point', 'data': {'values': []}})"


@functools.cache
def hindrance() -> str:
    """Why no picture can be drawn in this process; empty if they can.

    vl_convert holds a JavaScript engine that reserves more than 60 GB of addresses, and where it
    may not, it ends the process.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    tried = subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True, check=False)
    if tried.returncode == 0:
        return ""
    allowed = f"`ulimit -v` allows {limit / 1e9:.0f} GB"
    return f"pictures take addresses for 80 GB (vl_convert reserves them); {allowed}"


def svg(picture: Picture) -> str:
    """The chart as SVG text, without a background. Raises Mistake where nothing can be drawn."""
    if why := hindrance():
        raise Mistake(why)
    legal = _legal(picture)
    transparent = {**legal, "background": "transparent"}
    return vl_convert.vegalite_to_svg(transparent, vl_version=_version())


def paper(drawing: str) -> str:
    """A drawing as from `svg`, on white, with room on the right: a reader's fonts may be wider than
    ours.
    """
    head, rest = drawing.split(">", 1)
    widths = re.findall(r'width="(\d+)"', head)
    width = int(widths[0])
    wider = width + ROOM
    head = head.replace(f'width="{width}"', f'width="{wider}"', 1)
    head = head.replace(f'viewBox="0 0 {width} ', f'viewBox="0 0 {wider} ', 1)
    white = '<rect width="100%" height="100%" fill="white"/>'
    return f"{head}>{white}{rest}"


def pdf(drawing: str) -> bytes:
    """A drawing as from `svg` as PDF, on white."""
    return vl_convert.svg_to_pdf(paper(drawing))


def png(drawing: str) -> bytes:
    """A drawing as from `svg` as PNG, on white, at twice its size."""
    return vl_convert.svg_to_png(paper(drawing), scale=2)


@functools.cache
def script() -> str:
    """JavaScript, complete in itself, that defines `vegaEmbed` for the version the charts are
    written in.
    """
    return bundle.script(_version())


def _version() -> str:
    version = alt.SCHEMA_VERSION.lstrip("v")
    major_and_minor = version.split(".")[:2]
    return ".".join(major_and_minor)


def _legal(value: Any) -> Any:
    """The same with every character that XML has no place for escaped: of one of them vl_convert
    would abort the process.
    """
    if isinstance(value, str):
        return ILLEGAL.sub(_escaped, value)
    if isinstance(value, dict):
        return {_legal(key): _legal(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_legal(inner) for inner in value]
    return value


def _escaped(character: re.Match[str]) -> str:
    return character.group().encode("unicode_escape").decode()
