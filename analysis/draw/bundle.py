"""The JavaScript with which a page draws its charts, made once for a version and kept: that takes
two seconds.
"""

from __future__ import annotations

import contextlib
import functools
import os
from importlib import metadata
from pathlib import Path

import vl_convert

from ..rows.storage import save

_WANTED = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def script(version: str) -> str:
    """JavaScript, complete in itself, that defines `vegaEmbed` for this version of Vega-Lite."""
    path = _kept(version)
    with contextlib.suppress(OSError, UnicodeError):
        return path.read_text(encoding="utf-8")
    made = vl_convert.javascript_bundle(_WANTED, vl_version=version)
    with contextlib.suppress(OSError):  # a user without a home
        save(path, made.encode())
    return made


def _kept(version: str) -> Path:
    """Where the script of a version is kept, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache:
        cache = os.path.expanduser("~/.cache")
    drawer = metadata.version("vl-convert-python")
    name = f"vega-{drawer}-{version}.js"
    return Path(cache) / "prunefront" / name
