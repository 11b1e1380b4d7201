"""Striding: the way back in phases is torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from features.models import load_model
from features.visualization.folding import folded
from features.visualization.striding import is_few, strided

SHAPES = [
    (kernel, stride, padding, size)
    for kernel in ((7, 7), (3, 3), (1, 1), (2, 5), (11, 4))
    for stride in ((2, 2), (4, 4), (2, 3), (5, 2))
    for padding in ((0, 0), (3, 3), (1, 2))
    for size in ((17, 23), (16, 16), (12, 31))
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), SHAPES, ids=str)
def test_values_and_gradients_are_those_of_torch(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int]
) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, *kernel, generator=draw, dtype=torch.float64)
    bias = torch.randn(5, generator=draw, dtype=torch.float64)
    images = torch.randn(2, 3, *size, generator=draw, dtype=torch.float64, requires_grad=True)
    wanted = F.conv2d(images, weight, bias, stride, padding)
    found = strided(images, weight, bias, stride, padding)
    arriving = torch.randn(wanted.shape, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, images, arriving)[0], torch.autograd.grad(wanted, images, arriving)[0]
    )


def test_the_gradient_has_a_gradient() -> None:
    images = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: strided(x, weight, None, 2, 1).square(), (images,))


def test_only_the_convolutions_it_is_quicker_for_are_taken() -> None:
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    few, many = torch.rand(4, 3, 3, 3), torch.rand(4, 8, 3, 3)
    assert is_few(images, few, (2, 1))
    assert is_few(images, few, ((2, 2), (1, 1), (1, 1), 1))
    assert not is_few(images, few, ())
    assert not is_few(images, few, (1, 1))
    assert not is_few(images, few, (2, "valid"))
    assert not is_few(images, few, (2, 0, 2))
    assert not is_few(images, few, (2, 0, 1, 3))
    assert not is_few(images.detach(), few, (2, 1))
    assert not is_few(torch.rand(1, 8, 8, 8, requires_grad=True), many, (2, 1))


def test_the_folded_network_gives_the_gradient_of_the_plain_one() -> None:
    """A network whose first convolution has a stride, as torchvision's have."""
    torch.manual_seed(0)  # the test's own network: its layers draw from the global generator
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)
    )
    model = load_model(net.double().eval(), image_size=21, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())
    images = torch.rand(2, 3, 21, 21, dtype=torch.float64)

    def gradient() -> torch.Tensor:
        given = images.clone().requires_grad_()
        return torch.autograd.grad(model(given).square().sum(), given)[0]

    plain = gradient()
    with folded(model, ["3"], images):
        torch.testing.assert_close(gradient(), plain)
