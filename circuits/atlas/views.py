"""What the pages say, in the words and numbers that the templates print."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from circuits.atlas.measures import Kernels, Measurements
from circuits.diagrams.figures import SIGNS
from circuits.meanings.overviews import LayerSummary
from circuits.meanings.reports import VERDICTS as WORDS
from circuits.meanings.reports import reason
from features.examples import UnitExamples
from features.pictures import data_uri, signed
from features.records import slug
from features.units import Unit

TOP = 18  # examples on a unit's page
PER_GROUP = 9  # examples of each meaning
NAMED = 3  # classes that a meaning's examples are said to be of
BOTTOM = 9
WIRES = 8  # inputs and outputs on a unit's page
KERNEL, POSITION = 66, 13  # most that a kernel and one position of it take, in pixels
STATES = {"several": "with several meanings", "dead": "that are dead"}


@dataclass(frozen=True)
class UnitView:
    """One unit as grids and lists show it; ``page`` and ``picture`` are paths relative to the atlas."""

    name: str
    layer: str
    channel: int
    label: str
    state: str
    page: str
    picture: str
    measures: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.name} {self.label}".strip()


def view_unit(found: Measurements, name: str) -> UnitView:
    """Give the view of one unit."""
    unit = Unit.of(name)
    place = slug(unit.layer)
    examples = found.looks.get(name)
    return UnitView(
        name=name,
        layer=unit.layer,
        channel=unit.channel,
        label=found.graph.nodes[name].get("label") or usual_label(examples),
        state=state_of(found, name),
        page=f"units/{place}/{unit.channel}.html",
        picture=f"pictures/{place}/{unit.channel}.webp",
        measures=_measures(found, name, examples),
    )


def usual_label(examples: UnitExamples | None) -> str:
    """Give the class of at least a third of the top nine examples, or of several such; empty where there is none."""
    names = [] if examples is None else [name for name in examples.names[:9] if name]
    return ", ".join(name for name, count in Counter(names).most_common(2) if 3 * count >= max(len(names), 6))


def state_of(found: Measurements, name: str) -> str:
    """Give ``'dead'``, ``'several'`` or nothing."""
    if name in found.looks and found.looks[name].dead:
        return "dead"
    return "several" if name in found.verdicts and found.verdicts[name].flag else ""


def _measures(found: Measurements, name: str, examples: UnitExamples | None) -> dict[str, str]:
    keys: dict[str, str] = {}
    if examples is not None:
        keys |= {"firing": f"{examples.firing_rate:.6f}", "maximum": f"{examples.maximum:.6g}"}
    if name in found.verdicts:
        keys["score"] = f"{found.verdicts[name].score:.6g}"
    return keys


def crop_style(box: Sequence[float], size: tuple[int, int]) -> str:
    """Give the style by which a square tile shows what lies in ``box`` ``(y0, x0, y1, x1)`` of a picture of ``size``
    ``(h, w)``, and the whole picture with the box marked when a reader points at it; a box that is not square gets its
    surroundings.

    >>> crop_style((0, 0, 32, 32), (64, 64))[:29]
    '--x:0%;--y:0%;--w:200%;--h:20'
    """
    height, width = size
    y0, x0, y1, x1 = box
    side = max(y1 - y0, x1 - x0)
    top, left = _start((y0 + y1) / 2, side, height), _start((x0 + x1) / 2, side, width)
    longer = max(height, width)
    empty_y, empty_x = (longer - height) / 2, (longer - width) / 2
    lengths = {
        "x": -left / side, "y": -top / side, "w": width / side, "h": height / side,
        "ox": empty_x / longer, "oy": empty_y / longer, "ow": width / longer, "oh": height / longer,
        "mx": (empty_x + x0) / longer, "my": (empty_y + y0) / longer,
        "mw": (x1 - x0) / longer, "mh": (y1 - y0) / longer,
    }  # fmt: skip
    return ";".join(f"--{name}:{100 * value + 0.0:.5g}%" for name, value in lengths.items())


def _start(centre: float, side: float, length: int) -> float:
    """Where a window of ``side`` starts: around ``centre``, within the picture where it fits."""
    return (length - side) / 2 if side >= length else float(np.clip(centre - side / 2, 0, length - side))


def tiles(
    examples: UnitExamples, sizes: Mapping[int, tuple[int, int]], root: str, rows: Sequence[int], prefix: str = ""
) -> list[dict[str, str]]:
    """Give the tiles of some rows of the top examples, or with ``prefix='bottom_'`` of the bottom ones."""
    value, image, box = (getattr(examples, prefix + name) for name in ("value", "image", "box"))
    names = examples.bottom_names if prefix else examples.names
    return [
        {
            "source": f"{root}examples/{image[row]}.webp",
            "style": crop_style(box[row].tolist(), sizes[int(image[row])]),
            "value": f"{value[row]:.3g}",
            "caption": names[row] or f"picture {image[row]}",
        }
        for row in rows
    ]


def shown_rows(found: Measurements, name: str) -> list[tuple[str, str, list[int]]]:
    """Give the rows of the top examples that a unit's page shows, as groups ``(title, note, rows)``: one for each
    meaning.
    """
    if name not in found.looks:
        return []
    count = len(found.looks[name].image)
    groups = meaning_groups(found, name, count)
    if len(groups) < 2:
        return [("", "", list(range(min(count, TOP))))] if count else []
    return [
        (f"Meaning {number}", _note(found.looks[name], rows, count), rows[:PER_GROUP])
        for number, rows in enumerate(groups, start=1)
    ]


def _note(examples: UnitExamples, rows: Sequence[int], count: int) -> str:
    """Say how large a group is, and which classes its examples are of."""
    names = Counter(examples.names[row] for row in rows if examples.names[row]).most_common(NAMED)
    said = f": {', '.join(f'{name} {times}' for name, times in names)}" if names else ""
    return f"{len(rows)} of the {count} strongest examples ({len(rows) / count:.0%}){said}"


def meaning_groups(found: Measurements, name: str, count: int) -> list[list[int]]:
    """Give the rows of the examples of each meaning of a flagged unit, the largest group first; nothing for other
    units.
    """
    if state_of(found, name) != "several":
        return []
    assigned = found.verdicts[name].group[:count]
    groups = [np.flatnonzero(assigned == number).tolist() for number in np.unique(assigned[assigned >= 0])]
    return sorted(groups, key=lambda rows: (-len(rows), rows))


def verdict_words(found: Measurements, name: str) -> str:
    """Give the verdict on a unit with its reason, in words; nothing where it was not judged."""
    return "" if found.meanings is None or name not in found.verdicts else reason(found.meanings, name)


@dataclass(frozen=True)
class Glance:
    """One layer at a glance, in words and lengths: ``bars`` are ``(verdict, share in percent, words)``."""

    units: int
    bars: tuple[tuple[str, str, str], ...]
    meanings: int
    features: int
    interference: str
    chance: str
    words: str


def glance(summary: LayerSummary) -> Glance:
    """Give what the pages say of a layer's superposition."""
    shares = {verdict: count / max(1, summary.units) for verdict, count in summary.verdicts.items() if count}
    bars = tuple(
        (verdict, f"{100 * share:.4g}", f"{summary.verdicts[verdict]} of {summary.units} units: {verdict}")
        for verdict, share in sorted(shares.items(), key=lambda each: list(WORDS).index(each[0]))
    )
    felt = "" if math.isnan(summary.interference) else f"{summary.interference:.2f}"
    words = ", ".join(f"{share:.0%} {verdict}" for verdict, share in shares.items())
    return Glance(summary.units, bars, summary.meanings, summary.features, felt, f"{summary.chance:.2f}", words)


