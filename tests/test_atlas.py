"""The atlas: every unit has its page, every link leads somewhere, what is valid is reused, and nothing of a name can
run.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from conftest import CLASSES, fill, random_images, tiny_model
from PIL import Image
from test_diagrams import HOSTILE, Reader
from torch import Tensor, nn

from circuits.atlas import measures, open_dataset, write_atlas, write_unit
from circuits.atlas.images import SMALL
from circuits.atlas.pages import circuit_of
from circuits.atlas.views import crop_style
from circuits.diagrams.texts import shown
from circuits.graphs import build_graph
from circuits.meanings import Polysemanticity, layer_overview, read_polysemanticity, reason
from features.examples import read_examples
from features.models import Model, load_model

TINY_UNIT = "relu2:3"
TINY_LAYERS = ("relu1", "relu2", "relu3", "logits")
STEPS = 2


class Noise:
    """A few random images with labels."""

    def __init__(self, images: Tensor, labels: Sequence[str]) -> None:
        self.images, self.labels = images, tuple(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].float(), index % len(self.labels)


def noise(model: Model, *, count: int = 24, seed: int = 0) -> Noise:
    return Noise(random_images(count, seed=seed, size=model.image_size[0]), model.labels or ("none",))


def write_tiny_atlas(folder: Path, *, seed: int = 0, **options: Any) -> Path:
    model = tiny_model("plain", seed=seed)
    return write_atlas(
        model,
        noise(model),
        folder,
        **{"layers": TINY_LAYERS, "steps": STEPS, "count": 12, "progress": False, **options},
    )


def hostile_model() -> Model:
    """A network whose layers and classes carry hostile names."""
    names = [text.replace(".", "_") for text in HOSTILE if "\ud800" not in text]

    class Hostile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number, name in enumerate(names):
                self.add_module(name, nn.Conv2d(3 if number == 0 else 2, 2, 1))
            self.add_module("head", nn.Linear(2, len(HOSTILE)))

        def forward(self, x: Tensor) -> Tensor:
            for name in names:
                x = torch.relu(getattr(self, name)(x))
            return self.head(x.mean((2, 3)))

    with torch.random.fork_rng():
        net = Hostile().double().eval()
    labels = [text.replace("\ud800", "?") for text in HOSTILE]
    return load_model(fill(net), name=HOSTILE[0], image_size=8, mean=(0.5,) * 3, std=(0.3,) * 3, labels=labels)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_atlas(tmp_path_factory.mktemp("tiny") / "atlas").parent


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The long measurements that are made, by name; pictures with their layer."""
    made: list[str] = []

    def watched(name: str) -> None:
        real = getattr(measures, name)

        def call(*args: Any, **options: Any) -> Any:
            made.append(f"{name} {args[1][0].split(':')[0]}" if name == "visualize" else name)
            return real(*args, **options)

        monkeypatch.setattr(measures, name, call)

    for name in ("build_graph", "make_kernels", "find_examples", "polysemanticity", "visualize"):
        watched(name)
    return made


def pages_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_layer_and_every_unit_has_a_page(atlas: Path) -> None:
    model = tiny_model("plain")
    wanted = {"index.html"}
    for name in TINY_LAYERS:
        wanted |= {
            f"layers/{name}.html",
            *(f"units/{name}/{channel}.html" for channel in range(model.layer(name).channels)),
        }
    assert {path.relative_to(atlas).as_posix() for path in pages_of(atlas)} == wanted


def test_every_link_and_every_picture_leads_to_a_file_of_the_atlas(atlas: Path) -> None:
    for path in pages_of(atlas):
        text = text_of(path)
        found = re.findall(r'(?:href|src)="([^"]*)"', text) + re.findall(
            r"url\(&#39;([^&]*)&#39;\)|url\('([^']*)'\)", text
        )
        addresses = [part for each in found for part in ([each] if isinstance(each, str) else each) if part]
        assert addresses
        for address in addresses:
            if not address.startswith(("data:", "#")):
                assert (path.parent / unquote(address)).resolve().is_file(), f"{address} in {path}"
                assert (path.parent / unquote(address)).resolve().is_relative_to(atlas.resolve())


def test_a_units_page_says_what_was_measured(atlas: Path) -> None:
    graph = build_graph(tiny_model("plain"), TINY_LAYERS, progress=False)
    page = text_of(atlas / "units" / "relu2" / "3.html")
    inputs = sorted(graph.in_edges(TINY_UNIT, data=True), key=lambda edge: -edge[2]["strength"])
    section = page[page.index("<h2>Inputs</h2>") : page.index("<h2>Outputs</h2>")]
    assert re.findall(r"<bdi>(relu1:\d+)</bdi>", section) == [source for source, *_ in inputs][:8]
    weights = re.findall(r'class="weight \w+">([^<]*)<', section)
    assert weights == [f"{data['weight']:+.3g}".replace("-", "−") for *_, data in inputs][:8]
    assert page.count('class="kernel"') > 0
    assert "Fires at" in page
    assert 'class="histogram"' in page


