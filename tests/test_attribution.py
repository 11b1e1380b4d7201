"""Attribution: equal to captum where both work, to closed forms on linear networks, and causal; bad requests are
refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from conftest import CLASSES, NETS, assert_untouched, random_images, tiny_model
from PIL import Image
from torch import Tensor, nn

from features.attribution import METHODS, PIXEL_METHODS, Attribution, aim, attribute, integrated_gradients
from features.models import Model, load_model, probe
from features.objectives import Objective, channel, diversity, neuron, through
from features.pictures import from_image
from features.units import Unit

MAPS = [name for name in NETS if name != "tokens"]


class Linear(nn.Module):
    """No bias, no nonlinearity: two convolutions and the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 2, 3, padding=1, bias=False)
        for layer in (self.one, self.two):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.pool(self.two(self.one(x))))


@pytest.fixture
def linear() -> Model:
    net = Linear().eval()
    return load_model(
        net, name="linear", image_size=12, mean=(0.5, 0.4, 0.6), std=(0.3, 0.25, 0.2), labels=("yes", "no")
    )


def explain(model: Model, images: Tensor, target: Any = 2, **options: Any) -> Attribution:
    return attribute(model, images, target, **{"progress": False, "batch": 4, **options})


def normalized(model: Model, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (model.mean, model.std))
    return (images - mean) / std


# captum


def by_captum(model: Model, images: Tensor, target: int, method: str, layer: str | None) -> np.ndarray:
    inputs = normalized(model, images).requires_grad_()
    if method == "grad-cam":
        assert layer is not None
        coarse = LayerGradCam(model.net, model.net.get_submodule(layer)).attribute(inputs, target)
        if model.layer(layer).layout == "nhwc":
            pytest.skip("captum takes the last axes for positions")
        return LayerAttribution.interpolate(coarse, images.shape[2:], "bilinear")[:, 0].detach().numpy()
    if method == "integrated-gradients":
        heat = IntegratedGradients(model.net).attribute(inputs, target=target, n_steps=50)
    elif method == "gradient":
        heat = Saliency(model.net).attribute(inputs, target, abs=False) / torch.tensor(model.std)[:, None, None]
    else:
        heat = InputXGradient(model.net).attribute(inputs, target)
    return heat.sum(1).detach().numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MAPS)
def test_agrees_with_captum(name: str, method: str) -> None:
    model, images = tiny_model(name), random_images(3)
    found = explain(model, images, 2, method=method)
    if name == "reused_module" and method == "grad-cam":
        pytest.skip("captum reads the last call of a module; here calls have addresses")
    expected = by_captum(model, images, 2, method, found.layer)
    np.testing.assert_allclose(found.heat, expected, rtol=1e-5, atol=1e-9 + 1e-5 * np.abs(expected).max())


# Closed forms


@pytest.mark.parametrize("method", ["gradient-x-input", "integrated-gradients"])
def test_sums_are_exact_on_a_linear_network(linear: Model, method: str) -> None:
    images = random_images(3)
    found = explain(linear, images, "no", method=method)
    with torch.no_grad():
        grey = torch.tensor(linear.mean, dtype=torch.float64)[:, None, None].expand(1, 3, 12, 12)
        difference = (linear(images) - linear(grey))[:, 1].numpy()
    np.testing.assert_allclose(found.heat.sum((1, 2)), difference, rtol=1e-9)
    if method == "integrated-gradients":
        np.testing.assert_allclose(found.total, difference, rtol=1e-9)
        np.testing.assert_allclose(found.residual, 0, atol=1e-12)
    else:
        assert found.total is None and found.residual is None


def test_the_gradient_of_a_linear_network_is_its_response_to_each_pixel(linear: Model) -> None:
    heat = explain(linear, random_images(1), 0, method="gradient").heat[0]
    with torch.no_grad():
        before = linear(torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64))
        for place in [(0, 0), (5, 7), (11, 3)]:
            image = torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64)
            image[0, :, place[0], place[1]] += 0.25
            assert heat[place] == pytest.approx(float((linear(image) - before)[0, 0]) / 0.25, rel=1e-9)


