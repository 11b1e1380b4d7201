"""Adapters: datasets of Hugging Face and of webdataset as datasets by index, with names that stay and nothing lost."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from features.examples.images import sampled
from features.pictures import decode_image

# The byte at which a file in a tar file starts, and its size.
Place: TypeAlias = tuple[int, int]
NOWHERE: Place = (-1, 0)
BLOCK = 512  # bytes in which a tar file is laid out


class HuggingFaceImages(Dataset[tuple[Image.Image, int]]):
    """Rows of a Hugging Face dataset: ``[i] -> (image of Pillow, label)``; made by `from_hf`.

    ``classes`` are the names of the labels, () where they have none. The files' bytes are decoded by
    `features.pictures.decode_image`, whatever they are.
    """

    concurrent = True

    def __init__(self, rows: Any, image: str, label: str | None, key: str | None, classes: tuple[str, ...]) -> None:
        self.rows, self.image, self.label, self.key, self.classes = rows, image, label, key, classes
        self._numbers = {name: number for number, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        label = None if self.label is None else row[self.label]
        number = self._numbers[label] if isinstance(label, str) else -1 if label is None else int(label)
        return decode_image(self._blob(row, index), f"row {index}"), number

    def __repr__(self) -> str:
        label = "no label" if self.label is None else f"label {self.label!r}"
        return f"HuggingFaceImages({len(self)} rows: image {self.image!r}, {label})"

    def image_id(self, index: int) -> str:
        """Give what the column of keys says of a row, or its index as text."""
        return str(index) if self.key is None else str(self.rows[index][self.key])

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the number of rows, of all labels and keys, and of the bytes of 16 images, evenly spaced."""
        total = hashlib.sha256(f"{len(self)} {self.image} {self.label} {self.key} {self.classes}".encode())
        for column in (self.label, self.key):
            if column is not None:
                total.update("\0".join(map(str, self.rows[column])).encode("utf-8", "surrogatepass"))
        for index in sampled(len(self)):
            try:
                total.update(hashlib.sha256(self._blob(self.rows[index], index)).digest())
            except (OSError, ValueError):
                total.update(b"unreadable")
        return total.hexdigest()

    def _blob(self, row: Any, index: int) -> bytes:
        given = row[self.image]
        if given is None or (given["bytes"] is None and given["path"] is None):
            raise ValueError(f"row {index} has no image")
        return bytes(given["bytes"]) if given["bytes"] is not None else Path(given["path"]).read_bytes()


