"""Attribution: equal to captum where both work, to closed forms on linear networks, and causal; bad requests are
refused.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Occlusion,
    Saliency,
)
from conftest import CLASSES, NETS, assert_untouched, fill, random_images, tiny_model
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor, nn

from features.attribution import (
    BASELINES,
    CAMS,
    METHODS,
    Attribution,
    aim,
    attribute,
    attribute_channels,
    attribute_channels_along_path,
    attribute_groups,
    audit,
    integrated_gradients,
    occlusion,
    read_attribution,
    rise,
    smoothgrad,
    vargrad,
    write_attribution,
)
from features.attribution.pixels import GRADIENTS
from features.attribution.rectified import RULED
from features.models import Model, load_model, probe
from features.objectives import Objective, channel, diversity, neuron, through
from features.pictures import from_image, resize
from features.sketches import HELD_OUT_SEED, Sketches
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


def quick(method: str) -> Any:
    """Give a method with few samples: enough for what does not depend on how many."""
    short = {
        "smoothgrad": partial(smoothgrad, samples=2),
        "vargrad": partial(vargrad, samples=2),
        "integrated-gradients": partial(integrated_gradients, steps=2),
        "rise": partial(rise, masks=4),
    }
    return short.get(method, method)


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
        heat = (
            Saliency(model.net).attribute(inputs, target, abs=False)
            / torch.tensor(model.std, dtype=torch.float64)[:, None, None]
        )
    else:
        heat = InputXGradient(model.net).attribute(inputs, target)
    return heat.sum(1).detach().numpy()


@pytest.mark.parametrize("method", ["gradient", "gradient-x-input", "integrated-gradients", "grad-cam"])
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


@pytest.mark.parametrize("method", [*GRADIENTS, *RULED])
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
    explain_here = partial(explain, layer="mixed1" if method in CAMS and method != "cam" else None)
    whole = explain_here(model, images, method=quick(method), batch=5)
    for options in ({"batch": 1}, {"batch": 2}):
        np.testing.assert_allclose(
            explain_here(model, images, method=quick(method), **options).heat, whole.heat, rtol=1e-9, atol=1e-12
        )
    alone = explain_here(model, images[3:4], method=quick(method))
    np.testing.assert_allclose(alone.heat[0], whole.heat[3], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alone.score[0], whole.score[3], rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_modes_do_not_matter(method: str) -> None:
    model, images = tiny_model("residual"), random_images(2)
    expected = explain(model, images, method=quick(method)).heat
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            np.testing.assert_array_equal(explain(model, images.clone(), method=quick(method)).heat, expected)
    model.net.requires_grad_(False)
    np.testing.assert_array_equal(explain(model, images, method=quick(method)).heat, expected)


@pytest.mark.parametrize("method", METHODS)
def test_network_and_images_are_left_as_they_were(tiny: Model, method: str) -> None:
    images = random_images(2)
    before = images.clone()
    layer = {"layer": "patches"} if tiny.name == "tokens" and method in CAMS else {}
    unfit = (method == "cam" and tiny.name in ("tokens", "functional_relu")) or (
        method in RULED and tiny.name in ("tokens", "nhwc")
    )
    with assert_untouched(tiny.net), pytest.raises(ValueError) if unfit else nullcontext():
        explain(tiny, images, 1, method=quick(method), **layer)
    assert torch.equal(images, before) and images.grad is None and not images.requires_grad
    broken = Objective(lambda _: 1 / 0, (tiny.layers[-1].name,), "broken")
    with assert_untouched(tiny.net), pytest.raises(ZeroDivisionError):
        explain(tiny, images, broken, method=quick(method), **layer)


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


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("eigen-cam", "cam")])
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


# Every method against a slow and obvious one


def maps_of(model: Model, images: Tensor, target: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Give a layer's maps and the target's gradients, (n, c, h, w), by hooks of the test's own."""
    kept: list[Tensor] = []
    handle = model.net.get_submodule(layer).register_forward_hook(lambda module, given, output: kept.append(output))
    logits = model.net(normalized(model, images))
    handle.remove()
    (grads,) = torch.autograd.grad(logits[:, target].sum(), kept[0])
    return kept[0].detach().numpy(), grads.numpy()


