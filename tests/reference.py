"""Slow, obvious versions of what the packages do, sharing no code with them; a section for each test file."""

from __future__ import annotations

import hashlib
import itertools
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from features.models import Layer, Model, probe

# Examples: the network image by image, every value in a Python list, sorted by Python.


def slow_examples(model: Model, dataset: Any, layer: str, count: int) -> dict[str, np.ndarray]:
    """What `features.examples.find_examples` says of ``layer`` of a network whose values are all finite."""
    described = model.layer(layer)
    images = [dataset[index][0] for index in range(len(dataset))]
    labels = [dataset[index][1] for index in range(len(dataset))]
    values = []
    for image in images:
        with torch.no_grad(), probe(model, layer) as activations:
            model(image[None])
            values.append(activations[layer][0].double().numpy())
    names = ("value", "image", "label", "position", "box", "vectors")
    found: dict[str, list[Any]] = {f"{side}{name}": [] for side in ("", "bottom_") for name in names}
    found |= {name: [] for name in ("mean", "sd", "minimum", "maximum", "firing_rate", "dead", "nonfinite")}
    for channel in range(described.channels):
        every = [float(number) for value in values for number in value[channel].flatten()]
        mean = math.fsum(every) / len(every)
        found["mean"].append(mean)
        found["sd"].append(math.sqrt(math.fsum((number - mean) ** 2 for number in every) / len(every)))
        found["minimum"].append(min(every))
        found["maximum"].append(max(every))
        found["firing_rate"].append(sum(number > 0 for number in every) / len(every))
        found["dead"].append(min(every) == 0 == max(every))
        found["nonfinite"].append(0)
        best = [(float(value[channel].max()), index) for index, value in enumerate(values)]
        top = sorted(best, key=lambda pair: (-pair[0], pair[1]))[:count]
        if min(every) >= 0:
            top = [pair for pair in top if pair[0] > 0]
        for side, chosen in (("", top), ("bottom_", sorted(best)[:count])):
            rows = [
                _slow_row(described, values[index], channel, value, index, labels[index], model)
                for value, index in chosen
            ]
            width = described.channels
            rows += [(math.nan, -1, -1, (0, 0), (0, 0, 0, 0), [0.0] * width)] * (count - len(rows))
            for name, column in zip(names, zip(*rows, strict=True), strict=True):
                found[f"{side}{name}"].append(column)
    del found["bottom_vectors"]
    return {name: np.array(column) for name, column in found.items()}


