"""How long wiring takes: ``python tests/benchmarks/wiring.py [network ...]``, one thread, processor seconds.

Beside the time of `connect` for all consecutive default layers stands that of a plain loop: one backward pass per
channel on the model's own image.
"""

from __future__ import annotations

import sys
import time

import torch
import torchvision

from circuits import build_graph, flow
from circuits.wiring import connect
from features.models import Model, load_model, probe

NETWORKS = ("sketches", "googlenet", "mobilenet_v3_large", "alexnet")


def plain_loop(model: Model, source: str, target: str) -> None:
    leaves = []

    def leaf(value: torch.Tensor) -> torch.Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[0].clone()

    with probe(model, [target], edits={source: leaf}) as activations:
        model(torch.full((1, model.channels, *model.image_size), 0.5))
        output = activations[target].flatten(2)[0, :, 0] if activations[target].dim() > 2 else activations[target][0]
        for channel in output:
            torch.autograd.grad(channel, leaves[0], retain_graph=True)


def seconds(function: object, *args: object, **kwargs: object) -> float:
    start = time.process_time()
    function(*args, **kwargs)  # type: ignore[operator]
    return time.process_time() - start


def load(name: str) -> Model:
    if name == "sketches":
        return load_model()
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(**options).eval()
    return load_model(net, name=name, image_size=224, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or NETWORKS:
        model = load(name)
        sources = flow(model, model.default_layers)
        pairs = [(source, target) for target in sources for source in sources[target]]
        fast = sum(seconds(connect, model, *pair) for pair in pairs)
        slow = sum(seconds(plain_loop, model, *pair) for pair in pairs)
        built = seconds(build_graph, model, progress=False)
        flowing = seconds(flow, model, model.default_layers)
        timed = {"flow": flowing, "connect": fast, "plain loop": slow, "graph": built}
        print(f"{name}, {len(pairs)} pairs:", ", ".join(f"{what} {value:.2f} s" for what, value in timed.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
