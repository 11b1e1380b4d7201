"""Tracing: from a target back through chosen layers, the units that carried it on one picture, as a circuit graph."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from tqdm import tqdm

from circuits.graphs.checking import SCHEMA
from circuits.wiring import flow
from features.attribution import aim
from features.attribution.targets import Target, check_images, gradients, in_order, scored
from features.models import Model, probe
from features.objectives import Objective
from features.units import Unit

METHOD = "attribution of one picture"


def explanation_graph(
    model: Model,
    image: Tensor,
    target: Target | None = None,
    layers: Sequence[str] | None = None,
    *,
    width: int = 4,
    breadth: int = 6,
    progress: bool = True,
) -> nx.DiGraph[str]:
    """Give the circuit of one picture: which units of ``layers`` carried the target, and through which other units.

    ``image`` is (channels, h, w) or (1, channels, h, w) in [0, 1]. ``target`` is a class or a unit, by default the
    class that the network finds likeliest. ``layers`` are by default ``model.default_layers`` before the target. A
    unit's *attribution* is ``sum over positions of a * dS/da``, and an edge is the part of it that comes from the
    source, other listed layers held:

    ``E(i -> o) = sum over positions of a_i * d/da_i (sum over positions of g_o a_o),  g_o = dS/da_o held``

    so that the edges of all sources into a unit add up to its attribution, but for biases (exact for ReLU networks,
    where every gate is as it is on this picture; elsewhere to first order). From the target the ``width`` inputs of
    largest absolute value are followed, and from these again, down to the first layer; of a layer the ``breadth`` units
    of the largest influence stay: 1 for the target, and for a source the sum over the units it feeds of their influence
    times its share. The graph is one of `build_graph`'s schema and can be pruned, queried, drawn and saved like any:
    ``weight`` is E, ``strength`` its absolute value, ``share`` its part of the absolute sum over all sources; nodes
    have ``attribution``, ``influence`` and ``activation`` (the largest); ``kept`` is the part of the absolute sum that
    the kept edges carry.

    Raises ``ValueError`` as `features.attribute` does, for a target that is no single unit, and for fewer than one
    layer before it.

    >>> from features.models import load_model
    >>> graph = explanation_graph(load_model("sketches"), torch.rand(3, 64, 64), "car", width=2, progress=False)
    >>> max(degree for _, degree in graph.in_degree())
    2
    """
    image = check_images(model, image[None] if image.ndim == 3 else image)
    if len(image) > 1:
        raise ValueError(f"{len(image)} images were given: an explanation is of one; give images[0]")
    unit = unit_of(model, image, target)
    chosen = _layers(model, unit, layers)
    objective = _at_unit(model, unit)
    with torch.inference_mode(False):
        values, grads = _readings(model, image.clone(), objective, chosen)
        tracer = _Tracer(model, image.clone(), chosen, values, grads)
        return tracer.trace(unit, width=_whole("width", width), breadth=_whole("breadth", breadth), progress=progress)


def unit_of(model: Model, image: Tensor, target: Target | None) -> Unit:
    """Give the unit that a target means: a class's logit, a channel, or by default the likeliest class."""
    if target is None:
        with torch.no_grad():
            return aimed(model, int(model(image)[0].argmax()))
    return aimed(model, target)


def aimed(model: Model, target: Target) -> Unit:
    """Give the single unit of a target; ``ValueError`` for one that is more than that."""
    if isinstance(target, Objective) and (target.unit is None or target.edits):
        raise ValueError(f"the target {target.name!r} is no single unit: give a class or a unit")
    found = aim(model, target)
    if found.unit is None:
        raise ValueError(f"the target {found.name!r} is no single unit: give a class or a unit")
    return model.unit(found.unit)


def _layers(model: Model, unit: Unit, layers: Sequence[str] | None) -> list[str]:
    order = [layer.name for layer in model.layers]
    named = model.default_layers if layers is None else layers
    before = [name for name in in_order(model, [model.layer(name).name for name in named]) if name != unit.layer]
    before = [name for name in before if order.index(name) < order.index(unit.layer)]
    if not before:
        raise ValueError(f"no layer before {str(unit)!r} was given: name at least one of model.layers")
    return [*before, unit.layer]


def _at_unit(model: Model, unit: Unit) -> Objective:
    """Give the unit's mean over positions, as a target."""
    return aim(model, unit)


