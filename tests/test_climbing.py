"""The climb itself: textbook ascent by a slow reference, optimizers, groups, views, kept steps, sizes, memory, and what
happens when it goes wrong.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, tiny_model
from PIL import Image
from reference import slow_ascent, slow_momentum
from torch import Generator, Tensor, nn

from features.models import Model, load_model, probe
from features.objectives import Objective, channel, diversity, l2, neuron, through, total_variation
from features.parameterizations import (
    fourier,
    pixels,
    raw_pixels,
    shared,
    starting_from,
    transparent,
    within_linf,
)
from features.parameterizations.grids import RawPixels
from features.transforms import STANDARD, jitter
from features.visualization import NotFinite, Visualization, adam, ascend, canvas, momentum, plain, plans, visualize
from features.visualization.climbing import Scene, climb
from features.visualization.optimizers import OPTIMIZERS, made_for
from features.visualization.redirection import Redirected


def made(model: Model, what: Any, **options: Any) -> Visualization:
    return visualize(model, what, **{"steps": 6, "progress": False, **options})


def sized_model(net: nn.Module, size: int = 16) -> Model:
    return load_model(net.eval(), name="net", image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3)


# Textbook ascent


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", ["plain", "batch_norm", "residual", "inplace_relu", "depthwise"])
def test_textbook_ascent_is_what_the_textbook_says(name: str, normalized: bool) -> None:
    model = tiny_model(name)
    layer, rate = (
        {"plain": "conv2", "batch_norm": "block2", "residual": "stem", "depthwise": "stem"}.get(name, "features.2"),
        (0.02 if normalized else 0.5),
    )
    start = np.random.default_rng(1).random((12, 12, 3))
    wanted = slow_ascent(model, layer, 3, start.transpose(2, 0, 1), rate=rate, steps=5, normalized=normalized)
    result = ascend(model, f"{layer}:3", picture=start, rate=rate, normalized=normalized, steps=5, progress=False)
    found = [frame[0].transpose(2, 0, 1) for frame in result.frames.values()]
    assert len(found) == 6
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs * 255, atol=0.51)


def test_the_lessons_are_five_lines_each(sketches: Model) -> None:
    filters = ascend(sketches, [f"conv2d2:{index}" for index in range(40)], steps=3, progress=False)
    assert filters.to_image(columns=8).size == (8 * 66 - 2, 5 * 66 - 2)
    assert len(filters.sequence("conv2d2:7")) == 4
    assert (filters.scores > filters.history[0]).mean() > 0.9


def test_a_picture_to_start_from_may_be_an_array_or_a_tensor() -> None:
    start = np.random.default_rng(0).random((12, 12, 3))
    array, tensor = (
        ascend(tiny_model("plain"), "conv1:0", picture=given, steps=2, progress=False)
        for given in (start, torch.from_numpy(start).permute(2, 0, 1))
    )
    assert np.array_equal(array.images, tensor.images)
    np.testing.assert_allclose(array.sequence("conv1:0")[0], start, atol=0.51 / 255)


def test_a_picture_and_a_size_to_start_from_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="has its own size"):
        ascend(tiny_model("plain"), "conv1:0", picture=np.zeros((12, 12, 3)), size=12)
    with pytest.raises(ValueError, match=r"the picture is uint8 of shape \(12, 12, 3\): give floats"):
        ascend(tiny_model("plain"), "conv1:0", picture=np.zeros((12, 12, 3), np.uint8))


# Optimizers


@pytest.mark.parametrize("falling", [True, False])
def test_momentum_by_hand(falling: bool) -> None:
    gradients = list(np.random.default_rng(0).normal(size=(7, 3, 2, 5)) * np.array([1e-8, 1, 1e6])[:, None, None])
    numbers = torch.zeros(3, 2, 5, dtype=torch.float64, requires_grad=True)
    optimizer = made_for(momentum(0.3, decay=0.8), [numbers], 7) if falling else momentum(0.3, decay=0.8)([numbers])
    for gradient, wanted in zip(gradients, slow_momentum(gradients, rate=0.3, decay=0.8, falling=falling), strict=True):
        numbers.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose(numbers.detach().numpy(), wanted, atol=1e-12)


def test_adam_is_torchs_and_any_function_will_do() -> None:
    model = tiny_model("plain")
    ours = made(model, "conv2:1", optimizer=adam(0.05)).images
    assert np.array_equal(ours, made(model, "conv2:1", optimizer=lambda each: torch.optim.Adam(each, lr=0.05)).images)
    assert not np.array_equal(ours, made(model, "conv2:1").images)


@pytest.mark.parametrize(
    "optimizer",
    [
        *(make(0.05) for make in OPTIMIZERS.values()),
        lambda each: torch.optim.LBFGS(each, max_iter=3),
        torch.optim.NAdam,
    ],
    ids=[*OPTIMIZERS, "LBFGS", "NAdam"],
)
def test_every_optimizer_climbs(optimizer: Any) -> None:
    result = made(tiny_model("batch_norm"), ["block2:1", "block2:2"], optimizer=optimizer, transforms=(), steps=8)
    assert (result.scores > result.history[0]).all()


def test_optimizers_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"gave list: give momentum\(\), adam\(\), plain\(rate\), or a function"):
        made(tiny_model("plain"), "conv1:0", optimizer=list)
    for make in OPTIMIZERS.values():
        with pytest.raises(ValueError, match="rate is -1: give a finite number above 0"):
            make(-1)
    with pytest.raises(ValueError, match="decay is 1"):
        momentum(decay=1)


# Groups and views


def test_a_group_is_neighbours_from_different_noise_and_its_first_is_the_picture_alone() -> None:
    model = tiny_model("batch_norm")
    result = made(model, ["block1:0", "block2:3"], count=3, keep=[0])
    assert result.units == ("block1:0",) * 3 + ("block2:3",) * 3
    assert result.images.shape == (6, 12, 12, 3)
    assert len({image.tobytes() for image in result.frames[0]}) == 6
    assert np.array_equal(result.frames[0][[0, 3]], made(model, ["block1:0", "block2:3"], keep=[0]).frames[0])
    assert len(result.group("block2:3")) == 3
    assert np.array_equal(result.group("block2:3")[1], result.images[4])


def test_diversity_makes_the_pictures_of_a_group_differ() -> None:
    model = tiny_model("plain")
    same = made(model, "conv2:1", count=3, steps=25)
    apart = made(model, channel("conv2:1") - 5 * diversity("conv2"), count=3, steps=25)
    assert apart.spread.mean() > 2 * same.spread.mean()


def test_what_is_about_a_group_needs_one() -> None:
    with pytest.raises(ValueError, match="scores the pictures of a group together, and a group of 1 was asked for"):
        made(tiny_model("plain"), channel("conv2:1") - diversity("conv2"))


def test_a_group_that_shares_its_coarse_structure() -> None:
    assert (
        made(tiny_model("plain"), ["conv1:1", "conv1:2"], image=shared(pixels(), count=2), count=2).images.shape[0] == 4
    )


def test_views_of_a_picture_are_averaged() -> None:
    model = tiny_model("plain")
    one, three = (made(model, "conv2:1", views=views, transforms=()) for views in (1, 3))
    np.testing.assert_allclose(three.images, one.images, atol=1.5 / 255)
    seen: list[Tensor] = []

    def watch(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        seen.append(images.detach().clone())
        return images

    result = made(model, ["conv2:1", "conv2:2"], views=3, transforms=(*STANDARD, watch), steps=1)
    shown = seen[0].reshape(3, 2, 3, 12, 12)
    assert not torch.equal(shown[0], shown[1])
    with torch.no_grad(), probe(model, "conv2") as activations:
        model(seen[0])
        each = activations["conv2"].mean((2, 3)).reshape(3, 2, -1)
    np.testing.assert_allclose(result.history[0], [each[:, 0, 1].mean(), each[:, 1, 2].mean()], rtol=1e-6)


def test_objectives_that_edit_layers_render_beside_others_as_they_do_alone() -> None:
    model = tiny_model("plain")
    what = [channel("conv3:2"), through("conv3:2", ["conv1:0", "conv1:3"]), neuron("conv3:1")]
    together = made(model, what, transforms=())
    for index, objective in enumerate(what):
        assert together.scores[index] == pytest.approx(made(model, objective, transforms=()).scores[0], rel=0.02)
    assert together.scores[0] != pytest.approx(together.scores[1], rel=0.02)


def test_an_edited_layer_is_edited_while_the_picture_is_made() -> None:
    model, objective = tiny_model("plain"), through("conv3:2", ["conv1:0", "conv1:3"])
    result = made(model, [channel("conv3:2"), objective], transforms=(), keep=[0])
    start = torch.from_numpy(result.frames[0]).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad(), probe(model, "conv3", edits=objective.edits) as activations:
        model(start[1:])
        wanted = float(objective.score(activations)[0])
        model(start[1:] * 0.5)
        assert wanted != pytest.approx(float(objective.score(activations)[0]), rel=1e-2)
    assert result.history[0][1] == pytest.approx(wanted, rel=1e-2)
    with torch.no_grad(), probe(model, "conv3") as activations:
        model(start[1:])
        assert result.history[0][1] != pytest.approx(float(objective.score(activations)[0]), rel=2e-2)


def test_an_objective_of_the_picture_alone_runs_no_network() -> None:
    class Broken(nn.Module):
        broken = False

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            assert not self.broken
            return self.conv(x)

    model = sized_model(Broken())
    model.net.broken = True  # type: ignore[assignment]
    noise = torch.rand(3, 16, 16, generator=Generator().manual_seed(0))
    image = starting_from(noise, pixels())
    result = made(model, [-total_variation(), -l2()], image=image, transforms=(), steps=60, optimizer=momentum(0.3))
    variation = np.abs(np.diff(result.images, axis=1)).mean((1, 2, 3))
    assert variation[0] < 0.5 * np.abs(np.diff(noise.numpy(), axis=1)).mean()


# Alone and in a batch


def test_start_and_transforms_of_a_picture_do_not_depend_on_its_companions(sketches: Model) -> None:
    drawn: list[list[list[float]]] = []

    def note(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        drawn[-1].append([float(torch.rand(1, generator=each)) for each in generators])
        return images

    def rendered(what: Any, **options: Any) -> Visualization:
        drawn.append([])
        return made(sketches, what, steps=4, keep=[0], transforms=(*STANDARD, note), **options)

    units = [f"conv2d1:{channel}" for channel in range(5)]
    batch, alone, halves = rendered(units), rendered(units[3]), rendered(units, batch=2)
    assert np.array_equal(batch.frames[0][3], alone.frames[0][0])
    assert np.array_equal(batch.frames[0], halves.frames[0])
    mine = [step[3] for step in drawn[0]]
    assert mine == [step[0] for step in drawn[1]]
    assert mine == [step[1] for step in drawn[2][4:8]]  # the second chunk of two
    assert len(set(mine)) == 4


def test_the_random_numbers_of_a_picture_come_from_its_seed_its_name_and_its_purpose() -> None:
    seen: list[int] = []

    def note(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        seen.extend(each.initial_seed() for each in generators)
        return images

    made(tiny_model("plain"), "conv1:2", seed=9, count=2, steps=1, transforms=(note,))
    digests = [
        hashlib.sha256(text.encode()).digest() for text in ("9\nconv1:2\ntransforms", "9\nconv1:2\n1\ntransforms")
    ]
    assert seen == [int.from_bytes(each[:8], "big") >> 1 for each in digests]


# Kept steps


def test_kept_steps_are_the_pictures_on_the_way() -> None:
    model = tiny_model("plain")
    result = made(model, ["conv2:1", "conv1:0"], steps=7, keep=3)
    assert list(result.frames) == [0, 3, 6, 7]
    assert result.frames[0].dtype == np.uint8
    assert np.array_equal(result.frames[7], np.round(result.images * 255).astype(np.uint8))
    assert np.array_equal(result.frames[0] / np.float32(255), made(model, ["conv2:1", "conv1:0"], steps=0).images)
    assert list(made(model, "conv1:0", keep=(2, 5)).frames) == [2, 5]
    assert {2, 5} <= set(made(model, "conv1:0", keep=(2, 5)).history)
    assert not made(model, "conv1:0").frames
    assert [picture.shape for picture in result.sequence("conv1:0")] == [(12, 12, 3)] * 4


def test_a_film_shows_every_kept_step(tmp_path: Any) -> None:
    result = made(tiny_model("plain"), ["conv2:1", "conv1:0"], steps=7, keep=1, optimizer=momentum(1.0))
    for name, what, size in (("a.gif", None, 104), ("b.webp", "conv1:0", 96)):
        with Image.open(result.animate(tmp_path / name, unit=what)) as film:
            assert film.width == size
            pauses = []
            for frame in range(film.n_frames):  # equal neighbours are one frame of twice the time
                film.seek(frame)
                film.load()
                pauses.append(film.info["duration"])
            assert sum(pauses) == pytest.approx(5000, rel=0.02)
            assert pauses[-1] > 1000
            last = np.asarray(film.convert("RGB")).astype(float) / 255
        still = result["conv2:1"] if what is None else result[what]
        shrunk = last[4::8, 4::8][:12, :12] if what else last[2::4, 2::4][:12, :12]
        assert np.abs(shrunk - still).mean() < 0.1
    with pytest.raises(ValueError, match=r"'a\.png' names no film: end it with \.gif or \.webp"):
        result.animate(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no steps were kept"):
        made(tiny_model("plain"), "conv1:0").animate(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="a film of 0 seconds"):
        result.animate(tmp_path / "a.gif", seconds=0)


# What is optimized is not always what is seen


def test_transparent_pictures_keep_their_alpha_and_are_scored_over_grey() -> None:
    model = tiny_model("plain")
    result = made(model, "conv2:1", image=transparent(), keep=[0])
    assert result.images.shape == (1, 12, 12, 4)
    assert result["conv2:1"].shape == (12, 12, 3)
    values = torch.from_numpy(result.images).permute(0, 3, 1, 2).double()
    seen = values[:, :3] * values[:, 3:] + 0.5 * (1 - values[:, 3:])
    with torch.no_grad(), probe(model, "conv2") as activations:
        model(seen)
        assert result.scores[0] == pytest.approx(float(activations["conv2"][0, 1].mean()), rel=1e-5)
    colours, alpha = result.images[0, :, :, :3], result.images[0, :, :, 3:]
    np.testing.assert_allclose(result["conv2:1"], colours * alpha + 1 - alpha, atol=1e-6)


@dataclass(frozen=True)
class Counted(RawPixels):
    """Pixels that count how often they are put back."""

    calls: list[bool] = field(default_factory=list)

    def constrained(self, parameters: tuple[Tensor, ...]) -> None:
        self.calls.append(torch.is_grad_enabled())
        super().constrained(parameters)


def test_numbers_are_put_back_after_every_step_without_gradients() -> None:
    image = Counted((12, 12), 3)
    made(tiny_model("plain"), ["conv2:1", "conv2:2"], image=image, steps=5)
    assert image.calls == [False] * 5


def test_a_ball_is_not_left() -> None:
    picture = torch.rand(3, 12, 12, generator=Generator().manual_seed(3))
    image = within_linf(starting_from(picture, raw_pixels()), picture, 0.05)
    result = made(tiny_model("plain"), "conv2:1", image=image, optimizer=plain(0.5), keep=1)
    for frame in result.frames.values():
        assert np.abs(frame[0] / 255 - picture.permute(1, 2, 0).numpy()).max() <= 0.05 + 1 / 255


# Sizes


def pooling_net() -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2)) for _ in range(2)), nn.Conv2d(3, 4, 3))


def test_a_picture_that_is_too_small_is_told_the_least_size() -> None:
    model = sized_model(pooling_net(), size=32)
    with pytest.raises(ValueError, match=r"8 x 12 pixels are too few for '2': .* that works is 18 x 27"):
        made(model, "2:0", image=fourier((8, 12)))
    assert made(model, "2:0", image=fourier((18, 27))).images.shape == (1, 18, 27, 3)
    with pytest.raises(ValueError, match="17 x 26 pixels are too few"):
        made(model, "2:0", image=fourier((17, 26)))
    assert made(model, "0:0", image=fourier((8, 12))).images.shape == (1, 8, 12, 3)
    with pytest.raises(ValueError, match=r"8 x 40 pixels are too few for '2': .* that works is 18 x 90"):
        made(model, "2:0", image=fourier((8, 40)))  # larger than the network's own


def fixed_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))


def test_a_network_of_one_size_is_shown_that_size() -> None:
    model = sized_model(fixed_net())
    result = made(model, "2:1", image=fourier((8, 10)), size=16, steps=30)
    assert result.images.shape == (1, 8, 10, 3)
    assert result.scores[0] > result.history[0][0]
    assert result.settings["size"] == (16, 16)
    with pytest.raises(ValueError, match="leave the size out to get 16 x 16"):
        made(model, "2:1", image=fourier(8))
    with pytest.raises(ValueError, match="the size 'big' is none"):
        made(model, "2:1", size="big")


def test_a_canvas_has_room_for_what_a_unit_sees(sketches: Model) -> None:
    assert canvas(sketches, "logits:3") == sketches.image_size
    for layer in sketches.default_layers[:-1]:
        field, size = sketches.layer(layer).field, canvas(sketches, f"{layer}:0")
        assert field is not None
        assert all(min(32, whole) <= side <= whole for side, whole in zip(size, sketches.image_size, strict=True))
        assert size == sketches.image_size or min(size) >= max(field.size)
    assert canvas(sketches, ["conv2d0:0", "logits:1"]) == sketches.image_size
    assert canvas(sized_model(fixed_net()), "2:1") == (16, 16)
    with pytest.raises(ValueError, match="a canvas for no unit"):
        canvas(sketches, [])


# Number types


def test_bfloat16_gets_as_far_and_is_graded_in_float32(sketches: Model) -> None:
    units = ["conv2d1:3", "conv2d2:9"]
    whole, half = (made(sketches, units, steps=30, dtype=dtype) for dtype in (None, torch.bfloat16))
    np.testing.assert_allclose(half.scores, whole.scores, rtol=0.05)
    assert not np.array_equal(half.images, whole.images)
    images = torch.from_numpy(half.images).permute(0, 3, 1, 2)
    with torch.no_grad(), probe(sketches, ["conv2d1", "conv2d2"]) as activations:
        sketches(images)
        plain_scores = [float(channel(unit).score(activations)[index]) for index, unit in enumerate(units)]
    np.testing.assert_allclose(half.scores, plain_scores, rtol=1e-4)
    assert half.settings["dtype"] == "bfloat16"


def test_objectives_read_float32_whatever_the_network_computes_in(sketches: Model) -> None:
    seen: list[torch.dtype] = []

    def score(activations: Any) -> Tensor:
        seen.append(activations["conv2d1"].dtype)
        mean: Tensor = activations["conv2d1"].flatten(1).mean(1)
        return mean

    made(sketches, Objective(score, ("conv2d1",), "all"), dtype=torch.bfloat16, steps=2)
    assert set(seen) == {torch.float32}


def test_number_types_that_do_not_go_are_refused(sketches: Model) -> None:
    with pytest.raises(ValueError, match=r"dtype is torch\.int8: give torch\.bfloat16"):
        made(sketches, "conv2d0:0", dtype=torch.int8)
    with pytest.raises(ValueError, match=r"plain computes in torch\.float64: only a float32 network"):
        made(tiny_model("plain"), "conv1:0", dtype=torch.bfloat16)


# Memory


def recorded(sizes: list[int], *, most: int = 10**6) -> Any:
    def watch(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        sizes.append(len(images))
        if len(images) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return images

    return watch


def test_batches_are_halved_until_they_fit() -> None:
    model, units = tiny_model("plain"), [f"conv2:{channel}" for channel in range(7)]
    sizes: list[int] = []
    with assert_untouched(model.net):
        result = made(model, units, transforms=(recorded(sizes, most=2),), steps=2)
    assert result.units == tuple(units)
    assert sizes == [7, 3, 1, 1, 2, 2, 4, 2, 2, 2, 2]
    np.testing.assert_allclose(result.scores, made(model, units, transforms=(), steps=2).scores, rtol=1e-6)
    with assert_untouched(model.net), pytest.raises(MemoryError, match="1 picture of 'conv2:0' does not fit"):
        made(model, units, transforms=(recorded(sizes, most=0),))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        made(tiny_model("plain"), ["conv1:0", "conv1:1"], transforms=(broken,))


def test_a_chunk_keeps_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    model, units = tiny_model("plain"), [f"conv2:{channel}" for channel in range(6)]
    cost = 8 * 12 * 12 * (3 + 6 + 7)  # what is between: the picture, relu1 and conv2, which autograd must keep in part
    for bound, most in ((cost, 1), (10 * cost, 6), (0, 1)):
        sizes: list[int] = []
        monkeypatch.setitem(plans.MEMORY, "cpu", bound)
        made(model, units, transforms=(recorded(sizes),), steps=1)
        assert max(sizes) <= most
        assert sum(sizes) == 6
    monkeypatch.setitem(plans.MEMORY, "cpu", 10**9)
    sizes = []
    made(model, units, transforms=(recorded(sizes),), steps=1)
    assert sizes == [6]


# Scores that are not finite


def exploding(at: int) -> Any:
    calls: Iterator[int] = iter(range(10**6))

    def explode(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        return images * (math.inf if next(calls) == at else 1.0)

    return explode


def test_a_score_that_is_not_finite_stops_with_its_step_and_the_last_pictures() -> None:
    model = tiny_model("plain")
    with (
        assert_untouched(model.net),
        pytest.raises(NotFinite, match=r"the score of 'conv1:\d' is .* at step 4") as caught,
    ):
        made(model, ["conv1:0", "conv1:1"], transforms=(exploding(4),), steps=9)
    assert caught.value.step == 4
    assert caught.value.pictures is not None
    before = made(model, ["conv1:0", "conv1:1"], transforms=(), steps=9, keep=[3]).frames[3]
    kept = (caught.value.pictures.permute(0, 2, 3, 1) * 255).round().numpy()
    np.testing.assert_allclose(kept, before, atol=1)


def test_the_last_finite_picture_survives_steps_in_place() -> None:
    model = tiny_model("plain")
    numbers = torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64, requires_grad=True)
    scene = Scene(
        [numbers], lambda: numbers, lambda seen: seen["conv1"].mean((1, 2, 3)), ["conv1"],
        shown=lambda pictures: exploding_after(pictures, 2),
    )  # fmt: skip
    calls.clear()
    with pytest.raises(NotFinite) as caught:
        climb(model, scene, optimizer=plain(0.01), steps=5)
    assert caught.value.step == 2
    assert caught.value.pictures is not None
    assert not torch.equal(caught.value.pictures, numbers)


calls: list[int] = []


def exploding_after(images: Tensor, count: int) -> Tensor:
    calls.append(1)
    return images * (math.nan if len(calls) > count else 1.0)


def test_a_finished_picture_without_a_score_is_refused_too() -> None:
    calls: list[int] = []

    def score(activations: Any) -> Tensor:
        calls.append(1)
        values: Tensor = activations["conv1"].flatten(1).mean(1)
        return values if len(calls) <= 2 else values * math.nan

    with pytest.raises(NotFinite, match="is nan on the finished picture, after step 1"):
        made(tiny_model("plain"), Objective(score, ("conv1",), "odd"), steps=1)


# Guests


def test_functions_that_speak_lucents_protocols_are_taken(sketches: Model) -> None:
    def param_f() -> tuple[list[Tensor], Any]:
        numbers = torch.zeros(1, 3, 32, 32, requires_grad=True)
        return [numbers], lambda: torch.sigmoid(numbers)

    transforms = [lambda images: images * 0.9, jitter(0.1)]
    result = made(sketches, [lambda T: -T("conv2d0")[:, 3].mean()], image=param_f, transforms=transforms)
    assert result.images.shape == (1, 32, 32, 3)
    assert result.scores[0] > result.history[0][0]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_redirected_relu_lets_through_what_the_slower_way_does(inplace: bool) -> None:
    """ReLU has a way of its own past it; at relu6, below its ceiling, the general one is taken."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 5, 5, generator=draw)
    values[:2] -= 3  # wholly closed
    asleep = torch.tensor([True, False, True, False])
    arriving = torch.randn(4, 3, 5, 5, generator=draw)
    given = values.clone().requires_grad_()
    with Redirected(asleep):
        fast = F.relu(given * 1.0, inplace=inplace)
        slow = F.relu6(given)
    torch.testing.assert_close(fast, values.relu())
    found = torch.autograd.grad(fast, given, arriving)[0]
    torch.testing.assert_close(found, torch.autograd.grad(slow, given, arriving)[0])
    assert (found[0] != 0).any()
    assert not (found[1] != 0).any()
