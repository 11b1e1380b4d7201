"""Interventions: switch units off, put others' values in, and check the wires of a graph by experiment."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import networkx as nx
import torch
from torch import Tensor
from tqdm import tqdm

from circuits.graphs import check_graph
from circuits.wiring import linear_map
from features.models import Model, probe
from features.units import Unit

Edit = Callable[[Tensor], Tensor]

FEWEST = 5  # images on which an edge must show itself before it is judged
CERTAIN = 2.0  # standard errors from 0: a two-sided 95 % interval of the mean
FAINT = 0.1  # share of the linear prediction below which a true effect is called weak


@contextmanager
def ablate(
    model: Model,
    units: Iterable[Unit | str] | Unit | str,
    *,
    value: float | str | Mapping[str, float] = 0.0,
    images: Tensor | None = None,
) -> Iterator[None]:
    """Hold ``units`` at a constant, at every position, for as long as the ``with`` lasts; any pass of the model sees
    it.

    ``value`` is a number, a mapping from unit to number, or ``"mean"``: each unit's mean over ``images`` and positions.
    Works together with `probe`. At the end, after an exception too, the network is as it was.

    Raises ``ValueError`` for unknown units, none at all, a value that is not finite, and ``"mean"`` without images.

    >>> from features.models import load_model, probe
    >>> model = load_model("sketches")
    >>> with ablate(model, ["mixed3a:4", "mixed3a:7"]), probe(model, ["mixed3a"]) as activations:
    ...     _ = model(torch.rand(1, 3, 64, 64))
    ...     activations["mixed3a"][0, [4, 7]].abs().max().item()
    0.0
    """
    chosen = _units(model, units)
    values = _values(model, chosen, value, images)
    edits = {layer: partial(_set_constant, values[layer]) for layer in values}
    with probe(model, [], edits=edits, stop=False):
        yield


@contextmanager
def patch(model: Model, units: Iterable[Unit | str] | Unit | str, images: Tensor) -> Iterator[None]:
    """Give ``units`` the activations that they have on ``images``, for as long as the ``with`` lasts.

    ``images`` are as many as the model is then shown, or one for all of them, and of the same size.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> here, there = torch.rand(2, 1, 3, 64, 64)
    >>> every = [f"mixed4c:{channel}" for channel in range(model.layer("mixed4c").channels)]
    >>> with patch(model, every, there):
    ...     patched = model(here)
    >>> torch.allclose(patched, model(there), atol=1e-4)
    True
    """
    channels = _by_layer(_units(model, units))
    with torch.no_grad():
        taken = _read(model, list(channels), images)
    edits = {layer: partial(_put, channels[layer], taken[layer]) for layer in channels}
    with probe(model, [], edits=edits, stop=False):
        yield


def verify(
    model: Model,
    graph: nx.DiGraph[str],
    images: Tensor,
    *,
    ablation: float | str = "mean",
    batch: int = 32,
    progress: bool = True,
) -> nx.DiGraph[str]:
    """Check every edge of ``graph`` by experiment on ``images``; give a copy whose edges carry the result.

    For an edge A -> B, A is held at its mean over the images and positions (or at the number ``ablation``), only as B
    sees it: the other layers of the graph keep the values that they had. The effect of A is B with A less B without.
    *Predicted* is what the linear map between the layers says (`circuits.wiring.linear_map`: every border and stride as
    it is), *measured* what the network does. Of each image one position counts: where B is on (with or without A) and
    the prediction goes furthest in the direction of the edge's weight. Edges get

    - predicted, measured: float, means over the images that count
    - agreement: float in [0, 1], the part of them on which the effect has the sign of the edge's weight
    - tested: int, how many they are
    - verdict: ``confirmed`` (the sign of the weight, at least 2 standard errors from 0, at least a tenth of the
      prediction), ``contradicted`` (the other sign, as surely), ``weak`` (neither), ``untestable`` (under 5 images
      count)

    and ``graph.graph`` gets ablation, images (their number) and verdicts (JSON: verdict to number of edges). B is read
    where the graph has it, after its nonlinearity; what ReLUs on the way hold back makes measured smaller than
    predicted.

    Raises ``ValueError`` for a graph that breaks the schema, is of another network or has no edges, and for no images.

    >>> from circuits.graphs import build_graph
    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> graph = build_graph(model, ["conv2d0", "conv2d1"], keep=1, progress=False)
    >>> checked = verify(model, graph, torch.rand(6, 3, 64, 64), progress=False)
    >>> sum(json.loads(checked.graph["verdicts"]).values()) == graph.number_of_edges()
    True
    """
    _check_experiment(model, graph, images, ablation)
    layers = json.loads(graph.graph["layers"])
    effects: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    constants = _constants(model, graph, images, ablation)
    parts = torch.split(images, batch)
    for part in tqdm(parts, desc="verifying", unit="batch", disable=not progress, leave=False):
        clean = _read(model, layers, part.to(device=model.device, dtype=model.dtype))
        for source, target in _layer_pairs(graph):
            held = layers[layers.index(source) + 1 : layers.index(target)]
            trial = _Trial(model, part.to(device=model.device, dtype=model.dtype), clean, source, target, held)
            for edge, effect in trial.effects(graph, constants):
                effects[edge].append(effect)
    checked = graph.copy()
    for edge, pieces in effects.items():
        predicted, measured = (torch.cat(piece).double() for piece in zip(*pieces, strict=True))
        checked.edges[edge].update(_judge(predicted, measured, graph.edges[edge]["weight"]))
    verdicts = Counter(verdict for _, _, verdict in checked.edges(data="verdict"))
    checked.graph.update(ablation=ablation, images=len(images), verdicts=json.dumps(dict(sorted(verdicts.items()))))
    return checked


@dataclass(frozen=True)
class _Trial:
    """One batch of images and one pair of layers: all source units are ablated one by one, all their targets read at
    once."""

    model: Model
    images: Tensor
    clean: Mapping[str, Tensor]
    source: str
    target: str
    held: Sequence[str]

    def effects(
        self, graph: nx.DiGraph[str], constants: Mapping[str, float]
    ) -> Iterator[tuple[tuple[str, str], tuple[Tensor, Tensor]]]:
        """Give for each edge the predicted and the measured effect on the images that count."""
        push = linear_map(self.model, self.source, self.target, images=self.images, cut=self.held)
        for unit, targets in _targets(graph, self.source, self.target).items():
            channel, channels = Unit.of(unit).channel, [Unit.of(target).channel for target in targets]
            change = torch.zeros_like(self.clean[self.source])
            change[:, channel] = self.clean[self.source][:, channel] - constants[unit]
            without = _maps(self._without(channel, constants[unit]))[:, channels]
            with_it = _maps(self.clean[self.target])[:, channels]
            predicted = _maps(push(change).detach())[:, channels]
            for place, target in enumerate(targets):
                sign = math.copysign(1.0, graph.edges[unit, target]["weight"])
                yield (unit, target), _at_best(predicted[:, place], with_it[:, place], without[:, place], sign)

    def _without(self, channel: int, constant: float) -> Tensor:
        edits: dict[str, Edit] = {name: partial(_put_all, self.clean[name]) for name in self.held}
        edits[self.source] = partial(_set_constant, {channel: constant})
        with torch.no_grad(), probe(self.model, [self.target], edits=edits) as activations:
            self.model(self.images)
            return activations[self.target]


def _at_best(predicted: Tensor, with_it: Tensor, without: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """Choose in each image (n, positions) the position that counts; leave out images that have none."""
    able = ((with_it != 0) | (without != 0)) & (predicted * sign > 0)
    best = torch.where(able, predicted * sign, -1.0).argmax(1, keepdim=True)
    counts = able.any(1)
    measured = (with_it - without).gather(1, best)[counts, 0]
    return predicted.gather(1, best)[counts, 0], measured


def _judge(predicted: Tensor, measured: Tensor, weight: float) -> dict[str, float | int | str]:
    tested = len(measured)
    sign = math.copysign(1.0, weight)
    if tested == 0:
        return {"predicted": 0.0, "measured": 0.0, "agreement": 0.0, "tested": 0, "verdict": "untestable"}
    expected, found = predicted.mean().item(), measured.mean().item()
    error = measured.std().item() / math.sqrt(tested) if tested > 1 else math.inf
    verdict = "weak"
    if tested < FEWEST:
        verdict = "untestable"
    elif sign * found < -CERTAIN * error:
        verdict = "contradicted"
    elif sign * found > CERTAIN * error and abs(found) >= FAINT * abs(expected):
        verdict = "confirmed"
    agreement = (measured * sign > 0).double().mean().item()
    return {"predicted": expected, "measured": found, "agreement": agreement, "tested": tested, "verdict": verdict}


def _layer_pairs(graph: nx.DiGraph[str]) -> list[tuple[str, str]]:
    layer = nx.get_node_attributes(graph, "layer")
    return list(dict.fromkeys((layer[source], layer[target]) for source, target in graph.edges))


def _targets(graph: nx.DiGraph[str], source: str, target: str) -> dict[str, list[str]]:
    layer = nx.get_node_attributes(graph, "layer")
    found: dict[str, list[str]] = defaultdict(list)
    for start, end in graph.edges:
        if layer[start] == source and layer[end] == target:
            found[start].append(end)
    return found


def _constants(model: Model, graph: nx.DiGraph[str], images: Tensor, ablation: float | str) -> dict[str, float]:
    sources = [node for node, degree in graph.out_degree() if degree]
    values = _values(model, [model.unit(node) for node in sources], ablation, images)
    return {node: values[unit.layer][unit.channel] for node in sources for unit in [Unit.of(node)]}


def _units(model: Model, units: Iterable[Unit | str] | Unit | str) -> list[Unit]:
    chosen = [units] if isinstance(units, (Unit, str)) else list(units)
    if not chosen:
        raise ValueError("no unit was given: name at least one, for example 'mixed4b:409'")
    return [model.unit(unit) for unit in chosen]


def _by_layer(units: Iterable[Unit]) -> dict[str, list[int]]:
    channels: dict[str, list[int]] = defaultdict(list)
    for unit in units:
        channels[unit.layer].append(unit.channel)
    return dict(channels)


def _values(
    model: Model, units: Sequence[Unit], value: float | str | Mapping[str, float], images: Tensor | None
) -> dict[str, dict[int, float]]:
    """Give the number at which each unit is held: layer -> channel -> number."""
    if isinstance(value, str):
        return _means(model, units, value, images)
    given = {str(unit): value.get(str(unit)) if isinstance(value, Mapping) else value for unit in units}
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"unit {name!r} is to be held at {number!r}: give a finite number, a mapping, or 'mean'")
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for unit in units:
        values[unit.layer][unit.channel] = float(given[str(unit)])  # type: ignore[arg-type]
    return dict(values)


def _means(model: Model, units: Sequence[Unit], value: str, images: Tensor | None) -> dict[str, dict[int, float]]:
    if value != "mean":
        raise ValueError(f"an ablation is a number, a mapping from unit to number, or 'mean', not {value!r}")
    if images is None:
        raise ValueError("the mean of a unit is taken over images: give images=, (n, channels, h, w) in [0, 1]")
    channels = _by_layer(units)
    totals = {layer: torch.zeros(model.layer(layer).channels, dtype=torch.float64) for layer in channels}
    with torch.no_grad():
        for part in torch.split(images, 32):
            taken = _read(model, list(channels), part)
            for layer, total in totals.items():
                total += _maps(taken[layer]).double().mean(2).sum(0).cpu()
    return {layer: {c: (totals[layer][c] / len(images)).item() for c in channels[layer]} for layer in channels}


def _read(model: Model, layers: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), probe(model, layers) as activations:
        model(images)
        return {layer: activations[layer].detach().clone() for layer in layers}


def _maps(activations: Tensor) -> Tensor:
    """Give activations as (n, c, positions); one position where there is no map."""
    return activations.reshape(*activations.shape[:2], -1)


def _set_constant(values: Mapping[int, float], activations: Tensor) -> Tensor:
    changed = activations.clone()
    for channel, value in values.items():
        changed[:, channel] = value
    return changed


def _put(channels: Sequence[int], taken: Tensor, activations: Tensor) -> Tensor:
    if len(taken) not in {1, len(activations)} or taken.shape[1:] != activations.shape[1:]:
        raise ValueError(
            f"patched activations have shape {tuple(taken.shape)}, the network's now {tuple(activations.shape)}: "
            "show as many images of the same size, or patch from one"
        )
    changed = activations.clone()
    changed[:, channels] = taken[:, channels]
    return changed


def _put_all(taken: Tensor, activations: Tensor) -> Tensor:
    return taken


def _check_experiment(model: Model, graph: nx.DiGraph[str], images: Tensor, ablation: float | str) -> None:
    check_graph(graph)
    if graph.graph["digest"] != model.digest:
        raise ValueError(
            f"the graph was built from other weights (of {graph.graph['model']!r}): build it from this model"
        )
    if graph.number_of_edges() == 0:
        raise ValueError("the graph has no edges: there is nothing to verify")
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(
            f"images have shape {tuple(images.shape)}: give (n, channels, h, w) in [0, 1], at least {FEWEST}"
        )
