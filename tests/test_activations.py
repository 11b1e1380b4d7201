"""listen and record: readings are what the modules gave, edits are what the network goes on with, and nothing stays
behind."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import pytest
import reference
import torch
import torch.nn.functional as F
from conftest import NETS, assert_untouched, build_net, random_images
from torch import Tensor, nn

from features.activations import listen, record

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "gradients": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


class Scripted(nn.Module):
    """A network from modules and a function that says how they are called."""

    def __init__(self, run: Callable[[Scripted, Tensor], object], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def conv(inputs: int = 3, outputs: int = 3, *, seed: int = 0) -> nn.Conv2d:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        module = nn.Conv2d(inputs, outputs, 3, padding=1).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    return module


# reference: every call of every module gives what a recording wrapper around its forward saw


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_readings_are_what_each_call_gave(name: str, known: bool, mode: str) -> None:
    net, images = build_net(name), random_images()
    truth = reference.outputs_of_calls(net, images)
    names = [each for each in truth if each]
    overwritten = {call.name for call in record(net, images) if call.overwritten} if known else None
    with MODES[mode](), listen(net, names, overwritten=overwritten, stop=False) as activations:
        output = net(images)
        for each in names:
            torch.testing.assert_close(activations[each], truth[each], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output, truth[""], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_each_reading_alone_is_the_same_and_stops_the_pass(name: str) -> None:
    net, images = build_net(name), random_images()
    truth = reference.outputs_of_calls(net, images)
    for each in truth:
        if each:
            with listen(net, [each]) as activations:
                assert net(images) is None
                torch.testing.assert_close(activations[each], truth[each], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_record_lists_the_calls_in_order_and_finds_what_is_overwritten(name: str) -> None:
    net, images = build_net(name), random_images()
    with assert_untouched(net):
        calls = record(net, images)
    truth = reference.outputs_of_calls(net, images)
    final = reference.outputs_of_calls(net, images, copy=False)
    assert [call.name for call in calls] == list(truth)
    assert {call.name: call.shape for call in calls} == {key: tuple(value.shape) for key, value in truth.items()}
    changed = {key for key in truth if not torch.equal(truth[key], final[key])}
    assert changed <= {call.name for call in calls if call.overwritten}


# trap 1: modules called several times


def test_a_module_called_twice_gives_its_first_call_under_its_name() -> None:
    net, images = build_net("reused_module"), random_images()
    x = net.stem(images)
    first = net.conv(x)
    second = net.conv(first.relu())
    with listen(net, ["conv", "conv#1"]) as activations:
        net(images)
        assert torch.equal(activations["conv"], first)
        assert torch.equal(activations["conv#1"], second)
    with listen(net, ["conv"]) as activations:
        net(images)
        assert torch.equal(activations["conv"], first)


def test_counting_starts_again_with_each_forward_pass() -> None:
    net = build_net("reused_module")
    with listen(net, ["conv#1"]) as activations:
        for seed in range(3):
            images = random_images(seed=seed)
            net(images)
            expected = net.conv.forward(net.conv.forward(net.stem.forward(images)).relu())
            assert torch.equal(activations["conv#1"], expected)


def test_an_edit_of_the_second_call_leaves_the_first_alone() -> None:
    net, images = build_net("reused_module"), random_images()
    with listen(net, ["conv", "relu#1"], edits={"conv#1": torch.zeros_like}) as activations:
        net(images)
        assert activations["conv"].abs().sum() > 0
        assert activations["relu#1"].abs().sum() == 0


def test_a_call_that_never_happens_is_an_error() -> None:
    net, images = build_net("reused_module"), random_images()
    with assert_untouched(net):
        with pytest.raises(ValueError, match=r"'conv#3' was not reached: .* called 3 times"):
            with listen(net, ["conv", "conv#3"]):
                net(images)
        with pytest.raises(ValueError, match="'conv#3' was not reached"):
            with listen(net, [], edits={"conv#3": torch.zeros_like}):
                net(images)


def test_a_module_that_is_never_called_is_an_error() -> None:
    net = Scripted(lambda net, x: net.used(x), used=conv(), idle=conv())
    with pytest.raises(ValueError, match=r"'idle' was not reached: .* never called"):
        with listen(net, ["idle"]):
            net(random_images())


def test_one_module_under_two_names_can_be_read_by_both() -> None:
    shared = conv()
    net = Scripted(lambda net, x: net.a(net.b(x)), a=shared, b=shared)
    images = random_images()
    with listen(net, ["a", "b", "a#1"]) as activations:
        net(images)
        assert torch.equal(activations["a"], shared(images))
        assert torch.equal(activations["b"], activations["a"])
        assert torch.equal(activations["a#1"], shared(shared(images)))


# trap 2: outputs overwritten in place


OVERWRITERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "inplace_module": lambda net, x: net.relu(net.conv(x)),
    "relu_": lambda net, x: F.relu_(net.conv(x)),
    "functional_inplace": lambda net, x: F.relu(net.conv(x), inplace=True),
    "torch_relu_": lambda net, x: torch.relu_(net.conv(x)),
    "iadd": lambda net, x: net.conv(x).__iadd__(net.other(x)),
    "add_": lambda net, x: net.conv(x).add_(net.other(x), alpha=2),
    "view": lambda net, x: net.conv(x).flatten(1).mul_(3).view_as(x),
    "setitem": lambda net, x: _with_zeroed_rows(net.conv(x)),
}


def _with_zeroed_rows(x: Tensor) -> Tensor:
    x[:, :, ::2] = 0
    return x


def overwriting(kind: str) -> Scripted:
    return Scripted(OVERWRITERS[kind], conv=conv(), other=conv(seed=1), relu=nn.ReLU(inplace=True)).eval()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("overwritten", [None, ("conv",)])
@pytest.mark.parametrize("kind", OVERWRITERS)
def test_a_reading_survives_being_overwritten(kind: str, overwritten: tuple[str, ...] | None, mode: str) -> None:
    net, images = overwriting(kind), random_images()
    truth, output = F.conv2d(images, net.conv.weight, net.conv.bias, padding=1), net(images)
    assert [call.name for call in record(net, images) if call.overwritten] == ["conv"]
    with MODES[mode](), listen(net, ["conv"], stop=False, overwritten=overwritten) as activations:
        torch.testing.assert_close(net(images), output, rtol=0, atol=0)
        torch.testing.assert_close(activations["conv"], truth, rtol=0, atol=0)


@pytest.mark.parametrize("kind", OVERWRITERS)
def test_gradients_flow_through_an_overwritten_reading(kind: str) -> None:
    net, images = overwriting(kind), random_images()
    with listen(net, ["conv"], stop=False, overwritten=("conv",)) as activations:
        (output,) = (net(images),)
        (gradient,) = torch.autograd.grad(output.square().sum(), activations["conv"])
    leaf = F.conv2d(images, net.conv.weight, net.conv.bias, padding=1).detach().requires_grad_()
    with listen(net, [], edits={"conv": lambda _: leaf}):
        net(images).square().sum().backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=0, atol=0)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", OVERWRITERS)
def test_an_overwritten_reading_that_was_not_protected_is_never_given(kind: str) -> None:
    net = overwriting(kind)
    with listen(net, ["conv"], stop=False, overwritten=()) as activations:
        net(random_images())
        with pytest.raises(RuntimeError, match="'conv' was overwritten in place"):
            activations["conv"]


def test_a_reading_changed_by_its_reader_is_never_given_again() -> None:
    net = build_net("plain")
    with torch.no_grad(), listen(net, ["conv1"]) as activations:
        net(random_images())
        activations["conv1"].zero_()
        with pytest.raises(RuntimeError, match="change only clones"):
            activations["conv1"]


def test_an_edit_may_give_a_leaf_or_a_constant_that_is_overwritten_later() -> None:
    net, images = overwriting("inplace_module"), random_images()
    constant = torch.full((1, 3, 1, 1), -1.0, dtype=torch.float64).expand(2, 3, 12, 12)
    for edited in (torch.full((2, 3, 12, 12), -1.0, dtype=torch.float64, requires_grad=True), constant):
        with listen(net, ["conv"], edits={"conv": lambda _, edited=edited: edited}, stop=False) as activations:
            assert net(images).abs().sum() == 0
            assert torch.equal(activations["conv"], constant)
        assert torch.equal(edited, constant)


def test_a_module_that_gives_its_own_input_still_does() -> None:
    """Where a copy would be handed on, the network would no longer change what it holds elsewhere."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        x = net.conv(x)
        return F.relu_(net.shortcut(x)) + x

    net, images = Scripted(run, conv=conv(), shortcut=nn.Identity()), random_images()
    truth, output = net.conv.forward(images), net(images)
    for names in (["shortcut"], ["conv"], ["conv", "shortcut"]):
        for overwritten in (None, ("conv", "shortcut")):
            with listen(net, names, stop=False, overwritten=overwritten) as activations:
                assert torch.equal(net(images), output)
                assert all(torch.equal(activations[name], truth) for name in names)


