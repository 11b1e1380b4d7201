"""Checkpoint files: read the weights in a file, without ever running what it holds, and fill a network with them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

NESTS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # where training scripts put the weights beside epoch, optimizer, ...
PREFIXES = ("module.", "_orig_mod.")  # what nn.DataParallel and torch.compile put before every name
SHOWN = 8


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of a torch file with ``weights_only=True``, onto the CPU.

    Weights nested under one of `NESTS` are taken out, and a prefix of `PREFIXES` that all names share is taken off.
    Errors: ``FileNotFoundError``; ``ValueError`` for a damaged file, and for one that holds anything but tensors and
    plain data, which is never opened, since unpickling could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}: give the path of a .safetensors, .pt or .pth file")
    weights = _unprefixed(_unnested(_read(path)))
    odd = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if odd or not weights:
        held = f"{_listed(odd)} that are no tensors" if odd else "nothing"
        raise ValueError(f"{path} holds {held}: save net.state_dict() alone, or under the key 'state_dict'")
    return weights


def fill_network(net: nn.Module, weights: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy ``weights`` into ``net``; where names or shapes differ raise one ``ValueError`` that lists them, and change
    nothing.

    Counters of batches (``num_batches_tracked``), which old files lack and eval mode ignores, may be missing.

    >>> fill_network(nn.Linear(2, 1), {"weight": torch.zeros(1, 3)}, origin="mine.pt")
    Traceback (most recent call last):
    ValueError: the weights of mine.pt do not fit Linear: missing bias; weight has shape (1, 3) instead of (1, 2)
    """
    wanted = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in wanted]
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    faults = [
        *([f"missing {_listed(missing)}"] if missing else []),
        *([f"unexpected {_listed(unexpected)}"] if unexpected else []),
        *([_listed(wrong)] if wrong else []),
    ]
    if faults:
        raise ValueError(f"the weights of {origin} do not fit {type(net).__name__}: {'; '.join(faults)}")
    net.load_state_dict(dict(weights), strict=False)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as damage:
            raise ValueError(f"{path} is no readable safetensors file ({damage}): write it again") from damage
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are refused or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refusal:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged, and was not opened, since unpickling could run code: "
            "where you made it, write net.state_dict() with safetensors.torch.save_file"
        ) from refusal
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as damage:
        raise ValueError(f"{path} is no readable file of weights ({damage}): write it again") from damage


def _unnested(found: Any) -> dict[str, Any]:
    while isinstance(found, Mapping):
        nest = next((key for key in NESTS if isinstance(found.get(key), Mapping)), None)
        if nest is None:
            return {str(name): value for name, value in found.items()}
        found = found[nest]
    return {type(found).__name__: None}


def _unprefixed(weights: dict[str, Any]) -> dict[str, Any]:
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return _unprefixed({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
