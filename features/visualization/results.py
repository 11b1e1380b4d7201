"""Results: a Visualization, the pictures of many units, how good they are and how they were made; kept as a record."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.pictures import Box, Picture, data_uri, enlarge, grid, sheet, to_image
from features.records import JSON, read_record, write_atomically, write_record
from features.units import Unit

KIND = "visualization"
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The grades that are numbers; `features.visualization.grading` says what they mean.
GRADES = ("peaks", "natural", "ratio", "robustness", "spread")

MOVING = {".gif": "GIF", ".webp": "WEBP"}
SMALLEST = 96  # pixels that a picture is wide in a notebook, and at least in an animation


@dataclass(frozen=True, eq=False)
class Visualization:
    """Pictures made by `visualize`, ``count`` per objective, in the order they were asked for; n pictures in all.

    ``units`` are the names of their objectives, repeated within a group; ``images`` ``(n, h, w, 3)`` float32 in [0, 1],
    whole 255ths, as scored (grey networks give three equal channels; of networks with neither 1 nor 3 channels, and of
    transparent pictures, all channels are kept); ``scores`` ``(n,)`` each objective on that picture, untransformed;
    ``history`` maps a step to the scores ``(n,)`` of the transformed pictures seen in that step, before it was taken;
    ``frames`` maps a kept step to the pictures ``(n, h, w, 3)`` after that many steps, in bytes; ``settings`` how they
    were made, as JSON; ``digest`` the fingerprint of the model's weights.

    How good they are (`features.visualization.grading`), each ``(n,)`` and NaN where it has no meaning: ``peaks`` the
    unit's largest activation in the picture, ``natural`` that in its strongest example, ``ratio`` of the two,
    ``robustness`` the share of the score that transforms leave which the picture was not made with, ``spread`` how
    unlike the pictures of a group are; and ``verdicts``, 'ok', 'weak', 'adversarial' or 'dead', '' where not graded.

    ``visualization["mixed3a:3"]`` is that unit's (first) picture ``(h, w, 3)``.

    >>> made = Visualization(("a:0",), np.full((1, 4, 4, 3), 0.5, np.float32), np.ones(1, np.float32), {}, 0, {}, "")
    >>> made["a:0"].shape, len(made), "a:1" in made
    ((4, 4, 3), 1, False)
    """

    units: tuple[str, ...]
    images: Floats
    scores: Floats
    history: Mapping[int, Floats]
    seed: int
    settings: Mapping[str, Any]
    digest: str
    frames: Mapping[int, Bytes] = field(default_factory=dict)
    peaks: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    natural: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    ratio: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    robustness: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    spread: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    verdicts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in NaN and '' for grades that were not given."""
        for name in GRADES:
            if len(getattr(self, name)) == 0:
                object.__setattr__(self, name, np.full(len(self.units), np.nan, np.float32))
        if not self.verdicts:
            object.__setattr__(self, "verdicts", ("",) * len(self.units))

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.images.shape[1:3]))
        graded = ", ".join(f"{self.verdicts.count(each)} {each}" for each in dict.fromkeys(self.verdicts) if each)
        return f"Visualization({len(self)} of {size} pixels{': ' * bool(graded)}{graded})"

    def __len__(self) -> int:
        return len(self.units)

    def __iter__(self) -> Iterator[str]:
        """Give the names, as a mapping does."""
        return iter(self.units)

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, (Unit, str)) and str(unit) in self.units

    def __getitem__(self, unit: Unit | str) -> Picture:
        """Give the first picture ``(h, w, 3)`` of ``unit``; ``KeyError`` for one that is not here."""
        return self._shown(self.images[self.index(unit)])

    def index(self, unit: Unit | str) -> int:
        """Give the first place of ``unit`` in `units`, `images` and `scores`; ``KeyError`` for one that is not here."""
        if str(unit) not in self.units:
            raise KeyError(f"no picture of {str(unit)!r}: there are {len(self)}, listed in .units")
        return self.units.index(str(unit))

    def group(self, unit: Unit | str) -> list[Picture]:
        """Give all pictures of ``unit``, ``(h, w, 3)`` each; ``KeyError`` for one that is not here."""
        self.index(unit)
        return [self._shown(image) for name, image in zip(self.units, self.images, strict=True) if name == str(unit)]

    def sequence(self, unit: Unit | str) -> list[Picture]:
        """Give the kept steps of ``unit``'s (first) picture, ``(h, w, 3)`` each, in order; ``ValueError`` if none were
        kept.
        """
        place = self.index(unit)
        return [self._shown(frame[place]) for _, frame in self._kept()]

    def to_image(self, *, columns: int | None = None) -> Image.Image:
        """Give all pictures as one grid."""
        return to_image(grid([self._shown(image) for image in self.images], columns=columns))

    def sheet(self, *, columns: int | None = None) -> tuple[Picture, list[Box]]:
        """Give all pictures as one sprite sheet, and the box ``(y0, x0, y1, x1)`` of each in it, in pixels."""
        return sheet([self._shown(image) for image in self.images], columns=columns)

    def animate(self, path: str | os.PathLike[str], *, unit: Unit | str | None = None, seconds: float = 4.0) -> Path:
        """Write the kept steps as a film to ``path`` (.gif or .webp): of ``unit``, or of all pictures in a grid; give
        the path.

        The film takes ``seconds``, then rests on its last picture for one second and starts again. Small pictures are
        enlarged with sharp pixels. ``ValueError`` where no steps were kept, for another suffix and for a time that is
        not above 0.
        """
        path = Path(path)
        form = MOVING.get(path.suffix.lower())
        if form is None:
            raise ValueError(f"'{path.name}' names no film: end it with {' or '.join(MOVING)}")
        if not 0 < seconds < float("inf"):
            raise ValueError(f"a film of {seconds} seconds: give a finite number above 0")
        places = list(range(len(self))) if unit is None else [self.index(unit)]
        pictures = [grid([self._shown(frame[place]) for place in places]) for _, frame in self._kept()]
        return write_atomically(path, _film(pictures, form, seconds))

    def _shown(self, image: Floats | Bytes) -> Picture:
        """Give a picture ``(h, w, 3)``: a transparent one on white, one of other channels in grey."""
        values = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)
        if self.settings.get("transparent"):
            values = values[:, :, :-1] * values[:, :, -1:] + (1 - values[:, :, -1:])
        if values.shape[2] == 3:
            return values
        return np.repeat(values.mean(2, keepdims=True, dtype=np.float32), 3, axis=2)

    def _kept(self) -> list[tuple[int, Bytes]]:
        if not self.frames:
            raise ValueError(
                "no steps were kept: make the pictures again with keep=1 (every step), or any other number"
            )
        return sorted(self.frames.items())

    def _repr_html_(self) -> str:
        style = "display:inline-block;margin:2px;text-align:center;font:11px sans-serif"
        size = max(SMALLEST, self.images.shape[2])
        figures = (
            f'<figure style="{style}">'
            f'<img src="{data_uri(self._shown(image), form="png")}" width="{size}" alt="{html.escape(name)}">'
            f"<figcaption>{html.escape(name)}<br>{'<br>'.join(self._grades(place))}</figcaption></figure>"
            for place, (name, image) in enumerate(zip(self.units, self.images, strict=True))
        )
        return f"<div>{''.join(figures)}</div>"

    def _grades(self, place: int) -> list[str]:
        """Give the lines of a caption: score and verdict, and the grades that are known."""
        lines = [f"{self.scores[place]:.4g} {html.escape(self.verdicts[place])}".strip()]
        if np.isfinite(self.ratio[place]):
            lines.append(f"{self.ratio[place]:.2g}x natural")
        if np.isfinite(self.robustness[place]):
            lines.append(f"{self.robustness[place]:.0%} robust")
        return lines

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.to_image().save(buffer, format="png")
        return buffer.getvalue()


