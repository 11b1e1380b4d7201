"""Finding: directions in the space of a layer's channels, by factorization and by clustering, and controls."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from features.examples.loading import batches
from features.models import Model
from features.mosaics.vectors import maps_of
from features.records import check_shapes, read_record, write_record

KIND = "directions"
BATCH = 64  # images at once
IMAGES = 2000  # of a dataset from which vectors are drawn: with 4 of each 80 for each of 100 directions
DRAWN = 4  # vectors of an image: those of neighbouring places say nearly the same
STEPS = 200  # of NMF, scikit-learn's own
ROUNDS = 50  # of k-means

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Directions:
    """``d`` directions of a layer: ``vectors`` (d, c) of length 1 over its channels, how they were found and in what.

    ``explained`` is the share of the squares of the drawn activation vectors that they hold: for NMF by sums of
    directions, for k-means, of what departs from the mean, each vector by its own direction alone; NaN for controls.
    ``images`` is how many images vectors were drawn from, ``digest`` the fingerprint of the weights.

    ``visualize(model, direction(found.layer, found.vectors[3]))`` shows one.
    """

    layer: str
    method: str
    vectors: Floats
    explained: float
    model: str
    digest: str
    images: int
    seed: int

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        held = f", {self.explained:.0%} explained" if np.isfinite(self.explained) else ""
        return f"Directions({self.layer}: {len(self)} by {self.method}{held})"


def nmf_directions(
    model: Model,
    layer: str,
    dataset: Any,
    *,
    count: int,
    images: int = IMAGES,
    seed: int = 0,
    progress: bool = True,
) -> Directions:
    """Find ``count`` directions whose sums, with factors of at least 0, come nearest to the layer's activation vectors.

    Non-negative matrix factorization ``A = W H`` (Lee and Seung 1999; Olah et al. 2018 use it for groups of neurons) of
    vectors drawn at random places of ``images`` images, evenly spaced in the dataset; the rows of ``H`` are the
    directions, in order of what they hold; those that came out as 0 are left out. Ask for fewer than the layer has
    channels: with as many, the units are a solution, and what comes out (sketches, mixed4b and mixed4c). Raises
    ``ValueError`` for activations below 0 (a layer before its ReLU: see `kmeans_directions`) and more directions than
    vectors.

    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> nmf_directions(load_model("sketches"), "mixed3a", Sketches(8), count=3, progress=False).vectors.shape
    (3, 64)
    """
    drawn, seen = _drawn(model, layer, dataset, count, images, seed, progress)
    if drawn.min() < 0:
        raise ValueError(f"layer {layer!r} gives numbers below 0, which have no NMF: choose one after its ReLU")
    factors = NMF(count, init="nndsvda", max_iter=STEPS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weights = factors.fit_transform(drawn)
    found = factors.components_
    held = np.linalg.norm(found, axis=1) * np.linalg.norm(weights, axis=0)
    explained = 1 - float(((drawn - weights @ found) ** 2).sum() / (drawn**2).sum())
    order = [place for place in np.argsort(-held, kind="stable") if held[place] > 0]
    return _directions(model, layer, "NMF", found[order], explained, seen, seed)


def kmeans_directions(
    model: Model,
    layer: str,
    dataset: Any,
    *,
    count: int,
    images: int = IMAGES,
    seed: int = 0,
    progress: bool = True,
) -> Directions:
    """Find ``count`` directions in which the layer's activation vectors depart from their mean: spherical k-means.

    Vectors are drawn as in `nmf_directions`, taken from their mean, put to length 1 and clustered; directions are the
    centres, the largest cluster first (Coates and Ng 2012, "Learning Feature Representations with K-means"). They have
    numbers below 0: a feature is also what it keeps silent. Any layer will do. Raises ``ValueError`` for more
    directions than vectors.

    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> len(kmeans_directions(load_model("sketches"), "mixed3a", Sketches(8), count=3, progress=False))
    3
    """
    drawn, seen = _drawn(model, layer, dataset, count, images, seed, progress)
    apart = drawn - drawn.mean(0)
    clusters = KMeans(count, n_init=1, max_iter=ROUNDS, random_state=seed).fit(_long(apart))
    sizes = np.bincount(clusters.labels_, minlength=count)
    vectors = _long(clusters.cluster_centers_.astype(np.float64))
    along = (apart * vectors[clusters.labels_]).sum(1)
    order = [place for place in np.argsort(-sizes, kind="stable") if vectors[place].any()]
    explained = float((along**2).sum() / max((apart**2).sum(), np.finfo(np.float64).tiny))
    return _directions(model, layer, "k-means", vectors[order], explained, seen, seed)


def random_directions(directions: Directions, *, seed: int = 0) -> Directions:
    """The honest control: the same directions with the numbers of each shuffled over the channels.

    As many, as sparse, with the same signs: only which channels belong together is lost.

    >>> from features.models import load_model
    >>> basis = unit_directions(load_model("sketches"), "mixed3a")
    >>> bool((np.sort(random_directions(basis).vectors) == np.sort(basis.vectors)).all())
    True
    """
    generator = np.random.default_rng(seed)
    vectors = np.stack([generator.permutation(row) for row in directions.vectors])
    numbers = (directions.model, directions.digest, directions.images, seed)
    return Directions(directions.layer, f"{directions.method}, shuffled", vectors, float("nan"), *numbers)


def unit_directions(model: Model, layer: str) -> Directions:
    """The units themselves as directions: what others are compared with.

    >>> from features.models import load_model
    >>> unit_directions(load_model("sketches"), "mixed3a").vectors.shape
    (64, 64)
    """
    channels = model.layer(layer).channels
    return Directions(layer, "units", np.eye(channels), float("nan"), model.name, model.digest, 0, 0)


def interference(directions: Directions) -> Floats:
    """Give the cosine of each pair of directions, (d, d), 0 on the diagonal: what one says of what only another means.

    Directions of a layer that are no more than its channels can all be at right angles (as the units are); of more, or
    of what shares channels, some cannot (superposition, Elhage et al. 2022).

    >>> from features.models import load_model
    >>> float(np.abs(interference(unit_directions(load_model("sketches"), "mixed3a"))).max())
    0.0
    """
    cosines: Floats = directions.vectors @ directions.vectors.T
    np.fill_diagonal(cosines, 0.0)
    return cosines


def write_directions(directions: Directions, folder: str | os.PathLike[str]) -> Path:
    """Write ``directions`` as a record at ``folder``, from which `read_directions` gives them back."""
    said = {each.name: getattr(directions, each.name) for each in fields(Directions) if each.name != "vectors"}
    said["explained"] = directions.explained if np.isfinite(directions.explained) else None
    return write_record(folder, KIND, arrays={"vectors": directions.vectors}, fields=said)


def read_directions(folder: str | os.PathLike[str]) -> Directions:
    """Read what `write_directions` wrote; ``ValueError`` for a damaged record, ``FileNotFoundError`` for none."""
    arrays, said = read_record(folder, KIND)
    if sorted([*arrays, *said]) != sorted(each.name for each in fields(Directions)):
        raise ValueError(f"the directions in '{folder}' were written by another version: find them again")
    check_shapes(arrays, {"vectors": "dc"})
    said["explained"] = float("nan") if said["explained"] is None else said["explained"]
    return Directions(vectors=arrays["vectors"], **said)


def _drawn(
    model: Model, layer: str, dataset: Any, count: int, images: int, seed: int, progress: bool
) -> tuple[Floats, int]:
    """Give activation vectors (n, c) at random places of evenly spaced images, none of them 0, and of how many."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count is {count!r}: give the number of directions, 1 or more")
    if len(dataset) == 0 or images < 1:
        raise ValueError(f"{images} images of a dataset of {len(dataset)}: there is nothing to find directions in")
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int)).tolist()
    parts = []
    with (
        tqdm(total=len(chosen), unit="image", desc="vectors", disable=not progress, leave=False) as bar,
        contextlib.closing(batches(dataset, model, chosen, BATCH)) as stream,
    ):
        for batch in stream:
            if len(batch.images):
                maps = maps_of(model, batch.images, layer).flatten(2).double().numpy()
                parts += [
                    _places(each, [seed, index]) for each, index in zip(maps, batch.indices.tolist(), strict=True)
                ]
            bar.update(len(batch.span))
    vectors = np.concatenate(parts) if parts else np.zeros((0, model.layer(layer).channels))
    vectors = vectors[np.abs(vectors).sum(1) > 0]
    if len(vectors) < count:
        raise ValueError(f"{len(vectors)} activation vectors were drawn for {count} directions: give more images")
    return vectors, len(parts)


def _places(maps: Floats, seed: list[int]) -> Floats:
    """Give `DRAWN` of the vectors of one image, (c, places), or all: chosen by the image's number alone."""
    places = np.random.default_rng(seed).permutation(maps.shape[1])[:DRAWN]
    return np.asarray(maps.T[places])


def _long(vectors: Floats) -> Floats:
    """Give vectors at length 1; those that are 0 stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny))


def _directions(
    model: Model, layer: str, method: str, found: Floats, explained: float, images: int, seed: int
) -> Directions:
    vectors = _long(found.astype(np.float64))
    return Directions(layer, method, vectors, explained, model.name, model.digest, images, seed)


METHODS: dict[str, Callable[..., Directions]] = {"nmf": nmf_directions, "k-means": kmeans_directions}
