"""Contact sheets as HTML: styles inline, so that a notebook shows them as a page does; every word escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from features.pictures import data_uri

if TYPE_CHECKING:
    from features.examples.sheets.contents import Band, ContactSheet, Tile

TILE = 72  # pixels that a tile is wide
SMALLEST = 32  # longer side up to which a picture is kept exactly: WebP halves the resolution of colours
LARGEST = 2 * TILE  # of a picture in a page: enough for screens of double density
SHARP = 4  # pictures that are enlarged more than this keep sharp pixels
CHART = (168, 64)  # pixels, wide and high
BEFORE, AFTER = "#0072b2", "#d55e00"  # blue and vermillion of Okabe and Ito's palette, as in `features.pictures`
SMALL = "font:11px/1.35 system-ui,sans-serif"
FAINT = "opacity:.65"
# White pictures end, too, on a white page.
FRAMED = "display:block;background:#8881;outline:1px solid #8883;outline-offset:-1px"


def sheet_html(sheet: ContactSheet) -> str:
    """Give the sheet as one element of HTML."""
    numbers = "".join(f'<div style="white-space:nowrap">{escaped(text)}</div>' for text in sheet.numbers)
    note = f'<div style="{FAINT};margin-top:6px">{escaped(sheet.note)}</div>' if sheet.note else ""
    head = (
        f'<div><div style="font:600 15px system-ui,sans-serif;margin-bottom:3px">{escaped(sheet.unit)}</div>'
        f"{numbers}</div>{_charts(sheet)}{_classes(sheet)}"
    )
    bands = "".join(_band(band) for band in sheet.bands)
    return (
        f'<div style="{SMALL};max-width:{11 * TILE}px"><div style="display:flex;gap:28px;flex-wrap:wrap">{head}</div>'
        f"{note}{bands}</div>"
    )


def escaped(text: str) -> str:
    """Give ``text`` as HTML shows it; characters that cannot be seen, or turn the line around, as a lozenge.

    >>> escaped('<b>"x"')
    '&lt;b&gt;&quot;x&quot;'
    """
    return html.escape(printable(text))


def printable(text: str) -> str:
    """Give ``text`` with a replacement character for each that is not printable."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _band(band: Band) -> str:
    style = f"display:grid;grid-template-columns:repeat({max(map(len, band.rows))},{TILE}px);gap:4px 4px"
    heads = "".join(f'<div style="{FAINT};text-align:center">{escaped(head)}</div>' for head in band.heads)
    tiles = "".join(_tile(tile) for row in band.rows for tile in row)
    return f'<div style="margin:8px 0 3px;{FAINT}">{escaped(band.title)}</div><div style="{style}">{heads}{tiles}</div>'


def _tile(tile: Tile | None) -> str:
    if tile is None:
        return "<div></div>"
    said = f"{tile.label or 'image'} {tile.image}: {tile.value:.4g}"
    under = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    name = f'<span style="{FAINT}">{escaped(tile.label or f"image {tile.image}")}</span>'
    return (
        f'<div title="{escaped(said)}" style="width:{TILE}px">{_picture(tile, said)}'
        f'<div style="{under}">{tile.value:.3g}<br>{name}</div></div>'
    )


def _picture(tile: Tile, said: str) -> str:
    if tile.picture is None:
        return (
            f'<div style="width:{TILE}px;height:{TILE}px;background:#8881;text-align:center;line-height:{TILE}px">'
            f"{tile.image}</div>"
        )
    height, width = tile.picture.shape[:2]
    longer = max(height, width)
    uri = data_uri(tile.picture, form="webp" if longer > SMALLEST else "png", size=min(longer, LARGEST))
    sharp = "image-rendering:pixelated" if SHARP * longer < TILE else ""
    mark = "" if tile.mark is None else _mark(tile.mark, longer)
    image = f'<image href="{uri}" width="{width}" height="{height}" style="{sharp}"/>'
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{TILE}" height="{TILE}" style="{FRAMED}" '
        f'role="img" aria-label="{escaped(said)}">{image}{mark}</svg>'
    )


def _mark(mark: tuple[float, float], longer: int) -> str:
    """Give a small ring, dark around light, so that it is seen on any ground and hides nothing."""
    radius = 0.045 * longer
    rings = (("#000", 2.4, 0.45), ("#fff", 1.1, 0.95))
    return "".join(
        f'<circle cx="{mark[1]:g}" cy="{mark[0]:g}" r="{radius:.3g}" fill="none" stroke="{colour}" '
        f'stroke-width="{wide}" stroke-opacity="{opacity}" vector-effect="non-scaling-stroke"/>'
        for colour, wide, opacity in rings
    )