def test_the_circuit_on_a_page_is_that_of_the_graph(atlas: Path) -> None:
    graph = circuit_of(build_graph(tiny_model("plain"), TINY_LAYERS, progress=False), TINY_UNIT)
    page = text_of(atlas / "units" / "relu2" / "3.html")
    block = re.search(r'class="circuit-data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    data = json.loads(block[1])
    names = [unit["name"] for unit in data["units"]]
    assert sorted(names) == sorted(graph)
    drawn = {(names[source], names[target]): weight for source, target, weight, *_ in data["edges"]}
    assert drawn.keys() == set(graph.edges)
    for edge, weight in drawn.items():
        assert weight == pytest.approx(graph.edges[edge]["weight"], rel=1e-3)
    assert names[data["focus"]] == TINY_UNIT
    assert len(data["kernels"]) == len(data["edges"])


def test_a_layers_sheet_holds_its_units_in_order(atlas: Path) -> None:
    model = tiny_model("plain")
    channels = model.layer("relu2").channels
    with Image.open(atlas / "pictures" / "relu2.webp") as sheet:
        columns = sheet.width // SMALL
        for channel in range(channels):
            box = (channel % columns * SMALL, channel // columns * SMALL)
            sprite = np.asarray(sheet.convert("RGB").crop((*box, box[0] + SMALL, box[1] + SMALL)), float)
            with Image.open(atlas / "pictures" / "relu2" / f"{channel}.webp") as single:
                alone = np.asarray(single.convert("RGB").resize((SMALL, SMALL)), float)
            assert np.abs(sprite - alone).mean() < 12


def test_class_units_carry_their_labels(atlas: Path) -> None:
    for channel, label in enumerate(CLASSES):
        assert f'<p class="lede"><bdi>{label}</bdi></p>' in text_of(atlas / "units" / "logits" / f"{channel}.html")


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 7, 7), (64, 64)), ((10, 40, 30, 64), (64, 64)), ((0, 0, 64, 64), (64, 64)), ((3, 5, 20, 9), (30, 90))],
)
def test_a_crop_shows_its_box_and_the_mark_frames_it(box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    style = {name: float(value) / 100 for name, value in re.findall(r"--(\w+):([-\d.e]+)%", crop_style(box, size))}
    (y0, x0, y1, x1), (height, width) = box, size
    for low, high, start, length, whole in ((x0, x1, "x", "w", width), (y0, y1, "y", "h", height)):
        edges = [style[start] + style[length] * edge / whole for edge in (low, high)]
        assert edges[0] >= -1e-4
        assert edges[1] <= 1 + 1e-4
        frame = [style["m" + start] - style["o" + start], style["m" + length]]
        assert frame[0] / style["o" + length] == pytest.approx(low / whole, abs=1e-4)
        assert frame[1] / style["o" + length] == pytest.approx((high - low) / whole, abs=1e-4)
    assert max(style["ow"], style["oh"]) == pytest.approx(1)


def test_a_flagged_unit_shows_why_its_groups_and_their_shares_and_layers_are_seen_at_a_glance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measures.polysemanticity
    minor = np.array([0] * 9 + [1] * 3)

    def flagging(*args: Any, **options: Any) -> Polysemanticity:
        found = real(*args, **options)
        here = np.array([unit == TINY_UNIT for unit in found.units])
        groups = np.where(here[:, None], minor, np.where(found.groups >= 0, 0, -1))
        said = [
            "polysemantic" if mine else verdict if verdict in ("dead", "diffuse") else "monosemantic"
            for mine, verdict in zip(here, found.verdicts, strict=True)
        ]
        meanings = np.where(here, 2, 1)
        return replace(found, flag=here, groups=groups, verdicts=tuple(said), meanings=meanings)

    monkeypatch.setattr(measures, "polysemanticity", flagging)
    index = write_tiny_atlas(tmp_path / "atlas")
    model, folder = tiny_model("plain"), index.parent
    judged = read_polysemanticity(folder / "data" / "meanings")
    page = text_of(folder / "units" / "relu2" / "3.html")
    words = re.search(r'<p class="verdict several">(.*?)</p>', page, re.DOTALL)
    assert words is not None and unescape(words[1]) == shown(reason(judged, TINY_UNIT), 400)
    notes = re.findall(r'<h3>(Meaning \d) <span class="soft">(\d+ of the 12 strongest examples \(\d+%\))', page)
    assert notes == [
        ("Meaning 1", "9 of the 12 strongest examples (75%)"), ("Meaning 2", "3 of the 12 strongest examples (25%)")
    ]  # fmt: skip
    body = page[page.index("<h3>Meaning 1") : page.index("What lowers it most")]
    numbers = [int(number) for number in re.findall(r'<img src="../../examples/(\d+).webp"', body)]
    examples = read_examples(folder / "data" / "examples")[TINY_UNIT]
    assert numbers == examples.image[[*np.flatnonzero(minor == 0), *np.flatnonzero(minor == 1)]].tolist()
    other = text_of(folder / "units" / "relu2" / "2.html")
    assert "<h3>Meaning" not in other and 'class="verdict several"' not in other
    layer = text_of(folder / "layers" / "relu2.html")
    share = 100 / model.layer("relu2").channels
    for text in (layer, text_of(index)):
        bars = re.findall(r'<span class="share-polysemantic" style="width:([\d.]+)%"', text)
        assert [float(width) for width in bars] == pytest.approx([share], rel=1e-3)
    summary = next(
        each
        for each in layer_overview(judged, read_examples(folder / "data" / "examples")).layers
        if each.layer == "relu2"
    )
    assert f"show {summary.meanings} meanings, {summary.features} of them different" in layer
    assert f"<td>{summary.units}</td><td>{summary.features}</td>" in text_of(index)


def test_without_a_dataset_nothing_is_said_of_superposition(tmp_path: Path) -> None:
    model = tiny_model("plain")
    index = write_atlas(model, None, tmp_path / "atlas", layers=TINY_LAYERS, steps=STEPS, progress=False)
    assert "Superposition at a glance" not in text_of(index)
    assert 'class="shares"' not in text_of(index.parent / "layers" / "relu2.html")


def test_pages_have_a_policy_a_language_and_one_copy_of_plotly(atlas: Path) -> None:
    for path in pages_of(atlas):
        text = text_of(path)
        assert "script-src 'self' file:;" in text
        assert '<html lang="en">' in text
        assert "<script>" not in text
        assert not re.search(r'(?:href|src)="https?:', text)
    assert [path.name for path in atlas.rglob("plotly*")] == ["plotly.min.js"]


def test_a_second_run_makes_nothing_and_says_so(
    atlas: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in atlas.rglob("*") if path.is_file()}
    write_tiny_atlas(atlas, progress=True)
    assert calls == []
    said = capsys.readouterr().err
    for sentence in (
        "reused wiring",
        "reused examples",
        "reused verdicts",
        "reused pictures of relu2 (7 units)",
        "pages",
    ):
        assert sentence in said
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in atlas.rglob("*") if path.is_file()}
    assert before == after


