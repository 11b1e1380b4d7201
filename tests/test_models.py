"""Model: what can be read in a network, which pixels it sees, its preprocessing and its weights are what they are said
to be."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from conftest import CLASSES, IMAGE_SIZE, NETS, assert_untouched, build_net, fill, random_images, tiny_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional as pictures

import features
from features.models import Layer, Model, ReceptiveField, load_model, probe
from features.units import Unit

SHARED = Path(__file__).resolve().parents[2] / "shared"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


# layers


def test_layers_are_the_calls_in_order_with_their_shapes(tiny: Model) -> None:
    truth = reference.outputs_of_calls(tiny.net, random_images(1))
    truth.pop("")
    assert [layer.name for layer in tiny.layers] == list(truth)
    for layer in tiny.layers:
        axes = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2), "ntc": (2, 1), "nc": (1,)}[layer.layout]
        assert layer.shape == tuple(truth[layer.name].shape[axis] for axis in axes)
        assert layer.channels == layer.shape[0]
        assert layer.kind == type(tiny.net.get_submodule(layer.name.split("#")[0])).__name__


def test_probing_gives_channels_first_and_sees_gradients(tiny: Model) -> None:
    images = random_images(3)
    with assert_untouched(tiny.net), probe(tiny, [layer.name for layer in tiny.layers], stop=False) as activations:
        logits = tiny(images)
        for layer in tiny.layers:
            assert activations[layer.name].shape == (3, *layer.shape)
            (gradient,) = torch.autograd.grad(logits.sum(), activations[layer.name], retain_graph=True)
            assert gradient.abs().sum() > 0


def test_probing_edits_channels_first(tiny: Model) -> None:
    """Causal: with one channel silenced, the reading of that channel is zero and the logits are another."""
    images = random_images(3)
    for layer in tiny.layers:
        keep = torch.ones(layer.channels, dtype=torch.float64).index_fill(0, torch.tensor(layer.channels - 1), -1.0)
        keep = keep.view(-1, *[1] * (len(layer.shape) - 1))
        with probe(tiny, layer.name, edits={layer.name: lambda x, keep=keep: x * keep}, stop=False) as activations:
            edited = tiny(images)
            flipped = activations[layer.name]
        with probe(tiny, layer.name) as activations:
            tiny(images)
            torch.testing.assert_close(flipped, activations[layer.name] * keep)
        assert not torch.equal(edited, tiny(images))


EXPECTED = {
    "plain": ("conv1", "conv2", "conv3", "logits"),
    "batch_norm": ("block1", "block2", "block3", "logits"),
    "residual": ("stem", "layer1.0", "layer1.1", "logits"),
    "branch_concat": ("stem", "mixed1", "mixed2", "logits"),
    "grouped": ("conv1", "conv2", "conv3", "logits"),
    "depthwise": ("stem", "depthwise", "pointwise", "logits"),
    "strided": ("conv1", "conv2", "conv3", "logits"),
    "pooled": ("conv1", "conv2", "conv3", "logits"),
    "functional_relu": ("conv1", "conv2", "conv3", "logits"),
    "inplace_relu": ("features.0", "features.2", "features.4", "logits"),
    "reused_module": ("stem", "conv", "conv#1", "conv#2", "logits"),
    "tokens": ("patches", "blocks.0", "blocks.1", "logits"),
    "nhwc": ("stem", "blocks.0", "blocks.1", "logits"),
}


def test_default_layers_of_the_family() -> None:
    assert {name: tiny_model(name).default_layers for name in NETS} == EXPECTED


def on_meta(name: str, **options: object) -> Model:
    """An architecture of torchvision without numbers: described in no time."""
    with torch.device("meta"):
        net = models.get_model(name, weights=None, **options).eval()
    return load_model(net, name=name, image_size=224, **IMAGENET)


def span(template: str, *numbers: int) -> list[str]:
    return [template.format(number) for number in numbers]


ARCHITECTURES = {
    "googlenet": [
        "conv1", "conv2", "conv3", *span("inception{}", "3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"), "fc",
    ],
    "resnet50": [
        "conv1", *span("layer1.{}", *range(3)), *span("layer2.{}", *range(4)), *span("layer3.{}", *range(6)),
        *span("layer4.{}", *range(3)), "fc",
    ],
    "vgg16": [*span("features.{}", 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "classifier.6"],
    "mobilenet_v3_large": [*span("features.{}", *range(17)), "classifier.3"],
    "convnext_tiny": [
        "features.0", *span("features.1.{}", 0, 1, 2), "features.2", *span("features.3.{}", 0, 1, 2), "features.4",
        *span("features.5.{}", *range(9)), "features.6", *span("features.7.{}", 0, 1, 2), "classifier.2",
    ],
    "vit_b_16": ["conv_proj", *span("encoder.layers.encoder_layer_{}", *range(12)), "heads.head"],
    "swin_t": [
        "features.0", *span("features.1.{}", 0, 1), "features.2", *span("features.3.{}", 0, 1), "features.4",
        *span("features.5.{}", *range(6)), "features.6", *span("features.7.{}", 0, 1), "head",
    ],
    "densenet121": [
        "features.conv0", "features.denseblock1", "features.transition1", "features.denseblock2",
        "features.transition2", "features.denseblock3", "features.transition3", "features.denseblock4", "classifier",
    ],
    "squeezenet1_0": [*span("features.{}", 0, 3, 4, 5, 7, 8, 9, 10, 12), "classifier"],
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_layers_are_those_a_person_means(name: str) -> None:
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    assert list(on_meta(name, **options).default_layers) == ARCHITECTURES[name]


@pytest.mark.parametrize(
    "name", ["alexnet", "efficientnet_b0", "maxvit_t", "mnasnet0_5", "shufflenet_v2_x0_5", "swin_v2_t"]
)
def test_other_families_can_be_described(name: str) -> None:
    model = on_meta(name)
    assert model.layer(model.default_layers[-1]).channels == 1000
    assert len(model.default_layers) > 5
    for layer in map(model.layer, model.default_layers):
        assert layer.layout in ("nchw", "nhwc", "nc")
        assert layer.layout == "nc" or layer.shape[1] == layer.shape[2]


def test_swin_and_vision_transformers_are_read_channels_first() -> None:
    with torch.random.fork_rng():
        swin = models.swin_transformer.SwinTransformer([2, 2], 8, [2, 2], [1, 2], [4, 4], num_classes=5).eval()
        vit = models.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=5).eval()
    model = load_model(swin, image_size=16, **PLAIN)
    assert model.layer("features.1.1") == Layer(
        "features.1.1", "SwinTransformerBlock", 8, (8, 8, 8), "nhwc", None, False
    )
    assert model.layer("features.3.0").shape == (16, 4, 4)
    with probe(model, "features.3.0") as activations:
        model(torch.rand(2, 3, 16, 16))
        assert activations["features.3.0"].shape == (2, 16, 4, 4)
    model = load_model(vit, image_size=16, **PLAIN)
    assert model.layer("encoder.layers.encoder_layer_1").shape == (8, 17)
    assert model.layer("encoder.layers.encoder_layer_1").layout == "ntc"


def test_weights_that_are_computed_by_modules_are_no_layers() -> None:
    net = build_net("plain")
    torch.nn.utils.parametrizations.weight_norm(net.conv2).eval()
    model = load_model(net, image_size=IMAGE_SIZE, **PLAIN)
    assert model.default_layers == EXPECTED["plain"]
    assert not [layer for layer in model.layers if "parametrizations" in layer.name]
    assert model.layer("conv2").field == tiny_model("plain").layer("conv2").field


class Turned(nn.Module):
    """Gives a cube of one size along rows, columns and channels, out of sight of `Flow`, channels last or second."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.from_numpy(np.ascontiguousarray(x.numpy())) * 2
        return turned.permute(0, 2, 3, 1).contiguous() if self.last else turned


