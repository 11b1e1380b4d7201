"""Addresses: which module, and which of its calls, the name of a layer means."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def nearest(name: str, known: Iterable[str], *, what: str = "layer", listing: str) -> str:
    """Give the sentence for a name that does not exist: the nearest ones, and how to list them all.

    >>> nearest("mixed4", ["mixed4a", "conv"], listing="model.layers")
    "no layer 'mixed4': nearest are 'mixed4a'; list them all with model.layers"
    """
    close = ", ".join(map(repr, difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)))
    return f"no {what} {name!r}: {f'nearest are {close}; ' if close else ''}list them all with {listing}"


def find_call(net: nn.Module, name: str) -> tuple[nn.Module, int]:
    """Give the module that ``name`` means, and which of its calls, counted from 0.

    'a#1' is the second call of 'a', unless a module is really called 'a#1'. ``ValueError`` with the nearest names where
    there is no such module, ``TypeError`` for a network that cannot be heard.

    >>> net = nn.Sequential(nn.ReLU())
    >>> find_call(net, "0#1")
    (ReLU(), 1)
    """
    if not isinstance(name, str):
        raise TypeError(f"a layer is named by text such as 'layer1.0', not by {type(name).__name__}")
    module = _descend(net, name)
    if module is not None:
        return module, 0
    base, mark, number = name.rpartition("#")
    module = _descend(net, base) if mark and number.isascii() and number.isdigit() else None
    if module is None:
        known = [known for known, _ in net.named_modules() if known]
        raise ValueError(nearest(name, known, listing="[name for name, _ in net.named_modules()]"))
    return module, int(number)


def _descend(net: nn.Module, name: str) -> nn.Module | None:
    """Walk from ``net`` to a module along its name: quicker than listing them all, and it sees each one on the way."""
    module: nn.Module | None = net
    refuse_deaf(net, "")
    for part in name.split("."):
        module = module._modules.get(part) if module is not None else None
        if module is None:
            return None
        refuse_deaf(module, name)
    return module


def refuse_deaf(module: nn.Module, name: str) -> None:
    """Refuse wrappers that run their modules where hooks are not called, or are called on copies."""
    kind: Any = type(module)
    reason = _deafness(kind) or (_COMPILED if module._compiled_call_impl is not None else "")
    if reason:
        raise TypeError(f"{f'module {name!r}' if name else 'this network'} is {reason}")


@functools.cache
def _deafness(kind: type[Any]) -> str:
    """Say why modules of a class cannot be heard, '' for those that can; asked of each module on the way to a layer."""
    if kind.__name__ == "OptimizedModule":
        return _COMPILED
    if issubclass(kind, nn.DataParallel):
        return "nn.DataParallel, which runs copies of its network: give the one inside, net.module"
    if issubclass(kind, torch.jit.ScriptModule):
        return "a TorchScript module, which cannot be read: give the Python network it was made from"
    return ""


_COMPILED = "compiled, and compiled code calls no hooks: give the network from before torch.compile"
