"""Gated wires: mean slopes measured on images weigh each path; the local map is the network's own derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, fill, random_images, tiny_model
from reference import slow_gated, window_of
from torch import Tensor, nn

from circuits.wiring import connect
from circuits.wiring.gated import connect_fitted, connect_gated, connect_local
from circuits.wiring.watching import preactivations
from features.models import Model, load_model, probe

PAIRS = [
    ("plain", "relu1", "conv3", 12),
    ("plain", "conv1", "conv2", 12),
    ("batch_norm", "block1.0", "block3.1", 12),
    ("residual", "stem", "layer1.1.bn2", 16),
    ("branch_concat", "stem", "mixed2.three", 16),
    ("branch_concat", "mixed1", "mixed2.pooled", 12),
    ("depthwise", "relu1", "pointwise", 12),
    ("strided", "conv1", "conv3", 24),
    ("pooled", "relu1", "conv3", 28),
    ("functional_relu", "conv1", "conv3", 12),
    ("inplace_relu", "features.0", "features.4", 12),
    ("reused_module", "stem", "conv#2", 12),
]


def wrapped(net: nn.Module, size: int = 8, channels: int = 1) -> Model:
    return load_model(
        net.double().eval(), name="net", image_size=size, mean=(0.0,) * channels, std=(1.0,) * channels, labels=()
    )


class Two(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, gate: object, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.stem, self.first, self.gate, self.second = nn.Identity(), first, gate, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.gate(self.first(self.stem(x))))  # type: ignore[operator]


def test_the_weights_are_those_of_the_formula_with_rates_known_by_construction() -> None:
    """Channel k of the middle fires on exactly the pixels that are brighter than its threshold: 3/4, 1/2, 1/8."""
    net = Two(F.relu, nn.Conv2d(1, 3, 1), fill(nn.Conv2d(3, 4, 3, padding=1).double()))
    model = wrapped(net)
    with torch.no_grad():
        net.first.weight[:] = torch.tensor([2.0, 3.0, -1.0]).reshape(3, 1, 1, 1)
        net.first.bias[:] = torch.tensor([-2.0 * 0.25, -3.0 * 0.5, 1.0 * 0.125])
    images = ((torch.arange(64, dtype=torch.float64) + 0.5) / 64).reshape(1, 1, 8, 8)
    rates = torch.tensor([0.75, 0.5, 0.125], dtype=torch.float64)
    expected = torch.einsum("omyx,m,mi->oiyx", net.second.weight, rates, net.first.weight[:, :, 0, 0])
    found = connect_gated(model, "stem", "second", images=images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "gate",
    [
        F.relu6,
        F.hardswish,
        F.gelu,
        F.silu,
        lambda x: F.leaky_relu(x, 0.3),
        lambda x: x.clamp(0, 0.4),
        nn.PReLU(5),
        lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
        lambda x: torch.relu(x.flatten(2)).reshape(x.shape),
    ],
    ids=["relu6", "hardswish", "gelu", "silu", "leaky", "clamp", "prelu", "last", "flat"],
)
def test_other_gates_weigh_by_their_mean_slope(gate: object) -> None:
    net = fill(Two(gate, nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)).double())
    model, images = wrapped(net), random_images(3, size=8, channels=1)
    with torch.no_grad():
        before = net.first(images)
        step = 1e-6
        slope = ((net.gate(before + step) - net.gate(before - step)) / (2 * step)).mean((0, 2, 3))
    composed = F.conv2d((net.first.weight * slope[:, None, None, None]).transpose(0, 1), net.second.weight.flip(2, 3), padding=2)  # fmt: skip  # noqa: E501
    torch.testing.assert_close(
        connect_gated(model, "stem", "second", images=images), composed.transpose(0, 1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("name", "source", "target", "size"), PAIRS, ids=str)
def test_gated_wires_are_the_response_of_the_weighted_network_to_impulses(
    name: str, source: str, target: str, size: int
) -> None:
    model, images = tiny_model(name), random_images(5)
    torch.testing.assert_close(
        connect_gated(model, source, target, images=images),
        window_of(slow_gated(model, source, target, images, size)),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("gate", [F.relu, F.gelu, lambda x: F.leaky_relu(x, 0.3)], ids=["relu", "gelu", "leaky"])
def test_fitted_wires_weigh_by_the_slope_of_the_best_line(gate: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As numpy fits it to each channel's values before and after the function; any number of images at once."""
    net = fill(Two(gate, nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)).double())
    with torch.no_grad():
        net.first.weight[3] = 0  # a channel that never changes passes nothing on
    model, images = wrapped(net), random_images(5, size=8, channels=1)
    with torch.no_grad():
        before = net.first(images)
        columns = [(before[:, c].flatten().numpy(), net.gate(before)[:, c].flatten().numpy()) for c in (0, 1, 2, 4)]
    slope = torch.tensor([np.polyfit(x, y, 1)[0] for x, y in columns])
    slope = torch.cat([slope[:3], torch.zeros(1), slope[3:]]).double()
    composed = F.conv2d((net.first.weight * slope[:, None, None, None]).transpose(0, 1), net.second.weight.flip(2, 3), padding=2)  # fmt: skip  # noqa: E501
    for batch in (32, 2):
        monkeypatch.setattr("circuits.wiring.gated.BATCH", batch)
        found = connect_fitted(model, "stem", "second", images=images)
        torch.testing.assert_close(found, composed.transpose(0, 1), rtol=0, atol=1e-9)


