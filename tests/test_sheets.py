"""Contact sheets and tables: what they show is what was found, at its place, and nothing of it can do harm."""

from __future__ import annotations

import base64
import csv
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, random_images, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from features.examples import (
    Examples,
    contact_sheet,
    example_frame,
    find_examples,
    read_examples,
    unit_frame,
    write_example_table,
    write_examples,
    write_sheets,
    write_unit_table,
)
from features.examples.sheets import Band, ContactSheet, Histogram, Tile
from features.examples.sheets.crops import peak, window
from features.examples.sheets.drawing import GAP, HEAD, LINE, MARGIN, TILE, steps
from features.examples.sheets.gathering import share
from features.examples.sheets.markup import curves_of, outline, printable
from features.models import Model, probe

HOSTILE = [
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "\u202etxt.exe",
    "a\0b", "{plot_id}", "x" * 10_000, "<b>&amp;", "' onmouseover='alert(1)", "</title><svg onload=alert(1)>",
]  # fmt: skip
KINDS = {"top": "", "bottom": "bottom_", "mean": "mean_", "mean_bottom": "mean_bottom_", "quantile": "quantile_"}
HARMLESS = {"div", "span", "svg", "image", "circle", "path", "br", "table", "tr", "th", "td"}


class Pairs:
    """A dataset of images with labels."""

    def __init__(self, images: Any, classes: tuple[str, ...] = CLASSES) -> None:
        self.images, self.classes = images, classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], index % len(self.classes)


@pytest.fixture(scope="module")
def searched() -> tuple[Model, Pairs, Examples]:
    model, dataset = tiny_model("plain"), Pairs(random_images(60))
    return model, dataset, find_examples(model, dataset, ["relu1", "relu3", "logits"], count=12, progress=False)


def live_unit(examples: Examples, layer: str) -> str:
    """A unit of ``layer`` that has as many examples as were asked for."""
    filled = (examples.layer(layer).image >= 0).all(1)
    return f"{layer}:{int(np.flatnonzero(filled)[0])}"


def tiles_of(band: Band) -> list[Tile]:
    return [tile for row in band.rows for tile in row if tile is not None]


def band_of(sheet: ContactSheet, title: str) -> Band:
    return next(band for band in sheet.bands if title in band.title)


class Tags(HTMLParser):
    """The names of all elements and attributes, and the addresses that they would load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    return tags


# --- what a tile shows ------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
)
@settings(max_examples=200, deadline=None)
def test_a_window_holds_its_box_is_square_and_stays_in_the_image(
    top: int, left: int, high: int, wide: int, height: int, width: int
) -> None:
    y0, x0 = min(top, height - 1), min(left, width - 1)
    box = (y0, x0, min(y0 + high, height), min(x0 + wide, width))
    shown = window(box, (height, width))
    side = max(box[2] - box[0], box[3] - box[1])
    assert 0 <= shown[0] <= box[0] and box[2] <= shown[2] <= height
    assert 0 <= shown[1] <= box[1] and box[3] <= shown[3] <= width
    assert (shown[2] - shown[0], shown[3] - shown[1]) == (min(side, height), min(side, width))


def test_a_tile_shows_what_the_unit_sees_and_nothing_outside_it_matters(
    searched: tuple[Model, Pairs, Examples],
) -> None:
    """Causal: other pixels outside the tile leave the unit's value at its peak as it is; others inside change it."""
    model, dataset, examples = searched
    unit = live_unit(examples, "relu1")
    found, sheet = examples[unit], contact_sheet(examples, unit, dataset)
    for row, tile in enumerate(tiles_of(band_of(sheet, "by the peak"))):
        image, (y, x) = dataset.images[found.image[row]], found.position[row].tolist()
        y0, x0, y1, x1 = window(found.box[row].tolist(), (12, 12))
        whole = image.permute(1, 2, 0).numpy()
        assert tile.picture is not None and tile.image == found.image[row]
        np.testing.assert_allclose(tile.picture, whole[y0:y1, x0:x1], atol=1e-6)
        outside, inside = torch.full_like(image, 0.5), image.clone()
        outside[:, y0:y1, x0:x1] = image[:, y0:y1, x0:x1]
        inside[:, y0:y1, x0:x1] = 0.5
        with torch.no_grad(), probe(model, ["relu1"]) as activations:
            model(torch.stack([image, outside, inside]))
            before, same, other = activations["relu1"][:, found.unit.channel, y, x].tolist()
        assert same == pytest.approx(before, rel=1e-9)
        assert abs(other - before) > 1e-3
        assert tile.mark is not None
        assert (y0 + tile.mark[0], x0 + tile.mark[1]) == pytest.approx((y + 0.5, x + 0.5)), (
            "3 x 3, padded: on its place"
        )


