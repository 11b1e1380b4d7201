"""Images of a dataset, as a model takes them: items of any form, checked; what an image is called; what a dataset is
known by.
"""

from __future__ import annotations

import hashlib
import operator
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from features.examples.fitting import fit_image
from features.pictures import strict_decoding

# How far outside [0, 1] an image's value may lie and still be float noise.
NOISE = 1e-3

# What a dataset raises for an image that cannot be read: Pillow's decoders raise all of these on damaged files.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    OverflowError,
    SystemError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# How many items a fingerprint looks at.
SAMPLED = 16


def open_item(dataset: Any, index: int, size: tuple[int, int], channels: int) -> tuple[Any, int]:
    """Give the image and the label of ``dataset[index]``: an image of Pillow fitted, any other as it is; label -1 for
    none.

    An item is an image, a pair (or longer tuple) of image and label, or a mapping with 'image' and perhaps 'label'.
    What cannot be read raises one of `UNREADABLE`; an item of another form ``TypeError``, naming it.
    """
    image, label = _image_and_label(dataset[index], index)
    return fit_image(image, size, channels) if isinstance(image, Image.Image) else image, _label(label, index)


def check_image(image: Any, index: int, size: tuple[int, int], channels: int) -> Tensor:
    """Give item ``index``'s ``image`` as a tensor; ``TypeError`` or ``ValueError`` unless it is ``(channels, *size)``
    in [0, 1].
    """
    tensor = check_form(image, index, size, channels)
    check_range(tensor, index)
    return tensor


def check_form(image: Any, index: int, size: tuple[int, int], channels: int) -> Tensor:
    """Give item ``index``'s ``image`` as a tensor of floats ``(channels, *size)``, or refuse as `check_image` does."""
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image if image.flags.writeable else image.copy())  # torch warns of read-only ones
    if not isinstance(image, Tensor):
        raise TypeError(
            f"the image of item {index} is of type {type(image).__name__}: give a tensor or an image of Pillow"
        )
    if not image.is_floating_point():
        raise TypeError(
            f"the image of item {index} holds {image.dtype}: give floats in [0, 1], for 8-bit values divided by 255"
        )
    if tuple(image.shape) != (channels, *size):
        raise ValueError(
            f"the image of item {index} is {tuple(image.shape)}: the model takes {(channels, *size)}; resize it"
        )
    return image.detach()


def check_range(image: Tensor, index: int) -> None:
    """Refuse item ``index``'s ``image`` with ``ValueError`` unless its values lie in [0, 1], but for float noise."""
    low, high = (float(edge) for edge in image.aminmax())
    if not (low >= -NOISE and high <= 1 + NOISE):
        raise ValueError(
            f"the image of item {index} goes from {low:.4g} to {high:.4g}: "
            "give values in [0, 1], not normalized ones (the model does that)"
        )


def read_item(dataset: Any, index: int, size: tuple[int, int], channels: int) -> tuple[Tensor, int]:
    """Give image ``(channels, h, w)`` and label of ``dataset[index]``, as `open_item` reads and `check_image` checks
    them.
    """
    image, label = open_item(dataset, index, size, channels)
    return check_image(image, index, size, channels), label


def image_id(dataset: Any, index: int) -> str:
    """Give a name for image ``index`` that stays when the dataset is copied: its path in a folder, its key, or its row.

    A dataset may bring its own as a method ``image_id(index)``, as `FolderImages` does. Else it is the path below the
    root for torchvision's folders, what the whole dataset says for a ``Subset``, and the index as text for the rest.

    >>> image_id([torch.zeros(3, 4, 4)], 0)
    '0'
    """
    own = getattr(dataset, "image_id", None)
    if callable(own):
        return str(own(index))
    if isinstance(dataset, Subset):
        return image_id(dataset.dataset, int(dataset.indices[index]))
    files = _folder_files(dataset)
    return str(index) if files is None else _below(dataset.root, files[index])


