"""The family of tiny float64 networks that truths are tested on, and the check that a network was left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.models import Model, load_model

CLASSES = ("alpha", "beta", "gamma", "delta", "epsilon")


class Classifier(nn.Module):
    """A network whose `maps` turn an image into a map; the mean over positions and a linear layer `logits` end it."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.build()
        self.logits = nn.Linear(self.width, len(CLASSES))

    def build(self) -> None:
        raise NotImplementedError

    def maps(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.maps(x).mean((2, 3)))


class Plain(Classifier):
    """Three convolutions with ReLU modules."""

    def build(self) -> None:
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 7, 3, padding=1), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(7, 8, 3), nn.ReLU()

    def maps(self, x: Tensor) -> Tensor:
        return self.relu3(self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x))))))


class BatchNorm(Classifier):
    """Convolutions without bias, batch normalization, ReLU: in blocks, as torchvision has them."""

    def build(self) -> None:
        def block(i: int, o: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())

        self.block1, self.block2, self.block3 = block(3, 6, 5), block(6, 7, 3), block(7, 8, 1)

    def maps(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(x)))


class ResidualBlock(nn.Module):
    """``relu(x + norm(conv(relu(norm(conv(x))))))`` with one ReLU called twice and an in-place sum, as in torchvision's
    ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Residual(Classifier):
    """A stem and two residual blocks."""

    def build(self) -> None:
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(ResidualBlock(8), ResidualBlock(8))

    def maps(self, x: Tensor) -> Tensor:
        return self.layer1(self.stem(x))


class Mixed(nn.Module):
    """Three branches, concatenated; ReLU by functional call."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, 3, 1)
        self.reduce, self.three = nn.Conv2d(inputs, 2, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.pool, self.pooled = nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(inputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.three(F.relu(self.reduce(x)))
        return torch.cat([F.relu(self.one(x)), F.relu(three), F.relu(self.pooled(self.pool(x)))], 1)


class BranchConcat(Classifier):
    """A stem and two blocks of concatenated branches."""

    def build(self) -> None:
        self.stem, self.mixed1, self.mixed2 = nn.Conv2d(3, 6, 3, padding=1), Mixed(6), Mixed(8)

    def maps(self, x: Tensor) -> Tensor:
        return self.mixed2(self.mixed1(F.relu(self.stem(x))))


class Grouped(Classifier):
    """A convolution in two groups, one with dilation."""

    def build(self) -> None:
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4), nn.ReLU()

    def maps(self, x: Tensor) -> Tensor:
        return self.relu3(self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x))))))


class Depthwise(Classifier):
    """Depthwise and pointwise convolutions."""

    def build(self) -> None:
        self.stem, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU6()
        self.depthwise, self.relu2 = nn.Conv2d(6, 6, (5, 3), padding=(2, 1), groups=6), nn.ReLU6()
        self.pointwise, self.relu3 = nn.Conv2d(6, 8, 1), nn.ReLU6()

    def maps(self, x: Tensor) -> Tensor:
        return self.relu3(self.pointwise(self.relu2(self.depthwise(self.relu1(self.stem(x))))))


class Strided(Classifier):
    """Strided convolutions with uneven kernels and strides."""

    def build(self) -> None:
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 5, stride=2, padding=2), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 7, (3, 2), stride=(2, 1), padding=(1, 0)), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(7, 8, 1), nn.ReLU()

    def maps(self, x: Tensor) -> Tensor:
        return self.relu3(self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x))))))


class Pooled(Classifier):
    """Max and average pools between convolutions."""

    def build(self) -> None:
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = (
            nn.Conv2d(6, 7, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2, padding=1),
        )
        self.conv3, self.relu3 = nn.Conv2d(7, 8, 3, padding=1), nn.ReLU()

    def maps(self, x: Tensor) -> Tensor:
        x = self.pool2(self.relu2(self.conv2(self.pool1(self.relu1(self.conv1(x))))))
        return self.relu3(self.conv3(x))