def test_where_the_peak_has_no_place_there_is_no_mark(searched: tuple[Model, Pairs, Examples]) -> None:
    _, dataset, examples = searched
    sheet = contact_sheet(examples, "logits:2", dataset)
    assert all(tile.mark is None for band in sheet.bands for tile in tiles_of(band))
    assert peak((0, 0, 12, 12), (0, 0, 12, 12), (12, 12)) is None
    assert peak((-20, -20, 4, 4), (0, 0, 4, 4), (12, 12)) == (0, 0), "a centre outside the image goes to its edge"


# --- which tiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "prefix"), [("by the peak", ""), ("by the mean", "mean_"), ("weakest", "bottom_")]
)  # fmt: skip
def test_bands_are_the_examples_in_their_order(
    searched: tuple[Model, Pairs, Examples], title: str, prefix: str
) -> None:
    _, dataset, examples = searched
    unit = live_unit(examples, "relu3")
    tiles = tiles_of(band_of(contact_sheet(examples, unit, dataset, count=7), title))
    found = examples[unit]
    assert [tile.image for tile in tiles] == getattr(found, f"{prefix}image")[:7].tolist()
    assert [tile.value for tile in tiles] == getattr(found, f"{prefix}value")[:7].tolist()
    assert [tile.label for tile in tiles] == [CLASSES[tile.image % len(CLASSES)] for tile in tiles]


def test_the_spread_goes_from_high_to_low_in_bins_that_do_not_overlap(
    searched: tuple[Model, Pairs, Examples],
) -> None:
    model, dataset, examples = searched
    with torch.no_grad(), probe(model, ["logits"]) as activations:
        model(dataset.images)
        values = activations["logits"][:, 2].numpy()
    band = band_of(contact_sheet(examples, "logits:2", dataset), "spread")
    assert band.heads[0] == "90 to 100 %" and band.heads[-1] == "0 to 10 %"
    columns = [[row[place] for row in band.rows if row[place] is not None] for place in range(len(band.heads))]
    ranks = np.argsort(np.argsort(values)) / len(values)
    for place, column in enumerate(columns):
        assert column, "60 images fill ten bins"
        for tile in column:
            assert tile is not None and values[tile.image] == pytest.approx(tile.value, rel=1e-5)
            assert 0.9 - 0.1 * place <= ranks[tile.image] + 1e-9 <= 1.0 - 0.1 * place + 1e-9


def test_where_there_is_one_position_the_mean_is_not_shown_again(searched: tuple[Model, Pairs, Examples]) -> None:
    _, dataset, examples = searched
    titles = [band.title for band in contact_sheet(examples, "logits:2", dataset).bands]
    assert not any("mean" in title for title in titles)
    unit = live_unit(examples, "relu1")
    assert any("mean" in band.title for band in contact_sheet(examples, unit, dataset).bands)


def test_the_classes_with_the_highest_means_come_first(searched: tuple[Model, Pairs, Examples]) -> None:
    model, dataset, examples = searched
    with torch.no_grad(), probe(model, ["relu1"]) as activations:
        model(dataset.images)
        maps = activations["relu1"][:, 3].numpy()
    means = {name: float(maps[place :: len(CLASSES)].mean()) for place, name in enumerate(CLASSES)}
    shown = contact_sheet(examples, "relu1:3").classes
    assert [name for name, _ in shown] == sorted(means, key=lambda name: -means[name])
    assert dict(shown) == pytest.approx(means, rel=1e-5)