def fingerprint(dataset: Any) -> str:
    """Give a SHA-256 by which a changed dataset is noticed: its length and 16 items, evenly spaced from first to last;
    the paths and sizes of torchvision's folders, the indices of a ``Subset``, the bits of images in memory, summed.

    A dataset may bring its own as an attribute ``fingerprint`` (text), as `FolderImages` does. It stays when the data
    are copied or moved. It does not notice items that change between the 16 of a dataset that draws or decodes them, or
    in torchvision's folders those of the very same number of bytes. ``ValueError`` where the first item is another when
    it is read again: what is found in random pictures cannot be shown.

    >>> fingerprint([torch.zeros(3, 4, 4)]) == fingerprint([torch.ones(3, 4, 4)])
    False
    """
    own = getattr(dataset, "fingerprint", None)
    if isinstance(own, str):
        return own
    length = len(dataset)
    total = hashlib.sha256(f"{length}".encode())
    for part in _listing(dataset):
        total.update(part)
    with strict_decoding():
        digests = [_item_digest(dataset, index) for index in sampled(length)]
        if digests and _item_digest(dataset, 0) != digests[0]:
            raise ValueError(
                "item 0 of the dataset is another when it is read again: leave out random transforms, with which an "
                "example could not be shown"
            )
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def sampled(length: int) -> list[int]:
    """Give the indices of the items that a fingerprint looks at: 16, evenly spaced from first to last.

    >>> sampled(31)
    [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    """
    return sorted({round(place) for place in np.linspace(0, length - 1, SAMPLED)}) if length else []


def size_of(path: str) -> int:
    """Give a file's size in bytes, -1 for one that cannot be asked. (Text, since to make a `Path` takes longer.)"""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


def _item_digest(dataset: Any, index: int) -> bytes:
    total = hashlib.sha256()
    for part in _item_bytes(dataset, index):
        total.update(part)
    return total.digest()


def _item_bytes(dataset: Any, index: int) -> Iterator[bytes]:
    try:
        item = dataset[index]
    except UNREADABLE:
        yield b"unreadable"
        return
    for part in _image_and_label(item, index):
        if isinstance(part, Image.Image):
            yield f"{part.mode} {part.size} ".encode() + part.tobytes()
        elif isinstance(part, Tensor | np.ndarray):
            array = part.detach().cpu().double().numpy() if isinstance(part, Tensor) else part
            yield f"{tuple(part.shape)} ".encode() + np.asarray(array, dtype=np.float64).tobytes()
        else:
            yield str(part).encode("utf-8", "surrogatepass")


def _listing(dataset: Any) -> Iterator[bytes]:
    """Give what tells datasets apart and can be had without reading their items."""
    if isinstance(dataset, Subset):
        yield np.asarray(dataset.indices, dtype=np.int64).tobytes()
        yield from _listing(dataset.dataset)
        return
    for file in _folder_files(dataset) or ():
        yield f"{_below(dataset.root, file)}\0{size_of(file)}\0".encode("utf-8", "surrogateescape")
    images = dataset.tensors[0] if type(dataset) is TensorDataset else dataset
    if isinstance(images, Tensor) and images.dtype in BITS and images.ndim > 1:
        # Sums of integers, unlike those of floats, are the same in any order and on any number of threads.
        bits = images.detach().view(BITS[images.dtype])
        yield bits.sum(dim=tuple(range(1, bits.ndim)), dtype=torch.int64).cpu().numpy().tobytes()


def _folder_files(dataset: Any) -> list[str] | None:
    """Give the files of one of torchvision's folders, nothing for other datasets (or where it is not imported)."""
    module = sys.modules.get("torchvision.datasets.folder")
    if module is None or not isinstance(dataset, module.DatasetFolder):
        return None
    return [path for path, _ in dataset.samples]


def _below(root: Any, path: str) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _image_and_label(item: Any, index: int) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        if "image" not in item:
            keys = ", ".join(map(repr, item))
            raise TypeError(
                f"item {index} of the dataset has the keys {keys}: 'image' is needed (see from_hf for other names)"
            )
        return item["image"], item.get("label")
    return (*item, None, None)[:2] if isinstance(item, tuple | list) else (item, None)


def _label(label: Any, index: int) -> int:
    if label is None:
        return -1
    try:
        return operator.index(cast(Any, label.item() if isinstance(label, Tensor | np.ndarray) else label))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the label of item {index} is {label!r}: give a whole number, or no label") from error


# The integers as wide as each kind of float.
BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
