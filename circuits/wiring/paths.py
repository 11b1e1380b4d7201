"""Paths: wires whose paths pull both ways, so that what is left says little of what goes through them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from circuits.wiring.jacobian import connect, kernels_with
from circuits.wiring.rules import BILINEAR, RULES, Function, Rule
from features.models import Model
from features.units import Unit

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cancellation:
    """What is left of each wire beside what goes through it; arrays ``(o, i)`` by channel of target and source.

    ``signed`` is the sum over the window of ``|connect(model, source, target)|``, ``mass`` the same sum of `path_mass`,
    the absolute weights of all paths. ``ratio = signed / mass`` is in [0, 1]: 1 where all paths agree, near 0 where a
    wire is strong both ways and washes out; NaN where there is no path. Where N paths of like size have signs at random
    it is about ``1 / sqrt(N)``, so low ratios are common in deep maps: a wire is worth a look where its mass is among
    its target's greatest too (`washed_out`).
    """

    source: str
    target: str
    signed: Numbers
    mass: Numbers
    ratio: Numbers


@dataclass(frozen=True)
class Wash:
    """A wire that washes out: ``signed`` and ``mass`` as in `Cancellation`, and its places among its target's wires by
    each, 0 for the greatest."""

    source: Unit
    target: Unit
    signed: float
    mass: float
    ratio: float
    place_by_signed: int
    place_by_mass: int


def cancellation(model: Model, source: str, target: str, *, cut: Collection[str] = ()) -> Cancellation:
    """Set the signed wires between two layers beside the unsigned mass of their paths.

    The known case: conv2d2:89 -> mixed3b:345 of InceptionV1 is strong both ways through mixed3a and shows next to
    nothing as a wire (Voss et al. 2021, "Visualizing Weights"). Raises what `connect` raises, and
    ``NotImplementedError`` for an operation whose signs cannot be dropped.

    >>> from features.models import load_model
    >>> found = cancellation(load_model("sketches"), "conv2d1", "conv2d2")
    >>> bool((found.ratio > 0.999).all())
    True
    """
    signed = connect(model, source, target, cut=cut).detach().double().abs().sum((2, 3)).cpu().numpy()
    mass = path_mass(model, source, target, cut=cut).double().sum((2, 3)).cpu().numpy()
    ratio = np.divide(signed, mass, out=np.full_like(signed, np.nan), where=mass > 0)
    return Cancellation(source, target, signed, mass, np.minimum(ratio, 1.0))


def path_mass(model: Model, source: str, target: str, *, cut: Collection[str] = ()) -> Tensor:
    """Give the sum over all paths of the absolute product of their weights: ``(o, i, kh, kw)``, in `connect`'s window.

    A path goes from number to number through every operation on the way: from one channel and place of each convolution
    to one of the next. It is the linear map with each weight replaced by its absolute value, so it is at least
    ``|connect(...)|``, and equal where nothing cancels. Frozen values (denominators, gates, patterns) stay true.
    """
    return kernels_with(model, source, target, cut=cut, rules=_Unsigned)


def paths_through(model: Model, source: Unit | str, middle: str, target: Unit | str) -> Tensor:
    """Give the wire between two units by what it owes to each channel of a layer in between: ``(m, kh, kw)``.

    Row ``m`` is the kernel from the source to channel ``m`` of ``middle`` followed by the kernel from there to the
    target; their sum is all that goes through ``middle``, which is the whole wire where nothing goes around. Look at
    the largest positive and negative rows to see what cancels. Raises ``ValueError`` where the strides are not known,
    and what `connect` raises.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> rows = paths_through(model, "conv2d0:3", "conv2d1", "conv2d2:5")
    >>> torch.allclose(rows.sum(0), connect(model, "conv2d0", "conv2d2")[5, 3], atol=1e-5)
    True
    """
    start, end = model.unit(source), model.unit(target)
    first = connect(model, start.layer, middle)[:, start.channel]
    second = connect(model, middle, end.layer)[end.channel]
    near, far = model.layer(start.layer).field, model.layer(middle).field
    if near is None or far is None or any(b % a for a, b in zip(near.stride, far.stride, strict=True)):
        raise ValueError(f"how positions of {middle!r} lie over {start.layer!r} is not known: no receptive fields")
    stride = (far.stride[0] // near.stride[0], far.stride[1] // near.stride[1])
    return F.conv_transpose2d(second[None], first[:, None], stride=stride, groups=len(first))[0]


def washed_out(found: Cancellation, *, below: float = 0.1, among: int = 10) -> list[Wash]:
    """Give the wires that are among their target's ``among`` greatest by mass and keep less than ``below`` of it.

    The lowest ratio first. ``ValueError`` for ``below`` outside (0, 1] and ``among`` below 1.

    >>> signed, mass = np.array([[0.01, 1.0]]), np.array([[2.0, 1.0]])
    >>> [wash.source for wash in washed_out(Cancellation("a", "b", signed, mass, signed / mass))]
    [Unit(layer='a', channel=0)]
    """
    if not 0 < below <= 1:
        raise ValueError(f"below is {below!r}: give a ratio above 0, 1 at most")
    if isinstance(among, bool) or not isinstance(among, int) or among < 1:
        raise ValueError(f"among is {among!r}: give a whole number, 1 or more")
    by_mass, by_signed = (
        np.argsort(np.argsort(-each, axis=1, kind="stable"), axis=1, kind="stable")
        for each in (found.mass, found.signed)
    )
    chosen = np.argwhere((by_mass < among) & (found.ratio < below)).tolist()
    washes = [
        Wash(
            Unit(found.source, i),
            Unit(found.target, o),
            signed=float(found.signed[o, i]),
            mass=float(found.mass[o, i]),
            ratio=float(found.ratio[o, i]),
            place_by_signed=int(by_signed[o, i]),
            place_by_mass=int(by_mass[o, i]),
        )
        for o, i in chosen
    ]
    return sorted(washes, key=lambda wash: (wash.ratio, wash.target, wash.source))


class _Unsigned(Mapping[str, Rule]):
    """`RULES`, and the linear operations too, with absolute weights."""

    def __getitem__(self, name: str) -> Rule:
        if name in SIGNS:
            return SIGNS[name]
        if name in BILINEAR:
            return _absolute
        return RULES[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**RULES, **SIGNS, **dict.fromkeys(BILINEAR)})

    def __len__(self) -> int:
        return len(list(iter(self)))


def _absolute(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Do the same with the absolute values of all factors that do not depend on the source."""
    return function(*(_positive(arg) for arg in args), **{key: _positive(value) for key, value in kwargs.items()})