@pytest.fixture
def copy(atlas: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(atlas, tmp_path / "copy"))


def test_only_what_depends_on_a_change_is_made_again(copy: Path, calls: list[str]) -> None:
    model = tiny_model("plain")
    pictures = [f"visualize {layer}" for layer in TINY_LAYERS]
    write_tiny_atlas(copy, steps=1)
    assert calls == pictures
    calls.clear()
    write_tiny_atlas(copy, steps=1, count=9)
    assert calls == ["find_examples", "polysemanticity"]
    calls.clear()
    write_tiny_atlas(copy, steps=1, count=9, keep=3)
    assert calls == ["build_graph", "make_kernels"]
    calls.clear()
    write_atlas(model, noise(model, seed=1), copy, layers=TINY_LAYERS, steps=1, count=9, keep=3, progress=False)
    assert calls == ["find_examples", "polysemanticity"]
    calls.clear()
    write_tiny_atlas(copy, seed=1, steps=1, count=9, keep=3)
    assert calls == ["build_graph", "make_kernels", "find_examples", "polysemanticity", *pictures]


def test_fresh_reuses_nothing(copy: Path, calls: list[str]) -> None:
    write_tiny_atlas(copy, fresh=True)
    assert len(calls) == 4 + len(TINY_LAYERS)


