"""Gated wires: the linear map between two layers as it is on given images, by mean firing rates or exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from circuits.wiring.jacobian import kernels_with
from circuits.wiring.rules import RULES, VALUELESS, Function, Rule
from circuits.wiring.watching import Measure, Watched, is_gate, watch
from circuits.wiring.windows import Frame, Place, centre_of, check_images, find_frame
from features.models import Model

BATCH = 32  # images at once while slopes are measured
TINY = 1e-12  # of a channel's mean square: what varies less is rounding
ROWS = 2**25  # numbers of source gradients that one batched backward pass gives at once: 128 MB in float32


def connect_gated(model: Model, source: str, target: str, *, images: Tensor, cut: Collection[str] = ()) -> Tensor:
    """Give the linear map with each nonlinearity on the way weighted by how open it is on ``images``: (o, i, kh, kw).

    As `circuits.connect`, but where that lets everything through a ReLU, this multiplies by the channel's measured
    firing rate: ``W2 diag(P(a > 0)) W1`` for one ReLU between two convolutions. The rate is the mean of the function's
    derivative over the images and all positions of the map, so for ReLU6, leaky ReLU, hard swish, GELU, SiLU and the
    rest it is their mean slope. A channel that rarely fires passes little on. This is the expected Jacobian if gates
    along a path open independently of each other (Voss et al. 2021, "Visualizing Weights", give the uniform case);
    along paths with one gate it is `connect_local` averaged everywhere, but for borders. It says what a *small* change
    does on average; `connect_fitted` is what predicts the activations best.

    What rectifies the *target* itself is left open, as in `connect`: the weights are those of its pre-activation.
    Max pooling averages and denominators, gates of squeeze-excite blocks and attention patterns are frozen as in
    `connect`; with the latter three the map is that of ``images``, else it is measured away from borders.

    Raises what `connect` raises, and ``NotImplementedError`` where the channels of what a nonlinearity is given cannot
    be told.

    >>> from features.models import load_model
    >>> model, images = load_model("sketches"), torch.rand(4, 3, 64, 64)
    >>> connect_gated(model, "mixed3a", "mixed3b", images=images).shape
    torch.Size([80, 64, 5, 5])
    """
    check_images(model, images)
    held = tuple(model.layer(name).name for name in cut if name not in {source, target})
    return _weighted(model, source, target, held, images, _derivatives, _mean)


def connect_fitted(model: Model, source: str, target: str, *, images: Tensor, cut: Collection[str] = ()) -> Tensor:
    """Give the linear map with each nonlinearity on the way replaced by the line that fits it best on ``images``.

    As `connect_gated`, with the slope of the least-squares line through each channel's values before and after the
    function, ``cov(f(a), a) / var(a)``, in place of its mean derivative ("statistical linearization", Booton 1954). For
    a channel whose values are Gaussian the two are equal (Stein's lemma); for one that is silent but for rare strong
    peaks, as units of vision networks are, a line that fits the peaks is steeper than the firing rate. Where all that
    counts is how well wires predict, `linearity` tells which of them to use.

    >>> from features.models import load_model
    >>> model, images = load_model("sketches"), torch.rand(4, 3, 64, 64)
    >>> connect_fitted(model, "mixed3a", "mixed3b", images=images).shape
    torch.Size([80, 64, 5, 5])
    """
    check_images(model, images)
    held = tuple(model.layer(name).name for name in cut if name not in {source, target})
    return _weighted(model, source, target, held, images, _moments, _line)


def connect_local(
    model: Model,
    source: str,
    target: str,
    *,
    images: Tensor,
    cut: Collection[str] = (),
    everywhere: bool = False,
) -> Tensor:
    """Give the true derivative of the network on ``images``, averaged over them: (o, i, kh, kw).

    ``weights[o, i, y, x]`` is the mean over the images of the derivative of channel ``o`` of the target at its central
    position ``(h // 2, w // 2)`` to channel ``i`` of the source at ``(y, x)`` in the window that the position reads.
    Nothing is made linear: each ReLU is open or closed, each maximum taken where it is, each gate and attention pattern
    moves. As in `connect` the target is read before the activation function that ends it, borders included: the window
    is clipped where the map is small. Where the source or the target has no map, ``kh = kw = 1`` and the weight is the
    sum over the source's positions. ``everywhere`` averages over all positions of the target whose window lies inside
    the source's map too, which is steadier and costs as many passes as a window has places.

    Raises what `connect` raises, and ``ValueError`` for ``everywhere`` where positions mix (attention, squeeze-excite),
    where a layer has no map or where no window lies inside it.

    >>> from features.models import load_model
    >>> model, images = load_model("sketches"), torch.rand(4, 3, 64, 64)
    >>> exact = connect_local(model, "conv2d1", "conv2d2", images=images)
    >>> torch.allclose(exact, connect_gated(model, "conv2d1", "conv2d2", images=images), atol=1e-5)
    True
    """
    check_images(model, images)
    held = tuple(model.layer(name).name for name in cut if name not in {source, target})
    frame = find_frame(model, source, target, images, held)
    groups = _apart(frame, source, target) if everywhere else []
    parts = [
        _summed(*watch(model, source, target, part, cut=held), frame, groups) for part in torch.split(images, BATCH)
    ]
    return torch.stack(parts).sum(0) / (len(images) * max(1, sum(map(len, groups))))


class _Gates(Mapping[str, Rule]):
    """`RULES`, with the gates met in the order of execution multiplied by their mean slopes; good for one run."""

    def __init__(self, slopes: list[Tensor | None]) -> None:
        self.left = iter(slopes)

    def __getitem__(self, name: str) -> Rule:
        return self._weighted if is_gate(name) else RULES[name]

    def __iter__(self) -> Iterator[str]:
        return iter(RULES)

    def __len__(self) -> int:
        return len(RULES)

    def _weighted(self, function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        slope = next(self.left)
        return x if slope is None else x * slope


def _weighted(
    model: Model,
    source: str,
    target: str,
    cut: tuple[str, ...],
    images: Tensor,
    measure: Measure,
    slope: Callable[[Tensor], Tensor],
) -> Tensor:
    """Give the map with each call of a gate weighted by the slope made of the sums that ``measure`` takes of it."""
    totals: list[Tensor] = []
    for part in torch.split(images, BATCH):
        mode, output = watch(model, source, target, part, cut=cut, measure=measure)
        totals = [a + b for a, b in zip(totals, mode.measured, strict=True)] if totals else mode.measured
        ended, used = mode.gates(output), mode.used
    slopes = [None if number in ended else slope(total).to(model.dtype) for number, total in enumerate(totals)]
    looks = any(RULES[name] not in VALUELESS for name in used & RULES.keys())
    return kernels_with(model, source, target, cut=cut, images=images if looks else None, rules=lambda: _Gates(slopes))


def _derivatives(gate: Callable[[Tensor], Tensor], x: Tensor, axes: list[int]) -> Tensor:
    """Give the sums of the derivative and of 1."""
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gate(point).sum(), point)
    return torch.stack([each.double().sum(axes, keepdim=True) for each in (slope, torch.ones_like(slope))])


def _mean(sums: Tensor) -> Tensor:
    return sums[0] / sums[1]


def _moments(gate: Callable[[Tensor], Tensor], x: Tensor, axes: list[int]) -> Tensor:
    """Give the sums of 1, x, f(x), x^2 and x f(x)."""
    value, x = gate(x).detach().double(), x.double()
    return torch.stack([each.sum(axes, keepdim=True) for each in (torch.ones_like(x), x, value, x * x, x * value)])


def _line(sums: Tensor) -> Tensor:
    """Give the least-squares slope, 0 for a channel that never changes."""
    count, x, value, squares, products = sums
    spread = squares - x * x / count
    slope = (products - x * value / count) / spread
    return torch.where(spread > TINY * squares, slope, torch.zeros_like(slope))


def _summed(mode: Watched, output: Tensor, frame: Frame, groups: list[list[Place]]) -> Tensor:
    """Give the sum over images, and over the positions in ``groups`` or at the centre alone, of (o, i, kh, kw)."""
    before = mode.before(output)
    if frame.source is None or frame.target is None:
        jacobian = _derivative(centre_of(before), mode.leaf)
        return jacobian.reshape(*jacobian.shape[:2], -1).sum(2)[:, :, None, None]
    windows = []
    for places in groups or [[frame.centre]]:
        rows, columns = torch.tensor(places, device=before.device).T
        windows.append(frame.windows(_derivative(before[:, :, rows, columns].sum(2), mode.leaf), places).sum(0))
    return functools.reduce(torch.add, windows)


@torch.enable_grad()
def _derivative(values: Tensor, leaf: Tensor) -> Tensor:
    """Give the derivative of each channel of ``values``, (n, o), summed over images: (o, i, ...)."""
    total = values.sum(0)
    unit = torch.eye(len(total), dtype=total.dtype, device=total.device)
    rows = max(1, ROWS // leaf.numel())
    parts = [
        torch.autograd.grad(total, leaf, some, retain_graph=True, is_grads_batched=True)[0].sum(1)
        for some in torch.split(unit, rows)
    ]
    return torch.cat(parts)


def _apart(frame: Frame, source: str, target: str) -> list[list[Place]]:
    """Give the positions whose window lies inside, in groups whose windows do not overlap."""
    mixing = sorted(frame.used & MIXING)
    if mixing:
        raise ValueError(f"between {source!r} and {target!r} {', '.join(mixing)} mixes positions: leave out everywhere")
    groups = frame.apart()
    if not groups:
        raise ValueError(
            f"no window of {target!r} lies inside the map of {source!r} (size {frame.source}, window {frame.extent}): "
            "leave out everywhere, or give larger images"
        )
    return groups


# What a squeeze-excite block, attention or a norm over the map is known by: their true derivative has no window.
MIXING = {
    *("sigmoid", "hardsigmoid", "softmax", "group_norm", "instance_norm", "normalize"),
    *("scaled_dot_product_attention", "multi_head_attention_forward"),
}
