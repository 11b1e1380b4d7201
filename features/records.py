"""Records: a frozen result as a folder of ``manifest.json`` and ``arrays.safetensors``, written aside, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

JSON: TypeAlias = bool | int | float | str | Sequence[Any] | Mapping[str, Any] | None

SCHEMA = 1
MANIFEST = "manifest.json"
ARRAYS = "arrays.safetensors"
PACKAGES = ("vision-circuits", "torch", "torchvision", "numpy", "pillow", "safetensors")
DTYPES = frozenset(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
LEFTOVER_AGE = 3600.0  # seconds; no single write takes an hour, so an older part belongs to a writer that was killed

# Names that Windows gives to devices, with any extension.
DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))])


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write ``data`` to the file ``path`` so that a reader sees the old file or the new one, whole, and never a part;
    give the path.

    The bytes go to a new file in the same folder, are flushed to the disk, and are then renamed; text is written as
    UTF-8 with the line ends as given. Missing folders are made. A symbolic link at ``path`` is replaced, not followed.
    On any failure the part is removed and what lay at ``path`` is as before. Errors: ``OSError`` (or its subclass:
    ``PermissionError``, ``IsADirectoryError``, ...) with the path and, when the disk is full, the free bytes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a" / "note.txt", "hello").read_text()
    'hello'
    """
    path = Path(path)
    blob = data.encode("utf-8") if isinstance(data, str) else bytes(data)
    part = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_through(part, blob)
        part.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        _remove(part)
        _refuse_write(path, len(blob), error)
    except BaseException:
        _remove(part)
        raise
    return path


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Remove from ``folder`` the parts that a killed writer left there more than an hour ago; give how many were
    removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     remove_leftovers(folder)
    0
    """
    now = time.time()
    removed = 0
    for path in Path(folder).iterdir():
        if not re.fullmatch(r"\.[0-9a-f]{16}\.part|arrays\.[0-9a-f]{16}\.safetensors", path.name):
            continue
        try:
            if now - path.lstat().st_mtime > LEFTOVER_AGE:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # another writer was faster
            continue
    return removed


def write_record(
    folder: str | os.PathLike[str], kind: str, *, arrays: Mapping[str, np.ndarray], fields: Mapping[str, JSON]
) -> Path:
    """Write ``arrays`` and ``fields`` as the record of ``kind`` in ``folder``, replacing the one that lies there; give
    the folder.

    ``manifest.json`` holds schema, kind, versions, the SHA-256 of the arrays, each array's dtype and shape, and the
    fields; ``arrays.safetensors`` holds the arrays. The same data give the same bytes. Killed at any moment, the folder
    holds the old record or the new one, whole: the new arrays are written beside the old ones, renaming the manifest
    switches over, and the arrays then take their final name. Other files in the folder are left alone. One writer at a
    time; readers at any time.

    Fields are JSON: numpy numbers and arrays, and tuples, are made plain (tuples and arrays come back as lists).
    Errors: ``TypeError`` for what JSON or safetensors cannot hold, ``ValueError`` for numbers that are not finite in
    fields (arrays may hold them), ``OSError`` naming the path for a full disk, a read-only folder, or a folder that is
    a symbolic link.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_record(folder, "demo", arrays={"a": np.arange(3)}, fields={"seed": np.int64(4)})
    ...     arrays, fields = read_record(path, "demo")
    >>> arrays["a"].tolist(), fields
    ([0, 1, 2], {'seed': 4})
    """
    folder = Path(folder)
    if folder.is_symlink():
        raise OSError(
            errno.ELOOP, "the folder of a record may not be a symbolic link: give the folder it names", str(folder)
        )
    tensors = {name: _storable(name, array) for name, array in arrays.items()}
    manifest, blob = _pack(kind, tensors, plain(fields))
    aside = folder / _aside_name(manifest["sha256"])
    try:
        write_atomically(aside, blob)
        write_atomically(folder / MANIFEST, _dump(manifest))
        aside.replace(folder / ARRAYS)
        _flush_folder(folder)
    except BaseException:
        if not _is_current(folder, manifest["sha256"]):
            _remove(aside)
        raise
    remove_leftovers(folder)
    return folder


def read_record(folder: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Give the arrays and the fields of the record of ``kind`` in ``folder``, checked against their SHA-256.

    Errors: ``FileNotFoundError`` where there is no record; ``ValueError`` saying what is wrong for a damaged record, a
    record of another kind, or one that a newer version of this package wrote.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, kind)
    blob = _read_arrays(folder, manifest["sha256"])
    if blob is None:  # a writer may have switched over between the two readings
        manifest = _read_manifest(folder, kind)
        blob = _read_arrays(folder, manifest["sha256"])
    if blob is None:
        _refuse_damaged(folder, f"{ARRAYS} is missing or is not what was written (its SHA-256 differs)")
    try:
        arrays = {name: array.copy() for name, array in safetensors.numpy.load(blob).items()}
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        _refuse_damaged(folder, f"{ARRAYS} cannot be read ({error})", error)
    if {name: _describe(array) for name, array in arrays.items()} != manifest["arrays"]:
        _refuse_damaged(folder, f"the arrays in {ARRAYS} are not those that {MANIFEST} lists")
    return arrays, manifest["fields"]


def matches_record(folder: str | os.PathLike[str], kind: str, /, **expected: Any) -> bool:
    """Say whether ``folder`` holds a readable, undamaged record of ``kind`` whose fields equal all those ``expected``.

    >>> matches_record("/nowhere", "demo", seed=4)
    False
    """
    try:
        _, fields = read_record(folder, kind)
    except (ValueError, FileNotFoundError, NotADirectoryError):
        return False
    return all(name in fields and fields[name] == plain(value, name) for name, value in expected.items())


def check_shapes(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int | str]], **sizes: int
) -> dict[str, int]:
    """Give the sizes of the named axes, or refuse with ``ValueError`` the first array that is missing or has another
    shape.

    ``shapes`` maps an array's name to its axes: a number is that length, a name such as ``"c"`` any length that is the
    same wherever the name occurs. ``sizes`` fixes some of them beforehand.

    >>> check_shapes({"value": np.zeros((5, 3)), "box": np.zeros((5, 3, 4))}, {"value": "ck", "box": ("c", "k", 4)})
    {'c': 5, 'k': 3}
    """
    for name, axes in shapes.items():
        if name not in arrays:
            raise ValueError(f"the array {name!r} is missing: there are {', '.join(sorted(arrays)) or 'none'}")
        shape = arrays[name].shape
        known = {
            axis: length
            for axis, length in zip(axes, shape, strict=False)
            if axis not in sizes and isinstance(axis, str)
        }
        sizes |= known if len(shape) == len(axes) else {}
        wanted = tuple(sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in axes)
        if shape != wanted:
            fixed = ", ".join(f"{axis} = {length}" for axis, length in sizes.items() if axis in axes)
            spelled = ", ".join(map(str, axes))
            raise ValueError(
                f"the array {name!r} is {shape}: it should be ({spelled})" + (f" with {fixed}" if fixed else "")
            )
    return sizes


def plain(value: Any, where: str = "fields") -> Any:
    """Give ``value`` as JSON holds it: numpy numbers as numbers, tuples and arrays as lists, mappings as dicts with
    text keys.

    ``where`` is how errors call the value. ``TypeError`` for anything else, ``ValueError`` for NaN and infinities.

    >>> plain({"size": (np.int64(3), np.float32(0.5))})
    {'size': [3, 0.5]}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: JSON's keys are text")
        return {str(key): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: JSON has no such number; give None, or keep it in an array")
    if value is None or isinstance(value, bool):
        return value
    for form in (str, int, float):
        if isinstance(value, form):
            return form(value)
    raise TypeError(
        f"{where} is of type {type(value).__name__}: JSON holds numbers, text, lists, dicts, True, False and None"
    )


def slug(name: str) -> str:
    """Give a file name for ``name`` (without extension) that is safe on every system and differs for every name.

    Names of lower-case ASCII letters, digits, ``_``, ``-``, ``.`` and ``:`` keep their look, with ``~`` for the colon.
    All others (upper case, since some file systems ignore case; other signs; reserved, hidden or long names) are
    simplified and get ``=`` and 20 hexadecimal digits of their SHA-256. At most 80 characters, never empty, without
    separators.

    >>> slug("mixed4b:409"), slug("layer2.1")
    ('mixed4b~409', 'layer2.1')
    >>> slug("../Mixed 4b")
    'mixed-4b=302d6ef2f516f52a245e'
    """
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {type(name).__name__}")
    kept = re.fullmatch(r"[a-z0-9_][a-z0-9_.:-]{0,79}", name) and not name.endswith(".")
    if kept and name.split(".")[0] not in DEVICES:
        return name.replace(":", "~")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:20]
    look = re.sub(r"[^a-z0-9_]+", "-", name[:200].lower()).strip("-")[:40].strip("-")
    return f"{look or 'name'}={digest}"