@pytest.mark.parametrize("last", [True, False])
def test_a_layout_that_one_image_cannot_tell_is_told_by_a_wider_one(last: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 12, 1), Turned(last=last), nn.Identity()).double().eval()
    model = load_model(net, image_size=12, **PLAIN)
    assert model.layer("2").shape == (12, 12, 12)
    assert model.layer("2").layout == ("nhwc" if last else "nchw")


def test_layouts_on_an_image_that_is_not_square() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 1), Turned(last=True), nn.Identity()).double().eval()
    model = load_model(net, image_size=(8, 16), **PLAIN)
    assert model.image_size == (8, 16)
    assert model.layer("2").shape == (16, 8, 16)


# receptive fields


@pytest.mark.parametrize("name", [name for name in NETS if name != "tokens"])
def test_receptive_fields_are_the_pixels_that_have_a_gradient(name: str) -> None:
    model, size = tiny_model(name), 40
    for layer in model.layers:
        if layer.field is None:
            assert len(layer.shape) == 1
            continue
        for position in ((3, 4), (8, 9)):
            y0, x0, y1, x1 = box = layer.field.box(position)
            if min(y0, x0) >= 0 and max(y1, x1) <= size:
                assert reference.receptive_box(model, layer.name, position, size) == box, layer.name
                break
        else:
            pytest.fail(f"no position of {layer.name} sees the interior alone")