def _slow_row(
    layer: Layer, values: np.ndarray, channel: int, value: float, index: int, label: int, model: Model
) -> tuple[float, int, int, tuple[int, int], tuple[int, int, int, int], list[float]]:
    shape = values.shape[1:]
    place = next(place for place in np.ndindex(*shape) if values[(channel, *place)] == value)
    position = (*place, 0, 0)[:2]
    height, width = model.image_size
    y0, x0, y1, x1 = (0, 0, height, width) if layer.field is None or len(shape) != 2 else layer.field.box(place)
    box = (max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
    vector = [float(values[(other, *place)]) for other in range(len(values))]
    return value, index, label, (int(position[0]), int(position[1])), box, vector


def slow_pools(model: Model, dataset: Any, layer: str, count: int, classes: int) -> dict[str, np.ndarray]:
    """What the same says of means over positions, of classes, and of a sample that holds every image."""
    described = model.layer(layer)
    labels = [dataset[index][1] for index in range(len(dataset))]
    values = []
    for index in range(len(dataset)):
        with torch.no_grad(), probe(model, layer) as activations:
            model(dataset[index][0][None])
            values.append(activations[layer][0].double().numpy())
    columns = ("value", "image", "label", "position", "box")
    found: dict[str, list[Any]] = {f"{side}{name}": [] for side in ("mean_", "mean_bottom_") for name in columns}
    found |= {name: [] for name in ("class_mean", "sample_value", "sample_position", "field")}
    for channel in range(described.channels):
        means = [math.fsum(value[channel].flatten().tolist()) / value[channel].size for value in values]
        peaks = [float(value[channel].max()) for value in values]
        ascending = sorted((mean, index) for index, mean in enumerate(means))
        descending = sorted((-mean, index) for index, mean in enumerate(means))
        if min(float(value[channel].min()) for value in values) >= 0:
            descending = [(mean, index) for mean, index in descending if mean < 0]
        places = [
            _slow_row(described, values[index], channel, peaks[index], index, labels[index], model)
            for index in range(len(values))
        ]
        for side, order in (("mean_", descending), ("mean_bottom_", ascending)):
            rows = [(means[index], *places[index][1:5]) for _, index in order[:count]]
            rows += [(math.nan, -1, -1, (0, 0), (0, 0, 0, 0))] * (count - len(rows))
            for name, column in zip(columns, zip(*rows, strict=True), strict=True):
                found[f"{side}{name}"].append(column)
        by_class = [
            [mean for mean, label in zip(means, labels, strict=True) if label == each] for each in range(classes)
        ]
        found["class_mean"].append([math.fsum(each) / len(each) if each else math.nan for each in by_class])
        found["sample_value"].append(peaks)
        found["sample_position"].append([place[3] for place in places])
        best = sorted(range(len(peaks)), key=lambda index: (-peaks[index], index))[:count]
        found["field"].append([_slow_field(described, places[index][3], model) for index in best])
    return {name: np.array(column) for name, column in found.items()}


def _slow_field(layer: Layer, position: tuple[int, int], model: Model) -> tuple[int, int, int, int]:
    return (0, 0, *model.image_size) if layer.field is None or len(layer.shape) != 3 else layer.field.box(position)


# Activations and models: every module's forward wrapped by hand; receptive fields as the pixels that have a gradient.


def outputs_of_calls(net: torch.nn.Module, images: torch.Tensor, *, copy: bool = True) -> dict[str, torch.Tensor]:
    """What every call of every module gave, in order of return, copied at once if ``copy``; '' is the network."""
    outputs: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def wrap(name: str, module: torch.nn.Module) -> None:
        forward = module.forward

        def recording(*args: Any, **kwargs: Any) -> Any:
            number = counts.get(name, 0)
            counts[name] = number + 1
            output = forward(*args, **kwargs)
            tensor = output[0] if isinstance(output, tuple) else output
            outputs[f"{name}#{number}" if number else name] = tensor.clone() if copy else tensor
            return output

        module.forward = recording

    for name, module in net.named_modules():
        wrap(name, module)
    try:
        with torch.no_grad():
            net(images)
    finally:
        for module in net.modules():
            del module.forward
    return outputs


def receptive_box(model: Model, layer: str, position: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """The smallest box ``(y0, x0, y1, x1)`` of pixels that change ``layer`` at ``position``, over random images."""
    reached = np.zeros((size, size), dtype=bool)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(8, model.channels, size, size, generator=generator, dtype=torch.float64).requires_grad_()
        with probe(model, layer) as activations:
            model(images)
            value = activations[layer][:, :, position[0], position[1]]
            (value * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum().backward()
        assert images.grad is not None
        reached |= (images.grad != 0).any(dim=0).any(dim=0).numpy()
    rows, columns = np.nonzero(reached.any(axis=1))[0], np.nonzero(reached.any(axis=0))[0]
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


# Wiring: the network made linear by swapping functions, its map felt out with one impulse at a time.


@contextmanager
def linear_functions(frozen: list[torch.Tensor]) -> Iterator[None]:
    """Let everything through ReLU and its kin, average in max pooling; ``frozen`` holds, in order, what layer norms and
    response norms divide by and what softmax and sigmoid gave."""
    left = list(frozen)

    def same(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return x

    def average(
        x: torch.Tensor, size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return F.avg_pool2d(x, size, stride, padding)

    def norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / left.pop(0) * weight + bias

    def divided(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return x / left.pop(0)

    def given(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        value = left.pop(0)
        return value.repeat(len(x) // len(value), *[1] * (value.dim() - 1))

    with pytest.MonkeyPatch.context() as patch:
        for home, name in (
            (F, "relu"),
            (F, "relu_"),
            (F, "relu6"),
            (F, "hardtanh"),
            (F, "gelu"),
            (torch, "relu"),
            (torch.Tensor, "clamp"),
        ):
            patch.setattr(home, name, same)
        patch.setattr(F, "max_pool2d", average)
        patch.setattr(F, "layer_norm", norm)
        patch.setattr(F, "local_response_norm", divided)
        patch.setattr(F, "softmax", given)
        patch.setattr(torch, "sigmoid", given)
        yield


@contextmanager
def noted_values() -> Iterator[list[torch.Tensor]]:
    """Give the list that the body adds to, in order, what `linear_functions` is to hold frozen."""
    noted: list[torch.Tensor] = []
    true = {"norm": F.layer_norm, "response": F.local_response_norm, "softmax": F.softmax, "sigmoid": torch.sigmoid}

    def norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
        noted.append((x.var(-1, unbiased=False, keepdim=True) + eps).sqrt())
        return true["norm"](x, shape, weight, bias, eps)

    def response(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        value = true["response"](x, *args, **kwargs)
        noted.append(x / value)
        return value

    def keeping(name: str) -> Any:
        def function(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            noted.append(true[name](x, *args, **kwargs))
            return noted[-1]

        return function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "layer_norm", norm)
        patch.setattr(F, "local_response_norm", response)
        patch.setattr(F, "softmax", keeping("softmax"))
        patch.setattr(torch, "sigmoid", keeping("sigmoid"))
        yield noted


def slow_connect(
    model: Model, source: str, target: str, size: int, place: tuple[int, int] | None = None
) -> torch.Tensor:
    """What the target's central position (or another) gets from one more of each number of the source's map:
    ``(o, i, h, w)``.

    On a grey image of side ``size``; exact because the network is linear.
    """
    grey = torch.full((1, model.channels, size, size), 0.5, dtype=torch.float64)
    with torch.no_grad(), noted_values() as frozen, probe(model, [source, target]) as activations:
        model(grey)
        _, channels, h, w = activations[source].shape

    def centre(impulses: torch.Tensor) -> torch.Tensor:
        edits = {source: lambda value: value + impulses}
        with torch.no_grad(), linear_functions(frozen), probe(model, [target], edits=edits) as activations:
            model(grey.expand(len(impulses), -1, -1, -1))
            found = activations[target]
            if found.dim() == 2:
                return found
            y, x = place or (found.shape[2] // 2, found.shape[3] // 2)
            return found[:, :, y, x]

    kernels = []
    for channel in range(channels):
        impulses = torch.zeros(h * w + 1, channels, h, w, dtype=torch.float64)
        for spot in range(h * w):
            impulses[spot, channel, spot // w, spot % w] = 1
        found = centre(impulses)
        kernels.append((found[:-1] - found[-1]).T.reshape(-1, h, w))
    return torch.stack(kernels, 1)


def window_of(kernels: torch.Tensor) -> torch.Tensor:
    """Cut kernels ``(o, i, h, w)`` down to the smallest box that holds everything that is not 0."""
    used = kernels.abs().amax((0, 1)) > 1e-12
    rows, columns = used.any(1).nonzero()[:, 0], used.any(0).nonzero()[:, 0]
    return kernels[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# Objectives: lucid's formulas (optvis/objectives.py), one number at a time, on arrays (n, c, h, w).


def slow_alignment(maps: np.ndarray, decay: float) -> float:
    """lucid's ``alignment`` of a group, without its sign."""
    total = 0.0
    for apart in (1, 2, 3, 4):
        for first in range(len(maps) - apart):
            total += float(np.mean((maps[first] - maps[first + apart]) ** 2)) / decay**apart
    return total


def slow_diversity(maps: np.ndarray) -> list[float]:
    """The likeness of each picture to the others, the sum of cosines of Gram matrices; lucid has the mean of these."""
    grams = []
    for one in maps:
        vectors = [one[:, y, x] for y in range(one.shape[1]) for x in range(one.shape[2])]
        gram = sum(np.outer(vector, vector) for vector in vectors)
        grams.append(gram / math.sqrt(float((gram**2).sum())))
    pairs = [[float((a * b).sum()) for j, b in enumerate(grams) if j != i] for i, a in enumerate(grams)]
    return [math.fsum(row) for row in pairs]


def slow_blurred(plane: np.ndarray, size: int) -> np.ndarray:
    """lucid's ``_tf_blur`` of one channel ``(h, w)``: the outer ring of the window at half weight, nothing beyond the
    border."""
    height, width = plane.shape
    reach = size // 2
    result = np.zeros_like(plane)
    for y, x in np.ndindex(height, width):
        total = weights = 0.0
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    weight = 0.5 if reach in (abs(dy), abs(dx)) else 1.0
                    total += weight * plane[y + dy, x + dx]
                    weights += weight
        result[y, x] = total / weights
    return result


def slow_boundary(image: np.ndarray, width: int, value: float) -> float:
    """The root of lucid's ``penalize_boundary_complexity`` of ``(c, h, w)`` over the number of values in the border."""
    costs = []
    for plane in image:
        blurred = slow_blurred(plane, 5)
        for y, x in np.ndindex(*plane.shape):
            if min(y, x, plane.shape[0] - 1 - y, plane.shape[1] - 1 - x) < width:
                costs.append((blurred[y, x] - plane[y, x]) ** 2 + 0.8 * (plane[y, x] - value) ** 2)
    return math.sqrt(math.fsum(costs) / len(costs))


def slow_variation(image: np.ndarray) -> float:
    """The anisotropic total variation of ``(c, h, w)`` over the number of its values."""
    total = 0.0
    for plane in image:
        for y, x in np.ndindex(*plane.shape):
            total += abs(plane[y + 1, x] - plane[y, x]) if y + 1 < plane.shape[0] else 0.0
            total += abs(plane[y, x + 1] - plane[y, x]) if x + 1 < plane.shape[1] else 0.0
    return total / image.size


def slow_gram(maps: np.ndarray) -> np.ndarray:
    """The mean over positions of the outer product of ``(c, h, w)``'s activation vectors."""
    _, height, width = maps.shape
    return sum(np.outer(maps[:, y, x], maps[:, y, x]) for y in range(height) for x in range(width)) / (height * width)


def slow_term(vector: np.ndarray, along: np.ndarray, power: float) -> float:
    """``(a · v) max(0.1, cos)^p`` of one activation vector."""
    cosine = vector @ along / np.linalg.norm(vector) / np.linalg.norm(along)
    return float(vector @ along * max(0.1, cosine) ** power)


# Gated wiring: each activation function multiplied by the slope that finite differences give it, call by call.


@contextmanager
def gated_functions(slopes: list[torch.Tensor], *, measure: bool) -> Iterator[None]:
    """Let ReLU and its kin measure their mean slope per channel (axis 1), or multiply by the slopes in their order."""
    left = list(slopes)
    step = 1e-7

    def gate(highest: float) -> Any:
        def rectified(x: torch.Tensor) -> torch.Tensor:
            return torch.minimum(torch.maximum(x, torch.zeros_like(x)), torch.full_like(x, highest))

        def measured(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            slope = (rectified(x + step) - rectified(x - step)) / (2 * step)
            slopes.append(slope.mean((0, 2, 3))[None, :, None, None])
            return rectified(x)

        def multiplied(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return x * left.pop(0)

        return measured if measure else multiplied

    def average(
        x: torch.Tensor, size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return F.avg_pool2d(x, size, stride, padding)

    with pytest.MonkeyPatch.context() as patch:
        for home, name in ((F, "relu"), (F, "relu_"), (torch, "relu"), (torch.Tensor, "clamp")):
            patch.setattr(home, name, gate(math.inf))
        for name in ("relu6", "hardtanh"):
            patch.setattr(F, name, gate(6.0))
        if not measure:
            patch.setattr(F, "max_pool2d", average)
        yield


def slow_gated(model: Model, source: str, target: str, images: torch.Tensor, size: int) -> torch.Tensor:
    """The target's central position for one more of each number of the source's map, ReLUs weighted: (o, i, h, w)."""
    slopes: list[torch.Tensor] = []
    with torch.no_grad(), gated_functions(slopes, measure=True), probe(model, [target]):
        model(images)
    grey = torch.full((1, model.channels, size, size), 0.5, dtype=torch.float64)
    with torch.no_grad(), probe(model, [source]) as activations:
        model(grey)
        _, channels, h, w = activations[source].shape

    def centre(impulses: torch.Tensor) -> torch.Tensor:
        edits = {source: lambda value: value + impulses}
        with torch.no_grad(), gated_functions(slopes, measure=False), probe(model, [target], edits=edits) as found:
            model(grey.expand(len(impulses), -1, -1, -1))
            return found[target][:, :, found[target].shape[2] // 2, found[target].shape[3] // 2]

    kernels = []
    for channel in range(channels):
        impulses = torch.zeros(h * w + 1, channels, h, w, dtype=torch.float64)
        for place in range(h * w):
            impulses[place, channel, place // w, place % w] = 1
        response = centre(impulses)
        kernels.append((response[:-1] - response[-1]).T.reshape(-1, h, w))
    return torch.stack(kernels, 1)


# Graphs: every wire by itself, in Python's numbers, sorted by Python.


def slow_graph(
    kernels: dict[tuple[str, str], np.ndarray], targets: dict[str, list[str]], keep: int, by: str
) -> tuple[dict[str, float], dict[tuple[str, str], dict[str, float]]]:
    """What `build_graph` says of kernels ``(o, i, kh, kw)`` of pairs (source, target), and of which layers feed which:
    the part that each unit keeps, and the edges."""
    parts: dict[str, float] = {}
    edges: dict[tuple[str, str], dict[str, float]] = {}
    for target, sources in targets.items():
        for o in range(len(kernels[sources[0], target]) if sources else 0):
            found = []
            for source in sources:
                for i in range(kernels[source, target].shape[1]):
                    numbers = _slow_wire(kernels[source, target][o, i])
                    if numbers is not None and abs(numbers[by]) > 0:
                        found.append((f"{source}:{i}", numbers))
            total = math.fsum(abs(numbers[by]) for _, numbers in found)
            chosen = sorted(found, key=lambda wire: -abs(wire[1][by]))[:keep]  # Python's sort keeps the order of ties
            for rank, (unit, numbers) in enumerate(chosen):
                edges[unit, f"{target}:{o}"] = {**numbers, "share": abs(numbers[by]) / total, "rank": rank}
            parts[f"{target}:{o}"] = math.fsum(abs(n[by]) for _, n in chosen) / total if found else 1.0
    return parts, edges


def _slow_wire(kernel: np.ndarray) -> dict[str, float] | None:
    values = [[float(number) for number in row] for row in kernel]
    flat = [number for row in values for number in row]
    if not all(math.isfinite(number) for number in flat):
        return None
    largest = max(abs(number) for number in flat)
    y, x = next((y, x) for y, row in enumerate(values) for x, number in enumerate(row) if abs(number) == largest)
    return {
        "weight": math.fsum(flat),
        "strength": math.sqrt(math.fsum(number * number for number in flat)),
        "excitation": math.fsum(number for number in flat if number > 0),
        "inhibition": math.fsum(number for number in flat if number < 0),
        "peak_y": y - (len(values) - 1) / 2,
        "peak_x": x - (len(values[0]) - 1) / 2,
    }


def slow_chance(kernels: list[list[float]], wire: int) -> float:
    """How often a shuffle of all weights of ``kernels`` gives a kernel as strong as ``kernels[wire]``, by trying
    every order."""
    pool = [number for kernel in kernels for number in kernel]
    size = len(kernels[wire])
    seen = [
        math.fsum(order[place] ** 2 for place in range(size)) >= math.fsum(x * x for x in kernels[wire]) - 1e-12
        for order in itertools.permutations(pool)
    ]
    return sum(seen) / len(seen)


def slow_discovery_rates(p_values: list[float], tests: int) -> list[float]:
    """Benjamini and Hochberg's q of each p, of ``tests`` in all: for every level, how many pass."""
    return [
        min(1.0, *(level * tests / sum(p <= level for p in p_values) for level in p_values if level >= own))
        for own in p_values
    ]


# Queries: every path walked, every power of the matrix taken, every four units looked at.


def slow_paths(graph: nx.DiGraph, source: str) -> dict[str, list[tuple[float, tuple[str, ...]]]]:
    """All paths from ``source`` over weights that are not 0: end to (signed product, units), best first."""
    found: dict[str, list[tuple[float, tuple[str, ...]]]] = {}

    def walk(units: tuple[str, ...], product: float) -> None:
        for head in graph.successors(units[-1]):
            weight = graph.edges[units[-1], head]["weight"]
            if weight != 0:
                found.setdefault(head, []).append((product * weight, (*units, head)))
                walk((*units, head), product * weight)

    walk((source,), 1.0)
    return {end: sorted(paths, key=lambda path: -abs(path[0])) for end, paths in found.items()}


def slow_influence(graph: nx.DiGraph, weights: dict[str, float], key: str) -> dict[str, float]:
    """``p A + p A^2 + ...`` by explicit powers of the row-normalized matrix."""
    names = list(graph)
    matrix = np.zeros((len(names), len(names)))
    for tail, head, value in graph.edges(data=key):
        matrix[names.index(head), names.index(tail)] = abs(value)
    sums = matrix.sum(1, keepdims=True)
    matrix = np.where(sums > 0, matrix / np.where(sums > 0, sums, 1), 0)
    p = np.array([weights.get(name, 0.0) for name in names])
    total = sum(p @ np.linalg.matrix_power(matrix, power) for power in range(1, len(names) + 1))
    return dict(zip(names, total, strict=True))


def slow_prune_influence(
    graph: nx.DiGraph, weights: dict[str, float], nodes: float, edges: float, key: str
) -> set[tuple[str, str]]:
    """Which edges are left: sorted by influence, added up one by one, then dangling units dropped one at a time."""

    def most(values: dict[Any, float], part: float) -> set[Any]:
        kept, total, last = set(), 0.0, -1.0
        for each in sorted((each for each in values if values[each] > 0), key=lambda each: -values[each]):
            if total >= part * sum(values.values()) - 1e-12 and not math.isclose(values[each], last):
                break
            kept.add(each)
            total, last = total + values[each], values[each]
        return kept

    starts = {unit for unit in graph if not any(value for *_, value in graph.in_edges(unit, data=key))}
    units = most(slow_influence(graph, weights, key), nodes) | set(weights) | starts
    part = graph.subgraph(units)
    again = slow_influence(part, weights, key)
    scores = {}
    for tail, head, value in part.edges(data=key):
        inputs = sum(abs(other) for *_, other in part.in_edges(head, data=key))
        scores[tail, head] = abs(value) / inputs * (again[head] + weights.get(head, 0.0)) if inputs else 0.0
    left = most(scores, edges)
    while True:
        fed, feeding = {head for _, head in left}, {tail for tail, _ in left}
        dangling = [
            wire
            for wire in left
            if (wire[1] not in weights and wire[1] not in feeding)
            or (wire[0] not in fed and any(value != 0 for *_, value in graph.in_edges(wire[0], data=key)))
        ]
        if not dangling:
            return left
        left.remove(dangling[0])


# Motifs: nested loops over units.


def slow_bifans(weights: np.ndarray) -> int:
    """How often A -> B and A' -> B' excite while A -> B' and A' -> B inhibit; each set of four once."""
    targets, sources = weights.shape
    return sum(
        weights[b, a] > 0 and weights[other_b, other_a] > 0 and weights[other_b, a] < 0 and weights[b, other_a] < 0
        for a in range(sources)
        for other_a in range(a + 1, sources)
        for b in range(targets)
        for other_b in range(targets)
    )


def slow_opposed(weights: np.ndarray) -> float:
    """Squares of how many more shared inputs have opposite than equal signs, over all pairs of targets."""
    total = 0.0
    for one in range(len(weights)):
        for other in range(one + 1, len(weights)):
            opposed = sum(-np.sign(a * b) for a, b in zip(weights[one], weights[other], strict=True))
            total += max(0.0, opposed) ** 2
    return total


def slow_superposition(weights: np.ndarray, communities: list[int], spread: int) -> int:
    """How many wires excite targets that another community owns, of sources with at least ``spread`` of them."""
    total = 0
    for source in range(weights.shape[1]):
        foreign = 0
        for target in range(weights.shape[0]):
            exciting = [communities[each] for each in range(weights.shape[1]) if weights[target, each] > 0]
            owner = max(set(exciting), key=exciting.count) if exciting else None
            owned = exciting.count(owner) * 2 > len(exciting)
            foreign += bool(weights[target, source] > 0 and owned and owner != communities[source])
        total += foreign if foreign >= spread else 0
    return total


def slow_unions(below: np.ndarray, above: np.ndarray, kernels: np.ndarray, least: float) -> int:
    """How many (v, u, u', x, y) unite two cases with mirrored kernels; each {u, u'} once."""

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        lengths = math.sqrt((one**2).sum() * (other**2).sum())
        return float((one * other).sum() / lengths) if lengths else 0.0

    found = 0
    middle = range(above.shape[1])
    for v in range(above.shape[0]):
        for u in middle:
            for w in range(u + 1, len(middle)):
                mirrored = cosine(kernels[v, u], kernels[v, w][:, ::-1])
                if min(above[v, u], above[v, w]) > 0 and mirrored >= least and mirrored > cosine(*kernels[v, [u, w]]):
                    left = sum(below[u, x] > 0 > below[w, x] for x in range(below.shape[1]))
                    right = sum(below[w, y] > 0 > below[u, y] for y in range(below.shape[1]))
                    found += left * right
    return found


# Parameterizations: pictures as sums over waves, over neighbours and over layers, one pixel at a time.


def wave_sum(spectrum: np.ndarray, width: int, *, decay: float) -> np.ndarray:
    """What a half spectrum ``(h, w // 2 + 1, 2)``, scaled by ``sqrt(h w) / (4 f^decay)``, is as a picture ``(h,
    w)``.
    """
    height, kept = spectrum.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    picture = np.zeros((height, width))
    for row in range(height):
        for column in range(kept):
            up = row / height if row <= (height - 1) // 2 else row / height - 1
            frequency = max((up**2 + (column / width) ** 2) ** 0.5, 1 / max(height, width))
            angle = 2 * np.pi * (row * y / height + column * x / width)
            wave = spectrum[row, column, 0] * np.cos(angle) - spectrum[row, column, 1] * np.sin(angle)
            own_mirror = column == 0 or 2 * column == width  # all other columns stand for their mirror image too
            picture += (1 if own_mirror else 2) * wave / (4 * frequency**decay)
    return picture / (height * width) ** 0.5


def slow_enlarged(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge ``(h', w')`` to ``size``: each pixel between the four nearest centres, the border repeated."""
    result = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            total = 0.0
            place = [
                (at + 0.5) * small / large - 0.5 for at, small, large in zip((y, x), grid.shape, size, strict=True)
            ]
            place = [min(max(at, 0.0), small - 1.0) for at, small in zip(place, grid.shape, strict=True)]
            for row in range(grid.shape[0]):
                for column in range(grid.shape[1]):
                    share = max(0.0, 1 - abs(place[0] - row)) * max(0.0, 1 - abs(place[1] - column))
                    total += share * grid[row, column]
            result[y, x] = total
    return result


def slow_cppn(layers: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Feed each pixel's coordinates, the longer side from -√3 to √3, through weights and biases: ``(c, h, w)``."""
    result = np.zeros((len(layers[-1]), *size))
    for y in range(size[0]):
        for x in range(size[1]):
            values = np.array(
                [(at + 0.5 - side / 2) / (max(size) / 2) * 3**0.5 for at, side in ((x, size[1]), (y, size[0]))]
            )
            for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
                bent = np.arctan(weight @ values + bias[:, 0])
                values = np.array([*(each / 0.67 for each in bent), *(each * each / 0.6 for each in bent)])
            result[:, y, x] = layers[-2] @ values + layers[-1][:, 0]
    return result


def composited(picture: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Lay pictures ``(n, c + 1, h, w)`` over what is behind: of each place alpha of the picture, the rest behind."""
    result = np.zeros_like(behind)
    for index in np.ndindex(behind.shape):
        alpha = picture[index[0], -1, index[2], index[3]]
        result[index] = alpha * picture[index] + (1 - alpha) * behind[index]
    return result


# Transforms: one pixel of the result at a time.


def slow_read(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Give ``size`` pixels of ``image`` ``(c, h, w)``: pixel ``(x, y)`` of the result, from its centre, is read at
    ``matrix @ (x, y)`` from the image's, between the four nearest pixels of the image and its mirror images.
    """
    border = 4 * max(image.shape[1:])
    mirrored = np.pad(image, ((0, 0), (border, border), (border, border)), mode="symmetric")
    result = np.zeros((len(image), *size))
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = matrix @ (column + 0.5 - size[1] / 2, row + 0.5 - size[0] / 2)
            x, y = x + image.shape[2] / 2 - 0.5 + border, y + image.shape[1] / 2 - 0.5 + border
            left, top = math.floor(x), math.floor(y)
            for down, right in itertools.product((0, 1), (0, 1)):
                share = (y - top if down else top + 1 - y) * (x - left if right else left + 1 - x)
                result[:, row, column] += share * mirrored[:, top + down, left + right]
    return result


# Visualization: one picture at a time, the whole network, a hook and .backward(), every step written out.


def slow_ascent(
    model: Model, layer: str, channel: int, start: np.ndarray, *, rate: float, steps: int, normalized: bool
) -> list[np.ndarray]:
    """Climb from ``start`` ``(c, h, w)`` in the pixels, held in [0, 1]; give the pictures after 0, 1, ... steps."""
    modules = dict(model.net.named_modules())
    pictures = [start]
    for _ in range(steps):
        seen: list[torch.Tensor] = []
        handle = modules[layer].register_forward_hook(lambda module, given, result: seen.append(result.clone()))  # noqa: B023
        image = torch.from_numpy(pictures[-1][None]).requires_grad_()
        mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (model.mean, model.std))
        model.net((image - mean) / std)
        handle.remove()
        seen[0][0, channel].mean().backward()
        model.net.zero_grad()
        assert image.grad is not None
        slope = image.grad[0].numpy()
        if normalized:
            slope = slope / (slope**2).mean() ** 0.5
        pictures.append(np.clip(pictures[-1] + rate * slope, 0, 1))
    return pictures


def slow_momentum(gradients: list[np.ndarray], *, rate: float, decay: float, falling: bool) -> list[np.ndarray]:
    """Where momentum takes numbers that start at 0, given the gradients ``(n, ...)`` it meets, entry by entry."""
    place, mean, places = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for step, gradient in enumerate(gradients):
        now = rate * (1 + np.cos(np.pi * step / len(gradients))) / 2 if falling else rate
        for index in range(len(gradient)):
            unit = gradient[index] / (gradient[index] ** 2).mean() ** 0.5
            mean[index] = decay * mean[index] + (1 - decay) * unit
            place[index] = place[index] - now * mean[index] / (1 - decay ** (step + 1))
        places.append(place.copy())
    return places


def slow_blur(plane: np.ndarray, sd: float) -> np.ndarray:
    """Blur ``(h, w)`` by a Gaussian, weights beyond three deviations left out, the border mirrored about its last
    pixel.
    """
    reach = int(np.ceil(3 * sd))
    weights = {
        (y, x): np.exp(-(y * y + x * x) / (2 * sd * sd))
        for y in range(-reach, reach + 1)
        for x in range(-reach, reach + 1)
    }
    padded, result = np.pad(plane, reach, mode="reflect"), np.zeros_like(plane)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            result[y, x] = sum(w * padded[y + reach + dy, x + reach + dx] for (dy, dx), w in weights.items())
    return result / sum(weights.values())


# Stores of examples: the files and tables themselves.


def store_contents(folder: Path) -> dict[str, str]:
    """Give a digest of everything in a store by name, of databases by table: schema and rows; without provenance and
    locks, which tell who made it and when.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("lock") or name.endswith(("-wal", "-shm")):
            continue
        if path.suffix != ".sqlite":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            continue
        with closing(sqlite3.connect(path)) as base:
            for kind, table, sql in base.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall():
                rows = base.execute(f"SELECT * FROM {table}").fetchall() if kind == "table" else []
                if table != "provenance":
                    found[f"{name}/{table}"] = hashlib.sha256(repr((sql, rows)).encode()).hexdigest()
    return found


# Loading: a plain loop.


def slow_batches(dataset: Any, intake: Any, indices: Any, batch: int) -> list[Any]:
    """Read ``indices`` one after the other in runs of ``batch``: `features.examples.loading.batches`."""
    found = []
    for start in range(0, len(indices), batch):
        span = indices[start : start + batch]
        images, kept, labels, skipped = [], [], [], []
        for index in span:
            try:
                item = dataset[index]
            except (OSError, ValueError, SyntaxError) as error:
                skipped.append((index, f"{type(error).__name__}: {error}"))
                continue
            image, label = item if isinstance(item, tuple) and len(item) == 2 else (item, -1)
            images.append(image.clone() if isinstance(image, torch.Tensor) else torch.tensor(np.asarray(image)))
            kept.append(index)
            labels.append(int(label))
        empty = torch.zeros(0, intake.channels, *intake.image_size)
        stacked = (torch.stack(images) if images else empty).to(intake.dtype)
        longs = [torch.tensor(each, dtype=torch.int64) for each in (kept, labels)]
        found.append(
            SimpleNamespace(images=stacked, indices=longs[0], labels=longs[1], skipped=tuple(skipped), span=span)
        )
    return found


# Splitting: weight times activation, place by place.


def window_products(conv: Any, activations: np.ndarray, channel: int, position: np.ndarray) -> np.ndarray:
    """Give (n, i): what each input of a convolution with stride 1 gives to one channel at one place of each image."""
    weight, (pad_y, pad_x) = conv.weight.detach().numpy()[channel], conv.padding
    found = np.zeros(activations.shape[:2])
    for n, (y, x) in enumerate(position.tolist()):
        for i, row, column in np.ndindex(weight.shape):
            at_y, at_x = y + row - pad_y, x + column - pad_x
            if 0 <= at_y < activations.shape[2] and 0 <= at_x < activations.shape[3]:
                found[n, i] += weight[i, row, column] * activations[n, i, at_y, at_x]
    return found
