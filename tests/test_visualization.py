"""Pictures excite what they were made for; the network comes back as it was; randomness has one source."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NETS, assert_untouched, random_images, tiny_model
from torch import Generator, Tensor, nn

from features.models import Model, load_model, probe
from features.objectives import Objective, channel, direction, energy, neuron, through
from features.parameterizations import fourier, pixels
from features.records import write_record
from features.transforms import STANDARD
from features.units import Unit
from features.visualization import Visualization, read_visualization, visualize, write_visualization
from features.visualization.folding import folded, frozen
from features.visualization.optimizers import momentum
from features.visualization.redirection import Redirected


def made(model: Model, what: Any, **options: Any) -> Visualization:
    return visualize(model, what, **{"steps": 12, "progress": False, **options})


def plain_model(net: nn.Module, *, size: int = 16, channels: int = 3) -> Model:
    options = {"image_size": size, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return load_model(net.eval(), name="net", **options)


def one_filter(kernel: Tensor, bias: float = 0.0) -> nn.Sequential:
    """A convolution with one given kernel, followed by a ReLU."""
    convolution = nn.Conv2d(kernel.shape[1], len(kernel), tuple(kernel.shape[2:]))
    with torch.no_grad():
        convolution.weight.copy_(kernel)
        assert convolution.bias is not None
        convolution.bias.fill_(bias)
    return nn.Sequential(convolution, nn.ReLU())


# What is made


@pytest.mark.parametrize("image", [fourier(), pixels()], ids=["fourier", "pixels"])
def test_the_picture_of_a_filter_is_the_filter(image: Any) -> None:
    y, x = np.mgrid[0:12, 0:12]
    wavelet = np.cos(2 * np.pi * (x + 0.5 * y) / 6) * np.exp(-((x - 5.5) ** 2 + (y - 5.5) ** 2) / 18)
    kernel = torch.from_numpy(wavelet - wavelet.mean()).float().expand(1, 3, 12, 12)
    picture = made(plain_model(one_filter(kernel), size=12), "0:0", image=image, transforms=(), steps=60)["0:0"]
    assert np.corrcoef(picture.mean(2).ravel(), wavelet.ravel())[0, 1] > 0.8


def test_the_picture_of_a_grating_filter_is_its_grating_everywhere() -> None:
    _, x = np.mgrid[0:8, 0:8]
    wave = torch.from_numpy(np.cos(2 * np.pi * x / 4)).float().expand(1, 3, 8, 8)
    result = made(plain_model(one_filter(wave), size=32), "1:0", image=pixels(), transforms=(), steps=40)
    picture = result["1:0"].mean(2)
    power = np.abs(np.fft.rfft2(picture - picture.mean())) ** 2
    row, column = divmod(int(power.argmax()), power.shape[1])
    assert min(row, 32 - row) <= 1
    assert abs(column - 8) <= 1


def test_every_step_is_worth_it() -> None:
    model = tiny_model("batch_norm")
    result = made(model, ["block2:1", "block3:2", "logits:3"], steps=41)
    assert list(result.history) == [0, 10, 20, 30, 40]
    assert (result.scores > result.history[0]).all()


def test_the_score_is_that_of_the_picture_given(sketches: Model) -> None:
    units = ["mixed3a:3", "conv2d0:1", "logits:2"]
    result = made(sketches, units, steps=4)
    images = torch.from_numpy(result.images).permute(0, 3, 1, 2)
    with torch.no_grad(), probe(sketches, ["conv2d0", "mixed3a", "logits"]) as activations:
        sketches(images)
        plain = [float(channel(unit).score(activations)[index]) for index, unit in enumerate(units)]
    np.testing.assert_allclose(result.scores, plain, rtol=1e-4, atol=1e-5)
    assert np.array_equal(np.round(result.images * 255) / np.float32(255), result.images)


def test_results_are_in_the_callers_order_whatever_the_layers() -> None:
    model = tiny_model("plain")
    what = ["logits:1", neuron("conv2:3", (2, 9)), Unit("conv1", 0), "conv2:1", channel("conv1:2") - energy("conv3")]
    result = made(model, what, batch=2)
    names = ["logits:1", "conv2:3 at (2, 9)", "conv1:0", "conv2:1", "conv1:2 - energy of conv3"]
    assert list(result.units) == names
    for index, objective in enumerate(what):
        alone = made(model, objective, batch=2)
        assert result.scores[index] == pytest.approx(alone.scores[0], rel=0.02)


def test_a_neuron_excites_its_own_position() -> None:
    model = tiny_model("plain")
    what = [neuron("conv1:2", place) for place in ((1, 9), (9, 1))]
    images = made(model, what, transforms=(), steps=20).images
    changed = np.abs(images - 0.5).sum(3)
    rows_first = [np.unravel_index(each.argmax(), each.shape) for each in changed]
    assert [(abs(y - 1) <= 2, abs(x - 9) <= 2) for y, x in rows_first[:1]] == [(True, True)]
    assert [(abs(y - 9) <= 2, abs(x - 1) <= 2) for y, x in rows_first[1:]] == [(True, True)]


def test_less_of_an_objective_is_less() -> None:
    model = tiny_model("plain")
    more, less = made(model, [channel("conv2:3"), -channel("conv2:3")], transforms=()).scores
    assert -less < more


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_network_has_pictures(name: str) -> None:
    model = tiny_model(name)
    units = [f"{layer.name}:0" for layer in model.layers]
    result = made(model, units, steps=3)
    assert result.images.shape == (len(units), 12, 12, 3)
    assert np.isfinite(result.scores).all()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_networks_for_other_images_than_colour(channels: int) -> None:
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU())
    result = made(plain_model(net, channels=channels), ["0:1", "1:2"], steps=3)
    assert result.images.shape == (2, 16, 16, 3 if channels == 1 else channels)
    assert result["0:1"].shape == (16, 16, 3)
    assert np.ptp(result["0:1"], axis=2).max() == 0


def test_pictures_need_not_be_square_nor_as_large_as_the_networks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert made(plain_model(net), "0:1", image=fourier((10, 22)), steps=2).images.shape == (1, 10, 22, 3)


def test_a_network_of_one_size_gets_its_size_and_says_so_otherwise() -> None:
    model = tiny_model("tokens")
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    assert made(plain_model(fixed), "2:1").images.shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match="does not take pictures of 20 x 20 pixels: leave the size out to get 16 x 16"):
        made(plain_model(fixed), "2:1", image=fourier(20))
    assert made(model, "blocks.1:3").images.shape == (1, 12, 12, 3)


# Dead units


def dead_from_noise() -> Model:
    """Two units that are silent on grey and on noise and fire on bright pictures: ``relu(m - 0.5)``, and of that
    ``relu(x - 0.2)``.
    """
    kernel = torch.full((1, 3, 3, 3), 1 / 27)
    first, second = one_filter(kernel, bias=-0.5), one_filter(torch.ones(1, 1, 1, 1), bias=-0.2)
    return plain_model(nn.Sequential(first, second))


def test_a_unit_that_is_dead_from_noise_wakes() -> None:
    model = dead_from_noise()
    images = torch.rand(32, 3, 16, 16, generator=Generator().manual_seed(0))
    with torch.no_grad(), probe(model, "1.1") as activations:
        model(0.5 + 0.02 * (images - 0.5))
        assert activations["1.1"].max() == 0
        model(torch.ones(1, 3, 16, 16))
        assert activations["1.1"].min() > 1
    result = made(model, ["1.1:0", "0.1:0"], steps=60)
    assert (result.scores > 0.9).all()
    assert result.history[0].tolist() == [0, 0]


def test_a_unit_that_can_never_fire_stays_silent_without_an_error() -> None:
    model = plain_model(one_filter(torch.zeros(1, 3, 3, 3), bias=-1))
    assert made(model, "1:0").scores[0] == 0


def test_a_dead_image_does_not_change_its_neighbours() -> None:
    kernel = torch.cat(
        [torch.full((1, 3, 3, 3), 1 / 27), torch.randn(1, 3, 3, 3, generator=Generator().manual_seed(2))]
    )
    net = one_filter(kernel)
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-0.5, 0.1]))  # type: ignore[union-attr, operator]
    model = plain_model(net)
    alone, together = made(model, ["1:1"]), made(model, ["1:0", "1:1"])
    np.testing.assert_allclose(together["1:1"], alone["1:1"], atol=2 / 255)
    assert together.scores[0] > 0


RECTIFIERS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "torch.relu_": torch.relu_,
    "clamp": lambda x: x.clamp(min=0),
    "clamp at position": lambda x: torch.clamp(x, 0, 5),
    "clamp_min": lambda x: x.clamp_min(0),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "module 6": nn.ReLU6(),
}


@pytest.mark.parametrize("rectify", RECTIFIERS.values(), ids=RECTIFIERS.keys())
def test_what_a_relu_blocks_is_let_through_where_it_would_open_it(rectify: Any) -> None:
    # Rows: all closed, one open, all closed but not asleep. Columns: wanted up, wanted down, wanted up.
    leaf = torch.tensor([[-1.0, -1.0, -2.0], [-1.0, -1.0, 2.0], [-1.0, -1.0, -2.0]], requires_grad=True)
    with Redirected(torch.tensor([True, True, False])):
        y = rectify(leaf * 1)
    assert y.tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 0]]
    loss = -(y * torch.tensor([1.0, -1.0, 3.0])).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.tolist() == [[-1, 0, -3], [0, 0, -3], [0, 0, 0]]


def test_clamps_that_are_no_relu_are_left_alone() -> None:
    x = torch.tensor([[-1.0], [3.0]], requires_grad=True)
    with Redirected(torch.tensor([True, True])):
        y = (x.clamp(-2, 2) + x.clamp(max=1) + x.clamp(min=torch.tensor(0.0))).sum()
    assert torch.autograd.grad(-y, x)[0].flatten().tolist() == [-2, -1]


# The network comes back


@pytest.mark.parametrize("name", ["batch_norm", "residual", "inplace_relu", "reused_module", "tokens"])
def test_the_network_and_the_random_numbers_are_left_as_they_were(name: str) -> None:
    model = tiny_model(name)
    for index, parameter in enumerate(model.net.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        if index % 2 == 0:
            parameter.grad = torch.full_like(parameter, 3)
    with assert_untouched(model.net):
        made(model, ["logits:0", f"{model.layers[0].name}:1"], steps=2)


class Trap(Exception):
    pass


def trap(images: Tensor, chances: Sequence[Generator]) -> Tensor:
    raise Trap


@pytest.mark.parametrize("where", ["transform", "objective", "keyboard"])
def test_the_network_is_left_as_it_was_after_an_exception(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("batch_norm")

    def stop(activations: Any) -> Tensor:
        raise KeyboardInterrupt if where == "keyboard" else Trap

    broken = Objective(stop, ("block1",), "broken")
    options: dict[str, Any] = {"transforms": (trap,)} if where == "transform" else {}
    what = "block2:1" if where == "transform" else broken
    with assert_untouched(model.net), pytest.raises((Trap, KeyboardInterrupt)):
        made(model, what, **options)


def test_pictures_are_made_under_no_grad_and_inference_mode_too(sketches: Model) -> None:
    expected = made(sketches, "conv2d1:3", steps=3)
    with torch.no_grad():
        assert np.array_equal(made(sketches, "conv2d1:3", steps=3).images, expected.images)
    with torch.inference_mode():
        assert np.array_equal(made(sketches, "conv2d1:3", steps=3).images, expected.images)


def test_frozen_restores_after_an_exception() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    with contextlib.suppress(Trap), frozen(net):
        assert not net.weight.requires_grad
        raise Trap
    assert net.weight.requires_grad
    assert not net.bias.requires_grad


# Folding


@pytest.mark.parametrize("name", NETS)
def test_a_folded_network_reads_as_the_plain_one(name: str) -> None:
    model, images = tiny_model(name), random_images(3).requires_grad_()
    names = [layer.name for layer in model.layers]
    for layers in [names, *([each] for each in names)]:
        with torch.no_grad(), probe(model, layers) as activations:
            model(images)
            plain = {layer: activations[layer].clone() for layer in layers}
        with probe(model, layers) as activations, folded(model, layers, images.detach()):
            model(images)
            for layer in layers:
                torch.testing.assert_close(activations[layer].detach(), plain[layer])
            assert torch.autograd.grad(activations[layers[-1]].sum(), images)[0].isfinite().all()


def test_batch_norms_are_folded_unless_what_is_between_is_read() -> None:
    model, images = tiny_model("batch_norm"), random_images(1)
    assert len(folded(model, ["block3"], images).passed) == 3
    assert len(folded(model, ["block1"], images).passed) == 1
    between = folded(model, ["block1.0", "block3"], images)
    assert len(between.passed) == 2
    assert id(model.net.block1[1].running_mean) not in between.passed  # type: ignore[index, union-attr]


class Forked(nn.Module):
    """A convolution whose output goes to a batch norm and somewhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.other = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([self.norm(y), y, self.norm(self.other(x))], 1)


