"""Families: the copies that were put in are found again, with what turns one into another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import tiny_model
from torch import Tensor, nn

from circuits.families import (
    Family,
    Transform,
    collapse,
    find_families,
    kernel_families,
    transform_between,
)
from circuits.families.grouping import group, variants
from circuits.families.nouns import wrapped
from circuits.motifs import equivariance, recoloured, warped
from features.models import Model, load_model, probe
from features.sketches import HELD_OUT_SEED, Sketches

SIZE = 11


def grid(angle: float) -> tuple[Tensor, Tensor]:
    """Coordinates (along, across) of a kernel's pixels in a frame turned counterclockwise."""
    y, x = torch.meshgrid(torch.arange(SIZE) - SIZE // 2, torch.arange(SIZE) - SIZE // 2, indexing="ij")
    turn = math.radians(angle)
    return x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)


def gabor(angle: float, *, phase: float = 90.0, wavelength: float = 6.0) -> Tensor:
    """An oriented edge (phase 90) or bar (phase 0), by formula, not by turning one: the same in three channels."""
    along, across = grid(angle)
    wave = torch.cos(2 * math.pi * along / wavelength - math.radians(phase))
    return (wave * torch.exp(-(along**2 + across**2) / 8)).double().expand(3, -1, -1)


def hook(angle: float, *, mirror: bool = False) -> Tensor:
    """A shape that no turn makes of its mirror image."""
    along, across = grid(angle)
    across = -across if mirror else across
    arm = torch.exp(-((along - 2) ** 2) / 2 - across**2 / 6) - torch.exp(
        -((along + 1) ** 2) / 2 - (across - 2.5) ** 2 / 2
    )
    return arm.double().expand(3, -1, -1)


def blob() -> Tensor:
    along, across = grid(0)
    radius = along**2 + across**2
    return (torch.exp(-radius / 6) - 0.5 * torch.exp(-radius / 12)).double().expand(3, -1, -1)


RED = torch.tensor([1.0, -0.5, -0.5], dtype=torch.float64)[:, None, None]
EDGES, BARS, HOOKS, HUES = range(6), range(6, 10), range(10, 16), range(16, 19)


def planted_kernels() -> Tensor:
    """Edges at every 60 degrees, bars at every 45, hooks turned and mirrored, coloured edges, and two without kin."""
    edges = [gabor(60.0 * step) for step in range(6)]
    bars = [gabor(45.0 * step, phase=0, wavelength=4.0) for step in range(4)]
    hooks = [hook(angle, mirror=mirror) for mirror in (False, True) for angle in (0.0, 45.0, 150.0)]
    hues = [recoloured(gabor(0, wavelength=9.0) * RED, hue) for hue in (0.0, 120.0, 240.0)]
    noise = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([*edges, *bars, *hooks, *hues, blob(), noise])


class Planted(nn.Module):
    """One convolution with the planted kernels, and ReLU."""

    def __init__(self, kernels: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, len(kernels), SIZE, padding=SIZE // 2, bias=False)
        self.relu = nn.ReLU()
        self.conv.weight.data.copy_(kernels)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).mean((2, 3))


