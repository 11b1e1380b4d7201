"""Contact sheets as one picture, drawn by Pillow: the same contents as in HTML, for slides and papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from features.examples.sheets.markup import AFTER, BEFORE, SHARP, curves_of, printable
from features.pictures import Picture, enlarge, resize, to_image

if TYPE_CHECKING:
    from features.examples.sheets.contents import Band, ContactSheet, Tile
    from features.examples.sheets.markup import Curve

TILE = 128  # pixels that a tile is wide
GAP = 8
MARGIN = 24
LINE = 22  # pixels from one line of text to the next
HEAD = 6 * LINE  # height of the strip with numbers and charts
LONGEST = 400  # letters that are looked at: what is longer fits nowhere
CHART = 300  # width of the histograms
INK, FAINT, GROUND, FRAME = "#1d1d1f", "#76767a", "#f1f1f2", "#dcdcde"
RING = 7  # radius of the mark at the peak


def draw_sheet(sheet: ContactSheet) -> Image.Image:
    """Give ``sheet`` as an 8-bit image: a strip of numbers and charts, and below it the bands of tiles."""
    across = max([8, *(len(row) for band in sheet.bands for row in band.rows)])
    wide = 2 * MARGIN + across * (TILE + GAP) - GAP
    tall = 2 * MARGIN + HEAD + LINE * bool(sheet.note) + sum(map(_tallness, sheet.bands))
    image = Image.new("RGB", (wide, tall), "white")
    canvas = ImageDraw.Draw(image)
    _draw_head(canvas, sheet, wide)
    y = MARGIN + HEAD
    if sheet.note:
        _write(canvas, (MARGIN, y), sheet.note, FAINT, wide - 2 * MARGIN)
        y += LINE
    for band in sheet.bands:
        _draw_band(image, canvas, band, y)
        y += _tallness(band)
    return image


def _tallness(band: Band) -> int:
    return GAP + LINE * (1 + bool(band.heads)) + len(band.rows) * (TILE + 2 * LINE + GAP)


def _draw_head(canvas: ImageDraw.ImageDraw, sheet: ContactSheet, wide: int) -> None:
    canvas.text((MARGIN, MARGIN), printable(sheet.unit[:LONGEST]), INK, ImageFont.load_default(26))
    third = (wide - 2 * MARGIN - CHART) // 2
    for row, text in enumerate(sheet.numbers):
        _write(canvas, (MARGIN, MARGIN + 38 + row * LINE), text, INK, third - GAP)
    _draw_histograms(canvas, sheet, MARGIN + third)
    _draw_classes(canvas, sheet, MARGIN + third + CHART + 2 * MARGIN, third - 2 * MARGIN)


def _draw_histograms(canvas: ImageDraw.ImageDraw, sheet: ContactSheet, left: int) -> None:
    curves, low, high = curves_of(sheet)
    if not curves:
        return
    top, bottom = MARGIN, MARGIN + HEAD - 3 * LINE
    for curve in curves:
        canvas.line([(left + x, bottom - y) for x, y in steps(curve, (CHART, bottom - top))], curve.colour, 2)
    canvas.line([(left, bottom), (left + CHART, bottom)], FAINT, 1)
    font = ImageFont.load_default(14)
    canvas.text((left, bottom + 3), f"{low:.3g}", INK, font)
    canvas.text((left + CHART, bottom + 3), f"{high:.3g}", INK, font, anchor="ra")
    canvas.text((left + CHART // 2, bottom + 3), "counts, log scale", FAINT, font, anchor="ma")
    both = (("before", BEFORE), ("and", INK), ("after", AFTER), ("the nonlinearity", INK))
    x = float(left)
    for word, colour in both if len(curves) > 1 else (("activations", AFTER),):
        canvas.text((x, bottom + 3 + LINE), word, colour, font)
        x += font.getlength(f"{word} ")


def steps(curve: Curve, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Give the corners (x, y up) of a histogram's steps in a frame of ``size`` (wide, high), from left to right.

    >>> from features.examples.sheets.markup import Curve
    >>> steps(Curve("", "", [1.0], [0.0, 1.0]), (20, 10))
    [(0.0, 0.0), (0.0, 10.0), (20.0, 10.0), (20.0, 0.0)]
    """
    corners = [(curve.places[0], 0.0)]
    for height, left, right in zip(curve.heights, curve.places, curve.places[1:], strict=False):
        corners += [(left, height), (right, height)]
    return [(size[0] * x, size[1] * y) for x, y in (*corners, (curve.places[-1], 0.0))]


