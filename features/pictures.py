"""Pictures: numpy arrays ``(h, w, 3)`` of floats in [0, 1], and what is done with them before they are shown."""

from __future__ import annotations

import base64
import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from features.records import write_atomically

Picture: TypeAlias = NDArray[np.floating[Any]]
Box: TypeAlias = tuple[int, int, int, int]

# Vermillion and blue of Okabe and Ito's colour-blind-safe palette (2008); zero is white.
POSITIVE = np.array([213, 94, 0]) / 255
NEGATIVE = np.array([0, 114, 178]) / 255

# How the filters of `strict_decoding` are known among others: by the very text of their patterns, which match anything.
STRICT_MESSAGE, STRICT_MODULE = "(?s:.*)", r"PIL(\..*)?$"
_STRICT: list[None] = []
_STRICT_LOCK = Lock()

# How far outside [0, 1] a value may lie and still be float noise; it is then clipped.
NOISE = 1e-3


def check_picture(array: ArrayLike) -> Picture:
    """Give ``array`` as a picture ``(h, w, 3)`` in [0, 1]; grey ``(h, w)`` and ``(h, w, 1)`` get three equal channels.

    Floats keep their precision (16 bits become 32). Refused, ``TypeError`` for numbers that are not floats and
    ``ValueError`` for the rest: other shapes, no pixels, NaN, values outside [0, 1] (by more than 0.001; less is float
    noise and is clipped).

    >>> check_picture(np.full((2, 4), 0.5)).shape
    (2, 4, 3)
    """
    array = cast(Picture, np.asarray(array))
    if array.dtype.kind != "f":
        raise TypeError(f"a picture holds floats in [0, 1], not {array.dtype}: divide 8-bit values by 255")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        turn = ": move the channels to the end" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise ValueError(f"a picture is (h, w, 3), (h, w, 1) or (h, w), not {array.shape}{turn}")
    if array.size == 0:
        raise ValueError(f"a picture has at least one pixel, and this one is {array.shape}")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"a picture holds finite values, and {np.sum(~np.isfinite(array)):,} of this one's are not")
    if low < -NOISE or high > 1 + NOISE:
        raise ValueError(
            f"a picture's values lie in [0, 1], and this one's go from {low:.4g} to {high:.4g}: scale them first"
        )
    return cast(Picture, np.clip(np.broadcast_to(array, (*array.shape[:2], 3)), 0, 1))


def to_bytes(picture: ArrayLike) -> NDArray[np.uint8]:
    """Give the picture as 8-bit values ``(h, w, 3)``: ``round(255 v)``, halves up.

    >>> to_bytes([[0.0, 0.5, 1.0]])[0, :, 0].tolist()
    [0, 128, 255]
    """
    scaled = check_picture(picture).astype(np.float64) * 255
    return np.floor(scaled + 0.5).astype(np.uint8)


def to_image(picture: ArrayLike) -> Image.Image:
    """Give the picture as an 8-bit RGB image of Pillow.

    >>> to_image(np.zeros((2, 3))).size
    (3, 2)
    """
    return Image.fromarray(to_bytes(picture))


def from_image(image: Image.Image) -> Picture:
    """Give Pillow's ``image`` as a picture, ``(h, w, 3)`` float32: upright by its EXIF, transparency on white, 16 bits
    kept.

    Every mode of Pillow: 1, L, P, RGB, RGBA, CMYK, YCbCr, LAB, HSV; 16 and 32 bit integers are divided by 65535 (32-bit
    files that Pillow reads hold 16-bit values); floats must lie in [0, 1]. An animation gives its current frame.

    >>> from_image(Image.new("CMYK", (3, 2))).tolist()[0][0]
    [1.0, 1.0, 1.0]
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image).astype(np.float32)
        return check_picture(array if image.mode == "F" else array / np.float32(65535))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")).astype(np.float32) / np.float32(255)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Give the picture in the file ``path``, as `from_image` converts it; ``ValueError`` says why a file cannot be
    read.

    Pillow decodes (other decoders crash the process on damaged files), only raster formats, and nothing above Pillow's
    limit for decompression bombs. A missing file is ``FileNotFoundError``.
    """
    return from_image(open_image(path))


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Give Pillow's image of the file ``path``, decoded whole and closed; errors as in `read_picture`."""
    path = Path(path)
    return decode_image(path.read_bytes(), str(path))