class FunctionalRelu(Classifier):
    """ReLU by functional calls, one of them in place."""

    def build(self) -> None:
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 6), (6, 7), (7, 8)))

    def maps(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        x = torch.relu(self.conv2(x))
        return self.conv3(x).clamp(min=0)


class InplaceRelu(Classifier):
    """ReLU modules that overwrite what the convolutions gave."""

    def build(self) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(6, 7, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(7, 8, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip

    def maps(self, x: Tensor) -> Tensor:
        return self.features(x)


class ReusedModule(Classifier):
    """One convolution and one ReLU, each called three times."""

    def build(self) -> None:
        self.stem, self.conv, self.relu = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()

    def maps(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.relu(self.conv(x))
        return x


class TokenBlock(nn.Module):
    """A transformer's block on ``(n, t, c)``: attention and a small network, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Tokens(Classifier):
    """A small vision transformer: 4x4 patches, a class token, two blocks."""

    def build(self) -> None:
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.Sequential(TokenBlock(8), TokenBlock(8))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1)))
        return self.logits(x[:, 0])


class NhwcBlock(nn.Module):
    """ConvNeXt's block, kept channels last between its modules: ``x + linear(gelu(linear(norm(depthwise(x)))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.expand, self.gelu = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU()
        self.project = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.project(self.gelu(self.expand(self.norm(mixed))))


class Nhwc(Classifier):
    """A network whose blocks give ``(n, h, w, c)``, as Swin's do."""

    def build(self) -> None:
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(NhwcBlock(8), NhwcBlock(8))

    def maps(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "batch_norm": BatchNorm,
    "residual": Residual,
    "branch_concat": BranchConcat,
    "grouped": Grouped,
    "depthwise": Depthwise,
    "strided": Strided,
    "pooled": Pooled,
    "functional_relu": FunctionalRelu,
    "inplace_relu": InplaceRelu,
    "reused_module": ReusedModule,
    "tokens": Tokens,
    "nhwc": Nhwc,
}
IMAGE_SIZE = 12


def build_net(name: str, *, seed: int = 0) -> nn.Module:
    """Build one of `NETS` in float64 and eval mode, every parameter and statistic random from ``seed``; no global RNG
    is used."""
    with torch.random.fork_rng():
        net = NETS[name]().double().eval()
    return fill(net, seed=seed)


def fill(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give every parameter and batch-norm statistic of ``net`` a random value such that signals neither die nor
    explode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, scale: float) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * scale

    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1:
                tensor.copy_(normal(tensor, (2 / max(1, tensor[0].numel())) ** 0.5))
            elif name.endswith("running_var") or ("bias" not in name and "mean" not in name):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
            else:
                tensor.copy_(normal(tensor, 0.2))
    return net


def tiny_model(name: str, *, seed: int = 0) -> Model:
    """Make the `Model` of one of `NETS`: images ``(n, 3, 12, 12)`` float64 in [0, 1], five labels."""
    net = build_net(name, seed=seed)
    return load_model(net, name=name, image_size=IMAGE_SIZE, mean=(0.5, 0.4, 0.6), std=(0.3, 0.25, 0.2), labels=CLASSES)


def random_images(count: int = 2, *, seed: int = 0, size: int = IMAGE_SIZE, channels: int = 3) -> Tensor:
    """Give ``(count, channels, size, size)`` float64 images, uniform in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator, dtype=torch.float64)


@pytest.fixture(params=list(NETS))
def tiny(request: pytest.FixtureRequest) -> Model:
    """Each of the tiny networks in turn, as a `Model`."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def sketches() -> Model:
    """The embedded network."""
    return load_model("sketches")


def state_of(net: nn.Module) -> dict[str, object]:
    """Write down everything about ``net`` and the global generators that a reading must not change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    state: dict[str, object] = {"rng": torch.get_rng_state().tolist(), "numpy": np.random.get_state()[1].tobytes()}  # noqa: NPY002
    for name, module in net.named_modules():
        state[f"{name} hooks"] = [tuple(getattr(module, each)) for each in hooks]
        state[f"{name} attributes"] = {key: id(value) for key, value in vars(module).items() if not key.startswith("_")}
        state[f"{name} training"] = module.training
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        grad = None if tensor.grad is None else tensor.grad.tolist()
        state[f"{name} tensor"] = (
            id(tensor),
            tensor.requires_grad,
            tensor.detach().cpu().double().numpy().tobytes(),
            grad,
        )
    return state


@contextmanager
def assert_untouched(net: nn.Module) -> Iterator[None]:
    """Check that the body leaves ``net`` (hooks, attributes, mode, parameters, gradients, buffers) and the RNGs as they
    were.

    An exception of the body is checked for too, and goes on.
    """
    before = state_of(net)
    try:
        yield
    finally:
        after = state_of(net)
        changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        assert not changed, f"changed: {sorted(changed)}"
