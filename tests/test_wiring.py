"""Wiring: the linear map is that of the network made linear; the flow is what the network really reads."""

from __future__ import annotations

import copy
import functools
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import NETS, assert_untouched, fill, random_images, tiny_model
from reference import slow_connect, window_of
from torch import Tensor, nn

from circuits.wiring import LINEAR, RULES, connect, connections, flow, frozen, identity, linear_map, register
from circuits.wiring import jacobian as jacobian_module
from circuits.wiring.crops import connect_by_autograd
from circuits.wiring.pulls import Pull
from circuits.wiring.segments import run
from circuits.wiring.transposes import TRANSPOSES, Step, through_node
from features.models import Model, load_model, probe

PAIRS = [
    ("plain", "relu1", "conv2"),
    ("plain", "relu1", "conv3"),
    ("plain", "conv1", "relu3"),
    ("batch_norm", "block1", "block2"),
    ("batch_norm", "block1.0", "block3"),
    ("residual", "stem", "layer1.0"),
    ("residual", "layer1.0.conv1", "layer1.1.relu#1"),
    ("branch_concat", "stem", "mixed1"),
    ("branch_concat", "mixed1", "mixed2"),
    ("branch_concat", "mixed1.pool", "mixed2"),
    ("grouped", "relu1", "relu2"),
    ("grouped", "relu1", "relu3"),
    ("depthwise", "relu1", "relu3"),
    ("strided", "relu1", "relu2"),
    ("strided", "conv1", "relu3"),
    ("pooled", "relu1", "relu2"),
    ("pooled", "relu1", "conv3"),
    ("pooled", "pool2", "conv3"),
    ("functional_relu", "conv1", "conv3"),
    ("inplace_relu", "features.0", "features"),
    ("reused_module", "stem", "relu#2"),
    ("reused_module", "relu", "conv#2"),
    ("nhwc", "stem", "blocks.0"),
    ("nhwc", "blocks.0", "blocks.1"),
]


