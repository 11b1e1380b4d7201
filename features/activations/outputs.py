"""What modules give: tensors in several layouts, alone or inside tuples, dictionaries and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# How the axes of an output are turned so that channels come right after images; the inverse turns them back.
TURNS: dict[str, tuple[int, ...]] = {
    "nchw": (0, 1, 2, 3),
    "nhwc": (0, 3, 1, 2),
    "nct": (0, 1, 2),
    "ntc": (0, 2, 1),
    "tnc": (1, 2, 0),
    "nc": (0, 1),
}


def turn(tensor: Tensor, layout: str) -> Tensor:
    """Give a view of ``tensor`` with channels right after images: ``(n, c, h, w)``, ``(n, c, t)`` or ``(n, c)``.

    >>> import torch
    >>> turn(torch.zeros(2, 7, 5, 3), "nhwc").shape
    torch.Size([2, 3, 7, 5])
    """
    order = TURNS[layout]
    return tensor if order == tuple(range(len(order))) else tensor.permute(order)


def turn_back(tensor: Tensor, layout: str) -> Tensor:
    """Undo `turn`.

    >>> import torch
    >>> turn_back(turn(torch.zeros(2, 7, 5, 3), "nhwc"), "nhwc").shape
    torch.Size([2, 7, 5, 3])
    """
    order = TURNS[layout]
    return (
        tensor
        if order == tuple(range(len(order)))
        else tensor.permute([order.index(axis) for axis in range(len(order))])
    )


def first_tensor(output: Any) -> Tensor | None:
    """Find the first tensor of an output, depth first."""
    if isinstance(output, Tensor):
        return output
    for item in _items(output).values():
        found = first_tensor(item)
        if found is not None:
            return found
    return None


def _items(output: Any) -> Mapping[Any, Any]:
    if isinstance(output, Mapping):
        return output
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {each.name: getattr(output, each.name) for each in dataclasses.fields(output)}
    return {}


def shares_memory(given: Any, tensor: Tensor) -> bool:
    """Whether ``tensor`` lies in the memory of one of the tensors in ``given``, at any depth.

    >>> import torch
    >>> x = torch.zeros(2, 3)
    >>> shares_memory([(x,), {}], x.flatten()), shares_memory([(x,), {}], x.clone())
    (True, False)
    """
    if isinstance(given, Tensor):
        return given.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    return any(shares_memory(item, tensor) for item in _items(given).values())


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """Give ``output`` with its first tensor replaced by ``tensor``; ``output`` itself stays as it is."""
    if isinstance(output, Tensor):
        return tensor
    key, item = next((key, item) for key, item in _items(output).items() if first_tensor(item) is not None)
    item = with_first_tensor(item, tensor)
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        changed[key] = item
        return changed
    if isinstance(output, (tuple, list)):
        items = [*output[:key], item, *output[key + 1 :]]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return dataclasses.replace(output, **{key: item})
