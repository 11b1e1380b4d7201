"""Mosaics show, where it is, what a layer says: on networks whose channels are colours the colours themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_untouched, random_images, tiny_model
from torch import Tensor, nn

from features.models import Model, load_model, probe
from features.mosaics import (
    ActivationAtlas,
    ActivationGrid,
    ActivationGroups,
    ActivationSheet,
    activation_atlas,
    activation_grid,
    activation_groups,
    activation_sheet,
    read_mosaic,
    write_activation_sheet,
    write_mosaic,
)
from features.mosaics.pieces import Neighbours, neighbourhood
from features.mosaics.vectors import maps_of
from features.objectives import direction
from features.parameterizations import fourier, pixels
from features.records import read_record, write_record
from features.visualization import visualize

RED, GREEN, BLUE, BLACK = torch.eye(4, 3, dtype=torch.float64)
QUICK: dict[str, Any] = {"steps": 8, "progress": False}


class Colours(nn.Module):
    """A network whose layer ``cells`` holds the mean red, green and blue of each 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.colours, self.relu, self.cells = nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4)
        self.logits = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.cells(self.relu(self.colours(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def colours() -> Model:
    net = Colours().double().eval()
    with torch.no_grad():
        net.colours.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
    return load_model(net, name="colours", image_size=16, mean=(0, 0, 0), std=(1, 1, 1))


def painted(*columns: Tensor) -> Tensor:
    """Give an image ``(3, 16, 16)`` of upright stripes."""
    return torch.cat([colour[:, None, None].expand(3, 16, 16 // len(columns)) for colour in columns], 2)


def hue(picture: np.ndarray) -> int:
    """Which of red, green and blue a picture has most of."""
    return int(picture.mean((0, 1)).argmax())


# Grids


def test_each_cell_shows_what_is_there(colours: Model) -> None:
    grid = activation_grid(colours, painted(RED, GREEN, BLUE, BLUE), "cells", **QUICK)
    assert grid.pictures.shape == (4, 4, 16, 16, 3) and grid.lengths.shape == (4, 4)
    assert [[hue(picture) for picture in row] for row in grid.pictures] == [[0, 1, 2, 2]] * 4


def test_where_the_layer_is_silent_the_cell_is_empty(colours: Model) -> None:
    grid = activation_grid(colours, painted(RED, BLACK), "cells", **QUICK)
    assert (grid.lengths[:, 2:] == 0).all() and (grid.pictures[:, 2:] == 1).all()
    assert (grid.lengths[:, :2] == 1).all() and (grid.pictures[:, :2] != 1).any()


def test_the_area_of_a_cell_is_the_length_of_its_vector(colours: Model) -> None:
    grid = activation_grid(colours, painted(RED, 0.25 * RED, BLACK, RED), "cells", **QUICK)
    np.testing.assert_allclose(grid.lengths[0], [1, 0.25, 0, 1])
    shown = grid.picture()
    inked = [(shown[:16, 17 * column : 17 * column + 16] != 1).any(2).sum() for column in range(4)]
    assert inked[0] > 200, "the fixture draws a picture without white"
    assert inked[1] == pytest.approx(inked[0] / 4, rel=0.1) and inked[2] <= 1 and inked[3] == inked[0]


def test_a_cell_is_the_picture_of_its_direction() -> None:
    """The slow way: the vector read by hand, its direction drawn alone."""
    model = tiny_model("strided")
    image = random_images(1)
    grid = activation_grid(model, image, "conv2", cosine=2, batch=1, steps=3, progress=False)
    with torch.no_grad(), probe(model, "conv2") as activations:
        model(image)
        values = activations["conv2"][0]
    assert grid.lengths.shape == values.shape[1:] and values.shape[1] != values.shape[2]
    for y, x in ((0, 0), (2, 4)):
        vector = values[:, y, x].float().numpy()
        alone = visualize(model, direction("conv2", vector, cosine=2), steps=3, batch=1, progress=False)
        np.testing.assert_array_equal(grid.pictures[y, x], alone.images[0])
        assert grid.lengths[y, x] == pytest.approx(np.linalg.norm(vector))


def test_the_canvas_may_be_small_and_the_model_is_left_as_it_was(colours: Model) -> None:
    with assert_untouched(colours.net):
        grid = activation_grid(colours, painted(RED, BLUE), "cells", canvas=pixels(8), **QUICK)
    assert grid.pictures.shape == (4, 4, 8, 8, 3)


def test_a_layer_that_is_silent_all_over_is_refused(colours: Model) -> None:
    for draw in (activation_grid, activation_groups):
        with pytest.raises(ValueError, match="layer 'cells' is silent all over the image"):
            draw(colours, painted(BLACK), "cells", **QUICK)


def test_a_layer_without_positions_is_one_cell(colours: Model) -> None:
    assert activation_grid(colours, painted(RED), "logits", **QUICK).lengths.shape == (1, 1)


# Tokens


def test_tokens_lie_as_their_patches_and_the_class_token_is_left_out() -> None:
    """The first normalization sees each patch alone, so that a changed patch changes its own place."""
    model = tiny_model("tokens")
    image = random_images(1)
    before = maps_of(model, image, "blocks.0.norm1")
    assert before.shape == (1, 8, 3, 3)
    for y, x in ((0, 0), (2, 1), (1, 2)):
        changed = image.clone()
        changed[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 0.1
        places = (maps_of(model, changed, "blocks.0.norm1") != before).any(1)[0].nonzero().tolist()
        assert places == [[y, x]]


def test_a_grid_of_tokens_has_a_cell_for_each_patch() -> None:
    grid = activation_grid(tiny_model("tokens"), random_images(1), "blocks.0", steps=1, progress=False)
    assert grid.lengths.shape == (3, 3)


def test_a_layer_with_channels_last_is_read_like_any_other() -> None:
    model, image = tiny_model("nhwc"), random_images(1)
    with torch.no_grad(), probe(model, "blocks.0") as activations:
        model(image)
        torch.testing.assert_close(maps_of(model, image, "blocks.0"), activations["blocks.0"].float())


def test_tokens_that_are_no_grid_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.logits = nn.LayerNorm(3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits(self.norm(x.flatten(2).transpose(1, 2)[:, :24]).mean(1))

    model = load_model(Odd().eval(), name="odd", image_size=12, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ValueError, match="layer 'norm' gives 24 tokens, which are no grid of patches of a 12 x 12"):
        maps_of(model, torch.rand(1, 3, 12, 12), "norm")


# Groups


def test_groups_of_neurons_are_found_where_they_fire(colours: Model) -> None:
    groups = activation_groups(colours, painted(RED, BLUE, BLUE, BLUE), "cells", count=2, **QUICK)
    assert groups.explained == pytest.approx(1, abs=1e-3)
    assert [hue(picture) for picture in groups.pictures] == [2, 0]
    np.testing.assert_allclose(groups.vectors, [[0, 0, 1], [1, 0, 0]], atol=1e-2)
    np.testing.assert_allclose(groups.heats[0], [[0, 1, 1, 1]] * 4, atol=1e-2)
    np.testing.assert_allclose(groups.heats[1], [[1, 0, 0, 0]] * 4, atol=1e-2)


@pytest.mark.parametrize(("net", "layer"), [("plain", "conv3"), ("batch_norm", "block2"), ("branch_concat", "mixed1")])
def test_the_strongest_group_comes_first(net: str, layer: str) -> None:
    model = tiny_model(net)
    groups = activation_groups(model, random_images(1), layer, count=4, steps=1, progress=False)
    strengths = [np.linalg.norm(heat) for heat in groups.heats]
    assert strengths == sorted(strengths, reverse=True) and strengths[-1] > 0


@pytest.mark.parametrize(("net", "layer"), [("batch_norm", "block2"), ("branch_concat", "mixed1")])
def test_heats_times_vectors_are_the_activations_but_for_what_is_not_explained(net: str, layer: str) -> None:
    model, image = tiny_model(net), random_images(1)
    groups = activation_groups(model, image, layer, count=3, steps=1, progress=False)
    values = maps_of(model, image, layer)[0].numpy()
    left = values - np.einsum("kyx,kc->cyx", groups.heats, groups.vectors)
    assert 1 - (left**2).sum() / (values**2).sum() == pytest.approx(groups.explained, abs=1e-4)
    assert 0.5 < groups.explained < 1 and (groups.heats >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(groups.vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 4, 1.5, True])
def test_a_number_of_groups_that_cannot_be_is_refused(colours: Model, count: Any) -> None:
    with pytest.raises(ValueError, match="layer 'cells' can be split into 1 to 3 groups"):
        activation_groups(colours, painted(RED, BLUE), "cells", count=count, **QUICK)


# Atlases


def three_colours(count: int = 60) -> list[tuple[Tensor, int]]:
    """Give images of one colour each, a little different, with the colour as label."""
    generator = torch.Generator().manual_seed(0)
    return [
        (0.6 * painted(colour) + 0.1 * torch.rand(3, 16, 16, generator=generator, dtype=torch.float64), label)
        for label, colour in [(index % 3, (RED, GREEN, BLUE)[index % 3]) for index in range(count)]
    ]


@pytest.fixture(scope="module")
def atlas(colours: Model) -> ActivationAtlas:
    return activation_atlas(colours, three_colours(), "cells", side=4, positions=2, alike=0.2, steps=20, progress=False)


def test_like_lies_near_like_and_shows_itself(atlas: ActivationAtlas) -> None:
    """No cell has vectors of two colours, and each cell's picture has the colour of its vectors."""
    assert len(atlas.cells) >= 3 and {hue(picture) for picture in atlas.pictures} == {0, 1, 2}
    for (row, column), picture in zip(atlas.cells, atlas.pictures, strict=True):
        labels = set(atlas.labels[atlas.members(row, column)].tolist())
        assert labels == {hue(picture)}


def test_a_cell_holds_the_mean_of_the_vectors_that_lie_in_it(colours: Model, atlas: ActivationAtlas) -> None:
    images = three_colours()
    assert atlas.layout.shape == (120, 2) and atlas.layout.min() >= 0 and atlas.layout.max() <= 1
    assert atlas.labels.tolist() == [images[index][1] for index in atlas.images]
    assert len({(i, *place) for i, place in zip(atlas.images, map(tuple, atlas.positions), strict=True)}) == 120
    for cell, count, vector in zip(atlas.cells, atlas.counts, atlas.vectors, strict=True):
        inside = [row for row, place in enumerate(atlas.layout) if tuple(np.minimum(place * 4 // 1, 3)) == tuple(cell)]
        assert inside == atlas.members(*cell).tolist() and len(inside) == count >= 3
        read = []
        for row in inside:
            y, x = atlas.positions[row]
            read.append(images[atlas.images[row]][0][:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2)).numpy())
        np.testing.assert_allclose(vector, np.mean(read, 0), rtol=1e-5)


def test_the_same_call_gives_the_same_atlas_and_another_seed_another(colours: Model) -> None:
    images = torch.stack([image for image, _ in three_colours(30)])

    def drawn(seed: int) -> ActivationAtlas:
        return activation_atlas(colours, images, "cells", side=2, least=1, seed=seed, steps=2, progress=False)

    with assert_untouched(colours.net):
        first, again, other = drawn(0), drawn(0), drawn(1)
    for name in ("pictures", "layout", "positions", "cells"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.positions != other.positions).any() and (first.labels == -1).all()


def test_neighbours_share_their_numbers_and_strangers_do_not() -> None:
    cells = np.array([[0, 0], [0, 1], [0, 2], [7, 7]])
    image = Neighbours(pixels(4), neighbourhood(cells, 0.5)).sized(3, (4, 4))
    start = image.start([torch.Generator().manual_seed(seed) for seed in range(4)])
    moved = start[0].clone()
    moved[0] += 1
    effect = (image.picture((moved,)) - image.picture(start)).abs().mean((1, 2, 3))
    assert float(effect[0]) > float(effect[1]) > float(effect[2]) > 1e-3 and float(effect[3]) < 1e-6


def test_pictures_that_share_nothing_are_their_own() -> None:
    cells = np.array([[0, 0], [0, 1]])
    alone, image = pixels(4).sized(3, (4, 4)), Neighbours(pixels(4), neighbourhood(cells, 0)).sized(3, (4, 4))
    start = alone.start([torch.Generator().manual_seed(seed) for seed in range(2)])
    torch.testing.assert_close(image.picture(start), alone.picture(start))
    with pytest.raises(ValueError, match="2 neighbours are drawn together, not 1"):
        image.picture((start[0][:1],))
    with pytest.raises(ValueError, match="alike is 1"):
        neighbourhood(cells, 1)


def test_neighbours_in_an_atlas_agree_more_than_without() -> None:
    """The mean difference of pictures side by side, over that of all pairs."""
    model = tiny_model("plain")
    images = random_images(60)

    def unlike(alike: float) -> float:
        atlas = activation_atlas(
            model, images, "relu2", side=3, positions=3, least=1, alike=alike, canvas=fourier(12), **QUICK
        )
        apart = np.abs(atlas.cells[:, None] - atlas.cells[None]).sum(2)
        differences = np.abs(atlas.pictures[:, None] - atlas.pictures[None]).mean((2, 3, 4))
        return float(differences[apart == 1].mean() / differences[apart >= 1].mean())

    assert unlike(0.5) < 0.95 * unlike(0.0)


def test_what_makes_no_atlas_is_refused(colours: Model) -> None:
    images = three_colours(30)
    with pytest.raises(ValueError, match="5 activation vectors that are not 0 make no atlas: give 10"):
        activation_atlas(colours, images[:5], "cells", **QUICK)
    with pytest.raises(ValueError, match="0 activation vectors that are not 0"):
        activation_atlas(colours, torch.zeros(20, 3, 16, 16), "cells", **QUICK)
    with pytest.raises(ValueError, match="of 8 x 8 cells hold 25 of the 30 vectors"):
        activation_atlas(colours, images, "cells", least=25, **QUICK)
    with pytest.raises(ValueError, match="side is 1: give a whole number of at least 2"):
        activation_atlas(colours, images, "cells", side=1, **QUICK)
    with pytest.raises(ValueError, match="no layer 'cell'"):
        activation_atlas(colours, images, "cell", **QUICK)
    with pytest.raises(ValueError, match="the image of item 0 is"):
        activation_atlas(colours, torch.rand(20, 3, 8, 8), "cells", **QUICK)


def test_a_cell_outside_the_atlas_is_refused(atlas: ActivationAtlas) -> None:
    with pytest.raises(ValueError, match=r"no cell \(4, 0\): the atlas has 4 rows and columns"):
        atlas.members(4, 0)


# Showing and keeping


@pytest.fixture(scope="module")
def mosaics(colours: Model, atlas: ActivationAtlas) -> dict[str, Any]:
    image = painted(RED, BLUE)
    return {
        "grid": activation_grid(colours, image, "cells", **QUICK),
        "groups": activation_groups(colours, image, "cells", count=2, **QUICK),
        "atlas": atlas,
    }


@pytest.mark.parametrize("noun", ["grid", "groups", "atlas"])
def test_mosaics_show_themselves(mosaics: dict[str, Any], noun: str) -> None:
    mosaic = mosaics[noun]
    assert mosaic._repr_png_()[1:4] == b"PNG"
    assert mosaic._repr_html_().count("<img") == {"grid": 2, "groups": 4, "atlas": len(mosaics["atlas"].cells)}[noun]
    assert "cells" in repr(mosaic)
    picture = mosaic.picture()
    assert picture.ndim == 3 and picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize(("noun", "kind"), [("grid", ActivationGrid), ("groups", ActivationGroups),
                                            ("atlas", ActivationAtlas)])  # fmt: skip
def test_mosaics_come_back_as_they_were(mosaics: dict[str, Any], noun: str, kind: type, tmp_path: Path) -> None:
    again = read_mosaic(write_mosaic(mosaics[noun], tmp_path / noun))
    assert type(again) is kind
    for name, value in vars(mosaics[noun]).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
        else:
            assert getattr(again, name) == value


def test_what_is_no_mosaic_is_not_written_or_read(mosaics: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ndarray is no mosaic"):
        write_mosaic(np.ones(3), tmp_path / "a")  # type: ignore[arg-type]
    folder = write_mosaic(mosaics["grid"], tmp_path / "b")
    arrays, fields = read_record(folder, "mosaic")
    write_record(tmp_path / "c", "mosaic", arrays=arrays, fields={**fields, "noun": "map"})
    with pytest.raises(ValueError, match="is of a mosaic 'map', which is none of grid, groups, atlas"):
        read_mosaic(tmp_path / "c")
    write_record(tmp_path / "d", "mosaic", arrays={**arrays, "lengths": np.ones((2, 4))}, fields=fields)
    with pytest.raises(ValueError, match="lengths"):
        read_mosaic(tmp_path / "d")
    arrays.pop("image")
    write_record(tmp_path / "e", "mosaic", arrays=arrays, fields=fields)
    with pytest.raises(ValueError, match="is no whole mosaic"):
        read_mosaic(tmp_path / "e")
    with pytest.raises(FileNotFoundError):
        read_mosaic(tmp_path / "nowhere")


# Sheets of all channels


def test_a_sheet_holds_what_the_layers_say() -> None:
    model, images = tiny_model("plain"), random_images(1)
    seen = activation_sheet(model, images[0], ["relu1", "relu3", "logits"])
    with torch.no_grad(), probe(model, ["relu1", "logits"]) as activations:
        model(images)
        relu, logits = activations["relu1"][0].numpy(), activations["logits"][0].numpy()
    np.testing.assert_allclose(seen.maps["relu1"], relu, rtol=1e-6)
    np.testing.assert_allclose(seen.maps["logits"][:, 0, 0], logits, rtol=1e-6)
    assert seen.sparsity("relu1") == pytest.approx((relu <= 0).mean())
    assert seen.magnitude("relu1") == pytest.approx(np.sqrt((relu**2).mean()), rel=1e-5)
    assert list(seen.maps) == ["relu1", "relu3", "logits"]


def test_a_silent_channel_is_white_and_counted() -> None:
    maps = {"a": np.stack([np.zeros((4, 4), np.float32), np.full((4, 4), 2.0, np.float32)])}
    seen = ActivationSheet("m", np.zeros((8, 8, 3)), maps)
    drawn = seen.draw("a")
    assert drawn.shape == (36, 72, 3) and (drawn[:, :36] == 1).all() and drawn[18, 54, 0] > drawn[18, 54, 2]
    assert seen.silent("a") == 0.5 and seen.sparsity("a") == 0.5


def test_the_page_of_a_sheet_names_every_channel_and_runs_nothing(tmp_path: Path) -> None:
    model = tiny_model("tokens")
    seen = activation_sheet(model, random_images(1)[0], ["blocks.0"])
    assert seen.maps["blocks.0"].shape == (8, 3, 3)
    page = write_activation_sheet(seen, tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count('tabindex="0"') == 8 and "<script" not in page and "blocks.0:7, at most" in page
    hostile = ActivationSheet("<b>", np.zeros((4, 4, 3)), {'"><script>': np.ones((1, 2, 2), np.float32)})
    assert "<script>" not in hostile._repr_html_() and "<b>" not in write_activation_sheet(
        hostile, tmp_path / "h.html"
    ).read_text(encoding="utf-8")


def test_sheets_of_other_sizes_and_layers_are_refused() -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match=r"an image is \(3, 12, 12\) for plain, not \(3, 8, 8\)"):
        activation_sheet(model, torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="no layer 'relu9'"):
        activation_sheet(model, torch.zeros(3, 12, 12), "relu9")
    with pytest.raises(ValueError, match="no layer was given"):
        activation_sheet(model, torch.zeros(3, 12, 12), [])