def from_hf(
    dataset: Any, *, image: str | None = None, label: str | None = None, key: str | None = None
) -> HuggingFaceImages:
    """Give the rows of a ``datasets.Dataset`` of Hugging Face as a dataset for `find_examples`.

    ``image`` and ``label`` are names of columns; by default the only column of images, and the only column of classes
    or the one called 'label', if any. A column of text is numbered in alphabetical order. ``key`` is a column that
    names the images (`image_id`), by default they are called by their row.

    Errors: ``ImportError`` without the extra 'hf', ``TypeError`` for what is no such dataset (a ``DatasetDict``: choose
    a split; a stream: it has no rows), ``ValueError`` for columns that do not exist, hold no images, or are several.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("from_hf() needs the package datasets: pip install 'vision-circuits[hf]'") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise TypeError(f"this is a DatasetDict: give one of its splits, dataset[{next(iter(dataset), 'train')!r}]")
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"{type(dataset).__name__} has no rows by index: give a datasets.Dataset, not a stream")
    features = dataset.features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image = _column("image", image, pictures, features)
    if not isinstance(features[image], datasets.Image):
        raise ValueError(f"the column {image!r} holds no images but {features[image]}: cast it to datasets.Image()")
    label = _label_column(label, features, datasets.ClassLabel)
    if key is not None and key not in features:
        raise ValueError(f"there is no column {key!r}: there are {', '.join(features)}")
    columns = list(dict.fromkeys(name for name in (image, label, key) if name is not None))
    rows = dataset.select_columns(columns).cast_column(image, datasets.Image(decode=False))
    return HuggingFaceImages(rows, image, label, key, _classes(rows, label, datasets))


def _column(what: str, given: str | None, found: list[str], columns: Iterable[str]) -> str:
    if given is not None and given not in columns:
        raise ValueError(f"there is no column {given!r}: there are {', '.join(columns)}")
    if given is None and len(found) != 1:
        several = f"{len(found)} columns of {what}s ({', '.join(found)})" if found else f"no column of {what}s"
        raise ValueError(f"the dataset has {several}, of {', '.join(columns)}: say which is meant, {what}=...")
    return given if given is not None else found[0]


def _label_column(given: str | None, features: Any, kind: type) -> str | None:
    if given is None:
        classes = [name for name, feature in features.items() if isinstance(feature, kind)]
        if not classes and "label" not in features:
            return None
        given = "label" if "label" in features else None
        return _column("label", given, classes, features)
    return _column("label", given, [], features)


def _classes(rows: Any, label: str | None, datasets: Any) -> tuple[str, ...]:
    """Give the names of the labels: those of a column of classes, the texts of a column of text, none of numbers."""
    if label is None:
        return ()
    feature = rows.features[label]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    if feature.dtype in ("string", "large_string"):
        return tuple(sorted(each for each in rows.unique(label) if each is not None))
    if not re.fullmatch(r"u?int\d+|bool", feature.dtype):
        raise ValueError(f"the column {label!r} holds {feature.dtype}: labels are whole numbers, classes or text")
    return ()


class TarImages(Dataset[tuple[Image.Image, int]]):
    """Samples of tar files in webdataset's layout: ``[i] -> (image of Pillow, label)``; made by `from_webdataset`.

    In the order of the shards, and of the samples in them. What cannot be an image (a sample without one, a file
    without an extension, the rest of a damaged shard) is an item too, which raises ``ValueError`` with the reason, so
    that nothing is lost without a word. ``keys`` are the samples' ``__key__``, ``places`` (n, 5) number of the shard,
    place and size of the image and of the label (-1 for none), ``reasons`` why there is no image, by item, ``classes``
    the names of the labels.
    """

    concurrent = True

    def __init__(
        self,
        shards: Sequence[Path],
        keys: Sequence[str],
        places: NDArray[np.int64],
        reasons: Mapping[int, str],
        classes: Sequence[str],
    ) -> None:
        self.shards, self.keys, self.classes = tuple(shards), tuple(keys), tuple(classes)
        self.places, self.reasons = places, dict(reasons)
        self._repeated = {key for key, count in Counter(self.keys).items() if count > 1}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        shard, start, size, label_start, label_size = self.places[index].tolist()
        if start < 0:
            raise ValueError(f"'{self.image_id(index)}' is no picture: {self.reasons[index % len(self)]}")
        image = decode_image(self._read(shard, start, size), self.image_id(index))
        return image, -1 if label_start < 0 else self._number(index, self._read(shard, label_start, label_size))

    def __repr__(self) -> str:
        return f"TarImages({len(self)} samples in {len(self.shards)} shards)"

    def image_id(self, index: int) -> str:
        """Give a sample's ``__key__``; with its shard's name before it, where the key occurs more than once."""
        key = self.keys[index]
        return f"{self.shards[self.places[index, 0]].name}/{key}" if key in self._repeated else key

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the shards' names, of all samples' keys and of where their files lie, and of the bytes of 16
        images, evenly spaced; it does not notice another image of the same size at the same place, between these.
        """
        names = "\0".join([*(shard.name for shard in self.shards), *self.keys, *map(str, self.reasons.values())])
        total = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
        total.update(self.places.astype("<i8").tobytes())
        for index in sampled(len(self)):
            shard, start, size = self.places[index, :3].tolist()
            total.update(hashlib.sha256(b"" if start < 0 else self._read(shard, start, size)).digest())
        return total.hexdigest()

    def _read(self, shard: int, start: int, size: int) -> bytes:
        with self.shards[shard].open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _number(self, index: int, text: bytes) -> int:
        try:
            return int(text)
        except ValueError as error:
            raise ValueError(f"the label of '{self.image_id(index)}' is {text[:40]!r}, no whole number") from error


