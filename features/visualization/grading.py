"""Grading: how good a picture is, and the rule that makes a verdict of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from features.models import Model
from features.objectives import INPUT, Objective
from features.transforms import Transform, jitter, rotate, scale, transform
from features.units import Unit

# What the pictures are tried under: moves wider than those of `features.transforms.STANDARD`, drawn anew, and two
# things that they are never made with.
HELD_OUT: tuple[Transform, ...] = (jitter(1 / 8), scale(0.8, 1.25), rotate(-20, 20))
DRAWS = 8
BLUR = 1 / 100  # the standard deviation, as a share of the shorter side
JPEG = 75  # Pillow's quality

# Of the score of pictures by visualize 0.72 to 1.00 is left, over 24 units of sketches and 24 of a GoogLeNet trained on
# CIFAR-10; of those by textbook ascent (60 steps, 42 units past the first layer) 0.39 to 0.95, in the median 0.66.
ROBUST = 0.6

# Peaks of pictures made for the mean over all positions, over the strongest of 300 drawings: 0.47 to 2.4 for 52 units
# of sketches, in the median 1.06; in early layers a single sharp edge of full contrast is hard to beat. Zimmermann et
# al. (2021), who optimize the peak itself, ask for 1.
STRONG = 0.5


class Known(Protocol):
    """What is asked of examples (`features.examples.Examples`): which network they are of, and a unit's strongest."""

    @property
    def digest(self) -> str: ...

    def __getitem__(self, unit: Unit | str, /) -> Any: ...


@dataclass(frozen=True)
class Grades:
    """The grades of some pictures, each ``(n,)``, NaN where undefined; see `grade` and `verdict`."""

    scores: Tensor
    peaks: Tensor
    robustness: Tensor
    spread: Tensor


def grade(
    read: Callable[[Tensor], Mapping[str, Tensor]],
    score: Callable[[Mapping[str, Tensor]], Tensor],
    objectives: Sequence[Objective],
    images: Tensor,
    generators: Sequence[Generator],
    *,
    layer: str,
) -> Grades:
    """Grade the finished ``images`` ``(n, channels, h, w)``, as many for each objective, as ``read`` shows them to the
    network.

    - ``scores``: the objective on the image itself.
    - ``peaks``: the largest activation of the objective's unit over all positions, where it has one.
    - ``robustness``: the mean of the objective over `DRAWS` held-out moves (`HELD_OUT`), a blur and JPEG, divided by
      the score; undefined for scores that are not above 0 (for negative objectives, and where a layer is negative).
    - ``spread``: over a group of several, each picture's mean of ``1 - cos`` between the Gram matrices of ``layer`` for
      it and for the others: 0 if all are the same.
    """
    count = len(images) // len(objectives)
    activations = read(images)
    scores = score(activations).detach()
    peaks = torch.full_like(scores, math.nan)
    for row in range(len(images)):
        unit = objectives[row // count].unit or objectives[row // count].peak
        if unit is not None:
            peaks[row] = activations[unit.layer][row, unit.channel].max()
    spread = _spread(activations[layer], count) if count > 1 and layer != INPUT else torch.full_like(scores, math.nan)
    moved = [score(read(each)) for each in _held_out(images, generators)]
    kept = torch.stack(moved).mean(0) / scores
    return Grades(scores, peaks, torch.where(scores > 0, kept, math.nan), spread)


def verdict(
    *, silent: bool, score: float, start: float, ratio: float, robustness: float, natural: float = math.nan
) -> str:
    """Give the verdict on a picture; the first of these that holds:

    - ``dead``: no gradient reached the picture to the end, not even past its ReLUs; its score has not risen since the
      start and neither is above 0; and no ``natural`` example is known to excite the unit. Of a unit that never fires
      there is nothing to see.
    - ``weak``: at its peak the unit is excited less than half as much as by its strongest natural example (``ratio``
      below `STRONG`), or no more than by the noise that the picture was made from (``start``).
    - ``adversarial``: under transforms that it was not made with, less than 0.6 of the score is left (`ROBUST`): it
      excites by single pixels, not by what is drawn.
    - ``ok``: none of these.

    A grade that is undefined (NaN) takes no part.

    >>> verdict(silent=False, score=2.0, start=0.1, ratio=1.5, robustness=0.2)
    'adversarial'
    """
    if silent and score <= start <= 0 and not natural > 0:
        return "dead"
    if ratio < STRONG or score <= start:
        return "weak"
    return "adversarial" if robustness < ROBUST else "ok"


def strongest(model: Model, examples: Known, objectives: Sequence[Objective]) -> NDArray[np.float32]:
    """Give the largest activation of each objective's unit over all natural examples, NaN for one without a unit.

    Raises ``ValueError`` for examples of another network, or without the unit's layer; ``TypeError`` for other things.
    """
    if not hasattr(examples, "digest"):
        raise TypeError(f"examples is {type(examples).__name__}: give what find_examples gives")
    if examples.digest != model.digest:
        raise ValueError(f"the examples are of other weights than {model.name}'s: find them again with this model")
    units = [each.unit or each.peak for each in objectives]
    values = [math.nan if unit is None else float(examples[unit].maximum) for unit in units]
    return np.array(values, np.float32)


def _held_out(images: Tensor, generators: Sequence[Generator]) -> Iterator[Tensor]:
    for _ in range(DRAWS):
        yield transform(images, HELD_OUT, generators)
    yield _blurred(images)
    yield _compressed(images)


def _blurred(images: Tensor) -> Tensor:
    sd = BLUR * min(images.shape[2:])
    reach = min(math.ceil(3 * sd), min(images.shape[2:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype) / sd) ** 2)
    weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, weights, groups=images.shape[1])
    return F.conv2d(rows, weights.transpose(2, 3), groups=images.shape[1])


def _compressed(images: Tensor) -> Tensor:
    """Give the images as JPEG keeps them; those that are not in colour channel by channel, in grey."""
    planes = images if images.shape[1] == 3 else images.flatten(0, 1)[:, None]
    array = (planes * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    back = [_through_jpeg(each) for each in array]
    return torch.from_numpy(np.stack(back)).to(images).div(255).movedim(3, 1).reshape(images.shape)


def _through_jpeg(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0]).save(buffer, format="jpeg", quality=JPEG)
    return np.asarray(Image.open(buffer)).reshape(array.shape)


def _spread(values: Tensor, count: int) -> Tensor:
    maps = values.reshape(len(values) // count, count, values.shape[1], -1).double()
    grams = F.normalize((maps @ maps.transpose(2, 3)).flatten(2), dim=2)
    alike = grams @ grams.transpose(1, 2)
    others = (alike.sum(2) - alike.diagonal(dim1=1, dim2=2)) / (count - 1)
    return (1 - others).clamp(min=0).flatten().to(values.dtype)