def test_an_output_that_is_used_twice_and_a_norm_that_is_used_twice_are_not_folded() -> None:
    torch.manual_seed(0)
    net = Forked().eval()
    assert net.norm.running_mean is not None
    net.norm.running_mean.fill_(0.3)
    images = torch.rand(1, 3, 16, 16)
    assert not folded(plain_model(nn.Sequential(net)), ["0"], images).passed


def test_folding_leaves_no_trace() -> None:
    model, images = tiny_model("residual"), random_images(1)
    with assert_untouched(model.net), probe(model, "layer1"), folded(model, ["layer1"], images):
        model(images)


# Randomness


def test_the_same_plan_gives_the_same_bits(sketches: Model) -> None:
    units = ["conv2d2:5", "mixed3a:7", "mixed3a:9"]
    first, second = made(sketches, units), made(sketches, units)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.scores, second.scores)
    assert all(np.array_equal(first.history[step], second.history[step]) for step in first.history)


def test_a_unit_alone_starts_like_it_does_in_a_batch_and_gets_as_far(sketches: Model) -> None:
    units = [f"conv2d2:{channel}" for channel in range(8)]
    start, alone_start = (made(sketches, what, steps=1) for what in (units, units[5]))
    np.testing.assert_allclose(start[units[5]], alone_start[units[5]], atol=1.5 / 255)
    assert start.history[0][5] == pytest.approx(alone_start.history[0][0], rel=1e-4, abs=1e-6)
    together, alone = (made(sketches, what, steps=30) for what in (units, units[5]))
    assert together.scores[5] == pytest.approx(alone.scores[0], rel=0.02)


