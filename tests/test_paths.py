"""Paths: the mass is a sum over every path, washed-out wires are found, and honest ones are not flagged."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, fill, tiny_model
from reference import slow_connect, window_of
from torch import Tensor, nn

from circuits.wiring import connect
from circuits.wiring.paths import Cancellation, cancellation, path_mass, paths_through, washed_out
from features.models import Model, load_model
from features.units import Unit

PAIRS = [
    ("plain", "relu1", "conv3", 12),
    ("batch_norm", "block1.0", "block3", 12),
    ("residual", "stem", "layer1.1.relu#1", 16),
    ("branch_concat", "stem", "mixed2", 16),
    ("grouped", "relu1", "relu3", 12),
    ("depthwise", "relu1", "relu3", 12),
    ("strided", "conv1", "relu3", 24),
    ("pooled", "relu1", "conv3", 28),
    ("functional_relu", "conv1", "conv3", 12),
    ("reused_module", "stem", "relu#2", 12),
]


class Two(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, gate: object = F.relu, stride: int = 1) -> None:
        super().__init__()
        self.stem, self.gate = nn.Identity(), gate
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=stride)
        self.second = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.gate(self.first(self.stem(x))))  # type: ignore[operator]


def two(gate: object = F.relu, stride: int = 1) -> Model:
    net = fill(Two(gate, stride).double().eval())
    return load_model(net, name="two", image_size=12, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def all_paths(model: Model, stride: int) -> Tensor:
    """Every path through the two convolutions, one after the other: (o, i, kh, kw) of absolute products."""
    first, second = model.net.first.weight.tolist(), model.net.second.weight.tolist()
    size = 2 * stride + 3
    total = torch.zeros(5, 3, size, size, dtype=torch.float64)
    for o, m, i in product(range(5), range(8), range(3)):
        for y2, x2, y1, x1 in product(range(3), repeat=4):
            total[o, i, stride * y2 + y1, stride * x2 + x1] += abs(second[o][m][y2][x2] * first[m][i][y1][x1])
    return total


@pytest.mark.parametrize("stride", [1, 2])
def test_the_mass_is_the_sum_over_all_paths(stride: int) -> None:
    model = two(stride=stride)
    expected = all_paths(model, stride)
    torch.testing.assert_close(path_mass(model, "stem", "second"), expected, rtol=0, atol=1e-10)
    found = cancellation(model, "stem", "second")
    np.testing.assert_allclose(found.mass, expected.sum((2, 3)).numpy(), atol=1e-10)
    np.testing.assert_allclose(found.signed, connect(model, "stem", "second").abs().sum((2, 3)).detach().numpy())
    assert found.ratio.min() > 0 and found.ratio.max() < 1


@pytest.mark.parametrize(("name", "source", "target", "size"), PAIRS, ids=str)
def test_the_mass_is_the_map_of_the_network_of_absolute_weights(name: str, source: str, target: str, size: int) -> None:
    model, positive = tiny_model(name), tiny_model(name)
    with torch.no_grad():
        for key, parameter in positive.net.named_parameters():
            parameter.copy_(torch.zeros_like(parameter) if key.endswith("bias") else parameter.abs())
        for key, buffer in positive.net.named_buffers():
            if key.endswith("running_mean"):
                buffer.zero_()
    expected = window_of(slow_connect(positive, source, target, size))
    torch.testing.assert_close(path_mass(model, source, target), expected, rtol=0, atol=1e-10)
    assert (path_mass(model, source, target) >= connect(model, source, target).abs() - 1e-12).all()


@pytest.mark.parametrize(
    ("gate", "factor"),
    [
        (lambda x: 2 * x - 0.5 * x, 2.5),
        (lambda x: x.sub(-x), 2.0),
        (lambda x: 1 - x, 1.0),
        (lambda x: x * torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None, None], 1.0),
        (lambda x: torch.einsum("oc,nchw->nohw", -torch.eye(8, dtype=torch.float64), x), 1.0),
        (lambda x: x / -4, 0.25),
        (lambda x: F.batch_norm(x, 0 * x[0, :, 0, 0].detach(), 1 + 0 * x[0, :, 0, 0].detach(), MINUS, eps=0.0), 1.0),
    ],
    ids=["scalars", "sub", "rsub", "mul", "einsum", "div", "batch_norm"],
)
def test_signs_outside_of_convolutions_are_dropped_too(gate: object, factor: float) -> None:
    model = two(gate)
    torch.testing.assert_close(path_mass(model, "stem", "second"), factor * all_paths(model, 1), rtol=0, atol=1e-10)


MINUS = -torch.ones(8, dtype=torch.float64)


def test_through_a_layer_norm_goes_its_own_matrix() -> None:
    """Centring takes 1 / n of every other channel away; the deviation is the true one."""
    model = tiny_model("nhwc")
    whole = path_mass(model, "blocks.0.depthwise", "blocks.0.expand")[:, :, 0, 0]
    norm = connect(model, "blocks.0.depthwise", "blocks.0.norm")[:, :, 0, 0]
    assert norm.diagonal().abs().min() > 6 * norm[0, 1].abs() > 0
    torch.testing.assert_close(whole, model.net.blocks[0].expand.weight.abs() @ norm.abs())


def test_a_planted_wire_that_washes_out_is_flagged_and_an_honest_one_is_not() -> None:
    """Source 0 reaches target 0 by channels 0 and 1 alike, of which one excites and one inhibits; source 1 by 2."""
    model = two()
    with torch.no_grad():
        model.net.first.weight.mul_(0.01)
        model.net.second.weight.mul_(0.01)
        model.net.first.weight[[0, 1], 0] = 1.0
        model.net.first.weight[2, 1] = 1.0
        model.net.second.weight[0, 0], model.net.second.weight[0, 1], model.net.second.weight[0, 2] = 1.0, -0.99, 0.5
    found = cancellation(model, "stem", "second")
    flags = washed_out(found, among=2)
    assert [(wash.source, wash.target) for wash in flags] == [(Unit("stem", 0), Unit("second", 0))]
    assert flags[0].place_by_mass == 0
    assert flags[0].ratio == pytest.approx(0.01 / 1.99, rel=0.2)
    assert found.ratio[0, 1] > 0.98
    rows = paths_through(model, "stem:0", "first", "second:0").sum((1, 2))
    assert rows.topk(1).indices.item() == 0
    assert (-rows).topk(1).indices.item() == 1


@pytest.mark.parametrize(
    ("name", "source", "middle", "target"),
    [
        ("plain", "relu1", "relu2", "conv3"),
        ("strided", "conv1", "conv2", "conv3"),
        ("batch_norm", "block1", "block2.0", "block3"),
        ("depthwise", "relu1", "relu2", "relu3"),
    ],
    ids=str,
)
def test_what_goes_through_a_layer_adds_up_to_the_wire(name: str, source: str, middle: str, target: str) -> None:
    model = tiny_model(name)
    whole = connect(model, source, target)
    for i, o in product(range(3), range(3)):
        rows = paths_through(model, f"{source}:{i}", middle, f"{target}:{o}")
        assert len(rows) == model.layer(middle).channels
        torch.testing.assert_close(rows.sum(0), whole[o, i], rtol=0, atol=1e-10)


def test_kernels_behind_a_stride_are_laid_out_with_its_steps() -> None:
    model = two(stride=2)
    whole = connect(model, "stem", "second")
    for i, o in product(range(3), range(5)):
        rows = paths_through(model, f"stem:{i}", "first", f"second:{o}")
        torch.testing.assert_close(rows.sum(0), whole[o, i], rtol=0, atol=1e-10)


def test_what_goes_around_is_left_out() -> None:
    model = tiny_model("residual")
    rows = paths_through(model, "stem:1", "layer1.0.conv1", "layer1.0:1")
    around = connect(model, "stem", "layer1.0")[1, 1] - rows.sum(0)
    expected = torch.zeros_like(around)
    expected[2, 2] = 1
    torch.testing.assert_close(around, expected, rtol=0, atol=1e-10)


def test_wires_without_a_path_have_no_ratio() -> None:
    found = cancellation(tiny_model("grouped"), "relu1", "relu2")
    assert np.isnan(found.ratio[:4, 3:]).all() and not np.isnan(found.ratio[:4, :3]).any()
    assert washed_out(found) == []


def test_the_model_comes_back_as_it_was_and_bad_input_is_refused() -> None:
    model = tiny_model("residual")
    with assert_untouched(model.net):
        cancellation(model, "stem", "layer1.1", cut=["layer1.0.conv1"])
        paths_through(model, "stem:1", "layer1.0.conv1", "layer1.0:1")
    found = Cancellation("a", "b", *[np.ones((1, 1))] * 3)
    for below in (0, 1.5):
        with pytest.raises(ValueError, match="below is"):
            washed_out(found, below=below)
    with pytest.raises(ValueError, match="among is"):
        washed_out(found, among=0)
    with pytest.raises(ValueError, match="does not feed"):
        cancellation(model, "layer1.1", "stem")
    with pytest.raises(ValueError, match="no channel 8"):
        paths_through(model, "stem:8", "layer1.0.conv1", "layer1.0:1")
    with pytest.raises(NotImplementedError, match="unsigned mass"):
        path_mass(tiny_model("tokens"), "blocks.0.norm1", "blocks.0.attention")