# trap 3: everything is left as it was found


class Interrupted(BaseException):
    """An exception that no ``except Exception`` catches, like KeyboardInterrupt."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("where", ["network", "edit", "body", "name", "nowhere"])
@pytest.mark.parametrize("name", NETS)
def test_the_network_is_left_as_it_was(name: str, where: str, error: type[BaseException]) -> None:
    net, images = build_net(name), random_images()
    first = next(key for key in reference.outputs_of_calls(net, images) if key)
    net.get_submodule(first).register_forward_hook(lambda *_: None)  # one of the user's own

    def fail(_: Tensor) -> Tensor:
        raise error("on purpose")

    expected = {"nowhere": nullcontext(), "name": pytest.raises(ValueError, match="no layer")}
    with assert_untouched(net), expected.get(where, pytest.raises(error, match="on purpose")):
        if where == "network":
            images = Fails(images, error)
        names = [first, "logits", *(["nothing"] if where == "name" else [])]
        with listen(net, names, edits={"logits": fail} if where == "edit" else None, stop=False):
            net(images)
            if where == "body":
                raise error("on purpose")


class Fails(torch.Tensor):
    """An image on which every operation fails."""

    @staticmethod
    def __new__(cls, tensor: Tensor, error: type[BaseException]) -> Fails:
        fails = tensor.as_subclass(cls)
        fails.error = error
        return fails

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ("__get__", "__set__"):
            return super().__torch_function__(func, types, args, kwargs or {})
        raise args[0].error("on purpose")


def test_a_forward_of_the_instance_is_used_and_put_back() -> None:
    net, images = build_net("plain"), random_images()
    original = net.forward

    def forward(x: Tensor) -> Tensor:
        return original(x * 0)

    net.forward = forward
    with listen(net, ["conv1"], stop=False) as activations:
        output = net(images)
        assert torch.equal(activations["conv1"], net.conv1(images * 0))
    assert torch.equal(output, original(images * 0))
    assert net.__dict__["forward"] is forward


def test_nothing_accumulates_in_gradients_or_in_memory() -> None:
    net, images = build_net("plain"), random_images()
    with assert_untouched(net), listen(net, ["conv3"]) as activations:
        for _ in range(3):
            net(images)
            assert activations["conv3"].grad_fn is not None
    assert not activations._kept


# trap 4: names


def test_dots_colons_underscores_and_marks_in_names_are_not_confused() -> None:
    inner = nn.Module()
    inner.b = conv(seed=1)
    inner.forward = inner.b.__call__
    net = Scripted(
        lambda net, x: (net.a_b(net.a(x)), net._modules["x:y"](x), net._modules["a#1"](x), net._modules["a_b:0"](x)),
        a=inner,
        a_b=conv(seed=2),
    )
    for seed, name in enumerate(("x:y", "a#1", "a_b:0"), start=3):
        net.add_module(name, conv(seed=seed))
    images = random_images()
    with listen(net, ["a.b", "a_b", "x:y", "a#1", "a_b:0"]) as activations:
        net(images)
        assert torch.equal(activations["a.b"], conv(seed=1)(images))
        assert torch.equal(activations["a_b"], conv(seed=2)(conv(seed=1)(images)))
        for seed, name in enumerate(("x:y", "a#1", "a_b:0"), start=3):
            assert torch.equal(activations[name], conv(seed=seed)(images))


@pytest.mark.parametrize("name", ["", "conv", "conv1.", ".conv1", "conv1#", "conv1#x", "conv1#-1", "conv1.weight"])
def test_a_name_that_is_no_module_is_refused_with_the_nearest(name: str) -> None:
    net = build_net("plain")
    with assert_untouched(net), pytest.raises(ValueError, match=r"no layer .*list them all with"):
        with listen(net, [name]):
            raise AssertionError("the body must not run")


def test_a_misspelled_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no layer 'cnov1': nearest are 'conv1'"):
        with listen(build_net("plain"), ["cnov1"]):
            pass
    with pytest.raises(TypeError, match="named by text"):
        with listen(build_net("plain"), [3]):
            pass


# outputs that are not a tensor


Pair = namedtuple("Pair", ["count", "map", "extra"])


@dataclass(frozen=True)
class Record:
    count: int
    map: Tensor
    extra: Tensor


STRUCTURES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [None, a, b],
    "namedtuple": lambda a, b: Pair(3, a, b),
    "dict": lambda a, b: {"count": 3, "map": a, "extra": b},
    "ordered": lambda a, b: OrderedDict([("map", a), ("extra", b)]),
    "dataclass": lambda a, b: Record(3, a, b),
    "nested": lambda a, b: {"count": 3, "both": ("text", [a, b])},
}


def tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Record):
        return [value.map, value.extra]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_first_tensor_of_a_structure_is_read_and_edited_and_the_rest_kept(kind: str) -> None:
    block = Scripted(lambda _, x: STRUCTURES[kind](x + 1, x + 2))
    net = Scripted(lambda net, x: net.block(x), block=block)
    images = random_images()
    plain = net(images)
    with listen(net, ["block"], edits={"block": lambda x: -x}, stop=False) as activations:
        output = net(images)
        assert torch.equal(activations["block"], -(images + 1))
    assert type(output) is type(plain)
    assert torch.equal(tensors_in(output)[0], -(images + 1))
    assert torch.equal(tensors_in(output)[1], images + 2)
    assert len(tensors_in(output)) == 2
    assert str(output).count("3") >= str(plain).count("count=3")


def test_an_output_without_a_tensor_is_refused() -> None:
    net = Scripted(lambda net, x: net.block(x), block=Scripted(lambda _, x: "text"))
    with assert_untouched(net), pytest.raises(TypeError, match="'block' gives no tensor but str"):
        with listen(net, ["block"]):
            net(random_images())


# layouts


def test_layouts_are_turned_for_readings_and_edits_and_gradients_flow() -> None:
    net, images = build_net("nhwc"), random_images()
    truth = reference.outputs_of_calls(net, images)["blocks.0"]
    with listen(net, ["blocks.0"], stop=False, layouts={"blocks.0": "nhwc"}) as activations:
        output = net(images)
        reading = activations["blocks.0"]
        (gradient,) = torch.autograd.grad(output.sum(), reading)
    assert torch.equal(reading, truth.permute(0, 3, 1, 2))
    assert gradient.shape == reading.shape
    assert gradient.abs().sum() > 0
    mask = torch.zeros(1, 8, 1, 1, dtype=torch.float64)
    with listen(net, ["blocks.0"], edits={"blocks.0": lambda x: x * mask}, layouts={"blocks.0": "nhwc"}) as activations:
        net(images)
        assert activations["blocks.0"].shape == reading.shape
        assert activations["blocks.0"].abs().sum() == 0


# edits and stopping


def test_an_edit_is_what_the_network_goes_on_with() -> None:
    """Causal: an image whose map is replaced by another image's has the other image's logits."""
    net, images = build_net("plain"), random_images(2)
    with listen(net, ["relu2"]) as activations:
        net(images[:1])
        donor = activations["relu2"]
    with listen(net, [], edits={"relu2": lambda _: donor}):
        patched = net(images[1:])
    torch.testing.assert_close(patched, net(images[:1]), rtol=0, atol=0)
    assert not torch.allclose(patched, net(images[1:]))


@pytest.mark.parametrize("name", NETS)
def test_an_edit_that_changes_nothing_changes_nothing(name: str) -> None:
    net, images = build_net(name), random_images()
    names = [key for key in reference.outputs_of_calls(net, images) if key]
    with listen(net, [], edits=dict.fromkeys(names, torch.clone)):
        torch.testing.assert_close(net(images), build_net(name)(images), rtol=0, atol=0)


def test_edits_compose_with_readings_and_with_other_edits() -> None:
    net, images = build_net("plain"), random_images()
    with listen(net, ["conv1", "relu1"], edits={"conv1": lambda x: x - 1}) as outer:
        with listen(net, ["conv1"], edits={"conv1": lambda x: x * 2}) as inner:
            net(images)
            expected = (net.conv1.forward(images) - 1) * 2
            assert torch.equal(inner["conv1"], expected)
            assert torch.equal(outer["conv1"], expected)
            assert torch.equal(outer["relu1"], expected.relu())
        net(images)
        assert torch.equal(outer["conv1"], net.conv1.forward(images) - 1)


def test_an_edit_may_not_call_the_network_it_edits() -> None:
    net, images = build_net("plain"), random_images()
    with assert_untouched(net), pytest.raises(RuntimeError, match="an edit called the network that it edits"):
        with listen(net, [], edits={"conv1": lambda x: net(images)}):
            net(images)


def test_recording_a_network_that_draws_random_numbers_leaves_the_generator_alone() -> None:
    net = Scripted(lambda net, x: net.conv(x + torch.rand(x.shape)), conv=conv())
    with assert_untouched(net):
        record(net, random_images())


def test_recording_goes_on_where_the_network_does() -> None:
    """A network that tries a module, fails, and takes another."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        try:
            x = net.block(x)
        except RuntimeError:
            x = net.other(x)
        return net.last(x)

    block = Scripted(lambda block, x: block.narrow(block.fits(x)), fits=conv(), narrow=conv(2))
    net = Scripted(run, block=block, other=conv(), last=conv())
    assert [(call.name, call.inside) for call in record(net, random_images())] == [
        ("block.fits", "block"),
        ("other", ""),
        ("last", ""),
        ("", ""),
    ]


