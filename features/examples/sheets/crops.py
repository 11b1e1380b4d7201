"""The tiles' pictures: what a unit sees around its peak, cut from whole images, and where the peak lies in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from features.examples.images import read_item
from features.pictures import Box, Picture

# The whole image of an index, (h, w, 3) in [0, 1], as the model saw it; `LookupError` for one that is not at hand.
Pictures: TypeAlias = Callable[[int], Picture]


def dataset_pictures(dataset: Any, size: tuple[int, int], channels: int) -> Pictures:
    """Give a function from an index to the whole image of ``dataset`` as a picture, fitted to ``size`` (h, w).

    It raises what reading the image raises, and ``ValueError`` for images of other than 1 or 3 channels.

    >>> from features.sketches import Sketches
    >>> dataset_pictures(Sketches(2), (64, 64), 3)(0).shape
    (64, 64, 3)
    """

    def picture(index: int) -> Picture:
        if channels not in (1, 3):
            raise ValueError(f"images of {channels} channels cannot be shown: pictures have 1 or 3")
        image, _ = read_item(dataset, index, size, channels)
        shown = image.clamp(0, 1).permute(1, 2, 0).cpu().double().numpy().astype(np.float32)
        return np.broadcast_to(shown, (*shown.shape[:2], 3))

    return picture


def window(box: Sequence[int], size: tuple[int, int]) -> Box:
    """Give the square around ``box`` ``(y0, x0, y1, x1)``, moved into an image of ``size`` (h, w), or as much of it as
    there is.

    Fields at the border are clipped, and a strip of two pixels shows nothing: the square gives it its surroundings.

    >>> window((0, 10, 2, 18), (64, 64))
    (0, 10, 8, 18)
    """
    side = max(box[2] - box[0], box[3] - box[1], 1)
    y0, y1 = _span((box[0] + box[2]) / 2, side, size[0])
    x0, x1 = _span((box[1] + box[3]) / 2, side, size[1])
    return y0, x0, y1, x1


def peak(field: Sequence[int], shown: Box, size: tuple[int, int]) -> tuple[float, float] | None:
    """Give the centre of the unclipped receptive ``field`` in pixels of the window ``shown``; ``None`` where it says
    nothing of a place, because it is the image itself.

    >>> peak((-3, 10, 4, 17), (0, 10, 7, 17), (64, 64))
    (0.5, 3.5)
    """
    if tuple(field) == (0, 0, *size):
        return None
    y, x = (field[0] + field[2]) / 2 - shown[0], (field[1] + field[3]) / 2 - shown[1]
    return float(np.clip(y, 0, shown[2] - shown[0])), float(np.clip(x, 0, shown[3] - shown[1]))


def _span(centre: float, side: int, length: int) -> tuple[int, int]:
    if side >= length:
        return 0, length
    start = int(np.clip(round(centre - side / 2), 0, length - side))
    return start, start + side
