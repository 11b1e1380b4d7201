"""Striding: the first convolution, whose way back to the picture torch takes slowly, taken in phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

# Up to this many channels coming in, the phases are quicker: 9.5 instead of 23.5 ms for the first convolution of
# ResNet50 and GoogLeNet (7x7, stride 2, 4 pictures of 224 px), 3.9 instead of 14.8 ms for AlexNet's (11x11, stride 4),
# on 2 cores; with 64 channels they take twice as long as torch.
FEW = 4


def is_few(images: Tensor, weight: Tensor, geometry: Sequence[Any]) -> bool:
    """Whether ``F.conv2d(images, weight, bias, *geometry)`` is one that `strided` is quicker for."""
    given: tuple[Any, ...] = (*geometry, *(1, 0, 1, 1)[len(geometry) :])
    stride, padding, dilation, groups = given
    return (
        images.device.type == "cpu"
        and images.dim() == 4
        and images.requires_grad
        and weight.shape[1] <= FEW
        and groups == 1
        and min(_pair(stride)) > 1
        and not isinstance(padding, str)
        and _pair(dilation) == (1, 1)
    )


def strided(images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any = 0) -> Tensor:
    """Give ``F.conv2d(images, weight, bias, stride, padding)``, with a quicker way back to the images.

    The pixels of one phase (row and column modulo the stride) are read by one part of the kernel, a convolution of
    stride 1; all phases together are one convolution of the gradient, whose channels are then dealt out over the
    pixels. The weight gets no gradient.

    >>> images = torch.rand(1, 3, 9, 9, requires_grad=True)
    >>> strided(images, torch.rand(4, 3, 3, 3), None, 2, 1).shape
    torch.Size([1, 4, 5, 5])
    """
    result: Tensor = _Strided.apply(images, weight, bias, _pair(stride), _pair(padding))
    return result


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.weight, ctx.stride, ctx.padding, ctx.size = weight, stride, padding, images.shape[2:]
        ctx.dtype = images.dtype
        return F.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, (down, across) = ctx.weight.to(gradient.dtype), ctx.stride
        parts = _phases(weight, ctx.stride)
        wide = F.conv2d(gradient, parts, padding=(parts.shape[2] - 1, parts.shape[3] - 1))
        count, _, rows, columns = wide.shape
        wide = wide.reshape(count, weight.shape[1], down, across, rows, columns).permute(0, 1, 4, 2, 5, 3)
        whole = wide.reshape(count, weight.shape[1], rows * down, columns * across)
        top, left = ctx.padding
        height, width = ctx.size
        whole = whole[:, :, top : top + height, left : left + width]
        short = (0, width - whole.shape[3], 0, height - whole.shape[2])
        return (F.pad(whole, short) if any(short) else whole).to(ctx.dtype), None, None, None, None


def _phases(weight: Tensor, stride: Pair) -> Tensor:
    """Give the kernels ``(o, i, kh, kw)`` of a strided convolution as those of its way back, ``(i * sh * sw, o, mh,
    mw)``: for each phase every ``sh``-th row and ``sw``-th column, turned by half a turn.
    """
    outputs, inputs, height, width = weight.shape
    down, across = stride
    rows, columns = -(-height // down), -(-width // across)
    full = F.pad(weight, (0, columns * across - width, 0, rows * down - height))
    parts = full.reshape(outputs, inputs, rows, down, columns, across).permute(1, 3, 5, 0, 2, 4)
    return parts.reshape(-1, outputs, rows, columns).flip(2, 3).contiguous(memory_format=torch.channels_last)


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return value, value
    given = tuple(int(each) for each in value)
    return (given[0], given[-1])
