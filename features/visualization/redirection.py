"""Redirection: gradients for units that are dead where the picture starts, while they are dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

RECTIFIERS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6})
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
        self.asleep = asleep

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        values = args[0] if args else kwargs.get("input")
        if not self._applies(func, values, args, kwargs):
            return func(*args, **kwargs)
        opening = _Opening.apply(values, self.asleep)
        return func(*args, **kwargs) + opening

    def _applies(self, func: Callable[..., Any], values: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        if func in CLAMPS:
            low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
            if isinstance(low, Tensor) or low != 0:
                return False
        elif func not in RECTIFIERS:
            return False
        return isinstance(values, Tensor) and values.requires_grad and len(values) == len(self.asleep)


class _Opening(torch.autograd.Function):
    """Zeros, whose gradient is the one that the ReLU beside it blocks; only the images asleep are looked at."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, asleep: Tensor) -> Tensor:
        rows = asleep.nonzero()[:, 0]
        sleeping = values[rows]
        ctx.save_for_backward(sleeping > 0, sleeping < 0, rows)
        return values.new_zeros(()).expand_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        open_, closed, rows = ctx.saved_tensors
        arriving = gradient[rows]
        blocked = ~((arriving != 0) & open_).flatten(1).any(1).reshape(-1, *[1] * (gradient.ndim - 1))
        result = torch.zeros_like(gradient)
        result[rows] = torch.where(blocked & closed & (arriving < 0), arriving, 0)
        return result, None
