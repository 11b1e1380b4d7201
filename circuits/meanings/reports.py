"""Reports: verdicts shown as text, as a table with pictures, as a contact sheet by meaning, as a pandas frame."""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from features.examples.images import UNREADABLE
from features.examples.sheets import Band, ContactSheet, Pictures, Tile, dataset_pictures
from features.examples.sheets.crops import peak, window
from features.pictures import Picture, crop, data_uri, grid, resize
from features.units import Unit

if TYPE_CHECKING:  # the nouns show themselves with what is made here
    from circuits.meanings.nouns import Polysemanticity, UnitMeanings
    from features.examples import Examples, UnitExamples

ROWS = 30  # units in a notebook's table
THUMBS, SIDE = 6, 44  # pictures of each meaning there, and their side in pixels
COLUMNS = 10  # examples of each meaning on a contact sheet
LINE = 66  # letters that fit beside each other there
COMMON = 2  # labels that a meaning is named by


def reason(found: Polysemanticity, unit: Unit | str) -> str:
    """Give the verdict on ``unit`` and its evidence in words; `ValueError` for a unit that was not looked at."""
    judged = found[unit]
    return f"{VERDICTS[judged.verdict]} {_because(judged)}"


def order(found: Polysemanticity) -> list[int]:
    """Give the places of the units, those that most surely mean several things first, the dead last."""
    rank = list(VERDICTS)
    return sorted(range(len(found)), key=lambda at: (rank.index(found.verdicts[at]), -found.score[at]))


def verdict_text(found: Polysemanticity, *, count: int | None = None) -> str:
    """Give the verdicts as a table for a terminal, the surest first, at most ``count`` rows."""
    rows = [_words(found, at) for at in order(found)[:count]]
    lines = [list(HEADS), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADS))]
    body = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    left = len(found) - len(rows)
    return f"{body}\nand {left} more units" if left else body


def verdict_html(found: Polysemanticity) -> str:
    """Give the verdicts as a table for a notebook, with pictures of each meaning where the examples have them."""
    pictures = _pictures(found)
    rows = [_row(found, at, pictures) for at in order(found)[:ROWS]]
    heads = "".join(f"<th>{head}</th>" for head in (*HEADS, *(["examples, by meaning"] if pictures else [])))
    left = f"<p>and {len(found) - ROWS} more units</p>" if len(found) > ROWS else ""
    counts = Counter(found.verdicts)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return f"<p>{len(found)} units: {said}</p><table><tr>{heads}</tr>{''.join(rows)}</table>{left}"


def meaning_sheet(
    found: Polysemanticity, examples: Examples, unit: Unit | str, dataset: Any = None, *, count: int = COLUMNS
) -> ContactSheet:
    """Give the contact sheet of a unit with one band of examples for each of its meanings, and why it was judged so.

    It shows itself in a notebook, `features.examples.write_sheets` writes it. Pictures come from ``dataset``, or from
    where the examples have them; ``count`` is the most examples of a meaning. ``ValueError`` for a unit that was not
    looked at, a ``dataset`` of another length and a ``count`` below 1.

    >>> from circuits.meanings.judging import polysemanticity
    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model, dataset = load_model("sketches"), Sketches(12)
    >>> examples = find_examples(model, dataset, ["mixed4c"], count=8, progress=False)
    >>> found = polysemanticity(model, examples, ["mixed4c:1"], progress=False)
    >>> meaning_sheet(found, examples, "mixed4c:1", dataset).unit
    'mixed4c:1'
    """
    if count < 1:
        raise ValueError(f"count is {count}: give a whole number of at least 1")
    if dataset is not None and len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    judged, shown = found[unit], examples[unit]
    if dataset is None:
        pictures = examples.pictures
    else:
        pictures = dataset_pictures(dataset, examples.image_size, examples.channels)
    bands = [
        Band(_title(shown, number, rows, len(judged.group)), (_tiles(shown, rows[:count], pictures),))
        for number, rows in enumerate(_groups(judged), start=1)
    ]
    return ContactSheet(
        unit=str(judged.unit), numbers=_lines(reason(found, unit)), bands=tuple(bands), after=None, before=None,
        classes=(), note="" if pictures else "There are no pictures at hand: give the dataset.",
    )  # fmt: skip


def meaning_frame(found: Polysemanticity) -> Any:
    """Give the verdicts as a ``pandas.DataFrame``, one row a unit, in the order of ``found.units``.

    Columns: unit, layer, channel, verdict, shares (a list), every number that `Polysemanticity` has for a unit, every
    measure of its evidence, and reason (in words). Raises ``ModuleNotFoundError`` without pandas, with the extra that
    brings it.
    """
    try:
        pandas = import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pandas is not installed: pip install 'vision-circuits[tables]', or read the arrays of the result"
        ) from error
    judged = [found[unit] for unit in found]
    columns: dict[str, Any] = {
        "unit": list(found.units),
        "layer": [each.unit.layer for each in judged],
        "channel": [each.unit.channel for each in judged],
        "verdict": list(found.verdicts),
        "shares": [list(each.shares) for each in judged],
    }
    numbers = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray) and value.ndim == 1}
    return pandas.DataFrame({**columns, **numbers, **found.evidence, "reason": [reason(found, unit) for unit in found]})