def _write_through(path: Path, blob: bytes) -> None:
    with path.open("xb") as file:  # x: a new file only, so that a link planted under this name is never followed
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush the folder's own entries, without which a rename may be lost with the power (Windows has no such call)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not offer it for folders
            raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # the failure that brought us here is the one to tell
        return


def _refuse_write(path: Path, count: int, error: OSError) -> NoReturn:
    what = f"could not write {count:,} bytes"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what += f", with {_free_bytes(path):,} bytes free"
    raise OSError(error.errno, f"{what} ({error.strerror or error})", str(path)) from error


def _free_bytes(path: Path) -> int:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return shutil.disk_usage(folder).free


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    if not isinstance(name, str) or name == "__metadata__":
        raise TypeError(f"{name!r} is no name for an array: give text other than '__metadata__'")
    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError(f"the array {name!r} is of type {type(array).__name__}: give a numpy array")
    array = np.asarray(array)
    if array.dtype.str[1:] not in DTYPES and array.dtype != np.bool_:
        raise TypeError(
            f"the array {name!r} holds {array.dtype}: safetensors holds bool, integers and floats up to 64 bits"
        )
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C", copy=None)


def _pack(kind: str, tensors: Mapping[str, np.ndarray], fields: Any) -> tuple[dict[str, Any], bytes]:
    blob = safetensors.numpy.save(dict(tensors))
    manifest = {
        "schema": SCHEMA,
        "kind": kind,
        "versions": versions(),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "arrays": {name: _describe(array) for name, array in tensors.items()},
        "fields": fields,
    }
    return manifest, blob