def test_a_smaller_chunk_gets_as_far(sketches: Model) -> None:
    units = [f"conv2d1:{channel}" for channel in range(6)]
    whole, parts = made(sketches, units, steps=30), made(sketches, units, steps=30, batch=4)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=0.02, atol=1e-4)


def test_another_seed_is_another_picture() -> None:
    model = tiny_model("plain")
    assert not np.array_equal(made(model, "conv2:1", seed=0).images, made(model, "conv2:1", seed=1).images)


def test_units_start_from_different_noise() -> None:
    images = made(tiny_model("plain"), ["conv2:1", "conv2:2"], steps=0).images
    assert not np.array_equal(images[0], images[1])


# The result


def test_a_result_is_found_by_unit_and_frozen() -> None:
    result = made(tiny_model("plain"), ["conv2:1", "conv1:0"], steps=2)
    assert np.array_equal(result[Unit("conv1", 0)], result.images[1])
    assert "conv2:1" in result
    assert Unit("conv2", 2) not in result
    assert len(result) == 2
    with pytest.raises(KeyError, match=r"no picture of 'conv2:9': there are 2, listed in \.units"):
        result["conv2:9"]
    with pytest.raises(FrozenInstanceError):
        result.seed = 3  # type: ignore[misc]


def test_a_result_says_how_it_was_made(sketches: Model) -> None:
    result = made(sketches, "conv2d0:1", steps=2, seed=7, optimizer=momentum(0.1))
    assert (result.seed, result.digest) == (7, sketches.digest)
    settings = json.loads(json.dumps(result.settings, allow_nan=False))
    assert settings["image"].startswith("Fourier(size=(64, 64), channels=3, ")
    assert settings["transforms"] == [repr(each) for each in STANDARD]
    assert (settings["steps"], settings["model"]) == (2, "sketches")
    assert settings["optimizer"] == "Momentum(rate=0.1, decay=0.9, steps=None)"