def test_a_damaged_record_is_made_again(copy: Path, calls: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    victim = copy / "data" / "pictures" / "relu2" / "arrays.safetensors"
    victim.write_bytes(victim.read_bytes()[:-7])
    write_tiny_atlas(copy, progress=True)
    assert calls == ["visualize relu2"]
    assert "damaged" in capsys.readouterr().err


def test_a_page_that_was_lost_is_written_again(copy: Path, calls: list[str]) -> None:
    (copy / "units" / "relu2" / "3.html").unlink()
    write_tiny_atlas(copy)
    assert calls == []
    assert (copy / "units" / "relu2" / "3.html").is_file()


def test_a_stopped_run_continues_with_the_next_layer(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measures.visualize

    def until_third(*args: Any, **options: Any) -> Any:
        if args[1][0].startswith(TINY_LAYERS[2]):
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(measures, "visualize", until_third)
        with pytest.raises(KeyboardInterrupt):
            write_tiny_atlas(tmp_path / "atlas")
    assert not (tmp_path / "atlas" / "index.html").exists()
    calls.clear()
    write_tiny_atlas(tmp_path / "atlas")
    assert calls == [f"visualize {layer}" for layer in TINY_LAYERS[2:]]
    assert not list((tmp_path / "atlas").rglob("*.part"))


def test_fewer_layers_leave_no_pages_of_the_others(copy: Path) -> None:
    write_tiny_atlas(copy, layers=["relu2", "logits"])
    assert {path.name for path in (copy / "units").iterdir() if any(path.iterdir())} == {"relu2", "logits"}
    assert not (copy / "layers" / "relu1.html").exists()


def test_an_atlas_is_the_same_bytes_twice(atlas: Path, tmp_path: Path) -> None:
    again = write_tiny_atlas(tmp_path / "again").parent
    for path in atlas.rglob("*"):
        if path.is_file() and "data" not in path.relative_to(atlas).parts:
            assert path.read_bytes() == (again / path.relative_to(atlas)).read_bytes(), path


def test_without_a_dataset_the_pages_say_so(tmp_path: Path) -> None:
    index = write_atlas(tiny_model("plain"), None, tmp_path / "atlas", layers=TINY_LAYERS, steps=1, progress=False)
    assert "No dataset was given" in text_of(index)
    page = text_of(index.parent / "units" / "relu2" / "3.html")
    assert "No dataset was given" in page
    assert "histogram" not in page


def test_a_hostile_network_has_plain_pages(tmp_path: Path) -> None:
    model = hostile_model()
    index = write_atlas(model, noise(model), tmp_path / "atlas", steps=1, progress=False)
    root = (tmp_path / "atlas").resolve()
    for path in tmp_path.rglob("*"):
        assert path.resolve().is_relative_to(root)
    text = text_of(index)
    assert "What the units of <bdi>&lt;script&gt;window.hacked=1&lt;/script&gt;</bdi> see" in text
    allowed = {"atlas.js", "circuit.js", "plotly.min.js", "circuit-data"}
    for path in pages_of(index.parent):
        page = text_of(path)
        found = Reader(page)
        assert not found.handlers
        for script in re.findall(r"<script[^>]*>", page):
            assert any(name in script for name in allowed), script
        assert "\x00" not in page
    assert text_of(sorted((index.parent / "layers").iterdir())[0])
    assert {shown(name, 60) for name in model.default_layers} == {
        "".join(re.findall(r"<bdi>(.*?)</bdi>", each))
        .replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", '"').replace("&#39;", "'").replace("&amp;", "&")
        for each in re.findall(r"<h2><a.*?</h2>", text)
    }  # fmt: skip


def test_a_folder_that_is_no_atlas_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("my page")
    with pytest.raises(ValueError, match="holds no atlas"):
        write_tiny_atlas(tmp_path)
    assert (tmp_path / "index.html").read_text() == "my page"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_tiny_atlas(tmp_path / "file")


def test_bad_arguments_are_refused_before_any_work(tmp_path: Path, calls: list[str]) -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match="relu9"):
        write_atlas(model, None, tmp_path / "a", layers=["relu9", "logits"], progress=False)
    with pytest.raises(ValueError, match="two or more"):
        write_atlas(model, None, tmp_path / "a", layers=["relu1"], progress=False)
    with pytest.raises(ValueError, match="dataset is empty"):
        write_atlas(model, [], tmp_path / "a", progress=False)
    assert calls == []
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_one_unit_alone(tmp_path: Path, suffix: str) -> None:
    model = tiny_model("plain")
    path = write_unit(
        model, noise(model), TINY_UNIT, tmp_path / f"unit{suffix}", layers=TINY_LAYERS, steps=1, progress=False
    )
    if suffix == ".png":
        with Image.open(path) as picture:
            assert picture.width > picture.height > 100
    else:
        text = text_of(path)
        assert f"<title>{TINY_UNIT}</title>" in text
        assert text.count('alt="example ') > 3


def test_one_unit_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match="no channel 99"):
        write_unit(model, None, "relu2:99", tmp_path / "unit.html", progress=False)
    with pytest.raises(ValueError, match=r"\.html or \.png"):
        write_unit(model, None, TINY_UNIT, tmp_path / "unit.pdf", progress=False)


def test_a_folder_of_pictures_is_a_dataset(tmp_path: Path) -> None:
    model = tiny_model("plain")
    for number in range(3):
        folder = tmp_path / "pictures" / f"kind{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 30), (number * 80, 0, 0)).save(folder / "one.png")
    dataset = open_dataset(tmp_path / "pictures", model)
    assert len(dataset) == 3
    assert dataset.labels == ("kind0", "kind1", "kind2")
    assert tuple(dataset[0][0].shape) == (3, 12, 12)
    with pytest.raises(FileNotFoundError):
        open_dataset(tmp_path / "nothing", model)