def test_a_name_that_would_mean_two_calls_is_refused() -> None:
    net = Scripted(lambda net, x: net._modules["a#1"](net.a(net.a(x))), a=conv())
    net.add_module("a#1", conv())
    with assert_untouched(net), pytest.raises(ValueError, match="'a#1' is a module, and would be a later call"):
        record(net, random_images())


@pytest.mark.parametrize("swapped", [False, True])
def test_two_listens_on_one_network_end_the_pass_when_both_have_all(swapped: bool) -> None:
    net, images = build_net("plain"), random_images()
    with assert_untouched(net), ExitStack() as stack:
        early, late = (stack.enter_context(listen(net, [each])) for each in ("conv1", "conv3")[:: -1 if swapped else 1])
        assert net(images) is None
        assert {*early, *late} == {"conv1", "conv3"}
        assert early[next(iter(early))].ndim == late[next(iter(late))].ndim == 4
        with listen(net, ["conv2"], stop=False):
            assert net(images) is not None
        with listen(net, [], edits={"conv1": torch.zeros_like}):
            assert net(images) is not None
        assert net(images) is None


def test_listens_may_end_in_any_order() -> None:
    net, images = build_net("plain"), random_images()
    with assert_untouched(net):
        first, second = listen(net, ["conv1"]), listen(net, ["conv3"])
        first.__enter__()
        late = second.__enter__()
        first.__exit__(None, None, None)
        assert net(images) is None
        assert late["conv3"].ndim == 4
        second.__exit__(None, None, None)


