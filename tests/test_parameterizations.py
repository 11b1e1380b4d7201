"""Pictures lie in [0, 1], are what the formulas say, start from their own random numbers, and keep what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from features.models import Model
from features.parameterizations import (
    COLOURS,
    PARAMETERIZATIONS,
    WRAPPERS,
    Constrained,
    Grouped,
    Invertible,
    Seen,
    correlate,
    cppn,
    decorrelate,
    fit_colours,
    fit_spectrum,
    fourier,
    maco,
    masked,
    pixels,
    pyramid,
    raw_pixels,
    shared,
    starting_from,
    transparent,
    within_l2,
    within_linf,
)
from features.parameterizations.spectra import periodic
from features.visualization import visualize
from tests.conftest import random_images
from tests.reference import composited, slow_cppn, slow_enlarged, wave_sum

MATRIX = np.array([[1.0, 0.2, 0.0], [0.1, 0.8, -0.3], [0.0, 0.4, 0.5]])
INVERTIBLE = {"fourier": fourier, "pixels": pixels, "raw-pixels": raw_pixels, "pyramid": pyramid}


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def logits_of(picture: Tensor) -> Tensor:
    return torch.logit(picture.double())


def photograph(height: int, width: int, *, seed: int = 0, channels: int = 3) -> Tensor:
    """A smooth picture in whole 255ths, with some values that are 0 or 1."""
    rough = torch.rand(1, channels, height // 3 + 1, width // 3 + 1, generator=Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bicubic")[0]
    return ((smooth * 1.2 - 0.1).clamp(0, 1) * 255).round() / 255


def wrapped(name: str, height: int = 12, width: int = 15) -> Any:
    """One of `WRAPPERS` around pictures of that size."""
    given = photograph(height, width)
    mask = torch.zeros(height, width)
    mask[2:7, 3:9] = 1
    makers = {
        "shared": lambda: shared(fourier((height, width)), count=2),
        "transparent": lambda: transparent(fourier((height, width))),
        "starting-from": lambda: starting_from(given),
        "masked": lambda: masked(fourier(), mask, given),
        "within-l2": lambda: within_l2(fourier(), given, 1.0),
        "within-linf": lambda: within_linf(fourier(), given, 0.1),
    }
    return makers[name]().sized(3, (64, 64))


def made(name: str, height: int = 12, width: int = 15) -> Any:
    """Any of `PARAMETERIZATIONS` and `WRAPPERS`, for pictures of that size."""
    if name in WRAPPERS:
        return wrapped(name, height, width)
    return PARAMETERIZATIONS[name]((height, width)).sized(3, (64, 64))


EVERY = [*PARAMETERIZATIONS, *WRAPPERS]
every = pytest.mark.parametrize("name", EVERY)
simple = pytest.mark.parametrize("make", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())


def moved(parameters: tuple[Tensor, ...], *, by: float = 0.1, seed: int = 5) -> tuple[Tensor, ...]:
    """Add noise, so that no number is at a place of its own, such as the zeros a network ends in."""
    chance = Generator().manual_seed(seed)
    noise = [torch.randn(each.shape, generator=chance, dtype=torch.float64).to(each) for each in parameters]
    return tuple((each + by * more).requires_grad_() for each, more in zip(parameters, noise, strict=True))


def climbed(image: Any, *, steps: int = 8, rate: float = 0.5, count: int = 2, dtype: Any = torch.float64) -> Any:
    """Give the numbers after some steps towards a striped picture, constrained after each as the engine does."""
    parameters = image.start(generators(*range(count)), dtype=dtype)
    for _ in range(steps):
        parameters = tuple(each.detach().requires_grad_() for each in parameters)
        picture = image.picture(parameters)
        stripes = (torch.arange(picture.shape[-1]) % 2).to(picture)
        gradients = torch.autograd.grad((picture * (2 * stripes - 1)).sum(), parameters)
        scales = [gradient.flatten(1).std(1).clamp(min=1e-12) for gradient in gradients]
        parameters = tuple(
            each.detach() + rate * gradient / scale.reshape(-1, *[1] * (gradient.ndim - 1))
            for each, gradient, scale in zip(parameters, gradients, scales, strict=True)
        )
        if isinstance(image, Constrained):
            with torch.no_grad():
                image.constrained(parameters)
    return parameters


# All of them.


@simple
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
def test_pictures_have_their_size_lie_between_0_and_1_and_can_be_moved(
    make: Callable[..., Any], channels: int, size: tuple[int, int]
) -> None:
    image = make(size).sized(channels, (64, 64))
    parameters = moved(image.start(generators(0, 1)))
    picture = image.picture(parameters)
    assert picture.shape == (2, channels, *size)
    assert ((picture >= 0) & (picture <= 1)).all()
    gradients = torch.autograd.grad(picture.square().sum(), parameters)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@every
def test_the_start_of_an_image_is_its_generators_alone(name: str) -> None:
    image = made(name)
    alone, batch = image.start(generators(5, 6)), image.start(generators(1, 2, 5, 6, 7, 8))
    assert all(torch.equal(one, many[2:4]) for one, many in zip(alone, batch, strict=True))
    starts_the_same = isinstance(image, type(starting_from(photograph(3, 3))))
    assert starts_the_same or any(not torch.equal(each[0], each[2]) for each in batch)


@every
def test_every_number_has_one_entry_for_each_picture_and_takes_the_asked_precision(name: str) -> None:
    image = made(name)
    for dtype in (torch.float32, torch.float64):
        parameters = image.start(generators(0, 1, 2, 3), dtype=dtype)
        assert all(len(each) == 4 and each.dtype == dtype for each in parameters)
        assert image.picture(parameters).dtype == dtype


@every
def test_pictures_of_a_batch_do_not_meet_outside_their_group(name: str) -> None:
    image = made(name)
    group = image.count if isinstance(image, Grouped) else 1
    parameters = moved(image.start(generators(0, 1, 2, 3)))
    gradients = torch.autograd.grad(image.picture(parameters)[0].square().sum(), parameters)
    assert all(gradient[0].abs().sum() > 0 and gradient[group:].abs().sum() == 0 for gradient in gradients)


@every
def test_starting_draws_no_global_random_number(name: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    image = made(name)
    picture = image.picture(image.start(generators(0, 1)))
    if isinstance(image, Seen):
        image.seen(picture, generators(0, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # noqa: NPY002


@every
def test_pictures_are_where_the_numbers_are(name: str) -> None:
    image = made(name)
    parameters = image.start(generators(0, 1), device="meta")
    assert all(each.device.type == "meta" for each in parameters)
    assert image.picture(parameters).device.type == "meta"


@every
def test_what_is_kept_from_inference_can_be_part_of_a_gradient(name: str) -> None:
    image = made(name, 17, 19)  # a size that no other test has kept anything for
    with torch.inference_mode():
        picture = image.picture(image.start(generators(0, 1), dtype=torch.float64))
    parameters = tuple(each.requires_grad_() for each in image.start(generators(0, 1), dtype=torch.float64))
    again = image.picture(parameters)
    assert torch.equal(again.detach(), picture)
    torch.autograd.grad(again.sum(), parameters, allow_unused=True)


def test_colours_that_are_kept_from_inference_can_be_part_of_a_gradient() -> None:
    image = pixels(4, colours=1.0625 * MATRIX).sized(3, (64, 64))  # a matrix that no other test has kept
    with torch.inference_mode():
        image.picture(image.start(generators(0)))
    parameters = moved(image.start(generators(0)))
    assert torch.autograd.grad(image.picture(parameters).sum(), parameters)[0].abs().sum() > 0


@simple
def test_the_size_that_was_asked_for_wins_over_the_models(make: Callable[..., Any]) -> None:
    assert make((5, 7)).sized(3, (64, 64)).size == (5, 7)
    assert make().sized(3, (64, 32)).size == (64, 32)
    assert make(9).sized(1, (64, 64)).size == (9, 9)


@simple
def test_a_picture_without_a_size_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="the picture's size is not known yet"):
        make().start(generators(0))


@simple
@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), (4, 5, 6), 2.5, True])
def test_sizes_that_are_none_are_refused(make: Callable[..., Any], size: object) -> None:
    with pytest.raises(ValueError, match="give the side of the picture or"):
        make(size)


@pytest.mark.parametrize("make", [fourier, pixels, pyramid, cppn, maco])
def test_colours_that_are_given_mix_the_values_of_every_parameterization(make: Callable[..., Any]) -> None:
    plain, other = (make(9, colours=each).sized(3, (64, 64)) for each in (np.eye(3), MATRIX))
    parameters = moved(plain.start(generators(0), dtype=torch.float64))
    values, found = (logits_of(image.picture(parameters).detach())[0] for image in (plain, other))
    np.testing.assert_allclose(found, np.einsum("oc,chw->ohw", MATRIX, values), atol=1e-9)


@pytest.mark.parametrize("make", [fourier, pixels, pyramid, cppn, maco])
def test_colours_for_another_number_of_channels_are_refused(make: Callable[..., Any]) -> None:
    image = make(9, colours=MATRIX).sized(4, (64, 64))
    with pytest.raises(ValueError, match="a matrix for 3 channels, and the picture has 4"):
        image.picture(image.start(generators(0)))
    with pytest.raises(ValueError, match=r"colours have shape \(2, 3\)"):
        make(colours=np.ones((2, 3)))
    with pytest.raises(ValueError, match="the matrix of the colours is singular"):
        make(colours=np.ones((3, 3)))


@every
def test_a_parameterization_says_itself_in_one_line(name: str) -> None:
    assert len(repr(made(name))) < 600
    assert repr(made(name)) == repr(made(name))


# Fourier.


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 1)])
def test_a_fourier_picture_is_the_sum_of_its_waves(size: tuple[int, int]) -> None:
    height, width = size
    image = fourier(size, decay=0.9).sized(2, (64, 64))
    spectrum = torch.randn(1, 2, height, width // 2 + 1, 2, generator=Generator().manual_seed(0), dtype=torch.float64)
    found = logits_of(image.picture((spectrum,)))[0]
    for channel in range(2):
        expected = wave_sum(spectrum[0, channel].numpy(), width, decay=0.9)
        np.testing.assert_allclose(found[channel], expected, atol=1e-9)


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


# Grids.


def test_the_start_has_the_standard_deviation_that_was_asked_for() -> None:
    image = pixels(64, sd=0.3).sized(1, (64, 64))
    (start,) = image.start(generators(0))
    assert float(start.std()) == pytest.approx(0.3, rel=0.05)
    flat = pixels(8, sd=0).sized(3, (64, 64))
    assert torch.equal(flat.picture(flat.start(generators(0))), torch.full((1, 3, 8, 8), 0.5))


def test_raw_pixels_start_from_uniform_noise_about_grey() -> None:
    image = raw_pixels(64, spread=0.2).sized(3, (64, 64))
    picture = image.picture(image.start(generators(0)))
    assert 0.3 <= float(picture.min()) < 0.31
    assert 0.69 < float(picture.max()) <= 0.7
    assert float(picture.std()) == pytest.approx(0.4 / 12**0.5, rel=0.02)
    correlation = np.corrcoef(picture[0].flatten(1).numpy())
    np.testing.assert_allclose(correlation, np.eye(3), atol=0.05)


def test_raw_pixels_are_their_numbers_held_in_0_to_1_and_come_back_from_an_end() -> None:
    image = raw_pixels(2).sized(1, (64, 64))
    numbers = torch.tensor([-0.5, 0.25, 1.0, 1.5]).reshape(1, 1, 2, 2).requires_grad_()
    picture = image.picture((numbers,))
    assert picture.flatten().tolist() == [0.0, 0.25, 1.0, 1.0]
    assert torch.autograd.grad(picture.sum(), numbers)[0].flatten().tolist() == [1.0] * 4
    with torch.no_grad():
        image.constrained((numbers,))
    assert numbers.flatten().tolist() == [0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_a_pyramid_is_the_sum_of_its_levels_each_enlarged_to_the_next(size: tuple[int, int]) -> None:
    image = pyramid(size, levels=3).sized(1, (64, 64))
    levels = moved(image.start(generators(0), dtype=torch.float64))
    fine, middle, coarse = (each[0, 0].detach().numpy() for each in levels)
    middle = middle + slow_enlarged(coarse, middle.shape)
    expected = fine + slow_enlarged(middle, size)
    np.testing.assert_allclose(logits_of(image.picture(levels).detach())[0, 0], expected, atol=1e-9)


def test_each_level_of_a_pyramid_has_half_the_side_of_the_one_before() -> None:
    image = pyramid((20, 13), levels=4).sized(2, (64, 64))
    sides = [tuple(each.shape[2:]) for each in image.start(generators(0))]
    assert sides == [(20, 13), (10, 7), (5, 4), (3, 2)]


# Networks of coordinates.


def test_a_cppn_is_a_network_from_a_place_to_a_colour() -> None:
    image = cppn((4, 7), width=5, depth=3, colours=np.eye(3), gain=0.5).sized(3, (64, 64))
    parameters = moved(image.start(generators(0, 1), dtype=torch.float64))
    pictures = logits_of(image.picture(parameters).detach())
    for index in range(2):
        weights = [0.5 * each[index].detach().numpy() for each in parameters]
        np.testing.assert_allclose(pictures[index], slow_cppn(weights, (4, 7)), atol=1e-9)


def test_a_cppn_is_the_same_picture_at_every_resolution() -> None:
    parameters = moved(cppn(8).sized(3, (64, 64)).start(generators(0), dtype=torch.float64))
    small, large = (cppn(side).sized(3, (64, 64)).picture(parameters).detach() for side in (64, 192))
    torch.testing.assert_close(large[..., 1::3, 1::3], small)


# Fixed magnitudes.


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (10, 7), (9, 5)])
@pytest.mark.parametrize("fitted", [False, True])
def test_no_step_changes_a_magnitude_of_maco(size: tuple[int, int], fitted: bool) -> None:
    images = 0.1 + 0.8 * random_images(3, size=max(size))[:, :, : size[0], : size[1]]
    image = maco(size, spectrum=fit_spectrum(images) if fitted else None).sized(3, (64, 64))
    start = image.start(generators(0, 1), dtype=torch.float64)
    after = climbed(image)
    assert (after[0] - start[0]).abs().max() > 0.5
    before, then = (
        np.abs(np.fft.fft2(decorrelate(logits_of(image.picture(each)))).reshape(2, 3, -1)) for each in (start, after)
    )
    np.testing.assert_allclose(then, before, atol=1e-6)
    np.testing.assert_allclose(then[0], then[1], atol=1e-6)
    if fitted:
        spectra = np.fft.fft2(periodic(decorrelate(logits_of(images))).numpy())
        real = np.abs(spectra.imag).max((0, 1)) < 1e-9
        expected = np.where(real, np.abs(spectra.real.mean(0)), np.abs(spectra).mean(0))
        np.testing.assert_allclose(then[0], expected.reshape(3, -1), atol=1e-6)


def test_without_a_spectrum_magnitudes_fall_as_those_of_photographs() -> None:
    image = maco(64).sized(3, (64, 64))
    values = decorrelate(logits_of(image.picture(image.start(generators(0), dtype=torch.float64))))
    amplitude = torch.fft.fft2(values)[0].abs().numpy()
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None, :])
    band = frequency > 0
    for channel in amplitude:
        assert np.polyfit(np.log(frequency[band]), np.log(channel[band]), 1)[0] == pytest.approx(-1, abs=1e-6)
    np.testing.assert_allclose(values.std((2, 3), correction=0), 4 * 0.46195, rtol=1e-9)


def test_a_spectrum_is_that_of_decorrelated_colours() -> None:
    images = 0.1 + 0.8 * random_images(5, size=8)
    colours = fit_colours(images)
    image = maco(spectrum=fit_spectrum(images[:1], colours=colours), colours=colours)
    again = starting_from(images[0], image).sized(3, (64, 64))
    picture = again.picture(again.start(generators(0), dtype=torch.float64))
    expected = periodic(decorrelate(logits_of(images[:1]), colours))
    torch.testing.assert_close(decorrelate(logits_of(picture), colours), expected)


@pytest.mark.parametrize("size", [(5, 8), (4, 4), (1, 6), (2, 3)])
def test_a_periodic_picture_has_the_differences_of_the_picture_and_no_jump(size: tuple[int, int]) -> None:
    values = torch.randn(2, *size, generator=Generator().manual_seed(0), dtype=torch.float64)
    found = periodic(values)
    np.testing.assert_allclose(found.mean((1, 2)), values.mean((1, 2)))
    for before, after in zip(values.numpy(), found.numpy(), strict=True):
        for y, x in np.ndindex(*size):
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [before[at] - before[y, x] for at in near if 0 <= at[0] < size[0] and 0 <= at[1] < size[1]]
            cyclic = [after[row % size[0], column % size[1]] - after[y, x] for row, column in near]
            assert sum(cyclic) == pytest.approx(sum(inside), abs=1e-9)


def test_a_spectrum_of_another_size_is_refused() -> None:
    image = maco(spectrum=fit_spectrum(random_images(2, size=8)))
    with pytest.raises(ValueError, match=r"shape \(3, 8, 5\), and a picture of 3 channels and 10 x 8 pixels has"):
        image.sized(3, (10, 8))
    with pytest.raises(ValueError, match=r"the spectrum has shape \(8, 5\)"):
        maco(spectrum=np.ones((8, 5)))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]: divide those of 8 bits by 255"):
        fit_spectrum(random_images(2) * 255)
    with pytest.raises(ValueError, match=r"these have shape \(3, 12, 12\)"):
        fit_spectrum(random_images(2)[0])
    with pytest.raises(ValueError, match="gain is 0"):
        maco(gain=0)


# Colours.


def test_colours_are_those_of_imagenet_as_lucid_has_them() -> None:
    square_root = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    np.testing.assert_allclose(COLOURS, square_root / np.linalg.norm(square_root, axis=0).max(), atol=1e-5)


def test_colours_come_back() -> None:
    values = torch.randn(2, 3, 4, 5, generator=Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(decorrelate(correlate(values)), values)
    torch.testing.assert_close(correlate(decorrelate(values)), values)
    torch.testing.assert_close(decorrelate(correlate(values, MATRIX), MATRIX), values)


def test_independent_values_become_colours_with_the_covariance_of_the_matrix() -> None:
    values = torch.randn(1, 3, 300, 300, generator=Generator().manual_seed(0), dtype=torch.float64)
    covariance = np.cov(correlate(values)[0].flatten(1).numpy())
    np.testing.assert_allclose(covariance, COLOURS @ COLOURS.T, atol=0.01)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels_are_left_alone(channels: int) -> None:
    values = torch.randn(2, channels, 4, 5, generator=Generator().manual_seed(0))
    assert torch.equal(correlate(values), values)
    assert torch.equal(decorrelate(values), values)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_fitted_colours_have_the_covariance_of_the_images(channels: int) -> None:
    mixing = torch.randn(channels, channels, generator=Generator().manual_seed(1), dtype=torch.float64)
    images = torch.einsum("oc,nchw->nohw", mixing, random_images(6, channels=channels)) + 0.3
    fitted = fit_colours(images)
    covariance = np.cov(images.movedim(1, 0).flatten(1).numpy(), bias=True).reshape(channels, channels)
    np.testing.assert_allclose(fitted @ fitted.T, covariance / np.linalg.eigvalsh(covariance).max(), atol=1e-9)
    np.testing.assert_allclose(np.diag(fitted.T @ fitted), np.linalg.norm(fitted, axis=0) ** 2)
    lengths = np.linalg.norm(fitted, axis=0)
    assert lengths[0] == pytest.approx(1)
    assert (np.diff(lengths) <= 1e-12).all()


def test_decorrelated_images_have_independent_colours() -> None:
    images = correlate(random_images(4, size=40) - 0.5) / 4 + 0.5
    values = decorrelate(images - 0.5, fit_colours(images))
    np.testing.assert_allclose(np.corrcoef(values.movedim(1, 0).flatten(1).numpy()), np.eye(3), atol=1e-6)


def test_colours_that_do_not_vary_are_refused_and_grey_ones_have_an_inverse() -> None:
    with pytest.raises(ValueError, match="the images are all of one colour"):
        fit_colours(torch.full((2, 3, 4, 4), 0.5))
    with pytest.raises(ValueError, match=r"these have shape \(3, 4, 4\)"):
        fit_colours(torch.rand(3, 4, 4))
    with pytest.raises(ValueError, match="not finite"):
        fit_colours(torch.full((2, 3, 4, 4), float("nan")))
    grey = random_images(2, channels=1).expand(-1, 3, -1, -1)
    fitted = fit_colours(grey)
    np.testing.assert_allclose(fitted[:, 0], 3**-0.5, atol=1e-6)
    torch.testing.assert_close(correlate(decorrelate(grey, fitted), fitted), grey)


# Shared within a group.


def test_what_is_shared_moves_every_picture_of_its_group_alike_and_no_other() -> None:
    image = shared(pixels((8, 12), colours=np.eye(3)), count=3, coarser=(4,)).sized(3, (64, 64))
    own, grid = image.start(generators(*range(6)), dtype=torch.float64)
    moved = grid.clone()
    moved[1, 0, 0, 2] += 0.9  # the second picture's part of the last of three columns
    before, after = (logits_of(image.picture((own, each))) for each in (grid, moved))
    change = after - before
    spot = np.zeros((2, 3))
    spot[0, 2] = 0.9 / 3
    for member in range(3):
        np.testing.assert_allclose(change[member, 0], slow_enlarged(spot, (8, 12)), atol=1e-9)
    assert change[:3, 1:].abs().max() < 1e-9
    assert change[3:].abs().max() == 0


def test_the_parts_of_what_is_shared_get_the_same_gradient() -> None:
    image = shared(fourier(8), count=2).sized(3, (64, 64))
    parameters = moved(image.start(generators(0, 1, 2, 3), dtype=torch.float64))
    gradients = torch.autograd.grad(image.picture(parameters).square().sum(), parameters)
    for gradient in gradients[1:]:
        assert torch.equal(gradient[0], gradient[1])
        assert torch.equal(gradient[2], gradient[3])
        assert not torch.equal(gradient[0], gradient[2])


def test_pictures_that_are_no_groups_are_refused() -> None:
    image = shared(fourier(8), count=3).sized(3, (64, 64))
    with pytest.raises(ValueError, match="4 pictures are no groups of 3"):
        image.start(generators(0, 1, 2, 3))
    with pytest.raises(TypeError, match="nothing can be added to RawPixels"):
        shared(raw_pixels(), count=2)
    with pytest.raises(ValueError, match="count is 0"):
        shared(count=0)
    with pytest.raises(ValueError, match="nothing is shared"):
        shared(count=2, coarser=())


# Transparency.


def test_what_is_seen_of_a_transparent_picture_is_composited_by_hand() -> None:
    image = transparent(fourier((6, 9))).sized(3, (64, 64))
    picture = image.picture(moved(image.start(generators(0, 1), dtype=torch.float64))).detach()
    np.testing.assert_allclose(image.seen(picture, None), composited(picture.numpy(), np.full((2, 3, 6, 9), 0.5)))
    # What lies behind is found by asking for a picture that is transparent everywhere.
    behind = image.seen(torch.cat([picture[:, :3], torch.zeros(2, 1, 6, 9)], 1), generators(3, 4))
    shown = image.seen(picture, generators(3, 4))
    np.testing.assert_allclose(shown, composited(picture.numpy(), behind.numpy()), atol=1e-12)


def test_backgrounds_are_each_pictures_own_differ_in_each_step_and_vary_as_photographs_do() -> None:
    image = transparent(fourier(32)).sized(3, (64, 64))
    clear = torch.zeros(40, 4, 32, 32)
    chances = generators(*range(40))
    first, second = image.seen(clear, chances), image.seen(clear, chances)
    assert not torch.equal(first, second)
    assert torch.equal(image.seen(clear[:1], generators(7))[0], first[7])
    assert 0.1 < float(first.std((2, 3)).mean()) < 0.35
    assert ((first > 0) & (first < 1)).all()


@pytest.mark.parametrize("opaque", [0.05, 0.3, 0.9])
def test_the_budget_of_opacity_is_kept_in_every_step(opaque: float) -> None:
    image = transparent(fourier(12), opaque=opaque).sized(3, (64, 64))
    for parameters in (image.start(generators(0, 1), dtype=torch.float64), climbed(image, steps=20)):
        alpha = image.picture(parameters)[:, 3]
        np.testing.assert_allclose(alpha.mean((1, 2)), opaque, atol=1e-6)
    assert float(alpha.max() - alpha.min()) > 0.1


def test_the_gradient_of_the_budget_is_the_slope_of_the_picture() -> None:
    image = transparent(fourier(5), opaque=0.4).sized(3, (64, 64))
    parameters = moved(image.start(generators(0), dtype=torch.float64), by=0.3)
    weights = torch.randn(1, 1, 5, 5, generator=Generator().manual_seed(2), dtype=torch.float64)

    def value(alpha: Tensor) -> Tensor:
        return (weights * image.picture((parameters[0], alpha))[:, 3:]).sum()

    assert torch.autograd.gradcheck(value, (parameters[1].detach().requires_grad_(),), eps=1e-4, atol=1e-4)


def test_transparency_of_transparency_is_refused() -> None:
    with pytest.raises(TypeError, match="says itself what is seen of it"):
        transparent(transparent())
    with pytest.raises(ValueError, match=r"opaque is 1\.0"):
        transparent(opaque=1.0)
    with pytest.raises(TypeError, match=r"give fourier\(\) or pixels\(\)"):
        transparent(alpha=cppn())


# From the user's own picture.


@pytest.mark.parametrize("make", INVERTIBLE.values(), ids=INVERTIBLE.keys())
@pytest.mark.parametrize(("size", "channels"), [((12, 12), 3), ((11, 14), 1), ((9, 8), 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_picture_is_the_users_in_8_bits(
    make: Callable[..., Any], size: tuple[int, int], channels: int, dtype: torch.dtype
) -> None:
    given = photograph(*size, channels=channels)
    assert given.min() == 0
    assert given.max() == 1
    image = starting_from(given, make()).sized(channels, (64, 64))
    picture = image.picture(image.start(generators(0, 1), dtype=dtype))
    for each in picture:
        assert torch.equal((each * 255).round().to(torch.uint8), (given * 255).round().to(torch.uint8))


def test_starts_compose() -> None:
    given, mask = photograph(12, 12), torch.zeros(12, 12)
    mask[3:6, 4:8] = 1
    for image in (
        starting_from(given, shared(fourier(), count=2)),
        starting_from(given, masked(pyramid(), mask, given)),
        masked(starting_from(given, pixels(colours=MATRIX)), mask, given),
        within_l2(starting_from(given), given, 0.5),
        within_linf(masked(starting_from(given, raw_pixels()), mask, given), given, 0.1),
        masked(within_linf(starting_from(given), given, 0.1), mask, given),
    ):
        made = image.sized(3, (64, 64))
        picture = made.picture(made.start(generators(0, 1)))
        assert torch.equal((picture * 255).round(), (given * 255).round().expand(2, -1, -1, -1))


def test_a_start_that_cannot_be_found_from_a_picture_is_refused() -> None:
    given = photograph(8, 8)
    for image in (cppn(), transparent(), shared(cppn(), count=2), masked(cppn(), torch.ones(8, 8), given)):
        with pytest.raises(TypeError, match="cannot start from a picture"):
            starting_from(given, image)
    assert not isinstance(cppn(), Invertible)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outside_the_mask_a_picture_is_the_users_to_the_last_bit_after_steps(dtype: torch.dtype) -> None:
    given = random_images(1, size=12)[0].to(dtype)
    mask = torch.zeros(12, 12)
    mask[2:5, 3:9], mask[7, 7] = 1, 0.5
    image = masked(fourier(), mask, given).sized(3, (64, 64))
    parameters = climbed(image, dtype=dtype)
    picture, free = image.picture(parameters), fourier(12).sized(3, (12, 12)).picture(parameters)
    assert torch.equal(picture[..., mask == 0], given[:, mask == 0].expand(2, -1, -1))
    assert torch.equal(picture[..., mask == 1], free[..., mask == 1])
    torch.testing.assert_close(picture[..., 7, 7], (given[:, 7, 7] + free[..., 7, 7]) / 2)


BALLS = {
    "l2": (within_l2, 0.8, lambda change: change.flatten(1).square().sum(1).sqrt()),
    "linf": (within_linf, 0.06, lambda change: change.abs().flatten(1).amax(1)),
}


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("make", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())
def test_every_picture_lies_in_the_ball_and_reaches_its_edge(ball: str, make: Callable[..., Any]) -> None:
    within, radius, length = BALLS[ball]
    given = 0.2 + 0.6 * random_images(1, size=10)[0]
    image = within(make(), given, radius).sized(3, (64, 64))
    picture = image.picture(climbed(image, steps=10))
    lengths = length(picture - given)
    assert (lengths <= radius * (1 + 1e-9)).all()
    assert (lengths > 0.999 * radius).all()


@pytest.mark.parametrize("ball", BALLS)
def test_the_numbers_too_are_put_back_on_the_ball(ball: str) -> None:
    within, radius, length = BALLS[ball]
    given = 0.2 + 0.6 * random_images(1, size=10)[0]
    image = within(starting_from(given), given, radius).sized(3, (64, 64))
    parameters = climbed(image, steps=10)
    free = fourier(10).sized(3, (10, 10)).picture(parameters)
    assert (length(free - given) <= radius * (1 + 1e-6)).all()


def test_inside_the_ball_numbers_stay_as_they_are() -> None:
    given = random_images(1, size=10)[0]
    image = within_l2(starting_from(given), given, 100.0).sized(3, (64, 64))
    before = image.start(generators(0, 1))
    after = tuple(each.clone() for each in before)
    image.constrained(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_pictures_are_tensors_with_channels_first_or_arrays_with_channels_last() -> None:
    tensor, mask = photograph(8, 10), torch.zeros(8, 10)
    mask[2:5, 3:7] = 1
    array = tensor.permute(1, 2, 0).numpy()
    for make in (
        lambda given, region: starting_from(given),
        lambda given, region: masked(fourier(), region, given),
        lambda given, region: within_l2(fourier(), given, 0.5),
        lambda given, region: within_linf(fourier(), given, 0.1),
    ):
        one, other = (make(*given).sized(3, (64, 64)) for given in ((tensor, mask), (array, mask.numpy())))
        pictures = [image.picture(image.start(generators(0, 2))) for image in (one, other)]
        assert torch.equal(*pictures)
        assert one.mark == other.mark


def test_wrappers_pass_on_what_is_seen_and_constrained() -> None:
    given = torch.cat([photograph(8, 8), torch.full((1, 8, 8), 0.3)])
    mask = torch.ones(8, 8)
    image = masked(raw_pixels(), mask, given).sized(4, (64, 64))
    numbers = torch.full((1, 4, 8, 8), 2.0)
    image.constrained((numbers,))
    assert float(numbers.max()) == 1
    assert torch.equal(image.seen(numbers, None), numbers)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: starting_from([0.5]), TypeError, "the picture is list: give a tensor"),
        (lambda: starting_from(np.zeros((8, 8, 3), np.uint8)), ValueError, "the picture is torch.uint8"),
        (lambda: starting_from(torch.rand(2, 3, 8, 8)), ValueError, r"of shape \(2, 3, 8, 8\)"),
        (lambda: starting_from(torch.zeros(3, 8, 8, dtype=torch.uint8)), ValueError, "give one of floats"),
        (lambda: starting_from(torch.full((3, 8, 8), 2.0)), ValueError, r"values out of \[0, 1\]"),
        (lambda: starting_from(torch.full((3, 8, 8), float("nan"))), ValueError, r"values out of \[0, 1\]"),
        (lambda: starting_from(torch.rand(3, 8, 8)).sized(1, (8, 8)), ValueError, "1 channels of 8 x 8 pixels"),
        (lambda: starting_from(torch.rand(3, 8, 8), fourier(9)).sized(3, (8, 8)), ValueError, "of 9 x 9 pixels"),
        (lambda: masked(fourier(), torch.ones(8, 7), torch.rand(3, 8, 8)), ValueError, r"mask has shape \(8, 7\)"),
        (lambda: masked(fourier(), torch.zeros(8, 8), torch.rand(3, 8, 8)), ValueError, "the mask is 0"),
        (lambda: masked(fourier(), torch.full((8, 8), 2.0), torch.rand(3, 8, 8)), ValueError, "values out of"),
        (lambda: within_l2(fourier(), torch.rand(3, 8, 8), 0.0), ValueError, "leaves nothing to change"),
        (lambda: within_linf(fourier(), torch.rand(3, 8, 8), -1.0), ValueError, "radius is -1.0"),
        (lambda: fourier(decay=-1), ValueError, "decay is -1: give a finite number of at least 0"),
        (lambda: pixels(sd=float("nan")), ValueError, "sd is nan"),
        (lambda: raw_pixels(spread=0.6), ValueError, "at least 0 and at most 0.5"),
        (lambda: pyramid(levels=0), ValueError, "levels is 0: give a whole number of at least 1"),
        (lambda: cppn(width=1.5), ValueError, "width is 1.5"),
        (lambda: cppn(gain=0), ValueError, "gain is 0"),
    ],
)
def test_what_is_out_of_range_is_refused(make: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        make()


# Through the engine.


@pytest.mark.parametrize("name", [name for name in EVERY if name != "shared"])
def test_a_unit_likes_its_picture_better_than_the_start(name: str, sketches: Model) -> None:
    image = made(name, 64, 64)
    start, end = (visualize(sketches, "mixed3b:1", image=image, steps=steps, progress=False) for steps in (0, 12))
    assert end.scores[0] > start.scores[0] + 1e-3


def test_a_group_is_made_together(sketches: Model) -> None:
    found = visualize(sketches, ["conv2d1:3", "mixed3a:5"], image=shared(count=2), count=2, steps=3, progress=False)
    assert len(found) == 4