def versions() -> dict[str, str]:
    """Give the versions of the packages that a result depends on, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from the source folder, or without an optional package
            continue
    return found


def _describe(array: np.ndarray) -> list[Any]:
    return [str(array.dtype), list(array.shape)]


def _dump(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, allow_nan=False) + "\n"


def _aside_name(digest: str) -> str:
    return f"arrays.{digest[:16]}.safetensors"


def _is_current(folder: Path, digest: str) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_bytes())["sha256"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        lack = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(errno.ENOENT, f"no record here: {lack}", str(folder)) from error
    except (ValueError, RecursionError) as error:
        _refuse_damaged(folder, f"{MANIFEST} is not JSON ({error})", error)
    if not isinstance(manifest, dict) or type(manifest.get("schema")) is not int:
        _refuse_damaged(folder, f"{MANIFEST} is not the manifest of a record")
    if manifest["schema"] > SCHEMA:
        newer = f"schema {manifest['schema']}, this version reads up to {SCHEMA}"
        raise ValueError(f"the record in '{folder}' was written by a newer version ({newer}): update vision-circuits")
    if manifest.get("kind") != kind:
        raise ValueError(f"the record in '{folder}' is of kind {manifest.get('kind')!r}, not {kind!r}")
    if not all(isinstance(manifest.get(name), dict) for name in ("arrays", "fields")):
        _refuse_damaged(folder, f"{MANIFEST} lacks its arrays or its fields")
    if re.fullmatch(r"[0-9a-f]{64}", str(manifest.get("sha256"))) is None:
        _refuse_damaged(folder, f"{MANIFEST} gives no SHA-256")
    return manifest


def _read_arrays(folder: Path, digest: str) -> bytes | None:
    """Give the bytes with that digest, under their final name or under the one they had before the last renaming."""
    for name in (ARRAYS, _aside_name(digest)):
        try:
            blob = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        if hashlib.sha256(blob).hexdigest() == digest:
            return blob
    return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse_damaged(folder: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    raise ValueError(f"the record in '{folder}' is damaged: {why}; make it again") from cause
