"""Results: a Visualization, the pictures of many units and how they were made; written and read as a record."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.pictures import data_uri, grid, to_image
from features.records import JSON, read_record, write_record
from features.units import Unit

KIND = "visualization"


@dataclass(frozen=True, eq=False)
class Visualization:
    """Pictures made by `visualize`, one per objective, in the order they were asked for.

    ``units`` are the names of the objectives; ``images`` ``(n, h, w, 3)`` float32 in [0, 1], whole 255ths, as scored
    (grey networks give three equal channels; of networks with neither 1 nor 3 channels all channels are kept);
    ``scores`` ``(n,)`` each objective on that picture, untransformed; ``history`` maps a step to the scores ``(n,)`` of
    the transformed pictures seen in that step, before it was taken; ``settings`` how they were made, as JSON;
    ``digest`` the fingerprint of the model's weights. ``visualization["mixed3a:3"]`` is that unit's picture ``(h, w,
    3)``.

    >>> made = Visualization(("a:0",), np.full((1, 4, 4, 3), 0.5, np.float32), np.ones(1, np.float32), {}, 0, {}, "")
    >>> made["a:0"].shape, len(made), "a:1" in made
    ((4, 4, 3), 1, False)
    """

    units: tuple[str, ...]
    images: NDArray[np.float32]
    scores: NDArray[np.float32]
    history: Mapping[int, NDArray[np.float32]]
    seed: int
    settings: Mapping[str, Any]
    digest: str

    def __len__(self) -> int:
        return len(self.units)

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, (Unit, str)) and str(unit) in self.units

    def __getitem__(self, unit: Unit | str) -> NDArray[np.float32]:
        """Give the picture ``(h, w, 3)`` of ``unit``; ``KeyError`` for one that is not here."""
        return _shown(self.images[self.index(unit)])

    def index(self, unit: Unit | str) -> int:
        """Give the place of ``unit`` in `units`, `images` and `scores`; ``KeyError`` for one that is not here."""
        if str(unit) not in self.units:
            raise KeyError(f"no picture of {str(unit)!r}: there are {len(self)}, listed in .units")
        return self.units.index(str(unit))

    def to_image(self, *, columns: int | None = None) -> Image.Image:
        """Give all pictures as one grid."""
        return to_image(grid([_shown(image) for image in self.images], columns=columns))

    def _repr_html_(self) -> str:
        style = "display:inline-block;margin:2px;text-align:center;font:11px sans-serif"
        size = max(96, self.images.shape[2])
        figures = (
            f'<figure style="{style}">'
            f'<img src="{data_uri(_shown(image), form="png")}" width="{size}" alt="{html.escape(name)}">'
            f"<figcaption>{html.escape(name)}<br>{score:.4g}</figcaption></figure>"
            for name, image, score in zip(self.units, self.images, self.scores, strict=True)
        )
        return f"<div>{''.join(figures)}</div>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.to_image().save(buffer, format="png")
        return buffer.getvalue()


def write_visualization(visualization: Visualization, folder: str | os.PathLike[str]) -> Path:
    """Write the pictures (8 bits, as they were scored), scores, history and settings as a record in ``folder``; give
    the folder.

    >>> import tempfile
    >>> made = Visualization(("a:0",), np.ones((1, 4, 4, 3), np.float32), np.ones(1, np.float32), {}, 0, {}, "")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_visualization(write_visualization(made, folder)).units
    ('a:0',)
    """
    steps = sorted(visualization.history)
    empty = np.zeros((0, len(visualization)), np.float32)
    arrays: dict[str, NDArray[Any]] = {
        "images": np.round(visualization.images * 255).astype(np.uint8),
        "scores": visualization.scores.astype(np.float32),
        "history": np.stack([visualization.history[step] for step in steps]) if steps else empty,
    }
    fields: dict[str, JSON] = {
        "units": list(visualization.units),
        "steps": steps,
        "seed": visualization.seed,
        "settings": dict(visualization.settings),
        "digest": visualization.digest,
    }
    return write_record(folder, KIND, arrays=arrays, fields=fields)


def read_visualization(folder: str | os.PathLike[str]) -> Visualization:
    """Read what `write_visualization` wrote. Errors: ``FileNotFoundError`` for no record, ``ValueError`` for a damaged
    one.
    """
    arrays, fields = read_record(folder, KIND)
    images = arrays["images"].astype(np.float32) / np.float32(255)
    count = len(fields["units"])
    history = arrays["history"]
    if images.ndim != 4 or not len(images) == len(arrays["scores"]) == history.shape[1] == count:
        raise ValueError(
            f"the record in {folder} does not fit together: {count} units, images {images.shape}; make it again"
        )
    return Visualization(
        tuple(fields["units"]),
        images,
        arrays["scores"],
        dict(zip(fields["steps"], history, strict=True)),
        fields["seed"],
        fields["settings"],
        fields["digest"],
    )


def _shown(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image if image.shape[2] == 3 else np.repeat(image.mean(2, keepdims=True, dtype=np.float32), 3, axis=2)
