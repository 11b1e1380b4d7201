"""lucent's names run on this engine, without its defects, and beside an installed lucent.

The numbers in the section on defects are those of lucent 0.1.8's list in the reference on feature visualization.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, build_net, random_images, tiny_model
from PIL import Image
from torch import Generator, Tensor, nn

from features import objectives as scores
from features import parameterizations, transforms
from features.lucent import adapters, as_loss, as_param_f, as_transform, objectives, param, render, transform
from features.models import Model, load_model, probe
from features.visualization import visualize
from features.visualization.guests import guest_image, guest_objective, guest_transform, is_guest_transform, layer_of


def rendered(model: Any, objective: Any, param_f: Any = None, **options: Any) -> list[np.ndarray]:
    """Render a few steps of a small picture, quietly."""
    options = {"thresholds": (3,), "progress": False, "fixed_image_size": 12, **options}
    return render.render_vis(model, objective, param_f or (lambda: param.image(12)), **options)


def from_dict(activations: dict[str, Tensor]) -> Callable[[str], Tensor]:
    return activations.__getitem__


def reading(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


class Counter(nn.Module):
    """Passes its input on, and counts; remembers the sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append((int(x.shape[2]), int(x.shape[3])))
        return x * 1.0


def counting_net() -> nn.Sequential:
    """Counts what it is shown at its start (0) and after its two convolutions (4)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [Counter(), nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), Counter()]
        return nn.Sequential(*parts).eval()


@pytest.fixture(scope="module")
def lucent() -> Any:
    """An installed lucent's four modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kornia 0.4.1 is of 2020
        pytest.importorskip("lucent.optvis.render", reason="the extra lucent is not installed")
        import lucent.modelzoo
        from lucent.optvis import objectives, param, render, transform
    return SimpleNamespace(objectives=objectives, param=param, render=render, transform=transform, zoo=lucent.modelzoo)


@pytest.fixture
def quiet() -> Iterator[None]:
    """What lucent's kornia and its errors warn of is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unhooked(net: nn.Module) -> nn.Module:
    """Take the hooks away that lucent leaves."""
    for module in net.modules():
        module._forward_hooks.clear()
    return net


# What comes out


def test_a_picture_for_each_threshold() -> None:
    pictures = rendered(tiny_model("plain"), "relu2:1", thresholds=(5, 1, 5))
    assert [each.shape for each in pictures] == [(1, 12, 12, 3)] * 2
    assert all(each.dtype == np.float32 and each.min() >= 0 and each.max() <= 1 for each in pictures)
    assert not np.array_equal(*pictures)


def test_thresholds_are_steps_of_one_climb() -> None:
    model = tiny_model("plain")
    early, late = rendered(model, "relu2:1", thresholds=(2, 6))
    assert np.array_equal(rendered(model, "relu2:1", thresholds=(2,))[0], early)
    assert np.array_equal(rendered(model, "relu2:1", thresholds=(6,))[0], late)


@pytest.mark.parametrize("preprocess", [True, False])
def test_the_loss_falls(preprocess: bool, capsys: pytest.CaptureFixture[str]) -> None:
    net = build_net("batch_norm").float()
    rendered(net, "block2:1", thresholds=(20,), verbose=True, preprocess=preprocess)
    first, last = (float(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines())
    assert last < first


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def scaled_as(model: Any, **options: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Find the mean and the standard deviation by which a network's first convolution, which passes pixels on, sees
    pictures scaled."""
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(T: Any) -> Tensor:
        seen.append((T("conv").detach(), T("input").detach()))
        return -T("conv").mean()

    rendered(model, loss, transforms=[], thresholds=(1,), **options)
    shown, picture = (each[0].flatten(1).double() for each in seen[-1])
    slopes = ((shown - shown.mean(1, True)) * (picture - picture.mean(1, True))).sum(1)
    slopes = slopes / (picture - picture.mean(1, True)).square().sum(1)
    stds = tuple(round(1 / float(each), 3) for each in slopes)
    means = picture.mean(1) - shown.mean(1) / slopes
    return tuple(round(float(each), 3) for each in means), stds