def _readings(
    model: Model, image: Tensor, objective: Objective, layers: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give every layer's activations and the target's gradients with respect to them, (c, positions)."""
    with torch.enable_grad(), probe(model, layers) as activations:
        model(image.requires_grad_())
        readings = [activations[name] for name in layers]
        score = scored(objective, activations, 1)
        found = [
            gradients(score, reading, objective, f"layer {name!r}") if name in objective.layers else None
            for name, reading in zip(layers, readings, strict=True)
        ]
        others = [reading for reading, known in zip(readings, found, strict=True) if known is None]
        rest = iter(torch.autograd.grad(score.sum(), others, allow_unused=True))
        whole = [next(rest) if known is None else known for known in found]
    maps = {name: _flat(reading.detach()) for name, reading in zip(layers, readings, strict=True)}
    slopes = {
        name: torch.zeros_like(maps[name]) if grad is None else _flat(grad)
        for name, grad in zip(layers, whole, strict=True)
    }
    return maps, slopes


@dataclass(frozen=True)
class _Tracer:
    """One picture's readings of the chosen layers, and the way back through them."""

    model: Model
    image: Tensor
    layers: list[str]
    values: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]

    def trace(self, unit: Unit, *, width: int, breadth: int, progress: bool) -> nx.DiGraph[str]:
        model, layers = self.model, self.layers
        feeding = flow(model, layers)
        said = {"schema": SCHEMA, "model": model.name, "digest": model.digest, "layers": json.dumps(layers)}
        graph: nx.DiGraph[str] = nx.DiGraph(**said, method=METHOD, by="strength", keep=width, nonfinite=0)
        graph.graph["target"] = str(unit)
        influence: dict[Unit, float] = defaultdict(float, {unit: 1.0})
        waiting: list[tuple[Unit, Unit, dict[str, float | int]]] = []
        for target in tqdm(layers[::-1], desc="tracing", unit="layer", disable=not progress, leave=False):
            found = [each for each in influence if each.layer == target]
            chosen = sorted(sorted(found, key=lambda each: -influence[each])[:breadth])
            for each in chosen:
                graph.add_node(str(each), **self._node(each, influence[each]))
            graph.add_edges_from((str(a), str(b), data) for a, b, data in waiting if a in chosen)
            waiting = [edge for edge in waiting if edge[0].layer != target]
            if chosen and feeding[target]:
                for source, fed, data in self._inputs(target, chosen, feeding[target], width):
                    influence[source] += influence[fed] * float(data["share"])
                    waiting.append((source, fed, data))
        for node, degree in graph.in_degree():
            if degree:
                graph.nodes[node]["kept"] = min(1.0, sum(data["share"] for *_, data in graph.in_edges(node, data=True)))
        return graph

    def _inputs(
        self, target: str, units: Sequence[Unit], sources: Sequence[str], width: int
    ) -> Iterator[tuple[Unit, Unit, dict[str, float | int]]]:
        """Give the ``width`` strongest edges into each of ``units``, all of one layer."""
        channels = [unit.channel for unit in units]
        carried = _carried(self.model, self.image, target, channels, sources, self.layers, self.grads[target])
        for row, unit in enumerate(units):
            numbers = {
                Unit(source, at): number
                for source, found in carried.items()
                for at, number in enumerate(found[row].tolist())
                if number
            }
            mass = sum(map(abs, numbers.values()))
            for rank, source in enumerate(sorted(numbers, key=lambda each: -abs(numbers[each]))[:width]):
                yield source, unit, _edge(numbers[source], mass, rank)

    def _node(self, unit: Unit, influence: float) -> dict[str, Any]:
        shown, slope = self.values[unit.layer][unit.channel], self.grads[unit.layer][unit.channel]
        labels = self.model.labels
        classes = unit.layer == self.model.layers[-1].name and len(self.values[unit.layer]) == len(labels)
        return {
            "layer": unit.layer,
            "channel": unit.channel,
            "depth": self.layers.index(unit.layer),
            "label": labels[unit.channel] if classes else "",
            "kept": 1.0,
            "attribution": float((shown.double() * slope.double()).sum()),
            "activation": float(shown.max()),
            "influence": influence,
        }


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a number of units to follow, 1 or more")
    return value


@torch.enable_grad()
def _carried(
    model: Model,
    image: Tensor,
    target: str,
    channels: list[int],
    sources: Sequence[str],
    layers: Sequence[str],
    slopes: Tensor,
) -> dict[str, Tensor]:
    """Give the part of each channel's attribution that each source's channels carry: source layer -> (k, i)."""
    carried = {}
    for source in sources:
        held = {name: torch.Tensor.detach for name in layers if name not in (source, target)}
        leaves: list[Tensor] = []

        def cut(reading: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(reading.detach().requires_grad_())
            return leaves[-1]

        with probe(model, [target], edits={**held, source: cut}) as activations:
            model(image.detach())
            worth = (_flat(activations[target])[channels] * slopes[channels]).sum(1)
        rows = []
        for value in worth:
            (grad,) = torch.autograd.grad(value, leaves[0], retain_graph=True, allow_unused=True)
            product = torch.zeros_like(leaves[0]) if grad is None else grad * leaves[0].detach()
            rows.append(_flat(product).double().sum(1).cpu())
        carried[source] = torch.stack(rows)
    return carried


def _edge(number: float, mass: float, rank: int) -> dict[str, float | int]:
    return {
        "weight": number,
        "strength": abs(number),
        "excitation": max(number, 0.0),
        "inhibition": min(number, 0.0),
        "peak_y": 0.0,
        "peak_x": 0.0,
        "share": abs(number) / mass,
        "rank": rank,
    }


def _flat(values: Tensor) -> Tensor:
    """Give one image's activations as (c, positions)."""
    return values[0].reshape(values.shape[1], -1)
