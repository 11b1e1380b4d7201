"""How long `load_model` takes beyond building the network, and what reading a layer adds to the pass that ends there.

Run ``python tests/benchmarks/models.py`` (five minutes on a quiet core). Readiness is in seconds of the clock, the best
of three. Reading is in CPU time of one thread, which other programs disturb less: `probe` on 8 images against the
barest early stop there is, a hook that raises. The runs are interleaved, in turning order; given is the difference of
the medians as a share, and beside it, as the noise, the same for a second series of bare runs. The fixed cost is that
on a network that does nothing. Targets: under 3 s, under 2 %.

With ``MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592`` memory is not given back between the runs;
without, the time to get it anew is most of the time of the first layers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models

from features.models import Model, load_model, probe

ARCHITECTURES = ("googlenet", "resnet50", "vgg16", "mobilenet_v3_large", "convnext_tiny", "vit_b_16", "swin_t")
OPTIONS = {"googlenet": {"init_weights": True, "aux_logits": False}}
IMAGENET = {"image_size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SECONDS, SHARE, BUDGET = 3.0, 0.02, 3.0


def main() -> None:
    torch.set_num_threads(1)
    print(f"fixed cost of reading: {fixed_cost() * 1e6:.0f} microseconds")
    print("network              built   ready   first, middle and last default layer: CPU time, reading (noise)")
    for name in ARCHITECTURES:
        start = time.perf_counter()
        net = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
        built = time.perf_counter() - start
        ready = min(loading_time(net) for _ in range(3))
        readings = [reading_cost(load_model(net, **IMAGENET), place) for place in (0.0, 0.5, 1.0)]
        verdict = "" if ready < SECONDS else " MISSED"
        print(f"{name:19} {built:5.2f}s  {ready:5.2f}s{verdict}  {'; '.join(readings)}", flush=True)


def fixed_cost() -> float:
    """What a reading costs on a network that does nothing: the best of many, less the bare stop."""
    net = nn.Sequential(nn.Identity(), nn.Identity()).eval()
    model, images = load_model(net, image_size=1, mean=(0,), std=(1,)), torch.zeros(1, 1, 1, 1)
    bare = min(cpu_time(lambda: stopped_by_a_bare_hook(model, "0", images)) for _ in range(2000))
    return min(cpu_time(lambda: reading(model, "0", images)) for _ in range(2000)) - bare


def loading_time(net: nn.Module) -> float:
    start = time.perf_counter()
    load_model(net, **IMAGENET)
    return time.perf_counter() - start


def reading_cost(model: Model, place: float) -> str:
    """Compare reading one of the default layers, first to last, with the same pass stopped by a bare hook."""
    layer = model.default_layers[round(place * (len(model.default_layers) - 1))]
    images = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    actions = [lambda: stopped_by_a_bare_hook(model, layer, images), lambda: reading(model, layer, images)]
    actions.append(actions[0])
    times: list[list[float]] = [[], [], []]
    with torch.no_grad():
        while len(times[0]) < 7 or (sum(times[0]) < BUDGET and len(times[0]) < 301):
            for turn in (0, 1, 2) if len(times[0]) % 2 else (2, 1, 0):
                times[turn].append(cpu_time(actions[turn]))
    bare, read, again = (statistics.median(each) for each in times)
    cost, noise = read / bare - 1, abs(again / bare - 1)
    return f"{layer} {bare * 1e3:.1f} ms {cost:+.2%} ({noise:.2%}){' MISSED' if cost - noise >= SHARE else ''}"


def cpu_time(action: Callable[[], object]) -> float:
    start = time.thread_time()
    action()
    return time.thread_time() - start


def reading(model: Model, layer: str, images: Tensor) -> Tensor:
    with probe(model, layer) as activations:
        model(images)
        return activations[layer]


class Stop(Exception):
    """Ends the pass."""


def stopped_by_a_bare_hook(model: Model, layer: str, images: Tensor) -> Tensor:
    kept: list[Tensor] = []

    def stop(module: nn.Module, args: object, output: Tensor) -> None:
        kept.append(output)
        raise Stop

    handle = model.net.get_submodule(layer).register_forward_hook(stop)
    try:
        model(images)
    except Stop:
        pass
    finally:
        handle.remove()
    return kept[0]


if __name__ == "__main__":
    main()