ODD: dict[str, nn.Module] = {
    "same": nn.Sequential(nn.Conv2d(3, 4, 4, padding="same"), nn.Conv2d(4, 4, (2, 3), padding="same", dilation=2)),
    "valid": nn.Sequential(nn.Conv2d(3, 4, 4, padding="valid"), nn.Conv2d(4, 4, 3, stride=3)),
    "reflect": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3)),
    "pad": nn.Sequential(nn.ZeroPad2d((2, 3, 1, 0)), nn.Conv2d(3, 4, 3, stride=2)),
    "ceil": nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 4, 1)),
    "adaptive": nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(10), nn.Conv2d(4, 4, 1)),
    "dilated_pool": nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2, 1, dilation=3), nn.Conv2d(4, 4, 1)),
    "shuffle": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ChannelShuffle(2), nn.Conv2d(4, 4, 3)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", ODD)
def test_receptive_fields_of_odd_windows(kind: str) -> None:
    net = fill(ODD[kind].double().eval())
    model = load_model(net, image_size=40, **PLAIN)
    known = [layer for layer in model.layers if layer.field is not None]
    assert model.layers[0] in known
    for layer in known:
        assert layer.field is not None
        assert reference.receptive_box(model, layer.name, (4, 5), 40) == layer.field.box((4, 5))
    assert (model.layers[-1].field is None) == (kind == "shuffle")


