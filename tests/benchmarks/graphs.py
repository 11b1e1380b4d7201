"""How long graphs take, and how much memory: ``python tests/benchmarks/graphs.py [network ...]``, one thread.

All convolutions of each network as layers, the 10 strongest inputs of every unit. Each row is a process of its own, so
that its peak memory is its own: the difference between the peak and what the loaded network took before. ``weights``
is how long it takes to read the weights alone, once. The naive loop makes an edge of every wire, one call after the
other; it is run on the first 200,000 of them, and scaled up where there are more.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import networkx as nx
import numpy as np
import torch
import torchvision
from torch import nn
from tqdm import tqdm

from circuits.graphs import build_graph, edge_table, significance
from circuits.wiring import connections
from features.models import Model, load_model

NETWORKS = ("sketches", "vgg16", "googlenet", "resnet50")
NAIVE = 200_000


def load(name: str) -> Model:
    if name == "sketches":
        return load_model()
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(**options).eval()
    return load_model(net, name=name, image_size=224, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def convolutions(model: Model) -> list[str]:
    modules = dict(model.net.named_modules())
    return [layer.name for layer in model.layers if isinstance(modules.get(layer.name), nn.Conv2d)]


def reading(model: Model, layers: list[str]) -> float:
    """How long it takes to read the weights alone."""
    start = time.process_time()
    for _ in connections(model, layers):
        pass
    return time.process_time() - start


def vectorized(model: Model, layers: list[str]) -> dict[str, float]:
    return {"edges": build_graph(model, layers, progress=False).number_of_edges()}


def table(model: Model, layers: list[str]) -> dict[str, float]:
    return {"edges": len(edge_table(model, layers, progress=False))}


def naive(model: Model, layers: list[str]) -> dict[str, float]:
    """Make an edge for every wire; ``scale`` is by how much to multiply time and memory."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    wires = 0
    left = NAIVE
    for source, target, weights in connections(model, layers):
        kernels = weights.detach().numpy()
        wires += kernels.shape[0] * kernels.shape[1]
        for o, i in islice(np.ndindex(*kernels.shape[:2]), left):
            numbers = {"weight": float(kernels[o, i].sum()), "strength": float(np.linalg.norm(kernels[o, i]))}
            graph.add_edge(f"{source}:{i}", f"{target}:{o}", **numbers)
        left = max(0, left - kernels.shape[0] * kernels.shape[1])
    return {"edges": wires, "scale": max(1.0, wires / NAIVE)}


def chance(null: str) -> Callable[[Model, list[str]], dict[str, float]]:
    def tested(model: Model, layers: list[str]) -> dict[str, float]:
        graph = build_graph(model, layers, progress=False)
        start = time.process_time()
        significance(model, graph, null=null, draws=DRAWS[null], progress=False)
        return {"edges": graph.number_of_edges(), "alone": time.process_time() - start}

    return tested


def one(name: str, task: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    model = load(name)
    layers = convolutions(model)
    before = peak()
    start = time.process_time()
    said = TASKS[task](model, layers)
    seconds = said.get("alone", time.process_time() - start)
    gigabytes = peak() - before
    weights = reading(model, layers)
    scale = said.get("scale", 1.0)
    if scale > 1:
        seconds = weights + (seconds - weights) * scale
    return {**said, "seconds": seconds, "weights": weights, "gigabytes": gigabytes * scale}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(names: list[str]) -> None:
    print(f"{'network':10} {'task':26} {'edges':>12} {'CPU s':>8} {'weights s':>10} {'GB':>6}")
    for name in names or NETWORKS:
        for task in tqdm(TASKS, desc=name, leave=False):
            command = [sys.executable, __file__, "--one", name, task]
            said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            scaled = " (scaled)" if said.get("scale", 1.0) > 1 else ""
            print(
                f"{name:10} {task:26} {said['edges']:12,} {said['seconds']:8.2f} {said['weights']:10.2f} "
                f"{said['gigabytes']:6.2f}{scaled}",
                flush=True,
            )


DRAWS = {"shuffled": 40, "redrawn": 4}
TASKS: dict[str, Callable[[Model, list[str]], dict[str, float]]] = {
    "build_graph": vectorized,
    "edge_table": table,
    "naive loop": naive,
    **{f"significance, {null} x {draws}": chance(null) for null, draws in DRAWS.items()},
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(*sys.argv[2:])))
    else:
        main(sys.argv[1:])