def test_the_pass_stops_right_after_the_last_layer() -> None:
    net, images, seen = build_net("plain"), random_images(), []
    for name, module in net.named_children():
        module.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    with listen(net, ["conv2", "conv1"]):
        assert net(images) is None
    assert seen == ["conv1", "relu1", "conv2"]
    with listen(net, ["conv2"], stop=False):
        assert net(images).shape == (2, 5)
    with listen(net, []):
        assert net(images).shape == (2, 5)


def test_a_network_that_catches_exceptions_does_not_catch_the_stop() -> None:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        try:
            return net.late(net.early(x))
        except Exception:
            return x

    net = Scripted(run, early=conv(), late=conv())
    with listen(net, ["early"]) as activations:
        assert net(random_images()) is None
        assert activations["early"].ndim == 4


def test_an_edit_must_give_a_tensor_of_the_same_shape() -> None:
    net, images = build_net("plain"), random_images()
    with pytest.raises(ValueError, match=r"edit of layer 'conv1' gave shape \(2, 6\): return the shape it got"):
        with listen(net, [], edits={"conv1": lambda x: x.sum((2, 3))}):
            net(images)
    with pytest.raises(TypeError, match="edit of layer 'conv1' gave NoneType"):
        with listen(net, [], edits={"conv1": lambda x: None}):
            net(images)


