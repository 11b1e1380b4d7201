"""Wiring: the linear map is that of the network made linear; the flow is what the network really reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import NETS, assert_untouched, fill, random_images, tiny_model
from reference import slow_connect, window_of
from torch import Tensor, nn

from circuits.wiring import LINEAR, RULES, connect, flow, frozen, identity, linear_map, register
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
    with pytest.raises(ValueError, match=r"does not feed 'conv1'"):
        connect(model, "conv3", "conv1")
    with pytest.raises(ValueError, match="does not feed"):
        connect(model, "conv1", "conv3", cut=["relu2"])
    with pytest.raises(ValueError, match="listed twice: conv1"):
        flow(model, ["conv1", "conv1"])
    with pytest.raises(TypeError, match="a list of names"):
        flow(model, "conv1")
    with pytest.raises(ValueError, match="training mixes"):
        connect(small_model(Stitched(lambda x: F.batch_norm(x, None, None, training=True))), "first", "second")
