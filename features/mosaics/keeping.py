"""Keeping: a mosaic as a folder, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from features.mosaics.atlases import ActivationAtlas
from features.mosaics.grids import ActivationGrid, ActivationGroups
from features.records import check_shapes, read_record, write_record

Mosaic: TypeAlias = ActivationGrid | ActivationGroups | ActivationAtlas

KIND = "mosaic"


def write_mosaic(mosaic: Mosaic, folder: str | os.PathLike[str]) -> Path:
    """Write a grid, groups or an atlas as a record in ``folder``; give the folder. ``TypeError`` for anything else.

    >>> import tempfile
    >>> one = np.ones((1, 1, 4, 4, 3), np.float32)
    >>> grid = ActivationGrid("mixed3a", one[0, 0], one, np.ones((1, 1), np.float32), {}, "")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_mosaic(write_mosaic(grid, folder))
    ActivationGrid(mixed3a: 1 x 1 positions)
    """
    noun = next((noun for noun, each in MOSAICS.items() if isinstance(mosaic, each)), None)
    if noun is None:
        raise TypeError(f"{type(mosaic).__name__} is no mosaic: give an activation grid, groups or an atlas")
    values = {each.name: getattr(mosaic, each.name) for each in fields(mosaic)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in values.items() if name not in arrays}
    return write_record(folder, KIND, arrays=arrays, fields={"noun": noun, **rest})


def read_mosaic(folder: str | os.PathLike[str]) -> Mosaic:
    """Read what `write_mosaic` wrote. Errors: ``FileNotFoundError`` for no record, ``ValueError`` for a damaged one."""
    arrays, rest = read_record(folder, KIND)
    noun = rest.pop("noun", None)
    if noun not in MOSAICS:
        raise ValueError(f"the record in {folder} is of a mosaic {noun!r}, which is none of {', '.join(MOSAICS)}")
    made: Any = MOSAICS[noun]
    if {*arrays, *rest} != {each.name for each in fields(made)}:
        raise ValueError(f"the record in {folder} is no whole mosaic: it has {', '.join([*arrays, *rest])}")
    check_shapes(arrays, SHAPES[noun])
    mosaic: Mosaic = made(**arrays, **rest)
    return mosaic


MOSAICS: dict[str, type[Mosaic]] = {"grid": ActivationGrid, "groups": ActivationGroups, "atlas": ActivationAtlas}
SHAPES: dict[str, Mapping[str, Sequence[int | str]]] = {
    "grid": {"image": ("H", "W", 3), "pictures": ("rows", "columns", "h", "w", 3), "lengths": ("rows", "columns")},
    "groups": {
        "image": ("H", "W", 3),
        "pictures": ("k", "h", "w", 3),
        "vectors": ("k", "c"),
        "heats": ("k", "rows", "columns"),
    },
    "atlas": {
        "pictures": ("k", "h", "w", 3),
        "cells": ("k", 2),
        "counts": ("k",),
        "vectors": ("k", "c"),
        "layout": ("n", 2),
        "images": ("n",),
        "labels": ("n",),
        "positions": ("n", 2),
    },
}