def decode_image(blob: bytes, name: str) -> Image.Image:
    """Give Pillow's image of an encoded file's bytes, decoded whole; ``name`` is how errors call it, which are those of
    `read_picture`.
    """
    if not blob:
        raise ValueError(f"'{name}' is no picture: it is empty")
    try:
        with strict_decoding():
            image = Image.open(io.BytesIO(blob), formats=READABLE)
            image.load()
        return image
    except UnidentifiedImageError as error:  # whose own words give an address in memory, other at each run
        raise ValueError(f"'{name}' is no picture that can be read: its bytes are of no known form") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise ValueError(f"'{name}' is no picture that can be read: {error}") from error


@contextmanager
def strict_decoding() -> Iterator[None]:
    """While it lasts, Pillow raises ``DecompressionBombWarning`` instead of warning, and is quiet about odd metadata.

    For threads as well, any number at once: `warnings.catch_warnings` would put back at the end of one what another had
    set. Other filters are left as they are. (The pixels do not need the metadata.)
    """
    with _STRICT_LOCK:
        _STRICT.append(None)
        if len(_STRICT) == 1:
            for action, category in (("ignore", UserWarning), ("error", Image.DecompressionBombWarning)):
                warnings.filterwarnings(action, STRICT_MESSAGE, category, module=STRICT_MODULE)  # type: ignore[arg-type]
    try:
        yield
    finally:
        with _STRICT_LOCK:
            _STRICT.pop()
            if not _STRICT:
                warnings.filters[:] = [each for each in warnings.filters if not _is_strict(each)]  # type: ignore[index]


def _is_strict(entry: Any) -> bool:
    return getattr(entry[1], "pattern", None) == STRICT_MESSAGE and getattr(entry[3], "pattern", None) == STRICT_MODULE


def resize(picture: ArrayLike, size: int | tuple[int, int]) -> Picture:
    """Give the picture at ``size`` (``(h, w)``, or the longer side in pixels), bicubic, antialiased where it shrinks.

    Computed in floats, channel by channel; overshoot is clipped to [0, 1].

    >>> resize(np.zeros((10, 20)), 8).shape
    (4, 8, 3)
    """
    picture = check_picture(picture)
    height, width = _spelled_size(size, picture.shape)
    if (height, width) == picture.shape[:2]:
        return picture
    planes = [_resize_plane(picture[:, :, channel], height, width, Image.Resampling.BICUBIC) for channel in range(3)]
    return np.clip(np.stack(planes, axis=2), 0, 1)