def planted_model(kernels: Tensor) -> Model:
    with torch.random.fork_rng():
        net = Planted(kernels).eval()
    return load_model(net, name="planted", image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def clouds(count: int) -> Tensor:
    """Smooth random pictures with colours, without any direction of their own."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 3, 36, 36, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(noise, 3, 1), 3, 1)
    return (0.5 + 0.8 * smooth).clamp(0, 1)


def channels(family: Family) -> set[int]:
    return {int(unit.rpartition(":")[2]) for unit in family.units}


def assert_families(found: tuple[Family, ...], expected: list[range]) -> None:
    assert sorted(map(sorted, map(channels, found))) == sorted(map(list, expected))


def assert_transforms(found: tuple[Family, ...], kernels: Tensor, *, least: float) -> None:
    """Every member's kernel is what the transform between it and any other makes of the other's."""
    for family in found:
        for unit in family.units:
            for other in family.units:
                one, two = (kernels[int(name.rpartition(":")[2])] for name in (unit, other))
                turned = transform_between(family, unit, other)(one)
                assert torch.cosine_similarity(turned.flatten(), two.flatten(), dim=0) > least


def test_planted_families_are_recovered_from_kernels_exactly() -> None:
    kernels = planted_kernels()
    found = kernel_families(kernels, "conv", hues=(120, 240))
    assert_families(found, [EDGES, BARS, HOOKS, HUES])
    assert_transforms(found, kernels, least=0.93)
    for family in found:
        assert family.transforms[0] == Transform()
        assert family.evidence[0] == 1
        assert min(family.evidence) > 0.9
        assert family.p_value == 0.05
        assert family.method == "kernels"
    (edges,) = (family for family in found if channels(family) == set(EDGES))
    angles = {int(unit[5:]): angle for unit, angle in edges.angles.items()}
    assert all((angles[unit] - angles[0] - 60 * unit) % 360 == 0 for unit in EDGES)
    (hooks,) = (family for family in found if channels(family) == set(HOOKS))
    assert sum(transform.mirror for transform in hooks.transforms) == 3
    (hues,) = (family for family in found if channels(family) == set(HUES))
    assert {transform.hue % 360 for transform in hues.transforms} == {0, 120, 240}
    assert set(hues.angles.values()) == {0}


def test_without_mirrors_and_hues_families_fall_apart() -> None:
    found = kernel_families(planted_kernels(), "conv", mirror=False)
    assert_families(found, [EDGES, BARS, range(10, 13), range(13, 16)])


def test_planted_families_are_recovered_from_responses_exactly() -> None:
    model = planted_model(planted_kernels())
    found = find_families(model, "relu", clouds(12), least=0.85, progress=False)
    assert_families(found, [EDGES, BARS, HOOKS])
    assert_transforms(found, planted_kernels(), least=0.93)
    assert find_families(model, "relu", clouds(12), least=0.85, progress=False) == found


def test_planted_hues_are_recovered_from_responses() -> None:
    model = planted_model(planted_kernels())
    found = find_families(model, "relu", clouds(12), step=60, mirror=False, hues=(120, 240), least=0.85, progress=False)
    planted = tuple(family for family in found if channels(family) in (set(EDGES), set(HUES)))
    assert len(planted) == 2
    assert_transforms(planted, planted_kernels(), least=0.9)
    (hues,) = (family for family in found if channels(family) == set(HUES))
    assert {transform.hue % 360 for transform in hues.transforms} == {0, 120, 240}


def test_kernels_of_noise_and_units_without_direction_have_no_family() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(12, 3, 7, 7, generator=generator, dtype=torch.float64)
    assert kernel_families(noise, "conv", least=0.0) == ()
    model = planted_model(torch.stack([blob(), 2 * blob(), -blob()]))
    assert find_families(model, "relu", clouds(8), step=30, progress=False) == ()


def test_a_larger_copy_is_found_with_its_scale() -> None:
    small = gabor(0.0, wavelength=5.0)
    large = warped(small, 30, scale=1.4)
    (family,) = kernel_families(torch.stack([small, large, blob()]), "conv", scales=(1.4, 1 / 1.4), least=0.7)
    assert channels(family) == {0, 1}
    between = transform_between(family, "conv:0", "conv:1")
    assert (between.angle, between.scale) == (pytest.approx(30), pytest.approx(1.4))


def test_transforms_between_members_compose() -> None:
    random = np.random.default_rng(0)
    kernel = hook(0.0)
    transforms = (
        Transform(),
        *(
            Transform(90.0 * random.integers(4), bool(random.integers(2)), hue=120.0 * random.integers(3))
            for _ in range(6)
        ),
    )
    coloured = kernel * RED
    kernels = [transform(coloured) for transform in transforms]
    family = Family("a", tuple(f"a:{i}" for i in range(7)), transforms, (1.0,) * 7, 0.05, "kernels")
    for i, one in enumerate(kernels):
        for j, two in enumerate(kernels):
            assert torch.allclose(transform_between(family, f"a:{i}", f"a:{j}")(one), two, atol=1e-12)
    assert [wrapped(angle) for angle in (180.0, -180.0, 190.0, -540.0, 720.0)] == [180, 180, -170, 180, 0]
    with pytest.raises(ValueError, match="'a:9' is not in this family: it has a:0"):
        transform_between(family, "a:9", "a:0")


def test_units_are_turned_through_the_families_that_they_read() -> None:
    """Four units read turned channels in turned places; three more read the same channels there, which is no turn."""
    base = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turning = torch.stack([torch.stack([warped(base[(i - o) % 4], 90 * o) for i in range(4)]) for o in range(4)])
    shuffled = torch.stack([torch.stack([warped(base[i], 90 * o) for i in range(4)]) for o in range(4)])
    (family,) = kernel_families(torch.cat([turning, shuffled[1:]]), "b", below=[turned_family("a", 4)], step=90)
    assert channels(family) == set(range(4))
    assert transform_between(family, "b:1", "b:2").angle == 90
    (without,) = kernel_families(torch.cat([shuffled, turning[1:]]), "b", step=90)
    assert channels(without) == set(range(4))
    chiral = Family("a", ("a:0", "a:1"), (Transform(), Transform(mirror=True)), (1.0, 1.0), 0.05, "kernels")
    pair = torch.stack([base[:2], base[:2].flip(0).flip(-1)])
    (mirrored,) = kernel_families(pair, "b", below=[chiral], step=90)
    assert mirrored.transforms[1] == Transform(mirror=True)
    assert kernel_families(pair, "b", step=90, least=0.7) == ()
    with pytest.raises(ValueError, match="not among the kernels' 4 channels"):
        kernel_families(turning, "b", below=[turned_family("a", 8)])


def turned_family(name: str, count: int) -> Family:
    transforms = tuple(Transform(wrapped(360 / count * c)) for c in range(count))
    return Family(name, tuple(f"{name}:{c}" for c in range(count)), transforms, (1.0,) * count, 0.05, "kernels")


def test_the_collapsed_wire_is_the_one_that_was_turned() -> None:
    base = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels = torch.stack([torch.stack([warped(base[(i - o) % 4], 90 * o) for i in range(4)]) for o in range(4)])
    sources, targets = turned_family("a", 4), turned_family("b", 4)
    found = collapse(kernels, sources, targets)
    assert found.angles == (-90, 0, 90, 180)
    assert found.counts == (4, 4, 4, 4)
    assert found.agreement == pytest.approx((1, 1, 1, 1))
    for angle, kernel in zip(found.angles, found.kernels, strict=True):
        inside = kernel != 0
        assert torch.allclose(kernel[inside], base[round(angle / 90) % 4][inside])
    assert equivariance(kernels, sources.angles, targets.angles, samples=9).statistic == pytest.approx(1)
    free = torch.randn(4, 4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert max(collapse(free, sources, targets).agreement) < 0.9
    with pytest.raises(ValueError, match="have no wire"):
        collapse(kernels[:2], sources, targets)


@pytest.mark.parametrize("layer", ["conv2d2", "mixed3b"])
def test_the_drawn_world_s_network_has_families_that_hold_on_other_pictures(sketches: Model, layer: str) -> None:
    drawings = Sketches(seed=HELD_OUT_SEED)
    images = torch.stack([drawings[i][0] for i in range(64)])
    found = find_families(sketches, layer, images[:32], step=30, mirror=False, progress=False)
    largest = max(found, key=lambda family: len(family.units))
    assert len(largest.units) >= 4
    assert len({angle % 180 for angle in largest.angles.values()}) >= 3
    unit = [int(name.rpartition(":")[2]) for name in largest.units]
    turned = [responses(sketches, layer, warped(images[32:], angle))[:, unit] for angle in range(0, 360, 30)]
    for member, transform in enumerate(largest.transforms[1:], 1):
        alike = [np.corrcoef(turned[0][:, 0], other[:, member])[0, 1] for other in turned]
        assert alike[round(transform.angle) % 360 // 30] > np.mean(alike)


def responses(model: Model, layer: str, images: Tensor) -> np.ndarray:
    """Mean activations of the middle of the map: as good about any centre, and blunter than what is tested."""
    with torch.no_grad(), probe(model, [layer]) as activations:
        model(images)
        value = activations[layer]
    quarter = value.shape[2] // 4
    return value[:, :, quarter:-quarter, quarter:-quarter].mean((2, 3)).double().numpy()


def test_bad_input_is_refused_with_a_sentence(sketches: Model) -> None:
    kernels = planted_kernels()
    pictures = torch.rand(8, 3, 64, 64)
    for call, says in (
        (lambda: kernel_families(kernels, "conv", step=7), "step is 7: give degrees that divide 360"),
        (lambda: kernel_families(kernels, "conv", scales=(0,)), "give factors above 0"),
        (lambda: kernel_families(kernels[:, :2], "conv", hues=(120,)), "have no hue"),
        (lambda: kernel_families(kernels[0], "conv"), "give floats \\(o, i, kh, kw\\)"),
        (lambda: kernel_families(kernels / 0, "conv"), "infinite or NaN"),
        (lambda: kernel_families(kernels, "conv", samples=0), "samples is 0"),
        (lambda: find_families(sketches, "logits", pictures), "has no map"),
        (lambda: find_families(sketches, "mixed3z", pictures), "mixed3"),
        (lambda: find_families(sketches, "conv2d0", pictures[:3]), "8 pictures or more"),
        (lambda: find_families(sketches, "conv2d0", pictures, step=0), "step is 0"),
        (lambda: find_families(sketches, "conv2d0", pictures, views=0), "views is 0"),
        (lambda: find_families(sketches, "conv2d0", pictures[..., 1:]), "maps are for 64 x 64 pixels"),
        (lambda: find_families(tiny_model("tokens"), "blocks.0", pictures), "has no map"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_true_copies_are_not_gathered_by_a_unit_that_many_are_loosely_like() -> None:
    """Units 0 to 2 are copies of each other; 3 is like all of 0, 4, 5, 6 and 7 by 0.62, as random filters are."""
    count = 8
    similarity = np.zeros((1, count, count))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        similarity[0, one, other] = similarity[0, other, one] = 1.0
    for other in (0, 4, 5, 6, 7):
        similarity[0, 3, other] = similarity[0, other, 3] = 0.62
    names = [f"layer:{number}" for number in range(count)]
    found = group(
        "layer", names, similarity, variants(360, False, (), ()), np.zeros(99), least=0.6, level=0.05, method="test"
    )
    assert found[0].units[0] == "layer:0"
    assert set(found[0].units) == {"layer:0", "layer:1", "layer:2", "layer:3"}  # 3 is like 0, and comes last
