"""Perturbing: methods that change the picture and watch the target: occlusion, RISE."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from features.attribution.targets import Method, mean_colour, score_of, scores_of, whole_number
from features.models import Model
from features.objectives import Objective

WINDOW = 1 / 8  # of the picture's side: eight windows across show where, and each hides enough to matter
# RISE's masks are 7 x 7 cells, half of them open, enlarged (Petsiuk, Das and Saenko 2018); they use 4000 to 8000.
CELLS, OPEN, MASKS = 7, 0.5, 1000


def occlusion(
    model: Model,
    images: Tensor,
    objective: Objective,
    layer: str | None = None,
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | None = None,
    colour: float | Tensor | None = None,
) -> tuple[Tensor, None]:
    """How far the target falls where a window hides the picture: the mean of ``S(x) - S(x hidden)`` over the windows
    that cover a pixel.

    Zeiler and Fergus 2014. ``window`` is in pixels, (h, w) or one number, by default an eighth of the side; it moves by
    ``stride`` pixels, by default half of it; what lies outside the picture is cut off. ``colour`` is what it shows, by
    default the model's mean colour.
    """
    height, width = images.shape[2:]
    size = max(1, round(WINDOW * min(height, width))) if window is None else window
    high, wide = (size, size) if isinstance(size, int) else size
    if not (1 <= whole_number("window", high) <= height and 1 <= whole_number("window", wide) <= width):
        raise ValueError(f"a window of {high} x {wide} does not fit pictures of {height} x {width}")
    step = max(1, min(high, wide) // 2) if stride is None else whole_number("stride", stride)
    if step > min(high, wide):
        raise ValueError(f"a stride of {step} would leave pixels unhidden by a window of {high} x {wide}: give less")
    paint = mean_colour(model, images) if colour is None else torch.as_tensor(colour).to(images)
    boxes = [
        (slice(y, y + high), slice(x, x + wide))
        for y in _starts(height, high, step)
        for x in _starts(width, wide, step)
    ]
    before = score_of(model, images, objective)
    total, covers = torch.zeros_like(images[:, 0]), torch.zeros_like(images[0, 0])
    hidden = (_painted(images, box, paint) for box in boxes)
    for box, after in zip(boxes, scores_of(model, hidden, objective), strict=True):
        total[:, box[0], box[1]] += (before - after)[:, None, None]
        covers[box] += 1
    return total / covers, None


def rise(
    model: Model,
    images: Tensor,
    objective: Objective,
    layer: str | None = None,
    *,
    masks: int = MASKS,
    cells: int = CELLS,
    share: float = OPEN,
    seed: int = 0,
) -> tuple[Tensor, None]:
    """Which pixels are open when the target is high: ``mean_j (S(x m_j) - mean S) m_j / share`` over random masks m.

    Petsiuk, Das and Saenko 2018, "RISE". A mask is a grid of ``cells`` x ``cells``, each open with chance ``share``,
    enlarged bilinearly and shifted at random; where it is closed the model's mean colour shows. Taking off the mean of
    S, which adds the same to every pixel, gives the heat a sign and less noise. All images meet the same masks.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}: give the chance that a cell is open, between 0 and 1")
    drawn = _masks(images, whole_number("masks", masks), whole_number("cells", cells), share, seed)
    nothing = mean_colour(model, images)
    variants = (nothing + mask * (images - nothing) for mask in drawn)
    scores = torch.stack(list(scores_of(model, variants, objective)))
    centred = scores - scores.mean(0)
    heat = torch.zeros_like(images[:, 0])
    for weight, mask in zip(centred, _masks(images, masks, cells, share, seed), strict=True):
        heat += weight[:, None, None] * mask
    return heat / (masks * share), None


def _starts(length: int, size: int, step: int) -> range:
    return range(0, (math.ceil((length - size) / step) + 1) * step, step)


def _painted(images: Tensor, box: tuple[slice, slice], paint: Tensor) -> Tensor:
    hidden = images.clone()
    hidden[:, :, box[0], box[1]] = paint.expand_as(images)[:, :, box[0], box[1]]
    return hidden


def _masks(images: Tensor, count: int, cells: int, share: float, seed: int) -> Iterator[Tensor]:
    """Give masks (h, w) in [0, 1], one at a time: all at once would take as much room as the images of an epoch."""
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[2:]
    cell = (math.ceil(height / cells), math.ceil(width / cells))
    for _ in range(count):
        grid = (torch.rand(1, 1, cells, cells, generator=generator) < share).to(images)
        size = ((cells + 1) * cell[0], (cells + 1) * cell[1])
        large = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[0, 0]
        y, x = (int(torch.randint(0, length, (1,), generator=generator)) for length in cell)
        yield large[y : y + height, x : x + width]


PERTURBING: dict[str, Method] = {"occlusion": occlusion, "rise": rise}
