"""The picture files of an atlas: one per unit, one sheet per layer, one per dataset picture that a page shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from circuits.atlas.folders import put
from features.examples import Examples
from features.examples.images import read_item
from features.pictures import Picture, check_picture, encode, resize, sheet
from features.records import slug
from features.visualization import Visualization

LARGE = 160  # side of a unit's picture file in pixels: larger than most are made, so that browsers enlarge little
SMALL = 64  # side of a picture on a layer's sheet
LONGEST = 512  # longer side of a dataset picture's file


@dataclass(frozen=True)
class Sheet:
    """A layer's sprite sheet: its file, relative to the atlas, and its columns and rows."""

    path: str
    columns: int
    rows: int


def write_unit_pictures(folder: Path, layer: str, visualization: Visualization) -> Sheet:
    """Write one file per unit of a layer and their common sheet; give the sheet."""
    pictures = [visualization[unit] for unit in visualization.units]
    for unit, picture in zip(visualization.units, pictures, strict=True):
        channel = unit.rpartition(":")[2]
        put(
            folder / "pictures" / slug(layer) / f"{channel}.webp",
            encode(resize(picture, max(LARGE, *picture.shape[:2]))),
        )
    columns = math.ceil(math.sqrt(len(pictures)))
    sprites, _ = sheet([resize(picture, (SMALL, SMALL)) for picture in pictures], columns=columns)
    path = f"pictures/{slug(layer)}.webp"
    put(folder / path, encode(sprites))
    return Sheet(path, columns, math.ceil(len(pictures) / columns))


def write_dataset_pictures(
    folder: Path, dataset: Any, examples: Examples, numbers: Iterable[int], *, progress: bool = True
) -> Mapping[int, tuple[int, int]]:
    """Write the dataset's pictures with these numbers, and give each one's size ``(h, w)`` in the pixels that the model
    saw.
    """
    sizes = {}
    for number in tqdm(sorted(set(numbers)), desc="examples", unit="picture", disable=not progress, leave=False):
        image, _ = read_item(dataset, number, examples.image_size, examples.channels)
        picture = picture_of(image)
        sizes[number] = (picture.shape[0], picture.shape[1])
        put(
            folder / "examples" / f"{number}.webp",
            encode(resize(picture, LONGEST) if max(sizes[number]) > LONGEST else picture),
        )
    return sizes


def picture_of(image: Tensor) -> Picture:
    """Turn an image ``(channels, h, w)`` in [0, 1] to a picture ``(h, w, 3)``; neither 1 nor 3 channels become their
    mean.
    """
    array = image.detach().cpu().float().numpy().transpose(1, 2, 0)
    array = array if array.shape[2] in (1, 3) else array.mean(axis=2, keepdims=True)
    return check_picture(np.clip(array, 0, 1))