def _draw_classes(canvas: ImageDraw.ImageDraw, sheet: ContactSheet, left: int, wide: int) -> None:
    if not sheet.classes or wide < 100:
        return
    largest = max(*(abs(mean) for _, mean in sheet.classes), 1e-300)
    _write(canvas, (left, MARGIN - 2), "mean over a class", FAINT, wide)
    middle, most = left + wide // 2, wide // 2 - 60
    for row, (name, mean) in enumerate(sheet.classes[: HEAD // LINE - 1]):
        y = MARGIN + LINE + row * (LINE - 2)
        _write(canvas, (left, y), name, INK, wide // 2 - GAP)
        length = round(most * abs(mean) / largest)
        canvas.rectangle([middle, y + 4, middle + length, y + 14], AFTER if mean >= 0 else BEFORE)
        canvas.text((middle + length + 6, y), f"{mean:.3g}", INK, ImageFont.load_default(15))


def _draw_band(image: Image.Image, canvas: ImageDraw.ImageDraw, band: Band, y: int) -> None:
    _write(canvas, (MARGIN, y + GAP), band.title, FAINT, image.width - 2 * MARGIN)
    y += GAP + LINE
    for column, head in enumerate(band.heads):
        x = MARGIN + column * (TILE + GAP) + TILE // 2
        canvas.text((x, y), head, FAINT, ImageFont.load_default(14), anchor="ma")
    y += LINE * bool(band.heads) + 2
    for number, row in enumerate(band.rows):
        for column, tile in enumerate(row):
            if tile is not None:
                place = (MARGIN + column * (TILE + GAP), y + number * (TILE + 2 * LINE + GAP))
                _draw_tile(image, canvas, tile, place)


def _draw_tile(image: Image.Image, canvas: ImageDraw.ImageDraw, tile: Tile, place: tuple[int, int]) -> None:
    x, y = place
    canvas.rectangle([x, y, x + TILE - 1, y + TILE - 1], GROUND)
    if tile.picture is not None:
        _paste(image, canvas, tile.picture, tile.mark, place)
        canvas.rectangle([x, y, x + TILE - 1, y + TILE - 1], outline=FRAME)  # white pictures end, too
    else:
        canvas.text((x + TILE // 2, y + TILE // 2), "no picture", FAINT, ImageFont.load_default(15), anchor="mm")
    _write(canvas, (x, y + TILE + 2), f"{tile.value:.3g}", INK, TILE)
    _write(canvas, (x, y + TILE + LINE - 2), tile.label or f"image {tile.image}", FAINT, TILE)


def _paste(
    image: Image.Image,
    canvas: ImageDraw.ImageDraw,
    picture: Picture,
    mark: tuple[float, float] | None,
    place: tuple[int, int],
) -> None:
    longer = max(picture.shape[:2])
    shown = to_image(enlarge(picture, TILE) if SHARP * longer < TILE else resize(picture, TILE))
    left, top = place[0] + (TILE - shown.width) // 2, place[1] + (TILE - shown.height) // 2
    image.paste(shown, (left, top))
    if mark is None:
        return
    y = top + min(max(mark[0] * TILE / longer, RING), shown.height - RING - 1)
    x = left + min(max(mark[1] * TILE / longer, RING), shown.width - RING - 1)
    for radius, colour in ((RING, "#303030"), (RING - 1, "white"), (RING - 2, "#303030")):
        canvas.ellipse([x - radius, y - radius, x + radius, y + radius], outline=colour)


def _write(canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: str, wide: int) -> None:
    """Write one line, shortened to ``wide`` pixels."""
    font = ImageFont.load_default(16)
    text = printable(text[:LONGEST])
    if font.getlength(text) > wide:
        while text and font.getlength(text + "...") > wide:
            text = text[:-1]
        text += "..."
    canvas.text(place, text, colour, font)
