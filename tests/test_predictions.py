"""Predictions: linearity is 1 where the truth is linear, less where it is not, and the figure of a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, fill, random_images, tiny_model
from torch import Tensor, nn

from circuits.wiring import connect
from circuits.wiring.gated import connect_fitted, connect_gated, connect_local
from circuits.wiring.predictions import linearity
from features.models import Model, load_model, probe


class Two(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, gate: object, stride: int = 1) -> None:
        super().__init__()
        self.stem, self.gate = nn.Identity(), gate
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=stride)
        self.second = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.gate(self.first(self.stem(x))))  # type: ignore[operator]


def two(gate: object, stride: int = 1, size: int = 12) -> Model:
    net = fill(Two(gate, stride).double().eval())
    return load_model(net, name="two", image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("plain", "relu1", "relu2"),
        ("plain", "relu2", "conv3"),
        ("batch_norm", "block1", "block2"),
        ("grouped", "relu2", "relu3"),
        ("strided", "relu1", "relu2"),
        ("depthwise", "relu1", "relu2"),
        ("pooled", "relu2", "conv3"),
        ("plain", "relu3", "logits"),
        ("residual", "stem", "layer1.0.bn1"),
        ("nhwc", "blocks.0.norm", "blocks.0.expand"),
    ],
    ids=str,
)
def test_neighbours_are_linear_up_to_the_last_gate(name: str, source: str, target: str) -> None:
    """Away from borders, which a map of 12 positions has and one of 28 has too, but not everywhere."""
    size = 28 if name == "pooled" else 12
    found = linearity(tiny_model(name), source, target, images=random_images(10, size=size))
    np.testing.assert_allclose(found.r2, 1, atol=1e-9)
    np.testing.assert_allclose(found.unscaled, 1, atol=1e-9)
    np.testing.assert_allclose(found.scale, 1, atol=1e-9)
    assert found.overall == pytest.approx(1)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_linear_network_is_linear_whatever_the_size(stride: int) -> None:
    for size in (12, 5):
        found = linearity(two(nn.Identity(), stride, size), "stem", "second", images=random_images(30, size=size))
        if size == 12:
            assert found.r2.min() > 1 - 1e-9
        else:
            assert found.r2.min() > 0.5


def test_the_more_a_gate_holds_back_the_less_linear() -> None:
    """A bias that opens every gate, none, half; and a function that no line comes near."""
    model, images = two(F.relu), random_images(20)
    bias = model.net.first.bias.detach().clone()
    figures = []
    for shift in (50.0, 0.5, 0.0):
        with torch.no_grad():
            model.net.first.bias.copy_(bias + shift)
        figures.append(linearity(model, "stem", "second", images=images).overall)
    assert figures[0] == pytest.approx(1)
    assert figures[0] > figures[1] > figures[2] > 0
    even = two(lambda x: x.relu() + 0.9 * (-x).relu())
    kernels = connect(model, "stem", "second")
    assert linearity(even, "stem", "second", images=images, kernels=kernels).overall < 0.5 * figures[2]


def test_gates_that_open_unequally_are_told_by_the_rates() -> None:
    """Half of the middle channels hardly ever fire: linear wires believe them, gated and local ones do not."""
    model, images = two(F.relu), random_images(20)
    with torch.no_grad():
        model.net.first.bias[::2] -= 2.0
        model.net.first.bias[1::2] += 2.0
    plain = linearity(model, "stem", "second", images=images)
    gated = connect_gated(model, "stem", "second", images=images)
    local = connect_local(model, "stem", "second", images=images, everywhere=True)
    fitted = connect_fitted(model, "stem", "second", images=images)
    for kernels in (gated, local, fitted):
        found = linearity(model, "stem", "second", images=images, kernels=kernels)
        assert found.overall > plain.overall + 0.1
        assert abs(found.scale.mean() - 1) < 0.2
        assert found.unscaled.mean() > plain.unscaled.mean()


def test_the_figure_is_that_of_a_plain_loop() -> None:
    model, images = tiny_model("strided"), random_images(8)
    found = linearity(model, "conv1", "relu2", images=images)
    kernels = connect(model, "conv1", "relu2")
    with torch.no_grad(), probe(model, ["conv1", "conv2"]) as activations:
        model(images)
        source, target = activations["conv1"].clone(), activations["conv2"].clone()
    rows: dict[int, list[tuple[Tensor, Tensor]]] = {0: [], 1: []}
    for number in range(8):
        for y in range(target.shape[2]):
            for x in range(target.shape[3]):
                if 2 * y - 1 >= 0 and 2 * y + 2 <= source.shape[2] and x + 2 <= source.shape[3]:
                    window = source[number, :, 2 * y - 1 : 2 * y + 2, x : x + 2]
                    rows[number % 2].append(((kernels * window).sum((1, 2, 3)), target[number, :, y, x]))
    (fit_x, fit_y), (held_x, held_y) = (
        [torch.stack(each).numpy() for each in zip(*rows[k], strict=True)] for k in (0, 1)
    )
    assert found.positions == len(held_x)
    for channel in range(7):
        scale, offset = np.polyfit(fit_x[:, channel], fit_y[:, channel], 1)
        missed = held_y[:, channel] - scale * held_x[:, channel] - offset
        true = 1 - (missed**2).sum() / ((held_y[:, channel] - held_y[:, channel].mean()) ** 2).sum()
        assert found.r2[channel] == pytest.approx(true, abs=1e-9)
        assert (found.scale[channel], found.offset[channel]) == pytest.approx((scale, offset))


def test_a_channel_that_never_changes_has_no_figure() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight[3] = 0
    found = linearity(model, "relu1", "conv2", images=random_images(4))
    assert np.isnan(found.r2).tolist() == [False, False, False, True, False, False, False]
    assert found.overall == pytest.approx(1)


class Excited(nn.Module):
    """A squeeze-excite gate, after which no receptive field is known, and strides behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x * torch.sigmoid(x.mean((2, 3), keepdim=True)).round())


def test_windows_of_which_no_theory_is_known_are_found_by_reading() -> None:
    model = load_model(
        fill(Excited().double().eval()), name="e", image_size=24, mean=(0.5,) * 3, std=(1.0,) * 3, labels=()
    )
    assert model.layer("second").field is None
    images = random_images(6, size=24)
    with torch.no_grad():
        model.net.first.bias.fill_(3.0)  # all gates are 1
    kernels = model.net.second.weight.detach()
    found = linearity(model, "first", "second", images=images, kernels=kernels)
    assert found.overall == pytest.approx(1) and found.positions == 3 * 11 * 11


def test_the_model_comes_back_as_it_was_and_bad_input_is_refused() -> None:
    model, images = tiny_model("plain"), random_images(4)
    with assert_untouched(model.net):
        linearity(model, "relu1", "relu3", images=images)
    with pytest.raises(ValueError, match="1 image was given"):
        linearity(model, "relu1", "relu3", images=images[:1])
    with pytest.raises(ValueError, match=r"kernels of shape .* from 'relu1' to 'relu3' are \(8, 6, kh, kw\)"):
        linearity(model, "relu1", "relu3", images=images, kernels=torch.zeros(6, 8, 3, 3))
    with pytest.raises(ValueError, match="does not feed"):
        linearity(model, "relu3", "relu1", images=images)
    with pytest.raises(ValueError, match="tokens"):
        linearity(tiny_model("tokens"), "blocks.0", "blocks.1", images=images)
