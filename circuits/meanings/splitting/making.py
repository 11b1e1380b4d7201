"""split: a unit taken apart into its meanings, from its examples; split_by_pictures: from pictures made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.graphs import check_graph
from circuits.graphs.kernels import MEASURES
from circuits.meanings.splitting.grouping import FEWEST, Groups, centres, company, grouped, parted
from circuits.meanings.splitting.inflow import Inflow, Looked, inflow
from circuits.meanings.splitting.nouns import SHOWN, SIDE, Split
from circuits.meanings.splitting.portraits import STARTED, Portraits, diverse, portraits, seen_in, start_of, tensor_of
from circuits.meanings.splitting.selectivity import mean_by_group, measure
from features.examples import Examples
from features.examples.images import read_item
from features.models import Model
from features.pictures import crop, resize, to_bytes
from features.units import Unit

STEPS = 100  # of a picture, as `features.visualize` takes
NEAR = 0.05  # of the unit's largest value: examples found in bfloat16 or on another machine differ by less
FADED = 0.25  # of its strongest picture: a picture in which the unit fires less shows something else

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def split(
    model: Model,
    graph: nx.DiGraph[str],
    unit: Unit | str,
    examples: Examples,
    dataset: Any,
    *,
    groups: Groups = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool = True,
) -> Split:
    """Take a unit that means several things apart into virtual units, one a meaning, and try whether they come apart.

    ``groups`` say which example means what: those of a `Polysemanticity` in which the unit is flagged (without any,
    `polysemanticity` is asked, with all kinds of evidence), or one whole number an example, such as its label. They may
    be of fewer examples than there are here (with 32 judged and 200 found), or -1: the rest goes to the nearest centre,
    in the layer's vectors at the peaks. ``graph`` says which layers feed the unit, and ``dataset`` is the one that the
    examples were found in.

    Each virtual unit has its share of the examples; its own upstream edges,

    ``contribution = mean over its examples of sum over y, x of a[y, x] dz/da[y, x]``

    with ``z`` the unit where the example peaks and ``a`` a channel below (Dreyer et al. 2024, PURE; for a convolution
    right below it is weight times activation); and its own picture: started from the mean of its examples, peaks moved
    together (Nguyen et al. 2016), and held to them by the cosine with the centre of their vectors. The check is an
    experiment: edges that excite this meaning at least four times as much as they move another are cut, with the
    network run again, on examples that they were not chosen on. `Split` says what each number is; `split_graph` puts
    the virtual units into the graph.

    Raises ``ValueError`` for a unit that is not flagged where no groups are given, fewer than two groups or two
    examples in one, a graph in which the unit has no inputs, examples or a graph of other weights, a dataset that is
    another than the examples', and responses that are not above 0.

    >>> from circuits.graphs import build_graph
    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model, dataset = load_model("sketches"), Sketches(12)
    >>> graph = build_graph(model, ["mixed3a", "mixed3b"], keep=3, progress=False)
    >>> examples = find_examples(model, dataset, ["mixed3b"], count=6, progress=False)
    >>> found = split(model, graph, "mixed3b:4", examples, dataset, groups=[0, 0, 1, 1], steps=1, progress=False)
    >>> len(found), found.contributions.shape, found[1].node
    (2, (2, 64), 'mixed3b:204')
    """
    own = _checked(model, graph, unit)
    if examples.digest != model.digest:
        raise ValueError(f"the examples are of other weights (of {examples.model!r}): find them again")
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    group = grouped(model, examples, dataset, own, groups)
    found = examples[own]
    images = torch.stack([_image(examples, dataset, index) for index in found.image.tolist()])
    looked = Looked.at(model, own, json.loads(graph.graph["layers"]), images, found.position)
    carried = inflow(looked)
    _check_values(own, carried.values, found.value)
    points = company(examples, own)
    middles = centres(points, group)
    nearby = [_nearest(points, group, meaning, middle) for meaning, middle in enumerate(middles)]
    extent = model.layer(own.layer).shape[1:]
    starts = [start_of(images[rows], found.position[rows], extent) for rows in nearby]
    pictures = portraits(model, own, starts, middles, steps=steps, seed=seed, progress=progress)
    shown = {name: getattr(found, name) for name in ("image", "label", "position", "box")}
    mean = np.nan_to_num(examples.layer(own.layer).mean).astype(np.float64)
    return _made(graph, looked, carried, group, shown, examples.labels, pictures, middles, mean, seed)


def split_by_pictures(
    model: Model,
    graph: nx.DiGraph[str],
    unit: Unit | str,
    *,
    meanings: int = 2,
    count: int = 16,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool = True,
) -> Split:
    """Take a unit apart without any examples: as `split` does, from ``count`` pictures of it that differ.

    The pictures are made with the diversity objective (Olah et al. 2017) and parted into ``meanings`` groups by what
    the layer says at their peaks (k-means of directions); those in which the unit hardly fires are left out. The
    picture of a meaning is its strongest. Optimized pictures mix what examples keep apart (of mixed4c:13 of the
    embedded network, spiral and face, the groups come out with selectivities under 0.7) and may miss a meaning
    altogether: prefer examples. Errors as in `split`, and ``ValueError`` where too few pictures excite the unit.

    >>> from circuits.graphs import build_graph
    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> graph = build_graph(model, ["mixed3a", "mixed3b"], keep=3, progress=False)
    >>> found = split_by_pictures(model, graph, "mixed3b:4", count=6, steps=3, progress=False)
    >>> len(found), int((found.image == -1).sum()) == len(found.group)
    (2, True)
    """
    own = _checked(model, graph, unit)
    if not (isinstance(meanings, int) and isinstance(count, int) and 2 <= meanings <= count // FEWEST):
        raise ValueError(f"{count} pictures in {meanings} meanings: give two or more, {FEWEST} pictures for each")
    pictures = diverse(model, own, count, steps=steps, seed=seed, progress=progress)
    every = tensor_of(pictures)
    values, position, said = seen_in(model, own, every)
    order = np.argsort(-values, kind="stable")
    kept = order[values[order] > FADED * max(0.0, values.max())]
    if len(kept) < FEWEST * meanings:
        raise ValueError(f"{len(kept)} of {count} pictures excite {str(own)!r}: find examples, or make more pictures")
    mean = said.mean(0)
    mean[own.channel] = 0
    points = said[kept] - mean
    points[:, own.channel] = 0
    group = parted(points, meanings, seed)
    if np.bincount(group).min() < FEWEST:
        raise ValueError(f"the pictures are {np.bincount(group).tolist()} in {meanings} groups: make more of them")
    looked = Looked.at(model, own, json.loads(graph.graph["layers"]), every[kept], position[kept])
    best = [int(kept[np.flatnonzero(group == meaning)[0]]) for meaning in range(meanings)]
    height, width = model.image_size
    shown = {"image": np.full(len(kept), -1), "label": np.full(len(kept), -1), "position": position[kept]}
    shown["box"] = np.tile(np.array([0, 0, height, width]), (len(kept), 1))
    chosen = Portraits.of([pictures] * meanings, best)
    return _made(graph, looked, inflow(looked), group, shown, model.labels, chosen, centres(points, group), mean, seed)


def _made(
    graph: nx.DiGraph[str],
    looked: Looked,
    carried: Inflow,
    group: Integers,
    shown: Mapping[str, Integers],
    labels: tuple[str, ...],
    pictures: Portraits,
    middles: Floats,
    mean: Floats,
    seed: int,
) -> Split:
    model, unit = looked.model, looked.unit
    _check_positive(unit, carried.values)
    tried = measure(looked, carried, group, seed)
    rows: dict[str, Any] = {name: np.asarray(each, np.int64) for name, each in shown.items()}
    peaks, _, said = seen_in(model, unit, pictures.images)
    said = said - mean
    said[:, unit.channel] = 0
    return Split(
        unit=str(unit),
        model=model.name,
        digest=model.digest,
        layers=tuple(json.loads(graph.graph["layers"])),
        width=model.layer(unit.layer).channels,
        labels=tuple(labels),
        group=group,
        value=carried.values,
        **rows,
        sources=carried.sources,
        contributions=mean_by_group(carried.carried, group),
        places=mean_by_group(carried.places, group),
        total=_total(graph, str(unit)),
        **{name: getattr(tried, name) for name in ("own", "drops", "selectivity", "low", "high")},
        pictures=pictures.pictures,
        likeness=_cosines(said, middles),
        peaks=peaks,
        verdicts=pictures.verdicts,
        thumbnails=_thumbnails(looked.images, shown["box"], group),
        seed=seed,
    )


def _checked(model: Model, graph: nx.DiGraph[str], unit: Unit | str) -> Unit:
    own = model.unit(unit)
    check_graph(graph)
    if graph.graph["digest"] != model.digest:
        raise ValueError(f"the graph is of other weights (of {graph.graph['model']!r}): build it from this model")
    if str(own) not in graph or not graph.in_degree(str(own)):
        raise ValueError(f"{str(own)!r} has no inputs in this graph: build it with the layers that feed {own.layer!r}")
    return own


def _image(examples: Examples, dataset: Any, index: int) -> Tensor:
    return read_item(dataset, index, examples.image_size, examples.channels)[0].float()


def _check_values(unit: Unit, values: Floats, stated: NDArray[np.floating]) -> None:
    """Refuse a dataset in which the examples are not what they were."""
    apart = np.abs(values - stated)
    if apart.max() > NEAR * np.abs(stated).max():
        worst = int(apart.argmax())
        raise ValueError(
            f"{str(unit)!r} is {values[worst]:.4g} where its example {worst} says {stated[worst]:.4g}: this is not the "
            "dataset that the examples were found in"
        )


def _check_positive(unit: Unit, values: Floats) -> None:
    if values.min() <= 0:
        raise ValueError(f"{str(unit)!r} responds with {values.min():.4g}: what falls by a share of itself is above 0")


def _nearest(points: Floats, group: Integers, meaning: int, middle: Floats) -> Integers:
    """Give the examples of a meaning that are nearest to its centre, `STARTED` at most."""
    rows = np.flatnonzero(group == meaning)
    order = np.argsort(((points[rows] - middle) ** 2).sum(1), kind="stable")
    return rows[order[:STARTED]]


def _total(graph: nx.DiGraph[str], node: str) -> float:
    """Give what all inputs of a unit sum to, in the graph's own measure: that of its strongest edge over its share."""
    edge = max((data for _, _, data in graph.in_edges(node, data=True)), key=lambda data: data["share"])
    numbers = {name: np.asarray(value) for name, value in edge.items() if isinstance(value, float)}
    return float(MEASURES[graph.graph.get("by", "strength")][1](numbers) / max(edge["share"], np.finfo(float).tiny))


def _cosines(points: Floats, middles: Floats) -> Floats:
    lengths = np.linalg.norm(points, axis=1)[:, None] * np.linalg.norm(middles, axis=1)
    cosines: Floats = points @ middles.T / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosines


def _thumbnails(images: Tensor, box: Integers, group: Integers) -> NDArray[np.uint8]:
    """Give the strongest examples of each meaning, cropped to their boxes: (m, SHOWN, SIDE, SIDE, 3)."""
    small = np.full((group.max() + 1, SHOWN, SIDE, SIDE, 3), 255, np.uint8)
    for meaning in range(len(small)):
        for place, row in enumerate(np.flatnonzero(group == meaning)[:SHOWN]):
            image = images[row].clamp(0, 1)
            colours = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
            picture = crop(colours.permute(1, 2, 0).cpu().numpy(), box[row].tolist())
            small[meaning, place] = to_bytes(resize(picture, (SIDE, SIDE)))
    return small
