"""What a contact sheet holds: bands of tiles, numbers, two histograms, the means of the classes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.examples.sheets.drawing import draw_sheet
from features.examples.sheets.markup import sheet_html
from features.pictures import Picture


@dataclass(frozen=True, eq=False)
class Tile:
    """One example: ``picture`` (h, w, 3) what the unit sees, ``None`` where there is none; ``mark`` (y, x) the peak in
    pixels of that picture, ``None`` where the layer has no places; what it is called, and its value.
    """

    picture: Picture | None
    mark: tuple[float, float] | None
    value: float
    label: str
    image: int


@dataclass(frozen=True, eq=False)
class Band:
    """Tiles under one ``title``, in ``rows`` from left to right; ``heads`` stand above the columns where there are
    any; ``None`` is an empty place.
    """

    title: str
    rows: tuple[tuple[Tile | None, ...], ...]
    heads: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Histogram:
    """``counts`` (bins,) between ``edges`` (bins + 1,), finite and ascending."""

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """The examples of one unit at a glance. It shows itself in a notebook; ``to_image()`` gives one picture,
    `write_sheets` writes pages and pictures.

    ``unit`` is the address; ``numbers`` are statistics in words; ``bands`` the examples; ``histograms`` the activations
    after the nonlinearity and before it, each ``None`` where it is not known; ``classes`` the classes with the highest
    mean activations, as (name, mean); ``note`` what a reader should know, for example why there are no pictures.
    """

    unit: str
    numbers: tuple[str, ...]
    bands: tuple[Band, ...]
    after: Histogram | None
    before: Histogram | None
    classes: tuple[tuple[str, float], ...]
    note: str = ""

    def __repr__(self) -> str:
        tiles = sum(tile is not None for band in self.bands for row in band.rows for tile in row)
        return f"ContactSheet({self.unit}: {tiles} tiles in {len(self.bands)} bands)"

    def to_image(self) -> Image.Image:
        """Give the sheet as one picture, 8 bits, black on white."""
        return draw_sheet(self)

    def _repr_html_(self) -> str:
        return sheet_html(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.to_image().save(buffer, format="png")
        return buffer.getvalue()
