"""Reports: verdicts in words, tables, sheets and figures say what the arrays hold."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fill, random_images
from torch import Tensor, nn

from circuits.__main__ import main
from circuits.diagrams import draw_overview
from circuits.meanings import Polysemanticity, polysemanticity
from circuits.meanings import reports as reports_module
from circuits.meanings.overviews import LayerSummary, Overview, layer_overview
from circuits.meanings.reports import (
    VERDICTS,
    meaning_frame,
    meaning_sheet,
    order,
    reason,
    verdict_html,
    verdict_text,
)
from features.examples import Examples, find_examples
from features.examples.images import read_item
from features.models import Model, load_model
from features.pictures import crop, write_picture
from features.sketches import Sketches

WIDTH, COUNT, SIDE = 6, 16, 12
CLASSES = ("ant", "bee")


@cache
def small() -> tuple[Model, list[tuple[Tensor, int]], Examples]:
    net = fill(nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 4, 3, padding=1)).double().eval())
    model = load_model(net, name="small", image_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    dataset = [(image, number % 2) for number, image in enumerate(random_images(40, size=SIDE))]
    return model, dataset, find_examples(model, dataset, ["0"], count=COUNT, progress=False)


def judged(groups: dict[int, list[int]] | None = None, verdicts: dict[int, str] | None = None) -> Polysemanticity:
    """What is found on the small network, with the groups and the verdicts of some units set."""
    model, _, examples = small()
    found = polysemanticity(model, examples, progress=False)
    given = groups or {}
    said = {at: "polysemantic" if at in given else "monosemantic" for at in range(WIDTH)} | (verdicts or {})
    table = np.array([given.get(at, [0] * COUNT) for at in range(WIDTH)])
    return replace(
        found,
        verdicts=tuple(said[at] for at in range(WIDTH)),
        flag=np.array([said[at] == "polysemantic" for at in range(WIDTH)]),
        groups=table,
        meanings=np.array([len(set(row)) for row in table]),
    )


MINOR = [0] * 12 + [1] * 4


def test_the_reason_names_the_verdict_the_shares_and_the_evidence() -> None:
    found = judged({2: MINOR}, {3: "dead", 4: "undecided"})
    assert reason(found, "0:2").startswith(VERDICTS["polysemantic"])
    assert "16 strongest examples fall into 2 groups (75%, 25%)" in reason(found, "0:2")
    assert f"{found['0:2'].evidence['vectors distance']:.2f} by the rest of the layer" in reason(found, "0:2")
    assert f"Probability of several meanings: {found['0:2'].probability:.0%}" in reason(found, "0:2")
    assert reason(found, "0:3") == f"{VERDICTS['dead']} Nothing in the dataset excites it."
    assert {reason(found, unit).split(".")[0] for unit in ("0:0", "0:4")} == {"Means one thing", "Undecided"}
    assert found["0:2"].shares == (0.75, 0.25) and found["0:0"].shares == (1.0,)
    few = replace(found, probability=np.full(WIDTH, np.nan))
    assert "Only 16 examples excite it" in reason(few, "0:0")
    with pytest.raises(ValueError, match="was not looked at"):
        reason(found, "0:99")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_its_words(verdict: str) -> None:
    found = judged({2: MINOR} if verdict == "polysemantic" else None, {2: verdict})
    words = reason(found, "0:2")
    assert words.startswith(VERDICTS[verdict]) and words.endswith(".") and "nan" not in words


def test_those_that_most_surely_mean_several_things_come_first_and_the_dead_last() -> None:
    found = judged({4: MINOR, 1: MINOR}, {0: "dead", 3: "undecided"})
    listed = [found.verdicts[at] for at in order(found)]
    assert listed == ["polysemantic"] * 2 + ["undecided"] + ["monosemantic"] * 2 + ["dead"]
    lines = verdict_text(found, count=3).splitlines()
    assert len(lines) == 5 and lines[-1] == "and 3 more units"
    assert lines[1].split()[0] in {"0:4", "0:1"} and "75% 25%" in lines[1]
    markup = verdict_html(found)
    assert markup.index("0:4") < markup.index("0:3") < markup.index("0:0") and "1 dead" in markup


def test_a_table_shows_the_pictures_of_each_meaning_where_the_examples_have_them() -> None:
    _, _, examples = small()
    found = judged({2: MINOR})
    assert "<img" not in verdict_html(replace(found, examples=None))
    shown = replace(found, examples=examples)._repr_html_()
    assert shown.count("<img") == WIDTH + 1  # one strip for each meaning
    assert 'alt="meaning 2"' in shown


def test_a_sheet_has_a_band_for_each_meaning_with_what_the_unit_saw() -> None:
    _, dataset, examples = small()
    mixed = np.array([0, 1] * 4 + [0] * 8)
    found = judged({2: mixed.tolist()})
    sheet = meaning_sheet(found, examples, "0:2", dataset, count=5)
    held = examples["0:2"]
    assert [len(band.rows[0]) for band in sheet.bands] == [5, 4]
    for number, band in enumerate(sheet.bands):
        images = held.image[mixed == number][:5].tolist()
        assert [tile.image for tile in band.rows[0]] == images  # type: ignore[union-attr]
    assert sheet.bands[1].title.startswith("meaning 2, 4 of 16 examples")
    assert " ".join(sheet.numbers) == reason(found, "0:2")
    tile = sheet.bands[0].rows[0][0]
    whole = dataset[int(held.image[0])][0].permute(1, 2, 0).numpy()
    box = held.box[0]
    if box[2] - box[0] == box[3] - box[1]:
        assert tile is not None and np.allclose(tile.picture, crop(whole.astype(np.float32), box), atol=1e-6)
    assert sheet.to_image().width > 100
    assert meaning_sheet(found, examples, "0:0", dataset).bands[0].title.startswith("meaning 1, 16 of 16")


def test_a_frame_holds_a_row_for_each_unit_with_every_number() -> None:
    pytest.importorskip("pandas")
    found = judged({2: MINOR})
    frame = meaning_frame(found)
    assert list(frame["unit"]) == list(found.units)
    assert frame["channel"].tolist() == list(range(WIDTH))
    assert frame.loc[2, "shares"] == [0.75, 0.25] and frame.loc[2, "reason"] == reason(found, "0:2")
    assert frame["vectors distance"].tolist() == found.evidence["vectors distance"].tolist()
    assert frame["flag"].tolist() == found.flag.tolist() and frame["meanings"].tolist() == found.meanings.tolist()


def test_a_frame_without_pandas_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(reports_module, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"vision-circuits\[tables\]"):
        meaning_frame(judged())


def with_vectors(rows: np.ndarray) -> Examples:
    """The small network's examples, the vectors of each unit ``(c, k, c)`` given, from the layer's mean."""
    _, _, examples = small()
    layer = examples.layer("0")
    vectors = (rows + np.nan_to_num(layer.mean)).astype(np.float32)
    return replace(examples, arrays={"0": replace(layer, vectors=vectors)})


def test_features_are_the_meanings_that_differ_and_interference_is_their_cosine() -> None:
    rows = np.tile(np.eye(WIDTH)[:, None], (1, COUNT, 1))
    rows[1] = 0.5 * rows[0]  # units 0 and 1 mean the same
    rows[2, 12:] = np.eye(WIDTH)[2] + np.eye(WIDTH)[3]  # the second meaning of unit 2 is half unit 3's
    summary = layer_overview(judged({2: MINOR}), with_vectors(rows)).layers[0]
    assert (summary.layer, summary.units, summary.meanings, summary.features) == ("0", WIDTH, 7, 6)
    cosines = np.sort(np.abs(summary.cosines))
    assert len(cosines) == 15
    assert np.allclose(cosines, [0] * 13 + [0.5**0.5] * 2, atol=1e-6)
    assert summary.interference == pytest.approx(2 * 0.5**0.5 / 15, abs=1e-6)
    assert summary.verdicts["polysemantic"] == 1 and summary.verdicts["monosemantic"] == 5


def test_directions_of_ones_own_take_the_place_of_features() -> None:
    own = np.array([[2.0, 0, 0, 0, 0, 0], [1, 3**0.5, 0, 0, 0, 0]])
    _, _, examples = small()
    summary = layer_overview(judged(), examples, directions={"0": own}).layers[0]
    assert summary.features == 2 and summary.cosines.tolist() == pytest.approx([0.5])


def test_chance_is_what_random_directions_give() -> None:
    _, _, examples = small()
    generator = torch.Generator().manual_seed(0)
    drawn = nn.functional.normalize(torch.randn(2, 200_000, WIDTH, generator=generator), dim=-1)
    simulated = (drawn[0] * drawn[1]).sum(1).abs().mean().item()
    assert layer_overview(judged(), examples).layers[0].chance == pytest.approx(simulated, abs=2e-3)


def overview_of_two() -> Overview:
    layers = (
        LayerSummary("a", 4, {"polysemantic": 1, "monosemantic": 3, "dead": 0}, 5, 5, np.array([0.5, -0.1]), 0.2),
        LayerSummary("b<i>", 2, {"monosemantic": 1, "dead": 1}, 1, 1, np.zeros(0), 0.3),
    )
    return Overview("net", layers)


def test_an_overview_is_a_table_of_shares_features_and_interference() -> None:
    overview = overview_of_two()
    lines = [line.split() for line in str(overview).splitlines()]
    assert lines[1][:4] == ["a", "4", "75%", "25%"] or lines[1][:4] == ["a", "4", "25%", "75%"]
    assert "1.25" in lines[1] and "0.30" in lines[1] and "nan" not in str(overview)
    assert "b&lt;i&gt;" in overview._repr_html_()
    assert overview.layers[0].worst == pytest.approx(np.quantile([0.5, 0.1], 0.95))


def test_the_figure_draws_the_shares_the_numbers_and_the_cosines() -> None:
    figure = draw_overview(overview_of_two())
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    assert list(bars["polysemantic"].x) == [0.25, 0] and list(bars["monosemantic"].x) == [0.75, 0.5]
    assert list(bars["monosemantic"].base) == [0.25, 0]
    assert "undecided" not in bars
    assert list(bars["units"].x) == [4, 2] and list(bars["features"].x) == [5, 1]
    boxes = [trace for trace in figure.data if trace.type == "box"]
    assert list(boxes[0].x) == [0.5, 0.1] and len(boxes[1].x) == 0
    chances = [trace.x[0] for trace in figure.data if trace.type == "scatter"]
    assert chances == [0.2, 0.3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        image = read_item(Sketches(10, seed=3), number, (64, 64), 3)[0]
        write_picture(image.permute(1, 2, 0).numpy(), place / f"{number}.png")
    return place


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["polysemantic", *words, "--quiet"])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_prints_the_verdicts_of_a_layer_and_its_overview(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    sheets = tmp_path / "sheets.html"
    code, out, _ = run(
        capsys, "--layer", "conv2d2", "--dataset", str(folder), "--count", "8", "--rows", "2", "--quick",
        "--sheets", str(sheets),
    )  # fmt: skip
    lines = out.splitlines()
    assert code == 0 and sheets.exists() == (" polysemantic " in out)
    assert lines[0].startswith("unit") and lines[1].startswith("conv2d2:")
    assert "and 46 more units" in lines and any(line.startswith("conv2d2 ") for line in lines)


def test_the_command_gives_json_and_one_unit_with_its_reason(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, "conv2d2:3", "--dataset", str(folder), "--count", "8", "--quick", "--json")
    (row,) = json.loads(out)
    assert code == 0 and row["unit"] == "conv2d2:3" and row["verdict"] in VERDICTS and row["reason"]
    code, out, _ = run(capsys, "conv2d2:3", "--dataset", str(folder), "--count", "8", "--quick")
    assert code == 0 and row["reason"] in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--count", "3"], "8 examples or more"),
        (["--layer", "mixed9z"], "mixed9z"),
        (["mixed4c:999"], "96 channels"),
        (["--sheets", "a.txt"], "end it with .html"),
        (["--store", "/no/such/store"], "/no/such/store"),
    ],
)
def test_the_command_refuses_before_it_works(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2 and says in err and not out


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: meaning_sheet(judged(), small()[2], "0:1", small()[1], count=0), "count is 0"),
        (lambda: meaning_sheet(judged(), small()[2], "0:1", small()[1][:3]), "this dataset has 3 images"),
        (lambda: layer_overview(replace(judged(), digest="other"), small()[2]), "different weights"),
        (lambda: layer_overview(judged(), small()[2], directions={"0": np.ones((2, 5))}), r"give \(d, 6\)"),
    ],
)
def test_what_cannot_be_is_refused_in_words(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
