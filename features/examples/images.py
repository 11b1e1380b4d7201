"""Images of a dataset, as a model takes them: checked tensors, pictures of Pillow fitted to size, folders of files."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from features.models import Model
from features.pictures import from_image, open_image, to_image

# How far outside [0, 1] an image's value may lie and still be float noise.
NOISE = 1e-3

# What a dataset raises for an image that cannot be read: Pillow's decoders raise all of these on damaged files.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

# How many items a fingerprint looks at.
SAMPLED = 16


def fit_image(image: Image.Image, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Give Pillow's ``image`` as a tensor ``(channels, h, w)`` in [0, 1]: the short side fitted to ``size``, the centre
    kept.

    Any mode, upright by EXIF, transparency on white (see `features.pictures.from_image`); then 8 bits, bilinear with
    antialiasing. ``ValueError`` for other than 1 (grey) or 3 (RGB) channels.

    >>> fit_image(Image.new("L", (40, 20), 255), (10, 10)).shape
    torch.Size([3, 10, 10])
    """
    if channels not in (1, 3):
        raise ValueError(f"the model takes {channels} channels, and a picture has 1 or 3: give a dataset of tensors")
    plain = image.mode == "RGB" and not image.getexif()
    upright = image if plain else to_image(from_image(image))
    fitted = upright.resize(size[::-1], Image.Resampling.BILINEAR, box=_centre(upright.size, size))
    array = np.array(fitted if channels == 3 else fitted.convert("L"), dtype=np.float32) / np.float32(255)
    return torch.from_numpy(array.reshape(*size, channels)).permute(2, 0, 1).contiguous()


class FolderImages(Dataset[tuple[Tensor, int]]):
    """The pictures in a folder and its subfolders, fitted to a model: ``[i] -> (image (channels, h, w) in [0, 1],
    label)``.

    ``fit`` is a `Model` or a size ``(h, w)``. Files are ordered by their path; hidden ones are left out, everything
    else counts, and what is no picture raises ``ValueError`` when it is read (`find_examples` skips it and says why).
    ``labels`` are the names of the subfolders, and a picture's label is its first subfolder's index, or -1 for a file
    at the top. ``paths`` are relative.

    Errors: ``FileNotFoundError`` or ``NotADirectoryError`` for what is no folder, ``ValueError`` for a folder without
    files.
    """

    def __init__(self, folder: str | os.PathLike[str], fit: Model | tuple[int, int]) -> None:
        self.folder = Path(folder)
        self.size, self.channels = (fit.image_size, fit.channels) if isinstance(fit, Model) else (fit, 3)
        self.paths = tuple(sorted(_files(self.folder)))
        if not self.paths:
            raise ValueError(
                f"there are no files in '{self.folder}': give a folder of pictures, or of folders of pictures"
            )
        firsts = [path.split("/")[0] if "/" in path else None for path in self.paths]
        self.labels = tuple(sorted({first for first in firsts if first is not None}))
        self._label = [-1 if first is None else self.labels.index(first) for first in firsts]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = open_image(self.folder / self.paths[index])
        return fit_image(image, self.size, self.channels), self._label[index]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all files' paths and sizes in bytes, and of the size they are fitted to."""
        total = hashlib.sha256(f"{self.size} {self.channels}".encode())
        for path in self.paths:
            total.update(f"{path}\0{(self.folder / path).stat().st_size}\0".encode("utf-8", "surrogateescape"))
        return total.hexdigest()


def open_item(dataset: Any, index: int, size: tuple[int, int], channels: int) -> tuple[Any, int]:
    """Give the image and the label of ``dataset[index]``: an image of Pillow fitted, any other as it is; label -1 for
    none.

    An item is an image, a pair (or longer tuple) of image and label, or a mapping with 'image' and perhaps 'label'.
    What cannot be read raises one of `UNREADABLE`; an item of another form ``TypeError``, naming it.
    """
    item = dataset[index]
    if isinstance(item, Mapping):
        if "image" not in item:
            raise TypeError(f"item {index} of the dataset has the keys {', '.join(map(repr, item))}: 'image' is needed")
        image, label = item["image"], item.get("label")
    elif isinstance(item, tuple | list):
        image, label = (*item, None, None)[:2]
    else:
        image, label = item, None
    return fit_image(image, size, channels) if isinstance(image, Image.Image) else image, _label(label, index)