def _positive(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if value.requires_grad or not value.is_floating_point() else value.abs()
    if type(value) in (tuple, list):
        return type(value)(_positive(item) for item in value)
    return abs(value) if type(value) in (int, float) else value


def _by_rule_with_absolute_weights(name: str) -> Rule:
    def rule(function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        weights = {
            key: value.abs() if key == "weight" and value is not None else value for key, value in kwargs.items()
        }
        given = [arg.abs() if isinstance(arg, Tensor) else arg for arg in args]
        return RULES[name](function, x, *given, **weights)

    return rule


def _sum_of_both(function: Function, *args: Any, **kwargs: Any) -> Tensor:
    return torch.add(*args, **kwargs)


def _same(function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


def _layer_norm(
    function: Function,
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Take the centring matrix's absolute values: ``1 - 1 / n`` on the diagonal, ``1 / n`` beside it."""
    axes = tuple(range(-len(normalized_shape), 0))
    count = math.prod(normalized_shape)
    deviation = (x.detach().var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    normal = (x * (1 - 2 / count) + x.mean(axes, keepdim=True)) / deviation
    scaled: Tensor = normal if weight is None else normal * weight.abs()
    return scaled


def _refused(name: str) -> Rule:
    def rule(function: Function, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"the unsigned mass of paths through {name!r} is not known: choose layers around it")

    return rule


# What is done in place of operations that hold a sign; those in BILINEAR get absolute factors, the rest is as in RULES.
SIGNS: dict[str, Rule] = {
    "sub": _sum_of_both,
    "neg": _same,
    "layer_norm": _layer_norm,
    **{
        name: _by_rule_with_absolute_weights(name) for name in ("batch_norm", "group_norm", "instance_norm", "rms_norm")
    },
    **{name: _refused(name) for name in ("diff", "multi_head_attention_forward")},
}
