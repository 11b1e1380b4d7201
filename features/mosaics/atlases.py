"""Atlases: what a layer says of many images, laid out so that like is near like (Carter et al. 2019, "Activation
Atlas").
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from tqdm import tqdm

from features.examples.images import read_item
from features.models import Model
from features.mosaics.pieces import PAPER, STEPS, Drawing, Floats, settings_of
from features.mosaics.vectors import maps_of
from features.objectives import whitening
from features.parameterizations import Parameterization
from features.pictures import Picture, data_uri, encode, grid
from features.transforms import STANDARD, Transform

Integers = NDArray[np.int64]

COSINE = 2.0  # the atlas of Carter et al. 2019 uses 2, its notebook 4
RIDGE = 0.03  # some thousand vectors of some hundred channels: without it the whitening is mostly noise
# Half of each picture's numbers are its neighbours' too: neighbours show one thing in one pose, and a row of them still
# goes from one thing to another (looked at: GoogLeNet on CIFAR-10, 0, 0.5 and 0.8).
ALIKE = 0.5

FEWEST = 10  # vectors that can be laid out
COMPONENTS = 50  # van der Maaten and Hinton 2008: principal components that t-SNE is given
PERPLEXITY = 30.0
TAIL = 1.0  # per cent of the vectors that fall outside the layout on either side, and are moved to its border


@dataclass(frozen=True, eq=False)
class ActivationAtlas:
    """The activation vectors of a layer on many images in a plane, and a picture for each cell of a grid over it.

    Of the k cells that hold enough vectors: ``pictures`` ``(k, h, w, 3)`` in [0, 1], ``cells`` ``(k, 2)`` row and
    column, ``counts`` ``(k,)`` how many vectors are in it and ``vectors`` ``(k, c)`` their mean. Of the n vectors:
    ``layout`` ``(n, 2)`` where in the plane, ``(y, x)`` in [0, 1], ``images`` ``(n,)`` the index of the image,
    ``labels`` ``(n,)`` its label (-1 for none) and ``positions`` ``(n, 2)`` where in the layer. ``side`` is the number
    of rows and of columns.
    """

    layer: str
    side: int
    pictures: Floats
    cells: Integers
    counts: Integers
    vectors: Floats
    layout: Floats
    images: Integers
    labels: Integers
    positions: Integers
    settings: Mapping[str, Any]
    digest: str

    def __repr__(self) -> str:
        return f"ActivationAtlas({self.layer}: {len(self.cells)} cells of {len(self.layout)} vectors)"

    def picture(self) -> Picture:
        """Give the atlas as one picture, white where there is nothing."""
        blank = np.full_like(self.pictures[0], PAPER)
        places = {(int(y), int(x)): picture for (y, x), picture in zip(self.cells, self.pictures, strict=True)}
        everywhere = [places.get((y, x), blank) for y in range(self.side) for x in range(self.side)]
        return grid(everywhere, columns=self.side, gap=0)

    def members(self, row: int, column: int) -> Integers:
        """Give which of the n vectors lie in a cell, as indexes into `layout`, `images` and `positions`.

        ``ValueError`` for a cell outside the grid.
        """
        if not (0 <= row < self.side and 0 <= column < self.side):
            raise ValueError(f"no cell ({row}, {column}): the atlas has {self.side} rows and columns, counted from 0")
        return np.flatnonzero((_cell_of(self.layout, self.side) == (row, column)).all(1))

    def _repr_png_(self) -> bytes:
        return encode(self.picture(), "png")

    def _repr_html_(self) -> str:
        width = f"calc(100% / {self.side})"
        places = {(int(y), int(x)): index for index, (y, x) in enumerate(self.cells)}
        cells = [self._cell(places.get((y, x)), width) for y in range(self.side) for x in range(self.side)]
        return f'<div style="display:flex;flex-wrap:wrap;max-width:800px">{"".join(cells)}</div>'

    def _cell(self, index: int | None, width: str) -> str:
        if index is None:
            return f'<span style="width:{width}"></span>'
        said = f"row {self.cells[index][0]}, column {self.cells[index][1]}: {self.counts[index]} vectors"
        uri = data_uri(self.pictures[index], form="png")
        return f'<img src="{uri}" style="width:{width}" title="{html.escape(said)}" alt="{html.escape(said)}">'


def activation_atlas(
    model: Model,
    dataset: Any,
    layer: str,
    *,
    side: int = 8,
    positions: int = 1,
    least: int = 3,
    cosine: float = COSINE,
    ridge: float = RIDGE,
    alike: float = ALIKE,
    canvas: Parameterization | None = None,
    steps: int = STEPS,
    transforms: Sequence[Transform] = STANDARD,
    seed: int = 0,
    batch: int = 64,
    progress: bool = True,
) -> ActivationAtlas:
    """Draw an atlas of what ``layer`` says of the images of ``dataset``.

    1. At ``positions`` random positions of each image the activation vector is read (of tokens: patches). ``dataset``
       is as for `find_examples`, or a tensor ``(n, channels, h, w)``.
    2. The vectors, at length 1, are laid out in the
       plane: principal components, then t-SNE that starts from the first two.
    3. The plane is cut into ``side`` x
       ``side`` cells. The mean of the vectors in each that has at least ``least`` is drawn: the direction whitened by
       the second moments of all vectors (`features.objectives.whitening`, with ``ridge``), times the ``cosine`` power.
    4. Neighbouring pictures share the part ``alike`` of their numbers (0 to 1), so that they show the same thing in
       the same place; all are therefore made in one batch.

    A thousand images or more make a good atlas; ``canvas`` and the other arguments are as for `activation_grid`. The
    same call gives the same atlas. Errors: ``ValueError`` for fewer than 10 vectors that are not 0, and for fewer than
    two cells with enough of them; otherwise those of `find_examples` and `visualize`.

    >>> from features.models import load_model
    >>> from features.parameterizations import fourier
    >>> images = torch.rand(30, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> model = load_model("sketches")
    >>> activation_atlas(model, images, "mixed3a", side=2, canvas=fourier(32), steps=1, progress=False).side
    2
    """
    _check_whole(side=(side, 2), positions=(positions, 1), least=(least, 1), seed=(seed, 0), batch=(batch, 1))
    found = _Found.gathered(_read(model, dataset, layer, positions, seed, batch, progress))
    layout = _laid_out(found.vectors, seed)
    cells, counts, means = _means(found.vectors, _cell_of(layout, side), least, side)
    drawing = Drawing(canvas, steps, transforms, seed, batch, progress)
    whitened = whitening(found.vectors, ridge=ridge)
    pictures, made = drawing.aligned(model, layer, means, cells, cosine=cosine, whitened=whitened, alike=alike)
    more = {"positions": positions, "least": least, "cosine": cosine, "ridge": ridge, "alike": alike}
    return ActivationAtlas(
        layer, side, pictures, cells, counts, means.astype(np.float32), layout.astype(np.float32),
        found.images, found.labels, found.positions, settings_of(made, **more), model.digest,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Found:
    """Activation vectors ``(n, c)`` that are not 0, and where each is from."""

    vectors: NDArray[np.float64]
    images: Integers
    labels: Integers
    positions: Integers

    @classmethod
    def gathered(cls, rows: Iterator[tuple[NDArray[np.float64], int, int, tuple[int, int]]]) -> _Found:
        kept = [row for row in rows if row[0].any()]
        if len(kept) < FEWEST:
            raise ValueError(
                f"{len(kept)} activation vectors that are not 0 make no atlas: give {FEWEST} images or more"
            )
        vectors, images, labels, positions = zip(*kept, strict=True)
        return cls(np.stack(vectors), *(np.array(each, dtype=np.int64) for each in (images, labels, positions)))


def _read(
    model: Model, dataset: Any, layer: str, positions: int, seed: int, batch: int, progress: bool
) -> Iterator[tuple[NDArray[np.float64], int, int, tuple[int, int]]]:
    """Give a vector, its image, that one's label, and its position, for some random positions of each image."""
    model.layer(layer)
    with tqdm(total=len(dataset), unit="image", desc=layer, mininterval=0.5, disable=not progress) as bar:
        for start in range(0, len(dataset), batch):
            indexes = range(start, min(start + batch, len(dataset)))
            items = [read_item(dataset, index, model.image_size, model.channels) for index in indexes]
            maps = maps_of(model, torch.stack([image.to(torch.float32) for image, _ in items]), layer)
            for index, (_, label), values in zip(indexes, items, maps, strict=True):
                yield from ((vector, index, label, place) for vector, place in _some(values, positions, [seed, index]))
            bar.update(len(items))


def _some(values: Tensor, count: int, seeds: list[int]) -> Iterator[tuple[NDArray[np.float64], tuple[int, int]]]:
    """Give ``count`` vectors of ``values (c, h, w)`` and their positions, none twice; all, where there are fewer."""
    h, w = values.shape[1:]
    chosen = np.random.default_rng(seeds).permutation(h * w)[:count]
    for y, x in zip(*np.unravel_index(chosen, (h, w)), strict=True):
        yield values[:, int(y), int(x)].numpy().astype(np.float64), (int(y), int(x))


def _laid_out(vectors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Give places ``(n, 2)`` in the unit square, like vectors near each other."""
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    components = PCA(min(COMPONENTS, *directions.shape), svd_solver="full").fit_transform(directions)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    plane = TSNE(init="pca", perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(components)
    low, high = np.percentile(plane, [TAIL, 100 - TAIL], axis=0)
    return np.asarray(((plane - low) / np.maximum(high - low, 1e-12)).clip(0, 1), np.float64)


def _cell_of(layout: NDArray[np.floating], side: int) -> Integers:
    scaled = layout.astype(np.float32) * np.float32(side)  # as it is kept: `members` finds the same cells
    return np.asarray(np.minimum(scaled, side - 1), np.int64)


def _means(
    vectors: NDArray[np.float64], cell_of: Integers, least: int, side: int
) -> tuple[Integers, Integers, NDArray[np.float64]]:
    """Give the cells ``(k, 2)`` that hold at least ``least`` vectors, how many, and their means ``(k, c)``."""
    cells, inverse, counts = np.unique(cell_of, axis=0, return_inverse=True, return_counts=True)
    means = np.stack([vectors[inverse.ravel() == index].mean(0) for index in range(len(cells))])
    full = (counts >= least) & means.any(1)
    if full.sum() < 2:
        raise ValueError(
            f"{full.sum()} of {side} x {side} cells hold {least} of the {len(vectors)} vectors: give more images, or "
            "smaller side and least"
        )
    return cells[full], counts[full].astype(np.int64), means[full]


def _check_whole(**given: tuple[Any, int]) -> None:
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
