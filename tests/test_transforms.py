"""Transforms move pictures where they say, never show a black border, and depend on one image's generator alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from features.transforms import STANDARD, TRANSFORMS, jitter, pad, rotate, scale, transform

EACH = {
    "jitter": jitter(0.2),
    "scale": scale(0.7, 1.4),
    "rotate": rotate(-30, 30),
    "pad": pad(0.2),
    "standard": lambda images, chances: transform(images, STANDARD, chances),
}


def chances(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def picture(height: int, width: int, *, count: int = 1, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, height, width, generator=Generator().manual_seed(9), dtype=torch.float64)


def blob(height: int, width: int) -> Tensor:
    """A smooth spot, so that bilinear sampling is nearly exact."""
    y, x = np.mgrid[0:height, 0:width]
    spot = np.exp(-((y - 0.35 * height) ** 2 + (x - 0.6 * width) ** 2) / (2 * (height / 10) ** 2))
    return torch.from_numpy(spot)[None, None]


def test_every_transform_is_tried_here() -> None:
    assert set(TRANSFORMS) <= set(EACH)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_counterclockwise_and_exact(turns: int) -> None:
    square = picture(6, 6)
    turned = rotate(90 * turns, 90 * turns)(square, chances(0))
    torch.testing.assert_close(turned, torch.rot90(square, turns, (2, 3)))


def test_a_half_turn_of_a_picture_that_is_not_square_is_exact() -> None:
    wide = picture(5, 8)
    torch.testing.assert_close(rotate(180, 180)(wide, chances(0)), wide.flip((2, 3)))


def test_scale_enlarges_about_the_centre_alike_in_both_directions() -> None:
    wide = blob(60, 100)
    twice = scale(2, 2)(wide, chances(0))
    y, x = (np.arange(60) - 29.5) / 2 + 29.5, (np.arange(100) - 49.5) / 2 + 49.5
    spot = np.exp(-((y[:, None] - 21) ** 2 + (x[None, :] - 60) ** 2) / (2 * 6**2))
    np.testing.assert_allclose(twice[0, 0], spot, atol=0.02)


def test_jitter_shifts_by_whole_pixels_in_both_directions_up_to_its_share() -> None:
    base = picture(20, 40, channels=1)
    mirrored = np.pad(base[0, 0].numpy(), 5, mode="symmetric")
    shifts = [(dy, dx) for dy in range(-5, 6) for dx in range(-5, 6)]
    windows = np.stack([mirrored[5 + dy : 25 + dy, 5 + dx : 45 + dx] for dy, dx in shifts])
    seen = set()
    for moved in jitter(0.2)(base.expand(300, 1, 20, 40), chances(*range(300))).numpy():
        (found,) = np.flatnonzero(np.abs(windows - moved).max((1, 2)) < 1e-9)
        seen.add(shifts[found])
    rows, columns = ({shift[axis] for shift in seen} for axis in (0, 1))
    assert rows == columns == set(range(-4, 5))


@pytest.mark.parametrize("each", EACH.values(), ids=EACH.keys())
def test_no_pixel_of_a_grey_picture_changes(each: Callable[..., Tensor]) -> None:
    grey = torch.full((32, 3, 24, 32), 0.5)
    torch.testing.assert_close(each(grey, chances(*range(32)))[..., :24, :32], grey)


@pytest.mark.parametrize("each", EACH.values(), ids=EACH.keys())
def test_an_image_depends_on_its_own_generator_alone(each: Callable[..., Tensor]) -> None:
    images = picture(24, 24, count=3)
    together = each(images, chances(1, 2, 3))
    alone = each(images[1:2], chances(2))
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-12)


def test_images_of_a_batch_move_differently() -> None:
    same = picture(24, 24).expand(8, -1, -1, -1)
    moved = transform(same, STANDARD, chances(*range(8)))
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 8


def test_neighbours_are_one_resampling_equal_to_their_sequence() -> None:
    spot = blob(64, 48)
    moves = (jitter(0.1), scale(0.8, 1.2), rotate(-20, 20))
    for seed in range(5):
        joined = transform(spot, moves, chances(seed))
        (generator,), sequence = chances(seed), spot
        for move in moves:
            sequence = move(sequence, [generator])
        inner = (
            ...,
            slice(16, -16),
            slice(16, -16),
        )  # nearer the border, what is mirrored has been cut by the step before
        torch.testing.assert_close(joined[inner], sequence[inner], rtol=0, atol=0.03)


def test_one_resampling_blurs_less_than_three() -> None:
    noise = picture(32, 32)
    (joined,) = transform(noise, (rotate(5, 5), scale(1, 1), rotate(5, 5)), chances(0))
    twice = rotate(5, 5)(rotate(5, 5)(noise, chances(0)), chances(0))[0]
    assert joined.std() > 1.05 * twice.std()


@pytest.mark.parametrize("size", [(16, 16), (15, 22)])
def test_the_result_has_the_size_of_the_picture(size: tuple[int, int]) -> None:
    images = picture(*size)
    moves = (pad(0.3), jitter(0.1), lambda images, chances: images[..., :-3, :-2], rotate(-10, 10), pad(0.1))
    assert transform(images, moves, chances(0)).shape == images.shape


@pytest.mark.parametrize("size", [(16, 16), (15, 22)])
def test_a_border_put_around_is_cut_off_again(size: tuple[int, int]) -> None:
    images = picture(*size)
    torch.testing.assert_close(transform(images, (pad(0.25),), chances(0)), images)
    shown = transform(images, (pad(0.25, value=1.0), scale(0.5, 0.5)), chances(0))
    assert (shown[:, :, 0] == 1).all()


def test_without_transforms_the_picture_is_itself() -> None:
    images = picture(5, 5)
    assert transform(images, (), chances(0)) is images


def test_an_odd_crop_keeps_whole_pixels_whole() -> None:
    images = picture(11, 12)
    cut = transform(images[..., 1:9, 1:10], (lambda _, chances: images,), chances(0))
    torch.testing.assert_close(cut, images[..., 1:9, 1:10])


@pytest.mark.parametrize("each", [jitter(0.2), scale(0.7, 1.4), rotate(-30, 30)])
def test_gradients_flow_back_to_the_picture(each: Any) -> None:
    images = picture(12, 12).requires_grad_()
    assert (torch.autograd.grad(each(images, chances(0)).sum(), images)[0] > 0).float().mean() > 0.5


def test_a_function_is_a_transform() -> None:
    images = picture(6, 6)

    def brighter(images: Tensor, chances: Sequence[Generator]) -> Tensor:
        return images + 1

    torch.testing.assert_close(transform(images, (brighter, jitter(0), brighter), chances(0)), images + 2)


def test_no_global_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    transform(picture(24, 24), STANDARD, chances(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: jitter(1.5), r"jitter\(1.5\): give the largest shift as a share"),
        (lambda: jitter(-0.1), "share of the side"),
        (lambda: scale(1.2, 0.9), "the smaller one first"),
        (lambda: scale(0, 1), "two factors above 0"),
        (lambda: scale(0.5, float("nan")), "two factors above 0"),
        (lambda: rotate(10, -10), "the smaller one first"),
        (lambda: rotate(0, float("inf")), "two angles in degrees"),
        (lambda: pad(-1), "give the border as a share"),
        (lambda: pad(0.1, 2), "a brightness between 0 and 1"),
        (lambda: transform(picture(4, 4), STANDARD, []), "0 generators for 1 images"),
    ],
)
def test_amounts_out_of_range_are_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_transform_that_gives_no_images_is_refused() -> None:
    with pytest.raises(TypeError, match=r"gave no images: it gets and gives \(n, c, h, w\)"):
        transform(picture(4, 4), (lambda images, chances: images[0],), chances(0))
