"""Redirection: gradients for units that are dead where the picture starts, while they are dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

IN_PLACE = frozenset({torch.relu_, Tensor.relu_})
PLAIN = IN_PLACE | {F.relu, torch.relu, Tensor.relu}
RECTIFIERS = PLAIN | {F.relu6}
CLAMPS = frozenset(
    {torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_, Tensor.clamp, Tensor.clamp_, Tensor.clamp_min}
) | {Tensor.clamp_min_, F.hardtanh, F.hardtanh_}


class Redirected(TorchFunctionMode):
    """While it lasts, a ReLU that blocks the whole gradient of an image lets that part through which would open it.

    The gradient at an input below 0 is let through where following it would raise the input, for an image marked in
    ``asleep`` ``(n,)`` and at a ReLU that lets nothing of that image's gradient through by itself (lucid,
    `misc/redirected_relu_grad.py`). Values stay those of the network, and an image whose gradient flows is not touched.
    The gradient is taken to be of something that is minimized.

    >>> x = torch.tensor([[-1.0], [-1.0]], requires_grad=True)
    >>> with Redirected(torch.tensor([True, False])):
    ...     y = F.relu(x)
    >>> torch.autograd.grad(-y.sum(), x)[0].flatten()
    tensor([-1., 0.])
    """

    def __init__(self, asleep: Tensor) -> None:
        super().__init__()
        self.asleep, self.rows = asleep, asleep.nonzero()[:, 0]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        values = args[0] if args else kwargs.get("input")
        if not self._applies(func, values, args, kwargs):
            return func(*args, **kwargs)
        inplace = func in IN_PLACE or bool(kwargs.get("inplace", func is F.relu and len(args) > 1 and args[1]))
        if func in PLAIN and isinstance(values, Tensor) and not (inplace and (values._is_view() or values.is_leaf)):
            return _Rectified.apply(values, self.rows, inplace)
        opening = _Opening.apply(values, self.rows)
        return func(*args, **kwargs) + opening

    def _applies(self, func: Callable[..., Any], values: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        if func in CLAMPS:
            low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
            if isinstance(low, Tensor) or low != 0:
                return False
        elif func not in RECTIFIERS:
            return False
        return isinstance(values, Tensor) and values.requires_grad and len(values) == len(self.asleep)


class _Rectified(torch.autograd.Function):
    """ReLU, and what it blocks of the images asleep: one pass over the others, as torch's own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, inplace: bool) -> Tensor:
        sleeping = values[rows]
        if inplace:
            ctx.mark_dirty(values)
        result = values.relu_() if inplace else values.relu()
        ctx.save_for_backward(result, sleeping > 0, sleeping < 0, rows)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        result, open_, closed, rows = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient, result, 0)
        passed[rows] += _opening(gradient[rows], open_, closed)
        return passed, None, None


class _Opening(torch.autograd.Function):
    """Zeros, whose gradient is the one that the rectifier beside it blocks; only the images asleep are looked at."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor) -> Tensor:
        sleeping = values[rows]
        ctx.save_for_backward(sleeping > 0, sleeping < 0, rows)
        return values.new_zeros(()).expand_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        open_, closed, rows = ctx.saved_tensors
        result = torch.zeros_like(gradient)
        result[rows] = _opening(gradient[rows], open_, closed)
        return result, None


def _opening(arriving: Tensor, open_: Tensor, closed: Tensor) -> Tensor:
    """Give what is let through of the gradient ``arriving`` at images where nothing passes by itself."""
    blocked = ~((arriving != 0) & open_).flatten(1).any(1).reshape(-1, *[1] * (arriving.ndim - 1))
    return torch.where(blocked & closed & (arriving < 0), arriving, 0)
