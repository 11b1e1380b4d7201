"""What an atlas shows, measured or reused: wiring, kernels, examples, meanings, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from circuits.atlas.folders import Desk
from circuits.graphs import build_graph, load_graph, save_graph
from circuits.meanings import (
    Polysemanticity,
    UnitMeanings,
    polysemanticity,
    read_polysemanticity,
    write_polysemanticity,
)
from circuits.meanings.overviews import LayerSummary, layer_overview
from circuits.wiring import connect
from features.examples import Examples, UnitExamples, find_examples, fingerprint, read_examples, write_examples
from features.examples.embeddings import Featureless
from features.models import Model
from features.records import read_record, slug, write_record
from features.visualization import Visualization, read_visualization, visualize, write_visualization

Kernels = Mapping[tuple[str, str], NDArray[np.float32]]


@dataclass(frozen=True)
class Measurements:
    """Everything that the pages of an atlas say: ``kernels`` of the graph's edges, ``pictures`` per layer."""

    graph: nx.DiGraph
    kernels: Kernels
    examples: Examples | None
    meanings: Polysemanticity | None
    pictures: Mapping[str, Visualization]

    @cached_property
    def looks(self) -> Mapping[str, UnitExamples]:
        """The examples of each unit; nothing where no dataset was given."""
        return {} if self.examples is None else {name: self.examples[name] for name in self.graph}

    @cached_property
    def verdicts(self) -> Mapping[str, UnitMeanings]:
        """The verdict on each unit that was judged."""
        return {} if self.meanings is None else {name: self.meanings[name] for name in self.meanings.units}

    @cached_property
    def summaries(self) -> Mapping[str, LayerSummary]:
        """Each layer at a glance; nothing where no dataset was given."""
        if self.examples is None or self.meanings is None:
            return {}
        return {each.layer: each for each in layer_overview(self.meanings, self.examples).layers}


@dataclass(frozen=True)
class Plan:
    """What is asked for, checked."""

    model: Model
    dataset: Any
    layers: tuple[str, ...]
    steps: int
    count: int
    keep: int
    seed: int


def measure(plan: Plan, desk: Desk) -> Measurements:
    """Give the measurements of ``plan``: what ``desk`` holds and is still valid, and the rest made and kept, layer by
    layer.
    """
    graph = _graph(plan, desk)
    kernels = _kernels(plan, desk, graph)
    examples = _examples(plan, desk)
    meanings = _meanings(plan, desk, examples)
    return Measurements(graph, kernels, examples, meanings, _pictures(plan, desk))


def _base(plan: Plan) -> dict[str, Any]:
    return {**_network(plan.model), "layers": list(plan.layers)}


def _network(model: Model) -> dict[str, Any]:
    """What makes a network the same one: its weights, what its pictures go through, and its names."""
    return {key: getattr(model, key) for key in ("digest", "image_size", "mean", "std", "name", "labels")}


def _graph(plan: Plan, desk: Desk) -> nx.DiGraph:
    return desk.keep(
        "wiring",
        {**_base(plan), "keep": plan.keep},
        f"wiring of {len(plan.layers)} layers",
        read=lambda place: load_graph(place / "graph.json"),
        make=lambda: build_graph(plan.model, plan.layers, keep=plan.keep, progress=desk.progress),
        write=lambda graph, place: save_graph(graph, place / "graph.json"),
    )


def _kernels(plan: Plan, desk: Desk, graph: nx.DiGraph) -> Kernels:
    return desk.keep(
        "kernels",
        {**_base(plan), "keep": plan.keep},
        f"kernels of {graph.number_of_edges():,} connections",
        read=_read_kernels,
        make=lambda: make_kernels(plan.model, graph, plan.layers, progress=desk.progress),
        write=_write_kernels,
    )