def enlarged(heat: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(heat)[:, None]
    return torch.nn.functional.interpolate(tensor, size=(12, 12), mode="bilinear")[:, 0].numpy()


def by_hand(name: str, a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The formulas of the papers, one position at a time."""
    heat = np.zeros((len(a), *a.shape[2:]))
    for n, k in np.ndindex(a.shape[:2]):
        weight = 0.0
        for y, x in np.ndindex(a.shape[2:]):
            value, slope = a[n, k, y, x], g[n, k, y, x]
            if name == "hires-cam":
                heat[n, y, x] += slope * value
            elif name == "layer-cam":
                heat[n, y, x] += max(slope, 0) * value
            elif name == "xgrad-cam":
                weight += value / a[n, k].sum() * slope if abs(a[n, k].sum()) > 1e-12 else 0.0
            elif name == "grad-cam++":
                below = 2 * slope**2 + slope**3 * a[n, k].sum()
                weight += slope**2 / below * max(slope, 0) if below else 0.0
        heat[n] += weight * a[n, k]
    return heat


@pytest.mark.parametrize("method", ["hires-cam", "layer-cam", "xgrad-cam", "grad-cam++"])
@pytest.mark.parametrize("name", ["plain", "strided", "grouped"])
def test_class_activation_maps_are_those_of_the_papers(name: str, method: str) -> None:
    model, images = tiny_model(name), random_images(2)
    found = explain(model, images, 2, method=method, layer="relu2")
    expected = enlarged(by_hand(method, *maps_of(model, images, 2, "relu2")))
    np.testing.assert_allclose(found.heat, expected, rtol=1e-9, atol=1e-12)


def test_cam_is_the_targets_weights_times_the_maps() -> None:
    """Its mean over positions is the logit without its bias; where the target is not linear it is refused."""
    model, images = tiny_model("plain"), random_images(2)
    found = explain(model, images, 2, method="cam")
    assert found.layer == "relu3"
    maps, _ = maps_of(model, images, 2, "relu3")
    weights, bias = model.net.logits.weight[2].detach().numpy(), float(model.net.logits.bias[2].detach())
    coarse = np.einsum("k,nkhw->nhw", weights, maps)
    np.testing.assert_allclose(found.heat, enlarged(coarse), rtol=1e-9)
    np.testing.assert_allclose(coarse.mean((1, 2)) + bias, found.score, rtol=1e-9)
    with pytest.raises(ValueError, match="linear in the mean of a layer, and 'logits:2' is not so in 'relu2'"):
        explain(model, images, 2, method="cam", layer="relu2")


def test_ablation_cam_weighs_channels_by_silencing_them() -> None:
    model, images = tiny_model("branch_concat"), random_images(2)
    maps, _ = maps_of(model, images, 2, "mixed1")
    heat = np.zeros((2, 12, 12))
    with torch.no_grad():
        whole = model(images)[:, 2]
        for channel in range(maps.shape[1]):

            def silence(module: nn.Module, given: Any, output: Tensor, channel: int = channel) -> Tensor:
                return torch.stack([each * float(k != channel) for k, each in enumerate(output.unbind(1))], 1)

            handle = model.net.mixed1.register_forward_hook(silence)
            fall = whole - model(images)[:, 2]
            handle.remove()
            heat += fall.numpy()[:, None, None] * maps[:, channel]
    found = explain(model, images, 2, method="ablation-cam", layer="mixed1")
    np.testing.assert_allclose(found.heat, enlarged(heat), rtol=1e-9, atol=1e-12)


def test_score_cam_weighs_channels_by_the_picture_seen_through_them() -> None:
    model, images = tiny_model("branch_concat"), random_images(2)
    maps, _ = maps_of(model, images, 2, "mixed1")
    grey = torch.tensor(model.mean, dtype=torch.float64)[None, :, None, None]
    heat = np.zeros((2, 12, 12))
    for n in range(2):
        gains = []
        for k in range(maps.shape[1]):
            mask = torch.from_numpy(enlarged(maps[n : n + 1, k]))
            mask = (mask - maps[n, k].min()) / (maps[n, k].max() - maps[n, k].min())
            with torch.no_grad():
                seen = model(images[n : n + 1] * mask + grey * (1 - mask))[0, 2]
                gains.append(float(seen - model(grey.expand(1, 3, 12, 12))[0, 2]))
        weights = np.exp(gains) / np.exp(gains).sum()
        heat[n] = np.einsum("k,khw->hw", weights, maps[n])
    found = explain(model, images, 2, method="score-cam", layer="mixed1")
    np.testing.assert_allclose(found.heat, enlarged(heat), rtol=1e-7, atol=1e-9)


def test_eigen_cam_is_the_first_principal_component() -> None:
    model, images = tiny_model("plain"), random_images(2)
    maps, _ = maps_of(model, images, 2, "relu2")
    found = explain(model, images, 2, method="eigen-cam", layer="relu2")
    for n in range(2):
        points = maps[n].reshape(maps.shape[1], -1).T
        first = PCA(1).fit_transform(points).reshape(12, 12)
        sign = np.sign((first * maps[n].mean(0)).sum())
        np.testing.assert_allclose(found.heat[n], sign * first, rtol=1e-6, atol=1e-9)


CAPTUMS = [("guided-backpropagation", GuidedBackprop), ("deconvnet", Deconvolution)]


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize(("method", "captums"), CAPTUMS)
@pytest.mark.parametrize("name", ["plain", "batch_norm", "strided", "pooled"])
def test_relus_pass_gradients_as_captums_modules_do(name: str, method: str, captums: Any) -> None:
    model, images = tiny_model(name), random_images(2)
    found = explain(model, images, 2, method=method)
    expected = captums(model.net).attribute(normalized(model, images).requires_grad_(), target=2)
    expected = (expected / torch.tensor(model.std, dtype=torch.float64)[:, None, None]).sum(1).detach().numpy()
    np.testing.assert_allclose(found.heat, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", RULED)
def test_relus_are_the_same_as_modules_as_functions_and_in_place(method: str) -> None:
    """The three networks have the same parameters: what their ReLUs look like must not matter."""
    images = random_images(2)
    heats = []
    plain = list(tiny_model("functional_relu").net.state_dict().values())
    for name in ("functional_relu", "inplace_relu", "modules"):
        if name == "modules":
            net: nn.Module = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 7, 3, padding=1), nn.ReLU(),
                nn.Conv2d(7, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
            ).double()  # fmt: skip
        else:
            net = tiny_model(name).net
        state = net.state_dict()
        weights = {tuple(each.shape): each for each in plain}
        net.load_state_dict({key: weights[tuple(each.shape)] for key, each in state.items()})
        model = load_model(net.eval(), name=name, image_size=12, mean=(0.5, 0.4, 0.6), std=(0.3, 0.25, 0.2))
        heats.append(explain(model, images, 2, method=method).heat)
    np.testing.assert_allclose(heats[1], heats[0], rtol=1e-12)
    np.testing.assert_allclose(heats[2], heats[0], rtol=1e-12)


def test_a_relu_that_is_called_again_is_ruled_every_time() -> None:
    """captum refuses this network; the obvious way is the chain rule by hand, ReLU by ReLU."""
    model, images = tiny_model("residual"), random_images(1)
    found = explain(model, images, 2, method="guided-backpropagation")
    assert np.isfinite(found.heat).all()

    class Guided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result = x.clamp(min=0)
            result.register_hook(lambda grad: grad.clamp(min=0))
            return result

    net = copy.deepcopy(model.net)
    for module in net.modules():
        if hasattr(module, "relu"):
            module.relu = Guided()
    leaf = normalized(model, images).requires_grad_()
    (grads,) = torch.autograd.grad(net(leaf)[:, 2].sum(), leaf)
    expected = (grads / torch.tensor(model.std, dtype=torch.float64)[:, None, None]).sum(1).numpy()
    np.testing.assert_allclose(found.heat, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", RULED)
def test_a_relu_in_place_whose_result_is_not_used_changes_what_follows(method: str) -> None:
    class Silent(nn.Module):
        def __init__(self, *, silent: bool) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
            self.silent = silent

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            if self.silent:
                torch.relu_(x)
            else:
                x = torch.relu(x)
            return self.two(x).mean((2, 3))

    heats = []
    for silent in (True, False):
        net = fill(Silent(silent=silent).double()).eval()
        model = load_model(net, name="silent", image_size=12, mean=(0.5,) * 3, std=(1.0,) * 3)
        found = explain(model, random_images(2), "two:2", method=method)
        with torch.no_grad():
            np.testing.assert_allclose(found.score, model(random_images(2))[:, 2].numpy(), rtol=1e-12)
        heats.append(found.heat)
    np.testing.assert_allclose(heats[0], heats[1], rtol=1e-12)


def test_a_network_without_relus_is_refused() -> None:
    with pytest.raises(ValueError, match="no ReLU between the image and 'logits:2'"):
        explain(tiny_model("nhwc"), random_images(1), 2, method="deconvnet")


@pytest.mark.parametrize("window", [3, 4, (2, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_occlusion_agrees_with_captum(window: int | tuple[int, int], stride: int) -> None:
    model, images = tiny_model("pooled"), random_images(2)
    found = explain(model, images, 2, method=partial(occlusion, window=window, stride=stride))
    high, wide = (window, window) if isinstance(window, int) else window
    expected = Occlusion(model.net).attribute(
        normalized(model, images), (3, high, wide), strides=(3, stride, stride), target=2
    )
    np.testing.assert_allclose(found.heat, expected[:, 0].detach().numpy(), rtol=1e-6, atol=1e-9)


def test_rise_finds_the_only_pixels_that_matter() -> None:
    """The target is the mean brightness of one corner: there the heat lies, and more masks make it surer."""
    model = tiny_model("plain")
    corner = Objective(lambda found: found["input"][:, :, :4, :4].mean((1, 2, 3)), ("input",), "corner")
    images = torch.ones(1, 3, 12, 12, dtype=torch.float64)
    target = Objective(lambda found: found["conv1"][:, 0, 1:3, 1:3].mean((1, 2)), ("conv1",), "corner")
    del corner
    heat = np.abs(explain(model, images, target, method=partial(rise, masks=2000, cells=4)).heat[0])
    assert heat[:4, :4].mean() > 4 * heat[6:, 6:].mean()


def test_smoothgrad_and_vargrad_are_mean_and_variance_over_the_same_noise() -> None:
    model, images = tiny_model("plain"), random_images(2)
    generator = torch.Generator().manual_seed(3)
    spread = 0.2 * (images.flatten(1).amax(1) - images.flatten(1).amin(1))[:, None, None, None]
    gradients = []
    for _ in range(5):
        noisy = images + spread * torch.randn(3, 12, 12, generator=generator, dtype=torch.float64)
        leaf = normalized(model, noisy).requires_grad_()
        (found,) = torch.autograd.grad(model.net(leaf)[:, 2].sum(), leaf)
        gradients.append(found / torch.tensor(model.std, dtype=torch.float64)[:, None, None])
    mean, variance = torch.stack(gradients).mean(0).sum(1), torch.stack(gradients).var(0).sum(1)
    options = {"samples": 5, "spread": 0.2, "seed": 3}
    np.testing.assert_allclose(explain(model, images, method=partial(smoothgrad, **options)).heat, mean, rtol=1e-9)
    np.testing.assert_allclose(explain(model, images, method=partial(vargrad, **options)).heat, variance, rtol=1e-9)


def test_the_gradients_of_the_saliency_maps_are_those_of_captum() -> None:
    model, images = tiny_model("pooled"), random_images(2)
    raw = Saliency(model.net).attribute(normalized(model, images).requires_grad_(), 2, abs=False)
    raw = (raw / torch.tensor(model.std, dtype=torch.float64)[:, None, None]).abs().numpy()
    np.testing.assert_allclose(explain(model, images, method="saliency").heat, raw.max(1), rtol=1e-9)
    np.testing.assert_allclose(explain(model, images, method="absolute-gradient").heat, raw.sum(1), rtol=1e-9)


def test_several_baselines_are_averaged_and_keep_their_promise() -> None:
    model, images = tiny_model("plain"), random_images(2)
    heats = [
        explain(model, images, method=partial(integrated_gradients, baseline=each)).heat for each in ("black", "white")
    ]
    both = explain(model, images, method=partial(integrated_gradients, baseline=["black", "white"]))
    np.testing.assert_allclose(both.heat, (heats[0] + heats[1]) / 2, rtol=1e-9)
    assert both.residual is not None and both.total is not None
    assert np.abs(both.residual).max() < 0.02 * np.abs(both.total).max()
    for name in BASELINES:
        assert np.isfinite(explain(model, images, method=partial(integrated_gradients, baseline=name)).heat).all()
    with pytest.raises(ValueError, match="no baseline 'grey': choose mean, black"):
        explain(model, images, method=partial(integrated_gradients, baseline="grey"))
    with pytest.raises(ValueError, match="does not fit images of"):
        explain(model, images, method=partial(integrated_gradients, baseline=torch.zeros(5, 5)))


# Tokens


def test_tokens_are_read_as_the_square_of_patches() -> None:
    """The last layer whose patches reach the logits is taken: after the last attention only the class token does."""
    model, images = tiny_model("tokens"), random_images(2)
    found = explain(model, images, method="hires-cam")
    assert found.layer is not None and len(model.layer(found.layer).shape) in (2, 3)
    assert np.abs(found.heat).max() > 0
    inner = explain(model, images, method="hires-cam", layer="blocks.0")
    maps, grads = maps_of(model, images, 2, "blocks.0")
    coarse = (maps * grads).sum(2)[:, 1:].reshape(2, 3, 3)
    np.testing.assert_allclose(inner.heat, enlarged(coarse), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_is_the_targets_value_on_the_images_as_they_are(method: str) -> None:
    model, images = tiny_model("plain"), random_images(3)
    found = explain(model, images, 2, method=quick(method), batch=2)
    with torch.no_grad():
        np.testing.assert_allclose(found.score, model(images)[:, 2].numpy(), rtol=1e-9)


# Channels


def test_channels_are_what_activation_times_gradient_says() -> None:
    model, images = tiny_model("branch_concat"), random_images(3)
    found = attribute_channels(model, images, 2, layer="mixed1", batch=2, progress=False)
    maps, grads = maps_of(model, images, 2, "mixed1")
    np.testing.assert_allclose(found.products, maps * grads, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.channels, (maps * grads).sum((2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.spatial, (maps * grads).sum(1), rtol=1e-5, atol=1e-7)
    unit, share = found.top(1)[0]
    values = (maps * grads).sum((2, 3))[1]
    assert unit.channel == np.abs(values).argmax() and unit.layer == "mixed1"
    assert share == pytest.approx(values[unit.channel] / np.abs(values).sum(), rel=1e-4)


@pytest.mark.parametrize("name", ["plain", "residual", "branch_concat", "pooled", "nhwc"])
def test_channels_along_the_path_keep_their_promise(name: str) -> None:
    model, images = tiny_model(name), random_images(2)
    layer = {"plain": "relu1", "residual": "layer1.0", "branch_concat": "mixed1", "pooled": "pool1", "nhwc": "blocks.0"}
    found = attribute_channels_along_path(model, images, 2, layer=layer[name], steps=100, progress=False)
    with torch.no_grad(), probe(model, "logits", edits={layer[name]: torch.zeros_like}) as activations:
        model(images)
        without = activations["logits"][:, 2].numpy()
    assert found.total is not None and found.residual is not None
    np.testing.assert_allclose(found.total, found.score - without, rtol=1e-9)
    assert np.abs(found.residual).max() < 0.02 * max(1, np.abs(found.total).max())


def test_groups_add_up_to_the_channels_they_are_made_of() -> None:
    model, images = tiny_model("branch_concat"), random_images(6)
    every = attribute_groups(model, images, 2, layer="mixed1", groups=8, progress=False)
    assert every.explained > 0.99 and every.directions.shape == (8, 8) and every.maps.shape == (6, 8, 12, 12)
    channels = attribute_channels(model, images, 2, layer="mixed1", progress=False).channels.sum(1)
    np.testing.assert_allclose(every.values.sum(1), channels + every.residual, rtol=1e-5, atol=1e-6)
    assert np.abs(every.residual).max() < 0.1 * np.abs(every.values).sum(1).max()
    with pytest.raises(ValueError, match="9 groups of 864 positions and 8 channels: ask for fewer"):
        attribute_groups(model, images, 2, layer="mixed1", groups=9, progress=False)


# The audit


def test_a_heat_that_is_right_is_told_from_one_that_is_wrong() -> None:
    """On a network that reads one patch only, occlusion predicts what hiding does, and a constant picture does not."""
    model, images = tiny_model("plain"), random_images(2, seed=4)
    target = neuron("conv2:3", (6, 6))

    def brightness(model: Model, images: Tensor, objective: Objective, layer: str | None) -> tuple[Tensor, None]:
        return images.mean(1), None

    good = audit(model, images, target, method=partial(integrated_gradients, steps=200), progress=False)
    bad = audit(model, images, target, method=brightness, progress=False)
    assert good.passes_randomization and not bad.passes_randomization
    assert [similarity for _, similarity in bad.randomization] == pytest.approx([1.0] * len(bad.randomization))
    assert "FAILS randomization" in bad.verdict and "passes randomization" in good.verdict
    assert np.median(good.infidelity) < 0.6 < np.median(bad.infidelity)
    assert good.completeness is not None and good.completeness < 0.05 and bad.completeness is None
    gain = [each.insertion - each.deletion - each.random_insertion + each.random_deletion for each in (good, bad)]
    assert np.median(gain[0]) > np.median(gain[1])


@pytest.mark.parametrize("method", RULED)
def test_methods_that_show_the_picture_are_said_to(method: str, sketches: Model) -> None:
    """Deconvnet and guided backpropagation hardly depend on the layers near the output (Adebayo et al. 2018)."""
    world = Sketches(2, seed=HELD_OUT_SEED)
    images = torch.stack([world[i][0] for i in range(2)])
    shown = attribute(sketches, images, "car", method=method, progress=False)._repr_html_()
    assert "Shows the picture more than the network" in shown
    assert "FAILS randomization" in audit(sketches, images, "car", method=method, progress=False).verdict
    assert audit(sketches, images, "car", method="gradient", progress=False).passes_randomization


def test_a_linear_network_has_no_infidelity(linear: Model) -> None:
    found = audit(linear, random_images(2), 1, method="gradient-x-input", progress=False)
    np.testing.assert_allclose(found.infidelity, 0, atol=1e-9)


def test_an_audit_changes_nothing_and_repeats() -> None:
    model, images = tiny_model("batch_norm"), random_images(2)
    with assert_untouched(model.net):
        first = audit(model, images, 2, progress=False)
        second = audit(model, images, 2, progress=False)
    assert repr(first) == repr(second)
    np.testing.assert_array_equal(first.sensitivity, second.sensitivity)
    tensors = [count for count, _ in first.randomization]
    assert tensors == sorted(tensors) and tensors[-1] > 10


# On disk and in a notebook


@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam"])
def test_it_is_read_as_it_was_written(method: str, tmp_path: Path) -> None:
    found = explain(tiny_model("plain"), random_images(2), method=method)
    again = read_attribution(write_attribution(found, tmp_path / "heat"))
    for name in ("heat", "score", "total", "residual", "pictures"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert (again.method, again.target, again.layer) == (found.method, found.target, found.layer)


def test_a_notebook_shows_each_heat_over_its_picture_and_says_the_scale() -> None:
    model = load_model(
        tiny_model("plain").net, name="p", image_size=12, mean=(0.5,) * 3, std=(1.0,) * 3,
        labels=("<script>", "b", "c", "d", "e"),
    )  # fmt: skip
    found = explain(model, random_images(20), "<script>")
    shown = found._repr_html_()
    assert shown.count("<img") == 16 and "and 4 more images" in shown and "<script>" not in shown
    assert f"±{np.quantile(np.abs(found.heat[0]), 0.995):.2g}" in shown
    neutral = Attribution(np.zeros_like(found.heat), "m", "t", None, found.score, None, None, found.pictures)
    assert found.pictures is not None
    picture = resize(found.pictures[0].astype(np.float32) / 255, 128)
    np.testing.assert_allclose(neutral.overlay(0)[:, :, 0], 1 - 0.6 * (1 - picture.mean(2)), atol=1e-6)
    np.testing.assert_array_equal(neutral.picture(0), picture)