def test_histograms_count_before_and_after_the_nonlinearity(searched: tuple[Model, Pairs, Examples]) -> None:
    """What ReLU takes to 0 lies below 0 before it, and nowhere after it; at the logits there is nothing before."""
    _, _, examples = searched
    sheet = contact_sheet(examples, "relu1:3")
    assert sheet.before is not None and sheet.after is not None
    assert sheet.before.edges[0] < 0 <= sheet.after.edges[0] + 1e-9
    share_below = sheet.before.counts[sheet.before.edges[1:] <= 0].sum() / sheet.before.counts.sum()
    assert share_below == pytest.approx(1 - examples["relu1:3"].firing_rate, abs=0.15)
    assert contact_sheet(examples, "logits:2").before is None


# --- pictures: from a dataset, from the examples, from nowhere --------------------------------------------------------


def test_a_search_in_memory_shows_its_pictures_at_once_and_a_file_says_how_to_get_them(
    searched: tuple[Model, Pairs, Examples], tmp_path: Path
) -> None:
    _, dataset, examples = searched
    unit = live_unit(examples, "relu1")
    assert "<image" in examples[unit]._repr_html_()
    again = read_examples(write_examples(examples, tmp_path / "kept"))
    shown = again[unit]._repr_html_()
    assert "<image" not in shown
    assert "contact_sheet(examples, unit, dataset)" in parsed(shown).text
    assert f"{again[unit].value[0]:.3g}" in parsed(shown).text
    assert contact_sheet(again, unit, dataset)._repr_html_() == contact_sheet(examples, unit)._repr_html_()


def test_a_picture_that_is_gone_leaves_the_others(searched: tuple[Model, Pairs, Examples]) -> None:
    _, _, examples = searched
    unit = live_unit(examples, "relu1")
    lost, whole = int(examples[unit].image[1]), examples.pictures
    assert whole is not None

    def pictures(index: int) -> Any:
        if index == lost:
            raise KeyError(index)
        return whole(index)

    tiles = tiles_of(band_of(contact_sheet(replace(examples, pictures=pictures), unit), "by the peak"))
    assert [tile.picture is None for tile in tiles] == [tile.image == lost for tile in tiles]
    assert len(tiles) > 2


def test_a_fault_of_the_program_is_not_taken_for_a_missing_picture(searched: tuple[Model, Pairs, Examples]) -> None:
    _, _, examples = searched

    def pictures(index: int) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        contact_sheet(replace(examples, pictures=pictures), live_unit(examples, "relu1"))


def test_wrong_questions_are_refused(searched: tuple[Model, Pairs, Examples]) -> None:
    _, dataset, examples = searched
    with pytest.raises(ValueError, match="relu9"):
        contact_sheet(examples, "relu9:1", dataset)
    with pytest.raises(ValueError, match="no channel 99"):
        contact_sheet(examples, "relu1:99", dataset)
    with pytest.raises(ValueError, match="has 3 images, and the examples are from one of 60"):
        contact_sheet(examples, "relu1:1", Pairs(dataset.images[:3]))
    with pytest.raises(ValueError, match="count is 0"):
        contact_sheet(examples, "relu1:1", dataset, count=0)


# --- how it looks -----------------------------------------------------------------------------------------------------


def coloured_sheet(colours: list[tuple[float, float, float]], **said: Any) -> ContactSheet:
    """One band of tiles of one colour each, 6 x 6 pixels."""
    tiles = tuple(
        Tile(np.full((6, 6, 3), colour), None, float(place), f"label {place}", place)
        for place, colour in enumerate(colours)
    )
    given: dict[str, Any] = {
        "unit": "a:0", "numbers": (), "bands": (Band("band", (tiles,)),), "after": None, "before": None, "classes": (),
    }  # fmt: skip
    return ContactSheet(**given | said)


COLOURS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.4, 0.6)]


def test_the_picture_shows_every_tile_at_its_place() -> None:
    drawn = np.asarray(coloured_sheet(COLOURS).to_image())
    top = MARGIN + HEAD + GAP + LINE + 2
    for place, colour in enumerate(COLOURS):
        left = MARGIN + place * (TILE + GAP)
        tile = drawn[top : top + TILE, left : left + TILE]
        inner = tile[1:-1, 1:-1]
        np.testing.assert_array_equal(inner, np.broadcast_to(np.round(np.array(colour) * 255), inner.shape))
        assert (drawn[top : top + TILE, left + TILE : left + TILE + GAP] == 255).all(), "white between"