# lifetime


def test_readings_live_as_long_as_the_with() -> None:
    net, images = build_net("plain"), random_images()
    with listen(net, "conv1") as activations:
        assert list(activations) == ["conv1"]
        assert "conv1" in activations
        assert "conv2" not in activations
        with pytest.raises(RuntimeError, match="call the network"):
            activations["conv1"]
        with pytest.raises(KeyError, match="'conv2' was not asked for: this reads 'conv1'"):
            activations["conv2"]
        net(images)
        assert dict(activations).keys() == {"conv1"}
        assert "conv1: (2, 6, 12, 12)" in repr(activations)
        with pytest.raises(RuntimeError, match=r"mat1 and mat2|channels"):
            net(images[:, :2])
        with pytest.raises(RuntimeError, match="call the network"):
            activations["conv1"]
    with pytest.raises(RuntimeError, match="ended with its `with`"):
        activations["conv1"]


# other networks


def test_other_number_types_and_devices() -> None:
    net = build_net("plain").to(torch.bfloat16)
    with listen(net, ["conv2"]) as activations:
        net(random_images().bfloat16())
        assert activations["conv2"].dtype == torch.bfloat16
    net = build_net("inplace_relu").to("meta")
    assert next(call.name for call in record(net, random_images().to("meta")) if call.overwritten) == "features.0"
    with listen(net, ["features.0"], stop=False) as activations:
        net(random_images().to("meta"))
        assert activations["features.0"].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_network_on_a_gpu() -> None:
    net, images = build_net("inplace_relu").cuda(), random_images().cuda()
    with assert_untouched(net), listen(net, ["features.0"], stop=False) as activations:
        net(images)
        torch.testing.assert_close(activations["features.0"], net.features[0].forward(images))


