"""The objective itself: a number for each picture, read from activations, that adds, subtracts and multiplies."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from features.units import Unit

Score: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
Edit: TypeAlias = Callable[[Tensor], Tensor]

# The name under which an objective reads the picture itself, ``(n, channels, h, w)`` in [0, 1], as the network sees it:
# after the transforms and before the normalization.
INPUT = "input"


@dataclass(frozen=True)
class Objective:
    """A number for each picture, read from activations, that the picture is made to maximize.

    ``score(activations)`` gets a mapping from layer to a tensor with channels first, ``(n, c, h, w)``, ``(n, c, t)`` or
    ``(n, c)``, of the n pictures of one group, and gives ``(n,)``. ``layers`` are those that it reads (`INPUT` for the
    picture itself) and ``name`` is what it is called in results. Objectives add, subtract and multiply with each other
    and with numbers, picture by picture; the result is an objective whose name says so.

    ``unit`` is set on the objective `channel` makes, so that many of one layer are read at once, and ``peak`` on one
    about a place of a unit: a picture is graded by the largest activation of either. ``edits`` says what is
    done to layers while they are read, for all terms of a sum (see `through`). ``joint`` says that the score of a
    picture depends on the others of its group too (see `diversity`); that of any other objective does not.

    >>> import torch
    >>> from features.objectives import channel
    >>> wanted = channel("mixed3a:1") - 0.5 * channel("mixed4a:2")
    >>> wanted.name, wanted.layers
    ('mixed3a:1 - 0.5 * mixed4a:2', ('mixed3a', 'mixed4a'))
    >>> wanted.score({"mixed3a": torch.ones(2, 4, 5, 5), "mixed4a": torch.ones(2, 4, 3, 3)})
    tensor([0.5000, 0.5000])
    """

    score: Score
    layers: tuple[str, ...]
    name: str
    unit: Unit | None = None
    edits: Mapping[str, Edit] = field(default_factory=dict, hash=False)
    joint: bool = False
    peak: Unit | None = None

    def __call__(self, read: Callable[[str], Tensor]) -> Tensor:
        """Give the loss of pictures whose layers ``read(layer)`` gives: minus their mean score, one number.

        This is how lucent calls an objective, so that this one runs inside its ``render_vis`` too; there layers are
        called with underscores for dots. ``ValueError`` for an objective with edits, which only `visualize` does.
        """
        if self.edits:
            raise ValueError(f"{self.name!r} edits {', '.join(self.edits)}, which lucent cannot: give it to visualize")
        return -self.score({layer: _read(read, layer) for layer in self.layers}).mean()

    def __add__(self, other: Objective | float) -> Objective:
        return _combined(operator.add, self, other, "{} + {}")

    def __radd__(self, other: float) -> Objective:
        return _combined(operator.add, other, self, "{} + {}")

    def __sub__(self, other: Objective | float) -> Objective:
        return _combined(operator.sub, self, other, "{} - {}", closed="right")

    def __rsub__(self, other: float) -> Objective:
        return _combined(operator.sub, other, self, "{} - {}", closed="right")

    def __mul__(self, other: Objective | float) -> Objective:
        return _combined(operator.mul, self, other, "{} * {}", closed="both")

    def __rmul__(self, other: float) -> Objective:
        return _combined(operator.mul, other, self, "{} * {}", closed="both")

    def __neg__(self) -> Objective:
        score = self.score
        return replace(self, score=lambda given: -score(given), name=f"-{_closed(self.name)}", unit=None, peak=None)


def _combined(
    operate: Callable[[Tensor | float, Tensor | float], Tensor],
    left: Objective | float,
    right: Objective | float,
    form: str,
    *,
    closed: str = "",
) -> Objective:
    sides = (left, right)
    if any(not isinstance(side, (Objective, int, float)) or isinstance(side, bool) for side in sides):
        return NotImplemented  # type: ignore[no-any-return]

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        return operate(*(side.score(activations) if isinstance(side, Objective) else side for side in sides))

    names = [side.name if isinstance(side, Objective) else f"{side:.9g}" for side in sides]
    names[0] = _closed(names[0]) if closed == "both" else names[0]
    names[1] = _closed(names[1]) if closed else names[1]
    terms = [side for side in sides if isinstance(side, Objective)]
    layers = tuple(dict.fromkeys(layer for term in terms for layer in term.layers))
    joint = any(term.joint for term in terms)
    return Objective(score, layers, form.format(*names), edits=_merged_edits(terms), joint=joint)


def _read(read: Callable[[str], Tensor], layer: str) -> Tensor:
    try:
        return read(layer)
    except AssertionError:  # how lucent refuses a name
        return read(layer.replace(".", "_"))


def _merged_edits(terms: list[Objective]) -> dict[str, Edit]:
    merged: dict[str, Edit] = {}
    for term in terms:
        for layer, edit in term.edits.items():
            if merged.setdefault(layer, edit) is not edit:
                names = " and ".join(repr(each.name) for each in terms)
                raise ValueError(f"{names} both edit layer {layer!r}: a sum reads it edited once; render them apart")
    return merged


def _closed(name: str) -> str:
    return f"({name})" if " + " in name or " - " in name else name