def test_the_page_shows_every_tile_in_order_exactly() -> None:
    shown = re.findall(r'href="data:image/(\w+);base64,([^"]*)"', coloured_sheet(COLOURS)._repr_html_())
    colours = [np.asarray(Image.open(io.BytesIO(base64.b64decode(blob))).convert("RGB"))[3, 3] for _, blob in shown]
    np.testing.assert_array_equal(colours, np.round(np.array(COLOURS) * 255))


def test_the_mark_is_drawn_at_the_peak() -> None:
    def sheet(mark: tuple[float, float] | None) -> np.ndarray:
        tile = Tile(np.full((8, 8, 3), 0.5), mark, 1.0, "", 0)
        return np.asarray(coloured_sheet([], bands=(Band("", ((tile,),)),)).to_image()).astype(int)

    changed = np.argwhere(np.abs(sheet((2.0, 6.0)) - sheet(None)).sum(2) > 0)
    centre = (changed.min(0) + changed.max(0)) / 2
    corner = np.array([MARGIN + HEAD + GAP + LINE + 2, MARGIN])
    np.testing.assert_allclose(centre - corner, [2 / 8 * TILE, 6 / 8 * TILE], atol=1)
    assert len(changed) < 0.02 * TILE**2, "subtle"
    assert np.argwhere(np.abs(sheet((0.0, 8.0)) - sheet(None)).sum(2) > 0).max(0)[1] < MARGIN + TILE, "within its tile"


def test_a_histogram_is_drawn_as_counted() -> None:
    after = Histogram(np.array([0, 9, 99]), np.array([-1.0, 0.0, 1.0, 2.0]))
    before = Histogram(np.array([99]), np.array([-3.0, -1.0]))
    (wide, curve), low, high = curves_of(coloured_sheet(COLOURS, after=after, before=before))
    assert (low, high, wide.name, curve.name) == (-3, 2, "before", "after")
    assert curve.places == pytest.approx([0.4, 0.6, 0.8, 1])
    tallest = np.log(1 + 2 * 99)  # of a bin half as wide as the widest
    assert curve.heights == pytest.approx([0, np.log(1 + 2 * 9) / tallest, 1])
    assert wide.heights == pytest.approx([np.log(100) / tallest])
    corners = steps(curve, (100, 10))
    assert (corners[0], corners[-1]) == ((40, 0), (100, 0))
    assert [y for x, y in corners if x == 80] == pytest.approx([10 * curve.heights[1], 10])
    assert outline(wide, (100, 10)) == f"M0.0 10V{10 - 10 * wide.heights[0]:.1f}H40.0V10Z"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_can_become_markup(searched: tuple[Model, Pairs, Examples], tmp_path: Path, hostile: str) -> None:
    _, dataset, examples = searched
    named = replace(examples, labels=(hostile, *CLASSES[1:]), model=hostile)
    sheet = replace(contact_sheet(named, live_unit(examples, "relu1"), dataset), unit=f"{hostile}:3", note=hostile)
    page = write_sheets([sheet, sheet], tmp_path / "sheets.html", title=hostile).read_text(encoding="utf-8")
    for text in (sheet._repr_html_(), named._repr_html_()):
        tags = parsed(text)
        assert tags.names <= HARMLESS
        assert not [name for name in tags.attributes if name.startswith("on")]
        assert all(address.startswith("data:image/") for address in tags.addresses)
        assert printable(hostile) in tags.text
    tags = parsed(page)
    assert tags.names <= HARMLESS | {"html", "head", "meta", "title", "style", "body", "nav", "a", "section"}
    assert all(address.startswith(("data:image/", "#s")) for address in tags.addresses)
    assert "default-src 'none'" in page
    assert "\u202e" not in page and "\0" not in page
    assert sheet.to_image().width < 4000, "a long name is shortened"


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert printable(text).isprintable() or "\ufffd" in printable(text)
    assert len(printable(text)) == len(text)
    assert text.isprintable() == (printable(text) == text) or "\ufffd" in text


@pytest.mark.parametrize(
    ("part", "said"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.5, "50 %"), (0.999, "100 %"), (0.1234, "12 %"), (0.00047, "0.047 %")],
)
def test_a_share_is_said_in_two_digits(part: float, said: str) -> None:
    assert share(part) == said