def check_image(image: Any, index: int, size: tuple[int, int], channels: int) -> Tensor:
    """Give item ``index``'s ``image`` as a tensor; ``TypeError`` or ``ValueError`` unless it is ``(channels, *size)``
    in [0, 1].
    """
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(
            f"the image of item {index} is of type {type(image).__name__}: give a tensor or an image of Pillow"
        )
    tensor = torch.as_tensor(image).detach()
    if not tensor.is_floating_point():
        raise TypeError(
            f"the image of item {index} holds {tensor.dtype}: give floats in [0, 1], for 8-bit values divided by 255"
        )
    if tuple(tensor.shape) != (channels, *size):
        raise ValueError(
            f"the image of item {index} is {tuple(tensor.shape)}: the model takes {(channels, *size)}; resize it"
        )
    low, high = (float(edge) for edge in tensor.aminmax())
    if not (low >= -NOISE and high <= 1 + NOISE):
        raise ValueError(
            f"the image of item {index} goes from {low:.4g} to {high:.4g}: "
            "give values in [0, 1], not normalized ones (the model does that)"
        )
    return tensor


def read_item(dataset: Any, index: int, size: tuple[int, int], channels: int) -> tuple[Tensor, int]:
    """Give image ``(channels, h, w)`` and label of ``dataset[index]``, as `open_item` reads and `check_image` checks
    them.
    """
    image, label = open_item(dataset, index, size, channels)
    return check_image(image, index, size, channels), label


def fingerprint(dataset: Any) -> str:
    """Give a SHA-256 by which a changed dataset is noticed: its length and 16 items, evenly spaced from first to last.

    A dataset may bring its own as an attribute ``fingerprint`` (text), as `FolderImages` does.

    >>> fingerprint([torch.zeros(3, 4, 4)])[:6]
    'ad05d5'
    """
    own = getattr(dataset, "fingerprint", None)
    if isinstance(own, str):
        return own
    length = len(dataset)
    total = hashlib.sha256(f"{length}".encode())
    for index in sorted({round(place) for place in np.linspace(0, length - 1, SAMPLED)}):
        for part in _item_bytes(dataset, index):
            total.update(part)
    return total.hexdigest()


def _item_bytes(dataset: Any, index: int) -> Iterator[bytes]:
    try:
        item = dataset[index]
    except UNREADABLE:
        yield b"unreadable"
        return
    for part in item.values() if isinstance(item, Mapping) else item if isinstance(item, tuple | list) else (item,):
        if isinstance(part, Image.Image):
            yield f"{part.mode} {part.size} ".encode() + part.tobytes()
        elif isinstance(part, Tensor | np.ndarray):
            yield f"{tuple(part.shape)} ".encode() + np.asarray(part, dtype=np.float64).tobytes()
        else:
            yield str(part).encode("utf-8", "surrogatepass")


def _centre(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Give the largest box ``(x0, y0, x1, y1)`` of the shape of ``size`` (h, w) around the centre of an image of
    ``given`` (w, h).
    """
    scale = min(given[0] / size[1], given[1] / size[0])
    width, height = size[1] * scale, size[0] * scale
    left, top = max(0.0, (given[0] - width) / 2), max(0.0, (given[1] - height) / 2)
    return left, top, min(given[0], left + width), min(given[1], top + height)


def _files(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        kind = NotADirectoryError if folder.exists() else FileNotFoundError
        raise kind(f"'{folder}' is no folder: give a folder of pictures")
    return _walk(folder, "", ())


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Give the paths of all files below ``folder``, through links too, but not through a folder that we are in."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/", (*above, here))
        elif entry.is_file():
            yield f"{prefix}{entry.name}"


def _label(label: Any, index: int) -> int:
    if label is None:
        return -1
    try:
        return operator.index(cast(Any, label.item() if isinstance(label, Tensor | np.ndarray) else label))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the label of item {index} is {label!r}: give a whole number, or no label") from error