class Snippet(nn.Module):
    """Code between two convolutions."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.first, self.second, self.code = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), code

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(eval(self.code, {"torch": torch, "x": x, "y": y, "F": nn.functional}))


FOLLOWED = {
    "y[:, :, 1::2, 2:]": ((3, 3), (2, 1), (1.0, 2.0)),
    "y[..., 1:, :] * 2": ((3, 3), (1, 1), (1.0, 0.0)),
    "torch.cat([y[:, :2], x[:, 1:]], 1)": ((3, 3), (1, 1), (0.0, 0.0)),
    "y.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2)": ((3, 3), (1, 1), (0.0, 0.0)),
    "y + x[:, :1]": ((3, 3), (1, 1), (0.0, 0.0)),
    "y * y.mean(1, keepdim=True)": ((3, 3), (1, 1), (0.0, 0.0)),
    "torch.stack([x[:, 0], x[:, 1], y[:, 0], y[:, 1]], 1)": None,
    "torch.unsqueeze(y[:, 0], 1).expand_as(y).contiguous()": None,
    "y.view(1, 2, 2, 12, 12).transpose(1, 2).reshape(1, 4, 12, 12)": ((3, 3), (1, 1), (0.0, 0.0)),
    "y * y.mean((2, 3), keepdim=True)": None,
    "y.roll(1, 2)": None,
    "y.transpose(2, 3)": None,
    "F.instance_norm(y)": None,
    "F.layer_norm(y, y.shape[1:])": None,
    "F.interpolate(y, scale_factor=2)": None,
    "y.flip(3)": None,
    "y.softmax(3)": None,
    "y.cumsum(2)": None,
    "F.pad(y, (1, 1, 1, 1), mode='circular')": None,
    "y + y.data.flip(2)": None,
    "torch.from_numpy(y.numpy())": None,
    "y + torch.from_numpy(y.numpy()).flip(2)": None,
}


@pytest.mark.parametrize("code", FOLLOWED)
def test_a_field_is_exact_or_it_is_none(code: str) -> None:
    model = load_model(Snippet(code).eval(), image_size=12, **PLAIN)
    expected = FOLLOWED[code]
    assert model.layer("second").field == (None if expected is None else ReceptiveField(*expected))


def test_writing_into_a_part_of_a_tensor_ends_its_field() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.wide, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 9, padding=4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y[:, :2].add_(self.wide(x)[:, :2])
            return self.second(y)

    assert load_model(Writes().eval(), image_size=12, **PLAIN).layer("second").field is None


# The published values: VGG16 and GoogLeNet by the arithmetic of receptive fields (Araujo, Norris, Sim 2019, Distill).
KNOWN = {
    ("vgg16", "features.2"): (5, 1), ("vgg16", "features.7"): (14, 2), ("vgg16", "features.14"): (40, 4),
    ("vgg16", "features.21"): (92, 8), ("vgg16", "features.28"): (196, 16), ("vgg16", "features.30"): (212, 32),
    ("googlenet", "conv1"): (7, 2), ("googlenet", "conv3"): (19, 4), ("googlenet", "inception3a"): (43, 8),
    ("resnet50", "conv1"): (7, 2), ("resnet50", "layer1.2"): (35, 4), ("resnet50", "layer4.2"): (427, 32),
}  # fmt: skip


def test_known_receptive_fields() -> None:
    found = {name: on_meta(name, **({"init_weights": False} if name != "resnet50" else {})) for name, _ in KNOWN}
    for (name, layer), (size, stride) in KNOWN.items():
        field = found[name].layer(layer).field
        assert field is not None
        assert (field.size, field.stride) == ((size, size), (stride, stride)), (name, layer)
    assert found["googlenet"].layer("fc").field is None
    assert found["vgg16"].layer("classifier.0").field is None


# the noun


def test_a_model_is_frozen_and_says_what_it_is() -> None:
    model = tiny_model("plain")
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"
    assert repr(model) == "Model('plain': Plain, 3 x 12 x 12, 7 layers, 5 labels, cpu)"
    assert (model.channels, model.image_size, model.labels) == (3, (12, 12), CLASSES)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64)


def test_preprocessing_is_part_of_the_model(tiny: Model) -> None:
    images = random_images()
    mean, std = torch.tensor(tiny.mean, dtype=torch.float64), torch.tensor(tiny.std, dtype=torch.float64)
    by_hand = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(tiny(images), tiny.net(by_hand))
    torch.testing.assert_close(tiny(images.float()), tiny.net(by_hand), rtol=1e-5, atol=1e-5)


def test_units_and_layers_that_do_not_exist_are_refused() -> None:
    model = tiny_model("plain")
    assert model.unit("conv1:5") == Unit("conv1", 5)
    with pytest.raises(ValueError, match=r"no channel 6 in layer 'conv1': it has 6 channels \(0 to 5\)"):
        model.unit("conv1:6")
    with pytest.raises(ValueError, match=r"no layer 'conv11': nearest are 'conv1', .*model\.layers"):
        model.unit("conv11:0")
    with pytest.raises(ValueError, match="no layer"), probe(model, ["conv11"]):
        pass
    with pytest.raises(ValueError, match="no layer"), probe(model, [], edits={"conv11": torch.clone}):
        pass


def test_images_that_do_not_fit_are_refused() -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match=r"shape \(3, 12, 12\) .* takes \(n, 3, h, w\)"):
        model(random_images()[0])
    with pytest.raises(ValueError, match=r"takes \(n, 3, h, w\)"):
        model(random_images(channels=1))
    with pytest.raises(TypeError, match="divide bytes by 255"):
        model(torch.zeros(1, 3, 12, 12, dtype=torch.uint8))
    model.net.train()
    with pytest.raises(RuntimeError, match="training mode"):
        model(random_images())


def test_the_digest_is_of_the_weights_and_of_nothing_else() -> None:
    model, same, other = tiny_model("residual"), tiny_model("residual"), tiny_model("residual", seed=1)
    assert model.digest == same.digest != other.digest
    assert len(model.digest) == 64
    digest = model.digest
    with torch.no_grad():
        model.net.stem.weight[0, 0, 0, 0] += 1e-12
    assert model.digest != digest
    model.net.load_state_dict(build_net("residual").state_dict())
    assert model.digest == digest
    model.net.float()
    assert model.digest != digest


def test_reading_a_network_leaves_it_as_it_was() -> None:
    for name in NETS:
        net = build_net(name)
        net.register_parameter("frozen", nn.Parameter(torch.ones(1).double(), requires_grad=False))
        with assert_untouched(net):
            model = load_model(net, image_size=IMAGE_SIZE, **PLAIN)
            model(random_images())
            model.digest  # noqa: B018
            assert model.net is net


def test_reading_inside_inference_mode_and_no_grad() -> None:
    for mode in (torch.inference_mode, torch.no_grad):
        net = build_net("inplace_relu")
        with mode():
            model = load_model(net, image_size=IMAGE_SIZE, **PLAIN)
            assert [layer.name for layer in model.layers if layer.overwritten] == [
                "features.0",
                "features.2",
                "features.4",
            ]
            with probe(model, "features.0", stop=False) as activations:
                model(random_images())
                assert activations["features.0"].min() < 0
        assert model(random_images()).requires_grad


# loading


def test_the_embedded_networks() -> None:
    for name in ("sketches", "photographs"):
        model = load_model(name)
        assert model.default_layers == (
            *span("conv2d{}", 0, 1, 2),
            *span("mixed{}", "3a", "3b", "4a", "4b", "4c"),
            "logits",
        )
        assert (model.image_size, model.channels, model.name) == ((64, 64), 3, name)
        assert len(model.labels) == model.layer("logits").channels == model(torch.rand(1, 3, 64, 64)).shape[1]
        assert all((layer.field is None) == (layer.name in ("average", "logits")) for layer in model.layers)
        assert not model.net.training
    assert load_model("sketches", weights="seed1").name == "sketches"
    with pytest.raises(ValueError, match="'sketches' has no weights 'seed9': it has 'seed0'"):
        load_model("sketches", weights="seed9")
    with pytest.raises(TypeError, match="takes no num_classes"):
        load_model("sketches", num_classes=3)


def test_an_embedded_network_from_a_file_of_its_own_training() -> None:
    path = Path(features.__file__).parent / "sketches" / "seed1.safetensors"
    assert load_model("sketches", weights=path).digest == load_model("sketches", weights="seed1").digest
    assert load_model("sketches", weights=str(path)).digest == load_model("sketches", weights="seed1").digest


def test_random_weights_are_always_the_same_and_touch_no_generator() -> None:
    before = torch.get_rng_state()
    first, second = load_model("squeezenet1_1"), load_model("squeezenet1_1")
    assert torch.equal(before, torch.get_rng_state())
    assert first.digest == second.digest
    assert first.image_size == (224, 224)
    assert (first.mean, first.std) == (IMAGENET["mean"], IMAGENET["std"])
    assert first.labels[:2] == ("tench", "goldfish")
    assert load_model("squeezenet1_1", num_classes=7).labels == ()
    assert load_model("squeezenet1_1", num_classes=2, labels=("cat", "dog")).labels == ("cat", "dog")


@pytest.mark.parametrize(
    "weights", ["DEFAULT", "IMAGENET1K_V1", "GoogLeNet_Weights.IMAGENET1K_V1", models.GoogLeNet_Weights.DEFAULT]
)
def test_pretrained_weights_bring_their_own_preprocessing(monkeypatch: pytest.MonkeyPatch, weights: object) -> None:
    """GoogLeNet's weights were made for another scale, which the network turns to by itself: the logits must be
    torchvision's."""
    with torch.random.fork_rng():
        pretrained = models.googlenet(weights=None, init_weights=False, aux_logits=True, transform_input=True).eval()
    state = pretrained.state_dict()
    monkeypatch.setattr(models.GoogLeNet_Weights, "get_state_dict", lambda self, **_: state)
    model = load_model("googlenet", weights=weights)
    assert model.net.transform_input
    assert not [layer for layer in model.layers if layer.name.startswith("aux")]
    assert len(model.labels) == 1000
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    preset = models.GoogLeNet_Weights.DEFAULT.transforms()
    resized = pictures.center_crop(pictures.resize(picture, preset.resize_size, preset.interpolation), preset.crop_size)
    with torch.no_grad():
        expected = pretrained(preset(picture)[None])
        torch.testing.assert_close(model(pictures.to_tensor(resized)[None]), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_cannot_be_fetched_say_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object, **_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(models.AlexNet_Weights, "get_state_dict", offline)
    with pytest.raises(OSError, match=r"could not be fetched \(no network\): load https://.* and give its path"):
        load_model("alexnet", weights="DEFAULT")


def test_images_of_one_channel_and_of_five() -> None:
    for channels in (1, 5):
        net = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        ).eval()
        model = load_model(net, image_size=(9, 11), mean=[0.1] * channels, std=[0.2] * channels, labels=["no", "yes"])
        assert model.channels == channels
        assert model(torch.rand(2, channels, 9, 11)).shape == (2, 2)
        assert model.layer("1").shape == (4, 7, 9)