def test_a_result_comes_back_from_disk(tmp_path: Path) -> None:
    result = made(tiny_model("plain"), ["conv2:1", neuron("conv1:0")], steps=12)
    back = read_visualization(write_visualization(result, tmp_path / "pictures"))
    assert (back.units, back.seed, back.digest) == (result.units, result.seed, result.digest)
    assert back.settings == json.loads(json.dumps(result.settings))
    assert np.array_equal(back.images, result.images)
    assert back.images.dtype == np.float32
    assert np.array_equal(back.scores, result.scores)
    assert list(back.history) == [0, 10]
    assert all(np.array_equal(back.history[step], result.history[step]) for step in result.history)


def test_records_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_visualization(tmp_path)
    arrays = {"images": np.zeros((1, 2, 2, 3), np.uint8), "scores": np.zeros(2), "history": np.zeros((0, 2))}
    fields = {"units": ["a:0", "a:1"], "steps": [], "seed": 0, "settings": {}, "digest": ""}
    write_record(tmp_path / "wrong", "visualization", arrays=arrays, fields=fields)
    with pytest.raises(ValueError, match="does not fit together"):
        read_visualization(tmp_path / "wrong")


def test_names_are_escaped_where_a_result_shows_itself() -> None:
    shown = Visualization(
        ("<script>:0",), np.full((1, 4, 4, 3), 0.5, np.float32), np.ones(1, np.float32), {}, 0, {}, ""
    )
    page = shown._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;:0" in page
    assert shown._repr_png_().startswith(b"\x89PNG")
    assert shown.to_image().size == (4, 4)


