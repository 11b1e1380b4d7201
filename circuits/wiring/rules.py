"""Rules: how each operation is made linear. RULES is the one table that users extend, with `register`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Function = Callable[..., Any]
Rule = Callable[..., Any]


def register(function: Function | str, rule: Rule) -> None:
    """Say how an operation is made linear: ``rule(function, *args, **kwargs)`` gives what has the *derivative* to use.

    The value always comes from the operation itself. `identity` and `frozen` are ready rules. An operation goes by
    its name, so ``torch.relu``, ``F.relu``, ``Tensor.relu_`` are one, and in place or not is alike.

    >>> register(torch.tanh, identity)
    >>> RULES.pop("tanh") is identity
    True
    """
    if not callable(rule):
        raise TypeError(f"a rule is a function of (function, *args, **kwargs), not {type(rule).__name__}")
    RULES[name_of(function)] = rule


def identity(function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Let everything through: the derivative of the operation is 1."""
    return x


def frozen(function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Let nothing through: the result is a constant, so that what is multiplied by it stays linear."""
    return x.detach()


def _max_pool(dimensions: int) -> Rule:
    """Average where the operation takes the maximum: the same kernel, stride, padding and rounding."""
    average = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[dimensions]

    def rule(
        function: Function,
        x: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        if any(step != 1 for step in ([dilation] if isinstance(dilation, int) else dilation)):
            raise NotImplementedError(
                "a dilated max pooling has no average of the same shape: register a rule of your own"
            )
        return average(x, kernel_size, stride or kernel_size, padding, ceil_mode)

    return rule


def _adaptive_max_pool(dimensions: int) -> Rule:
    average = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[dimensions]
    return lambda function, x, output_size, *args, **kwargs: average(x, output_size)


def _maximum_over(function: Function, x: Tensor, dim: Any = (), keepdim: bool = False, **kwargs: Any) -> Tensor:
    return x.mean(dim if dim != () else None, keepdim)


def _layer_norm(
    function: Function,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    deviation = (x.detach().var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    normal = (x - x.mean(axes, keepdim=True)) / deviation
    return normal if weight is None else normal * weight


def _rms_norm(
    function: Function,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    normal = x / (x.detach().square().mean(axes, keepdim=True) + eps).sqrt()
    return normal if weight is None else normal * weight


def _group_norm(
    function: Function,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Freeze both statistics: they are taken over the whole map, to which one position adds next to nothing."""
    grouped = x.detach().reshape(len(x), num_groups, -1)
    deviation = (grouped.var(2, unbiased=False) + eps).sqrt()
    scale = 1 / deviation.repeat_interleave(x.shape[1] // num_groups, 1)
    scale = scale if weight is None else scale * weight
    return x * scale.reshape(*scale.shape, *[1] * (x.dim() - 2))


def _instance_norm(
    function: Function,
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return function(x, running_mean, running_var, weight, bias, False, momentum, eps)  # type: ignore[no-any-return]
    return _group_norm(function, x, x.shape[1], weight, bias, eps)


def _local_response_norm(
    function: Function, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    square = x.detach().square().flatten(2).unsqueeze(1)
    square = F.avg_pool2d(F.pad(square, (0, 0, size // 2, (size - 1) // 2)), (size, 1), stride=1)
    return x / (k + alpha * square.squeeze(1)).pow(beta).reshape(x.shape)


def _batch_norm(
    function: Function,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_var is None:
        raise ValueError("a batch norm in training mixes the images of a batch: call model.net.eval() first")
    scale = (running_var + eps).rsqrt() if weight is None else weight / (running_var + eps).sqrt()
    return x * scale.reshape(-1, *[1] * (x.dim() - 2))


def _attention(function: Function, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Freeze the pattern; what is attended to stays linear. The plain kernel alone can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        return function(query.detach(), key.detach(), value, *args, **kwargs)


def _normalize(
    function: Function, x: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    norm: Tensor = x.detach().norm(p, dim, keepdim=True)
    return x / norm.clamp_min(eps)


def name_of(function: Function | str) -> str:
    """Give the one name of an operation, however it is called.

    >>> name_of(torch.relu_), name_of(Tensor.__iadd__), name_of(torch.concat)
    ('relu', 'add', 'cat')
    """
    name = function if isinstance(function, str) else function.__name__
    name = name.strip("_") if name.startswith("__") else name.rstrip("_")
    return SPELLINGS.get(name, name)


# What an operator's dunder or an alias is called.
SPELLINGS = {
    **dict.fromkeys(("radd", "iadd"), "add"),
    **dict.fromkeys(("rsub", "isub", "subtract"), "sub"),
    **dict.fromkeys(("rmul", "imul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "rtruediv", "itruediv", "rdiv", "idiv", "divide", "true_divide"), "div"),
    **dict.fromkeys(("rmatmul", "imatmul"), "matmul"),
    **dict.fromkeys(("concat", "concatenate"), "cat"),
    "negative": "neg",
    "clip": "clamp",
}

# Linear in every tensor that depends on the source, as long as only one factor of a product does (BILINEAR).
BILINEAR = {
    *(
        "mul",
        "div",
        "matmul",
        "mm",
        "bmm",
        "mv",
        "dot",
        "addmm",
        "addbmm",
        "baddbmm",
        "einsum",
        "tensordot",
        "inner",
        "outer",
    ),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
}
LINEAR = BILINEAR | {
    *("add", "sub", "neg", "positive", "sum", "mean", "nansum", "nanmean", "cumsum", "diff"),
    *("cat", "stack", "hstack", "vstack", "dstack", "chunk", "split", "tensor_split", "hsplit", "vsplit", "unbind"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("interpolate", "upsample", "upsample_bilinear", "upsample_nearest", "pixel_shuffle", "pixel_unshuffle"),
    *("channel_shuffle", "unfold", "fold", "pad", "constant_pad_nd", "roll", "flip", "rot90"),
    *(
        "flatten",
        "unflatten",
        "reshape",
        "reshape_as",
        "view",
        "view_as",
        "permute",
        "transpose",
        "swapaxes",
        "swapdims",
    ),
    *("movedim", "moveaxis", "t", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "repeat", "tile"),
    *("repeat_interleave", "getitem", "setitem", "select", "narrow", "index_select", "gather", "take", "as_strided"),
    *("diagonal", "tril", "triu", "masked_fill", "fill", "zero", "contiguous", "clone", "copy", "detach", "get"),
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "requires_grad"),
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min", "threshold", "leaky_relu", "prelu"), identity),
    **dict.fromkeys(("rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "softplus"), identity),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), identity),
    **dict.fromkeys(("feature_dropout", "feature_alpha_dropout"), identity),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "softmax"), frozen),
    **{f"max_pool{d}d{end}": _max_pool(d) for d in (1, 2, 3) for end in ("", "_with_indices")},
    **{f"adaptive_max_pool{d}d{end}": _adaptive_max_pool(d) for d in (1, 2, 3) for end in ("", "_with_indices")},
    "amax": _maximum_over,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "local_response_norm": _local_response_norm,
    "normalize": _normalize,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _attention,
}

# Rules whose derivative is the same at every image; under any other, connect stays with the model's own image size.
VALUELESS = {RULES[name] for name in RULES if "pool" in name} | {identity, _batch_norm, _maximum_over}