def test_number_type_and_device_can_be_chosen() -> None:
    model = load_model("sketches", dtype=torch.float64)
    assert model.dtype == torch.float64
    assert model(torch.rand(1, 3, 64, 64)).dtype == torch.float64
    model = load_model("sketches", device="meta")
    assert model.device.type == "meta"
    assert model(torch.rand(1, 3, 64, 64)).device.type == "meta"
    half = load_model("sketches", dtype=torch.bfloat16)
    assert half(torch.rand(1, 3, 64, 64)).dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_model_on_a_gpu() -> None:
    model, twin = load_model("sketches", device="cuda"), load_model("sketches")
    images = torch.rand(2, 3, 64, 64)
    assert model.device.type == "cuda"
    assert model.digest == twin.digest
    torch.testing.assert_close(model(images).cpu(), twin(images), rtol=1e-3, atol=1e-3)


def test_sources_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no model 'googlnet': nearest are 'googlenet'.*list_models"):
        load_model("googlnet")
    with pytest.raises(ValueError, match=r"resnet18 has no weights 'V3': it has 'IMAGENET1K_V1', 'DEFAULT'"):
        load_model("resnet18", weights="V3")
    with pytest.raises(ValueError, match="has no weights"):
        load_model("resnet18", weights=models.AlexNet_Weights.DEFAULT)
    with pytest.raises(TypeError, match=r"named by text or is an nn\.Module, not int"):
        load_model(3)


