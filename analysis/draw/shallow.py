"""Pictures of two-layer ReLU networks: how much each input matters, which gate serves which class,
and what the neurons that contribute most look for. A row of panels for each network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair as alt
import numpy as np
import pandas as pd

from ..shallow import Array, Shallow
from . import looks
from .looks import Data
from .render import Picture

FOR, NEITHER, AGAINST = "#0072B2", "#F2F2F2", "#D55E00"
"""Colours of what speaks for a class, and of what speaks against it."""
SIDE = 200
"""Pixels of an image's longer side, and of the height of a panel."""
TILES = 12
"""Neurons that are drawn, those with the largest shares."""
ACROSS = 4
"""Of them side by side, as images."""
WIDTH = 320
"""Pixels of all of them."""
ROOM = 0.3
"""Of a neuron's height, for the label above it."""
PIXELS = 1024
"""A larger image is averaged over squares of pixels until it has no more."""
INPUTS = 12
"""Inputs that are drawn where they are no image, the most important ones."""


def picture(networks: Mapping[str, Shallow], title: str) -> Picture:
    """A row for each network, under its name. All of them have something to tell (`says`)."""
    data = Data()
    panels: list[alt.LayerChart] = []
    for name, network in networks.items():
        panels += [_inputs(data, network, name), _gates(data, network), _neurons(data, network)]
    said = [
        "Left: how much each input matters, the sum over neurons of |weight from it| times the "
        "length of the weights to the classes.",
        "Middle: what the neurons of a gate, which switch on for the same examples, add to each "
        "class's score on average;",
        "the number: how many of them serve this class most.",
        "Right: the neurons that contribute most, each with the class that it serves most and its "
        "share of all contributions. “Not 3”: it lowers the score of class 3.",
    ]
    about = alt.TitleParams(title, subtitle=said)
    rows = looks.panelled(panels, data, about, columns=3)
    # Each panel has colours of its own; flush: the panels of a row begin at one height.
    own = {"color": "independent"}
    are_images = all(network.is_of_images for network in networks.values())
    room = {"row": 80, "column": 100 if are_images else 230}
    return {**rows, "resolve": {"scale": own, "legend": own}, "bounds": "flush", "spacing": room}


# ---- inputs


def _inputs(data: Data, network: Shallow, name: str) -> alt.LayerChart:
    importance = network.importance
    read = np.count_nonzero(np.abs(network.hidden).sum(0))
    said = f"reads {read} of {len(importance)} inputs"
    if network.is_of_images:
        title = looks.panel_title(name, f"{said}; darker: matters more", limit=330)
        return _image(data, network.image(importance), title)
    title = looks.panel_title(name, said, limit=330)
    return _bars(data, importance, title)


def _image(data: Data, image: Array, title: alt.TitleParams) -> alt.LayerChart:
    small = coarse(image)
    height, width = small.shape
    lines: list[dict[str, float]] = []
    for (row, column), value in np.ndenumerate(small):
        lines.append({"row": row, "column": column, "importance": float(value)})
    frame = pd.DataFrame(lines)
    base = data.chart(frame)
    shades = alt.Scale(domainMin=0, range=["#F7F7F7", "#56B4E9", FOR, "#00253D"])
    square = base.mark_rect().encode(
        alt.X("column:O", axis=None, scale=alt.Scale(padding=0)),
        alt.Y("row:O", axis=None, scale=alt.Scale(padding=0)),
        alt.Color("importance:Q", scale=shades, legend=None),
        tooltip=looks.tips(frame),
    )
    pixels = SIDE / max(height, width)
    return alt.LayerChart(layer=[square], width=pixels * width, height=pixels * height, title=title)


def coarse(image: Array, most: int = PIXELS) -> Array:
    """The image, averaged over squares as small as leave at most so many pixels; what is over at
    the right and the foot is averaged over less.
    """
    height, width = image.shape
    side = 1
    while math.ceil(height / side) * math.ceil(width / side) > most:
        side += 1
    rows = np.arange(0, height, side)
    columns = np.arange(0, width, side)
    of_rows = np.add.reduceat(image, rows, 0)
    sums = np.add.reduceat(of_rows, columns, 1)
    heights = np.minimum(height - rows, side)
    widths = np.minimum(width - columns, side)
    return sums / (heights[:, None] * widths)


def _bars(data: Data, importance: Array, title: alt.TitleParams) -> alt.LayerChart:
    order = np.argsort(-importance, kind="stable")[:INPUTS]
    names = [f"input {place}" for place in order]
    frame = pd.DataFrame({"input": names, "importance": importance[order]})
    bars = (
        data.chart(frame)
        .mark_bar(color=FOR)
        .encode(
            alt.X("importance:Q", title=None),
            alt.Y("input:N", sort=names, title=None, axis=alt.Axis(labelFontSize=11)),
            tooltip=looks.tips(frame),
        )
    )
    return alt.LayerChart(layer=[bars], width=SIDE, height=SIDE, title=title)


# ---- gates


def _gates(data: Data, network: Shallow) -> alt.LayerChart:
    """What gates, or where these are not known the largest neurons, add to the classes' scores."""
    frame = network.by_gate
    what = "gate"
    if frame.empty:
        frame = _by_neuron(network)
        what = "neuron"
    rows = frame[what].drop_duplicates().tolist()
    largest = frame["contribution"].abs().max()
    base = data.chart(frame)
    x = alt.X("class:O", title="class", axis=alt.Axis(labelAngle=0))
    y = alt.Y(f"{what}:O", sort=rows, title=what, axis=alt.Axis(labelFontSize=11))
    cells = base.mark_rect().encode(
        x,
        y,
        alt.Color("contribution:Q", scale=_diverging(largest), legend=_legend()),
        tooltip=looks.tips(frame),
    )
    numbers = base.transform_filter("datum.neurons > 0").mark_text(fontSize=10, color="#000000")
    layers = [cells, numbers.encode(x, y, text="neurons:Q")]
    said = f"{len(rows)} {what}s; blue: for the class, orange: against it"
    title = looks.panel_title(f"{what}s and classes", said, limit=330)
    return alt.LayerChart(
        layer=layers,
        width=max(SIDE, 20 * len(network.outer)),
        height=max(SIDE, 12 * len(rows)),
        title=title,
    )


