"""What there is to measure on a GPU, in one command: whether results are those of a CPU, and what
cohorts gain over processes that share the GPU.

Every part runs in a process of its own, for at most nine minutes, and what it finds is written
down at once: into one JSON file, beside what other parts found before. A part that does not end in
time leaves out the rest. At the end, and with --table alone, the file is printed as tables with the
goals.

Needs torch, numpy, pandas, pyarrow and safetensors, and neither an installation nor data: `make
lint` leaves links in build/types that PYTHONPATH may name.

    python benchmarks/gpu.py [--only PART ...] [--out gpu.json] [--seconds 540] [--memory 0.9]
    [--table] [--tiny] [--device cuda]

Processes share the GPU as the machine has it: by turns, or together where NVIDIA's MPS is running.

--tiny: the same on networks that are hardly any, with graphs that are written down but not
compiled, to see that all of it runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import gpu_correctness
import gpu_rates
from gpu_rates import ALGORITHMS, NETWORKS, PROCESSES, TINY, WAYS, Left

GOALS = {"lenet300": 24.0, "lenet5": 10.0, "resnet20": 5.0}
"""Times the rate of 16 processes that share the GPU."""
GRACE = 30.0
"""Seconds after which a part that should have ended is ended."""
RATE = "member-steps a second"

Results = dict[str, dict[str, Any]]
"""Part -> what was measured -> what was found."""
Found = Iterator[tuple[str, Any]]
Part = Callable[[argparse.Namespace, Left], Found]


def correctness(network: str) -> Part:
    def part(given: argparse.Namespace, left: Left) -> Found:
        names = ["dense", "dns"] if given.tiny else []
        return gpu_correctness.checks(given.device, network, names, left)

    return part


def cohorts(network: str, algorithm: str) -> Part:
    def part(given: argparse.Namespace, left: Left) -> Found:
        return gpu_rates.cohorts(networks(given)[network], algorithm, given.device, left)

    return part


def processes(network: str) -> Part:
    def part(given: argparse.Namespace, left: Left) -> Found:
        counts = (2,) if given.tiny else PROCESSES
        return gpu_rates.alone(networks(given)[network], given.device, left, counts)

    return part


def profiles(network: str) -> Part:
    def part(given: argparse.Namespace, left: Left) -> Found:
        return gpu_rates.profiles(networks(given)[network], given.device, left)

    return part


def scoring(given: argparse.Namespace, left: Left) -> Found:
    return gpu_rates.scored(given.device, left, 16 if given.tiny else 16384)


def path(given: argparse.Namespace, left: Left) -> Found:
    if given.tiny:
        return gpu_rates.paths(given.device, left, 2, 0.1)
    return gpu_rates.paths(given.device, left, 32, 1e-4)


def networks(given: argparse.Namespace) -> Mapping[str, gpu_rates.Network]:
    return TINY if given.tiny else NETWORKS


def all_parts() -> dict[str, Part]:
    """In the order in which they run: what others rest on first."""
    parts: dict[str, Part] = {}
    for network in gpu_correctness.NETWORKS:
        parts[f"correct-{network}"] = correctness(network)
    for network in NETWORKS:
        parts[f"processes-{network}"] = processes(network)
        for algorithm in ALGORITHMS:
            parts[f"{network}-{algorithm}"] = cohorts(network, algorithm)
    for network in NETWORKS:
        parts[f"profile-{network}"] = profiles(network)
    parts["scoring"] = scoring
    parts["path"] = path
    return parts


PARTS = all_parts()
TINY_PARTS = (
    "correct-mlp",
    "processes-lenet300",
    "lenet300-dns",
    "lenet5-dense",
    "profile-lenet300",
    "scoring",
    "path",
)
"""Enough to reach every line."""


# ---- running


def machine(device: str) -> dict[str, str]:
    """What was measured on."""
    name = platform.processor() or platform.machine()
    if device == "cuda":
        name = torch.cuda.get_device_name()
    today = time.strftime("%Y-%m-%d")
    return {"device": name, "torch": torch.__version__, "date": today}


def read(out: Path) -> Results:
    if not out.exists():
        return {}
    return json.loads(out.read_text())


def note(out: Path, part: str, item: str, found: Any) -> None:
    """Add one result to the file."""
    results = read(out)
    results.setdefault(part, {})[item] = found
    fresh = out.with_name(f"{out.name}.new")
    fresh.write_text(json.dumps(results, indent=1))
    fresh.replace(out)


def run(name: str, given: argparse.Namespace) -> None:
    """One part, in this process."""
    begun = time.perf_counter()

    def left() -> float:
        return begun + given.seconds - time.perf_counter()

    torch.set_num_threads(1)
    if given.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(given.memory)
    print(f"{name}", flush=True)
    note(given.out, "machine", name, machine(given.device))
    for item, found in PARTS[name](given, left):
        note(given.out, name, item, found)
        print(f"  {item}: {json.dumps(found)}", flush=True)
    print(f"  {time.perf_counter() - begun:.0f} s", flush=True)


def run_apart(name: str, given: argparse.Namespace) -> None:
    """One part, in a process of its own, which is ended when it should have ended."""
    command = [sys.executable, __file__, "--only", name, "--out", str(given.out)]
    command += ["--device", given.device, "--no-table"]
    command += ["--seconds", str(given.seconds), "--memory", str(given.memory)]
    try:
        ended = subprocess.run(command, timeout=given.seconds + GRACE, check=False)
    except subprocess.TimeoutExpired:
        print(f"  {name} was ended after {given.seconds + GRACE:.0f} s", flush=True)
        return
    if ended.returncode:
        note(given.out, name, "ended with", ended.returncode)


# ---- the table


def rate_of(results: Results, part: str, item: str) -> float | None:
    return results.get(part, {}).get(item, {}).get(RATE)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def sizes(results: Results, part: str) -> set[int]:
    """How many members the cohorts of a part had."""
    counts: set[int] = set()
    for item in results.get(part, {}):
        *_, count = item.rpartition(", ")
        if count.isdecimal():
            counts.add(int(count))
    return counts


def rates_table(results: Results, network: str) -> list[str]:
    """Rates of cohorts, and how many times that of 16 processes the best one is."""
    titles = ["algorithm", "members", *WAYS, "times 16 processes", "goal"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    goal = GOALS[network]
    for algorithm in ALGORITHMS:
        part = f"{network}-{algorithm}"
        by_hand = "dns" if algorithm == "dns" else "dense"  # nobody writes the others by hand
        shared = rate_of(results, f"processes-{network}", f"{by_hand}, 16 processes")
        for members in sorted(sizes(results, part)):
            rates = [rate_of(results, part, f"{algorithm}, {way}, {members}") for way in WAYS]
            measured = [rate for rate in rates if rate is not None]
            if not measured:
                continue
            gain = max(measured) / shared if shared else None
            reached = "" if gain is None else "met" if gain >= goal else "missed"
            words = "-" if gain is None else f"{gain:.1f}"
            cells = [algorithm, str(members), *map(number, rates), words, f"{goal:g} {reached}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def processes_table(results: Results, network: str) -> list[str]:
    lines: list[str] = []
    for item, found in results.get(f"processes-{network}", {}).items():
        lines.append(f"{item}: {number(found.get(RATE))}")
    return lines


def correctness_lines(results: Results) -> list[str]:
    """How many checks there were, and those that did not end well."""
    lines: list[str] = []
    for network in gpu_correctness.NETWORKS:
        checked = 0
        for item, found in results.get(f"correct-{network}", {}).items():
            if "apart" not in found:
                lines.append(f"{network}, {item}: {json.dumps(found)}")
                continue
            checked += 1
            if not (found["as on the CPU"] and found["resumes"]):
                lines.append(f"{network}, {item}: WRONG {json.dumps(found)}")
        lines.append(f"{network}: {checked} checked")
    return lines


def table(results: Results) -> str:
    """All that was found, in words and tables."""
    lines: list[str] = []
    told = {json.dumps(of) for of in results.get("machine", {}).values()}
    lines += sorted(told)
    lines += ["", "Results against a CPU's, and against a run that was not interrupted", ""]
    lines += correctness_lines(results)
    for network in NETWORKS:
        lines += ["", f"{network}: steps a second, of all members together", ""]
        lines += rates_table(results, network)
        lines += processes_table(results, network)
    for part in [f"profile-{network}" for network in NETWORKS] + ["scoring", "path"]:
        lines += ["", part, ""]
        for item, found in results.get(part, {}).items():
            lines.append(f"{item}: {json.dumps(found)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", default=[])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=540 - GRACE, help="of a part, at most")
    parser.add_argument("--memory", type=float, default=0.9, help="share of the GPU's memory")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--table", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--list", action="store_true", help="the names of the parts")
    given = parser.parse_args()
    if given.list:
        print("\n".join(PARTS))
        return
    if given.tiny:
        torch.compiler.set_stance("force_eager")
        given.only = given.only or TINY_PARTS
    if given.table is not True:
        for name in given.only or PARTS:
            if given.only:
                run(name, given)
            else:
                run_apart(name, given)
    if given.table is not False:
        print(table(read(given.out)))


if __name__ == "__main__":
    main()