def test_an_own_network_needs_its_input_said() -> None:
    net = build_net("plain")
    with pytest.raises(
        ValueError, match=r"not known without mean, std, image_size: .* load_model\(net, image_size=224"
    ):
        load_model(net)
    with pytest.raises(ValueError, match="not known without std:"):
        load_model(net, mean=(0, 0, 0), image_size=12)
    with pytest.raises(ValueError, match="does not run on an image with 1 channel of 12 x 12 pixels"):
        load_model(net, mean=(0,), std=(1,), image_size=12)
    with pytest.raises(ValueError, match="one finite number per channel"):
        load_model(net, mean=(0, 0), std=(1,), image_size=12)
    with pytest.raises(ValueError, match="std above 0"):
        load_model(net, mean=(0, 0, 0), std=(1, 0, 1), image_size=12)
    for size in (0, (3,), (1, 2, 3), (12.5, 12)):
        with pytest.raises(ValueError, match="image_size is"):
            load_model(net, image_size=size, **PLAIN)
    with pytest.raises(ValueError, match="4 labels were given: Plain has 5 outputs"):
        load_model(net, image_size=12, labels=CLASSES[:4], **PLAIN)
    with pytest.raises(TypeError, match="list of texts"):
        load_model(net, image_size=12, labels="alpha", **PLAIN)
    with pytest.raises(TypeError, match="takes no num_classes"):
        load_model(net, image_size=12, num_classes=5, **PLAIN)
    with pytest.raises(ValueError, match="nothing to read"):
        load_model(nn.Conv2d(3, 4, 3).eval(), image_size=12, **PLAIN)


def test_a_network_in_training_mode_is_refused_and_left_there() -> None:
    net = build_net("batch_norm")
    net.block2.train()
    with (
        assert_untouched(net),
        pytest.raises(ValueError, match=r"training mode in its module 'block2': call net\.eval\(\)"),
    ):
        load_model(net, image_size=12, **PLAIN)