SIDES = {("pooled", "conv3"): 28, ("strided", "relu3"): 24}  # pixels, where 12 would clip the window


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may need the slow way: that would hide a transpose that is wrong."""

    def slow_way(*args: object, **kwargs: object) -> Tensor:
        raise AssertionError("reading by boxes did not agree with autograd")

    monkeypatch.setattr(jacobian_module, "connect_by_autograd", slow_way)


def small_model(net: nn.Module, *, size: int = 12, channels: int = 3) -> Model:
    net = fill(net.double().eval())
    return load_model(net, name="net", image_size=size, mean=(0.5,) * channels, std=(0.25,) * channels, labels=())


@pytest.mark.parametrize(("name", "source", "target"), PAIRS, ids=str)
def test_connect_is_the_response_of_the_linear_network_to_impulses(name: str, source: str, target: str) -> None:
    model = tiny_model(name)
    torch.testing.assert_close(
        connect(model, source, target),
        window_of(slow_connect(model, source, target, SIDES.get((name, target), 12))),
        rtol=0,
        atol=1e-10,
    )


def test_every_map_in_the_family_is_felt_out() -> None:
    assert {name for name, _, _ in PAIRS} == set(NETS) - {"tokens"}


def test_two_adjacent_convolutions_are_connected_by_the_folded_weights() -> None:
    model = tiny_model("batch_norm")
    conv, norm = model.net.block2[0], model.net.block2[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(
        connect(model, "block1", "block2"), conv.weight * scale[:, None, None, None], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("build", "source", "target", "weights"),
    [
        (torchvision.models.vgg11_bn, "features.7", "features.8", ("features.8", None)),
        (torchvision.models.resnet18, "layer2.0.relu", "layer2.0.bn2", ("layer2.0.conv2", "layer2.0.bn2")),
        (
            lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
            "inception4b.branch2.0",
            "inception4b.branch2.1",
            ("inception4b.branch2.1.conv", "inception4b.branch2.1.bn"),
        ),
        (
            torchvision.models.resnet18,
            "layer1",
            "layer2.0.bn1",
            ("layer2.0.conv1", "layer2.0.bn1"),
        ),
    ],
    ids=["vgg", "resnet", "googlenet", "strided"],
)
def test_real_architectures_fold_too(build: object, source: str, target: str, weights: tuple[str, str | None]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().eval()  # type: ignore[operator]
    model = load_model(net, name="net", image_size=64, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())
    expected = net.get_submodule(weights[0]).weight
    if weights[1] is not None:
        norm = net.get_submodule(weights[1])
        expected = expected * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    torch.testing.assert_close(connect(model, source, target), expected, rtol=1e-4, atol=1e-6)


def test_classes_behind_global_pooling_get_the_weights_of_the_classifier() -> None:
    model = tiny_model("plain")
    torch.testing.assert_close(connect(model, "relu3", "logits")[:, :, 0, 0], model.net.logits.weight)


def test_a_kernel_with_zeros_at_its_border_keeps_its_place() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight.zero_()
        model.net.conv2.weight[2, 1, 0, 2] = 3.0
    weights = connect(model, "relu1", "conv2")
    assert weights.shape[2:] == (3, 3)
    assert weights.nonzero().tolist() == [[2, 1, 0, 2]]


def test_attention_is_frozen_and_moves_what_it_attends_to() -> None:
    model = tiny_model("tokens")
    attention = model.net.blocks[0].attention
    moved = attention.out_proj.weight @ attention.in_proj_weight[16:]
    weights = connect(model, "blocks.0.norm1", "blocks.0.attention")
    torch.testing.assert_close(weights[:, :, 0, 0], moved)
    mlp = model.net.blocks[0].mlp
    weights = connect(model, "blocks.0.norm2", "blocks.0.mlp")
    torch.testing.assert_close(weights[:, :, 0, 0], mlp[2].weight @ mlp[0].weight)


def test_cut_layers_leave_the_paths_around_them() -> None:
    model = tiny_model("residual")
    direct = connect(model, "stem", "layer1.0", cut=["layer1.0.conv1"])
    torch.testing.assert_close(direct[:, :, 0, 0], torch.eye(8, dtype=torch.float64))
    whole, through = connect(model, "stem", "layer1.0"), connect(model, "layer1.0.conv1", "layer1.0")
    first = connect(model, "stem", "layer1.0.conv1")
    composed = F.conv2d(first.transpose(0, 1), through.flip(2, 3), padding=2).transpose(0, 1)
    torch.testing.assert_close(whole, composed + F.pad(direct, (2, 2, 2, 2)))


class Stitched(nn.Module):
    """One operation of the user's own between two convolutions."""

    def __init__(self, operation: object, width: int = 4) -> None:
        super().__init__()
        self.first, self.operation = nn.Conv2d(3, 4, 3, padding=1), operation
        self.second = nn.Conv2d(width, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.operation(self.first(x)))  # type: ignore[operator]


def test_gates_are_frozen_where_they_stand() -> None:
    model = small_model(Stitched(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))))
    images = random_images(1)
    with torch.no_grad(), probe(model, ["first"]) as activations:
        model(images)
        gate = torch.sigmoid(activations["first"].mean((2, 3)))
    weights = connect(model, "first", "second", images=images)
    torch.testing.assert_close(weights, model.net.second.weight * gate[0, None, :, None, None])


@pytest.mark.parametrize(
    ("operation", "module"),
    [
        (lambda x: F.local_response_norm(x, 3, alpha=0.5, k=2.0), nn.LocalResponseNorm(3, alpha=0.5, k=2.0)),
        (lambda x: F.normalize(x, dim=1), lambda x: x / x.norm(dim=1, keepdim=True)),
        (lambda x: F.group_norm(x, 2), nn.GroupNorm(2, 4, affine=False)),
        (F.instance_norm, nn.GroupNorm(4, 4, affine=False)),
        (lambda x: F.rms_norm(x, (12,)), lambda x: x / (x.square().mean(3, keepdim=True) + 2.22e-16).sqrt()),
    ],
    ids=["lrn", "normalize", "group", "instance", "rms"],
)
def test_frozen_denominators_divide_by_what_the_network_divides_by(operation: object, module: object) -> None:
    """What is frozen is true: the linear map of the activations is the activations, less a constant."""
    model = small_model(Stitched(operation))
    images = random_images(2)
    with torch.no_grad(), probe(model, ["first", "second"]) as activations:
        model(images)
        first = activations["first"]
        value = F.conv2d(module(first), model.net.second.weight, padding=1)  # type: ignore[operator]
    pushed = linear_map(model, "first", "second", images=images)(first)
    if module.__class__ is nn.GroupNorm:
        groups = first.reshape(2, module.num_groups, -1)
        shift = (groups.mean(2) / (groups.var(2, unbiased=False) + 1e-5).sqrt()).repeat_interleave(
            4 // module.num_groups, 1
        )
        value = value + F.conv2d(shift[:, :, None, None].expand_as(first), model.net.second.weight, padding=1)
    torch.testing.assert_close(pushed, value)


