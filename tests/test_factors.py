"""Factors: planted parts are found, one side is never negative, the parts add up to what is said."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.wiring.factors import factor_channels, factor_space


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines(found: np.ndarray, planted: np.ndarray) -> float:
    """Give the smallest cosine between parts, matched in the best of all orders."""
    a, b = (each.reshape(len(each), -1) / np.linalg.norm(each.reshape(len(each), -1), axis=1)[:, None]
            for each in (found, planted))  # fmt: skip
    table = a @ b.T
    return max(min(table[row, column] for row, column in enumerate(order)) for order in permutations(range(len(b))))


def planted_channels(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three groups of channels that do not overlap, each with one signed kernel."""
    groups = torch.zeros(3, 12, dtype=torch.float64)
    for place, sizes in enumerate(random(3, 4, seed=seed).abs() + 0.2):
        groups[place, 4 * place : 4 * place + 4] = sizes
    space = random(3, 5, 5, seed=seed + 1)
    return groups, space, torch.einsum("ri,ryx->iyx", groups, space)


@pytest.mark.parametrize("seed", range(4))
def test_planted_groups_of_channels_are_found(seed: int) -> None:
    groups, space, kernels = planted_channels(seed)
    found = factor_channels(kernels, 3)
    assert cosines(found.channels, groups.numpy()) > 0.999
    assert cosines(found.space, space.numpy()) > 0.999
    assert found.error < 0.01


def test_planted_groups_of_places_are_found() -> None:
    places = torch.zeros(2, 4, 4, dtype=torch.float64)
    places[0, :2], places[1, 2:] = random(2, 4, seed=1).abs() + 0.2, random(2, 4, seed=2).abs() + 0.2
    channels = random(2, 9, seed=3)
    found = factor_space(torch.einsum("ri,ryx->iyx", channels, places), 2)
    assert cosines(found.space, places.numpy()) > 0.999
    assert cosines(found.channels, channels.numpy()) > 0.999
    assert found.error < 0.01


def test_several_units_share_their_groups() -> None:
    groups, _, _ = planted_channels(5)
    space = random(3, 2, 3, 3, seed=6)
    kernels = torch.einsum("ri,royx->oiyx", groups, space)
    found = factor_channels(kernels, 3)
    assert found.space.shape == (3, 2, 3, 3)
    assert found.kernels().shape == (2, 12, 3, 3)
    assert cosines(found.channels, groups.numpy()) > 0.999


@pytest.mark.parametrize("factor", [factor_channels, factor_space])
@pytest.mark.parametrize("shape", [(10, 3, 3), (4, 10, 3, 3), (7, 3, 2)])
def test_what_is_said_of_the_parts_is_true(factor: object, shape: tuple[int, ...]) -> None:
    kernels = random(*shape, seed=7)
    found = factor(kernels, min(2, shape[-1]))  # type: ignore[operator]
    signed, plain = (found.space, found.channels) if found.signed == "space" else (found.channels, found.space)
    assert plain.min() >= 0
    assert signed.min() < 0
    np.testing.assert_allclose(np.linalg.norm(plain.reshape(len(plain), -1), axis=1), 1)
    sizes = np.linalg.norm(signed.reshape(len(signed), -1), axis=1)
    assert (np.diff(sizes) <= 0).all()
    total = sum(np.multiply.outer(channels, space) for channels, space in zip(found.channels, found.space, strict=True))
    total = np.moveaxis(total, 0, -3) if len(shape) == 4 else total
    left = np.linalg.norm(kernels.numpy() - total) / np.linalg.norm(kernels.numpy())
    assert found.error == pytest.approx(left)
    again = factor(kernels, min(2, shape[-1]))  # type: ignore[operator]
    assert np.array_equal(found.channels, again.channels)


def test_a_part_that_is_not_needed_is_zero() -> None:
    kernel = random(3, 3, seed=4).abs()
    found = factor_channels(torch.stack([kernel, 2 * kernel]), 2)
    assert found.error < 1e-6
    assert not found.channels[1].any() and not found.space[1].any()
    np.testing.assert_allclose(found.channels[0], np.array([1, 2]) / 5**0.5)


def test_more_parts_leave_less_over_and_size_changes_nothing() -> None:
    kernels = random(8, 3, 3, seed=8)
    errors = [factor_channels(kernels, rank).error for rank in (1, 3, 8)]
    assert errors[0] > errors[1] > errors[2]
    tiny = factor_channels(kernels * 1e-12, 3)
    np.testing.assert_allclose(tiny.channels, factor_channels(kernels, 3).channels, atol=1e-9)
    assert tiny.error == pytest.approx(errors[1])


def test_what_cannot_be_factored_is_refused() -> None:
    kernels = random(6, 3, 3, seed=9)
    for rank in (0, 7, True, 2.0):
        with pytest.raises(ValueError, match="rank is"):
            factor_channels(kernels, rank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        factor_channels(kernels[0], 1)
    with pytest.raises(ValueError, match="all kernels are 0"):
        factor_space(torch.zeros(4, 3, 3), 1)
    kernels[2, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        factor_space(kernels, 1)