def histogram_view(examples: UnitExamples) -> dict[str, Any] | None:
    """Give the bars of the histogram in a box of 640 by 120, heights logarithmic; nothing where nothing was counted."""
    counts, edges = examples.histogram[1:-1].astype(float), examples.edges
    total = float(examples.histogram.sum())
    if total == 0 or counts.max() == 0:
        return None
    heights = np.log1p(counts) / np.log1p(counts.max()) * 116
    step = 640 / len(counts)
    bars = [
        {
            "x": f"{number * step + 1:.4g}",
            "y": f"{120 - height:.4g}",
            "width": f"{step - 2:.4g}",
            "height": f"{height:.4g}",
            "words": f"{edges[number]:.3g} to {edges[number + 1]:.3g}: {count / total:.2%}",
        }
        for number, (height, count) in enumerate(zip(heights, counts, strict=True))
        if count
    ]
    middle = (edges[0] + edges[-1]) / 2
    ticks = [(0, "start", edges[0]), (320, "middle", middle), (640, "end", edges[-1])]
    words = f"It is above zero at {examples.firing_rate:.1%} of all positions; the mean is {examples.mean:.3g}, "
    words += f"the largest response {examples.maximum:.3g}"
    return {
        "bars": bars,
        "ticks": [{"x": x, "anchor": anchor, "text": f"{value:.3g}"} for x, anchor, value in ticks],
        "words": words,
    }


