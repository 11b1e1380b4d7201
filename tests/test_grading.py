"""Grades are what they say they are, by slow references; every verdict is made to happen."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from PIL import Image
from reference import slow_blur, slow_gram
from torch import Generator, Tensor, nn

from features.examples import find_examples
from features.models import Model, load_model, probe
from features.objectives import INPUT, channel, energy, interpolation, member, neuron, total_variation
from features.parameterizations import pixels, raw_pixels
from features.records import write_record
from features.transforms import transform
from features.visualization import (
    Visualization,
    ascend,
    plain,
    read_visualization,
    visualize,
    write_visualization,
)
from features.visualization.ascent import _verdict
from features.visualization.grading import BLUR, DRAWS, HELD_OUT, JPEG, ROBUST, STRONG, grade, verdict
from features.visualization.plans import Made, _generator


def made(model: Model, what: Any, **options: Any) -> Visualization:
    return visualize(model, what, **{"steps": 6, "progress": False, **options})


def filter_model(kernel: Tensor, *, bias: float = 0.0, size: int = 32, rectified: bool = True) -> Model:
    """A network of one filter ``(1, 3, kh, kw)``, and a ReLU."""
    convolution = nn.Conv2d(3, 1, tuple(kernel.shape[2:]))
    with torch.no_grad():
        convolution.weight.copy_(kernel)
        assert convolution.bias is not None
        convolution.bias.fill_(bias)
    net = nn.Sequential(convolution, *([nn.ReLU()] if rectified else [])).eval()
    return load_model(net, name="filter", image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3)


def noise_filter(size: int) -> Tensor:
    """A filter of random signs, of no sum: what it looks for is gone when it moves by a pixel."""
    signs = torch.randn(1, 3, size, size, generator=Generator().manual_seed(0)).sign()
    return signs - signs.mean()


def grating_filter() -> Tensor:
    _, x = np.mgrid[0:16, 0:16]
    return torch.from_numpy(np.cos(2 * np.pi * x / 16)).float().expand(1, 3, 16, 16)


# Verdicts


def test_a_unit_that_never_fires_is_dead() -> None:
    result = made(filter_model(torch.zeros(1, 3, 3, 3), bias=-1), "1:0")
    assert result.verdicts == ("dead",)
    assert result.scores[0] == result.peaks[0] == 0
    assert math.isnan(result.robustness[0])


def test_a_unit_that_sleeps_only_at_the_start_is_not_dead() -> None:
    model = filter_model(torch.full((1, 3, 3, 3), 1 / 27), bias=-0.5)
    result = made(model, "1:0", steps=40)
    assert result.history[0][0] == 0
    assert result.verdicts == ("ok",)


def test_a_unit_that_sleeps_at_the_end_is_dead_only_if_nothing_is_known_to_wake_it() -> None:
    model = filter_model(torch.full((1, 3, 3, 3), 1 / 27), bias=-2)
    dark, light = torch.zeros(3, 32, 32), torch.ones(3, 32, 32)
    by_night = find_examples(model, [dark, dark], ["1"], progress=False)
    by_day = find_examples(model, [dark, light], ["1"], progress=False)
    assert by_day["1:0"].maximum == 0  # nothing reaches this bias
    assert made(model, "1:0", steps=2, examples=by_night).verdicts == ("dead",)
    model = filter_model(torch.full((1, 3, 3, 3), 1 / 27), bias=-1)
    found = find_examples(model, [dark, light], ["1"], progress=False)
    assert found["1:0"].maximum > 0
    asleep = made(model, "1:0", steps=1, examples=found)
    assert asleep.scores[0] == 0
    assert asleep.verdicts == ("weak",)


@pytest.mark.parametrize(("seen", "wanted"), [(0.0, "dead"), (1.0, "weak")])
def test_a_unit_that_woke_and_fell_asleep_again_is_not_dead(seen: float, wanted: str) -> None:
    nothing = math.nan
    picture = Made(torch.zeros(3, 4, 4), 0.0, 0.0, nothing, nothing, silent=True, history={0: 0.0, 10: seen}, frames={})
    assert _verdict(picture, np.float32(nothing), np.float32(nothing)) == wanted


def test_as_little_of_a_unit_as_can_be_is_not_dead() -> None:
    result = made(filter_model(torch.full((1, 3, 3, 3), 1 / 27), bias=0.5), -channel("1:0"), steps=40)
    assert result.history[0][0] < 0
    assert result.scores[0] == 0
    assert result.verdicts == ("ok",)


def test_a_unit_that_always_fires_as_much_is_weak_not_dead() -> None:
    assert made(filter_model(torch.zeros(1, 3, 3, 3), bias=1), "1:0").verdicts == ("weak",)


def test_a_picture_that_lives_of_single_pixels_is_adversarial() -> None:
    model = filter_model(noise_filter(32))
    result = made(model, "1:0", image=raw_pixels(), transforms=(), optimizer=plain(0.1), steps=10)
    assert result.scores[0] > 10 * max(result.history[0][0], 1e-3)
    assert result.robustness[0] < 0.2
    assert result.verdicts == ("adversarial",)


def test_a_picture_that_shows_what_excites_is_ok() -> None:
    result = made(filter_model(grating_filter()), "1:0", steps=60)
    assert result.robustness[0] > 0.6
    assert result.verdicts == ("ok",)


def test_a_picture_below_the_strongest_example_is_weak() -> None:
    model = filter_model(grating_filter())
    _, x = np.mgrid[0:32, 0:32]
    waves = torch.from_numpy(0.5 + 0.5 * np.cos(2 * np.pi * x / 16)).float().expand(3, 32, 32)
    examples = find_examples(model, [waves, waves * 0.2], ["1"], progress=False)
    few, many = (made(model, "1:0", steps=steps, examples=examples, transforms=()) for steps in (2, 60))
    with torch.no_grad(), probe(model, "1") as activations:
        model(waves[None])
        strongest = float(activations["1"].max())
    assert few.natural[0] == pytest.approx(strongest, rel=1e-5)
    assert few.ratio[0] == pytest.approx(few.peaks[0] / strongest)
    assert few.ratio[0] < STRONG
    assert few.verdicts == ("weak",)
    assert many.ratio[0] > 0.6
    assert made(model, "1:0", steps=2, transforms=()).verdicts == ("ok",)  # without examples nobody knows


def test_a_neuron_is_graded_by_its_unit_and_what_is_made_of_it_is_not() -> None:
    model = tiny_model("plain")
    examples = find_examples(model, list(torch.rand(5, 3, 12, 12, generator=Generator().manual_seed(0))), ["conv2"],
                             progress=False)  # fmt: skip
    one = neuron("conv2:1", (1, 2))
    graded = made(model, [channel("conv2:1"), one], examples=examples)
    assert graded.natural[0] == graded.natural[1] == examples["conv2:1"].maximum
    np.testing.assert_allclose(graded.ratio, graded.peaks / graded.natural, rtol=1e-6)
    others = made(
        model, [-one, 2 * one, one + one, member(one, 0), interpolation(one, -one)], count=2, examples=examples
    )
    assert np.isnan(others.natural).all()
    assert np.isnan(others.peaks).all()


def test_a_picture_that_is_no_better_than_its_noise_is_weak() -> None:
    assert made(tiny_model("plain"), "conv2:1", steps=0).verdicts == ("weak",)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, "ok"),
        ({"silent": True, "score": 0.0, "start": 0.0}, "dead"),
        ({"silent": True, "score": -2.0, "start": -2.0}, "dead"),
        ({"silent": True, "score": 0.0, "start": 0.5}, "weak"),  # it fired in the noise
        ({"silent": True, "score": 0.0, "start": -0.5}, "ok"),  # the negative of a unit cannot get higher
        ({"silent": True, "score": 0.0, "start": 0.0, "ratio": 0.0, "natural": 3.0}, "weak"),  # it fires in the data
        ({"silent": True, "score": 0.0, "start": 0.0, "natural": 0.0}, "dead"),
        ({"silent": True}, "ok"),
        ({"ratio": STRONG - 0.01}, "weak"),
        ({"ratio": STRONG}, "ok"),
        ({"ratio": 0.1, "robustness": 0.1}, "weak"),
        ({"score": 1.0, "start": 1.0}, "weak"),
        ({"robustness": ROBUST - 0.01}, "adversarial"),
        ({"robustness": ROBUST}, "ok"),
        ({"robustness": math.nan, "ratio": math.nan}, "ok"),
    ],
)
def test_the_rule(change: dict[str, Any], wanted: str) -> None:
    picture = {"silent": False, "score": 2.0, "start": 1.0, "ratio": 1.5, "robustness": 0.9}
    assert verdict(**{**picture, **change}) == wanted


# The numbers


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)).save(buffer, "jpeg", quality=JPEG)
    return np.asarray(Image.open(buffer)).transpose(2, 0, 1) / 255


def test_robustness_is_the_mean_over_held_out_transforms_picture_by_picture() -> None:
    model, units = tiny_model("plain"), ["conv2:1", "conv3:4"]
    result = made(model, units, seed=5)
    for index, unit in enumerate(units):
        image = torch.from_numpy(result.images[index]).permute(2, 0, 1)[None].double()
        chance = _generator(5, unit, 0, "held out")
        shown = [transform(image, HELD_OUT, [chance]) for _ in range(DRAWS)]
        blurred = np.stack([slow_blur(plane, 12 * BLUR) for plane in image[0].numpy()])
        shown += [torch.from_numpy(blurred)[None], torch.from_numpy(jpeg(image[0].numpy()))[None]]
        scores = [score(model, unit, each) for each in shown]
        assert result.robustness[index] == pytest.approx(np.mean(scores) / score(model, unit, image), rel=1e-5)


def score(model: Model, unit: str, images: Tensor) -> float:
    with torch.no_grad(), probe(model, unit.partition(":")[0]) as activations:
        model(images)
        return float(channel(unit).score(activations)[0])


def test_a_plain_colour_is_perfectly_robust() -> None:
    model = filter_model(torch.full((1, 3, 3, 3), 1 / 27), bias=1)
    grades = grade(
        reader(model, "1"), channel("1:0").score, [channel("1:0")], torch.full((1, 3, 32, 32), 100 / 255),
        [Generator().manual_seed(0)], layer="1",
    )  # fmt: skip
    assert float(grades.robustness[0]) == pytest.approx(1, abs=1e-4)


def reader(model: Model, layer: str) -> Any:
    def read(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), probe(model, layer) as activations:
            model(images)
            return {INPUT: images, layer: activations[layer]}

    return read


def test_peaks_are_the_largest_activations() -> None:
    model = tiny_model("batch_norm")
    result = made(model, ["block1:2", neuron("block2:1"), "logits:3", "block2:5"])
    with torch.no_grad(), probe(model, ["block1", "block2", "logits"]) as activations:
        model(torch.from_numpy(result.images).permute(0, 3, 1, 2).double())
        wanted = [
            activations["block1"][0, 2].max(),
            activations["block2"][1, 1].max(),
            activations["logits"][2, 3],
            activations["block2"][3, 5].max(),
        ]
    np.testing.assert_allclose(result.peaks, np.array(wanted, float), rtol=1e-5)
    assert result.peaks[0] > result.scores[0]


def test_spread_is_the_distance_of_gram_matrices() -> None:
    model = tiny_model("plain")
    result = made(model, ["conv2:1", "conv2:3"], count=3)
    with torch.no_grad(), probe(model, "conv2") as activations:
        model(torch.from_numpy(result.images).permute(0, 3, 1, 2).double())
        grams = [slow_gram(each.numpy()).ravel() for each in activations["conv2"]]
    grams = [gram / np.linalg.norm(gram) for gram in grams]
    for index in range(6):
        others = [other for other in range(index // 3 * 3, index // 3 * 3 + 3) if other != index]
        wanted = np.mean([1 - grams[index] @ grams[other] for other in others])
        assert result.spread[index] == pytest.approx(wanted, abs=1e-5)
    assert np.isnan(made(model, "conv2:1").spread).all()


def test_grades_that_mean_nothing_are_nan_and_no_reason_for_a_verdict() -> None:
    negative = filter_model(torch.full((1, 3, 3, 3), 0.01), bias=-9, rectified=False)
    result = made(negative, ["0:0", -channel("0:0"), -total_variation()], steps=20)
    assert result.scores[0] < 0 < result.scores[1]
    assert math.isnan(result.robustness[0])
    assert math.isfinite(result.robustness[1])
    assert math.isnan(result.peaks[1])
    assert result.verdicts[0] == "ok"
    examples = find_examples(negative, [torch.rand(3, 32, 32)], ["0"], progress=False)
    graded = made(negative, ["0:0"], examples=examples)
    assert graded.natural[0] < 0
    assert math.isnan(graded.ratio[0])


def test_grades_do_not_depend_on_companions(sketches: Model) -> None:
    units = [f"conv2d1:{index}" for index in range(4)]
    whole, alone = made(sketches, units, steps=0), made(sketches, units[2], steps=0)
    assert whole.robustness[2] == pytest.approx(alone.robustness[0], rel=1e-4)
    assert whole.peaks[2] == pytest.approx(alone.peaks[0], rel=1e-4)


def test_textbook_pictures_are_less_robust(sketches: Model) -> None:
    units = [f"conv2d2:{index}" for index in range(8)]
    assert np.median(made(sketches, units, steps=30).robustness) > np.median(
        ascend(sketches, units, progress=False).robustness
    )


def test_examples_of_another_network_are_refused() -> None:
    model, other = tiny_model("plain"), tiny_model("plain", seed=1)
    examples = find_examples(other, [torch.rand(3, 12, 12)], ["conv2"], progress=False)
    with pytest.raises(ValueError, match="the examples are of other weights than plain's"):
        made(model, "conv2:1", examples=examples)
    with pytest.raises(ValueError, match="no examples of layer 'conv1'"):
        made(other, "conv1:1", examples=examples)
    without_unit = made(other, energy("conv1"), examples=examples)
    assert np.isnan(without_unit.natural).all()


# On disk and on the screen


def test_grades_and_kept_steps_come_back_from_disk(tmp_path: Path) -> None:
    model = tiny_model("plain")
    examples = find_examples(model, [torch.rand(3, 12, 12)], ["conv2"], progress=False)
    result = made(model, ["conv2:1", "conv2:3"], count=2, keep=2, examples=examples, image=pixels())
    back = read_visualization(write_visualization(result, tmp_path / "pictures"))
    for name in ("peaks", "natural", "ratio", "robustness", "spread"):
        assert np.array_equal(getattr(back, name), getattr(result, name), equal_nan=True)
        assert getattr(back, name).dtype == np.float32
    assert back.verdicts == result.verdicts
    assert list(back.frames) == [0, 2, 4, 6]
    assert all(np.array_equal(back.frames[step], result.frames[step]) for step in result.frames)


def test_records_from_before_there_were_grades_are_read(tmp_path: Path) -> None:
    arrays = {"images": np.zeros((1, 2, 2, 3), np.uint8), "scores": np.ones(1, np.float32), "history": np.zeros((0, 1))}
    fields = {"units": ["a:0"], "steps": [], "seed": 0, "settings": {}, "digest": ""}
    write_record(tmp_path, "visualization", arrays=arrays, fields=fields)
    back = read_visualization(tmp_path)
    assert back.verdicts == ("",)
    assert np.isnan(back.robustness).all()
    assert not back.frames


def test_grades_are_shown() -> None:
    shown = Visualization(
        ("a:0", "a:1"), np.full((2, 4, 4, 3), 0.5, np.float32), np.array([1.5, 2], np.float32), {}, 0, {}, "",
        ratio=np.array([2.25, np.nan], np.float32), robustness=np.array([0.875, np.nan], np.float32),
        verdicts=("ok", "weak"),
    )  # fmt: skip
    first, second = shown._repr_html_().split("</figure>")[:2]
    assert "1.5 ok" in first
    assert "2.2x natural" in first
    assert "88% robust" in first
    assert "2 weak" in second
    assert "natural" not in second
