"""The drawn world: it is what its factors say, and it is the same every time."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from features.sketches import HELD_OUT_SEED, LABELS, Sketches
from features.sketches.backgrounds import BACKGROUNDS, TEXTURES
from features.sketches.pens import FACTOR, Pen, Pose, Tone, oklch, painted
from features.sketches.world import KINDS, STYLES

ROUND = 6 * len(LABELS)


@pytest.fixture(scope="module")
def sketches() -> Sketches:
    return Sketches(ROUND, seed=11)


def first(sketches: Sketches, name: str) -> int:
    return next(i for i in range(len(sketches)) if LABELS[sketches.label(i)] == name)


def assert_same(one: tuple[torch.Tensor, int], other: tuple[torch.Tensor, int]) -> None:
    assert one[1] == other[1]
    assert torch.equal(one[0], other[0])


def test_a_picture_depends_on_seed_and_index_alone(sketches: Sketches) -> None:
    wanted = [150, 3, 77, 3, 40]
    alone = {i: Sketches(i + 1, seed=11)[i] for i in wanted}
    for i in wanted:
        assert_same(sketches[i], alone[i])
        assert sketches.factors(i) == Sketches(1000, seed=11).factors(i)


def test_another_seed_gives_other_pictures() -> None:
    pairs = zip(Sketches(20, seed=0), Sketches(20, seed=HELD_OUT_SEED), strict=True)
    assert not any(torch.equal(one[0], other[0]) for one, other in pairs)


def test_no_two_pictures_are_the_same(sketches: Sketches) -> None:
    images, _ = sketches.arrays(progress=False)
    assert len({image.tobytes() for image in images}) == len(sketches)


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state(), repr(np.random.get_state(legacy=False)), random.getstate()  # noqa: NPY002
    Sketches(10).arrays(progress=False)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == repr(np.random.get_state(legacy=False))  # noqa: NPY002
    assert before[2] == random.getstate()


def test_pictures_are_floats_in_the_unit_interval(sketches: Sketches) -> None:
    image, label = sketches[5]
    assert image.dtype == torch.float32 and image.shape == (3, 64, 64) and isinstance(label, int)
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_arrays_are_the_pictures(sketches: Sketches) -> None:
    images, labels = Sketches(7, seed=11).arrays(progress=False)
    for i in range(7):
        image, label = sketches[i]
        assert np.array_equal((image.numpy().transpose(1, 2, 0) * 255).round(), images[i])
        assert label == labels[i]


def test_each_run_of_indices_holds_every_class_once(sketches: Sketches) -> None:
    n = len(LABELS)
    runs = [[sketches.label(i) for i in range(k * n, (k + 1) * n)] for k in range(6)]
    assert all(sorted(run) == list(range(n)) for run in runs)
    assert len({tuple(run) for run in runs}) == 6


def test_there_are_classes_enough_and_parts_are_shared(sketches: Sketches) -> None:
    assert len(LABELS) == len(set(LABELS)) == len(KINDS) >= 26
    shared: dict[str, set[str]] = {}
    for i in range(ROUND):
        factors = sketches.factors(i)
        for part in factors.parts:
            shared.setdefault(part.name, set()).add(factors.name)
    assert shared["wheel"] == {"car", "bus", "bicycle"}
    assert shared["window"] >= {"car", "bus", "house", "boat"}
    assert shared["eye"] >= {"dog", "cat", "face", "fish", "bird"}


def test_factors_cover_their_tables(sketches: Sketches) -> None:
    every = [sketches.factors(i) for i in range(ROUND)]
    assert {f.background for f in every} == set(BACKGROUNDS)
    assert {f.texture for f in every} == set(TEXTURES)
    assert {f.style for f in every} == set(STYLES)
    assert {f.lighting for f in every} == {"even", "side", "centre"}
    assert {f.pose for f in every} == {"left", "right", "front", None}
    assert {f.occluded for f in every} == {f.grey for f in every} == {True, False}


def test_boxes_lie_in_the_picture_and_the_whole_holds_its_parts(sketches: Sketches) -> None:
    for i in range(ROUND):
        factors = sketches.factors(i)
        assert factors.parts
        for part in factors.parts:
            y0, x0, y1, x1 = part.box
            assert 0 <= factors.box[0] <= y0 < y1 <= factors.box[2] <= 64
            assert 0 <= factors.box[1] <= x0 < x1 <= factors.box[3] <= 64


@pytest.mark.parametrize("name", LABELS)
def test_leaving_a_part_out_changes_its_box_and_nothing_else(sketches: Sketches, name: str) -> None:
    i = first(sketches, name)
    image, factors = sketches[i][0], sketches.factors(i)
    seen = 0
    for part in sorted({part.name for part in factors.parts}):
        changed = (sketches.without(i, [part]) != image).any(0)
        inside = torch.zeros(64, 64, dtype=torch.bool)
        for y0, x0, y1, x1 in (p.box for p in factors.parts if p.name == part):
            inside[y0:y1, x0:x1] = True
        assert not bool((changed & ~inside).any()), f"{part} of {name} leaks out of its box"
        seen += bool(changed.any())
    assert seen


def test_boxes_are_tight() -> None:
    ground = Tone(0.9, 0.0, 0.0)
    palette = painted(np.random.default_rng(0), ground, None, 1.0)
    pen = Pen(64, Pose((32, 30), 10), palette)
    with pen.part("square"):
        pen.fill([(-1, -1), (-1, 1), (1, 1), (1, -1)], palette.main)
    ((_, (y0, x0, y1, x1)),) = pen.parts
    cover = pen.layer()[1][..., 0]
    rows, columns = np.nonzero(cover.any(1))[0], np.nonzero(cover.any(0))[0]
    assert 0 <= rows[0] - y0 <= 1 and 0 <= y1 - 1 - rows[-1] <= 1
    assert 0 <= columns[0] - x0 <= 1 and 0 <= x1 - 1 - columns[-1] <= 1
    assert cover[32, 30] == 1 and abs(cover.sum() - 400) < 400 * 2 / FACTOR / 10


def test_everything_left_out_is_the_ground(sketches: Sketches) -> None:
    i = first(sketches, "house")
    names = {part.name for part in sketches.factors(i).parts}
    y, x = (round(v) for v in sketches.factors(i).position)
    assert not torch.equal(sketches.without(i, names)[:, y, x], sketches[i][0][:, y, x])


def test_mirrored_poses_point_the_other_way() -> None:
    sketches = Sketches(20 * len(LABELS), seed=4)
    for i in (i for i in range(len(sketches)) if LABELS[sketches.label(i)] in ("dog", "fish")):
        factors = sketches.factors(i)
        eye = next(part.box for part in factors.parts if part.name == "eye")
        beside = (eye[1] + eye[3]) / 2 - factors.position[1]
        assert (beside > 0) == (factors.pose == "right")


def test_orientation_is_the_direction_of_a_line() -> None:
    sketches = Sketches(12 * len(LABELS), seed=5)
    checked = 0
    for i in (i for i in range(len(sketches)) if LABELS[sketches.label(i)] == "line"):
        factors = sketches.factors(i)
        assert factors.orientation is not None
        changed = (sketches.without(i, ["line"]) != sketches[i][0]).any(0)
        if factors.occluded or len(factors.parts) > 1:
            continue
        y, x = np.nonzero(changed.numpy())
        spread = np.cov(np.stack([x, -y]))
        axis = np.linalg.eigh(spread)[1][:, 1]
        apart = (np.degrees(np.arctan2(axis[1], axis[0])) - factors.orientation + 90) % 180 - 90
        assert abs(apart) < 12, (i, apart)
        checked += 1
    assert checked >= 3


def test_a_pixel_template_fails() -> None:
    images, labels = Sketches(40 * len(LABELS), seed=1).arrays(progress=False)
    held, truth = Sketches(10 * len(LABELS), seed=HELD_OUT_SEED).arrays(progress=False)
    small, held_small = (a[:, ::2, ::2].reshape(len(a), -1).astype(np.float32) / 255 for a in (images, held))
    means = np.stack([small[labels == k].mean(0) for k in range(len(LABELS))])
    nearest = (-2 * held_small @ means.T + (means**2).sum(1)).argmin(1)
    assert (nearest == truth).mean() < 0.3


def test_other_sizes_show_the_same_scene() -> None:
    small, large = Sketches(12, seed=3), Sketches(12, seed=3, size=128)
    for i in range(12):
        one, other = small.factors(i), large.factors(i)
        assert (one.name, one.pose, one.style) == (other.name, other.pose, other.style)
        assert other.position == pytest.approx([2 * v for v in one.position])
        assert large[i][0].shape == (3, 128, 128)


def test_colours_are_known_ones() -> None:
    assert oklch(0.0, 0.0, 0.0) == (0, 0, 0)
    assert oklch(0.6280, 0.2577, 29.23) == (255, 0, 0)  # sRGB red in OKLCH, from Ottosson's table


def test_iterating_stops_at_the_end() -> None:
    assert len(list(Sketches(3))) == 3
    assert_same(Sketches(3)[-1], Sketches(3)[2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"count": -1}, "count is -1"),
        ({"seed": -2}, "seed is -2"),
        ({"size": 16}, "from 32 to 512"),
        ({"size": 4096}, "from 32 to 512"),
    ],
)
def test_refusals(arguments: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Sketches(**arguments)


def test_an_index_out_of_range_is_refused() -> None:
    for index in (3, -4):
        with pytest.raises(IndexError, match="there are 3"):
            Sketches(3)[index]


def test_an_unknown_part_is_refused(sketches: Sketches) -> None:
    i = first(sketches, "car")
    with pytest.raises(ValueError, match=r"some of .*wheel"):
        sketches.without(i, ["propeller"])
    with pytest.raises(ValueError, match="give a list"):
        sketches.without(i, "wheel")
