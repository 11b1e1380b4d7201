"""Rules: how each torch function carries a trace from its inputs to its output.

A rule gets the step (inputs and output) and the function's own arguments. A function without a rule ends the receptive
field, so that a field is exact or ``None``, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from features.models.traces import LOST, Field, Input, Pair, Span, Trace


@dataclass(frozen=True)
class Step:
    """One call of a torch function: the ``inputs`` that depend on the image, and the shape of the output."""

    inputs: tuple[Input, ...]
    shape: tuple[int, ...]

    @property
    def first(self) -> Input:
        """The first input."""
        return self.inputs[0]

    def axis(self, dim: int) -> int:
        """Give an axis of the output counted from the front."""
        return dim % len(self.shape)


Rule = Callable[..., Trace]


def unknown(step: Step, *_: Any, **__: Any) -> Trace:
    """A function without a rule: rows and columns are where they were if the shape is."""
    return Trace(step.first.axes) if len(step.inputs) == 1 and step.first.shape == step.shape else LOST


def pointwise(step: Step, *_: Any, **__: Any) -> Trace:
    """A position of the output depends on the same position of each input, broadcast as usual."""
    found = {_shifted(each, len(step.shape)) for each in step.inputs} - {None}
    axes = found.pop() if len(found) == 1 else None
    return Trace(axes, _union([_spread(each, axes, step.shape) for each in step.inputs])) if axes else LOST


def conv2d(
    step: Step,
    tensor: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *_: Any,
) -> Trace:
    kernel, dilation = _pair(weight.shape[2:]), _pair(dilation)
    if padding == "same":  # torch puts the odd pixel of padding at the end
        padding = [dilation[axis] * (kernel[axis] - 1) // 2 for axis in (0, 1)]
    return _window(step, kernel, _pair(stride), _pair(0 if padding == "valid" else padding), dilation)


def max_pool2d(
    step: Step,
    tensor: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *_: Any,
    **__: Any,
) -> Trace:
    strides = stride if stride not in (None, [], ()) else kernel_size
    return _window(step, _pair(kernel_size), _pair(strides), _pair(padding), _pair(dilation))


def avg_pool2d(
    step: Step, tensor: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any, **__: Any
) -> Trace:
    return max_pool2d(step, tensor, kernel_size, stride, padding)


def adaptive_pool2d(step: Step, *_: Any, **__: Any) -> Trace:
    """A pool to a given size slides one window only where that divides the input's; a global pool sees everything."""
    before, after = step.first.shape[-2:], step.shape[-2:]
    if len(step.shape) != 4 or any(b % a for b, a in zip(before, after, strict=True)) or after == (1, 1) != before:
        return Trace((2, 3) if len(step.shape) == 4 else None)
    kernel = (before[0] // after[0], before[1] // after[1])
    return _window(step, kernel, kernel, (0, 0), (1, 1))


def pad(step: Step, tensor: Tensor, pad: Sequence[int], mode: str = "constant", *_: Any, **__: Any) -> Trace:
    axes, field = step.first.axes, step.first.field
    if axes is None or field is None or mode == "circular":
        return Trace(axes)
    places = [2 * (len(step.shape) - 1 - axis) for axis in axes]  # torch pads the last axis first
    y, x = (
        replace(span, start=span.start - (pad[place] if place < len(pad) else 0) * span.stride)
        for span, place in zip(field, places, strict=True)
    )
    return Trace(axes, (y, x))


def batch_norm(
    step: Step,
    tensor: Tensor,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Trace:
    return everywhere(step) if training else pointwise(step)


def layer_norm(step: Step, tensor: Tensor, normalized_shape: Sequence[int], *_: Any, **__: Any) -> Trace:
    normalized = range(len(step.shape) - len(normalized_shape), len(step.shape))
    return everywhere(step) if set(step.first.axes or ()) & set(normalized) else pointwise(step)


def everywhere(step: Step, *_: Any, **__: Any) -> Trace:
    """Every position depends on every other, but rows and columns stay where they are."""
    return Trace(step.first.axes)


def linear(step: Step, *_: Any, **__: Any) -> Trace:
    """Mixes the last axis."""
    own = len(step.inputs) == 1 and step.first.axes is not None and len(step.shape) - 1 not in step.first.axes
    return step.first.trace if own else LOST


def cat(step: Step, tensors: Sequence[Tensor], dim: int = 0, **_: Any) -> Trace:
    found = {each.axes for each in step.inputs}
    axes = found.pop() if len(found) == 1 else None
    if axes is None or step.axis(dim) in axes:
        return Trace(axes)
    return Trace(axes, _union([each.field for each in step.inputs]))


def split(step: Step, tensor: Tensor, size: Any, dim: int = 0) -> Trace:
    return _along(step, (dim,))


def softmax(step: Step, tensor: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Trace:
    return everywhere(step) if dim is None else _along(step, (dim,))


def reduce(step: Step, tensor: Tensor, dim: Any = None, *_: Any, **__: Any) -> Trace:
    """A mean or sum keeps the field where it is over axes other than rows and columns, and those stay (``keepdim``)."""
    if dim is None or len(step.first.shape) != len(step.shape):
        return LOST
    dims = tuple(dim) if isinstance(dim, Sequence) else (dim,)
    return _along(step, dims) if not {step.axis(each) for each in dims} & set(step.first.axes or ()) else LOST


def permute(step: Step, tensor: Tensor, *dims: Any, **named: Any) -> Trace:
    order = named.get("dims", dims[0] if dims and isinstance(dims[0], Sequence) else dims)
    return _reordered(step, [step.axis(axis) for axis in order])


def transpose(step: Step, tensor: Tensor, dim0: int, dim1: int) -> Trace:
    order = list(range(len(step.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _reordered(step, order)


def reshape(step: Step, *_: Any, **__: Any) -> Trace:
    """Rows and columns stay what they are only as untouched last axes, or behind untouched first ones."""
    (before, axes), after = (step.first.shape, step.first.axes), step.shape
    if axes is None:
        return LOST
    if axes == (len(before) - 2, len(before) - 1) and before[-2:] == after[-2:]:
        return Trace((len(after) - 2, len(after) - 1), step.first.field)
    kept = axes[1] + 1
    return step.first.trace if before[:kept] == after[:kept] else LOST


def unsqueeze(step: Step, tensor: Tensor, dim: int) -> Trace:
    if step.first.axes is None:
        return LOST
    y, x = (axis + (step.axis(dim) <= axis) for axis in step.first.axes)
    return Trace((y, x), step.first.field) if x == y + 1 else LOST


def getitem(step: Step, tensor: Tensor, index: Any) -> Trace:
    """Slices and whole numbers are followed; rows and columns may be sliced."""
    items = list(index) if isinstance(index, tuple) else [index]
    if step.first.axes is None or not all(item is None or item is ... or type(item) in (int, slice) for item in items):
        return LOST
    missing = len(step.first.shape) - sum(item is not None and item is not ... for item in items)
    spot = items.index(...) if ... in items else len(items)
    items[spot : spot + 1] = [slice(None)] * missing
    return _sliced(step.first, items)


def _sliced(first: Input, items: list[Any]) -> Trace:
    axes, spans, source, target = [], [], 0, 0
    for item in items:
        if item is not None and first.axes is not None and source in first.axes:
            if not isinstance(item, slice):
                return LOST
            start, _, step = item.indices(first.shape[source])
            span = first.field[first.axes.index(source)] if first.field else Span()
            axes.append(target)
            spans.append(Span(span.start + start * span.stride, span.size, span.stride * step))
        source += item is not None
        target += item is None or isinstance(item, slice)
    return Trace((axes[0], axes[1]), (spans[0], spans[1]) if first.field else None)


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[-1])) if isinstance(value, Sequence) else (int(value), int(value))


def _window(step: Step, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Trace:
    """A window slides over rows and columns, the last two of four axes."""
    axes = (2, 3) if len(step.shape) == 4 else None
    if axes is None or step.first.axes != axes or step.first.field is None or len(step.inputs) > 1:
        return Trace(axes)
    y, x = (span.window(*each) for span, *each in zip(step.first.field, kernel, stride, padding, dilation, strict=True))
    return Trace(axes, (y, x))


def _shifted(each: Input, ndim: int) -> Pair | None:
    """Give the axes of an input once it is broadcast to ``ndim`` axes."""
    shift = ndim - len(each.shape)
    return None if each.axes is None else (each.axes[0] + shift, each.axes[1] + shift)


def _spread(each: Input, axes: Pair, shape: tuple[int, ...]) -> Field | None:
    """Give the field of an input, ``None`` where one position of it reaches all of the output."""
    if each.axes is None or any(each.shape[own] != shape[axis] for own, axis in zip(each.axes, axes, strict=True)):
        return None
    return each.field


def _union(fields: Sequence[Field | None]) -> Field | None:
    known = [field for field in fields if field is not None]
    if len(known) < len(fields) or len({(y.stride, x.stride) for y, x in known}) != 1:
        return None
    (y, x), *others = known
    for other_y, other_x in others:
        y, x = y.union(other_y), x.union(other_x)
    return (y, x)


def _along(step: Step, dims: Sequence[int]) -> Trace:
    """Positions mix along ``dims``, which leaves the field as it is unless rows or columns are among them."""
    return everywhere(step) if {step.axis(dim) for dim in dims} & set(step.first.axes or ()) else step.first.trace


def _reordered(step: Step, order: list[int]) -> Trace:
    if step.first.axes is None:
        return LOST
    y, x = (order.index(axis) for axis in step.first.axes)
    return Trace((y, x), step.first.field) if y < x else LOST  # columns before rows: a turned picture


POINTWISE = (
    "abs absolute add addcmul alpha_dropout bfloat16 celu clamp clamp_max clamp_min clip clone contiguous cos "
    "detach div divide double dropout dropout1d dropout2d dropout3d elu erf exp expm1 feature_alpha_dropout float "
    "floordiv gelu half hardshrink hardsigmoid hardswish hardtanh iadd imul isub itruediv leaky_relu "
    "local_response_norm log log1p logsigmoid maximum minimum mish mul multiply neg negative pow prelu radd "
    "reciprocal relu relu6 requires_grad rmul rrelu rsqrt rsub rtruediv selu sigmoid sign silu sin softplus "
    "softshrink softsign sqrt square sub subtract tanh tanhshrink threshold to true_divide truediv type type_as "
)

# By the function's name without underscores around it: `relu`, `relu_` and `__iadd__` are 'relu', 'relu' and 'iadd'.
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE.split(), pointwise),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices"), max_pool2d),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), adaptive_pool2d),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "instance_norm", "interpolate", "upsample"), everywhere),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    **dict.fromkeys(("chunk", "split"), split),
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
    **dict.fromkeys(("mean", "sum", "amax"), reduce),
    **dict.fromkeys(("transpose", "swapaxes"), transpose),
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten", "squeeze"), reshape),
    "conv2d": conv2d,
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "getitem": getitem,
    "linear": linear,
    "pad": pad,
    "permute": permute,
    "unsqueeze": unsqueeze,
}
