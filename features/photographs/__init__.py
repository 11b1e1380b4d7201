"""Photographs: CIFAR-10 or a folder of class folders as a dataset, and a network trained on CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10
from tqdm import tqdm

LABELS: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FORMS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class Photographs(Dataset[tuple[Tensor, int]]):
    """Photographs as ``(image, label)``: float32 (3, size, size) in [0, 1], and an index into ``labels``.

    ``root`` is a folder that holds torchvision's CIFAR-10 (or will, with ``download=True``: 170 MB), or a folder with
    one folder of pictures for each class, in alphabetical order. ``None`` is the place ``cifar10`` in torch's own
    cache. ``train`` chooses between the 50,000 training and the 10,000 test photographs of CIFAR-10. Pictures are
    cropped to their central square and resized bilinearly: 32x32 photographs are enlarged to the 64x64 that
    ``load_model("photographs")`` expects.

    Raises ``FileNotFoundError`` where there is nothing, ``ValueError`` for a folder without classes or pictures.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("cat", "dog"):
    ...         (Path(root) / name).mkdir()
    ...         Image.new("RGB", (32, 32), "red").save(Path(root) / name / "0.png")
    ...     photographs = Photographs(root)
    ...     image, label = photographs[1]
    >>> tuple(image.shape), photographs.labels[label], len(photographs)
    ((3, 64, 64), 'dog', 2)
    """

    def __init__(
        self, root: Path | str | None = None, *, train: bool = False, download: bool = False, size: int = 64
    ) -> None:
        if size < 8:
            raise ValueError(f"size is {size}: photographs can be given from 8 pixels")
        self.root, self.size = Path(torch.hub.get_dir()) / "cifar10" if root is None else Path(root), size
        self._cifar: CIFAR10 | None = None
        self._files: tuple[tuple[Path, int], ...] = ()
        if download or root is None or (self.root / CIFAR10.base_folder).is_dir():
            self._cifar, self.labels = _open_cifar(self.root, train, download), LABELS
            return
        if train:
            raise ValueError(
                f"{self.root} is a folder of pictures, which has no training part: give the folder to train on"
            )
        self.labels, self._files = _list_folder(self.root)

    @property
    def side(self) -> int:
        """The shorter side of the first photograph as it is stored, in pixels."""
        return min(self._picture(0)[0].size)

    def __len__(self) -> int:
        return len(self._files) if self._cifar is None else len(self._cifar)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"no photograph {index}: there are {len(self)} (0 to {len(self) - 1})")
        picture, label = self._picture(int(index) % len(self))
        image = torch.from_numpy(np.array(_square(picture.convert("RGB")))).permute(2, 0, 1)[None].float() / 255
        sized = F.interpolate(image, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        return sized[0], label

    def __repr__(self) -> str:
        return f"Photographs({str(self.root)!r}, size={self.size})"

    def label(self, index: int) -> int:
        """The class of photograph ``index``, without reading it."""
        return int(self._files[index][1] if self._cifar is None else self._cifar.targets[index])

    def arrays(self, *, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """All photographs as uint8 (n, size, size, 3) and all labels as int64 (n,)."""
        images = np.empty((len(self), self.size, self.size, 3), dtype=np.uint8)
        for i in tqdm(range(len(self)), desc="reading photographs", unit="photograph", disable=not progress):
            images[i] = (self[i][0] * 255).round().permute(1, 2, 0).numpy()
        return images, np.array([self.label(i) for i in range(len(self))], dtype=np.int64)

    def _picture(self, index: int) -> tuple[Image.Image, int]:
        if self._cifar is not None:
            return Image.fromarray(self._cifar.data[index]), int(self._cifar.targets[index])
        path, label = self._files[index]
        with Image.open(path) as picture:
            picture.load()
        return picture, label


def _open_cifar(root: Path, train: bool, download: bool) -> CIFAR10:
    if not download and not (root / CIFAR10.base_folder).is_dir():
        raise FileNotFoundError(
            f"no CIFAR-10 at {root}: give download=True (170 MB), or a folder with a folder of pictures for each class"
        )
    return CIFAR10(root, train=train, download=download)


def _list_folder(root: Path) -> tuple[tuple[str, ...], tuple[tuple[Path, int], ...]]:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give one with a folder of pictures for each class")
    labels = tuple(sorted(place.name for place in root.iterdir() if place.is_dir() and not place.name.startswith(".")))
    found = [
        (path, label)
        for label, name in enumerate(labels)
        for path in sorted((root / name).iterdir())
        if path.suffix.lower() in FORMS
    ]
    if not found:
        raise ValueError(f"no pictures in the folders of {root}: it needs a folder of pictures for each class")
    return labels, tuple(found)


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))
