"""What is taken for an objective: text, units and objectives of this project besides functions of ``T``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from features.lucent.objectives.losses import Objective
from features.lucent.objectives.units import channel
from features.objectives import Objective as Score
from features.units import Unit
from features.visualization.guests import Read


def as_objective(obj: Any) -> Callable[[Read], Any]:
    """Make a function of ``T`` of 'layer:channel', a `Unit`, or an `Objective` of `features.objectives`; any other
    function is given back.

    >>> as_objective("mixed4a: 3").description
    'Channel [mixed4a, 3]'
    """
    if isinstance(obj, str):
        layer, mark, number = obj.rpartition(":")
        if not mark or not number.strip().isdecimal():
            raise ValueError(f"{obj!r} is no objective: write 'layer:channel', as in 'mixed4a:476'")
        return channel(layer.strip(), int(number))
    if isinstance(obj, Unit):
        return channel(obj.layer, obj.channel)
    if isinstance(obj, Score):
        return as_loss(obj)
    if not callable(obj):
        raise TypeError(f"{obj!r} is {type(obj).__name__}: give 'layer:channel', an objective, or a function of T")
    return obj  # type: ignore[no-any-return]


def as_loss(objective: Score) -> Objective:
    """Make of an `Objective` of `features.objectives`, which is maximized, one of lucent's kind, to be added to others:
    minus the mean score of the pictures.

    lucent's ``T`` gives the network's own order of axes (which matters for tokens) and cannot edit layers: an objective
    with edits, such as `through`, is refused when it is called (``ValueError``).

    >>> import torch
    >>> from features.objectives import energy
    >>> as_loss(energy("conv"))(lambda layer: torch.ones(2, 4, 3, 3))
    tensor(-1.)
    """
    return Objective(objective, objective.name, objective.name)
