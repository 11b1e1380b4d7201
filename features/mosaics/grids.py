"""Grids: what a layer sees in one image, at each position or in groups of neurons (Olah et al. 2018, "The Building
Blocks of Interpretability").
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from features.models import Model
from features.mosaics.pieces import STEPS, Drawing, Floats, settings_of
from features.mosaics.vectors import maps_of
from features.objectives.images import one_image
from features.parameterizations import Parameterization
from features.pictures import Picture, data_uri, encode, grid, overlay, resize
from features.transforms import STANDARD, Transform

# How much the picture of a vector is asked to point its way and no other: with 0 the cells look alike (what is common
# to all positions is large), with 2 and more the pictures of deep layers fall into pieces (looked at, GoogLeNet).
COSINE = 1.0
WIDTH = 128  # pixels that a heat map is wide


@dataclass(frozen=True, eq=False)
class ActivationGrid:
    """A picture for each position of a layer: what the layer says there of an image.

    ``pictures`` ``(rows, columns, h, w, 3)`` in [0, 1], ``lengths`` ``(rows, columns)`` the length of each activation
    vector, ``image`` ``(h, w, 3)`` the image itself, ``settings`` how it was made, ``digest`` that of the weights.
    """

    layer: str
    image: Floats
    pictures: Floats
    lengths: Floats
    settings: Mapping[str, Any]
    digest: str

    def __repr__(self) -> str:
        return f"ActivationGrid({self.layer}: {' x '.join(map(str, self.lengths.shape))} positions)"

    def picture(self) -> Picture:
        """Give the grid as one picture: the area of each cell in proportion to the length of its vector."""
        largest = max(float(self.lengths.max()), 1e-12)
        cells = [
            _shrunk(cell, float(length) / largest)
            for row, lengths in zip(self.pictures, self.lengths, strict=True)
            for cell, length in zip(row, lengths, strict=True)
        ]
        return _in_cells(cells, self.pictures.shape[2:4], self.lengths.shape[1])

    def _repr_png_(self) -> bytes:
        return encode(self.picture(), "png")

    def _repr_html_(self) -> str:
        shown = [("the image", self.image), (f"what {self.layer} says of it", self.picture())]
        return _figures(shown, 2 * WIDTH)


@dataclass(frozen=True, eq=False)
class ActivationGroups:
    """The activations of a layer on an image as few groups of neurons that fire together: a picture and a heat map for
    each, the strongest group first.

    ``vectors`` ``(k, c)`` of length 1 and ``heats`` ``(k, rows, columns)``, both at least 0: their product is the
    activations, but for the share ``1 - explained`` of their squares. ``pictures`` ``(k, h, w, 3)`` and ``image`` are
    in [0, 1].
    """

    layer: str
    image: Floats
    pictures: Floats
    vectors: Floats
    heats: Floats
    explained: float
    settings: Mapping[str, Any]
    digest: str

    def __repr__(self) -> str:
        return f"ActivationGroups({self.layer}: {len(self.vectors)} groups, {self.explained:.0%} explained)"

    def picture(self) -> Picture:
        """Give the pictures in a row, and below each where in the image its group is."""
        side = max(WIDTH, *self.pictures.shape[1:3])
        return grid([resize(each, side) for each in (*self.pictures, *self.places())], columns=len(self.pictures))

    def places(self) -> list[Picture]:
        """Give the image once for each group, with its heat over it, each on its own scale."""
        image = resize(self.image, max(WIDTH, *self.image.shape[:2]))
        return [overlay(image, heat) for heat in self.heats]

    def _repr_png_(self) -> bytes:
        return encode(self.picture(), "png")

    def _repr_html_(self) -> str:
        pairs = zip(self.pictures, self.places(), strict=True)
        return "".join(
            _figures([(f"group {index}", picture), ("where", place)], WIDTH)
            for index, (picture, place) in enumerate(pairs)
        )


def activation_grid(
    model: Model,
    image: ArrayLike | Tensor,
    layer: str,
    *,
    cosine: float = COSINE,
    canvas: Parameterization | None = None,
    steps: int = STEPS,
    transforms: Sequence[Transform] = STANDARD,
    seed: int = 0,
    batch: int = 64,
    progress: bool = True,
) -> ActivationGrid:
    """Draw what ``layer`` says of ``image`` at each position: the picture of the direction of its activation vector.

    ``image`` is a picture ``(h, w, 3)`` or a tensor ``(channels, h, w)`` in [0, 1], in a size that the network takes.
    ``cosine`` is the power of `features.objectives.direction`; ``canvas`` the parameterization of the pictures
    (`fourier` of the network's input size without it: a smaller one, ``fourier(32)``, is much faster, and enough for
    layers that see little). Patches of a transformer are positions, its class token is left out. Where the layer is
    silent the cell is empty. Olah et al. 2018. Errors: ``ValueError`` as in `visualize`, for what is no image and for a
    layer that is silent all over.

    >>> from features.models import load_model
    >>> from features.parameterizations import fourier
    >>> model, image = load_model("sketches"), np.random.default_rng(0).random((64, 64, 3))
    >>> activation_grid(model, image, "mixed4a", canvas=fourier(32), steps=1, progress=False)
    ActivationGrid(mixed4a: 8 x 8 positions)
    """
    pixels = one_image(model, image)
    values = maps_of(model, pixels, layer)[0]
    vectors = values.flatten(1).T.numpy().astype(np.float64)
    drawing = Drawing(canvas, steps, transforms, seed, batch, progress)
    pictures, made = drawing.each(model, layer, vectors, cosine)
    shape = (values.shape[1], values.shape[2])
    lengths = np.linalg.norm(vectors, axis=1).reshape(shape).astype(np.float32)
    cells = pictures.reshape(*shape, *pictures.shape[1:])
    return ActivationGrid(layer, _picture(pixels), cells, lengths, settings_of(made, cosine=cosine), model.digest)


def activation_groups(
    model: Model,
    image: ArrayLike | Tensor,
    layer: str,
    *,
    count: int = 6,
    cosine: float = COSINE,
    canvas: Parameterization | None = None,
    steps: int = STEPS,
    transforms: Sequence[Transform] = STANDARD,
    seed: int = 0,
    batch: int = 64,
    progress: bool = True,
) -> ActivationGroups:
    """Draw what ``layer`` says of ``image`` in ``count`` groups of neurons: non-negative matrix factorization over the
    positions.

    The activations ``(positions, c)``, negative ones as 0, become ``heats x vectors`` (sklearn's NMF with a start that
    depends on nothing random); each vector is drawn as a direction. Arguments and errors are those of
    `activation_grid`; ``ValueError`` also for more groups than positions or channels.

    >>> from features.models import load_model
    >>> model, image = load_model("sketches"), np.random.default_rng(0).random((64, 64, 3))
    >>> groups = activation_groups(model, image, "mixed4a", count=2, steps=1, progress=False)
    >>> groups.pictures.shape, groups.heats.shape
    ((2, 64, 64, 3), (2, 8, 8))
    """
    pixels = one_image(model, image)
    values = maps_of(model, pixels, layer)[0]
    positions = values.flatten(1).T.clamp(min=0).numpy().astype(np.float64)
    heats, vectors, explained = _factors(positions, count, layer)
    drawing = Drawing(canvas, steps, transforms, seed, batch, progress)
    pictures, made = drawing.each(model, layer, vectors, cosine)
    return ActivationGroups(
        layer,
        _picture(pixels),
        pictures,
        vectors.astype(np.float32),
        heats.T.reshape(count, *values.shape[1:]).astype(np.float32),
        explained,
        settings_of(made, cosine=cosine),
        model.digest,
    )


def _factors(
    positions: NDArray[np.float64], count: int, layer: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Give heats ``(positions, k)``, vectors ``(k, c)`` of length 1, strongest first, and the share of squares they
    explain.
    """
    if not positions.any():
        raise ValueError(f"layer {layer!r} is silent all over the image: there is nothing to draw")
    most = min(positions.shape)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"count is {count!r}: layer {layer!r} can be split into 1 to {most} groups")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how good the factors are is said by `explained`
        method = NMF(count, init="nndsvda", random_state=0, max_iter=500)
        heats = method.fit_transform(positions)
    vectors = method.components_
    explained = 1 - float(((positions - heats @ vectors) ** 2).sum() / (positions**2).sum())
    sizes = np.linalg.norm(vectors, axis=1)
    heats, vectors = heats * sizes, vectors / np.where(sizes > 0, sizes, 1)[:, None]
    order = np.argsort(-np.linalg.norm(heats, axis=0), kind="stable")
    return heats[:, order], vectors[order], explained