def unit_facts(found: Measurements, name: str) -> list[tuple[str, str]]:
    """Give the facts beside a unit's picture."""
    facts = []
    layer = Unit.of(name).layer
    visualization = found.pictures[layer]
    facts.append(("Response to its picture", f"{float(visualization.scores[visualization.index(name)]):.3g}"))
    if name in found.looks:
        examples = found.looks[name]
        facts += [
            ("Fires at", f"{examples.firing_rate:.1%} of positions"),
            ("Strongest response", f"{examples.maximum:.3g}"),
            ("Mean ± sd", f"{examples.mean:.3g} ± {examples.sd:.3g}"),
        ]
        common = Counter(each for each in examples.names if each).most_common(3)
        if common:
            facts.append(
                (f"Its {len(examples.names)} best examples", ", ".join(f"{each} {count}" for each, count in common))
            )
    if found.graph.in_degree(name):
        facts.append(
            (
                f"Its {found.graph.in_degree(name)} strongest inputs",
                f"carry {found.graph.nodes[name].get('kept', 1.0):.0%} of its input",
            )
        )
    return facts


@dataclass(frozen=True)
class KernelPicture:
    """A kernel as the address of a picture, and its height and width in positions of the source layer."""

    address: str
    height: int
    width: int


def kernel_pictures(kernels: Kernels) -> dict[tuple[str, str], KernelPicture]:
    """Give each edge's kernel as a picture: colours on the scale of the largest weight among its target's inputs, and
    cut to the positions that any of these reads (a 1x1 branch reads one of the 5x5 that its layer reads).
    """
    reach: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
    for (_, target), kernel in kernels.items():
        key = (target, kernel.shape)
        reach[key] = np.maximum(reach.get(key, np.zeros_like(kernel)), np.abs(kernel))
    scale: dict[str, float] = {}
    for (target, _), largest in reach.items():
        scale[target] = max(scale.get(target, 0.0), float(largest.max()))
    return {
        edge: _kernel_picture(kernel, reach[edge[1], kernel.shape], scale[edge[1]]) for edge, kernel in kernels.items()
    }


def _kernel_picture(kernel: np.ndarray, largest: np.ndarray, scale: float) -> KernelPicture:
    read = largest > 1e-6 * scale  # below that it is float noise of the linearization
    rows, columns = np.flatnonzero(read.any(axis=1)), np.flatnonzero(read.any(axis=0))
    cut = kernel[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else kernel
    return KernelPicture(data_uri(signed(cut, scale=scale), form="png"), *cut.shape)


def wire_rows(
    found: Measurements,
    views: Mapping[str, UnitView],
    pictures: Mapping[tuple[str, str], KernelPicture],
    name: str,
    root: str,
    *,
    inputs: bool,
) -> list[dict[str, Any]]:
    """Give the strongest inputs, or outputs, of a unit."""
    edges = found.graph.in_edges(name, data=True) if inputs else found.graph.out_edges(name, data=True)
    strongest = sorted(edges, key=lambda edge: (-edge[2]["strength"], edge[0], edge[1]))[:WIRES]
    return [
        _wire(views[source if inputs else target], (source, target), data, pictures, root)
        for source, target, data in strongest
    ]


def _wire(
    other: UnitView,
    edge: tuple[str, str],
    data: Mapping[str, Any],
    pictures: Mapping[tuple[str, str], KernelPicture],
    root: str,
) -> dict[str, Any]:
    kernel = pictures[edge]
    return {
        "name": other.name,
        "label": other.label,
        "link": root + other.page,
        "picture": root + other.picture,
        "weight": f"{data['weight']:+.3g}".replace("-", "−"),
        "share": f"{data['share']:.1%} of input",
        "effect": SIGNS[int(np.sign(data["weight"]))][0],
        "kernel": kernel.address,
        "side": max(1, min(POSITION, KERNEL // max(kernel.height, kernel.width))),
        "height": kernel.height,
        "width": kernel.width,
    }