def make_kernels(model: Model, graph: nx.DiGraph, layers: Sequence[str], *, progress: bool = True) -> Kernels:
    """Give the window of weights ``(kh, kw)`` of each edge of ``graph``."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for source, target in graph.edges:
        pairs.setdefault((graph.nodes[source]["layer"], graph.nodes[target]["layer"]), []).append((source, target))
    kernels = {}
    for (source, target), edges in tqdm(pairs.items(), desc="kernels", unit="pair", disable=not progress, leave=False):
        cut = [layer for layer in layers if layer not in (source, target)]
        weights = connect(model, source, target, cut=cut).detach().float().cpu().numpy()
        for edge in edges:
            kernels[edge] = weights[graph.nodes[edge[1]]["channel"], graph.nodes[edge[0]]["channel"]].copy()
    return kernels


def _write_kernels(kernels: Kernels, place: Path) -> None:
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for edge, kernel in kernels.items():
        groups.setdefault(kernel.shape, []).append(edge)
    arrays = {str(number): np.stack([kernels[edge] for edge in edges]) for number, edges in enumerate(groups.values())}
    write_record(
        place, "kernels", arrays=arrays, fields={"edges": [[list(edge) for edge in edges] for edges in groups.values()]}
    )


def _read_kernels(place: Path) -> Kernels:
    arrays, said = read_record(place, "kernels")
    named = ((edges, arrays[str(number)]) for number, edges in enumerate(said["edges"]))
    return {
        (source, target): kernel
        for edges, array in named
        for (source, target), kernel in zip(edges, array, strict=True)
    }


def _examples(plan: Plan, desk: Desk) -> Examples | None:
    if plan.dataset is None:
        return None
    return desk.keep(
        "examples",
        {**_base(plan), "count": plan.count, "dataset": fingerprint(plan.dataset)},
        f"examples among {len(plan.dataset):,} pictures",
        read=read_examples,
        make=lambda: find_examples(plan.model, plan.dataset, plan.layers, count=plan.count, progress=desk.progress),
        write=write_examples,
    )


def _meanings(plan: Plan, desk: Desk, examples: Examples | None) -> Polysemanticity | None:
    if examples is None:
        return None
    return desk.keep(
        "meanings",
        {
            **_base(plan),
            "count": plan.count,
            "dataset": fingerprint(plan.dataset),
            "seed": plan.seed,
            "evidence": "vectors, late, upstream",
        },
        f"verdicts on {sum(plan.model.layer(layer).channels for layer in plan.layers):,} units",
        read=read_polysemanticity,
        make=lambda: _judged(plan, desk, examples),
        write=write_polysemanticity,
    )


def _judged(plan: Plan, desk: Desk, examples: Examples) -> Polysemanticity:
    """Judge by all the evidence that the network gives; a reader is told where that is its layers' activations alone.

    Each verdict's reason says on a unit's page what it rests on.
    """
    judged = partial(polysemanticity, plan.model, examples, seed=plan.seed, progress=desk.progress)
    try:
        return judged(dataset=plan.dataset)
    except Featureless as lack:  # the late layer says the same of every crop: there is no such evidence
        desk.say(f"verdicts rest on the layers' own activations alone: {lack}")
        return judged()


def _pictures(plan: Plan, desk: Desk) -> dict[str, Visualization]:
    return {layer: _layer_pictures(plan, desk, layer, number) for number, layer in enumerate(plan.layers, start=1)}


def _layer_pictures(plan: Plan, desk: Desk, layer: str, number: int) -> Visualization:
    units = [f"{layer}:{channel}" for channel in range(plan.model.layer(layer).channels)]

    def make() -> Visualization:
        desk.say(f"making pictures of {layer} ({len(units)} units, layer {number} of {len(plan.layers)})")
        return visualize(plan.model, units, steps=plan.steps, seed=plan.seed, progress=desk.progress)

    return desk.keep(
        f"pictures/{slug(layer)}",
        {**_network(plan.model), "units": units, "seed": plan.seed, "steps": plan.steps},
        f"pictures of {layer} ({len(units)} units)",
        read=read_visualization,
        make=make,
        write=write_visualization,
    )
