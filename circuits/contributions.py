"""Contributions: a circuit asked for one picture, or for a unit's best examples: weight times activation."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from torch import Tensor
from tqdm import tqdm

from circuits.graphs import check_graph
from circuits.wiring import flow
from circuits.wiring.segments import run
from circuits.wiring.watching import preactivations
from features.models import Model, probe
from features.units import Unit

BATCH = 32  # images at once
ROWS = 2**26  # numbers of source gradients that one batched backward pass gives at once: 256 MB in float32


def measure_contributions(
    model: Model,
    graph: nx.DiGraph[str],
    images: Tensor | Mapping[str, Tensor],
    *,
    progress: bool = True,
) -> nx.DiGraph[str]:
    """Give ``graph`` with what each edge carries on these images: ``activation x weight`` at the target's best place.

    ``images`` are ``(n, channels, h, w)`` in [0, 1], for all units alike: one picture, or the best examples of the unit
    that the circuit is about; or a mapping from target unit to its own images, such as each one's best examples (units
    that it does not name keep their edges as they are). For each image the target is looked at where its
    pre-activation, what it is before the activation function that ends it, is largest. There

    ``contribution = sum over the window of w[o, i, y, x] * a[i, y, x]``

    with ``w`` the wires of `circuits.connect` (linear by its rules, other layers of the graph held, borders and strides
    as they are on these images) and ``a`` the real activations; the mean over the images is taken. Edges get

    - contribution: float, signed: what this source gives to the target's pre-activation
    - contribution_rank: int, 0 for the edge of its target with the largest absolute contribution

    and nodes, targets all of these and the others ``activation`` alone,

    - activation: float, mean over the images of the unit's value at that place; of a unit without inputs, its maximum
    - preactivation: float, the same before the last activation function
    - listed: float, sum of the contributions of the edges that the graph has
    - unlisted: float, sum of those of all other channels of the layers that feed the unit
    - rest: float, ``preactivation - listed - unlisted``: the bias, a batch norm's too, where the layers are neighbours
      (``w * a`` is exact for one adjacent pre-activation; Cammarata et al. 2020, "Curve Detectors"), and what the
      linear wires get wrong where nonlinearities lie between

    ``graph.graph`` gets contribution_images, the number of images (0 for a mapping).

    Raises ``ValueError`` for a graph that breaks the schema, has no edges or is of another network, and for no images.

    >>> from circuits.graphs import build_graph
    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> graph = build_graph(model, ["conv2d1", "conv2d2"], keep=3, progress=False)
    >>> seen = measure_contributions(model, graph, torch.rand(2, 3, 64, 64), progress=False)
    >>> sorted(seen.nodes["conv2d2:0"].keys() - graph.nodes["conv2d2:0"].keys())
    ['activation', 'listed', 'preactivation', 'rest', 'unlisted']
    """
    _check(model, graph, images)
    layers = json.loads(graph.graph["layers"])
    feeding = flow(model, layers)
    seen = graph.copy()
    jobs = _jobs(graph, images)
    for target, channels, shown in tqdm(jobs, desc="contributions", unit="layer", disable=not progress, leave=False):
        held = [name for name in layers if name != target]
        parts = [_measure(model, feeding[target], target, channels, held, part) for part in torch.split(shown, BATCH)]
        _note(seen, target, channels, _sum(parts), len(shown))
    if isinstance(images, Tensor):
        _note_inputs(model, seen, images)
    seen.graph["contribution_images"] = len(images) if isinstance(images, Tensor) else 0
    return seen


@dataclass(frozen=True)
class _Sums:
    """Sums over images, for the wanted channels of one layer: by source layer ``(k, i)``, and ``(k,)`` of the rest."""

    sources: dict[str, Tensor]
    activation: Tensor
    preactivation: Tensor


def _jobs(graph: nx.DiGraph[str], images: Tensor | Mapping[str, Tensor]) -> list[tuple[str, list[int], Tensor]]:
    """Give the target units to look at by layer, as many at once as are shown the same images."""
    targets = [Unit.of(node) for node, degree in graph.in_degree() if degree]
    if not isinstance(images, Tensor):
        return [(unit.layer, [unit.channel], images[str(unit)]) for unit in targets if str(unit) in images]
    channels: dict[str, list[int]] = defaultdict(list)
    for unit in targets:
        channels[unit.layer].append(unit.channel)
    return [(layer, found, images) for layer, found in channels.items()]


def _measure(
    model: Model, sources: Sequence[str], target: str, channels: list[int], held: Sequence[str], images: Tensor
) -> _Sums:
    before = _maps(preactivations(model, target, images))[:, channels]
    with torch.no_grad(), probe(model, [target]) as activations:
        model(images)
        after = _maps(activations[target])[:, channels]
    places = before.argmax(2, keepdim=True)
    carried = {}
    for source in sources:
        segment = run(model, source, target, [name for name in held if name != source], images)
        looked_at = _maps(segment.output)[:, channels].gather(2, places)[:, :, 0]
        carried[source] = _products(looked_at, segment.leaf)
    return _Sums(carried, *(_total(values.gather(2, places)[:, :, 0]) for values in (after, before)))


@torch.enable_grad()
def _products(values: Tensor, leaf: Tensor) -> Tensor:
    """Give for each of ``values``, (n, k), the derivative times the leaf, summed over images and places: (k, i)."""
    unit = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    total, rows = values.sum(0), max(1, ROWS // leaf.numel())
    parts = []
    for some in torch.split(unit, rows):
        (gradient,) = torch.autograd.grad(total, leaf, some, retain_graph=True, is_grads_batched=True)
        parts.append((gradient * leaf.detach()).transpose(1, 2).flatten(2).double().sum(2).cpu())
    return torch.cat(parts)


def _note(graph: nx.DiGraph[str], target: str, channels: list[int], sums: _Sums, count: int) -> None:
    """Write down the means over ``count`` images."""
    for place, channel in enumerate(channels):
        node = f"{target}:{channel}"
        carried = {source: (values[place] / count).tolist() for source, values in sums.sources.items()}
        edges = {source: _carried(carried, source) for source in graph.predecessors(node)}
        ranked = sorted(edges, key=lambda source: -abs(edges[source]))
        for rank, source in enumerate(ranked):
            graph.edges[source, node].update(contribution=edges[source], contribution_rank=rank)
        listed, everything = math.fsum(edges.values()), math.fsum(value for each in carried.values() for value in each)
        preactivation = sums.preactivation[place].item() / count
        graph.nodes[node].update(
            activation=sums.activation[place].item() / count,
            preactivation=preactivation,
            listed=listed,
            unlisted=everything - listed,
            rest=preactivation - everything,
        )


def _carried(carried: Mapping[str, Sequence[float]], node: str) -> float:
    unit = Unit.of(node)
    if unit.layer not in carried:
        fed = ", ".join(carried) or "no layer of the graph"
        raise ValueError(f"layer {unit.layer!r} does not feed the layer that its edges lead to, which {fed} does")
    return carried[unit.layer][unit.channel]


def _note_inputs(model: Model, graph: nx.DiGraph[str], images: Tensor) -> None:
    """Write down how strongly the units without inputs fire at their best place."""
    units = [Unit.of(node) for node, degree in graph.in_degree() if not degree]
    layers = sorted({unit.layer for unit in units})
    totals = {name: torch.zeros(model.layer(name).channels, dtype=torch.float64) for name in layers}
    for part in torch.split(images, BATCH) if layers else ():
        with torch.no_grad(), probe(model, layers) as activations:
            model(part)
            for name, total in totals.items():
                total += _maps(activations[name]).amax(2).sum(0).double().cpu()
    for unit in units:
        graph.nodes[str(unit)]["activation"] = (totals[unit.layer][unit.channel] / len(images)).item()


def _sum(parts: list[_Sums]) -> _Sums:
    sources = {name: torch.stack([part.sources[name] for part in parts]).sum(0) for name in parts[0].sources}
    activation, preactivation = (
        torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("activation", "preactivation")
    )
    return _Sums(sources, activation, preactivation)


def _total(values: Tensor) -> Tensor:
    return values.double().sum(0).cpu()


def _maps(activations: Tensor) -> Tensor:
    """Give activations as (n, c, positions); one position where there is no map."""
    return activations.reshape(*activations.shape[:2], -1)


def _check(model: Model, graph: nx.DiGraph[str], images: Tensor | Mapping[str, Tensor]) -> None:
    check_graph(graph)
    if graph.graph["digest"] != model.digest:
        raise ValueError(
            f"the graph was built from other weights (of {graph.graph['model']!r}): build it from this model"
        )
    if graph.number_of_edges() == 0:
        raise ValueError("the graph has no edges: nothing contributes to anything")
    if isinstance(images, Mapping):
        strangers = [name for name in images if name not in graph or not graph.in_degree(name)]
        if strangers or not images:
            what = f"{strangers[0]!r} is no unit with inputs in this graph" if strangers else "no unit was given images"
            raise ValueError(f"{what}: map units such as {next(iter(graph.edges))[1]!r} to their images")
    for name, shown in images.items() if isinstance(images, Mapping) else [("", images)]:
        if not isinstance(shown, Tensor):
            raise TypeError(f"images are {type(shown).__name__}: give a tensor (n, channels, h, w) or a mapping")
        if shown.dim() != 4 or len(shown) == 0:
            whose = f" of {name!r}" if name else ""
            raise ValueError(f"images{whose} have shape {tuple(shown.shape)}: give (n, channels, h, w) in [0, 1]")
