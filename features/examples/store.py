"""The store: one folder with a manifest, shards, the arrays of each layer, an index and thumbnails; open_examples reads
it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from features.examples.index import INDEX, reading
from features.examples.nouns import AXES, Examples, LayerExamples
from features.examples.shards import blocks, read_block
from features.examples.thumbnails import thumbnail_pictures
from features.records import MANIFEST, check_shapes, plain, slug, versions, write_atomically

KIND = "examples-store"
SCHEMA = 1
SHARDS, LAYERS, VECTORS = "shards", "layers", "vectors"
MOST_THREADS = 4096
PART = re.compile(r"\.[0-9a-f]{16}\.part")
# What of a run must be as it was when the store was begun, and how an error calls it.
BOUND = {
    "model": "another network", "digest": "other weights", "dataset": "another dataset", "length": "another dataset",
    "image_size": "another image size", "channels": "another network", "plan": "another plan",
    "torch": "another torch", "device": "another kind of device",
}  # fmt: skip


def open_examples(folder: str | os.PathLike[str]) -> Examples:
    """Open the finished store in ``folder``; an array of a layer is read when it is first asked for.

    A file is checked against its SHA-256 in the manifest when it is first read. ``pictures`` of the examples are the
    store's thumbnails. Errors: ``FileNotFoundError`` where there is no store; ``ValueError``, saying what is wrong, for
    one that is not finished, damaged, or written by a newer version.

    >>> import tempfile
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> from features.examples import find_examples
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = find_examples(load_model("sketches"), Sketches(6), ["conv2d0"], store=folder, progress=False)
    ...     open_examples(folder)["conv2d0:3"].image.tolist() == found["conv2d0:3"].image.tolist()
    True
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    results = manifest.get("results")
    if results is None:
        raise ValueError(f"the store '{folder}' is not finished: call find_examples(..., store={str(folder)!r}) again")
    try:
        described = dict(results["examples"])
        described["image_size"] = tuple(described["image_size"])
        described["labels"] = tuple(described["labels"])
        described["skipped"] = tuple((int(index), str(reason)) for index, reason in described["skipped"])
        layers = {str(name): int(width) for name, width in results["layers"].items()}
        files = {str(name): str(digest) for name, digest in results["files"].items()}
        arrays = _Layers(folder, layers, files, int(described["count"]))
        return Examples(**described, arrays=arrays, pictures=thumbnail_pictures(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _refuse_damaged(folder, f"{MANIFEST} does not describe its results ({error})", error)


def check_store(folder: str | os.PathLike[str]) -> None:
    """Read everything in the finished store in ``folder``; ``ValueError`` for the first thing that is not as it was
    written.

    Shards and arrays are checked against their SHA-256, arrays against their shapes, the index by SQLite's integrity
    check and against the arrays' values.
    """
    folder = Path(folder)
    examples, manifest = open_examples(folder), read_manifest(folder)
    for block in blocks(folder / SHARDS):
        read_block(block, key_of(manifest))
    kept = sorted(block.path.name for block in blocks(folder / SHARDS))
    if kept != manifest["results"].get("shards"):
        _refuse_damaged(folder, "its shards are not those that were merged")
    with reading(folder) as index:
        state = [str(row[0]) for row in index.execute("PRAGMA integrity_check")]
        rows = {name: index.execute(TOP, (name,)).fetchall() for name in examples.layers}
    if state != ["ok"]:
        _refuse_damaged(folder, f"{INDEX}: {state[0]:.200}")
    for name in examples.layers:
        layer = examples.layer(name)
        for field in fields(LayerExamples):
            getattr(layer, field.name)
        units, ranks = np.nonzero(layer.image >= 0)
        images, values = layer.image[units, ranks].tolist(), layer.value[units, ranks].astype(np.float64).tolist()
        if rows[name] != list(zip(units.tolist(), ranks.tolist(), images, values, strict=True)):
            _refuse_damaged(folder, f"{INDEX} and the arrays of layer {name!r} differ")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Give the manifest of the store in ``folder``; errors as in `open_examples`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        lack = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(errno.ENOENT, f"no store here: {lack}", str(folder)) from error
    except (ValueError, RecursionError) as error:
        _refuse_damaged(folder, f"{MANIFEST} is not JSON ({error})", error)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        raise ValueError(f"'{folder}' holds a record of kind {kind!r:.80}, not a store of examples")
    if type(manifest.get("schema")) is not int or manifest["schema"] > SCHEMA:
        newer = f"schema {manifest.get('schema')!r:.80}, this version reads up to {SCHEMA}"
        raise ValueError(f"the store in '{folder}' was written by a newer version ({newer}): update vision-circuits")
    run, results = manifest.get("run"), manifest.get("results")
    if not isinstance(run, dict) or type(run.get("threads")) is not int or not 1 <= run["threads"] <= MOST_THREADS:
        _refuse_damaged(folder, f"{MANIFEST} does not describe its run")
    if results is not None and (not isinstance(results, dict) or type(results.get("thumbnails")) is not int):
        _refuse_damaged(folder, f"{MANIFEST} does not describe its results")
    return manifest


def begin(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Make ``folder`` a store for ``run`` and give its manifest, or give the one that it has, if that is of the same
    run.

    The manifest is the first thing written: a folder that cannot be written to is refused before anything is computed.
    Errors: ``ValueError`` saying what differs, or that the folder holds something else; ``OSError`` with the path.
    """
    strange = [
        path.name for path in folder.iterdir() if not (path.name.startswith("lock") or PART.fullmatch(path.name))
    ]
    if MANIFEST in strange or (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        _check_same(folder, manifest["run"], plain(run))
        return manifest
    if strange:
        raise ValueError(f"'{folder}' holds {strange[0]!r} and no store: give an empty or a new folder")
    manifest = {"schema": SCHEMA, "kind": KIND, "versions": versions(), "run": plain(run), "results": None}
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")


def key_of(manifest: Mapping[str, Any]) -> str:
    """Give the SHA-256 of the run that a manifest describes, by which its shards are known."""
    return hashlib.sha256(json.dumps(manifest["run"], sort_keys=True).encode()).hexdigest()


def write_layers(folder: Path, layers: Mapping[str, LayerExamples]) -> dict[str, str]:
    """Write the arrays of ``layers``, two files each, and give the files' SHA-256 by their names in the store."""
    digests = {}
    for name, layer in layers.items():
        arrays = {field.name: np.ascontiguousarray(getattr(layer, field.name)) for field in fields(layer)}
        for place, some in ((VECTORS, {"vectors": arrays.pop("vectors")}), (LAYERS, arrays)):
            blob = safetensors.numpy.save(some)
            digests[_file_of(place, name)] = hashlib.sha256(blob).hexdigest()
            write_atomically(folder / _file_of(place, name), blob)
    return digests


def tidy(folder: Path, age: float) -> None:
    """Remove the parts of files that killed writers left more than ``age`` seconds ago."""
    for place in (folder, *(folder / name for name in (SHARDS, LAYERS, VECTORS))):
        for path in place.iterdir() if place.is_dir() else ():
            if PART.fullmatch(path.name) and time.time() - path.lstat().st_mtime >= age:
                path.unlink(missing_ok=True)


class _Layers(Mapping[str, LayerExamples]):
    """The layers of a store by name; what is asked for is read, once."""

    def __init__(self, folder: Path, widths: Mapping[str, int], files: Mapping[str, str], count: int) -> None:
        self._layers = {name: StoredLayer.at(folder, name, width, files, count) for name, width in widths.items()}

    def __getitem__(self, name: str) -> LayerExamples:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


class StoredLayer(LayerExamples):
    """The arrays of a layer, each read from the store when it is first asked for."""

    @classmethod
    def at(cls, folder: Path, name: str, width: int, files: Mapping[str, str], count: int) -> StoredLayer:
        """Give the layer called ``name`` of the store in ``folder``, of which nothing is read yet."""
        layer = cls.__new__(cls)
        layer.__dict__["_stored"] = (folder, name, width, files, count)
        return layer

    def __getattr__(self, field: str) -> Any:
        """Called for what is not there yet."""
        if field not in AXES or "_stored" not in self.__dict__:
            raise AttributeError(f"the examples of a layer have no {field!r}: they have {', '.join(AXES)}")
        folder, name, width, files, count = self._stored
        place = VECTORS if field == "vectors" else LAYERS
        arrays = _read_arrays(folder, _file_of(place, name), files)
        wanted = {each: AXES[each] for each in AXES if (each == "vectors") == (place == VECTORS)}
        try:
            check_shapes(arrays, wanted, c=width, k=count)
        except ValueError as error:
            _refuse_damaged(folder, f"layer {name!r}: {error}", error)
        self.__dict__.update({each: arrays[each] for each in wanted})
        return arrays[field]

    def __reduce__(self) -> tuple[Any, ...]:
        return _whole_layer, ({field.name: getattr(self, field.name) for field in fields(self)},)


def _whole_layer(arrays: Mapping[str, Any]) -> LayerExamples:
    return LayerExamples(**arrays)


def _read_arrays(folder: Path, file: str, files: Mapping[str, str]) -> dict[str, np.ndarray]:
    try:
        blob = (folder / file).read_bytes()
    except OSError as error:
        _refuse_damaged(folder, f"{file} cannot be read ({error.strerror})", error)
    if hashlib.sha256(blob).hexdigest() != files.get(file):
        _refuse_damaged(folder, f"{file} is not what was written (its SHA-256 differs)")
    try:
        return {name: array.copy() for name, array in safetensors.numpy.load(blob).items()}
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        _refuse_damaged(folder, f"{file} cannot be read ({error})", error)


def _file_of(place: str, layer: str) -> str:
    return f"{place}/{slug(layer)}.safetensors"


def _check_same(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, what in BOUND.items():
        if begun.get(name) != now[name]:
            old, new = _difference(begun.get(name), now[name])
            raise ValueError(
                f"the store '{folder}' was begun with {what}: its {name} is {old}, and now it is {new}; "
                "give another folder, or remove this one"
            )


def _difference(old: Any, new: Any) -> tuple[str, str]:
    """Give two values in words; of two mappings, only what differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        old, new = ({name: values.get(name) for name in names} for values in (old, new))
    return f"{old!r:.200}", f"{new!r:.200}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse_damaged(folder: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    raise ValueError(f"the store in '{folder}' is damaged: {why}; make it again") from cause


TOP = (
    "SELECT channel, rank, image, value FROM examples JOIN units USING (unit) WHERE layer = ? AND list = 'top'"
    " ORDER BY unit, rank"
)