def test_grad_cam_of_the_layer_itself_is_the_units_map(linear: Model) -> None:
    images = random_images(2)
    found = explain(linear, images, "two:1", layer="two")
    with torch.no_grad(), probe(linear, "two") as activations:
        linear(images)
        maps = activations["two"][:, 1].numpy()
    np.testing.assert_allclose(found.heat, maps / 144, rtol=1e-9)
    np.testing.assert_allclose(found.score, maps.mean((1, 2)), rtol=1e-9)


@pytest.mark.parametrize("name", ["plain", "residual", "branch_concat", "nhwc", "tokens"])
def test_integrated_gradients_keep_their_promise(name: str) -> None:
    model, images = tiny_model(name), random_images(2, seed=5)
    found = explain(model, images, 1, method=partial(integrated_gradients, steps=100))
    assert found.method == "integrated-gradients" and found.total is not None and found.residual is not None
    np.testing.assert_allclose(found.residual, found.heat.sum((1, 2)) - found.total, atol=1e-12)
    assert np.abs(found.residual).max() < 1e-2 * max(1, np.abs(found.total).max())


def test_baselines_are_in_pixel_units() -> None:
    model, images = tiny_model("plain"), random_images(2)
    default = explain(model, images, method="integrated-gradients")
    grey = torch.tensor(model.mean)[None, :, None, None]
    same = explain(model, images, method=partial(integrated_gradients, baseline=grey))
    np.testing.assert_allclose(same.heat, default.heat, rtol=1e-5, atol=1e-7)
    black = explain(model, images, method=partial(integrated_gradients, baseline=0.0))
    with torch.no_grad():
        difference = (model(images) - model(torch.zeros_like(images)))[:, 2].numpy()
    np.testing.assert_allclose(black.total, difference, rtol=1e-9)


# Causal


@pytest.mark.parametrize("method", PIXEL_METHODS)
def test_pixels_outside_the_receptive_field_get_exactly_nothing(method: str) -> None:
    model, images = tiny_model("plain"), random_images(2)
    field = model.layer("conv2").field
    assert field is not None
    y0, x0, y1, x1 = field.box((4, 5))
    heat = explain(model, images, neuron("conv2:3", (4, 5)), method=method).heat
    inside = np.zeros((12, 12), bool)
    inside[max(y0, 0) : y1, max(x0, 0) : x1] = True
    assert np.all(heat[:, ~inside] == 0) and np.any(heat[:, inside] != 0)


