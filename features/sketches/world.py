"""The drawn world as a torch dataset: pictures of which every factor is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from features.sketches.backgrounds import BACKGROUNDS, TEXTURES, clutter, cover, light
from features.sketches.creatures import CREATURES
from features.sketches.pens import Kind, Palette, Pen, Pose, Tone, drawn, painted
from features.sketches.shapes import SHAPES
from features.sketches.things import THINGS

HELD_OUT_SEED = 1_000_000
STYLES = ("filled", "outlined", "drawn")
KINDS: dict[str, Kind] = {**SHAPES, **THINGS, **CREATURES}
LABELS = tuple(KINDS)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """One part of what is drawn, such as a wheel, and its box (y0, x0, y1, x1) in image pixels, y1 and x1 excluded."""

    name: str
    box: Box


@dataclass(frozen=True)
class Factors:
    """All that is known about one sketch.

    Attributes:
        name: the class; label: its index in `LABELS`.
        parts: in the order of drawing, clipped to the picture; a part may lie behind a later one.
        box: (y0, x0, y1, x1) of the whole thing, in image pixels, clipped to the picture.
        orientation: degrees counter-clockwise from how it is drawn upright (a line: horizontal), signed for classes
            that are turned by at most 30 degrees, in [0, period of the class) for others; None where it says little.
        pose: 'left', 'right', 'front', or None where the class has none.
        colour: the main colour (r, g, b), 0 to 255, before light and texture.
        style: 'filled', 'outlined' or 'drawn' (line drawing); texture: the surface of the thing, a key of `TEXTURES`.
        position: its centre (y, x); scale: its half extent; both in image pixels.
        background: a key of `BACKGROUNDS`; lighting: 'even', 'side' or 'centre'; grey: turned into greys.
        distractors: how many small marks lie around and behind it; occluded: something may lie over it.
    """

    name: str
    label: int
    parts: tuple[Part, ...]
    box: Box
    orientation: float | None
    pose: str | None
    colour: tuple[int, int, int]
    style: str
    texture: str
    position: tuple[float, float]
    scale: float
    background: str
    lighting: str
    grey: bool
    distractors: int
    occluded: bool


@dataclass(frozen=True)
class _Plan:
    pose: Pose
    facing: str | None
    broad: bool
    style: str
    texture: str
    background: str
    grey: bool
    distractors: int
    occluded: bool
    thickness: float


class Sketches(Dataset[tuple[torch.Tensor, int]]):
    """Pictures of shapes and things, drawn on the fly from known factors; the picture depends on `(seed, index)` alone.

    `dataset[i]` is (image, label): float32 (3, size, size) in [0, 1] with 256 levels, and an index into `labels`.
    Each run of `len(labels)` indices holds every class once, in random order. The embedded networks were trained on
    seeds below 1000; `seed=HELD_OUT_SEED` gives pictures that they have never seen. At `size=64` (the size that the
    networks expect) a picture takes about 2 ms.

    Args:
        count: number of pictures.
        seed: which pictures.
        size: height and width in pixels, 32 to 512.

    Raises:
        ValueError: `count` or `seed` negative, or `size` out of range.

    Examples:
        >>> sketches = Sketches(100, seed=HELD_OUT_SEED)
        >>> image, label = sketches[7]
        >>> tuple(image.shape), sketches.labels[label] == sketches.factors(7).name
        ((3, 64, 64), True)
    """

    labels: tuple[str, ...] = LABELS

    def __init__(self, count: int = 2000, *, seed: int = 0, size: int = 64) -> None:
        if count < 0:
            raise ValueError(f"count is {count}: the number of sketches must be 0 or more")
        if seed < 0:
            raise ValueError(f"seed is {seed}: it must be 0 or more")
        if not 32 <= size <= 512:
            raise ValueError(f"size is {size}: sketches can be drawn from 32 to 512 pixels")
        self.count, self.seed, self.size = count, seed, size
        self._block: tuple[int, tuple[int, ...]] = (-1, ())  # replaced whole, so that threads can share the dataset

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        index = self._checked(index)
        picture, factors = self._draw(index, ())
        image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
        return image, factors.label

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return (self[i] for i in range(self.count))

    def __repr__(self) -> str:
        return f"Sketches({self.count}, seed={self.seed}, size={self.size})"

    def label(self, index: int) -> int:
        """The class of picture `index`, without drawing it.

        Examples:
            >>> sorted(Sketches(len(LABELS)).label(i) for i in range(len(LABELS))) == list(range(len(LABELS)))
            True
        """
        block, place = divmod(self._checked(index), len(LABELS))
        known, order = self._block
        if known != block:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, block)))
            order = tuple(rng.permutation(len(LABELS)).tolist())
            self._block = block, order
        return order[place]

    def factors(self, index: int) -> Factors:
        """What is drawn on picture `index`, and how.

        Examples:
            >>> factors = Sketches(40).factors(3)
            >>> factors.parts[0].name in {part.name for part in factors.parts}
            True
        """
        return self._draw(self._checked(index), ())[1]

    def without(self, index: int, parts: Collection[str]) -> torch.Tensor:
        """Picture `index` with the named parts left out and all else the same: float32 (3, size, size) in [0, 1].

        For experiments: does a unit that is said to see cars still fire when the wheels are gone?

        Raises:
            ValueError: the picture has no such part.

        Examples:
            >>> sketches = Sketches(200)
            >>> i = next(i for i in range(200) if sketches.factors(i).name == "car")
            >>> changed = (sketches.without(i, ["wheel"]) != sketches[i][0]).any(0)
            >>> bool(changed.any()), bool(changed.all())
            (True, False)
        """
        index = self._checked(index)
        names = sorted({part.name for part in self.factors(index).parts})
        unknown = [name for name in parts if name not in names]
        if unknown or isinstance(parts, str):
            raise ValueError(
                f"no part {unknown or parts!r} in sketch {index}: give a list of some of {', '.join(names)}"
            )
        picture = self._draw(index, parts)[0]
        return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / np.float32(255))

    def arrays(self, *, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """All pictures as uint8 (n, h, w, 3) and all labels as int64 (n,): `dataset[i][0] * 255` in one block.

        Examples:
            >>> images, labels = Sketches(5).arrays(progress=False)
            >>> images.shape, images.dtype.name, labels.shape
            ((5, 64, 64, 3), 'uint8', (5,))
        """
        images = np.empty((self.count, self.size, self.size, 3), dtype=np.uint8)
        labels = np.empty(self.count, dtype=np.int64)
        for i in tqdm(range(self.count), desc="drawing sketches", unit="sketch", disable=not progress):
            images[i], factors = self._draw(i, ())
            labels[i] = factors.label
        return images, labels

    def _checked(self, index: int) -> int:
        if not -self.count <= index < self.count:
            raise IndexError(f"no sketch {index}: there are {self.count} (0 to {self.count - 1})")
        return int(index) % self.count

    def _draw(self, index: int, omit: Collection[str]) -> tuple[np.ndarray, Factors]:
        label = self.label(index)
        kind = KINDS[LABELS[label]]
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(0, index)))
        plan = _plan(rng, kind, self.size)
        ground = _ground(rng)
        palette = _palette(rng, kind, plan, ground)
        picture = BACKGROUNDS[plan.background](rng, self.size, ground)
        pen = _thing(rng, kind, plan, palette, self.size, omit)
        for layer, texture in _layers(rng, kind, plan, palette, pen, self.size):
            picture = _over(picture, layer, texture)
        lighting, picture = _finish(rng, picture, plan.grey)
        return picture, _factors(label, kind, plan, palette, pen, lighting)


def _plan(rng: np.random.Generator, kind: Kind, size: int) -> _Plan:
    unit = size / 64
    broad = kind.field and rng.random() < 0.35
    scale = float(rng.uniform(37, 44)) if broad else 14 + 13 * float(rng.random())
    room = 6.0 if broad else max(0.0, 32 - 0.96 * scale)
    centre = (32 + float(rng.uniform(-room, room))) * unit, (32 + float(rng.uniform(-room, room))) * unit
    facing = kind.poses[int(rng.integers(len(kind.poses)))] if kind.poses else None
    turn = float(rng.uniform(-kind.spin, kind.spin))
    stretch = float(rng.uniform(0.92, 1.08))
    style = "filled" if kind.field else STYLES[int(rng.choice(3, p=(0.45, 0.35, 0.2)))]
    if kind.thin:
        style = "filled"
    return _Plan(
        pose=Pose(centre, scale * unit, turn, facing == "left", stretch),
        facing=facing,
        broad=broad,
        style=style,
        texture=tuple(TEXTURES)[int(rng.integers(len(TEXTURES)))],
        background=tuple(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))],
        grey=bool(rng.random() < 0.12) and not kind.coloured,
        distractors=int(rng.integers(0, 9)),
        occluded=bool(rng.random() < 0.3),
        thickness=float(rng.uniform(0.85, 1.25)),
    )


def _ground(rng: np.random.Generator) -> Tone:
    bounds = ((0.78, 0.97), (0.2, 0.42), (0.55, 0.75))[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]
    return Tone(float(rng.uniform(*bounds)), 0.1 * float(rng.random()), 360 * float(rng.random()))


def _palette(rng: np.random.Generator, kind: Kind, plan: _Plan, ground: Tone) -> Palette:
    hue = kind.hue if kind.hue is not None and rng.random() < 0.5 else None
    vivid = 0.0 if plan.grey else 1.0
    if plan.style == "drawn":
        return drawn(rng, ground, hue, vivid)
    return painted(rng, ground, hue, vivid, opposed=kind.coloured)


def _thing(
    rng: np.random.Generator, kind: Kind, plan: _Plan, palette: Palette, size: int, omit: Collection[str]
) -> Pen:
    outline = {"filled": 0.0, "outlined": 1.5, "drawn": 1.5}[plan.style] * plan.thickness
    if kind.thin or kind.field:
        outline = 0.0
    pen = Pen(size, plan.pose, palette, outline=outline, thickness=plan.thickness, omit=omit, broad=plan.broad)
    with pen.part(""):
        kind.draw(pen, rng, plan.facing)
    return pen


Layer = tuple[np.ndarray, np.ndarray]


def _layers(
    rng: np.random.Generator, kind: Kind, plan: _Plan, palette: Palette, pen: Pen, size: int
) -> list[tuple[Layer, np.ndarray | None]]:
    layers: list[tuple[Layer, np.ndarray | None]] = [(pen.layer(), TEXTURES[plan.texture](rng, size))]
    if plan.distractors:
        behind = Pen(size, Pose((size / 2, size / 2), size / 2), palette)
        clutter(behind, rng, plan.distractors)
        layers.insert(0, (behind.layer(), None))
    if plan.occluded:
        front = Pen(size, plan.pose, palette)
        cover(front, rng, kind.thin)
        layers.append((front.layer(), None))
    return layers


def _over(picture: np.ndarray, layer: Layer, texture: np.ndarray | None) -> np.ndarray:
    colour, covered = layer
    result: np.ndarray = picture * (1 - covered) + (colour if texture is None else colour * texture)
    return result


def _finish(rng: np.random.Generator, picture: np.ndarray, grey: bool) -> tuple[str, np.ndarray]:
    size = picture.shape[0]
    if grey:
        luma = picture @ np.array((0.299, 0.587, 0.114), dtype=picture.dtype)
        picture = np.repeat(luma[..., None], 3, axis=2)
    lighting, factor = light(rng, size)
    if factor is not None:
        picture = picture * factor
    noise = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(0.02 * rng.random())
    return lighting, (np.clip(picture + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def _factors(label: int, kind: Kind, plan: _Plan, palette: Palette, pen: Pen, lighting: str) -> Factors:
    parts = [Part(name, box) for name, box in pen.parts if name]
    turn = plan.pose.turn
    return Factors(
        name=LABELS[label],
        label=label,
        parts=tuple(parts),
        box=next(box for name, box in reversed(pen.parts) if not name),
        orientation=None if not kind.period else turn % kind.period if kind.spin > 30 else turn,
        pose=plan.facing,
        colour=palette.edge if plan.style == "drawn" else palette.main,
        style=plan.style,
        texture=plan.texture,
        position=plan.pose.centre,
        scale=plan.pose.scale,
        background=plan.background,
        lighting=lighting,
        grey=plan.grey,
        distractors=plan.distractors,
        occluded=plan.occluded,
    )