def test_progress_counts_units(capsys: pytest.CaptureFixture[str]) -> None:
    made(tiny_model("plain"), ["conv1:0", "conv1:1", "conv2:0"], steps=2, progress=True)
    assert "3/3" in capsys.readouterr().err
    made(tiny_model("plain"), "conv1:0", steps=2)
    assert capsys.readouterr().err == ""


# Refusals


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("conv9:1", "no layer 'conv9': nearest are"),
        ("conv1:99", r"no channel 99 in layer 'conv1': it has 6 channels \(0 to 5\)"),
        (channel("conv1:99"), "no channel 99 in layer 'conv1'"),
        (energy("conv9"), "no layer 'conv9'"),
        (neuron("conv1:0", (40, 2)), r"no position \(40, 2\) in layer 'conv1'"),
        (direction("conv1", [1.0, 2.0]), "the direction has 2 numbers"),
        ("conv1", "'conv1' is no unit"),
        ([], "there is nothing to visualize"),
        (["conv1:0", "conv1:0"], "'conv1:0' is asked for twice"),
        (Objective(lambda a: torch.ones(1), ("conv1",), "one"), "'one' does not depend on the image"),
        (Objective(lambda a: torch.ones(1), (), "none"), "'none' does not depend on the image: it reads no layer"),
        (Objective(lambda a: a["conv1"].mean(), ("conv1",), "all"), r"'all' gave \(\) for one image"),
    ],
)
def test_what_the_network_does_not_have_is_refused_at_the_door(what: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made(tiny_model("plain"), what)


def test_an_objective_of_the_second_layer_is_refused_before_the_first_is_rendered() -> None:
    steps: list[int] = []

    def counted(images: Tensor, chances: Sequence[Generator]) -> Tensor:
        steps.append(1)
        return images

    with pytest.raises(ValueError, match="no position"):
        made(tiny_model("plain"), ["conv1:0", neuron("conv3:0", (99, 0))], transforms=(counted,))
    assert not steps


@pytest.mark.parametrize("what", [3, None, ["conv1:0", 4], [["conv1:0"]]])
def test_things_that_are_no_units_are_refused(what: Any) -> None:
    with pytest.raises(TypeError, match=r"give a unit such as 'mixed3a:3', an Objective, or a list of them"):
        made(tiny_model("plain"), what)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image": 64}, "the image is int: give a parameterization"),
        ({"image": torch.zeros(3, 16, 16)}, r"the image is Tensor: .* starting_from\(picture\)"),
        ({"image": fourier}, r"the image fourier gave Fourier: .* image=fourier\(\)"),
        ({"transforms": STANDARD[0]}, r"transforms is Jitter\(share=0.1\): give a sequence of transforms"),
        ({"transforms": None}, "transforms is None: give a sequence of transforms"),
        ({"transforms": ["jitter"]}, "'jitter' is no transform"),
        ({"optimizer": "adam"}, r"the optimizer is str: give momentum\(\)"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)}, "the optimizer is SGD"),
        ({"optimizer": momentum}, r"rate is list: give a number above 0, as in optimizer=adam\(0.05\)"),
        ({"examples": 5}, "examples is int: give what find_examples gives"),
    ],
)
def test_things_of_another_kind_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        made(tiny_model("plain"), "conv1:0", **options)