def enlarge(picture: ArrayLike, size: int | tuple[int, int]) -> Picture:
    """Give the picture at ``size`` (``(h, w)``, or the longer side) with sharp square pixels: nearest neighbour, for
    kernels and crops.

    ``ValueError`` where ``size`` is smaller than the picture: use `resize`.

    >>> enlarge(np.array([[0.0, 1.0]]), 4)[:, :, 0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    picture = check_picture(picture)
    height, width = _spelled_size(size, picture.shape)
    if height < picture.shape[0] or width < picture.shape[1]:
        raise ValueError(f"{(height, width)} is smaller than the picture, {picture.shape[:2]}: shrink with resize")
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return cast(Picture, picture[rows][:, columns])


def crop(picture: ArrayLike, box: Sequence[float]) -> Picture:
    """Give what lies in ``box`` ``(y0, x0, y1, x1)`` (pixels, ends excluded), clipped to the picture.

    Fractions go outwards to whole pixels. ``ValueError`` for a box that is empty or wholly outside.

    >>> crop(np.zeros((8, 8)), (-3, 2, 4, 99)).shape
    (4, 6, 3)
    """
    picture = check_picture(picture)
    if len(box) != 4 or not all(math.isfinite(edge) for edge in box):
        raise ValueError(f"a box is four finite numbers (y0, x0, y1, x1), not {tuple(box)}")
    height, width = picture.shape[:2]
    y0, x0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    y1, x1 = min(height, math.ceil(box[2])), min(width, math.ceil(box[3]))
    if y0 >= y1 or x0 >= x1:
        raise ValueError(f"the box {tuple(box)} (y0, x0, y1, x1) holds no pixel of a picture of {height} x {width}")
    return picture[y0:y1, x0:x1]


def grid(pictures: Iterable[ArrayLike], *, columns: int | None = None, gap: int = 2) -> Picture:
    """Give one picture of all ``pictures`` in rows, ``gap`` white pixels apart, each centred in a cell as large as the
    largest.

    ``columns`` is by default the one that makes the grid square, ``ceil(sqrt(n))``.

    >>> grid(np.zeros((5, 8, 8, 3)), gap=1).shape
    (17, 26, 3)
    """
    checked = _checked_list(pictures)
    cell = (max(one.shape[0] for one in checked), max(one.shape[1] for one in checked))
    boxes = _cells(len(checked), columns, cell, gap)
    canvas = np.ones((max(box[2] for box in boxes), max(box[3] for box in boxes), 3), np.result_type(*checked))
    for one, (y0, x0, _, _) in zip(checked, boxes, strict=True):
        top, left = y0 + (cell[0] - one.shape[0]) // 2, x0 + (cell[1] - one.shape[1]) // 2
        canvas[top : top + one.shape[0], left : left + one.shape[1]] = one
    return canvas


def sheet(pictures: Iterable[ArrayLike], *, columns: int | None = None) -> tuple[Picture, list[Box]]:
    """Give a sprite sheet of ``pictures`` (all of one size), and each one's box ``(y0, x0, y1, x1)`` in it, in pixels.

    >>> sheet(np.zeros((3, 8, 8, 3)), columns=2)[1]
    [(0, 0, 8, 8), (0, 8, 8, 16), (8, 0, 16, 8)]
    """
    checked = _checked_list(pictures)
    shapes = sorted({one.shape[:2] for one in checked})
    if len(shapes) > 1:
        raise ValueError(
            f"the pictures of a sheet have one size, not {len(shapes)} ({shapes[0]}, {shapes[1]}, ...): resize them"
        )
    return grid(checked, columns=columns, gap=0), _cells(len(checked), columns, shapes[0], 0)


def signed(heat: ArrayLike, *, scale: float | None = None) -> Picture:
    """Give a signed map ``(h, w)`` in colours, ``(h, w, 3)``: orange positive, blue negative, white exactly zero.

    ``t = clip(heat / scale, -1, 1)``, and the colour goes linearly from white to orange (Okabe and Ito's vermillion) or
    blue with ``|t|``; the hues stay apart for colour-blind eyes. ``scale`` is by default the largest absolute value, so
    that both signs share one scale. ``ValueError`` for NaN.

    >>> signed([[0.0, 2.0, -2.0]])[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    strength, colour = _tint(_check_heat(heat), scale)
    return 1 - strength * (1 - colour)


def overlay(picture: ArrayLike, heat: ArrayLike, *, scale: float | None = None, opacity: float = 0.75) -> Picture:
    """Give the picture with a signed map over it: orange positive, blue negative, and the picture itself, unchanged, at
    zero.

    ``(1 - a) picture + a colour`` with ``a = opacity |t|`` and ``t`` as in `signed`. A heat of another size is first
    interpolated (bilinear) to the picture's; the default ``scale`` is its largest absolute value before that.

    >>> bool(np.all(overlay(np.full((4, 4), 0.5), np.zeros((2, 2))) == 0.5))
    True
    """
    picture, checked = check_picture(picture), _check_heat(heat)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity lies in [0, 1], not {opacity}")
    scale = float(np.abs(checked).max()) if scale is None else scale
    height, width = picture.shape[:2]
    if checked.shape != (height, width):
        checked = _resize_plane(checked, height, width, Image.Resampling.BILINEAR).astype(np.float64)
    strength, colour = _tint(checked, scale)
    return picture + opacity * strength * (colour - picture)


def encode(picture: ArrayLike, form: str = "webp") -> bytes:
    """Give the file's bytes, in ``form`` webp, png or jpeg; the same picture gives the same bytes.

    >>> encode(np.zeros((2, 2)), "png")[1:4]
    b'PNG'
    """
    if form not in FORMS:
        raise ValueError(f"{form!r} is no form of picture: choose {', '.join(FORMS)}")
    buffer = io.BytesIO()
    to_image(picture).save(buffer, format=form, **FORMS[form])
    return buffer.getvalue()


def data_uri(picture: ArrayLike, *, form: str = "webp", size: int | tuple[int, int] | None = None) -> str:
    """Give the picture as a ``data:`` address for HTML, at ``size`` (``(h, w)``, or the longer side) where one is
    given.

    >>> data_uri(np.zeros((2, 2)), form="png")[:22]
    'data:image/png;base64,'
    """
    blob = encode(picture if size is None else resize(picture, size), form)
    return f"data:image/{form};base64,{base64.b64encode(blob).decode('ascii')}"


def write_picture(picture: ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Write the picture to ``path``, atomically, in the form that its suffix names (.png, .webp, .jpg, .jpeg); give the
    path.
    """
    path = Path(path)
    suffix = path.suffix.lower().lstrip(".")
    form = "jpeg" if suffix == "jpg" else suffix
    if form not in FORMS:
        raise ValueError(f"'{path.name}' names no form of picture: end it with .png, .webp or .jpg")
    return write_atomically(path, encode(picture, form))


def _checked_list(pictures: Iterable[ArrayLike]) -> list[Picture]:
    checked = [check_picture(one) for one in pictures]
    if not checked:
        raise ValueError("there are no pictures: give at least one")
    return checked


def _cells(count: int, columns: int | None, cell: tuple[int, int], gap: int) -> list[Box]:
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1 or gap < 0:
        raise ValueError(f"a grid has at least 1 column and a gap of at least 0, not {columns} and {gap}")
    corners = [((index // columns) * (cell[0] + gap), (index % columns) * (cell[1] + gap)) for index in range(count)]
    return [(y, x, y + cell[0], x + cell[1]) for y, x in corners]


def _check_heat(heat: ArrayLike) -> NDArray[np.float64]:
    heat = np.asarray(heat, dtype=np.float64)
    if heat.ndim == 3 and heat.shape[2] == 1:
        heat = heat[:, :, 0]
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"a heat map is (h, w), not {heat.shape}")
    if not np.isfinite(heat).all():
        raise ValueError(f"a heat map holds finite values, and {np.sum(~np.isfinite(heat)):,} of this one's are not")
    return heat


def _tint(heat: NDArray[np.float64], scale: float | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give ``|t|`` as ``(h, w, 1)`` and the pure colour of each pixel's sign, ``(h, w, 3)``."""
    scale = float(np.abs(heat).max()) if scale is None else float(scale)
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"the scale of a heat map is a finite number of at least 0, not {scale}")
    ratio = np.zeros_like(heat) if scale == 0 else np.clip(heat / scale, -1, 1)
    return np.abs(ratio)[:, :, None], np.where((heat > 0)[:, :, None], POSITIVE, NEGATIVE)


def _spelled_size(size: int | tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    if isinstance(size, tuple):
        height, width = size
    else:
        longer = max(shape[:2])
        height, width = (max(1, round(side * size / longer)) for side in shape[:2])
        height, width = (size if shape[0] == longer else height), (size if shape[1] == longer else width)
    if height < 1 or width < 1:
        raise ValueError(f"a picture's size is (h, w) of at least 1, or its longer side, not {size}")
    return height, width


def _resize_plane(plane: NDArray[Any], height: int, width: int, method: Image.Resampling) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((width, height), method), dtype=np.float32)


# How Pillow writes each form; WebP and JPEG at a quality where thumbnails show no artefacts.
FORMS: dict[str, dict[str, Any]] = {
    "webp": {"quality": 85, "method": 4},
    "png": {"optimize": False},
    "jpeg": {"quality": 92, "subsampling": 0},
}

# Raster formats only: Pillow would hand EPS and the like to an external interpreter.
READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF")