def from_webdataset(
    shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    image: str | None = None,
    label: str | None = "cls",
    classes: Sequence[str] = (),
    progress: bool = True,
) -> TarImages:
    """Give the samples of tar files in webdataset's layout as a dataset for `find_examples`, read at random.

    ``shards`` are tar files that are not compressed: paths, or patterns such as ``'train-{0000..0147}.tar'`` and
    ``'train-*.tar'``. Their headers are read once, to know where everything lies; the package webdataset is not needed.
    A sample is a run of files with one ``__key__``, the name up to the first dot of its last part. ``image`` is the
    extension of the image, by default the first that is one of `EXTENSIONS`, ``label`` that of a text file with a whole
    number (samples without it have no label; ``None`` for none at all), ``classes`` the names of the labels.

    Errors: ``FileNotFoundError`` for shards that are not there, ``ValueError`` where no sample has an image: what is
    no tar file, or a compressed one, has none.
    """
    paths = _shard_paths(shards)
    keys: list[str] = []
    places: list[tuple[int, ...]] = []
    reasons: dict[int, str] = {}
    for number, path in enumerate(tqdm(paths, unit="shard", desc="index of tar files", disable=not progress)):
        for key, files, reason in _samples(path):
            picture = None if reason else _picture(files, image)
            if picture is None:
                reasons[len(keys)] = reason or f"it has no {image or 'image'}, only {', '.join(files)}"
            keys.append(key)
            places.append((number, *(picture or NOWHERE), *files.get(label or "", NOWHERE)))
    if len(reasons) == len(keys):
        first = f"; the first: {keys[0]}: {reasons[0]}" if keys else ""
        raise ValueError(f"no sample in '{paths[0]}' (of {len(paths)}) has an image{first}")
    return TarImages(paths, keys, np.array(places, dtype=np.int64), reasons, classes)


def _shard_paths(shards: Any) -> list[Path]:
    patterns = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
    paths: list[Path] = []
    for pattern in patterns:
        for name in _expanded(str(os.fspath(pattern))):
            found = [name] if Path(name).exists() else sorted(glob(name))  # noqa: PTH207 - patterns may be absolute
            if not found:
                raise FileNotFoundError(f"there is no tar file '{name}'")
            paths += map(Path, found)
    if not paths:
        raise ValueError("no tar file was given: give at least one")
    return paths


def _expanded(pattern: str) -> Iterator[str]:
    """Give the names that a pattern with ``{0000..0147}`` stands for; as many digits as its first number has."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Place], str]]:
    """Give key and files of the samples of one tar file, in order; and, with a reason, what is no sample."""
    key = ""
    files: dict[str, Place] = {}
    for name, place, wrong in _members(path):
        before, extension = _split(name)
        reason = wrong or ("" if extension else "its name has no extension")
        if files and (reason or before != key or extension in files):
            yield key, files, ""
            files = {}
        if reason:
            yield name, {}, reason
            continue
        key = before
        files[extension] = place
    if files:
        yield key, files, ""


def _split(name: str) -> tuple[str, str]:
    """Split a file's name at the first dot of its last part, as webdataset does; extensions in small letters."""
    folder, slash, last = name.rpartition("/")
    before, _, extension = last.partition(".")
    return (f"{folder}{slash}{before}", extension.lower()) if before else (name, "")


def _picture(files: Mapping[str, Place], image: str | None) -> Place | None:
    wanted = [name for name in files if (name == image if image else name.split(".")[-1] in EXTENSIONS)]
    return files[wanted[0]] if wanted else None


def _members(path: Path) -> Iterator[tuple[str, Place, str]]:
    """Give name and place of each file in a tar file, and the reason where it cannot be read."""
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                stored = member.size if member.isreg() else 0
                end = member.offset_data + -(-stored // BLOCK) * BLOCK
                if not member.isdir() and not re.search(r"(^|/)__[^/]*__($|/)", member.name):
                    wrong = "" if member.isreg() else "it is a link or a device"
                    yield member.name, (member.offset_data, member.size), wrong
    except tarfile.ReadError:
        pass  # where it is damaged is told below
    reason = _bad_end(path, end)
    if reason:
        yield f"{path.name}@{end}", NOWHERE, reason


def _bad_end(path: Path, end: int) -> str:
    """Say what is wrong with what follows the last file, at byte ``end``; '' for the zeros that end a tar file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(2**20)
    if not end:
        return "it is no tar file, or a compressed one, which must be unpacked"
    if end > size or any(rest[:BLOCK]):
        return f"the tar file is damaged at byte {min(end, size)} of {size}: what follows is lost"
    if len(rest) < BLOCK or rest.strip(b"\0"):
        return f"the tar file has no proper end at byte {end} of {size}: what should follow is lost"
    return ""


# What the name of an image ends with.
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff", "jp2", "avif")