class PassingOn(nn.Module):
    """A network whose first convolution gives the three channels it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 3, 1, bias=False), nn.Flatten()
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.conv(x))


def test_preprocessing_is_imagenets_or_none_or_the_models() -> None:
    net = PassingOn().eval()
    model = load_model(net, image_size=12, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9))
    nothing = ((0.0,) * 3, (1.0,) * 3)
    assert scaled_as(net) == IMAGENET
    assert scaled_as(net, preprocess=False) == nothing
    assert scaled_as(model) == ((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    assert scaled_as(model, preprocess=False) == nothing


def test_the_input_is_the_picture_itself() -> None:
    """Not what the network sees of it; and gradients reach it."""
    seen: list[Tensor] = []

    def loss(T: Any) -> Tensor:
        seen.append(T("input").detach())
        return (T("input") - 0.9).square().mean() + 0 * T("conv1").mean()

    (last,) = rendered(tiny_model("plain"), loss, lambda: param.image(8), thresholds=(40,))
    assert {tuple(each.shape) for each in seen} == {(1, 3, 8, 8)}
    assert last.mean() > float(seen[0].mean()) + 0.05


def test_pictures_are_shown_kept_and_saved_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    opened: list[Any] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: opened.append(image))  # noqa: PLW0108 (a method)
    monkeypatch.setattr(display, "display", opened.append)
    monkeypatch.chdir(tmp_path)
    model = tiny_model("plain")
    rendered(model, "conv1:0")
    assert opened == []
    rendered(model, "conv1:0", show_image=True)
    rendered(model, "conv1:0", lambda: param.image(12, batch=2), show_inline=True, save_image=True)
    assert [each.size for each in opened] == [(12, 12), (24, 12)]
    assert [each.name for each in tmp_path.iterdir()] == ["image.png"]


def test_an_interruption_gives_the_picture_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def interrupting(T: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return -T("conv1").mean()

    net = build_net("plain")
    with assert_untouched(net):
        pictures = rendered(net, interrupting, thresholds=(2, 100))
    assert len(pictures) == 2
    assert "Interrupted optimization at step 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda params: torch.optim.SGD(params, lr=1.0),
        lambda params: torch.optim.LBFGS(params, lr=0.5, max_iter=3),
        lambda params: torch.optim.Adam(params, lr=0.01),
    ],
    ids=["sgd", "lbfgs", "adam"],
)
def test_any_optimizer_will_do(optimizer: Any) -> None:
    losses: list[float] = []

    def loss(T: Any) -> Tensor:
        losses.append(float(-T("relu2")[:, 2].detach().mean()))
        return -T("relu2")[:, 2].mean()

    rendered(tiny_model("plain"), loss, optimizer=optimizer, thresholds=(15,), transforms=[])
    assert losses[-1] < losses[1]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("conv9:0",), ValueError, "nearest"),
        (("conv1:99",), IndexError, "has 6 channels"),
        (("conv1",), ValueError, "'layer:channel'"),
        ((3,), TypeError, "function of T"),
        ((lambda T: T("conv1"),), TypeError, "one number"),
        ((lambda T: torch.zeros((), requires_grad=True) * 1,), ValueError, "does not depend"),
        ((lambda T: -T("conv1").mean() / 0.0,), ValueError, "at step 0"),
    ],
)
def test_wrong_objectives_are_refused(arguments: Any, error: type[Exception], sentence: str) -> None:
    net = build_net("plain")
    with assert_untouched(net), pytest.raises(error, match=sentence):
        rendered(net, *arguments)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"thresholds": ()}, "thresholds"),
        ({"thresholds": 5}, "thresholds"),
        ({"thresholds": (0, 4)}, "above 0"),
        ({"fixed_image_size": 0}, "fixed_image_size"),
        ({"param_f": lambda: ([torch.zeros(1, requires_grad=True)], lambda: torch.zeros(3, 4, 4))}, "n, c, h, w"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rendered(tiny_model("plain"), "conv1:0", **options)


# The defects of lucent 0.1.8


def test_1_weights_get_no_gradient() -> None:
    net = build_net("batch_norm")
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    with assert_untouched(net):
        rendered(net, "block2:1")


def test_2_the_pass_stops_at_the_target() -> None:
    few, many = counting_net(), counting_net()
    rendered(few, "1:2", thresholds=(2,))
    rendered(many, "1:2", thresholds=(9,))
    counts = [[len(net[index].sizes) for index in (0, 4)] for net in (few, many)]  # type: ignore[arg-type]
    assert counts[1][0] - counts[0][0] == 7
    assert counts[1][1] == counts[0][1]


@pytest.mark.parametrize("name", ["residual", "inplace_relu", "tokens"])
def test_3_nothing_stays_in_the_network(name: str) -> None:
    net = build_net(name)
    kept: list[weakref.ref[Tensor]] = []

    def loss(T: Any) -> Tensor:
        kept.append(weakref.ref(T("labels")))
        return -T("labels").mean()

    with assert_untouched(net):
        rendered(net, loss)
    gc.collect()
    assert kept
    assert not any(reference() is not None for reference in kept)


def test_3_readers_take_their_hooks_with_them() -> None:
    net = build_net("plain")
    image = random_images(1)
    with assert_untouched(net):
        T = render.hook_model(net, lambda: image)
        logits = net(image)
        assert torch.equal(T("labels"), logits)
        assert torch.equal(T("input"), image)
        T.close()
    with assert_untouched(net):
        T = render.hook_model(net, lambda: image)
        del T
        gc.collect()
    with assert_untouched(net):
        T, hooks = render.hook_model(net, lambda: image, return_hooks=True)
        net(image)
        assert torch.equal(hooks["relu2"].features, T("relu2"))
        for hook in hooks.values():
            hook.close()
    with assert_untouched(net):
        hook = render.ModuleHook(net.relu2)
        net(image)
        hook.close()
        net(torch.zeros_like(image))
        assert torch.equal(hook.features, net.relu2(net.conv2(net.relu1(net.conv1(image)))))  # type: ignore[operator]


class Colliding(nn.Module):
    """Two modules whose names are the same with underscores; the last one registered is the first that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 2, 1)
        self.a = nn.Sequential()
        self.a.add_module("b", nn.Conv2d(3, 3, 1))
        self.a_b = nn.Conv2d(3, 3, 1)
        self.c = nn.Sequential(nn.Conv2d(3, 3, 1))
        self.add_module("c_d", nn.Sequential(nn.Sequential(nn.Identity())))
        self.c.add_module("d_0", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.c(self.c_d(self.a_b(self.a(x)))))


def test_4_layers_are_found_by_their_names() -> None:
    net = fill_small(Colliding())
    image = random_images(1).float()
    with render.hook_model(net, lambda: image) as T:
        output = net(image)
        assert torch.equal(T("a.b"), net.a(image))
        assert torch.equal(T("a_b"), net.a_b(net.a(image)))
        assert torch.equal(T("c_0"), T("c.0"))
        assert torch.equal(T("labels"), output)
        with pytest.raises(ValueError, match=r"'c\.d_0'.*'c_d\.0'|'c_d\.0'.*'c\.d_0'"):
            T("c_d_0")
        with pytest.raises(ValueError, match="list them all"):
            T("nothing")


def fill_small(net: nn.Module) -> nn.Module:
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


def test_4_each_call_of_a_module_can_be_read() -> None:
    net = build_net("residual")
    image = random_images(1)
    block = net.layer1[0]  # type: ignore[index]
    with render.hook_model(net, lambda: image) as T:
        net(image)
        stem = net.stem(image)  # type: ignore[operator]
        first = block.bn1(block.conv1(stem)).relu()
        assert torch.allclose(T("layer1_0_relu#0"), first)
        assert torch.allclose(T("layer1.0.relu#1"), block(stem))
        assert torch.equal(T("layer1_0_relu#1"), T("layer1_0"))
        with pytest.raises(ValueError, match="called 2 times"):
            T("layer1_0_relu")
    with pytest.raises(ValueError, match="called 2 times"):
        rendered(net, "layer1_0_relu:1")


@pytest.mark.parametrize("name", ["features_0", "features.0"])
def test_4_a_layer_is_read_before_it_is_overwritten(name: str) -> None:
    net = build_net("inplace_relu")
    image = random_images(1)
    conv = net.features[0]  # type: ignore[index]
    with render.hook_model(net, lambda: image) as T:
        net(image)
        assert torch.equal(T(name), conv(image))
        assert T(name).min() < 0
    hook = render.ModuleHook(conv)
    net(image)
    hook.close()
    assert torch.equal(hook.features, conv(image))


def test_5_errors_are_not_swallowed() -> None:
    net = fill_small(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 9), nn.ReLU(), nn.Flatten()))
    assert rendered(net, "1:0", fixed_image_size=8)[0].shape == (1, 12, 12, 3)
    with pytest.raises(ValueError, match=r"8 x 8 pixels.*[Kk]ernel size"):
        rendered(net, "3:0", fixed_image_size=8)
    net.train()
    with pytest.raises(ValueError, match="training mode"):
        rendered(net, "1:0", fixed_image_size=8)
    broken = fill_small(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)))
    with pytest.raises(ValueError, match="to have 5 channels"):
        rendered(broken, "1:0")