def _picture(pixels: Tensor) -> Floats:
    picture = pixels[0].clamp(0, 1).permute(1, 2, 0).float().numpy()
    return picture if picture.shape[2] == 3 else np.repeat(picture.mean(2, keepdims=True), 3, axis=2)


def _shrunk(cell: Floats, share: float) -> Picture:
    """Give ``cell`` with ``share`` of its area, at least a pixel."""
    return resize(cell, (max(1, round(cell.shape[0] * share**0.5)), max(1, round(cell.shape[1] * share**0.5))))


def _in_cells(cells: Sequence[Picture], size: tuple[int, ...], columns: int) -> Picture:
    blank = np.ones((*size, 3), np.float32)
    boxed = []
    for cell in cells:
        top, left = (size[0] - cell.shape[0]) // 2, (size[1] - cell.shape[1]) // 2
        box = blank.copy()
        box[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        boxed.append(box)
    return grid(boxed, columns=columns, gap=1)


def _figures(shown: Sequence[tuple[str, Picture]], width: int) -> str:
    style = "display:inline-block;margin:2px;text-align:center;font:11px sans-serif"
    return "".join(
        f'<figure style="{style}"><img src="{data_uri(picture, form="png")}" width="{width}" alt="{html.escape(name)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, picture in shown
    )