# checkpoints


def nested(state: dict[str, Tensor], kind: str) -> object:
    return {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state, "optimizer": {"lr": 0.1}},
        "model_state_dict": {"model_state_dict": state},
        "parallel": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        "compiled": {f"_orig_mod.{name}": value for name, value in state.items()},
    }[kind]


@pytest.mark.parametrize(
    "kind", ["bare", "state_dict", "model", "model_state_dict", "parallel", "compiled", "safetensors"]
)
def test_a_checkpoint_fills_the_network(tmp_path: Path, kind: str) -> None:
    trained, path = tiny_model("residual", seed=5), tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(trained.net.state_dict(), path)
    else:
        torch.save(nested(trained.net.state_dict(), kind), path)
    model = load_model(build_net("residual"), weights=str(path), image_size=IMAGE_SIZE, **PLAIN)
    assert model.digest == trained.digest


def test_a_checkpoint_fills_a_torchvision_network(tmp_path: Path) -> None:
    net = fill(models.squeezenet1_1(num_classes=3))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = load_model("squeezenet1_1", weights=tmp_path / "w.pt", num_classes=3, image_size=64)
    assert torch.equal(model.net.classifier[1].weight, net.classifier[1].weight)
    assert model.image_size == (64, 64)


def test_what_does_not_fit_is_listed_and_nothing_is_changed(tmp_path: Path) -> None:
    net, path = build_net("residual"), tmp_path / "w.safetensors"
    state = dict(net.state_dict())
    del state["stem.bias"]
    state = {key: value + 1 for key, value in state.items()} | {
        "extra": torch.zeros(1),
        "stem.weight": torch.zeros(8, 3, 5, 5),
    }
    save_file(state, path)
    message = (
        r"do not fit Residual: missing stem.bias; unexpected extra; stem.weight has shape \(8, 3, 5, 5\) instead of"
    )
    with assert_untouched(net), pytest.raises(ValueError, match=message):
        load_model(net, weights=path, image_size=IMAGE_SIZE, **PLAIN)


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    net, path = build_net("batch_norm"), tmp_path / "w.pt"
    state = build_net("batch_norm", seed=3).state_dict()
    torch.save({key: value for key, value in state.items() if "num_batches" not in key}, path)
    model = load_model(net, weights=path, image_size=IMAGE_SIZE, **PLAIN)
    assert torch.equal(model.net.block1[0].weight, state["block1.0.weight"])


