"""What a GPU should do, by what can be counted and timed without one: launches of a step, eager and
compiled, and the rates that follow. Predictions.

Operations of an eager step are counted on a pretend GPU (`kernels.py`). Of a compiled step,
launches are counted in the code that inductor writes for a CPU: calls of its own kernels and of
libraries. The host's time for an eager operation is that of a step of the narrowest networks there
are, divided by its operations. A step of all members takes

    eager: operations * host's time for one + work
    compiled, as a CUDA graph: launches * time of a kernel that does hardly anything + work
    work: FLOPs / FLOPs a second + parameters * members * 4 bytes * passes / bytes a second

How fast a GPU's convolutions of many members are is not known: there, work is left out, and rates
are the most that launches allow.

    python benchmarks/launches.py [--algorithms dense dns] [--networks lenet300] [--kernel 2]
    [--launch 4] [--teraflops 20] [--terabytes 3]

--kernel, --launch: microseconds of a kernel in a CUDA graph, and what launching one adds to the
host's time for an operation. --teraflops, --terabytes: a second, that small products and passes
over memory reach.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._inductor.utils import run_and_get_code
from torch.fx import GraphModule

import gpu_rates
import kernels
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import compiled, engine
from prunefront.trainables.training.batches import Batches
from prunefront.trainables.training.hooks import Hooks

NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lenet300": ("mlp", {"widths": [60, 20]}),
    "lenet5": ("lenet5", {"width": 0.25}),
    "resnet20": ("resnet", {"depth": 20, "width": 0.25}),
}
"""With as many layers as those of `gpu_rates`, and narrow: operations do not depend on widths."""
LAUNCH = re.compile(r"^\s+(?:buf\d+ = )?(?:extern_kernels\.\w+|cpp_fused\w*|torch\.ops\.aten\.\w+)")
PASSES = {"dense": 8, "dns": 16}
"""How often a step reads or writes a number as large as all parameters: twice a weight, a gradient
there and back, and weight and momentum read and written; masks and thresholds besides.
"""
MEMBERS = 8
STEPS = 12


def launches(task: Task, name: str) -> int:
    """Kernels and library calls in the code of a compiled step: the one that most steps take."""
    pruner = find(name)
    assert isinstance(pruner, Hooks)
    written: list[str] = []

    def backend(graph: GraphModule) -> compiled.Call:
        made = compiled.with_inductor(graph)

        def call(*given: torch.Tensor) -> None:
            if not written:
                _, code = run_and_get_code(made, *given)
                written.extend(code)
            else:
                made(*given)

        return call

    hp = complete(pruner.space, gpu_rates.OPTIONS.get(name, {}))
    state = find(name).start(task, [Member(hp, seed) for seed in range(MEMBERS)])
    program = compiled.Program(pruner, task, state, backend)
    program.run(state, 2, Batches(task, state, 2))
    assert not program.refused, program.refused
    return sum(1 for line in written[0].splitlines() if LAUNCH.match(line))


def operations(name: str, network: str, images: Path) -> float:
    """Operations of an eager step."""
    model, options = NETWORKS[network]
    task = Task("npz", model, path=str(images), device="cuda", rungs=2, dense_share=0.0,
                batch_size=8, **options)  # fmt: skip
    found = kernels.counts(task, name, STEPS, 4)
    assert found is not None
    return found["operations"]


def host(images: Path) -> float:
    """Microseconds of the host for an eager operation."""
    task = Task("npz", "mlp", path=str(images), batch_size=2, widths=[2, 2], dense_share=0.0,
                epochs=4, rungs=2, compile=False)  # fmt: skip
    dense = find("dense")
    hp = complete(dense.space, {})
    state = dense.advance(task, dense.start(task, [Member(hp, 0), Member(hp, 1)]))
    before = state.scalars["step"]
    begun = time.perf_counter()
    state = dense.advance(task, state)
    seconds = time.perf_counter() - begun
    of_step = seconds / (state.scalars["step"] - before)
    return 1e6 * of_step / operations("dense", "lenet300", images)


def predicted(task: Task, name: str, members: int, fixed: float, given: argparse.Namespace) -> str:
    """Steps a second of all members, where `fixed` microseconds of a step are no work."""
    if engine.has_convolutions(task):
        return f"at most {1e6 * members / fixed:,.0f}"
    flops = 3 * task.counts.flops * task.batch_size * members
    moved = 4 * task.counts.params * members * PASSES[name]
    work = flops / given.teraflops / 1e12 + moved / given.terabytes / 1e12
    return f"{members / (fixed / 1e6 + work):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algorithms", nargs="+", default=list(PASSES), choices=PASSES)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--kernel", type=float, default=2.0)
    parser.add_argument("--launch", type=float, default=4.0)
    parser.add_argument("--teraflops", type=float, default=20.0)
    parser.add_argument("--terabytes", type=float, default=3.0)
    parser.add_argument("--tiny", action="store_true", help="networks that are hardly any")
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks = gpu_rates.TINY if given.tiny else gpu_rates.NETWORKS
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        kernels.write_images(images)
        of_operation = host(images) + given.launch
        print(f"{of_operation:.1f} us of the host for an operation, {given.launch:g} to launch it")
        for network in given.networks:
            for name in given.algorithms:
                asked = operations(name, network, images)
                task = networks[network].task("cpu", compile=True)
                written = launches(task, name)
                print(f"{network}, {name}: {asked:.0f} operations, {written} launches compiled")
                for members in sorted(networks[network].members):
                    eager = predicted(task, name, members, asked * of_operation, given)
                    whole = predicted(task, name, members, written * given.kernel, given)
                    print(f"  {members}: {eager} eager, {whole} compiled", flush=True)


if __name__ == "__main__":
    main()
