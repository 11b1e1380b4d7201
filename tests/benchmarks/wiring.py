"""How long wiring takes: ``python tests/benchmarks/wiring.py [--quick] [--only NETWORK ...]``; random weights, one
thread.

For each network all consecutive pairs of its default layers: `flow`, `connections` (one run, read by boxes), and a
plain loop of one backward pass per channel on the model's own image, of which a few channels of each pair are timed and
the rest reckoned. The two are interleaved; wall and processor seconds are medians over the rounds. ``--convolutions``
lists every convolution as a layer instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torchvision

from circuits import flow
from circuits.wiring import connections
from features.models import Model, load_model, probe

NETWORKS = (
    *("sketches", "googlenet", "resnet50", "mobilenet_v3_large", "vgg16", "alexnet", "convnext_tiny", "swin_t"),
    *("vit_b_16", "densenet121"),
)
QUICK = ("sketches", "googlenet", "mobilenet_v3_large", "convnext_tiny")
SAMPLED = 4  # channels of each pair that the plain loop is timed on
Seconds = tuple[float, float]


def load(name: str) -> Model:
    if name == "sketches":
        return load_model()
    options = {"aux_logits": False, "init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    net = getattr(torchvision.models, name)(**options).eval()
    size = 299 if name == "inception_v3" else 224
    return load_model(net, name=name, image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def read_all(model: Model, layers: Sequence[str]) -> int:
    """Read all pairs, one after the other; give how many there were."""
    return sum(1 for _ in connections(model, layers))


def plain_loop(model: Model, source: str, target: str) -> Seconds:
    """Time backward passes from some channels of the target's centre, and reckon all."""
    leaves: list[torch.Tensor] = []

    def leaf(value: torch.Tensor) -> torch.Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[0].clone()

    with probe(model, [target], edits={source: leaf}) as activations:
        model(torch.full((1, model.channels, *model.image_size), 0.5))
        output = activations[target][0]
        for side in output.shape[1:]:
            output = output.select(1, side // 2)
        count = min(SAMPLED, len(output))
        taken = timed(lambda: [torch.autograd.grad(each, leaves[0], retain_graph=True) for each in output[:count]])
    return taken[0] * len(output) / count, taken[1] * len(output) / count


def timed(function: Callable[[], object]) -> Seconds:
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(name: str, rounds: int, *, convolutions: bool) -> None:
    model = load(name)
    layers = list(model.default_layers)
    if convolutions:
        layers = [layer.name for layer in model.layers if layer.kind == "Conv2d"]
    pairs = [(source, target) for target, sources in flow(model, layers).items() for source in sources]
    figures: dict[str, list[Seconds]] = {"flow": [], "connections": [], "plain loop": []}
    for _ in range(rounds):
        figures["flow"].append(timed(lambda: flow(model, layers)))
        figures["connections"].append(timed(lambda: read_all(model, layers)))
        parts = [plain_loop(model, *pair) for pair in pairs]
        figures["plain loop"].append((sum(wall for wall, _ in parts), sum(cpu for _, cpu in parts)))
    texts = []
    for what, seconds in figures.items():
        wall, cpu = (statistics.median(each) for each in zip(*seconds, strict=True))
        texts.append(f"{what} {wall:.2f} s wall {cpu:.2f} s cpu")
    print(f"{name}, {len(pairs)} pairs: {'; '.join(texts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="four networks, one round")
    parser.add_argument(
        "--only", nargs="+", metavar="NETWORK", help="these networks, torchvision's names or 'sketches'"
    )
    parser.add_argument("--convolutions", action="store_true", help="every convolution is a layer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only or (QUICK if arguments.quick else NETWORKS):
        measure(name, 1 if arguments.quick else 3, convolutions=arguments.convolutions)


if __name__ == "__main__":
    main()