@pytest.mark.parametrize(
    ("operation", "spelled"),
    [
        (torch.exp, "torch.exp"),
        (lambda x: x * x, "torch.mul"),
        (lambda x: 1 / (x + 9), "torch.Tensor"),
        (lambda x: x / x.mean(), "torch.Tensor.__truediv__"),
        (lambda x: torch.where(x > 0, x, 0.1 * x), "torch.where"),
        (lambda x: torch.einsum("nchw,nchw->nchw", x, x), "torch.einsum"),
    ],
    ids=["exp", "square", "reciprocal", "quotient", "where", "einsum"],
)
def test_what_is_not_linear_is_refused_by_name_with_the_line_that_registers_it(operation: object, spelled: str) -> None:
    model = small_model(Stitched(operation))
    with (
        assert_untouched(model.net),
        pytest.raises(NotImplementedError, match=r"circuits\.wiring\.register\(") as refused,
    ):
        connect(model, "first", "second")
    assert spelled.split(".")[-1].strip("_")[-3:] in str(refused.value) or spelled in str(refused.value)


def test_the_line_in_the_refusal_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "tanh", raising=False)
    model = small_model(Stitched(torch.tanh))
    with pytest.raises(NotImplementedError) as refused:
        connect(model, "first", "second")
    assert "circuits.wiring.register(torch.tanh, circuits.wiring.identity)" in str(refused.value)
    monkeypatch.setitem(RULES, "tanh", RULES["relu"])
    register(torch.tanh, identity)
    torch.testing.assert_close(connect(model, "first", "second"), model.net.second.weight)
    register(torch.tanh, frozen)
    with pytest.raises(ValueError, match="tanh"):
        connect(model, "first", "second")
    with pytest.raises(TypeError, match="a rule is a function"):
        register(torch.tanh, "identity")  # type: ignore[arg-type]


def test_the_table_and_the_list_do_not_contradict_each_other() -> None:
    assert not RULES.keys() & LINEAR


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: F.relu(x, inplace=True),
        F.hardtanh_,
        lambda x: F.dropout(x, 0.5, training=True),
        lambda x: x.clone().clamp_(0),
        nn.PReLU().double(),
        lambda x: x.detach() * 0 + x,
        lambda x: torch.stack([x[:, c] for c in range(4)], 1),
        lambda x: torch.cat(x.chunk(2, 1), dim=1),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: torch.einsum("oc,nchw->nohw", torch.eye(4, dtype=torch.float64), x),
        lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
        lambda x: 2 * x - x,
        lambda x: x.reshape(len(x), 4, -1).unflatten(2, (x.shape[2], x.shape[3])),
    ],
)
def test_these_let_everything_through(operation: object) -> None:
    model = small_model(Stitched(operation))
    with assert_untouched(model.net):
        weights = connect(model, "first", "second")
    torch.testing.assert_close(weights, model.net.second.weight)


def test_a_map_is_the_whole_map_at_these_images(tiny: Model) -> None:
    """Summing the map of a change everywhere over the window is the total that connect gives, away from borders."""
    pushed = linear_map(tiny, tiny.layers[0].name, "logits", images=random_images(2))(
        torch.ones(2, *tiny.layers[0].shape, dtype=torch.float64)
    )
    total = connect(tiny, tiny.layers[0].name, "logits", images=random_images(2)).sum((1, 2, 3))
    torch.testing.assert_close(pushed.mean(0), total)