def _by_neuron(network: Shallow) -> pd.DataFrame:
    """The contributions of the largest neurons in place of those of gates."""
    neurons = network.neurons["neuron"][:TILES].to_numpy()
    by_class = network.contributions[:, neurons].T
    classes = by_class.shape[1]
    return pd.DataFrame(
        {
            "neuron": neurons.repeat(classes),
            "class": np.tile(np.arange(classes), len(neurons)),
            "contribution": by_class.ravel(),
            "neurons": 0,
        }
    )


def _diverging(largest: float) -> alt.Scale:
    return alt.Scale(domain=[-largest, 0, largest], range=[AGAINST, NEITHER, FOR])


def _legend() -> alt.Legend:
    return alt.Legend(
        title=["added to", "the score"],
        titleColor=looks.TEXT,
        gradientLength=120,
        labelFontSize=11,
        tickCount=3,
    )


# ---- neurons


def _neurons(data: Data, network: Shallow) -> alt.LayerChart:
    if network.is_of_images:
        return _tiles(data, network)
    return _contributions(data, network)


def _heading(network: Shallow, said: str) -> alt.TitleParams:
    lines = network.neurons
    drawn = lines[:TILES]
    share = 100 * drawn["share"].sum()
    which = f"all {len(lines)} neurons"
    if len(drawn) < len(lines):
        which = f"{len(drawn)} of {len(lines)} neurons, {share:.0f} % of all contributions"
    return looks.panel_title(which, said, limit=330)


def _label(kind: int, contribution: float, share: float) -> str:
    """Whom a neuron serves, and how much of all it contributes."""
    negation = ""
    if contribution < 0:
        negation = "not "
    return f"{negation}{kind}: {100 * share:.2g} %"


def _tiles(data: Data, network: Shallow) -> alt.LayerChart:
    """The first-layer weights of neurons as images, beside each other."""
    cells: list[pd.DataFrame] = []
    labels: list[dict[str, object]] = []
    height = width = 1
    for place, line in enumerate(network.neurons[:TILES].to_dict("records")):
        weights = network.image(network.hidden[line["neuron"]])
        tile = coarse(weights, PIXELS // 4)
        height, width = tile.shape
        row, column = divmod(place, ACROSS)
        left = 1.15 * width * column
        top = height * (row * (1 + ROOM) + ROOM)
        cells.append(_tile(tile, left, top))
        text = _label(line["class"], line["contribution"], line["share"])
        labels.append({"x": left, "y": top - 0.05 * height, "label": text})
    frame = pd.concat(cells)
    across = 1.15 * ACROSS * width
    down = frame["y2"].max()
    plain = alt.Scale(domain=[0, across], nice=False, zero=False)
    downwards = alt.Scale(domain=[down, 0], nice=False, zero=False)
    colour = alt.Color("weight:Q", scale=_diverging(1), legend=None)
    x = alt.X("x:Q", axis=None, scale=plain)
    y = alt.Y("y:Q", axis=None, scale=downwards)
    squares = data.chart(frame).mark_rect(aria=False).encode(x, y, colour, x2="x2:Q", y2="y2:Q")
    words = data.chart(pd.DataFrame(labels, columns=["x", "y", "label"]))
    texts = words.mark_text(align="left", baseline="bottom", fontSize=11, color=looks.TEXT)
    title = _heading(network, "weights: blue switches it on, orange off")
    return alt.LayerChart(
        layer=[squares, texts.encode(x, y, text="label:N")],
        width=WIDTH,
        height=WIDTH * down / across,
        title=title,
    )


def _tile(image: Array, left: float, top: float) -> pd.DataFrame:
    """The squares of an image whose corner is at (left, top), weights as shares of the largest."""
    rows, columns = np.indices(image.shape)
    x = left + columns.ravel()
    y = top + rows.ravel()
    sizes = np.abs(image)
    tiniest = np.finfo(float).tiny
    largest = max(sizes.max(), tiniest)
    weights = image.ravel() / largest
    return pd.DataFrame(
        {
            "x": x,
            "x2": x + 1,
            "y": y,
            "y2": y + 1,
            "weight": weights,
        }
    )


def _contributions(data: Data, network: Shallow) -> alt.LayerChart:
    """The contributions of neurons to the class that is theirs, as bars."""
    drawn = network.neurons[:TILES]
    names: list[str] = []
    for line in drawn.to_dict("records"):
        label = _label(line["class"], line["contribution"], line["share"])
        names.append(f"neuron {line['neuron']}, class {label}")
    frame = drawn.assign(name=names)
    largest = frame["contribution"].abs().max()
    bars = (
        data.chart(frame)
        .mark_bar()
        .encode(
            alt.X("contribution:Q", title="added to the score of its class"),
            alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelFontSize=11)),
            alt.Color("contribution:Q", scale=_diverging(largest), legend=None),
            tooltip=looks.tips(frame),
        )
    )
    title = _heading(network, "blue: for the class, orange: against it")
    return alt.LayerChart(layer=[bars], width=SIDE, height=SIDE, title=title)