def write_visualization(visualization: Visualization, folder: str | os.PathLike[str]) -> Path:
    """Write the pictures (8 bits, as they were scored), kept steps, scores, grades, history and settings as a record in
    ``folder``; give the folder.

    >>> import tempfile
    >>> made = Visualization(("a:0",), np.ones((1, 4, 4, 3), np.float32), np.ones(1, np.float32), {}, 0, {}, "")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_visualization(write_visualization(made, folder)).units
    ('a:0',)
    """
    steps, kept = sorted(visualization.history), sorted(visualization.frames)
    empty = np.zeros((0, len(visualization)), np.float32)
    arrays: dict[str, NDArray[Any]] = {
        "images": np.round(visualization.images * 255).astype(np.uint8),
        "scores": visualization.scores.astype(np.float32),
        "history": np.stack([visualization.history[step] for step in steps]) if steps else empty,
        **{name: getattr(visualization, name).astype(np.float32) for name in GRADES},
    }
    if kept:
        arrays["frames"] = np.stack([visualization.frames[step] for step in kept])
    fields: dict[str, JSON] = {
        "units": list(visualization.units),
        "steps": steps,
        "kept": kept,
        "verdicts": list(visualization.verdicts),
        "seed": visualization.seed,
        "settings": dict(visualization.settings),
        "digest": visualization.digest,
    }
    return write_record(folder, KIND, arrays=arrays, fields=fields)


def read_visualization(folder: str | os.PathLike[str]) -> Visualization:
    """Read what `write_visualization` wrote, also before there were grades. Errors: ``FileNotFoundError`` for no
    record, ``ValueError`` for a damaged one.
    """
    arrays, fields = read_record(folder, KIND)
    images = arrays["images"].astype(np.float32) / np.float32(255)
    count, kept = len(fields["units"]), fields.get("kept", [])
    history, frames = arrays["history"], arrays.get("frames", np.zeros((0, *arrays["images"].shape), np.uint8))
    grades = {name: arrays[name] for name in GRADES if name in arrays}
    lengths = {len(images), len(arrays["scores"]), history.shape[1], *map(len, grades.values())}
    if images.ndim != 4 or lengths != {count} or frames.shape != (len(kept), *images.shape):
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
        frames=dict(zip(kept, frames, strict=True)),
        verdicts=tuple(fields.get("verdicts", ())),
        **grades,
    )


def _film(pictures: Sequence[Picture], form: str, seconds: float) -> bytes:
    longest = max(pictures[0].shape[:2])
    times = -(-SMALLEST // longest)
    images = [to_image(enlarge(picture, times * longest)) for picture in pictures]
    pause = max(20, round(1000 * seconds / len(images)))  # viewers slow down what is shorter than 20 ms
    durations = [pause] * (len(images) - 1) + [pause + 1000]
    buffer = io.BytesIO()
    images[0].save(buffer, format=form, save_all=True, append_images=images[1:], duration=durations, loop=0)
    return buffer.getvalue()