class Curve(NamedTuple):
    """A histogram as it is drawn: the bins' ``heights`` and their edges, ``places``, all from 0 to 1."""

    name: str
    colour: str
    heights: list[float]
    places: list[float]


def _charts(sheet: ContactSheet) -> str:
    """Give both histograms in one frame, or nothing."""
    curves, low, high = curves_of(sheet)
    if not curves:
        return ""
    wide, tall = CHART
    areas = "".join(
        f'<path d="{outline(curve, CHART)}" fill="{curve.colour}" fill-opacity=".25" stroke="{curve.colour}"/>'
        for curve in curves
    )
    at = wide * -low / max(high - low, 1e-300)
    zero = f'<path d="M{at:.1f} 0V{tall}" stroke="currentColor" stroke-opacity=".35"/>' if 0 <= at <= wide else ""
    names = " and ".join(f'<span style="color:{curve.colour}">{curve.name}</span>' for curve in curves)
    said = f"activations {names} the nonlinearity" if len(curves) > 1 else "activations"
    return (
        f'<div style="width:{wide}px"><svg width="{wide}" height="{tall}" role="img" aria-label="histogram">'
        f'{areas}{zero}</svg><div style="display:flex;justify-content:space-between"><span>{low:.3g}</span>'
        f'<span style="{FAINT}">counts, log scale</span><span>{high:.3g}</span></div><div>{said}</div></div>'
    )


def curves_of(sheet: ContactSheet) -> tuple[list[Curve], float, float]:
    """Give the histograms that there are in one frame from ``low`` to ``high``: heights are ``log(1 + n)`` of the
    counts, on one scale. Bins of another width are counted as if they had the widest.

    >>> from features.examples.sheets.contents import ContactSheet, Histogram
    >>> after = Histogram(np.array([0, 9]), np.array([0.0, 1.0, 2.0]))
    >>> curves_of(ContactSheet("a:0", (), (), after, None, ()))[0][0][2:]
    ([0.0, 1.0], [0.0, 0.5, 1.0])
    """
    both = (("before", BEFORE, sheet.before), ("after", AFTER, sheet.after))
    drawn = [(name, colour, histogram) for name, colour, histogram in both if histogram is not None]
    if not drawn:
        return [], 0.0, 1.0
    low = min(float(histogram.edges[0]) for _, _, histogram in drawn)
    high = max(float(histogram.edges[-1]) for _, _, histogram in drawn)
    widest = max(float(np.diff(histogram.edges).max()) for _, _, histogram in drawn)
    heights = [np.log1p(histogram.counts * (widest / np.diff(histogram.edges))) for _, _, histogram in drawn]
    largest = max(float(height.max()) for height in heights)
    curves = [
        Curve(name, colour, (height / largest).tolist(), ((histogram.edges - low) / (high - low)).tolist())
        for (name, colour, histogram), height in zip(drawn, heights, strict=True)
    ]
    return curves, low, high


def outline(curve: Curve, size: tuple[int, int]) -> str:
    """Give the path of the steps in a frame of ``size`` (wide, high).

    >>> outline(Curve("", "", [0.0, 1.0], [0.0, 0.5, 1.0]), (20, 10))
    'M0.0 10V10.0H10.0V0.0H20.0V10Z'
    """
    wide, tall = size
    steps = "".join(
        f"V{tall * (1 - height):.1f}H{wide * right:.1f}"
        for height, right in zip(curve.heights, curve.places[1:], strict=True)
    )
    return f"M{wide * curve.places[0]:.1f} {tall}{steps}V{tall}Z"


def _classes(sheet: ContactSheet) -> str:
    """Give the classes' means as bars, or nothing."""
    if not sheet.classes:
        return ""
    largest = max(*(abs(mean) for _, mean in sheet.classes), 1e-300)
    cut = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    rows = "".join(
        f'<tr><td style="padding:0 6px 0 0;text-align:right;max-width:120px;{cut}">{escaped(name)}</td>'
        f'<td style="padding:0;text-align:left"><div style="width:80px"><div style="height:8px;'
        f'width:{100 * abs(mean) / largest:.1f}%;background:{AFTER if mean >= 0 else BEFORE}"></div></div></td>'
        f'<td style="padding:0 0 0 6px;text-align:left">{mean:.3g}</td></tr>'
        for name, mean in sheet.classes
    )
    table = f'<table style="{SMALL};border:0;margin:0">{rows}</table>'
    return f'<div><div style="{FAINT}">mean over a class</div>{table}</div>'
