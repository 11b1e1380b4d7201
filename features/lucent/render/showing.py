"""Showing: pictures as arrays, in a window, in a notebook, in a file."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from features.pictures import to_image, write_picture


def checked_picture(picture: Tensor) -> Tensor:
    """Give ``picture`` if it is pictures ``(n, c, h, w)``; ``ValueError`` for anything else."""
    if not isinstance(picture, Tensor) or picture.ndim != 4:
        given = tuple(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
        raise ValueError(f"image_f() gave {given}: give pictures (n, c, h, w) in [0, 1]")
    return picture


def tensor_to_img_array(tensor: Tensor) -> NDArray[np.float32]:
    """Give pictures ``(n, c, h, w)`` as an array ``(n, h, w, c)``, of memory of its own.

    >>> import torch
    >>> tensor_to_img_array(torch.zeros(2, 3, 4, 5)).shape
    (2, 4, 5, 3)
    """
    return np.ascontiguousarray(checked_picture(tensor).detach().cpu().float().numpy().transpose(0, 2, 3, 1)).copy()


def view(tensor: Tensor) -> None:
    """Open a window with the pictures ``(n, c, h, w)`` side by side."""
    to_image(_side_by_side(tensor_to_img_array(tensor))).show()


def show(thing: ArrayLike) -> None:
    """Show pictures ``(n, h, w, c)`` or ``(h, w, c)`` in [0, 1] in the notebook this runs in; ``ImportError`` without
    one.
    """
    try:
        display = import_module("IPython.display").display
    except ImportError as missing:
        raise ImportError("showing inline needs a notebook: pip install ipython, or use export") from missing
    display(to_image(_side_by_side(np.asarray(thing, np.float32))))


def export(tensor: Tensor, image_name: str | os.PathLike[str] | None = None) -> Path:
    """Write the pictures ``(n, c, h, w)`` side by side, rounded to 8 bits, as ``image_name`` ('image.png' without one);
    give its path. Its ending says in which form.
    """
    return write_picture(_side_by_side(tensor_to_img_array(tensor)), image_name or "image.png")


def _side_by_side(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    row = np.concatenate(list(pictures), axis=1) if pictures.ndim == 4 else pictures
    if row.ndim != 3 or row.shape[2] not in (1, 3):
        raise ValueError(f"pictures of shape {pictures.shape} cannot be shown: give (n, h, w, 3), or 1 channel")
    three: NDArray[np.float32] = np.repeat(row, 3 // row.shape[2], axis=2)
    return three.clip(0, 1)