def test_examples_that_are_all_equal_are_said_to_be_the_first_of_many(
    searched: tuple[Model, Pairs, Examples],
) -> None:
    """Of a sorted dataset the first silent images are of one class: that says nothing of the unit."""
    _, dataset, examples = searched
    unit = live_unit(examples, "relu3")
    found = examples.layer("relu3")
    channel = int(unit.partition(":")[2])
    assert len(set(found.bottom_value[channel].tolist())) > 1
    assert "all equal" not in band_of(contact_sheet(examples, unit, dataset), "weakest").title
    silent = replace(found, bottom_value=np.zeros_like(found.bottom_value))
    tied = replace(examples, arrays={**examples.arrays, "relu3": silent})
    assert "all equal" in band_of(contact_sheet(tied, unit, dataset), "weakest").title


def test_a_dead_unit_says_so() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv1.weight[0], model.net.conv1.bias[0] = 0, -1  # type: ignore[index, operator]
    examples = find_examples(model, Pairs(random_images(5)), "relu1", count=3, progress=False)
    shown = parsed(examples["relu1:0"]._repr_html_()).text
    assert "dead" in shown
    assert "dead" not in parsed(examples[live_unit(examples, "relu1")]._repr_html_()).text


def test_examples_show_a_line_for_each_layer(searched: tuple[Model, Pairs, Examples]) -> None:
    _, _, examples = searched
    text = parsed(examples._repr_html_()).text
    for name in examples.layers:
        layer = examples.layer(name)
        best = int(np.argmax(layer.maximum))
        assert f"{name}:{best} ({layer.maximum[best]:.3g})" in text
    assert "among 60 images" in text


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".png", ".webp", ".jpg", ".HTML", ".PNG"])
def test_sheets_are_written_in_the_form_of_the_ending(tmp_path: Path, ending: str) -> None:
    sheets = [coloured_sheet(COLOURS), coloured_sheet(COLOURS[:2], unit="b:1")]
    path = write_sheets(sheets, tmp_path / f"sheets{ending}")
    if ending == ".HTML":
        tags = parsed(path.read_text(encoding="utf-8"))
        assert {"#s0", "#s1"} <= set(tags.addresses)
        assert "a:0" in tags.text and "b:1" in tags.text
        return
    drawn = [sheet.to_image() for sheet in sheets]
    with Image.open(path) as image:
        assert image.size == (max(each.width for each in drawn), sum(each.height for each in drawn))


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end it with \.html, \.webp, \.png, \.jpeg, \.jpg"):
        write_sheets([coloured_sheet(COLOURS)], tmp_path / "sheets.pdf")
    with pytest.raises(ValueError, match="give at least one"):
        write_sheets([], tmp_path / "sheets.html")
    assert not list(tmp_path.iterdir())


# --- tables -----------------------------------------------------------------------------------------------------------


def slow_rows(examples: Examples) -> list[dict[str, Any]]:
    """Every kept example, unit by unit, read by its place."""
    rows: list[dict[str, Any]] = []
    for unit in examples:
        layer, channel = unit.split(":")
        arrays = examples.layer(layer)
        for kind, prefix in KINDS.items():
            images = getattr(arrays, f"{prefix}image")[int(channel)]
            for place in np.ndindex(images.shape):
                if images[place] < 0:
                    continue
                at = (int(channel), *place)
                value, label, position, box = (
                    getattr(arrays, prefix + name)[at] for name in ("value", "label", "position", "box")
                )
                rows.append(
                    {
                        "unit": unit,
                        "layer": layer,
                        "channel": int(channel),
                        "kind": kind,
                        "rank": place[-1],
                        "bin": place[0] if len(place) == 2 else -1,
                        "value": float(value),
                        "image": int(images[place]),
                        "label": int(label),
                        "y": int(position[0]),
                        "x": int(position[1]),
                        "y0": int(box[0]),
                        "x0": int(box[1]),
                        "y1": int(box[2]),
                        "x1": int(box[3]),
                        "image_id": f"p{images[place]}",
                        "label_name": CLASSES[label],
                    }
                )
    return rows


@pytest.fixture(scope="module")
def with_a_dead_unit() -> Examples:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv1.weight[0], model.net.conv1.bias[0] = 0, -1  # type: ignore[index, operator]
    return find_examples(model, Pairs(random_images(7)), ["relu1", "logits"], count=3, progress=False)