def test_a_network_that_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="the model is Sequential: give what load_model gives"):
        visualize(nn.Sequential(), "conv1:0", progress=False)  # type: ignore[arg-type]


def test_numpys_numbers_are_numbers() -> None:
    one, other = (made(tiny_model("plain"), "conv1:0", steps=of(4), seed=of(3), keep=of(2)) for of in (int, np.int64))
    assert np.array_equal(one.images, other.images)
    assert json.dumps(dict(other.settings))
    assert list(one.frames) == list(other.frames) == [0, 2, 4]


def test_a_circuit_is_conditioned_on_what_comes_before() -> None:
    with pytest.raises(ValueError, match="'conv1:0 through conv3:1' edits 'conv3', which comes after 'conv1'"):
        made(tiny_model("plain"), through("conv1:0", "conv3:1"))


def test_an_objective_with_a_gradient_of_its_own_is_refused() -> None:
    own = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="'own' does not depend on the image"):
        made(tiny_model("plain"), Objective(lambda a: own * 1, ("conv1",), "own"))


def test_settings_name_a_function_and_not_its_place_in_memory() -> None:
    (said,) = made(tiny_model("plain"), "conv1:0", transforms=[lambda images: images]).settings["transforms"]
    assert said.startswith("guest_transform(")
    assert said.endswith("<lambda>)")


def test_a_result_says_in_a_line_what_it_is() -> None:
    result = made(tiny_model("plain"), ["conv1:0", "conv1:1"], keep=1)
    assert repr(result).startswith("Visualization(2 of 12 x 12 pixels: 2 ")
    assert len(repr(result)) < 80
    bare = Visualization(("a:0",), np.ones((1, 4, 6, 3), np.float32), np.ones(1, np.float32), {}, 0, {}, "")
    assert repr(bare) == "Visualization(1 of 4 x 6 pixels)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": -1}, "steps is -1: give a whole number of at least 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"batch": 0}, "batch is 0: give a whole number of at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"count": 0}, "count is 0"),
        ({"views": 0}, "views is 0"),
        ({"keep": -1}, "keep is -1"),
        ({"keep": [3, 99]}, r"step 99 cannot be kept: there are steps 0 \(the start\) to 12"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made(tiny_model("plain"), "conv1:0", **options)


def test_a_score_that_is_not_finite_stops_and_names_the_step() -> None:
    def bursting(images: Tensor, chances: Sequence[Generator]) -> Tensor:
        calls.append(1)
        return images * (float("inf") if len(calls) > 3 else 1)

    calls: list[int] = []
    with pytest.raises(ValueError, match=r"the score of 'conv1:0' is (nan|inf|-inf) at step 3"):
        made(tiny_model("plain"), "conv1:0", transforms=(bursting,))


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 9).detach().round()


def test_a_layer_that_no_gradient_passes_is_refused() -> None:
    net = nn.Sequential(Rounding(), nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="'1:0' does not depend on the image"):
        made(plain_model(net), "1:0")


def test_a_network_in_training_mode_is_refused() -> None:
    model = tiny_model("batch_norm")
    model.net.train()
    with pytest.raises(RuntimeError, match="training mode"):
        made(model, "block1:0")