def test_networks_that_cannot_be_heard_are_refused() -> None:
    net = build_net("plain")
    inside = Scripted(lambda net, x: net.body(x), body=torch.compile(net), free=conv())
    inplace = build_net("plain")
    inplace.compile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(build_net("plain"), random_images())
    for deaf, name, reason in [
        (torch.compile(net), "conv1", "compiled"),
        (inside, "body.conv1", "compiled"),
        (inplace, "conv1", "compiled"),
        (nn.DataParallel(net), "module.conv1", "net.module"),
        (script, "conv1", "TorchScript"),
    ]:
        with pytest.raises(TypeError, match=reason):
            with listen(deaf, [name]):
                pass
        with pytest.raises(TypeError, match=reason):
            record(deaf, random_images())
    with listen(inside, ["free"]):
        pass


def test_the_readings_of_a_checkpointed_network_are_right() -> None:
    net, images = build_net("plain"), random_images()
    maps = net.maps
    net.maps = lambda x: torch.utils.checkpoint.checkpoint(maps, x, use_reentrant=False)
    with listen(net, ["conv2"], stop=False) as activations:
        net(images).sum().backward()
        torch.testing.assert_close(activations["conv2"], net.conv2.forward(net.conv1.forward(images).relu()))
    assert net.conv1.weight.grad is not None