def _because(judged: UnitMeanings) -> str:
    size = len(judged.group)
    if judged.verdict == "dead":
        return "Nothing in the dataset excites it."
    if not math.isfinite(judged.probability):
        return f"Only {size} examples excite it, too few to tell groups."
    sure = f"Probability of several meanings: {judged.probability:.0%}."
    apart = f"Distance of the groups' centres (0 the same, 1 unrelated): {_distances(judged)}."
    if judged.flag:
        parts = ", ".join(f"{share:.0%}" for share in judged.shares)
        return f"Its {size} strongest examples fall into {judged.meanings} groups ({parts}). {apart} {sure}"
    if judged.verdict == "undecided":
        return f"Its {size} strongest examples can be parted in groups, but not surely. {apart} {sure}"
    if judged.verdict == "diffuse":
        alike = judged.evidence.get("vectors clarity", math.nan)
        return f"Its {size} strongest examples have next to nothing in common (mean cosine {alike:.2f}). {sure}"
    return f"No parting of its {size} strongest examples in groups holds. {apart} {sure}"


def _distances(judged: UnitMeanings) -> str:
    """Say how far apart each kind of evidence sees the groups."""
    seen = {kind: judged.evidence.get(f"{kind} distance") for kind in KINDS}
    said = [f"{value:.2f} by {KINDS[kind]}" for kind, value in seen.items() if value is not None]
    return ", ".join(said) if said else f"{judged.distance:.2f}"


def _words(found: Polysemanticity, at: int) -> list[str]:
    judged = found[found.units[at]]
    parts = " ".join(f"{share:.0%}" for share in judged.shares)
    chance = f"{judged.probability:.0%}" if math.isfinite(judged.probability) else ""
    return [str(judged.unit), judged.verdict, chance, str(judged.meanings), parts, f"{judged.distance:.2f}"]


def _row(found: Polysemanticity, at: int, pictures: Pictures | None) -> str:
    cells = "".join(f"<td>{html.escape(word)}</td>" for word in _words(found, at))
    title = html.escape(reason(found, found.units[at]), quote=True)
    strips = f"<td>{_strips(found, found.units[at], pictures)}</td>" if pictures else ""
    return f'<tr title="{title}">{cells}{strips}</tr>'


def _strips(found: Polysemanticity, unit: str, pictures: Pictures) -> str:
    """Give one picture for each meaning of a unit: its strongest examples in a row."""
    if found.examples is None:
        return ""
    shown, strips = found.examples[unit], []
    for number, rows in enumerate(_groups(found[unit]), start=1):
        tiles = [tile.picture for tile in _tiles(shown, rows[:THUMBS], pictures) if tile.picture is not None]
        if tiles:
            strip = grid([resize(tile, (SIDE, SIDE)) for tile in tiles], columns=THUMBS)
            strips.append(f'<img src="{data_uri(strip)}" alt="meaning {number}" style="margin-right:10px">')
    return "".join(strips)


def _pictures(found: Polysemanticity) -> Pictures | None:
    return None if found.examples is None else found.examples.pictures


def _groups(judged: UnitMeanings) -> list[list[int]]:
    """Give the rows of the examples of each meaning, in the order of the meanings."""
    return [np.flatnonzero(judged.group == number).tolist() for number in np.unique(judged.group)]


def _title(shown: UnitExamples, number: int, rows: list[int], count: int) -> str:
    names = Counter(shown.names[row] for row in rows if shown.names[row]).most_common(COMMON)
    said = f": {', '.join(f'{name} {times}' for name, times in names)}" if names else ""
    return f"meaning {number}, {len(rows)} of {count} examples{said}"


def _lines(text: str) -> tuple[str, ...]:
    return tuple(textwrap.wrap(text, LINE))


def _tiles(shown: UnitExamples, rows: list[int], pictures: Pictures | None) -> tuple[Tile, ...]:
    return tuple(_tile(shown, row, pictures) for row in rows)


def _tile(shown: UnitExamples, row: int, pictures: Pictures | None) -> Tile:
    image = int(shown.image[row])
    whole = None if pictures is None else _whole(pictures, image)
    said = (float(shown.value[row]), shown.names[row], image)
    if whole is None:
        return Tile(None, None, *said)
    size = (whole.shape[0], whole.shape[1])
    box = window(shown.box[row].tolist(), size)
    return Tile(crop(whole, box), peak(shown.field[row].tolist(), box, size), *said)


def _whole(pictures: Pictures, image: int) -> Picture | None:
    """Give the whole picture, ``None`` where it is not at hand any more."""
    try:
        return pictures(image)
    except (LookupError, *UNREADABLE):
        return None


# Kinds of evidence in words.
KINDS = {"vectors": "the rest of the layer", "late": "a late layer", "upstream": "what feeds it"}
HEADS = ("unit", "verdict", "probability", "meanings", "shares", "distance")
# What a verdict says in words; in the order in which units are listed.
VERDICTS = {
    "polysemantic": "Means several things.",
    "undecided": "Undecided.",
    "diffuse": "Diffuse.",
    "monosemantic": "Means one thing.",
    "dead": "Dead.",
}
