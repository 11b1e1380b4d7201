"""Where the heat lands, whether it depends on the weights, and what it costs beside captum.

Run ``python tests/benchmarks/attribution.py`` (about ten minutes on a quiet core; ``--images 33`` for less). In the
drawn world the box of what is drawn is known: the pointing game (Zhang et al. 2018, "Top-down Neural Attention") asks
how often the largest heat lies in it, and beside it which share of the positive heat does. Two baselines: the middle of
the picture, and a pixel at random (the share of the picture that boxes take). Intervals are 95 %, Wilson's. The
randomization check is that of `audit`: the correlation with the heat of a network of which three fifths of the layers,
from the output down, are shuffled. The time is that
of one image in a batch of 16, in forward and backward passes of the whole network, interleaved, medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from torch import Tensor

from features.attribution import METHODS, attribute, audit, integrated_gradients, rise, smoothgrad
from features.models import Model, load_model
from features.sketches import HELD_OUT_SEED, Sketches

AUDITED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=132, help="sketches that are looked at (default: 132)")
    count = parser.parse_args().images
    torch.set_num_threads(1)
    model, world = load_model("sketches"), Sketches(count, seed=HELD_OUT_SEED)
    images = torch.stack([world[i][0] for i in range(count)])
    boxes = [world.factors(i).box for i in range(count)]
    inside = np.zeros((count, *images.shape[2:]), bool)
    for mask, (y0, x0, y1, x1) in zip(inside, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    middle = inside[:, inside.shape[1] // 2, inside.shape[2] // 2]
    print("| method | largest heat in the box | of the positive heat | with three fifths shuffled |")
    print("|---|---|---|---|")
    print(f"| the middle of the picture | {interval(middle)} | | |")
    print(f"| a pixel at random | {inside.mean():.1%} | {inside.mean():.0%} | |", flush=True)
    for name in METHODS:
        heats = np.concatenate(
            [
                attribute(model, images[i : i + 1], world[i][1], method=quick(name), progress=False).heat
                for i in range(count)
            ]
        )
        hits = np.array([mask.flat[heat.argmax()] for heat, mask in zip(heats, inside, strict=True)])
        positive = heats.clip(min=0)
        share = (positive * inside).sum((1, 2)) / np.maximum(positive.sum((1, 2)), 1e-300)
        kept = [
            audit(model, images[i : i + 1], world[i][1], method=quick(name), progress=False).randomization[2][1]
            for i in range(AUDITED if name not in ("rise", "score-cam", "ablation-cam", "occlusion") else 1)
        ]
        print(f"| {name} | {interval(hits)} | {share.mean():.0%} | {np.mean(kept):+.2f} |", flush=True)
    print()
    times(model, images[:16])


def quick(name: str) -> object:
    return {"rise": partial(rise, masks=300)}.get(name, name)


def interval(hits: np.ndarray) -> str:
    """Give a share with its 95 % interval (Wilson 1927)."""
    n, share, z = len(hits), float(hits.mean()), 1.96
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{share:.1%} ({(middle - half) / (1 + z * z / n):.0%} to {(middle + half) / (1 + z * z / n):.0%})"


def times(model: Model, images: Tensor) -> None:
    scaled = (images - torch.tensor(model.mean)[:, None, None]) / torch.tensor(model.std)[:, None, None]
    net, layer = model.net, model.net.get_submodule("mixed4c")

    def plain() -> None:
        leaf = scaled.clone().requires_grad_()
        torch.autograd.grad(net(leaf)[:, 3].sum(), leaf)

    noise = NoiseTunnel(Saliency(net))
    actions: dict[str, Callable[[], object]] = {
        "forward and backward": plain,
        "grad-cam": lambda: attribute(model, images, 3, progress=False),
        "grad-cam, captum": lambda: LayerGradCam(net, layer).attribute(scaled, 3),
        "gradient": lambda: attribute(model, images, 3, method="gradient", progress=False),
        "gradient, captum": lambda: Saliency(net).attribute(scaled.requires_grad_(), 3),
        "integrated gradients, 16 steps": lambda: attribute(
            model, images, 3, method=partial(integrated_gradients, steps=16), progress=False
        ),
        "integrated gradients, 16 steps, captum": lambda: IntegratedGradients(net).attribute(
            scaled, target=3, n_steps=16, internal_batch_size=16
        ),
        "smoothgrad, 16 samples": lambda: attribute(
            model, images, 3, method=partial(smoothgrad, samples=16), progress=False
        ),
        "smoothgrad, 16 samples, captum": lambda: noise.attribute(
            scaled, nt_samples=16, nt_samples_batch_size=1, target=3
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(9):
        for name in list(actions)[:: 1 if turn % 2 else -1]:
            start = time.thread_time()
            actions[name]()
            seconds[name].append(time.thread_time() - start)
    unit = statistics.median(seconds["forward and backward"])
    for name, found in seconds.items():
        print(f"{name}: {statistics.median(found) / unit:.2f} passes")


if __name__ == "__main__":
    main()
