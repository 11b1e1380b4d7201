"""Milliseconds per step and image of visualize beside the floor, the same network folded and frozen on a fixed tensor.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/visualization.py [batch]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from features.models import Model, load_model, probe
from features.objectives import channel, together
from features.visualization import visualize
from features.visualization.folding import Folded, folded, frozen

LAYERS = ("conv2d0", "conv2d2", "mixed3a", "mixed4a", "mixed4c", "logits")
STEPS, ROUNDS = 10, 5


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def fixed(model: Model, units: list[str], mode: Folded) -> float:
    """Time forward and backward passes over a fixed batch, and nothing else."""
    layer = units[0].rpartition(":")[0]
    images = torch.rand(len(units), 3, *model.image_size).contiguous(memory_format=torch.channels_last).requires_grad_()
    score = together([channel(unit) for unit in units])
    with frozen(model.net), probe(model, [layer]) as activations, mode:

        def passes() -> None:
            for _ in range(STEPS):
                model(images)
                torch.autograd.grad(score(activations).sum(), images)

        return seconds(passes)


def rendered(model: Model, units: list[str]) -> float:
    """Time the steps alone: what `STEPS` more steps cost."""
    short, long = (
        seconds(lambda steps=steps: visualize(model, units, steps=steps, progress=False)) for steps in (1, 1 + STEPS)
    )
    return long - short


def main(batch: int) -> None:
    model = load_model("sketches")
    print(f"ms per step and image, batch {batch}, {torch.get_num_threads()} thread(s), medians of {ROUNDS}")
    print(f"{'layer':>10} {'plain':>8} {'floor':>8} {'visualize':>10} {'over floor':>11}")
    for layer in LAYERS:
        units = [f"{layer}:{index}" for index in range(min(batch, model.layer(layer).channels))]
        quick = folded(model, [layer], torch.rand(1, 3, *model.image_size))
        rounds = [
            (fixed(model, units, Folded({}, frozenset())), fixed(model, units, quick), rendered(model, units))
            for _ in range(ROUNDS)
        ]
        scale = 1000 / STEPS / len(units)
        plain, floor, whole = (statistics.median(column) * scale for column in zip(*rounds, strict=True))
        print(f"{layer:>10} {plain:8.2f} {floor:8.2f} {whole:10.2f} {whole / floor:10.2f}x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
