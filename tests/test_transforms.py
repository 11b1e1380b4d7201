"""Transforms move pictures where they say, never show a black border, and depend on one image's generator alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from features.transforms import (
    PRESETS,
    STANDARD,
    TRANSFORMS,
    alike,
    crop,
    jitter,
    noise,
    pad,
    recolour,
    rotate,
    scale,
    transform,
)
from tests.reference import slow_read

MOVES = {
    "jitter": jitter(0.2),
    "scale": scale(0.7, 1.4),
    "rotate": rotate(-30, 30),
    "crop": crop(0.3, 0.8),
    "pad": pad(0.2),
    "alike": alike(jitter(0.2), rotate(-30, 30), count=1),
}
CHANGES = {"recolour": recolour(0.2, 1.5), "noise": noise(0.1), "pad": pad(0.2, "reflect")}


def sequence(*steps: Any) -> Callable[..., Tensor]:
    return lambda images, chances: transform(images, steps, chances)


SETS = {name: sequence(*steps) for name, steps in PRESETS.items()}
EACH: dict[str, Callable[..., Tensor]] = {**MOVES, **CHANGES, **SETS}
# Those that show nothing but the picture's own values.
FAITHFUL = MOVES | {name: SETS[name] for name in ("standard", "lucid", "robust")} | {"mirrored": pad(0.2, "reflect")}


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


@pytest.mark.parametrize("each", FAITHFUL.values(), ids=FAITHFUL.keys())
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


@pytest.mark.parametrize("each", EACH.values(), ids=EACH.keys())
def test_gradients_flow_back_to_the_picture(each: Any) -> None:
    images = picture(12, 12).requires_grad_()
    gradient = torch.autograd.grad(each(images, chances(0)).sum(), images)[0]
    assert (gradient != 0).float().mean() > (0.5 if "Crop" not in repr(each) and each is not SETS["maco"] else 0.05)


def test_a_function_is_a_transform() -> None:
    images = picture(6, 6)

    def brighter(images: Tensor, chances: Sequence[Generator]) -> Tensor:
        return images + 1

    torch.testing.assert_close(transform(images, (brighter, jitter(0), brighter), chances(0)), images + 2)


@pytest.mark.parametrize("each", EACH.values(), ids=EACH.keys())
def test_no_global_random_number_is_drawn(each: Callable[..., Tensor]) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    each(picture(24, 24), chances(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # noqa: NPY002


@pytest.mark.parametrize("each", EACH.values(), ids=EACH.keys())
def test_transforms_are_where_the_images_are_and_in_their_precision(each: Callable[..., Tensor]) -> None:
    assert each(torch.empty(2, 3, 24, 24, device="meta"), chances(0, 1)).device.type == "meta"
    for dtype in (torch.float32, torch.float64):
        assert each(picture(24, 24).to(dtype), chances(0)).dtype == dtype


# One resampling.


@pytest.mark.parametrize("size", [None, (9, 14), (20, 8)])
def test_a_move_reads_every_pixel_where_its_matrix_says(size: tuple[int, int] | None) -> None:
    images, move = picture(11, 14), rotate(20, 20)
    shown = transform(images, (scale(0.8, 0.8), move), chances(0), size=size)
    height, width = size or (11, 14)
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / 0.8
    shrink = np.diag([14 / width, 11 / height])
    expected = slow_read(images[0].numpy(), turn @ shrink, (height, width))
    np.testing.assert_allclose(shown[0], expected, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 8), (24, 36)])
def test_a_picture_is_shown_in_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    spot = blob(48, 72)
    for steps in ((), (pad(0.25),), (pad(0.1), jitter(0.0), scale(1, 1))):
        shown = transform(spot, steps, chances(0), size=size)
        y, x = ((np.arange(side) + 0.5) * full / side - 0.5 for side, full in zip(size, (48, 72), strict=True))
        expected = np.exp(-((y[:, None] - 0.35 * 48) ** 2 + (x[None, :] - 0.6 * 72) ** 2) / (2 * 4.8**2))
        np.testing.assert_allclose(shown[0, 0], expected, atol=0.03)


def test_every_preset_shows_a_network_the_size_it_wants() -> None:
    images = picture(40, 50)
    for steps in PRESETS.values():
        assert transform(images, steps, chances(0)).shape == (1, 3, 40, 50)
        assert transform(images, steps, chances(0), size=(24, 24)).shape == (1, 3, 24, 24)


# Crops.


def test_a_crop_is_a_window_inside_the_picture_enlarged() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    places = torch.stack([y, x])[None].expand(200, -1, -1, -1).double()
    shown = crop(0.25, 0.75)(places, chances(*range(200)))
    rows, columns = shown[:, 0], shown[:, 1]
    # Measured in the middle: half a pixel from the border, what is read is the mirror image.
    shares, widths = rows[:, 16, 0] - rows[:, 15, 0], columns[:, 0, 32] - columns[:, 0, 31]
    torch.testing.assert_close(shares, widths)  # neither stretched nor squeezed
    assert 0.25 <= shares.min() < 0.27
    assert 0.73 < shares.max() <= 0.75
    tops = (rows[:, 15, 0] + rows[:, 16, 0] + 1) / 2 - shares * 16
    lefts = (columns[:, 0, 31] + columns[:, 0, 32] + 1) / 2 - shares * 32
    for begin, share, side in ((tops, shares, 32), (lefts, shares, 64)):
        room = side * (1 - share)
        assert (begin >= -1e-9).all()
        assert (begin <= room + 1e-9).all()
        assert (begin / room).min() < 0.05
        assert (begin / room).max() > 0.95
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.25


def test_the_whole_as_a_window_is_the_picture() -> None:
    images = picture(7, 10)
    torch.testing.assert_close(crop(1, 1)(images, chances(0)), images)


def test_a_crop_joins_its_neighbours_in_one_resampling() -> None:
    spot = blob(64, 48)
    for seed in range(3):
        joined = transform(spot, (rotate(-20, 20), crop(0.5, 0.6)), chances(seed))
        (generator,) = chances(seed)
        apart = crop(0.5, 0.6)(rotate(-20, 20)(spot, [generator]), [generator])
        torch.testing.assert_close(joined, apart, rtol=0, atol=0.03)


# What leaves pixels where they are.


def test_a_border_can_be_the_mirror_image() -> None:
    images = picture(6, 9)
    expected = np.pad(images[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    np.testing.assert_array_equal(pad(1 / 3, "reflect")(images, [])[0], expected)


def test_recolouring_shifts_and_stretches_each_channel_by_its_own_numbers() -> None:
    images = picture(5, 6).expand(300, -1, -1, -1)
    changed = recolour(0.2, 2.0)(images, chances(*range(300)))
    centred = images - images.mean((2, 3), keepdim=True)
    stretch = (changed * centred).sum((2, 3)) / centred.square().sum((2, 3))
    shift = ((changed - 0.5) - stretch[:, :, None, None] * (images - 0.5)).mean((2, 3))
    rebuilt = (images - 0.5) * stretch[:, :, None, None] + 0.5 + shift[:, :, None, None]
    torch.testing.assert_close(changed, rebuilt)
    for numbers, least, most in ((stretch.log2(), -1, 1), (shift, -0.2, 0.2)):
        assert least - 1e-6 <= numbers.min() < least * 0.97
        assert most * 0.97 < numbers.max() <= most + 1e-6
        assert abs(float(numbers.mean())) < 0.06 * most
        np.testing.assert_allclose(np.corrcoef(numbers.T), np.eye(3), atol=0.2)


def test_noise_has_its_standard_deviation_and_no_pattern() -> None:
    flat = torch.full((4, 3, 40, 40), 0.5, dtype=torch.float64)
    added = noise(0.1)(flat, chances(*range(4))) - flat
    assert float(added.std()) == pytest.approx(0.1, rel=0.03)
    assert abs(float(added.mean())) < 0.003
    assert abs(np.corrcoef(added[..., :-1].flatten(), added[..., 1:].flatten())[0, 1]) < 0.03
    assert np.abs(np.corrcoef(added.flatten(1)) - np.eye(4)).max() < 0.06


# The same for several.


@pytest.mark.parametrize("count", [None, 2])
def test_pictures_that_are_treated_alike_share_one_draw_of_everything(count: int | None) -> None:
    images = picture(16, 16).expand(4, -1, -1, -1)
    same = alike(pad(0.1), jitter(0.2), recolour(0.2, 2.0), rotate(-30, 30), noise(0.1), count=count)
    first, second, third, fourth = same(images, chances(1, 2, 3, 4))
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert torch.equal(first, third) == (count is None)


def test_what_a_group_meets_depends_on_its_first_generator_alone_and_is_new_each_time() -> None:
    images, same = picture(16, 16).expand(2, -1, -1, -1), alike(jitter(0.2), rotate(-30, 30), count=2)
    generators = chances(1, 2)
    once, again = same(images, generators), same(images, generators)
    assert torch.equal(once, same(images, chances(1, 9)))
    assert not torch.equal(once, again)
    # Several views of one picture come with its generator several times.
    repeated = chances(1, 2)
    views = same(images.repeat(2, 1, 1, 1), repeated * 2)
    torch.testing.assert_close(views, torch.cat([once, again]))


def test_groups_that_are_not_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="3 pictures are no groups of 2"):
        alike(jitter(0.1), count=2)(picture(8, 8, count=3), chances(0, 1, 2))


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
        (lambda: pad(0.1, "mirror"), 'or "reflect"'),
        (lambda: pad(1.0, "reflect"), "a mirror image is less than the picture"),
        (lambda: crop(0, 0.5), "two shares of the side"),
        (lambda: crop(0.6, 0.5), "two shares of the side"),
        (lambda: crop(0.5, 1.1), "two shares of the side"),
        (lambda: recolour(-0.1), "the largest shift of a brightness"),
        (lambda: recolour(0.1, 0.5), "the largest stretch, at least 1"),
        (lambda: noise(-1), "a standard deviation of at least 0"),
        (alike, "give at least one transform"),
        (lambda: alike(jitter(0.1), count=0), "a whole number of at least 1"),
        (lambda: transform(picture(4, 4), STANDARD, []), "0 generators for 1 images"),
    ],
)
def test_amounts_out_of_range_are_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_transform_that_gives_no_images_is_refused() -> None:
    with pytest.raises(TypeError, match=r"gave no images: it gets and gives \(n, c, h, w\)"):
        transform(picture(4, 4), (lambda images, chances: images[0],), chances(0))
