"""The front as text: hand-worked points, narrow terminals, and encodings without lines."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefront.search.terminal import HEIGHT, Point, picture

POINTS = [
    Point("dense", 1000.0, 0.9, True),
    Point("dns", 10.0, 0.7, True),
    Point("dns", 100.0, 0.85, True),
    Point("chance", 100.0, 0.79, False),
    Point("chance", 10.0, 0.2, False),
]
"""Two decades of FLOPs and 20 points of accuracy; the last is below the whole front."""


def test_points_stand_where_their_logarithms_and_accuracies_say() -> None:
    lines = picture(POINTS, 40, "utf-8")
    width = 31
    field = [line[8:].ljust(width) for line in lines[:HEIGHT]]
    assert field[0] == " " * 30 + "A", "the most accurate one at the top, at the right"
    assert field[11] == "B" + "·" * 14 + " " * 16, "the cheapest at the bottom, at the left"
    # 0.85 is 0.25 of the way down 11 rows: 2.75; 100 is half of the way along 30 columns.
    assert field[3] == " " * 15 + "B" + "·" * 14 + " "
    # 0.79 is 0.55 of the way: 6.05.
    assert field[6] == " " * 15 + "C" + " " * 15
    assert [line[:8] for line in lines[:HEIGHT:11]] == ["  90.0 │", "  70.0 │"]
    axis, words, key = lines[HEIGHT:]
    assert axis == " " * 7 + "└┬" + "─" * 14 + "┬" + "─" * 14 + "┬"
    assert words.split() == ["10", "100", "1", "k"]
    assert words.index("100") + 1 == axis.index("┬", 10)
    assert key == "A dense   B dns   C chance"


def test_an_encoding_without_lines_has_plain_letters() -> None:
    ascii_lines = picture(POINTS, 40, "ascii")
    translated = str.maketrans("│─└┬·", "|-++.")
    assert ascii_lines == [line.translate(translated) for line in picture(POINTS, 40, "utf-8")]


def test_there_is_a_picture_only_of_a_front_and_where_there_is_room() -> None:
    assert picture([], 80, "utf-8") == []
    assert picture(POINTS[3:], 80, "utf-8") == [], "no point is on the front"
    assert picture(POINTS, 32, "utf-8") == []
    assert picture(POINTS, 33, "utf-8") != []
    assert max(map(len, picture(POINTS, 500, "utf-8"))) == 8 + 60


def test_one_network_stands_in_the_middle() -> None:
    lines = picture([Point("dense", 1000.0, 0.9, True)], 80, "utf-8")
    (row,) = [line for line in lines[:HEIGHT] if "A" in line]
    assert row.index("A") == 8 + 30
    assert lines.index(row) == 6
    assert "1 k" in lines[HEIGHT + 1]


def test_a_point_of_the_front_is_never_covered() -> None:
    near = [Point("a", 10.0, 0.5, True), Point("b", 10.0, 0.5, False), Point("c", 99.0, 0.9, True)]
    text = "\n".join(picture(near, 80, "utf-8")[:HEIGHT])
    assert "A" in text
    assert "B" not in text


def test_the_key_is_broken_between_arms() -> None:
    many = [Point(f"arm number {n}", 10.0 * (n + 1), 0.5 + n / 100, True) for n in range(9)]
    key = picture(many, 40, "utf-8")[HEIGHT + 2 :]
    assert len(key) == 5
    assert key[0] == "A arm number 0   B arm number 1"
    crowd = [Point(f"arm {n}", 10.0 * (n + 1), 0.5 + n / 1000, True) for n in range(60)]
    assert picture(crowd, 80, "utf-8")[-1].endswith("* arm 59")


arms = st.sampled_from(["dense", "dns", "a name of an arm that is quite long", "±"])
anything = st.builds(
    Point, arms, st.floats(1e-3, 1e18), st.floats(0, 1), st.sampled_from([True, False])
)


@given(st.lists(anything, min_size=1, max_size=30), st.integers(20, 120))
@settings(max_examples=200, deadline=None)
def test_whatever_there_is_every_line_fits(listed: list[Point], columns: int) -> None:
    lines = picture(listed, columns, "utf-8")
    longest = max((len(f"A {point.arm}") for point in listed), default=0)
    assert all(len(line) <= max(columns, longest) for line in lines)
    assert bool(lines) == (any(point.on_front for point in listed) and columns >= 33)
    if lines:
        assert any(letter in string.ascii_letters for line in lines[:HEIGHT] for letter in line)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1, 1e6, ["1", "10", "100", "1 k", "10 k", "100 k", "1 M"]),
        (30, 400, ["50", "100", "200"]),
        (600, 900, ["600", "900"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, words: list[str]) -> None:
    two = [Point("a", low, 0.5, True), Point("a", high, 0.9, True)]
    text = picture(two, 80, "utf-8")[HEIGHT + 1]
    assert [word.strip() for word in text.split("   ") if word.strip()] == words
