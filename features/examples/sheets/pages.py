"""Contact sheets as files: one page of several, or one picture; and what Examples show of themselves in a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.examples.sheets.contents import ContactSheet
from features.examples.sheets.gathering import share
from features.examples.sheets.markup import FAINT, SMALL, escaped
from features.pictures import FORMS, write_picture
from features.records import write_atomically

if TYPE_CHECKING:
    from features.examples.nouns import Examples, LayerExamples

NAMED = 3  # units that a layer's row names


def write_sheets(sheets: Iterable[ContactSheet], path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Write contact sheets to ``path``, atomically: one page that needs no network (.html), or one picture of them
    below each other (.png, .webp, .jpg); give the path.

    ``ValueError`` for another ending, and for no sheets.

    >>> write_sheets([], "sheets.html")
    Traceback (most recent call last):
    ...
    ValueError: there are no contact sheets to write: give at least one
    """
    sheets, path = list(sheets), Path(path)
    if not sheets:
        raise ValueError("there are no contact sheets to write: give at least one")
    check_sheet_path(path)
    if path.suffix.lower() == ".html":
        return write_atomically(path, page(sheets, title or ", ".join(sheet.unit for sheet in sheets[:NAMED])))
    images = [np.asarray(sheet.to_image(), dtype=np.float32) / np.float32(255) for sheet in sheets]
    wide = max(image.shape[1] for image in images)
    padded = [np.pad(image, ((0, 0), (0, wide - image.shape[1]), (0, 0)), constant_values=1) for image in images]
    return write_picture(np.concatenate(padded), path)


def check_sheet_path(path: Path) -> None:
    """Raise ``ValueError`` for a path that `write_sheets` would refuse, before anything is read."""
    endings = (".html", *(f".{form}" for form in FORMS), ".jpg")
    if path.suffix.lower() not in endings:
        raise ValueError(f"'{path}' names no form that is known: end it with {', '.join(endings)}")


def page(sheets: Sequence[ContactSheet], title: str) -> str:
    """Give one HTML page of all ``sheets``, with a list of them at its head where there are several."""
    links = "".join(f'<a href="#s{place}">{escaped(sheet.unit)}</a> ' for place, sheet in enumerate(sheets))
    listed = f"<nav>{links}</nav>" if len(sheets) > 1 else ""
    parts = "".join(f'<section id="s{place}">{sheet._repr_html_()}</section>' for place, sheet in enumerate(sheets))
    return PAGE.replace("TITLE", escaped(title)).replace("BODY", listed + parts)


def examples_html(examples: Examples) -> str:
    """Give ``examples`` as a notebook shows them: where they are from, and a line for each layer."""
    lost = f", {len(examples.skipped)} could not be read" if examples.skipped else ""
    units = f"{examples.count} examples each for {len(examples):,} units of {examples.model}"
    said = f"{units}, among {examples.images:,} images{lost}"
    lines = "".join(_line(line, "td") for line in overview(examples))
    hint = escaped(f'examples["{next(iter(examples), "layer:0")}"] shows a unit')
    return (
        f'<div style="{SMALL}"><div>{escaped(said)}</div><table style="{SMALL};margin:6px 0">{_line(HEADS, "th")}'
        f'{lines}</table><div style="{FAINT}">{hint}</div></div>'
    )


def overview(examples: Examples) -> list[tuple[str, ...]]:
    """Give a line of words and numbers for each layer, under `HEADS`."""
    return [_overview(name, examples.layer(name)) for name in examples.layers]


def _overview(name: str, layer: LayerExamples) -> tuple[str, ...]:
    firing = layer.firing_rate[np.isfinite(layer.firing_rate)]
    peaks = np.where(np.isfinite(layer.maximum), layer.maximum, -np.inf)
    strongest = [int(place) for place in np.argsort(-peaks, kind="stable")[:NAMED] if not layer.dead[place]]
    return (
        name,
        f"{len(layer.mean):,}",
        f"{int(layer.dead.sum()):,}",
        f"{int((layer.nonfinite > 0).sum()):,}",
        share(float(np.median(firing))) if len(firing) else "",
        ", ".join(f"{name}:{place} ({peaks[place]:.3g})" for place in strongest),
    )


def _line(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f'<{kind} style="text-align:left">{escaped(cell)}</{kind}>' for cell in cells) + "</tr>"


HEADS = ("layer", "units", "dead", "not finite", "fires (median)", "highest activations")

# Nothing may be loaded or run: the pictures are in the page, the styles too.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>TITLE</title>
<style>
body { font: 13px/1.4 system-ui, sans-serif; margin: 24px; }
nav { margin-bottom: 16px; line-height: 1.8; }
nav a { margin-right: 10px; white-space: nowrap; }
section { margin: 0 0 28px; padding: 0 0 20px; border-bottom: 1px solid #8884; }
</style></head>
<body>BODY</body></html>
"""
