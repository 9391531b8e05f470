"""Numbers as the text of reports: percentages, counts, intervals and p values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float, form: str) -> str:
    """The number in this format, or a sign for what is no number."""
    return "∞" if math.isinf(value) else "-" if math.isnan(value) else format(value, form)


def spread(mean: float, std: float, form: str = ".2f", times: float = 100.0) -> str:
    """Mean ± standard deviation, in percent or percentage points unless `times` says otherwise."""
    return (
        "-"
        if math.isnan(mean)
        else f"{number(times * mean, form)} ± {number(times * std, form.lstrip('+'))}"
    )


def large(value: float) -> str:
    """A count in three digits: 51200 is 51.2 k."""
    sizes = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))
    size, letter = next((pair for pair in sizes if value >= 0.9995 * pair[0]), (1.0, ""))
    return f"{value / size:{'.3g' if value < 999.5 * size else '.0f'}}{letter}"


def interval(low: float, high: float, form: str = ".2f", times: float = 100.0) -> str:
    """From low to high, in percent or percentage points unless `times` says otherwise."""
    return "-" if math.isnan(low) else f"{times * low:{form}} to {times * high:{form}}"


def p(value: float) -> str:
    """A p value in three digits."""
    return "-" if math.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def grid(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table in Markdown. numbers: all columns but the first and the last hold numbers; else all
    hold text.
    """
    inner = "---:" if numbers else "---"
    cells = [head, ["---", *[inner] * (len(head) - 2), "---"], *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells
    )