def test_flow_reads_what_the_network_reads() -> None:
    assert flow(tiny_model("residual"), ["layer1.1", "stem", "layer1.0"]) == {
        "stem": (),
        "layer1.0": ("stem",),
        "layer1.1": ("layer1.0",),
    }
    assert flow(tiny_model("residual"), ["stem", "layer1.0.bn2", "layer1.0"])["layer1.0"] == ("stem", "layer1.0.bn2")
    assert flow(tiny_model("branch_concat"), ["stem", "mixed1.one", "mixed1.three", "mixed1"]) == {
        "stem": (),
        "mixed1.three": ("stem",),
        "mixed1.one": ("stem",),
        "mixed1": ("stem", "mixed1.three", "mixed1.one"),
    }
    assert flow(tiny_model("reused_module"), ["conv", "conv#1", "conv#2"]) == {
        "conv": (),
        "conv#1": ("conv",),
        "conv#2": ("conv#1",),
    }
    assert flow(tiny_model("tokens"), ["patches", "blocks.1", "logits"])["logits"] == ("blocks.1",)


def test_flow_agrees_with_pushing_each_layer(tiny: Model) -> None:
    """A layer feeds another exactly when changing it, with all other listed layers held, changes the other."""
    names = [layer.name for layer in tiny.layers]
    images = random_images(1)
    with torch.no_grad(), probe(tiny, names) as activations:
        tiny(images)
        clean = {name: activations[name].clone() for name in names}
    sources = flow(tiny, names)
    for place, source in enumerate(names[:-1]):
        held = {name: (lambda value, name=name: clean[name]) for name in names[:place]}
        noise = torch.randn(clean[source].shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
        seen: dict[str, Tensor] = {}

        def note(name: str, seen: dict[str, Tensor] = seen) -> object:
            def edit(value: Tensor) -> Tensor:
                seen[name] = value.clone()
                return clean[name]

            return edit

        after = {name: note(name) for name in names[place + 1 :]}
        push = {source: lambda value, noise=noise: clean_of(value) + noise}
        with torch.no_grad(), probe(tiny, names, edits={**held, **push, **after}):  # type: ignore[dict-item]
            tiny(images)
        changed = {name for name in names[place + 1 :] if not torch.equal(seen[name], clean[name])}
        assert changed == {name for name in names if source in sources[name]}


def clean_of(value: Tensor) -> Tensor:
    return value


def test_the_model_comes_back_as_it_was(tiny: Model) -> None:
    first, last = tiny.layers[0].name, tiny.layers[-1].name
    with assert_untouched(tiny.net):
        flow(tiny, [first, last])
        connect(tiny, first, last)
        linear_map(tiny, first, last, images=random_images(1))


def test_a_frozen_network_in_no_grad_is_read_alike() -> None:
    model = tiny_model("plain")
    expected = connect(model, "relu1", "conv3")
    for parameter in model.net.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(connect(model, "relu1", "conv3"), expected)
        assert flow(model, ["relu1", "conv3"]) == {"relu1": (), "conv3": ("relu1",)}


def test_bad_input_is_refused_with_a_sentence() -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match="conv2"):
        connect(model, "conv22", "conv3")
    with pytest.raises(ValueError, match="both 'conv2'"):
        connect(model, "conv2", "conv2")
    with pytest.raises(ValueError, match=r"does not feed 'conv1': 'conv1' feeds 'conv3'"):
        connect(model, "conv3", "conv1")
    with pytest.raises(ValueError, match=r"every path goes through layers held fixed \(conv2, relu2\)"):
        connect(model, "conv1", "conv3", cut=["relu2", "relu3", "conv2"])
    with pytest.raises(ValueError, match="no path leads from the one to the other"):
        connect(tiny_model("branch_concat"), "mixed1.one", "mixed1.three")
    with pytest.raises(ValueError, match="no path leads from the one to the other"):
        connect(tiny_model("branch_concat"), "mixed1.three", "mixed1.one")
    with pytest.raises(ValueError, match="listed twice: conv1"):
        flow(model, ["conv1", "conv1"])
    with pytest.raises(TypeError, match="a list of names"):
        flow(model, "conv1")
    with pytest.raises(ValueError, match="training mixes"):
        connect(small_model(Stitched(lambda x: F.batch_norm(x, None, None, training=True))), "first", "second")


