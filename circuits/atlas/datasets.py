"""A folder named on the command line as a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets import CIFAR10

from features.examples import FolderImages
from features.models import Model


def open_dataset(folder: Path | str, model: Model) -> Any:
    """Give the pictures in ``folder`` as a dataset for ``model``: CIFAR-10's test photographs where torchvision
    unpacked them there, else the files in it and in its folders, as `features.examples.FolderImages` reads them.

    >>> from features.models import load_model
    >>> open_dataset("/no/such/folder", load_model("sketches"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: '/no/such/folder' is no folder: give a folder of pictures
    """
    place = Path(folder).parent if Path(folder).name == CIFAR10.base_folder else Path(folder)
    if (place / CIFAR10.base_folder).is_dir():
        return CIFAR10(str(place), train=False, download=False)
    return FolderImages(folder, model)