def test_on_gaussian_values_the_best_line_is_as_steep_as_the_firing_rate() -> None:
    """Stein's lemma; and on rare strong peaks it is steeper."""
    net = Two(F.relu, nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)).double()
    with torch.no_grad():
        net.first.weight.fill_(1.0), net.first.bias.fill_(-0.6), net.second.weight.fill_(1.0)
    model = wrapped(net, size=100)
    gaussian = 0.5 + 0.1 * torch.randn(4, 1, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rate = connect_gated(model, "stem", "second", images=gaussian).item()
    assert rate == pytest.approx(0.159, abs=0.01)
    assert connect_fitted(model, "stem", "second", images=gaussian).item() == pytest.approx(rate, abs=0.01)
    peaks = torch.where(gaussian > 0.6, gaussian + 1, gaussian)
    assert connect_gated(model, "stem", "second", images=peaks).item() == pytest.approx(rate)
    assert connect_fitted(model, "stem", "second", images=peaks).item() > 0.8


def test_channels_that_come_last_are_weighted_too() -> None:
    model, images = tiny_model("nhwc"), random_images(3)
    block = model.net.blocks[0]
    with torch.no_grad(), probe(model, ["blocks.0.expand"]) as activations:
        model(images)
        before = activations["blocks.0.expand"]
        slope = (F.gelu(before + 1e-6) - F.gelu(before - 1e-6)).div(2e-6).mean((0, 2, 3))
    expected = block.project.weight @ (slope[:, None] * block.expand.weight)
    found = connect_gated(model, "blocks.0.norm", "blocks.0.project", images=images)
    torch.testing.assert_close(found[:, :, 0, 0], expected, rtol=0, atol=1e-6)


def test_tokens_are_weighted_too() -> None:
    model, images = tiny_model("tokens"), random_images(3)
    mlp = model.net.blocks[0].mlp
    with torch.no_grad(), probe(model, ["blocks.0.mlp.0"]) as activations:
        model(images)
        before = activations["blocks.0.mlp.0"]
        slope = (F.gelu(before + 1e-6) - F.gelu(before - 1e-6)).div(2e-6).mean((0, 2))
    expected = mlp[2].weight @ (slope[:, None] * mlp[0].weight)
    found = connect_gated(model, "blocks.0.norm2", "blocks.0.mlp", images=images)
    torch.testing.assert_close(found[:, :, 0, 0], expected, rtol=0, atol=1e-6)


def test_what_rectifies_the_target_is_left_open() -> None:
    model, images = tiny_model("branch_concat"), random_images(4)
    whole = connect_gated(model, "stem", "mixed1", images=images)
    parts = [connect_gated(model, "stem", f"mixed1.{name}", images=images) for name in ("one", "three", "pooled")]
    parts = [F.pad(part, [(3 - part.shape[3]) // 2] * 4) for part in parts]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_batches_and_cuts_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny_model("residual"), random_images(5)
    expected = connect_gated(model, "stem", "layer1.0", images=images)
    local = connect_local(model, "stem", "layer1.0", images=images, everywhere=True)
    monkeypatch.setattr("circuits.wiring.gated.BATCH", 2)
    torch.testing.assert_close(connect_gated(model, "stem", "layer1.0", images=images), expected)
    torch.testing.assert_close(connect_local(model, "stem", "layer1.0", images=images, everywhere=True), local)
    around = connect_gated(model, "stem", "layer1.0", images=images, cut=["layer1.0.conv1"])
    torch.testing.assert_close(around, connect(model, "stem", "layer1.0", cut=["layer1.0.conv1"]))
    exact = connect_local(model, "stem", "layer1.0", images=images, cut=["layer1.0.conv1"])
    torch.testing.assert_close(exact[:, :, 0, 0], torch.eye(8, dtype=torch.float64))


def test_a_network_that_always_fires_is_linear() -> None:
    net = fill(Two(F.relu, nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)).double())
    model, images = wrapped(net), random_images(3, size=8, channels=1)
    with torch.no_grad():
        net.first.bias.fill_(100.0)
    expected = connect(model, "stem", "second")
    torch.testing.assert_close(connect_gated(model, "stem", "second", images=images), expected)
    torch.testing.assert_close(connect_local(model, "stem", "second", images=images), expected)
    with torch.no_grad():
        net.first.bias.fill_(-100.0)
    assert not connect_gated(model, "stem", "second", images=images).any()
    assert not connect_local(model, "stem", "second", images=images).any()


def true_jacobian(model: Model, source: str, target: str, images: Tensor, place: tuple[int, int]) -> Tensor:
    """The mean over images of the derivative of the target at ``place`` to the whole source: (o, i, h, w)."""
    total: Tensor | int = 0
    for image in images:
        with torch.no_grad(), probe(model, [source]) as activations:
            model(image[None])
            value = activations[source].clone()

        def read(change: Tensor, image: Tensor = image) -> Tensor:
            with probe(model, [target], edits={source: lambda value: change}) as activations:
                model(image[None])
                return activations[target][0, :, place[0], place[1]]

        total = total + torch.autograd.functional.jacobian(read, value)[:, 0]  # type: ignore[no-untyped-call]
    assert isinstance(total, Tensor)
    return total / len(images)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [pair[:3] for pair in PAIRS] + [("nhwc", "stem", "blocks.1"), ("grouped", "relu1", "conv3")],
    ids=str,
)
def test_the_local_map_is_the_derivative_of_the_network(name: str, source: str, target: str) -> None:
    model, images = tiny_model(name), random_images(3)
    h, w = model.layer(target).shape[1:]
    expected = true_jacobian(model, source, target, images, (h // 2, w // 2))
    found = connect_local(model, source, target, images=images)
    kh, kw = found.shape[2:]
    places = [(y, x) for y in range(expected.shape[2] - kh + 1) for x in range(expected.shape[3] - kw + 1)]
    assert any(torch.allclose(expected[:, :, y : y + kh, x : x + kw], found, atol=1e-10, rtol=0) for y, x in places)
    torch.testing.assert_close(expected.abs().sum(), found.abs().sum())


def test_the_local_map_to_classes_is_summed_over_positions() -> None:
    model, images = tiny_model("plain"), random_images(3)
    total: Tensor | int = 0
    for image in images:
        with probe(model, ["conv3", "logits"]) as activations:
            model(image[None])
            rows = [
                torch.autograd.grad(row, activations["conv3"], retain_graph=True)[0] for row in activations["logits"][0]
            ]
        total = total + torch.stack(rows)[:, 0].sum((2, 3))
    torch.testing.assert_close(connect_local(model, "conv3", "logits", images=images)[:, :, 0, 0], total / 3)


@pytest.mark.parametrize(
    ("name", "source", "target", "stride"),
    [
        ("plain", "relu1", "conv3", (1, 1)),
        ("strided", "conv1", "conv2", (2, 1)),
        ("branch_concat", "stem", "mixed1.three", (1, 1)),
    ],
    ids=str,
)
def test_everywhere_is_the_mean_over_all_whole_windows(
    name: str, source: str, target: str, stride: tuple[int, int]
) -> None:
    model, images = tiny_model(name), random_images(2)
    found = connect_local(model, source, target, images=images, everywhere=True)
    kh, kw = found.shape[2:]
    (height, width), (h, w) = (model.layer(each).shape[1:] for each in (target, source))
    narrow, wide = model.layer(source).field, model.layer(target).field
    windows = []
    for y in range(height):
        for x in range(width):
            corner = [
                round((b.offset[a] - n.offset[a] + p * b.stride[a]) / n.stride[a] - (k - 1) / 2)
                for a, p, k, n, b in ((0, y, kh, narrow, wide), (1, x, kw, narrow, wide))
            ]
            if corner[0] >= 0 and corner[1] >= 0 and corner[0] + kh <= h and corner[1] + kw <= w:
                jacobian = true_jacobian(model, source, target, images, (y, x))
                windows.append(jacobian[:, :, corner[0] : corner[0] + kh, corner[1] : corner[1] + kw])
    assert len(windows) > 4
    torch.testing.assert_close(found, torch.stack(windows).mean(0), rtol=0, atol=1e-10)


def test_with_one_gate_on_each_path_gated_is_the_mean_of_the_local_maps() -> None:
    """Every middle position is read by one target position, so that no border makes a difference."""
    net = fill(Two(F.relu, nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 1)).double())
    model, images = wrapped(net), random_images(4, size=8, channels=1)
    gated = connect_gated(model, "stem", "second", images=images)
    torch.testing.assert_close(
        gated, connect_local(model, "stem", "second", images=images, everywhere=True), rtol=0, atol=1e-10
    )
    assert not torch.allclose(gated, connect(model, "stem", "second"))


def test_preactivations_are_the_sums_before_the_last_gate() -> None:
    images = random_images(2)
    for name, layer in [
        ("plain", "relu2"),
        ("residual", "layer1.0"),
        ("branch_concat", "mixed1"),
        ("inplace_relu", "features"),
        ("batch_norm", "block2"),
        ("functional_relu", "conv3"),
        ("nhwc", "blocks.1"),
        ("depthwise", "relu2"),
    ]:
        model = tiny_model(name)
        with torch.no_grad(), probe(model, [layer]) as activations:
            model(images)
            value = activations[layer].clone()
        before = preactivations(model, layer, images)
        if value.min() >= 0:
            assert before.min() < 0
            before = before.clamp(0, 6 if name == "depthwise" else None)
        torch.testing.assert_close(before, value)


def test_the_model_comes_back_as_it_was(tiny: Model) -> None:
    first, last = tiny.layers[0].name, tiny.layers[-1].name
    images = random_images(2)
    with assert_untouched(tiny.net):
        connect_gated(tiny, first, last, images=images)
        connect_local(tiny, first, last, images=images)
        preactivations(tiny, last, images)


def test_bad_input_is_refused_with_a_sentence() -> None:
    model, images = tiny_model("plain"), random_images(2)
    for connected in (connect_gated, connect_fitted, connect_local):
        with pytest.raises(ValueError, match="does not feed"):
            connected(model, "conv3", "conv1", images=images)
        with pytest.raises(ValueError, match="conv2"):
            connected(model, "conv22", "conv3", images=images)
        with pytest.raises(ValueError, match="at least one"):
            connected(model, "conv1", "conv3", images=images[:0])
        with pytest.raises(ValueError, match="both 'conv1'"):
            connected(model, "conv1", "conv1", images=images)
    with pytest.raises(ValueError, match="no window of 'logits'"):
        connect_local(model, "conv1", "logits", images=images, everywhere=True)
    with pytest.raises(ValueError, match="mixes positions"):
        connect_local(tiny_model("tokens"), "blocks.0.norm1", "blocks.1", images=images, everywhere=True)
    strange = wrapped(Two(lambda x: torch.relu(x.reshape(len(x), 2, 2, 8, 8)).reshape(len(x), 4, 8, 8), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)))  # fmt: skip  # noqa: E501
    with pytest.raises(NotImplementedError, match="channels of a tensor"):
        connect_gated(strange, "stem", "second", images=random_images(1, size=8, channels=1))
