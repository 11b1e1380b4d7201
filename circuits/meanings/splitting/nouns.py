"""Split and VirtualUnit: a unit taken apart into its meanings, as frozen nouns; how it is shown and kept."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.pictures import Picture, data_uri, grid
from features.records import check_shapes, read_record, write_record
from features.units import Unit

KIND = "split"
SHOWN = 6  # thumbnails of a meaning, and strongest inputs named
SIDE = 64  # pixels of a thumbnail

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class VirtualUnit:
    """One meaning of a unit: everything that `Split` knows of it; ``upstream`` its inputs, the strongest first.

    ``value``, ``image``, ``label`` (k,), ``position`` (k, 2) and ``box`` (k, 4) are those of its own examples;
    ``sources`` and ``contributions`` (u,) are ordered by absolute contribution.
    """

    unit: Unit
    meaning: int
    node: str
    title: str
    share: float
    value: Floats
    image: Integers
    label: Integers
    position: Integers
    box: Integers
    sources: tuple[str, ...]
    contributions: Floats
    own: tuple[str, ...]
    own_drop: float
    other_drop: float
    selectivity: float
    low: float
    high: float
    picture: Picture

    def __repr__(self) -> str:
        interval = f"{self.selectivity:.2f} ({self.low:.2f} to {self.high:.2f})"
        return f"VirtualUnit({self.title!r}, {self.share:.0%} of the examples of {self.unit}, selectivity {interval})"


@dataclass(frozen=True, eq=False)
class Split:
    """A unit taken apart into ``m`` meanings: ``split[0]`` is the most frequent; iterating gives each `VirtualUnit`.

    - unit, model, digest; layers of the graph; width: how many channels the unit's layer has; labels of the classes
    - group (k,): the meaning of each example; value, image, label (k,), position (k, 2), box (k, 4): the examples, as
      in `features.examples.UnitExamples`; image -1 and label -1 for pictures that were made
    - sources (u,): every channel of the layers that feed the unit; contributions (m, u): activation times gradient,
      signed, the mean over a meaning's examples; places (m, u, 2): where it comes from, from the unit's place, down and
      right, in positions of the source
    - total: sum of the strengths of all the unit's inputs in the graph, by its own measure
    - own (m, u) bool: the edges that excite this meaning at least 4 times as much as they move any other
    - drops (m, k): by how much of itself the response to each example falls where the meaning's own edges are removed;
      these edges were chosen on the other half of the examples
    - selectivity (m,): ``1 - other / own`` in [0, 1], ``own`` the mean drop of the meaning's own examples (0 where it
      is not above 0), ``other`` the largest absolute mean drop of another meaning's; low, high (m,): 95 % bootstrap
      interval over examples
    - pictures (m, h, w, 3); likeness (m, m): cosine of the layer at the peak of each picture with the centre of each
      meaning's examples; peaks (m,): the unit in each picture; verdicts (m,): how good the pictures are
    - thumbnails (m, 6, 64, 64, 3) of the strongest examples, in bytes, white where there are fewer; seed
    """

    unit: str
    model: str
    digest: str
    layers: tuple[str, ...]
    width: int
    labels: tuple[str, ...]
    group: Integers
    value: Floats
    image: Integers
    label: Integers
    position: Integers
    box: Integers
    sources: tuple[str, ...]
    contributions: Floats
    places: Floats
    total: float
    own: Truths
    drops: Floats
    selectivity: Floats
    low: Floats
    high: Floats
    pictures: NDArray[np.float32]
    likeness: Floats
    peaks: Floats
    verdicts: tuple[str, ...]
    thumbnails: NDArray[np.uint8]
    seed: int

    def __len__(self) -> int:
        return len(self.contributions)

    def __getitem__(self, meaning: int) -> VirtualUnit:
        """Give one meaning, 0 the most frequent; ``IndexError`` for one that is not here."""
        if isinstance(meaning, bool) or not isinstance(meaning, (int, np.integer)) or not 0 <= meaning < len(self):
            raise IndexError(f"no meaning {meaning!r} of {self.unit!r}: it has {len(self)} (0 to {len(self) - 1})")
        mine, unit = self.group == meaning, Unit.of(self.unit)
        order = np.argsort(-np.abs(self.contributions[meaning]), kind="stable")
        means = [float(self.drops[meaning, self.group == other].mean()) for other in range(len(self))]
        numbers: dict[str, Any] = {name: float(getattr(self, name)[meaning]) for name in ("selectivity", "low", "high")}
        own = [place for place in order if self.own[meaning, place]]
        return VirtualUnit(
            unit=unit,
            meaning=int(meaning),
            node=meaning_node(unit, int(meaning), self.width),
            title=_title(self, int(meaning)),
            share=float(mine.mean()),
            **{name: getattr(self, name)[mine] for name in ("value", "image", "label", "position", "box")},
            sources=tuple(self.sources[place] for place in order),
            contributions=self.contributions[meaning, order],
            own=tuple(self.sources[place] for place in own),
            own_drop=means[meaning],
            other_drop=max((mean for other, mean in enumerate(means) if other != meaning), key=abs),
            picture=self.pictures[meaning],
            **numbers,
        )

    def __iter__(self) -> Iterator[VirtualUnit]:
        return (self[meaning] for meaning in range(len(self)))

    def __repr__(self) -> str:
        parts = ", ".join(f"{each.title} {each.share:.0%}" for each in self)
        return f"Split({self.unit}: {parts})"

    def _repr_html_(self) -> str:
        """Show each meaning: its picture, examples, share, strongest inputs and selectivity."""
        heads = "".join(
            f"<th>{head}</th>" for head in ("meaning", "picture", "examples", "strongest inputs", "removed")
        )
        return f"<table><tr>{heads}</tr>{''.join(_row(self, each) for each in self)}</table>"


def meaning_node(unit: Unit | str, meaning: int, width: int) -> str:
    """Give the node of one meaning in a graph: ``(meaning + 1) * base + channel``, base the power of ten no smaller
    than the ``width`` of the layer.

    It is an address as any other (`Unit.of` reads it, diagrams put it into its layer's column), and it is never a
    channel that the layer has, so that a model refuses it. Two units' meanings never meet.

    >>> meaning_node("mixed4c:13", 0, 96), meaning_node("mixed4c:13", 1, 96)
    ('mixed4c:113', 'mixed4c:213')
    """
    unit = Unit.of(unit)
    if not 0 <= unit.channel < width or meaning < 0:
        raise ValueError(f"meaning {meaning} of {str(unit)!r} in a layer of {width} channels: there is no such thing")
    return str(Unit(unit.layer, (meaning + 1) * _base(width) + unit.channel))


def meaning_of(node: Unit | str, width: int) -> tuple[Unit, int]:
    """Give the unit and the meaning that a node stands for; ``ValueError`` for a real channel.

    >>> meaning_of("mixed4c:213", 96)
    (Unit(layer='mixed4c', channel=13), 1)
    """
    node = Unit.of(node)
    meaning, channel = divmod(node.channel, _base(width))
    if meaning == 0 or channel >= width:
        raise ValueError(f"{str(node)!r} is no meaning of a unit in a layer of {width} channels: see meaning_node")
    return Unit(node.layer, channel), meaning - 1


def write_split(split: Split, folder: str | os.PathLike[str]) -> Path:
    """Write ``split`` as a record at ``folder``, from which `read_split` gives it back; give the folder."""
    parts = {each.name: getattr(split, each.name) for each in fields(Split)}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    return write_record(folder, KIND, arrays=arrays, fields={name: parts[name] for name in parts if name not in arrays})


def read_split(folder: str | os.PathLike[str]) -> Split:
    """Read what `write_split` wrote; ``ValueError`` for a damaged record, ``FileNotFoundError`` for none."""
    arrays, said = read_record(folder, KIND)
    if sorted([*arrays, *said]) != sorted(each.name for each in fields(Split)):
        raise ValueError(f"the split in '{folder}' was written by another version: make it again")
    sizes = {"k": len(arrays["group"]), "u": len(said["sources"]), "m": len(said["verdicts"])}
    check_shapes(arrays, AXES, **sizes)
    named: dict[str, Any] = {name: tuple(said.pop(name)) for name in ("layers", "labels", "sources", "verdicts")}
    return Split(**named, **said, **dict[str, Any](arrays))


def _base(width: int) -> int:
    return 10 ** len(str(width - 1)) if width > 1 else 10


def _title(split: Split, meaning: int) -> str:
    """Name a meaning by the labels of at least a quarter of its examples, two at most."""
    labels = split.label[split.group == meaning]
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = np.lexsort((names, -counts))[:2]
    words = [split.labels[names[at]] for at in order if 4 * counts[at] >= len(labels) and names[at] < len(split.labels)]
    return f"{Unit.of(split.unit).channel}: {' + '.join(words) or f'meaning {meaning + 1}'}"


def _row(split: Split, each: VirtualUnit) -> str:
    inputs = "<br>".join(
        f"{html.escape(name)} {value:+.2f}{' own' if name in each.own else ''}"
        for name, value in zip(each.sources[:SHOWN], each.contributions[:SHOWN].tolist(), strict=True)
    )
    shown = grid([thumbnail / np.float32(255) for thumbnail in split.thumbnails[each.meaning]], columns=SHOWN // 2)
    removed = (
        f"its {len(each.own)} own edges: {each.own_drop:.0%} less; the others {each.other_drop:.0%}<br>"
        f"selectivity {each.selectivity:.2f} ({each.low:.2f} to {each.high:.2f})"
    )
    cells = (
        f"{html.escape(each.title)}<br>{each.share:.0%} of {len(split.group)}",
        f'<img src="{data_uri(each.picture, form="png")}" width="{2 * SIDE}" alt="{html.escape(each.title)}">',
        f'<img src="{data_uri(shown, form="png")}" alt="examples">',
        inputs,
        removed,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


# The axes of every array of `Split`.
AXES: dict[str, tuple[int | str, ...]] = {
    **dict.fromkeys(("group", "value", "image", "label"), ("k",)),
    "position": ("k", 2),
    "box": ("k", 4),
    **dict.fromkeys(("contributions", "own"), ("m", "u")),
    "places": ("m", "u", 2),
    "drops": ("m", "k"),
    **dict.fromkeys(("selectivity", "low", "high", "peaks"), ("m",)),
    "pictures": ("m", "h", "w", "rgb"),
    "likeness": ("m", "m"),
    "thumbnails": ("m", SHOWN, SIDE, SIDE, 3),
}
