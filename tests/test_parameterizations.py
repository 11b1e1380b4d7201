"""Pictures lie in [0, 1], have the spectrum and colours asked for, and start from their own random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from features.parameterizations import (
    COLOURS,
    PARAMETERIZATIONS,
    correlate,
    decorrelate,
    fourier,
    pixels,
)


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def logits_of(picture: Tensor) -> Tensor:
    return torch.logit(picture.double())


@pytest.mark.parametrize("make", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
def test_pictures_have_their_size_lie_between_0_and_1_and_can_be_moved(
    make: Callable[..., Any], channels: int, size: tuple[int, int]
) -> None:
    image = make(size).sized(channels, (64, 64))
    parameters = tuple(each.requires_grad_() for each in image.start(generators(0, 1)))
    picture = image.picture(parameters)
    assert picture.shape == (2, channels, *size)
    assert ((picture > 0) & (picture < 1)).all()
    gradients = torch.autograd.grad(picture.square().sum(), parameters)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("make", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())
def test_the_start_of_an_image_is_its_generators_alone(make: Callable[..., Any]) -> None:
    image = make((8, 6)).sized(3, (64, 64))
    (alone,), (batch,) = image.start(generators(5)), image.start(generators(3, 5, 7))
    assert torch.equal(alone[0], batch[1])
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("make", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())
def test_images_of_a_batch_do_not_meet(make: Callable[..., Any]) -> None:
    image = make(8).sized(3, (64, 64))
    parameters = tuple(each.requires_grad_() for each in image.start(generators(0, 1)))
    gradients = torch.autograd.grad(image.picture(parameters)[0].sum(), parameters)
    assert all(gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0 for gradient in gradients)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_the_amplitude_of_a_fourier_picture_falls_as_a_power_of_frequency(decay: float) -> None:
    size = 64
    image = fourier(size, decay=decay, sd=0.01).sized(1, (64, 64))
    picture = logits_of(image.picture(image.start(generators(*range(60)))))[:, 0]
    amplitude = torch.fft.fft2(picture).abs().square().mean(0).sqrt().numpy()
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    band = (frequency > 2 / size) & (frequency < 0.5)
    slope = np.polyfit(np.log(frequency[band]), np.log(amplitude[band]), 1)[0]
    assert slope == pytest.approx(-decay, abs=0.1)


def test_one_fourier_coefficient_is_one_wave() -> None:
    image = fourier((16, 24)).sized(1, (64, 64))
    spectrum = torch.zeros(1, 1, 16, 13, 2, dtype=torch.float64)
    spectrum[0, 0, 3, 2, 0] = 0.1
    wave = logits_of(image.picture((spectrum,)))[0, 0]
    y, x = np.mgrid[0:16, 0:24]
    expected = np.cos(2 * np.pi * (3 * y / 16 + 2 * x / 24))
    np.testing.assert_allclose(wave / wave.max(), expected, atol=1e-6)


def test_the_start_has_the_standard_deviation_that_was_asked_for() -> None:
    image = pixels(64, sd=0.3).sized(1, (64, 64))
    (start,) = image.start(generators(0))
    assert float(start.std()) == pytest.approx(0.3, rel=0.05)
    flat = pixels(8, sd=0).sized(3, (64, 64))
    assert torch.equal(flat.picture(flat.start(generators(0))), torch.full((1, 3, 8, 8), 0.5))


def test_colours_are_those_of_imagenet_as_lucid_has_them() -> None:
    square_root = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    np.testing.assert_allclose(COLOURS, square_root / np.linalg.norm(square_root, axis=0).max(), atol=1e-5)


def test_colours_come_back() -> None:
    values = torch.randn(2, 3, 4, 5, generator=Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(decorrelate(correlate(values)), values)
    torch.testing.assert_close(correlate(decorrelate(values)), values)


def test_independent_values_become_colours_with_the_covariance_of_the_matrix() -> None:
    values = torch.randn(1, 3, 300, 300, generator=Generator().manual_seed(0), dtype=torch.float64)
    covariance = np.cov(correlate(values)[0].flatten(1).numpy())
    np.testing.assert_allclose(covariance, COLOURS @ COLOURS.T, atol=0.01)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels_are_left_alone(channels: int) -> None:
    values = torch.randn(2, channels, 4, 5, generator=Generator().manual_seed(0))
    assert torch.equal(correlate(values), values)
    assert torch.equal(decorrelate(values), values)


def test_the_size_that_was_asked_for_wins_over_the_models() -> None:
    assert fourier((5, 7)).sized(3, (64, 64)).size == (5, 7)
    assert fourier().sized(3, (64, 32)).size == (64, 32)
    assert pixels(9).sized(1, (64, 64)).size == (9, 9)


def test_a_picture_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the picture's size is not known yet"):
        fourier().start(generators(0))


@pytest.mark.parametrize("make", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())
@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), (4, 5, 6), 2.5, True])
def test_sizes_that_are_none_are_refused(make: Callable[..., Any], size: object) -> None:
    with pytest.raises(ValueError, match="give the side of the picture or"):
        make(size)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="decay is -1: give a finite number of at least 0"):
        fourier(decay=-1)
    with pytest.raises(ValueError, match="sd is nan"):
        pixels(sd=float("nan"))