class Hostile:
    """A pickle that would write a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    net = build_net("plain")
    torch.save({"state_dict": net.state_dict(), "payload": Hostile(target)}, tmp_path / "zip.pt")
    torch.save(Hostile(target), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Hostile(target)))
    for name in ("zip.pt", "old.pt", "raw.pt"):
        with assert_untouched(net), pytest.raises(ValueError, match="not opened, since unpickling could run code"):
            load_model(net, weights=tmp_path / name, image_size=IMAGE_SIZE, **PLAIN)
    assert not target.exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)
    assert target.exists(), "the payload is live: the refusals above mean something"


def test_damaged_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    net = build_net("plain")
    whole, saved = BytesIO(), tmp_path / "whole.safetensors"
    torch.save(net.state_dict(), whole)
    save_file(net.state_dict(), saved)
    damaged = {
        "empty.pt": b"",
        "cut.pt": whole.getvalue()[:-200],
        "text.pt": b"these are no weights",
        "zip.pt": b"",
        "empty.safetensors": b"",
        "cut.safetensors": saved.read_bytes()[:-8],
        "huge.safetensors": (2**60).to_bytes(8, "little") + b"{}",
        "number.pt": b"",
        "words.pt": b"",
        "nothing.pt": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    torch.save(3, tmp_path / "number.pt")
    torch.save({"weight": "heavy"}, tmp_path / "words.pt")
    torch.save({"state_dict": {}}, tmp_path / "nothing.pt")
    for name in damaged:
        with assert_untouched(net), pytest.raises(ValueError, match=name.replace(".", r"\.")):
            load_model(net, weights=tmp_path / name, image_size=IMAGE_SIZE, **PLAIN)
    for absent in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file of weights at"):
            load_model(net, weights=absent, image_size=IMAGE_SIZE, **PLAIN)
    with pytest.raises(TypeError, match="give its path"):
        load_model(net, weights=3, image_size=IMAGE_SIZE, **PLAIN)


# other sources


def test_timm_networks_bring_their_preprocessing() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:resnet10t")
    assert (model.image_size, model.mean, model.std) == ((176, 176), IMAGENET["mean"], IMAGENET["std"])
    assert model.default_layers == ("conv1.0", "conv1.3", "conv1.6", *span("layer{}.0", 1, 2, 3, 4), "fc")
    assert model.labels[0] == "tench, Tinca tinca"
    assert load_model("timm:resnet10t", num_classes=4).labels == ()
    with pytest.raises(ValueError, match="no timm model 'resnet10x': nearest are"):
        load_model("timm:resnet10x")


def test_the_inception_of_the_articles_comes_from_lucent() -> None:
    pytest.importorskip("lucent.modelzoo")
    model = load_model("lucent:inceptionv1")
    assert model.default_layers[:4] == ("conv2d0", "conv2d1", "conv2d2", "mixed3a")
    assert model.default_layers[-2:] == ("mixed5b", "softmax2_pre_activation_matmul")
    assert model.layer("mixed4a").channels == 508
    with probe(model, "conv2d0_pre_relu_conv", stop=False) as activations:
        logits = model(torch.rand(1, 3, 224, 224))
        before = activations["conv2d0_pre_relu_conv"]
    assert logits.shape == (1, 1008)
    assert not torch.allclose(logits.sum(), torch.tensor(1.0))
    (gradient,) = torch.autograd.grad(model.net.conv2d0(before).sum(), before)
    assert torch.equal(gradient, (before > 0).float()), "the ReLU does not leak"
    images = torch.rand(1, 3, 224, 224)
    scaled = (images - torch.tensor(model.mean)[:, None, None]) / torch.tensor(model.std)[:, None, None]
    torch.testing.assert_close(scaled, images * 255 - 117, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="there is 'lucent:inceptionv1'"):
        load_model("lucent:resnet18")


@pytest.mark.parametrize(("source", "package"), [("timm:resnet10t", "timm"), ("lucent:inceptionv1", "lucent")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, source: str, package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'vision-circuits\[{package}\]'"):
        load_model(source)


PHOTOGRAPHS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.skipif(
    not (SHARED / "models" / "googlenet-cifar10.safetensors").is_file(), reason="the shared network is absent"
)
def test_a_network_really_trained_on_photographs_loads_as_a_user_would_and_knows_them() -> None:
    model = load_model(
        "googlenet",
        weights=SHARED / "models" / "googlenet-cifar10.safetensors",
        num_classes=10, aux_logits=False, init_weights=False, transform_input=False,
        image_size=64, labels=PHOTOGRAPHS,
    )  # fmt: skip
    assert model.labels == PHOTOGRAPHS
    assert model.image_size == (64, 64)
    archive = SHARED / "data" / "cifar10-test.zip"
    if not archive.is_file():
        pytest.skip("the shared photographs are absent")
    photographs, labels = some_photographs(archive, 200)
    with torch.no_grad():
        right = (model(photographs).argmax(1) == labels).float().mean()
    assert right > 0.75, "85.1 % on all test photographs"


def some_photographs(archive: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` test photographs, the classes in turn, enlarged to 64 pixels as the network's README says."""
    with zipfile.ZipFile(archive) as files:
        names = [f"cifar10-test/{PHOTOGRAPHS[index % 10]}/{index // 10:04d}.jpg" for index in range(count)]
        small = [pictures.to_tensor(Image.open(BytesIO(files.read(name))).convert("RGB")) for name in names]
    large = nn.functional.interpolate(torch.stack(small), (64, 64), mode="bilinear", align_corners=False)
    return large, torch.arange(count) % 10


def test_the_description_of_a_model_is_plain_data() -> None:
    """Layers and fields can be written as JSON: atlases and graphs keep them."""
    model = tiny_model("strided")
    written = json.loads(json.dumps([dataclasses.asdict(layer) for layer in model.layers]))
    assert written[0]["field"]["size"] == [5, 5]