def test_the_table_has_a_row_for_each_kept_example(with_a_dead_unit: Examples) -> None:
    frame = example_frame(with_a_dead_unit, lambda index: f"p{index}")
    wanted = slow_rows(with_a_dead_unit)
    assert frame.to_dict("records") == wanted
    assert list(frame.columns) == list(wanted[0])
    assert not ((frame.unit == "relu1:0") & (frame.kind == "top")).any(), "a dead unit has no top example"
    assert str(frame.unit.dtype) == "category"


def test_the_units_table_has_a_row_for_each_unit(with_a_dead_unit: Examples) -> None:
    frame = unit_frame(with_a_dead_unit).set_index("unit")
    assert list(frame.index) == list(with_a_dead_unit)
    for unit in with_a_dead_unit:
        found, row = with_a_dead_unit[unit], frame.loc[unit]
        for name in ("mean", "sd", "minimum", "maximum", "firing_rate", "nonfinite", "dead"):
            assert row[name] == getattr(found, name)
        if len(found.image):
            assert (row.top_value, row.top_image, row.top_label_name) == (
                found.value[0],
                found.image[0],
                found.names[0],
            )
        else:
            assert np.isnan(row.top_value) and row.top_image == -1 and row.top_label_name == ""


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_written_table_is_read_as_it_was(with_a_dead_unit: Examples, tmp_path: Path, ending: str) -> None:
    pandas = pytest.importorskip("pandas")
    read = pandas.read_csv if ending == ".csv" else pandas.read_parquet
    options: dict[str, Any] = {"keep_default_na": False, "na_values": {"value": "nan"}} if ending == ".csv" else {}
    path = write_example_table(with_a_dead_unit, tmp_path / "deep" / f"kept{ending}", lambda index: f"p{index}")
    wanted = slow_rows(with_a_dead_unit)
    found = read(path, **options).to_dict("records")
    assert [row | {"value": np.float32(row["value"])} for row in found] == [
        row | {"value": np.float32(row["value"])} for row in wanted
    ]
    units = read(write_unit_table(with_a_dead_unit, tmp_path / f"units{ending}"))
    assert list(units.unit) == list(with_a_dead_unit)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["deep", f"units{ending}"], "no part is left"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_that_fails_half_way_leaves_what_was_there(
    with_a_dead_unit: Examples, tmp_path: Path, ending: str
) -> None:
    path, asked = tmp_path / f"kept{ending}", []

    def names(index: int) -> str:
        asked.append(index)
        if len(asked) > 7:  # the first layer's seven images have their names
            raise OSError("the disk is gone")
        return ""

    path.write_text("years of work")
    with pytest.raises(OSError, match="the disk is gone"):
        write_example_table(with_a_dead_unit, path, names)
    assert path.read_text() == "years of work"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_names_that_are_no_text_are_written_visibly(with_a_dead_unit: Examples, tmp_path: Path) -> None:
    named = replace(with_a_dead_unit, labels=('comma, "quote"\nline', "\udc80", *CLASSES[2:]))
    path = write_example_table(named, tmp_path / "kept.csv", lambda index: "\udcff.png")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image_id"] for row in rows} == {"\\udcff.png"}
    assert {row["label_name"] for row in rows} == {'comma, "quote"\nline', "\\udc80", *CLASSES[2:]}
    assert write_example_table(named, tmp_path / "kept.parquet", lambda index: "\udcff.png").stat().st_size > 0


def test_tables_refuse_other_endings_and_name_the_extra(
    with_a_dead_unit: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"end it with \.csv or \.parquet"):
        write_unit_table(with_a_dead_unit, tmp_path / "units.xlsx")
    for name in ("pandas", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    for refused in (
        lambda: example_frame(with_a_dead_unit),
        lambda: unit_frame(with_a_dead_unit),
        lambda: write_unit_table(with_a_dead_unit, tmp_path / "units.parquet"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"vision-circuits\[tables\]"):
            refused()
    assert write_unit_table(with_a_dead_unit, tmp_path / "units.csv").is_file(), "a .csv needs nothing else"
    assert [path.name for path in tmp_path.iterdir()] == ["units.csv"]