def test_6_jitter_goes_both_ways() -> None:
    spot = torch.zeros(1, 1, 21, 21)
    spot[0, 0, 10, 10] = 1
    moved = transform.jitter(8)(spot.expand(400, 1, 21, 21), [Generator().manual_seed(seed) for seed in range(400)])
    places = moved.flatten(1).argmax(1)
    shifts = torch.stack([places // 21, places % 21]) - 10
    assert moved.flatten(1).max(1).values.min() > 0.999
    assert set(shifts.flatten().tolist()) == set(range(-4, 5))
    assert shifts.float().mean(1).abs().max() < 0.4


def test_6_nothing_turns_black(lucent: Any, quiet: None) -> None:
    grey = torch.full((1, 3, 128, 128), 0.5)
    ours = [transform.compose(transform.standard_transforms)(grey) for _ in range(20)]
    assert all(torch.allclose(each, torch.tensor(0.5)) for each in ours)
    theirs = [lucent.transform.compose(lucent.transform.standard_transforms)(grey) for _ in range(20)]
    assert np.mean([float((each < 0.25).float().mean()) for each in theirs]) > 0.02


def test_7_the_centre_of_a_map_that_is_not_square() -> None:
    values = reading(0, 2, 3, 4, 10)
    T = from_dict({"conv": values})
    assert objectives.neuron("conv", 1)(T) == -values[:, 1, 2, 5].mean()
    assert objectives.neuron("conv", 1, x=7, y=3)(T) == -values[:, 1, 3, 7].mean()
    assert objectives.localgroup_weight("conv", x=1, y=2, wx=3, wy=2)(T) == -values[:, :, 2:4, 1:4].mean()
    with pytest.raises(IndexError, match="4 x 10"):
        objectives.neuron("conv", 1, x=3, y=7)(T)


def test_7_scaling_keeps_proportions() -> None:
    y, x = torch.meshgrid(torch.arange(40.0) - 19.5, torch.arange(100.0) - 49.5, indexing="ij")
    for factor in (0.9, 1.25):
        scaled = transform.random_scale([factor])(torch.stack([y, x])[None])[0, :, 8:32, 20:80]
        assert torch.allclose(scaled, torch.stack([y, x])[:, 8:32, 20:80] / factor, atol=1e-3)


@pytest.mark.parametrize(
    ("side", "fixed", "size"),
    [(20, None, (224, 224)), (20, 36, (36, 36)), (20, (16, 40), (16, 40)), (230, None, (230,) * 2)],
)
def test_8_the_network_sees_one_size(side: int, fixed: Any, size: tuple[int, int]) -> None:
    net = counting_net()
    (picture,) = rendered(net, "1:0", lambda: param.image(side), fixed_image_size=fixed)
    assert set(net[0].sizes) == {size}  # type: ignore[arg-type]
    assert picture.shape == (1, side, side, 3)


def test_8_a_model_says_its_own_size() -> None:
    net = fill_small(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)))
    model = load_model(net, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert rendered(model, "labels:2", lambda: param.image(8), fixed_image_size=None)[0].shape == (1, 8, 8, 3)
    assert rendered(model, "labels:2", lambda: param.image(24), fixed_image_size=16)[0].shape == (1, 24, 24, 3)
    with pytest.raises(ValueError, match="24 x 24 pixels"):
        rendered(model, "labels:2", lambda: param.image(24), fixed_image_size=None)


def test_8_jitter_is_in_pixels_of_the_network() -> None:
    """A spot in a small picture moves by the pixels asked for, however much larger the network sees it."""
    seen: list[Tensor] = []
    spot = torch.full((1, 3, 16, 16), -6.0)
    spot[0, :, 8, 8] = 6.0

    def loss(T: Any) -> Tensor:
        seen.append(T("conv")[0, 0].detach())
        return -T("conv").mean()

    def still() -> Any:
        values = spot.clone().requires_grad_(True)
        return [values], lambda: torch.sigmoid(values)

    render.render_vis(
        PassingOn().eval(), loss, still, lambda params: torch.optim.SGD(params, lr=0.0), [transform.jitter(8)], (30,),
        progress=False, fixed_image_size=64,
    )  # fmt: skip
    places = torch.tensor([divmod(int(each.argmax()), 64) for each in seen[1:]])
    assert (places.max(0).values - places.min(0).values <= 8).all()
    assert (places.max(0).values - places.min(0).values >= 6).all()


def test_9_offsets_move_the_axes_they_name() -> None:
    (small,), plain = param.lowres_tensor([2, 3, 8, 8], [2, 3, 4, 4])
    for axis in range(4):
        offset = [2 if index == axis else 0 for index in range(4)]
        (other,), moved = param.lowres_tensor([2, 3, 8, 8], [2, 3, 4, 4], offset=offset)
        other.data.copy_(small.data)
        length = plain().shape[axis]
        mirrored = [1, 0, *range(length)][:length]
        assert torch.equal(moved(), plain().index_select(axis, torch.tensor(mirrored)))
    (other,), halves = param.lowres_tensor([2, 3, 8, 8], [2, 3, 4, 4], offset=True)
    other.data.copy_(small.data)
    assert torch.equal(halves()[:, :, 1:, 1:], plain()[:, :, :-1, :-1])


def noisy(images: Tensor) -> Tensor:
    """What others write: noise from two global generators."""
    return images + 0.1 * torch.randn_like(images) + 0.1 * float(np.random.rand())  # noqa: NPY002


def drawn() -> Any:
    values = (0.1 * torch.randn(1, 3, 12, 12)).requires_grad_(True)
    return [values], lambda: torch.sigmoid(values)


@pytest.mark.parametrize(
    ("param_f", "steps"),
    [(None, None), (drawn, [noisy]), (lambda: param.cppn(12), []), (lambda: param.image(12, fft=False), None)],
    ids=["standard", "global generators", "cppn", "pixels"],
)
def test_10_the_same_call_gives_the_same_bits(param_f: Any, steps: Any) -> None:
    net = build_net("plain")
    with assert_untouched(net):
        first, again, other = (rendered(net, "relu2:1", param_f, transforms=steps, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert param_f is not None or not np.array_equal(first, other)
    assert steps != [noisy] or not np.array_equal(first, other)


def test_10_a_picture_starts_alike_alone_and_in_a_batch() -> None:
    starts: list[Tensor] = []

    def loss(T: Any) -> Tensor:
        starts.append(T("input").detach())
        return -T("conv1").mean()

    for batch in (1, 3):
        rendered(tiny_model("plain"), loss, lambda batch=batch: param.image(12, batch=batch), thresholds=(1,))
    assert torch.equal(starts[0][0], starts[-1][0])
    assert not torch.equal(starts[-1][0], starts[-1][1])


def test_10_alone_the_functions_follow_the_global_seed() -> None:
    made = []
    with torch.random.fork_rng():
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            _, image_f = param.image(8)
            made.append(transform.jitter(4)(image_f()).detach())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_11_each_picture_has_its_own_transforms() -> None:
    pictures = random_images(1).expand(5, 3, 12, 12)
    for each in (
        transform.jitter(6),
        transform.random_rotate([*range(-20, 21)]),
        transform.random_scale([0.8, 1, 1.3]),
    ):
        assert len(set(map(digest, each(pictures)))) > 1
        assert len(set(map(digest, transform.alike(each)(pictures)))) == 1
    both = transform.compose([transform.pad(2), transform.jitter(6), transform.random_rotate([0, 5, 10, 15])])
    assert len(set(map(digest, transform.alike(both)(pictures)))) == 1


def digest(picture: Tensor) -> bytes:
    return picture.numpy().tobytes()


def test_11_a_picture_is_seen_alike_in_every_batch() -> None:
    seen: list[Tensor] = []

    def loss(T: Any) -> Tensor:
        seen.append(T("conv1").detach())
        return -T("conv1").mean()

    for batch in (2, 3):
        rendered(
            tiny_model("plain"), loss, lambda batch=batch: param.image(12, batch=batch),
            optimizer=lambda params: torch.optim.SGD(params, lr=0.0),
        )  # fmt: skip
    few, many = seen[1:4], seen[5:]
    assert len(few) == len(many) == 3
    for one, other in zip(few, many, strict=True):
        assert torch.allclose(one, other[:2])
    assert not torch.allclose(few[0], few[1])


def test_12_tensors_are_where_they_are_wanted() -> None:
    for made in (
        param.image(8, device="meta"),
        param.pixel_image([1, 3, 8, 8], device="meta"),
        param.lowres_tensor([1, 3, 8, 8], [1, 3, 2, 2], device="meta"),
        param.cppn(8, device="meta"),
    ):
        params, image_f = made
        assert {each.device.type for each in params} == {"meta"} == {image_f().device.type}
    assert {each.device.type for each in param.image(8)[0]} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_12_pictures_follow_the_network() -> None:
    net = build_net("plain").cuda()
    places: list[str] = []

    def here() -> Any:
        params, image_f = param.image(12)
        places.append(params[0].device.type)
        return params, image_f

    assert rendered(net, "relu2:1", here)[0].shape == (1, 12, 12, 3)
    assert places == ["cuda"]


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (10, 7), (5, 5)])
def test_13_a_spectrum_is_the_picture_of_its_frequencies(size: tuple[int, int]) -> None:
    (spectrum,), image_f = param.fft_image([1, 1, *size], decay_power=1.5)
    height, width = size
    values = spectrum.detach().double().numpy()[0, 0]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[: width // 2 + 1]
    frequency = np.sqrt(rows**2 + np.abs(columns) ** 2)
    scaled = (values[..., 0] + 1j * values[..., 1]) / np.maximum(frequency, 1 / max(size)) ** 1.5
    expected = np.fft.irfft2(scaled, s=size, norm="ortho") / 4
    assert np.allclose(image_f().detach().numpy()[0, 0], expected, atol=1e-6)


def sleeping_net() -> nn.Sequential:
    """Channel 0 sleeps on anything near grey, channel 1 is awake."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.ones(2, 3, 1, 1))  # type: ignore[union-attr,operator]
        net[0].bias.copy_(torch.tensor([-1.8, 0.0]))  # type: ignore[union-attr,operator]
    return net


def test_14_dead_units_wake_and_other_gradients_stay_true() -> None:
    net = sleeping_net()
    score = []

    def loss(T: Any) -> Tensor:
        score.append(float(T("1")[:, 0].detach().mean()))
        return -T("1")[:, 0].mean()

    rendered(net, loss, preprocess=False, thresholds=(60,), transforms=[])
    assert score[1] == 0 < score[-1]
    image = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    net(image)[:, 0].sum().backward()
    assert image.grad is not None
    assert not image.grad.any()


def test_14_the_inception_of_the_articles_does_not_leak(lucent: Any) -> None:
    slopes = []
    for net in (lucent.zoo.inceptionv1(pretrained=False), load_model("lucent:inceptionv1").net):
        below = torch.full((1,), -1.0, requires_grad=True)
        slopes.append(float(torch.autograd.grad(net.conv2d0(below).sum(), below)[0]))
    assert slopes == [pytest.approx(0.1), 0]


def test_15_directions_have_a_dot_product_and_a_power() -> None:
    values, vector = reading(0, 2, 5, 3, 4), reading(1, 5)
    T = from_dict({"conv": values})
    dot = torch.einsum("nchw,c->nhw", values, vector)
    cosine = dot / (values.norm(dim=1) * vector.norm())
    assert torch.allclose(objectives.direction("conv", vector)(T), -cosine.mean())
    for power in (0, 1, 2.5):
        expected = -(dot * cosine.clamp(min=0.1) ** power).mean()
        assert torch.allclose(objectives.direction("conv", vector, cossim_pow=power)(T), expected)
        at_the_centre = -(dot * cosine.clamp(min=0.1) ** power)[:, 1, 2].mean()
        assert torch.allclose(objectives.direction_neuron("conv", vector, cossim_pow=power)(T), at_the_centre)
    assert torch.equal(objectives.direction("conv", vector.numpy())(T), objectives.direction("conv", vector)(T))
    with pytest.raises(ValueError, match="5 channels"):
        objectives.direction("conv", [1.0, 2.0])(T)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 7), (3, 5, 2, 4)], ids=["numbers", "tokens", "maps"])
def test_15_layers_of_any_number_of_axes(shape: tuple[int, ...]) -> None:
    T = from_dict({"a": reading(0, *shape)})
    weight = reading(1, 5)
    for objective in (
        objectives.neuron("a", 2),
        objectives.channel("a", 2),
        objectives.neuron_weight("a", weight),
        objectives.channel_weight("a", weight),
        objectives.localgroup_weight("a", weight),
        objectives.direction("a", weight),
        objectives.direction_neuron("a", weight),
        objectives.channel_interpolate("a", 0, "a", 1),
        objectives.alignment("a"),
        objectives.diversity("a"),
    ):
        assert objective(T).shape == ()
        assert torch.isfinite(objective(T))


@pytest.mark.parametrize("batch", [1, np.int64(1), np.uint8(1), torch.tensor(1)])
def test_15_any_whole_number_names_a_picture(batch: Any) -> None:
    values = reading(0, 3, 2, 4, 4)
    T = from_dict({"conv": values})
    assert objectives.channel("conv", 1, batch=batch)(T) == -values[1, 1].mean()
    with pytest.raises(IndexError, match="batch of 3"):
        objectives.channel("conv", 1, batch=3)(T)
    with pytest.raises(TypeError):
        objectives.channel("conv", 1, batch=1.0)  # type: ignore[arg-type]


def test_15_one_picture_is_the_start_of_an_interpolation() -> None:
    values = reading(0, 1, 2, 4, 4)
    T = from_dict({"conv": values})
    assert torch.allclose(objectives.channel_interpolate("conv", 0, "conv", 1)(T), -values[:, 0].mean())
    assert objectives.diversity("conv")(T) == 0
    assert objectives.alignment("conv")(T) == 0


def test_15_diversity_is_the_sum_over_pairs() -> None:
    values = reading(0, 5, 3, 4, 2)
    grams = [(each.flatten(1) @ each.flatten(1).T) for each in values]
    pairs = [(a * b).sum() / (a.norm() * b.norm()) for i, a in enumerate(grams) for j, b in enumerate(grams) if i != j]
    assert torch.allclose(objectives.diversity("conv")(from_dict({"conv": values})), -sum(pairs) / 5)  # type: ignore[arg-type]


def test_16_the_name_of_a_class_is_no_preprocessing() -> None:
    net = type("InceptionV1", (PassingOn,), {})().eval()
    assert scaled_as(net) == IMAGENET


def test_16_lucents_inception_has_its_own(lucent: Any) -> None:
    seen: list[Tensor] = []
    net = lucent.zoo.inceptionv1(pretrained=False).eval()

    def loss(T: Any) -> Tensor:
        seen.append(T("conv2d0_pre_relu_conv").detach())
        seen.append(T("input").detach())
        return -T("conv2d0_pre_relu_conv").mean()

    render.render_vis(
        net, loss, lambda: param.image(224), transforms=[], thresholds=(1,), progress=False, fixed_image_size=224
    )
    expected = net.conv2d0_pre_relu_conv(F.pad(255 * seen[-1] - 117, (2, 3, 2, 3)))
    assert torch.allclose(seen[-2], expected, atol=0.1)


def test_16_pictures_are_rounded(tmp_path: Path) -> None:
    path = render.export(torch.full((2, 3, 4, 5), 0.996), tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.size == (10, 4)
        assert set(np.asarray(image).ravel()) == {254}  # 253.98, which lucent cuts off
    with pytest.raises(ValueError, match="png"):
        render.export(torch.zeros(1, 3, 4, 4), tmp_path / "a")
    assert render.export(torch.zeros(1, 1, 4, 4), tmp_path / "grey.jpg").is_file()


def test_16_pictures_of_one_channel_and_a_start_of_ones_own() -> None:
    net = fill_small(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
    (picture,) = rendered(net, "1:0", lambda: param.image(12, channels=1), preprocess=False)
    assert picture.shape == (1, 12, 12, 1)
    start = torch.full((3, 12, 12), 0.25)
    still = as_param_f(parameterizations.starting_from(start), 12)
    (kept,) = rendered(tiny_model("plain"), "conv1:0", still, optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    assert np.allclose(kept, 0.25, atol=0.02)


# Objectives: their algebra


def test_objectives_add_subtract_and_are_multiplied() -> None:
    T = from_dict({"a": torch.tensor([[2.0, 5.0]])})
    two, five = objectives.channel("a", 0), objectives.channel("a", 1)
    assert (two + five)(T) == -7
    assert (two - five)(T) == 3
    assert (1 + two)(T) == (two + 1)(T) == -1
    assert (1 - two)(T) == 3
    assert (two - 1)(T) == -3
    assert (2 * two)(T) == (two * np.float32(2))(T) == -4
    assert (two / 4)(T) == -0.5
    assert (-two)(T) == 2
    assert objectives.Objective.sum([two, five, two])(T) == -9
    assert sum([two, five])(T) == -7  # type: ignore[operator]
    assert (two + (lambda T: T("a").sum()))(T) == 5
    assert (two + five).name == "channel, channel"
    assert "Channel [a, 0]" in (two + five).description
    for wrong in ("a:1", None):
        with pytest.raises(TypeError):
            two + wrong
    with pytest.raises(TypeError, match="multiplied by a number"):
        two * five
    with pytest.raises(TypeError, match="divided by a number"):
        two / five


def test_functions_become_objectives() -> None:
    @objectives.wrap_objective()
    def brightest(layer: str, share: float = 0.5, batch: int | None = None) -> Any:
        @objectives.handle_batch(batch)
        def inner(T: Any) -> Tensor:
            return -share * T(layer).amax()

        return inner

    made = brightest("a", share=2.0, batch=1)
    assert made(from_dict({"a": torch.tensor([[9.0], [3.0]])})) == -6
    assert (made.name, made.description) == ("brightest", "Brightest [a, share=2.0, batch=1]")
    assert brightest.__name__ == "brightest"


def test_ours_are_objectives_too() -> None:
    model = tiny_model("branch_concat")
    by_name = rendered(model, "mixed2:1", transforms=[])[0]
    assert np.allclose(rendered(model, scores.channel("mixed2:1"), transforms=[])[0], by_name, atol=1e-5)
    many = rendered(model, scores.channel("mixed2:1") - 0.1 * scores.total_variation(), parameterizations.fourier(12))
    assert many[0].shape == (1, 12, 12, 3)
    conditioned = rendered(model, scores.through("mixed2:1", "mixed1:0"), transforms=[])[0]
    assert not np.allclose(conditioned, by_name, atol=1e-3)


# Side by side with lucent


@pytest.mark.parametrize("make", [
    lambda o: o.neuron("a", 1), lambda o: o.neuron("a", 1, x=2, y=3, batch=1),
    lambda o: o.channel("a", 2), lambda o: o.channel("a", 2, batch=0),
    lambda o: o.neuron_weight("a", torch.arange(4.0)), lambda o: o.neuron_weight("a", None),
    lambda o: o.channel_weight("a", torch.arange(4.0)),
    lambda o: o.localgroup_weight("a", torch.arange(4.0), x=1, y=2, wx=2, wy=3),
    lambda o: o.localgroup_weight("a", None, x=1, y=2, wx=2, wy=3),
    lambda o: o.direction("a", torch.arange(4.0)), lambda o: o.direction_neuron("a", torch.arange(4.0)),
    lambda o: o.blur_input_each_step(), lambda o: o.channel_interpolate("a", 1, "b", 0),
    lambda o: o.alignment("a"), lambda o: o.alignment("a", decay_ratio=3), lambda o: o.diversity("a"),
    lambda o: o.channel("a", 1) - 2 * o.diversity("b") + o.alignment("a") / 3 + 1,
    lambda o: o.Objective.sum([o.channel("a", 0), o.channel("b", 1)]), lambda o: -o.channel("a", 0),
    lambda o: o.as_objective("a:3"), lambda o: o.as_objective(" a : 3 "),
])  # fmt: skip
def test_objectives_are_worth_what_lucents_are(lucent: Any, make: Any) -> None:
    T = from_dict({
        "a": reading(0, 3, 4, 6, 6).float(), "b": reading(1, 3, 5, 3, 3).float(),
        "input": random_images(3).float(),
    })  # fmt: skip
    assert float(make(objectives)(T)) == pytest.approx(float(make(lucent.objectives)(T)), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("make", [
    lambda p: p.pixel_image([2, 3, 8, 6], sd=0.1), lambda p: p.fft_image([2, 3, 8, 6]),
    lambda p: p.fft_image([2, 3, 6, 8], decay_power=1.7), lambda p: p.image(8), lambda p: p.image(8, h=6, batch=2),
    lambda p: p.image(8, fft=False), lambda p: p.image(8, decorrelate=False), lambda p: p.image(8, channels=5),
    lambda p: p.image(8, channels=3), lambda p: p.lowres_tensor([4, 3, 8, 8], [1, 3, 2, 5]), lambda p: p.cppn(8),
    lambda p: p.cppn(8, num_output_channels=4, num_hidden_channels=6, num_layers=3, normalize=True),
    lambda p: p.cppn(8, activation_fn=nn.Tanh, num_layers=2, num_hidden_channels=48) if False else p.cppn(9),
])  # fmt: skip
def test_parameters_make_the_pictures_that_they_make_in_lucent(lucent: Any, make: Any) -> None:
    (ours, image), (theirs, their_image) = make(param), make(lucent.param)
    theirs = list(theirs)
    with torch.no_grad():
        for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            assert own.shape == other.shape
            other.copy_(torch.randn(other.shape, generator=Generator().manual_seed(index)))
            own.copy_(other)
    assert torch.allclose(image(), their_image(), atol=1e-5)


def test_starts_are_as_wide_as_lucents(lucent: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for size in (64, 65):
            spread = [float(module.image(size)[1]().detach().std()) for module in (param, lucent.param)]
            assert spread[0] == pytest.approx(spread[1], rel=0.1)


def test_transforms_without_chance_are_lucents(lucent: Any, quiet: None) -> None:
    images = random_images(2, size=20).float()
    for make in (
        lambda t: t.pad(3), lambda t: t.pad(3, mode="constant", constant_value=0.2), lambda t: t.pad(2, "replicate"),
        lambda t: t.normalize(), lambda t: t.preprocess_inceptionv1(), lambda t: t.compose([t.pad(1), t.normalize()]),
    ):  # fmt: skip
        assert torch.allclose(make(transform)(images), make(lucent.transform)(images), atol=1e-5)
    for angle, units in ((30, "degrees"), (0.5, "rads")):
        smooth = F.interpolate(images, 60, mode="bicubic")
        ours, theirs = (module.random_rotate([angle], units)(smooth) for module in (transform, lucent.transform))
        assert torch.allclose(ours[:, :, 20:40, 20:40], theirs[:, :, 20:40, 20:40], atol=1e-3)


def started(values: Tensor) -> Callable[[], Any]:
    def param_f() -> Any:
        own = values.clone().requires_grad_(True)
        return [own], lambda: torch.sigmoid(own)

    return param_f


@pytest.mark.parametrize("objective", ["mixed3a:5", "labels:2"])
@pytest.mark.parametrize("optimizer", [None, lambda params: torch.optim.SGD(params, lr=50.0)], ids=["adam", "sgd"])
def test_both_engines_take_the_same_way(lucent: Any, quiet: None, objective: str, optimizer: Any) -> None:
    """Without chance and with the network's size, nothing is left to differ: pictures are the same."""
    net = load_model("sketches", dtype=torch.float64).net
    start = 0.5 * torch.randn(2, 3, 32, 32, generator=Generator().manual_seed(0), dtype=torch.float64)
    options = {"optimizer": optimizer, "transforms": [], "thresholds": (1, 6), "progress": False, "show_image": False}
    ours = render.render_vis(net, objective, started(start), fixed_image_size=32, **options)
    theirs = lucent.render.render_vis(net, objective, started(start), fixed_image_size=32, **options)
    for own, other in zip(ours, theirs, strict=True):
        assert np.abs(own - other).max() < 1e-4
    assert np.abs(ours[-1] - ours[0]).mean() > 0.005


def test_scores_are_comparable_at_lucents_own_settings(lucent: Any, quiet: None, sketches: Model) -> None:
    def clean(picture: np.ndarray) -> float:
        with torch.no_grad(), probe(sketches, "mixed3a") as activations:
            sketches(torch.from_numpy(picture).permute(0, 3, 1, 2))
            return float(activations["mixed3a"][:, 5].mean())

    options = {"thresholds": (1, 25), "progress": False, "show_image": False, "fixed_image_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = load_model("sketches").net
        theirs = lucent.render.render_vis(net, "mixed3a:5", lambda: lucent.param.image(32), **options)
    ours = render.render_vis(sketches, "mixed3a:5", lambda: param.image(32), **options)
    assert clean(theirs[-1]) > clean(theirs[0])
    assert clean(ours[-1]) > 0.9 * clean(theirs[-1])


def test_our_render_takes_lucents_objects(lucent: Any, quiet: None) -> None:
    model = tiny_model("plain")
    for objective, param_f, steps in (
        (lucent.objectives.channel("relu2", 1), lambda: lucent.param.image(12), lucent.transform.standard_transforms),
        (lucent.objectives.channel("relu2", 1) - objectives.diversity("relu2"), lambda: param.image(12, batch=2), None),
        (
            objectives.channel("relu2", 1) - 2 * lucent.objectives.diversity("relu2"),
            lambda: lucent.param.image(12, batch=2),
            [lucent.transform.random_scale([0.9, 1.0, 1.1]), transform.jitter(4), lucent.transform.jitter(2)],
        ),
        ("relu2:1", lambda: lucent.param.cppn(12), [lucent.transform.compose([lucent.transform.jitter(2)])]),
    ):
        first, again = (rendered(model, objective, param_f, transforms=steps) for _ in range(2))
        assert np.array_equal(first, again)


def test_lucents_render_takes_our_objects(lucent: Any, quiet: None) -> None:
    net = build_net("branch_concat").float()
    blurred = scores.channel("mixed1.one:1") - scores.total_variation()
    fourier, pixels = parameterizations.fourier(), parameterizations.pixels()
    for objective, param_f, steps in (
        (objectives.channel("mixed1", 4), lambda: param.image(12, batch=2), transform.standard_transforms),
        (objectives.channel("mixed1_one", 1) - objectives.diversity("mixed1"), lambda: param.image(12, batch=2), []),
        (lucent.objectives.channel("mixed1", 4) + objectives.alignment("mixed1"), lambda: param.cppn(12), []),
        (blurred, as_param_f(fourier, 12), []),
        (as_loss(scores.energy("mixed1")), as_param_f(pixels, 12), [as_transform(transforms.rotate(-5, 5))]),
        ("mixed1_one:1", as_param_f(fourier, (12, 12), batch=3), [transform.alike(transform.jitter(4))]),
    ):
        pictures = lucent.render.render_vis(
            unhooked(net), objective, param_f, transforms=list(steps), thresholds=(1, 5), progress=False,
            show_image=False, fixed_image_size=12,
        )  # fmt: skip
        assert np.isfinite(pictures[-1]).all()
        assert not np.array_equal(*pictures)


def test_an_objective_of_ours_is_worth_the_same_to_lucent(lucent: Any, quiet: None) -> None:
    net = build_net("branch_concat")
    image = random_images(2)
    T = lucent.render.hook_model(net, lambda: image)
    net(image)
    with render.hook_model(unhooked(net), lambda: image) as ours:
        net(image)
        for objective in (scores.channel("mixed1.one:1"), scores.energy("mixed2"), scores.total_variation()):
            expected = -objective.score({layer: ours(layer) for layer in objective.layers}).mean()
            assert torch.allclose(objective(T).double(), expected.double())
            assert torch.equal(as_loss(objective)(T), objective(T))
    with pytest.raises(ValueError, match="edits mixed1"):
        scores.through("mixed2:1", "mixed1:0")(T)


def test_visualize_takes_lucents_objects(lucent: Any, quiet: None) -> None:
    model = load_model(build_net("plain").float(), image_size=12, mean=(0.5,) * 3, std=(0.25,) * 3)
    what = lucent.objectives.channel("relu2", 1)
    steps = [lucent.transform.pad(2), lucent.transform.random_scale([0.8, 1.0, 1.2]), lucent.transform.jitter(4)]
    options = {"image": lambda: lucent.param.image(12), "transforms": steps, "steps": 12, "progress": False}
    with assert_untouched(model.net):
        made, again = (visualize(model, what, **options) for _ in range(2))
    assert made.images.shape == (1, 12, 12, 3)
    assert np.array_equal(made.images, again.images)
    with torch.no_grad(), probe(model, "relu2") as activations:
        model(torch.from_numpy(made.images).permute(0, 3, 1, 2))
        assert made.scores[0] == pytest.approx(float(activations["relu2"][:, 1].mean()), rel=1e-4)
    assert made.scores[0] > made.history[0][0]


def test_visualize_takes_groups_of_lucents(lucent: Any, quiet: None) -> None:
    model = tiny_model("plain")
    what = lucent.objectives.channel("relu2", 1) - 0.1 * lucent.objectives.diversity("relu2")
    made = visualize(model, what, image=lambda: lucent.param.image(12, batch=3), count=3, steps=6, progress=False)
    assert made.images.shape == (3, 12, 12, 3)
    assert not np.array_equal(made.images[0], made.images[1])


def test_visualize_takes_objects_of_this_folder() -> None:
    model = tiny_model("plain")
    made = visualize(
        model, [objectives.channel("relu2", 1), "relu2:2", objectives.channel("relu1", 0)],
        image=lambda: param.cppn(12), transforms=transform.standard_transforms, steps=5, progress=False,
    )  # fmt: skip
    assert len(made) == 3


# Guests: what the engine makes of others' functions


def test_a_guests_score_is_minus_its_loss() -> None:
    model = tiny_model("plain")
    images = random_images(2)
    objective = guest_objective(
        model, lambda T: T("relu2")[:, 1].mean() + T("input").mean() + T("labels").sum(), count=2
    )
    assert set(objective.layers) == {"relu2", "input", "logits"}
    assert objective.joint
    with torch.no_grad(), probe(model, ["relu2", "logits"]) as activations:
        model(images)
        read = {"input": images, **activations}
        expected = -(read["relu2"][:, 1].mean() + images.mean() + read["logits"].sum())
        assert torch.allclose(objective.score(read), expected.expand(2))


def test_guests_draw_from_their_pictures_generator() -> None:
    image = guest_image(drawn)
    (alone,), (_, second) = image.start(generators_of(0)), image.start(generators_of(1, 0))[0]
    assert torch.equal(alone[0], second)
    moved = guest_transform(noisy)
    pictures = random_images(2)[:1].expand(2, 3, 12, 12)
    one = moved(pictures[:1], generators_of(7))
    two = moved(pictures, generators_of(8, 7))
    assert torch.equal(one[0], two[1])
    assert not torch.equal(two[0], two[1])


def generators_of(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def test_the_gradient_of_a_guest_is_that_of_its_closure() -> None:
    weights = reading(0, 4, 3)

    def mixed() -> Any:
        small, shift = torch.rand(1, 3, 2, 2, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
        params = [small.requires_grad_(True), shift.requires_grad_(True)]
        return params, lambda: torch.einsum("nchw,oc->nohw", torch.sin(small) + shift[:, None, None], weights)

    image = guest_image(mixed)
    parameters = tuple(each.requires_grad_(True) for each in image.start(generators_of(1, 2), dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *given: image.picture(given), parameters)
    with pytest.raises(ValueError, match="4 channels"):
        image.sized(3, (2, 2))


def test_parameters_that_pictures_share_stay_shared() -> None:
    image = guest_image(lambda: param.lowres_tensor([3, 3, 8, 8], [1, 3, 2, 2]))
    (copies,) = image.start(generators_of(1, 2, 3))
    assert copies.shape == (3, 1, 3, 2, 2)
    pictures = image.picture((copies.requires_grad_(True),))
    (slope,) = torch.autograd.grad(pictures[0].sum(), copies)
    assert torch.equal(slope[0], slope[2])
    assert float(slope.sum()) == pytest.approx(3 * 64, rel=1e-4)
    with pytest.raises(ValueError, match="3 pictures at a time"):
        image.start(generators_of(1, 2))


def test_who_is_a_guest() -> None:
    assert is_guest_transform(nn.Upsample(size=4))
    assert not is_guest_transform(transform.jitter(4))
    assert not is_guest_transform(transforms.rotate(-1, 1))
    assert not is_guest_transform("jitter")
    assert layer_of(tiny_model("plain"), "labels") == "logits"
    assert set(adapters.__all__) >= {"as_loss", "as_param_f", "as_transform"}


def test_a_transform_of_ours_is_alone_what_it_is() -> None:
    turned = as_transform(transforms.rotate(90, 90))(random_images(1))
    assert torch.allclose(turned, transforms.rotate(90, 90)(random_images(1), generators_of(0)))


# Notebooks written for lucent


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """What stands for InceptionV1: names with underscores would be the same."""
    return load_model("sketches").net


def test_the_tutorial(net: nn.Module, tmp_path: Path) -> None:
    quick = {"thresholds": (2,), "progress": False, "fixed_image_size": 32, "show_image": False}
    render.render_vis(net, "mixed4a:76", **quick)
    render.render_vis(net, "labels:7", **quick)
    render.render_vis(net, objectives.channel("mixed4a", 76), **quick)
    # joint
    joint = objectives.channel("mixed4a", 76) + objectives.channel("mixed4a", 46)
    render.render_vis(net, joint, **quick)
    # negative, diversity
    batch = lambda: param.image(32, fft=True, decorrelate=True, batch=4)  # noqa: E731
    diverse = objectives.channel("mixed4b", 21) - 1e2 * objectives.diversity("mixed4b")
    assert render.render_vis(net, diverse, batch, **quick)[0].shape == (4, 32, 32, 3)
    render.render_vis(net, -objectives.channel("mixed4a", 46), **quick)
    # custom objective, optimizer and transforms
    all_transforms = [
        transform.pad(16),
        transform.jitter(8),
        transform.random_scale([n / 100.0 for n in range(80, 120)]),
        transform.random_rotate([*range(-10, 10), *range(-5, 5), *(10 * [*range(-2, 2)])]),
        transform.jitter(2),
    ]

    def brightness(T: Callable[[str], Tensor]) -> Tensor:
        return -T("mixed3a_branch1x1")[:, 2].mean() + 0.1 * T("input").mean()

    render.render_vis(
        net, brightness, lambda: param.image(32), lambda params: torch.optim.Adam(params, lr=5e-2), all_transforms,
        save_image=True, image_name=str(tmp_path / "out.jpg"), **quick,
    )  # fmt: skip
    assert (tmp_path / "out.jpg").is_file()
    # cppn, at its own rate and without transforms
    render.render_vis(
        net, "mixed4a:50", lambda: param.cppn(32), lambda params: torch.optim.Adam(params, 5e-3), transforms=[], **quick
    )


def test_interpolation_with_a_shared_picture(net: nn.Module) -> None:
    def interpolate_param_f() -> Any:
        unique = param.fft_image((3, 3, 32, 32))
        shared = [
            param.lowres_tensor((3, 3, 32, 32), (1, 3, 16, 16)),
            param.lowres_tensor((3, 3, 32, 32), (1, 3, 8, 8)),
            param.lowres_tensor((3, 3, 32, 32), (2, 3, 4, 4)),
        ]
        params = unique[0] + [each for params, _ in shared for each in params]
        return params, param.to_valid_rgb(lambda: unique[1]() + sum(image() for _, image in shared), decorrelate=True)

    objective = objectives.channel_interpolate("mixed4a", 5, "mixed4a", 60) + objectives.alignment("mixed3b")
    made = render.render_vis(net, objective, interpolate_param_f, thresholds=(2,), progress=False, fixed_image_size=32)
    assert made[0].shape == (3, 32, 32, 3)


def test_feature_inversion(net: nn.Module) -> None:
    """The notebook's own code: layers of an image through ModuleHook, and an objective that compares two pictures."""
    image = random_images(1, size=32).float()

    @objectives.wrap_objective()
    def dot_compare(layer: str, batch: int = 1, cossim_pow: float = 0) -> Any:
        def inner(T: Callable[[str], Tensor]) -> Tensor:
            dot = (T(layer)[batch] * T(layer)[0]).sum()
            mag = torch.sqrt(torch.sum(T(layer)[0] ** 2))
            cossim = dot / (1e-6 + mag)
            return -dot * cossim**cossim_pow

        return inner

    def get_layer(model: nn.Module, layer: str, X: Tensor) -> Any:
        hook = render.ModuleHook(getattr(model, layer))
        model(X)
        hook.close()
        return hook.features

    def stacked_param_f() -> Any:
        params, image_f = param.image(32)
        return params, lambda: torch.stack([image_f()[0], image[0]])

    assert get_layer(net, "mixed3a", image).shape[:2] == (1, 64)
    upright = [transform.alike(transform.compose([transform.pad(8), transform.jitter(8)]))]
    made = render.render_vis(
        net, dot_compare("mixed3a", cossim_pow=1), stacked_param_f, transforms=upright, thresholds=(2,),
        progress=False, fixed_image_size=32,
    )  # fmt: skip
    assert np.allclose(made[0][1], image[0].permute(1, 2, 0), atol=1e-6)


def test_activations_as_the_notebooks_read_them(net: nn.Module) -> None:
    image = random_images(1, size=32).float()
    T = render.hook_model(net, lambda: image)
    net(image)
    with torch.no_grad(), assert_same_layers(net):
        assert torch.allclose(T("mixed3a"), torch.cat([T("mixed3a_" + each) for each in (
            "branch1x1", "branch3x3", "branch5x5", "pool_reduce")], 1))  # fmt: skip
    T.close()


def assert_same_layers(net: nn.Module) -> Any:
    names = render.get_model_layers(net)
    assert "mixed3a_branch1x1_conv" in names
    assert render.get_model_layers(net, getLayerRepr=True)["mixed3a_branch1x1_relu"] == "ReLU()"  # type: ignore[call-overload]
    return warnings.catch_warnings()
