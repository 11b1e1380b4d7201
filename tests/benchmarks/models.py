"""How long `load_model` takes beyond building the network, and what reading a layer adds to the pass that ends there.

Run ``python tests/benchmarks/models.py`` (three minutes on a quiet core). Readiness is in seconds of the clock, the best
of three. Reading is in CPU time of one thread, which other programs disturb less: `probe` on 8 photographs' worth of
noise against the barest early stop there is, a hook that raises; the median of the differences of neighbouring runs over
the median of the bare ones. Its fixed cost is measured on a network that does nothing. Targets: under 3 s, under 2 %.
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
SECONDS, SHARE, BUDGET = 3.0, 0.02, 4.0


def main() -> None:
    torch.set_num_threads(1)
    print(f"fixed cost of reading: {fixed_cost() * 1e6:.0f} microseconds")
    print("network              built   ready   first, middle and last default layer: CPU time, what reading it adds")
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
    bare, extra = [], []
    with torch.no_grad():
        while len(bare) < 7 or (sum(bare) < BUDGET and len(bare) < 101):
            bare.append(cpu_time(lambda: stopped_by_a_bare_hook(model, layer, images)))
            extra.append(cpu_time(lambda: reading(model, layer, images)) - bare[-1])
    cost = statistics.median(extra) / statistics.median(bare)
    verdict = "" if cost < SHARE else " MISSED"
    return f"{layer} {statistics.median(bare) * 1e3:.1f} ms {cost:+.2%}{verdict}"


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
