"""What two-layer ReLU networks say: how much each input matters, which activation pattern (gate)
serves which class, and which neurons contribute most.

Known by a column and by how networks are kept: arms that count their neurons (`m_neurons`), and
networks that can be read (`shallow`). Drawn are networks on the front of their arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .. import page, shallow
from ..draw import shallow as drawing
from ..draw.render import Picture
from ..points import front
from ._section import Drawings, Section
from ._study import Study

NETWORKS = 4
"""Networks that are drawn and listed."""
ABOUT = ["arm", "setting", "member"]


@dataclasses.dataclass(frozen=True)
class Figures:
    """networks: by member, those that are shown.  lines: their arm, setting, member, in that order,
    and what sums each up: neurons, gates (NaN: not known), inputs read of inputs, neurons that make
    half of all contributions.
    """

    networks: Mapping[str, shallow.Shallow]
    lines: pd.DataFrame


def figures(study: Study) -> Figures | None:
    chosen = choose(study.own, shallow.kept(study.folder))
    read = shallow.read(study.folder, set(chosen["member"]))
    networks = {member: network for member, network in read.items() if network.says}
    if not networks:
        return None
    chosen = chosen[chosen["member"].isin(networks)]
    sums = [_summed(networks[member]) for member in chosen["member"]]
    lines = chosen[ABOUT].join(pd.DataFrame(sums, index=chosen.index))
    return Figures(networks, lines)


def choose(last_rows: pd.DataFrame, kept: set[str]) -> pd.DataFrame:
    """One member for each of at most `NETWORKS` settings, on the front of their arm by shrunk FLOPs
    and validation accuracy, evenly spread, the most accurate one among them.

    last_rows: as from `table.last`, of no sanity check.  kept: members whose networks can be read.
    Arms that count neurons are taken, and no controls; of a setting the member of the median
    validation accuracy. Columns: arm, setting, member.
    """
    able = _able(last_rows, kept)
    if able.empty:
        return pd.DataFrame(columns=ABOUT)
    summary = front.selectable(front.summarise(able))
    is_on_front = front.fronts(summary, "flops_shrunk", "arm")
    ordered = summary[is_on_front].sort_values(["arm", "flops_shrunk"], kind="stable")
    accuracies = ordered["accuracy_valid"].to_numpy()
    best = int(accuracies.argmax())
    points = front.evenly(ordered, NETWORKS, best)
    seen = front.selectable(able)
    members: list[str] = []
    for arm, hp in points[["arm", "hp"]].to_numpy():
        is_own = seen["arm"].eq(arm) & seen["hp"].eq(hp)
        own = seen[is_own].sort_values(["accuracy_valid", "seed"])
        middle = (len(own) - 1) // 2
        members.append(own["member"].iloc[middle])
    return points.assign(member=members)[ABOUT]


def _able(last_rows: pd.DataFrame, kept: set[str]) -> pd.DataFrame:
    """The rows of members that are proposed, done, and may be shown."""
    has_neurons = last_rows["m_neurons"] > 0
    is_done = last_rows["status"] == "done"
    is_control = last_rows["control"].astype(bool)
    is_kept = last_rows["member"].isin(kept)
    return last_rows[has_neurons & is_done & is_kept & ~is_control]


def _summed(network: shallow.Shallow) -> dict[str, float]:
    neurons = network.neurons
    shares = neurons["share"].cumsum()
    gates = np.nan
    if network.gates is not None:
        gates = neurons["gate"].nunique()
    return {
        "neurons": len(neurons),
        "gates": gates,
        "read": int(np.count_nonzero(network.importance)),
        "inputs": len(network.importance),
        "half": int((shares < 0.5).sum()) + 1,
    }


def picture(study: Study, figures: Figures) -> Picture:
    networks: dict[str, shallow.Shallow] = {}
    for line in page.records(figures.lines):
        name = f"{line['arm']}: {line['setting']}"
        networks[name] = figures.networks[line["member"]]
    return drawing.picture(networks, f"{study.name}: what the networks say")


def by_neuron(_: Study, figures: Figures) -> pd.DataFrame:
    """A line for each neuron."""
    parts: list[pd.DataFrame] = []
    for line in page.records(figures.lines[ABOUT]):
        neurons = figures.networks[line["member"]].neurons
        parts.append(_of_network(line, neurons))
    return pd.concat(parts, ignore_index=True)


def by_input(_: Study, figures: Figures) -> pd.DataFrame:
    """A line for each input."""
    parts: list[pd.DataFrame] = []
    for line in page.records(figures.lines[ABOUT]):
        importance = figures.networks[line["member"]].importance
        inputs = pd.DataFrame({"input": range(len(importance)), "importance": importance})
        parts.append(_of_network(line, inputs))
    return pd.concat(parts, ignore_index=True)


def _of_network(about: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a frame, each with whose they are."""
    columns = dict(about)
    for name in frame:
        columns[str(name)] = frame[name]
    return pd.DataFrame(columns)


def html(_: Study, figures: Figures, drawings: Drawings) -> Iterator[str]:
    yield page.say(
        "A neuron's contribution to a class is its weight to that class times its mean output on "
        "the validation data: what it adds to the class's score, on average. An input's importance "
        "is the sum over neurons of |weight from it| times the length of the neuron's weights to "
        "the classes; it compares inputs as the network reads them, and says nothing of cause. "
        "Neurons of one gate are switched on by the same training examples, as far as the "
        "program's constraints hold."
    )
    yield page.figure("neurons", drawings)
    yield page.say(
        "Shown: of settings on the front of their arm (shrunk FLOPs, validation accuracy) the "
        "member of the median validation accuracy. In neurons.csv: every neuron of these networks; "
        "in inputs.csv: every input."
    )
    head = ["arm", "setting", "member", "neurons", "gates", "inputs read"]
    head.append("neurons that make half of all contributions")
    cells: list[list[str]] = []
    for line in page.records(figures.lines):
        gates = "not known"
        if not math.isnan(line["gates"]):
            gates = f"{line['gates']:.0f}"
        read = f"{line['read']} of {line['inputs']}"
        about = [line[name] for name in ABOUT]
        cells.append([*about, str(line["neurons"]), gates, read, str(line["half"])])
    yield page.grid(head, cells)


SECTION = Section(
    name="neurons",
    title="What the neurons say",
    columns=("m_neurons",),
    figures=figures,
    html=html,
    charts={"neurons": picture},
    tables={"neurons": by_neuron, "inputs": by_input},
)
