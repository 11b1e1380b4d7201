"""Folders: pictures in files, as a dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from features.examples.fitting import fit_image
from features.examples.images import sampled, size_of
from features.models import Model
from features.pictures import decode_image


class FolderImages(Dataset[tuple[Tensor, int]]):
    """The pictures in a folder and its subfolders, fitted to a model: ``[i] -> (image (channels, h, w) in [0, 1],
    label)``.

    ``fit`` is a `Model` or a size ``(h, w)``. Files are ordered by their path; hidden ones are left out, everything
    else counts, and what is no picture, or has more pixels than Pillow's limit (89 million), raises ``ValueError`` when
    it is read (`find_examples` skips it and says why). ``labels`` are the names of the subfolders, and a picture's
    label is its first subfolder's index, or -1 for a file at the top. ``paths`` are relative. Reading takes 4 to 12
    bytes for each pixel of the file's picture, in each thread that reads: 1.1 GB for the largest.

    Errors: ``FileNotFoundError`` or ``NotADirectoryError`` for what is no folder, ``ValueError`` for a folder without
    files, ``RuntimeError`` when a picture is read after the folder has disappeared.
    """

    concurrent = True

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
        numbers = {label: number for number, label in enumerate(self.labels)}
        self._label = [-1 if first is None else numbers[first] for first in firsts]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = decode_image(self._read(self.paths[index]), self.paths[index])
        return fit_image(image, self.size, self.channels), self._label[index]

    def __repr__(self) -> str:
        return f"FolderImages({str(self.folder)!r}: {len(self)} files, {len(self.labels)} labels, as {self.size})"

    def label(self, index: int) -> int:
        """Give the label of a picture without reading it."""
        return self._label[index]

    def image_id(self, index: int) -> str:
        """Give the path of a picture, relative to the folder."""
        return self.paths[index]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all files' paths and sizes in bytes, of the bytes of 16 of them, evenly spaced, and of the
        size they are fitted to.

        It stays when the folder is copied or moved. It does not notice a file replaced by another of the very same
        number of bytes, unless it is one of the 16.
        """
        total = hashlib.sha256(f"{self.size} {self.channels}".encode())
        for path in self.paths:
            total.update(f"{path}\0{size_of(f'{self.folder}/{path}')}\0".encode("utf-8", "surrogateescape"))
        for index in sampled(len(self)):
            try:
                total.update(hashlib.sha256(self._read(self.paths[index])).digest())
            except OSError:
                total.update(b"unreadable")
        return total.hexdigest()

    def _read(self, path: str) -> bytes:
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError as error:
            if not self.folder.is_dir():  # a disk that went away is no damaged file
                raise RuntimeError(f"the folder '{self.folder}' has disappeared: {path} cannot be read") from error
            raise


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
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
            elif entry.is_file() or _is_broken(entry):  # not pipes and devices, which would wait for ever
                yield f"{prefix}{entry.name}"


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether this is a link to nothing: a picture that was there, which is recorded rather than overlooked."""
    return entry.is_symlink() and not Path(entry.path).exists()