class Chain(nn.Module):
    """Named parts called one after the other."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator]


class Through(nn.Module):
    """A small U: down by two and up again, beside a 3x3 convolution at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.ConvTranspose2d(5, 4, 2, stride=2)
        self.level = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x))) + self.level(x)


def windows(shift: int) -> nn.Module:
    block = torchvision.models.swin_transformer.SwinTransformerBlock
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Call(lambda x: x.permute(0, 2, 3, 1)))
    return Chain(first=stem, block=block(4, 2, [3, 3], [shift, shift]), second=block(4, 2, [3, 3], [0, 0]))


def between(*parts: nn.Module, width: int = 4) -> nn.Module:
    return Chain(first=nn.Conv2d(3, 4, 3, padding=1), between=nn.Sequential(*parts), second=nn.Conv2d(width, 5, 1))


def flat(*parts: nn.Module, numbers: int) -> nn.Module:
    end = nn.Sequential(nn.Flatten(), nn.Linear(numbers, 7), nn.ReLU(), nn.Linear(7, 5))
    return Chain(first=nn.Conv2d(3, 4, 3, padding=1), between=nn.Sequential(*parts), second=end)


OPERATIONS = {
    "windows": lambda: windows(0),
    "shifted_windows": lambda: windows(1),
    "squeeze_excite": lambda: between(
        torchvision.ops.SqueezeExcitation(4, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
    ),
    "response_norm": lambda: between(nn.LocalResponseNorm(3, alpha=0.5, k=2.0), nn.ReLU(), nn.Conv2d(4, 4, 3)),
    "layer_norm": lambda: between(nn.Conv2d(4, 4, 3, padding=1, groups=4), torchvision.ops.Permute([0, 2, 3, 1]),
        nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4), torchvision.ops.Permute([0, 3, 1, 2])),
    "transposed": lambda: between(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, padding=1)),
    "transposed_finer": lambda: between(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, dilation=1)),
    "dilated_groups": lambda: between(nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 4, 1)),
    "depthwise_twice": lambda: between(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(), nn.Conv2d(4, 4, 3, groups=4)),
    "multiplied_depthwise": lambda: between(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU6(), nn.Conv2d(8, 4, 1)),
    "strided_1x1": lambda: between(nn.Conv2d(4, 6, 1, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)),
    "pools": lambda: between(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.ReLU()),
    "shuffle": lambda: between(Call(lambda x: x.view(len(x), 2, 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)),
        nn.Conv2d(4, 4, 3, padding=1)),
    "cut_and_joined": lambda: between(Call(lambda x: torch.cat([x[:, 2:], F.relu(x[:, :2]), x.mean(1, True)], 1)),
        nn.Conv2d(5, 4, 3, padding=1)),
    "every_second": lambda: between(nn.Conv2d(4, 4, 3, padding=1), Call(lambda x: x[:, :, ::2, 1::2]),
        nn.Conv2d(4, 4, 3, padding=1)),
    "mirrored": lambda: between(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
    "upsampled": lambda: between(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(4, 4, 3, padding=1)),
    "u": lambda: between(Through()),
    "einsum": lambda: between(Call(lambda x: torch.einsum("oc,nchw->nohw", torch.eye(4).double().flip(0) * 3, x)),
        nn.Conv2d(4, 4, 3, padding=1)),
    "turned": lambda: between(Call(lambda x: 2 - x.roll((1, -2), (2, 3)) / 3), nn.Conv2d(4, 4, 3, padding=1)),
    "flattened": lambda: flat(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(6), numbers=4 * 36),
    "flattened_edges": lambda: flat(nn.AvgPool2d(3, 2, 1, count_include_pad=False), numbers=4 * 36),
    "everywhere": lambda: between(Call(lambda x: x + x.mean((2, 3), True)), nn.Conv2d(4, 4, 3, padding=1)),
    "pooled": lambda: flat(nn.ReLU(), nn.AdaptiveAvgPool2d(1), numbers=4),
}  # fmt: skip
WIDER = {"windows": "block", "shifted_windows": "block"}  # the target, where it is not `second`
POOLED = {"pooled", "everywhere"}
# On the map as it is what goes out at the border and comes back in counts; elsewhere 16 pixels show the window whole.
OWN_SIZE = {
    "windows",
    "shifted_windows",
    "squeeze_excite",
    "response_norm",
    "layer_norm",
    "flattened",
    "flattened_edges",
}


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_goes_back_as_the_linear_network_responds(name: str) -> None:
    """Exact to 1e-10, whatever lies between; with the whole map of weights behind a flattening layer."""
    model = small_model(OPERATIONS[name]())
    target = WIDER.get(name, "second")
    found = connect(model, "first", target)
    expected = slow_connect(model, "first", target, 12 if name in OWN_SIZE | POOLED else 16)
    if name in POOLED:
        expected = expected.sum((2, 3), keepdim=True)
    elif not name.startswith("flattened"):
        expected, found = window_of(expected), window_of(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_chain_of_windows_is_read_whole() -> None:
    """Two blocks of window attention, the second with windows that overlap those of the first."""
    model = small_model(windows(1))
    found = window_of(connect(model, "first", "second"))
    torch.testing.assert_close(found, window_of(slow_connect(model, "first", "second", 12)), rtol=0, atol=1e-10)


def slow(model: Model, source: str, target: str, held: tuple[str, ...]) -> Tensor:
    """The same by autograd's backward passes; where there is no map, summed unless the target reads a flat map."""
    layers = [model.layer(name) for name in (source, target)]
    maps = [layer.layout in {"nchw", "nhwc"} for layer in layers]
    total = None if all(maps) else True
    return connect_by_autograd(model, functools.partial(run, model, source, target, held), source, target, None,
        total=total)  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_fast_and_slow_agree_on_any_listing(tiny: Model, seed: int) -> None:
    """Layers listed at random, fine or coarse: all pairs at once, each alone, and by backward passes are the same."""
    draw = random.Random(f"{tiny.name} {seed}")
    names = [layer.name for layer in tiny.layers]
    layers = sorted(draw.sample(names, min(len(names), draw.choice([3, 5, 8]))), key=names.index)
    sources = flow(tiny, layers)
    found = {(source, target): weights for source, target, weights in connections(tiny, layers)}
    assert list(found) == [(source, target) for target in layers for source in sources[target]]
    for (source, target), weights in found.items():
        held = tuple(name for name in layers if name not in {source, target})
        torch.testing.assert_close(weights, connect(tiny, source, target, cut=held), rtol=0, atol=1e-12)
        torch.testing.assert_close(weights, slow(tiny, source, target, held), rtol=0, atol=1e-10)


def test_what_the_kernel_says_is_what_a_push_does() -> None:
    """Pushing the source of the linear network by any amount moves the target by kernel times push, at every place."""
    model = small_model(OPERATIONS["cut_and_joined"]())
    images = random_images(1)
    change = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = linear_map(model, "first", "second", images=images)(change)
    weights = connect(model, "first", "second")
    torch.testing.assert_close(moved, F.conv2d(change, weights, padding=1), rtol=0, atol=1e-10)


def test_phases_are_averaged_over_one_period() -> None:
    """A U has four kinds of position: each has its own window, and their mean is the mean of the four."""
    model = small_model(OPERATIONS["u"]())
    mean = connect(model, "first", "second", phases="mean")
    windows = []
    for place in ((8, 8), (8, 9), (9, 8), (9, 9)):
        kernels = slow_connect(model, "first", "second", 16, place)
        windows.append(kernels.roll((8 - place[0], 8 - place[1]), (2, 3)))
    torch.testing.assert_close(window_of(mean), window_of(torch.stack(windows).mean(0)), rtol=0, atol=1e-10)
    centre = connect(model, "first", "second")
    assert centre.shape != mean.shape or not torch.allclose(centre, mean)


@pytest.mark.parametrize(("name", "source", "target"), [("strided", "relu1", "relu2"), ("plain", "relu1", "conv3")])
def test_where_all_positions_read_alike_the_mean_over_phases_is_the_centre(name: str, source: str, target: str) -> None:
    model = tiny_model(name)
    centre, mean = (connect(model, source, target, phases=phases) for phases in ("centre", "mean"))
    torch.testing.assert_close(mean, centre, rtol=0, atol=1e-12)


def test_a_finer_target_has_phases_too() -> None:
    """Nearest neighbours: four positions of the target lie over one of the source, and read it alike."""
    model = small_model(between(nn.ConvTranspose2d(4, 4, 2, stride=2)))
    mean = connect(model, "first", "second", phases="mean")
    up, end = model.net.get_submodule("between.0").weight, model.net.second.weight[:, :, 0, 0]
    torch.testing.assert_close(mean[:, :, 0, 0], torch.einsum("om,imyx->oi", end, up) / 4)


@pytest.mark.parametrize("side", [16, 22, 32, 46])
@pytest.mark.parametrize(("mode", "kernel"), [("nearest", 1), ("nearest", 3), ("bilinear", 1), ("bilinear", 3)])
def test_the_mean_over_phases_of_a_resized_map_does_not_depend_on_the_size_of_the_image(
    mode: str, kernel: int, side: int
) -> None:
    """The four kinds of position behind a map of twice the size, one by one, on a map far larger than the windows."""
    resize = nn.Upsample(scale_factor=2.0, mode=mode)
    last = nn.Conv2d(2, 3, kernel, padding=kernel // 2)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.MaxPool2d(2), resize, last).double().eval()
    mean = connect(load_model(net, image_size=side, mean=(0, 0, 0), std=(1, 1, 1)), "1", "3", phases="mean")
    maps = torch.zeros(1, 2, 20, 20, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda x: last(resize(x))[0, :, 20:22, 20:22], maps)[:, :, :, 0]
    expected = rows.mean((1, 2))  # rows 20 and 21 both lie over row 10 of the source: nothing is to be shifted
    torch.testing.assert_close(window_of(mean), window_of(expected), rtol=0, atol=1e-10)


def test_one_broken_weight_breaks_only_what_reads_it() -> None:
    model = tiny_model("batch_norm")
    with torch.no_grad():
        model.net.block2[0].weight[3, 1, 0, 2] = torch.nan
    weights = connect(model, "block1", "block2")
    assert (~weights.isfinite()).nonzero().tolist() == [[3, 1, 0, 2]]
    longer = connect(model, "block1", "block3")
    assert {tuple(place[1:]) for place in (~longer.isfinite()).nonzero().tolist()} == {(1, 0, 2)}
    with torch.no_grad():
        model.net.block3[0].weight[2, 3] = 0.0  # who does not read the broken channel is sound
    assert connect(model, "block1", "block3")[2].isfinite().all()
    sound = tiny_model("batch_norm")
    torch.testing.assert_close(longer[longer.isfinite()], connect(sound, "block1", "block3")[longer.isfinite()])


def test_a_broken_weight_in_one_branch_leaves_the_others() -> None:
    model, sound = tiny_model("branch_concat"), tiny_model("branch_concat")
    with torch.no_grad():
        model.net.mixed1.three.weight[1, 0, 1, 1] = torch.inf
    broken, whole = connect(model, "stem", "mixed1"), connect(sound, "stem", "mixed1")
    assert set((~broken.isfinite()).nonzero()[:, 0].tolist()) == {4}
    torch.testing.assert_close(broken[broken.isfinite()], whole[broken.isfinite()])


def test_swin_and_vit_are_read_as_their_linear_map_moves() -> None:
    """One channel pushed everywhere moves the middle of the target by the sum of its kernel."""
    for build, source, target, extent in (
        (torchvision.models.swin_t, "features.1.0", "features.1.1", (7, 7)),
        (torchvision.models.vit_b_32, "encoder.layers.encoder_layer_0.ln_2", "encoder.layers.encoder_layer_0", (1, 1)),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = build().eval()
        model = load_model(net, name="net", image_size=224, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())
        weights = connect(model, source, target)
        assert weights.shape[2:] == extent
        change = torch.zeros(1, *model.layer(source).shape)
        change[0, 3] = 1.0
        moved = linear_map(model, source, target, images=torch.full((1, 3, 224, 224), 0.5))(change)[0]
        centre = moved[(slice(None), *[side // 2 for side in moved.shape[1:]])]
        torch.testing.assert_close(weights[:, 3].sum((1, 2)), centre, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("node", ["ConvolutionBackward0", "MulBackward0", "AddBackward0", "AvgPool2DBackward0"])
def test_a_transpose_that_lies_is_found_out(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read by boxes is used only where it agrees with autograd: a wrong transpose costs time, nothing else."""
    model = tiny_model("pooled") if "Pool" in node else tiny_model("residual")
    pair = ("relu1", "conv2") if "Pool" in node else ("stem", "layer1.0")
    expected, true = connect(model, *pair), TRANSPOSES[node]
    monkeypatch.setattr(jacobian_module, "connect_by_autograd", connect_by_autograd)
    calls = []

    def lying(step: Step, pull: Pull) -> list[tuple[int, Pull]]:
        calls.append(step)
        return [
            (number, Pull(part.rows, 1.1 * part.data, part.start, part.diagonal)) for number, part in true(step, pull)
        ]

    monkeypatch.setitem(TRANSPOSES, node, lying)
    torch.testing.assert_close(connect(model, *pair), expected, rtol=0, atol=1e-12)
    ((_, _, weights),) = connections(model, pair)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    assert calls


def test_a_transpose_that_lies_by_a_hundredth_is_found_out_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance there is for orders of summation, not for wrong numbers."""
    model = tiny_model("residual")
    model = replace(model, net=copy.deepcopy(model.net).float())
    expected, true = connect(model, "stem", "layer1.0"), TRANSPOSES["ConvolutionBackward0"]
    monkeypatch.setattr(jacobian_module, "connect_by_autograd", connect_by_autograd)

    def lying(step: Step, pull: Pull) -> list[tuple[int, Pull]]:
        return [
            (number, Pull(part.rows, 1.01 * part.data, part.start, part.diagonal)) for number, part in true(step, pull)
        ]

    monkeypatch.setitem(TRANSPOSES, "ConvolutionBackward0", lying)
    torch.testing.assert_close(connect(model, "stem", "layer1.0"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("node", sorted(TRANSPOSES.keys() - {"JoinedBackward"}))
def test_each_transpose_is_that_of_the_node(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, through the derivative that autograd recorded, everything comes out the same."""
    for name in TRIED_ON.get(node, ("layer_norm", "windows")):
        model = small_model(OPERATIONS[name]())
        target = WIDER.get(name, "second")
        expected = connect(model, "first", target)
        with monkeypatch.context() as patch:
            patch.setitem(TRANSPOSES, node, through_node)
            torch.testing.assert_close(connect(model, "first", target), expected, rtol=0, atol=1e-12)


TRIED_ON = {
    "ConvolutionBackward0": ("dilated_groups", "strided_1x1", "transposed", "depthwise_twice"),
    "AvgPool2DBackward0": ("pools", "flattened"),
    "CatBackward0": ("cut_and_joined",),
    "SliceBackward0": ("cut_and_joined", "every_second"),
    "RollBackward0": ("shifted_windows", "turned"),
    "AdaptiveAvgPool2DBackward0": ("flattened", "pooled"),
    "RsubBackward1": ("turned",),
    "DivBackward0": ("turned", "response_norm"),
    "ReflectionPad2DBackward0": ("mirrored",),
    "MeanBackward1": ("cut_and_joined", "layer_norm"),
    "AddmmBackward0": ("flattened", "layer_norm"),
}


class Squared(torch.autograd.Function):
    """The square, with a derivative of its own: no torch function that a mode could see."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x * x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient  # type: ignore[attr-defined, no-any-return]


def test_an_operation_that_the_network_brings_along_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="'Squared' is a torch"):
        connect(small_model(Stitched(Squared.apply)), "first", "second")


def test_phases_and_tokens_that_make_no_sense_are_refused() -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match="'centre', 'mean'"):
        connect(model, "conv1", "conv2", phases="middle")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a list of names"):
        list(connections(model, "conv1"))
    assert list(connections(model, ["conv1"])) == []


def test_a_pattern_is_frozen_and_a_product_is_not() -> None:
    """Queries times keys end in a softmax, which freezes them; without it they are refused by name."""

    def attend(x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return (tokens @ (tokens.transpose(1, 2) @ tokens).softmax(-1)).reshape(x.shape)

    def square(x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return (tokens @ (tokens.transpose(1, 2) @ tokens)).reshape(x.shape)

    assert connect(small_model(Stitched(attend)), "first", "second").isfinite().all()
    with pytest.raises(NotImplementedError, match="matmul"):
        connect(small_model(Stitched(square)), "first", "second")