def test_grad_cam_points_at_the_part_that_matters() -> None:
    """A class that is the mean of the red channel: the red patch is the reason, wherever it is."""
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    ).double()
    net[0].weight.data = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    net[4].weight.data = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    model = load_model(net.eval(), name="red", image_size=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    images[0, 0, 2:5, 6:9], images[0, 1, 8:11, 1:4] = 1, 1
    heat = explain(model, images, 0, layer="1").heat[0]
    assert (heat[2:5, 6:9] > 0).all() and (heat[8:11, 1:4] < 0).all()
    assert np.abs(heat).sum() == pytest.approx(18 / 144)


# What does not matter


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_explained_alike_alone_and_in_a_batch(method: str) -> None:
    model, images = tiny_model("branch_concat"), random_images(5)
    explain_here = partial(explain, layer="mixed1" if method == "grad-cam" else None)
    whole = explain_here(model, images, method=method, batch=5)
    for options in ({"batch": 1}, {"batch": 2}):
        np.testing.assert_allclose(
            explain_here(model, images, method=method, **options).heat, whole.heat, rtol=1e-9, atol=1e-12
        )
    alone = explain_here(model, images[3:4], method=method)
    np.testing.assert_allclose(alone.heat[0], whole.heat[3], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alone.score[0], whole.score[3], rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_modes_do_not_matter(method: str) -> None:
    model, images = tiny_model("residual"), random_images(2)
    expected = explain(model, images, method=method).heat
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            np.testing.assert_array_equal(explain(model, images.clone(), method=method).heat, expected)
    model.net.requires_grad_(False)
    np.testing.assert_array_equal(explain(model, images, method=method).heat, expected)


@pytest.mark.parametrize("method", METHODS)
def test_network_and_images_are_left_as_they_were(tiny: Model, method: str) -> None:
    images = random_images(2)
    before = images.clone()
    layer = {"layer": "patches"} if tiny.name == "tokens" and method == "grad-cam" else {}
    with assert_untouched(tiny.net):
        explain(tiny, images, 1, method=method, **layer)
    assert torch.equal(images, before) and images.grad is None and not images.requires_grad
    broken = Objective(lambda _: 1 / 0, (tiny.layers[-1].name,), "broken")
    with assert_untouched(tiny.net), pytest.raises(ZeroDivisionError):
        explain(tiny, images, broken, method=method, **layer)


# Targets and layers


def test_targets_are_labels_numbers_units_and_objectives() -> None:
    model, images = tiny_model("plain"), random_images(2)
    by_number = explain(model, images, 2).heat
    for target in ("gamma", np.int64(2), torch.tensor(2), "logits:2", Unit("logits", 2)):
        np.testing.assert_array_equal(explain(model, images, target).heat, by_number)
    difference = aim(model, "gamma") - aim(model, "beta")
    np.testing.assert_allclose(
        explain(model, images, difference).heat, by_number - explain(model, images, "beta").heat, atol=1e-12
    )
    assert explain(model, images, difference).target == difference.name


def test_a_label_that_looks_like_a_unit_is_the_label() -> None:
    net = tiny_model("plain").net
    model = load_model(
        net, name="p", image_size=12, mean=(0.5,) * 3, std=(1.0,) * 3, labels=("a", "b", "conv1:0", "d", "e")
    )
    assert aim(model, "conv1:0").name == "logits:2"


def test_the_default_layer_is_the_last_with_positions() -> None:
    images = random_images(1)
    assert explain(tiny_model("plain"), images).layer == "conv3"
    assert explain(tiny_model("plain"), images, "conv2:1").layer == "conv1"
    assert explain(tiny_model("plain"), images, method="gradient").layer is None
    assert explain(tiny_model("nhwc"), images).heat.shape == (1, 12, 12)


def test_a_users_own_method_is_called() -> None:
    def brightness(model: Model, images: Tensor, objective: Objective, layer: str | None) -> tuple[Tensor, None]:
        return images.mean(1), None

    images = random_images(2)
    found = explain(tiny_model("plain"), images, method=brightness)
    np.testing.assert_array_equal(found.heat, images.mean(1))
    assert found.method == "brightness" and "brightness of logits:2: 2 images" in repr(found)


# Refusals


@pytest.mark.parametrize(
    ("images", "kind", "said"),
    [
        (torch.zeros(1, 3, 8, 8), ValueError, r"images are \(n, 3, 12, 12\) for plain, not \(1, 3, 8, 8\)"),
        (torch.zeros(1, 1, 12, 12), ValueError, r"not \(1, 1, 12, 12\)"),
        (torch.zeros(3, 12, 12), ValueError, r"give images\[None\] for a single one"),
        (torch.zeros(0, 3, 12, 12), ValueError, r"not \(0, 3, 12, 12\)"),
        (torch.full((1, 3, 12, 12), 2.0), ValueError, "go from 2 to 2: give values in .0, 1., not normalized"),
        (torch.full((1, 3, 12, 12), torch.nan), ValueError, "go from nan"),
        (torch.zeros(1, 3, 12, 12, dtype=torch.uint8), TypeError, r"not torch\.uint8"),
        (np.zeros((1, 3, 12, 12)), TypeError, "not ndarray"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        explain(tiny_model("plain"), images)


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("gama", ValueError, "no label or unit 'gama': nearest are 'gamma'"),
        (5, ValueError, r"no channel 5 in layer 'logits': it has 5 channels \(0 to 4\)"),
        (-1, ValueError, "channels count from 0"),
        ("conv1:6", ValueError, "no channel 6 in layer 'conv1'"),
        ("conv9:0", ValueError, "no label or unit 'conv9:0'"),
        (Unit("conv9", 0), ValueError, "no layer 'conv9'"),
        (True, TypeError, "not bool"),
        (1.5, TypeError, "not float"),
        (None, TypeError, "not NoneType"),
    ],
)
def test_targets_that_are_none_are_refused(target: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        explain(tiny_model("plain"), random_images(1), target)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"method": "gradcam"}, ValueError, "no method 'gradcam': nearest are 'grad-cam'"),
    ({"method": 3}, TypeError, "a method is one of gradient, .* or a function, not int"),
    ({"layer": "conv9"}, ValueError, "no layer 'conv9': nearest are"),
    ({"layer": "logits"}, ValueError, "without positions"),
    ({"target": "conv1:2", "layer": "conv2"}, ValueError, "layer 'conv2' comes after the target 'conv1:2'"),
    ({"target": "conv1:2"}, ValueError, "no layer before the target 'conv1:2' has positions"),
    ({"method": "gradient", "layer": "conv1"}, ValueError, "gradient is about pixels and reads no layer"),
    ({"batch": 0}, ValueError, "batch is 0: give a whole number"),
    ({"method": partial(integrated_gradients, steps=0)}, ValueError, "steps is 0: give a whole number"),
]


@pytest.mark.parametrize(("options", "kind", "said"), REFUSED)
def test_bad_requests_are_refused(options: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        explain(tiny_model("plain"), random_images(1), **({"target": 2} | options))


def test_a_target_that_does_not_depend_on_the_layer_is_refused() -> None:
    model = tiny_model("branch_concat")
    with pytest.raises(ValueError, match=r"the target 'mixed1\.one:0' does not depend on layer 'mixed1\.three'"):
        explain(model, random_images(1), "mixed1.one:0", layer="mixed1.three")
    fixed = Objective(lambda activations: torch.ones(len(activations["logits"])), ("logits",), "fixed")
    for method, what in (("gradient", "the image"), ("grad-cam", "layer 'mixed2'")):
        with pytest.raises(ValueError, match=f"the target 'fixed' does not depend on {what}"):
            explain(model, random_images(1), fixed, method=method)


def test_objectives_of_another_shape_are_refused() -> None:
    whole = Objective(lambda activations: activations["logits"], ("logits",), "whole")
    with pytest.raises(ValueError, match=r"the objective 'whole' gave \(2, 5\) for 2 images: give \(n,\)"):
        explain(tiny_model("plain"), random_images(2), whole)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_are_not_finite_are_refused(method: str) -> None:
    edges: Callable[[Any], Tensor] = lambda activations: activations["logits"][:, 0] * torch.inf  # noqa: E731
    with pytest.raises(ValueError, match="the attribution of 'edge' is not finite in image 0"):
        explain(tiny_model("plain"), random_images(2), Objective(edges, ("logits",), "edge"), method=method)


def test_a_method_that_gives_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gave a heat of \(1, 3, 12, 12\): it should be \(1, 12, 12\)"):
        explain(tiny_model("plain"), random_images(1), method=lambda model, images, objective, layer: (images, None))


def test_labels_of_the_family_are_those_used_here() -> None:
    assert CLASSES.index("gamma") == 2


def test_it_shows_itself_in_a_notebook_with_each_image_on_its_own_scale() -> None:
    heat = np.array([[[1.0, -1.0], [1.0, -1.0]], [[0.0, -5.0], [0.0, -5.0]]])
    attribution = Attribution(heat, "m", "t", None, heat[:, 0, 0], None, None)
    shown = from_image(Image.open(io.BytesIO(attribution._repr_png_())))
    first, second = shown[64, :128], shown[64, -128:]
    assert first[4, 0] > first[4, 2] + 0.5
    assert second[4].min() > 0.95
    for row in (first, second):
        assert row[-5, 2] > row[-5, 0] + 0.5, "blue at full strength, whatever the other image's scale"


@pytest.mark.parametrize("method", ["gradient-x-input", "integrated-gradients"])
def test_a_unit_through_others_is_explained_as_it_is_then(method: str) -> None:
    """Through one channel of a linear network, what the other channels bring has no share in the heat."""
    model, images = tiny_model("plain"), random_images(2)
    edited = explain(model, images, through("conv2:3", "relu1:1"), method=method)
    with torch.no_grad(), probe(model, "relu1") as activations:
        model(images)
        source = activations["relu1"][:, 1:2]
    kernel, bias = model.net.conv2.weight[3:4, 1:2], model.net.conv2.bias[3:4]
    expected = torch.nn.functional.conv2d(source, kernel, bias, padding=1).mean((1, 2, 3))
    np.testing.assert_allclose(edited.score, expected.detach())
    assert not np.allclose(edited.heat, explain(model, images, channel("conv2:3"), method=method).heat)


def test_an_objective_of_a_group_is_no_target() -> None:
    with pytest.raises(ValueError, match="scores a group of pictures together: a target scores each image alone"):
        explain(tiny_model("plain"), random_images(2), diversity("relu1"))
