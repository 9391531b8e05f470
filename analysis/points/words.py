"""Numbers as the text of reports: percentages, counts, intervals and p values."""

from __future__ import annotations

import math
from collections.abc import Sequence

SIZES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))


def number(value: float, form: str) -> str:
    """The number in this format, or a sign for what is no number."""
    if math.isinf(value):
        return "∞"
    if math.isnan(value):
        return "-"
    return format(value, form)


def spread(
    mean: float,
    std: float,
    form: str = ".2f",
    times: float = 100.0,
) -> str:
    """Mean ± standard deviation, in percent or percentage points unless `times` says otherwise."""
    if math.isnan(mean):
        return "-"
    unsigned = form.lstrip("+")
    middle = number(times * mean, form)
    deviation = number(times * std, unsigned)
    return f"{middle} ± {deviation}"


def large(value: float) -> str:
    """A count in three digits: 51200 is 51.2 k."""
    size, letter = _size(value)
    form = ".3g" if value < 999.5 * size else ".0f"
    digits = format(value / size, form)
    return f"{digits}{letter}"


def _size(value: float) -> tuple[float, str]:
    """What a count is divided by, and the letter that says so."""
    for size, letter in SIZES:
        if value >= 0.9995 * size:
            return size, letter
    return 1.0, ""


def flops(count: float, uncounted: bool) -> str:
    """A count of FLOPs; a lower bound where operations have no formula."""
    text = large(count)
    if uncounted:
        return f"≥ {text}"
    return text


def interval(
    low: float,
    high: float,
    form: str = ".2f",
    times: float = 100.0,
) -> str:
    """From low to high, in percent or percentage points unless `times` says otherwise."""
    if math.isnan(low):
        return "-"
    start = format(times * low, form)
    end = format(times * high, form)
    return f"{start} to {end}"


def p(value: float) -> str:
    """A p value in three digits."""
    if math.isnan(value):
        return "-"
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}"


def grid(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table in Markdown. numbers: all columns but the first and the last hold numbers; else all
    hold text.
    """
    inner = "---:" if numbers else "---"
    between = len(head) - 2
    middle = [inner] * between
    rule = ["---", *middle, "---"]
    rows = [_row(head), _row(rule)]
    for line in lines:
        rows.append(_row(line))
    return "\n".join(rows)


def _row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    inside = " | ".join(escaped)
    return f"| {inside} |"
