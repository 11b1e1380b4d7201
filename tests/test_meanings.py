"""Meanings: units that were given two meanings are told from units that are as diffuse with one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_untouched, fill, random_images
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, silhouette_score
from torch import nn

from circuits.meanings import (
    FEWEST,
    SCORES,
    Evidence,
    find_upstream,
    gather,
    judge,
    polysemanticity,
    read_polysemanticity,
    write_polysemanticity,
)
from circuits.meanings.agreement import best_parting
from circuits.meanings.calibration import WEIGHTS, log_odds, see
from circuits.meanings.evidence import whitened
from circuits.meanings.groupings import GROUPINGS
from circuits.meanings.nulls import against_null, principal
from features.examples import Examples, LayerExamples, find_examples
from features.models import Model, load_model
from features.records import write_record

WIDTH, COUNT = 96, 32
Floats = NDArray[np.float64]


def wide_model(width: int = WIDTH) -> Model:
    net = fill(nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU()).double().eval())
    return load_model(net, name="wide", image_size=4, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def examples_of(model: Model, vectors: Floats, *, mean: float = 0.3, labels: bool = True) -> Examples:
    """Examples of layer '0' whose vectors are given, (c, k, c); every example of another image."""
    channels, count = vectors.shape[:2]
    images = np.tile(np.arange(count), (channels, 1))
    missing = np.asarray(np.isnan(vectors).all(axis=2))
    numbers: dict[str, Any] = {
        "value": np.where(missing, np.nan, 1.0 + count - images),
        "image": np.where(missing, -1, images),
        "label": np.where(missing | (not labels), -1, images % 3),
        "position": np.zeros((channels, count, 2), np.int64),
        "box": np.zeros((channels, count, 4), np.int64),
        "vectors": np.nan_to_num(vectors).astype(np.float32),
        "mean": np.full(channels, mean),
        "dead": missing.all(1),
    }
    ranked = {f"bottom_{name}": numbers[name] for name in ("value", "image", "label", "position", "box")}
    other: dict[str, Any] = {each.name: np.zeros((channels, 1)) for each in dataclasses.fields(LayerExamples)}
    other |= {name: np.zeros(channels) for name in ("sd", "minimum", "maximum", "firing_rate", "nonfinite")}
    return Examples(
        model=model.name, digest=model.digest, dataset="drawn", length=count, images=count, image_size=(4, 4),
        channels=3, labels=(), count=count, batch=1, skipped=(),
        arrays={"0": LayerExamples(**{**other, **numbers, **ranked})},
    )  # fmt: skip


def drawn_units(seed: int, *, second: float, units: int = WIDTH, modes: int = 2) -> tuple[Floats, NDArray[np.bool_]]:
    """Half of the units mean ``modes`` unrelated things, each further one on a part ``second`` of the examples.

    Those of one meaning are as far spread as those of two, along a few directions of their own.
    """
    chance = np.random.default_rng(seed)
    vectors = np.zeros((units, COUNT, units))
    planted = np.arange(units) % 2 == 0
    for unit in range(units):
        centres = chance.normal(size=(modes, units))
        own = chance.normal(size=(6, units)) * chance.uniform(0.2, 0.8, size=(6, 1))
        noise = 0.3 * chance.normal(size=(COUNT, units))
        if planted[unit]:
            which = np.concatenate([np.full(round(COUNT * second), mode) for mode in range(1, modes)])
            which = chance.permutation(np.concatenate([which, np.zeros(COUNT - len(which), dtype=int)]).astype(int))
            vectors[unit] = centres[which] + noise + 0.3 * chance.normal(size=(COUNT, 6)) @ own
        else:
            vectors[unit] = centres[0] + noise + chance.normal(size=(COUNT, 6)) @ own
    return 0.3 + vectors, planted


def clouds(
    seed: int, kind: str, *, units: int = 20, size: int = 64, dimensions: int = 64, kinds: Sequence[str] = ("vectors",)
) -> Evidence:
    """Evidence of point clouds of known structure, the same groups in every kind of evidence.

    ``half``, ``fifth``, ``few`` (7 %): two directions, the second of so many; ``one``: one direction; ``long``: one,
    drawn out along a line; ``diffuse``: no direction at all.
    """
    chance = np.random.default_rng([seed, *kind.encode()])
    share = {"half": 0.5, "fifth": 0.2, "few": 0.07}.get(kind, 0.0)
    second = np.arange(size) < round(share * size)
    made: dict[str, Any] = {}
    for name in kinds:
        centres = chance.normal(size=(2, units, 1, dimensions)) * (0 if kind == "diffuse" else 1)
        points = np.where(second[:, None], centres[1], centres[0])
        points = points + 0.4 * chance.normal(size=(units, size, dimensions))
        if kind == "long":
            points += chance.normal(size=(units, size, 1)) * 0.5 * chance.normal(size=(units, 1, dimensions))
        made[name] = points
    image = np.tile(np.arange(size), (units, 1))
    return Evidence(
        units=tuple(f"0:{unit}" for unit in range(units)), value=np.ones((units, size)), image=image,
        label=np.where(second, 1, 0) + np.zeros_like(image), classes=3, **{"vectors": made["vectors"], **made},
    )  # fmt: skip


ALL = ("vectors", "late", "upstream")


@pytest.mark.parametrize(("second", "area", "found"), [(0.5, 0.99, 0.9), (0.2, 0.99, 0.9), (0.07, 0.95, 0.5)])
def test_planted_meanings_are_told_from_diffuse_single_ones(second: float, area: float, found: float) -> None:
    vectors, planted = drawn_units(3, second=second)
    model = wide_model()
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    assert roc_auc_score(planted, result.score) >= area
    assert result.flag[~planted].mean() <= 0.05
    assert result.flag[planted].mean() >= found
    flagged = result.flag & planted
    assert np.median(result.smallest[flagged]) == pytest.approx(second, abs=0.04)
    assert np.mean(result.meanings[flagged] == 2) > 0.9


def test_the_mean_distance_of_examples_would_not_tell_them_apart() -> None:
    """The cautionary baseline: the two kinds of units are equally spread, or the single ones more."""
    vectors, planted = drawn_units(3, second=0.5)
    model = wide_model()
    evidence = gather(model, examples_of(model, vectors))
    assert roc_auc_score(planted, SCORES["mean-distance"](evidence)) < 0.8
    assert roc_auc_score(planted, SCORES["agreement"](evidence)) > 0.99


def test_groups_are_the_meanings_that_were_planted() -> None:
    vectors, planted = drawn_units(5, second=1 / 3, modes=3)
    model = wide_model()
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    assert np.mean(result.meanings[planted & result.flag] == 3) > 0.8
    assert result.flag[planted].mean() > 0.8
    for unit in np.flatnonzero(result.flag)[:10]:
        sizes = np.bincount(result.groups[unit])
        assert list(sizes) == sorted(sizes, reverse=True)
        assert result.smallest[unit] == sizes.min() / COUNT
        np.testing.assert_allclose(result[result.units[unit]].shares, sizes / COUNT)


@pytest.mark.parametrize("kinds", [("vectors",), ALL])
def test_known_clouds_get_their_verdict(kinds: tuple[str, ...]) -> None:
    """Two directions in any mixture are flagged, one direction is not, however long it is drawn out."""
    for kind, share in (("half", 0.5), ("fifth", 13 / 64), ("few", 4 / 64)):
        evidence = clouds(1, kind, kinds=kinds)
        result = judge(evidence)
        assert result.flag.mean() >= 0.9, kind
        assert np.median(result.smallest) == pytest.approx(share), kind
        group, label = result.groups[result.flag], evidence.label[result.flag]
        assert np.mean((group == group[:, :1]) == (label == label[:, :1])) > 0.98
    for kind in ("one", "long"):
        result = judge(clouds(1, kind, kinds=kinds))
        assert result.flag.mean() <= 0.05, kind
        assert result.probability.mean() < 0.1, kind
    assert set(judge(clouds(1, "one", units=10, kinds=kinds)).verdicts) == {"monosemantic"}


def test_examples_without_anything_in_common_are_called_diffuse() -> None:
    result = judge(clouds(2, "diffuse", kinds=ALL))
    assert not result.flag.any()
    assert result.verdicts.count("diffuse") > 15
    assert "monosemantic" not in result.verdicts


def test_a_parting_that_one_kind_alone_sees_counts_for_less() -> None:
    """Two orientations below, one meaning above: the layers below part the examples, and nothing else does."""
    two, one = clouds(3, "half", kinds=ALL), clouds(4, "one", kinds=ALL)
    alone = dataclasses.replace(one, upstream=two.upstream)
    assert judge(two).flag.all()
    assert not judge(alone).flag.any()
    assert (SCORES["combined"](alone) < SCORES["combined"](two)).all()
    assert (SCORES["agreement"](alone) < 0.5 * SCORES["agreement"](two)).all()


def test_partings_that_cross_each_other_do_not_agree() -> None:
    two, other = clouds(3, "half", kinds=ALL), clouds(5, "half", kinds=ALL)
    order = np.random.default_rng(0).permutation(64)
    assert two.late is not None and other.late is not None
    crossed = dataclasses.replace(two, late=other.late[:, order])
    assert (SCORES["agreement"](crossed) < 0.5 * SCORES["agreement"](two)).all()


def test_of_two_partings_that_is_taken_which_every_kind_sees() -> None:
    """Vectors part most along one line, which the embeddings do not see, and less along another, which they do."""
    chance = np.random.default_rng(0)
    loud, quiet = np.arange(16) % 2, np.arange(16) // 8
    vectors = np.stack([2.0 * loud - 1, 1.2 * quiet - 0.6, *0.1 * chance.normal(size=(4, 16))], axis=1)
    late = np.stack([np.ones(16), quiet, *0.1 * chance.normal(size=(4, 16))], axis=1)
    points = [torch.from_numpy(each)[None] for each in (vectors, late)]
    assert set(np.unique(quiet[best_parting(points).parts[0].numpy()])) in ({0}, {1})
    assert set(np.unique(loud[best_parting(points[:1]).parts[0].numpy()])) in ({0}, {1})


def slow_parting(kinds: Sequence[NDArray[np.float64]]) -> tuple[float, set[int], list[float], list[float]]:
    """All partings in two of a few points, one after the other: the best, its gap and distance by kind."""
    size = len(kinds[0])
    unit = [points / np.linalg.norm(points, axis=1, keepdims=True) for points in kinds]
    best: tuple[float, set[int], list[float], list[float]] = (-math.inf, set(), [], [])
    for count in range(2, size // 2 + 1):
        for part in map(set, itertools.combinations(range(size), count)):
            gaps, distances = [], []
            for points in unit:
                cosines: dict[str, list[float]] = {"in": [], "out": [], "across": []}
                for i, j in itertools.combinations(range(size), 2):
                    where = "in" if {i, j} <= part else "across" if {i, j} & part else "out"
                    cosines[where].append(float(points[i] @ points[j]))
                gaps.append(float(min(np.mean(cosines["in"]), np.mean(cosines["out"])) - np.mean(cosines["across"])))
                rest = [i for i in range(size) if i not in part]
                first, second = points[sorted(part)].mean(0), points[rest].mean(0)
                distances.append(float(1 - first @ second / np.linalg.norm(first) / np.linalg.norm(second)))
            joint = float(np.exp(np.mean(np.log(np.maximum(gaps, 1e-4)))))
            if joint > best[0]:
                best = (joint, part, gaps, distances)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_best_parting_is_that_of_all_partings(seed: int) -> None:
    """Reference: of nine points, of which two or four are apart, all 246 partings are tried."""
    chance = np.random.default_rng(seed)
    few = 2 + 2 * (seed % 2)
    kinds = [
        np.where(np.arange(9)[:, None] < few, *chance.normal(size=(2, 1, 5))) + 0.3 * chance.normal(size=(9, 5))
        for _ in range(2)
    ]
    joint, part, gaps, distances = slow_parting(kinds)
    found = best_parting([torch.from_numpy(points)[None] for points in kinds])
    smaller = set(np.flatnonzero(found.parts[0].numpy()).tolist())
    assert smaller == part
    assert found.joint.item() == pytest.approx(joint)
    np.testing.assert_allclose(found.gap[0], gaps)
    np.testing.assert_allclose(found.distance[0], distances)
    assert found.share.item() == pytest.approx(len(part) / 9)


def test_neighbours_are_counted_as_far_as_the_part_has_others() -> None:
    near = np.array([[1, 0.0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1], [0.15, 1]])
    found = best_parting([torch.from_numpy(near)[None]])
    assert found.parts[0].tolist() == [True, True, False, False, False, False]
    assert found.neighbours.item() == 1  # one neighbour is asked of each of the two, not three


def test_turning_scaling_and_reordering_change_nothing() -> None:
    evidence = dataclasses.replace(clouds(6, "fifth", units=8, kinds=ALL))
    before = judge(evidence)
    chance = np.random.default_rng(0)
    turn, _ = np.linalg.qr(chance.normal(size=(64, 64)))
    assert evidence.upstream is not None
    turned = dataclasses.replace(evidence, vectors=7 * evidence.vectors @ turn, upstream=0.1 * evidence.upstream @ turn)
    np.testing.assert_allclose(judge(turned).probability, before.probability, rtol=1e-6)
    order = chance.permutation(64)
    mixed = {name: getattr(evidence, name)[:, order] for name in (*ALL, "image", "value", "label")}
    shuffled = judge(dataclasses.replace(evidence, **mixed))
    np.testing.assert_allclose(shuffled.evidence["late distance"], before.evidence["late distance"], rtol=1e-6)
    np.testing.assert_array_equal(shuffled.groups, before.groups[:, order])
    again = judge(evidence.of(["0:5", "0:2"]))
    np.testing.assert_allclose(again.probability, before.probability[[5, 2]], rtol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_under_the_null_next_to_nothing_is_flagged_and_p_is_spread_out(seed: int) -> None:
    """Points without groups, whatever their spread and wherever their centre."""
    chance = np.random.default_rng(seed)
    scales = chance.uniform(0.05, 2, size=(WIDTH, 1, WIDTH)) ** chance.integers(1, 5, size=(WIDTH, 1, 1))
    vectors = chance.normal(size=(WIDTH, COUNT, WIDTH)) * scales + chance.normal(size=(WIDTH, 1, WIDTH))
    model = wide_model()
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    assert result.flag.mean() <= 0.05
    assert 0.35 < result.p.mean() < 0.65
    assert (result.p < 0.05).mean() < 0.15


@pytest.mark.parametrize("name", GROUPINGS)
def test_the_null_has_the_spread_of_the_points_and_is_not_beaten_by_points_without_groups(name: str) -> None:
    chance = torch.Generator().manual_seed(0)
    plain = torch.randn(60, 24, 10, generator=chance, dtype=torch.float64) * torch.linspace(2, 0.1, 10)
    z, _ = against_null(plain, GROUPINGS[name])
    assert abs(z.mean().item()) < 0.5
    assert 0.6 < z.std().item() < 1.6
    grouped = plain.clone()
    grouped[:, :10, 0] += 12
    higher, parts = against_null(grouped, GROUPINGS[name])
    assert (higher > 2).float().mean() > 0.9
    assert ((parts[:, :10].sum(1) - parts[:, 10:].sum(1) * 10 / 14).abs() == 10).float().mean() > 0.9
    coordinates, lengths = principal(plain)
    torch.testing.assert_close(coordinates.norm(dim=1), lengths)


def test_the_silhouette_is_that_of_sklearn() -> None:
    points = torch.from_numpy(clouds(8, "fifth", units=3).vectors)
    parts, width = GROUPINGS["silhouette"](principal(points)[0])
    for unit in range(3):
        assert width[unit].item() == pytest.approx(silhouette_score(points[unit], parts[unit].numpy()))


def test_the_same_seed_gives_the_same_and_order_does_not_matter() -> None:
    model = wide_model(16)
    examples = find_examples(model, list(random_images(24, size=4).float()), ["0", "1"], count=12, progress=False)
    with assert_untouched(model.net):
        whole = polysemanticity(model, examples, progress=False)
    again = polysemanticity(model, examples, progress=False)
    assert whole.units == again.units
    np.testing.assert_array_equal(whole.score, again.score)
    np.testing.assert_array_equal(whole.groups, again.groups)
    part = polysemanticity(model, examples, ["1:7", "0:3"], progress=False)
    assert part.units == ("1:7", "0:3")
    assert part["0:3"].distance == pytest.approx(whole["0:3"].distance)
    assert part["1:7"].probability == pytest.approx(whole["1:7"].probability)
    other = polysemanticity(model, examples, seed=1, progress=False)
    assert not np.array_equal(whole.p, other.p)
    np.testing.assert_allclose(whole.distance, other.distance)


def test_scale_and_the_units_own_channel_do_not_matter() -> None:
    vectors, _ = drawn_units(2, second=0.5, units=24)
    model = wide_model(24)
    before = polysemanticity(model, examples_of(model, vectors), progress=False)
    scaled = polysemanticity(model, examples_of(model, vectors * 1e4, mean=0.3e4), progress=False)
    np.testing.assert_allclose(scaled.score, before.score, rtol=1e-3)
    np.testing.assert_array_equal(scaled.flag, before.flag)
    raw = examples_of(model, vectors)
    evidence = gather(model, raw)
    layer = raw.layer("0").vectors.copy()
    layer[5, :, 5] += np.linspace(0, 1e-3, COUNT)  # too little to change what is usual in the layer
    moved = dataclasses.replace(raw, arrays={"0": dataclasses.replace(raw.layer("0"), vectors=layer)})
    np.testing.assert_allclose(gather(model, moved).vectors[5], evidence.vectors[5], atol=2e-3)
    own = layer[5, :, 5] - layer[layer[..., 0] < np.inf].reshape(-1, 24).mean(0)[5]
    assert np.abs(own).max() > 0.1


def test_dead_units_few_examples_and_constant_ones_have_their_verdict() -> None:
    vectors, _ = drawn_units(4, second=0.5, units=24)
    vectors[0] = np.nan
    vectors[1, FEWEST - 1 :] = np.nan
    vectors[2] = 0.7
    vectors[3, 20:] = np.nan
    model = wide_model(24)
    result = polysemanticity(model, examples_of(model, vectors, labels=False), progress=False)
    assert result.verdicts[:3] == ("dead", "undecided", "monosemantic")
    assert (result.score[:2] == -1).all()
    assert np.isnan(result.probability[:2]).all()
    assert (result.groups[0] == -1).all()
    assert (result.groups[3][20:] == -1).all()
    assert (result.groups[3][:20] >= 0).all()
    assert np.isnan(result.entropy).all()
    assert np.isfinite(result.p).all()
    assert result["0:4"].verdict == "polysemantic"
    assert len(result["0:3"].group) == 20
    assert result["0:0"].shares == ()


def test_evidence_is_reported_as_it_is() -> None:
    vectors, _ = drawn_units(4, second=0.5, units=24)
    model = wide_model(24)
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    one = result["0:2"]
    shares = np.bincount(np.arange(COUNT) % 3) / COUNT
    assert one.entropy == pytest.approx(-(shares * np.log(shares)).sum())
    assert one.score == one.probability
    assert one.evidence["vectors distance"] == one.distance
    assert set(one.evidence) == {f"vectors {name}" for name in ("gap", "distance", "neighbours", "clarity")}
    assert "24 units" in repr(result)
    assert list(result) == [f"0:{channel}" for channel in range(24)]
    assert result.examples is not None


def test_probabilities_are_what_the_weights_say_and_mean_what_they_say() -> None:
    """The logistic law, and as many of two meanings among units of a probability as it says, on drawn clouds."""
    assert set(WEIGHTS) == {("vectors", *rest) for n in range(3) for rest in itertools.combinations(ALL[1:], n)}
    for kinds, weights in WEIGHTS.items():
        assert len(weights) == 1 + 3 * len(kinds)
        assert min(weights[1:]) > 0 > weights[0]
    evidence = clouds(7, "half", units=5)
    points = {"vectors": torch.from_numpy(evidence.vectors)}
    odds = log_odds(points, see(points).measures)
    np.testing.assert_allclose(judge(evidence).probability, 1 / (1 + np.exp(-odds.numpy())))
    np.testing.assert_allclose(SCORES["combined"](evidence), odds)
    said = np.concatenate([judge(clouds(9, kind, units=30)).probability for kind in ("half", "few", "one", "long")])
    true = np.repeat([True, True, False, False], 30)
    bins = np.minimum((said * 10).astype(int), 9)
    error = sum(
        abs(said[bins == each].mean() - true[bins == each].mean()) * (bins == each).mean() for each in set(bins)
    )
    assert error < 0.12


def test_a_higher_level_flags_fewer() -> None:
    evidence = clouds(1, "few", units=30, size=40)
    noisy = dataclasses.replace(
        evidence, vectors=evidence.vectors + 0.6 * np.random.default_rng(1).normal(size=evidence.vectors.shape)
    )
    flags = [judge(noisy, level=level).flag for level in (0.4, 0.7, 0.95)]
    assert flags[0].sum() > flags[2].sum()
    assert (flags[0] >= flags[1]).all()
    assert (flags[1] >= flags[2]).all()


def test_scores_have_their_known_values() -> None:
    """Two orthogonal directions, half of the examples each, no noise."""
    points = np.zeros((1, 8, 4))
    points[0, :4, 0] = points[0, 4:, 1] = 3
    value = np.array([[4.0, 3, 2, 1, 1, 1, 1, 1]])
    evidence = Evidence(
        units=("0:0",), value=value, image=np.arange(8)[None], label=np.array([[0, 0, 0, 0, 1, 1, 1, 2]]), classes=3,
        vectors=points, upstream=points, pictures=points[:, 2:6],
    )  # fmt: skip
    found = {name: score(evidence).item() for name, score in SCORES.items()}
    pairs = list(itertools.combinations(range(8), 2))
    unit, weights = points[0] / 3, value[0] / 4
    assert found["mean-distance"] == pytest.approx(16 / 28 * math.sqrt(18))
    assert found["clarity"] == pytest.approx(1 - 12 / 28)
    assert found["semantic-lens"] == pytest.approx(1)
    slow = sum(weights[i] * weights[j] * (unit[i] @ unit[j]) for i, j in pairs)
    assert found["monoscore"] == pytest.approx(1 - slow / sum(weights[i] * weights[j] for i, j in pairs))
    assert found["label-entropy"] == pytest.approx(
        -(0.5 * math.log(0.5) + 0.375 * math.log(0.375) + 0.125 * math.log(0.125))
    )
    shares = np.array([10, 3, 1]) / 14
    assert found["class-entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert found["pure"] == pytest.approx(1)
    assert found["visualizations"] == pytest.approx(4 / 6)
    assert found["agreement"] == pytest.approx(1)
    assert found["agreement-with-neighbours"] == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_ranks_two_tight_directions_above_one(name: str) -> None:
    """But for the baseline all of them do; with too few examples they say nothing."""
    two, one = (clouds(1, kind, kinds=(*ALL, "pictures"), units=12, size=24) for kind in ("half", "one"))
    high, low = SCORES[name](two), SCORES[name](one)
    assert high.shape == low.shape == (12,)
    assert np.median(high) > np.median(low)
    if name != "visualizations":
        few = dataclasses.replace(two, image=np.where(np.arange(24) < FEWEST - 1, two.image, -1))
        few = dataclasses.replace(few, label=np.full_like(few.label, -1))
        assert np.isnan(SCORES[name](few)).all()


def test_a_score_without_its_evidence_says_what_is_missing() -> None:
    plain = clouds(1, "half", units=2)
    with pytest.raises(ValueError, match="has no upstream: gather it with the dataset"):
        SCORES["pure"](plain)
    with pytest.raises(ValueError, match="has no pictures"):
        SCORES["visualizations"](plain)
    with pytest.raises(ValueError, match="at least 2"):
        SCORES["visualizations"](dataclasses.replace(plain, pictures=plain.vectors[:, :1]))


def small_model() -> Model:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 9, 3, stride=2))
    return load_model(
        fill(net.double().eval()), name="small", image_size=9, mean=(0.5,) * 3, std=(0.25,) * 3, labels=()
    )


def test_contributions_add_up_to_the_unit_at_its_peak() -> None:
    """Completeness: for neighbouring layers activation times gradient is the unit less its bias; else a slow loop."""
    model, images = small_model(), list(random_images(20, size=9))
    examples = find_examples(model, images, ["0", "1", "2"], count=10, progress=False)
    with assert_untouched(model.net):
        found = find_upstream(model, examples, images, ["2:4", "2:0"], progress=False)
    bias = model.net.get_submodule("2").bias
    assert isinstance(bias, torch.Tensor)
    value = examples.layer("2").value[[4, 0]]
    np.testing.assert_allclose(found.sum(2), value - bias.detach().numpy()[[4, 0], None], rtol=1e-5, atol=1e-6)
    image = examples.layer("2").image[4, 3]
    y, x = examples.layer("2").position[4, 3]
    shown = (images[image][None] - 0.5) / 0.25
    below = model.net.get_submodule("1")(model.net.get_submodule("0")(shown))[0]
    kernel = model.net.get_submodule("2").weight[4]  # type: ignore[index]
    window = below[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
    np.testing.assert_allclose(found[0, 3, :5], (window * kernel).sum((1, 2)).detach(), rtol=1e-5, atol=1e-7)
    first = find_upstream(model, examples, images, ["0:1"], progress=False)
    assert first.shape == (1, 10, 3)  # nothing feeds it: the image's channels
    dark = examples.layer("0").value[1] - model.net.get_submodule("0").bias[1].item()  # type: ignore[index]
    np.testing.assert_allclose(first[0].sum(1), dark, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="19 images, and the examples are from one of 20"):
        find_upstream(model, examples, images[:19])


def test_evidence_is_gathered_in_the_order_of_the_units_and_from_what_is_usual() -> None:
    model, images = small_model(), [each.float() for each in random_images(20, size=9)]
    examples = find_examples(model, images, ["0", "2"], count=10, progress=False)
    evidence = gather(model, examples, images, ["2:3", "0:1", "2:7"], progress=False)
    assert evidence.units == ("2:3", "0:1", "2:7")
    assert evidence.vectors.shape == (3, 10, 9)
    assert evidence.late is not None and evidence.upstream is not None
    assert (evidence.vectors[1, :, 5:] == 0).all()
    np.testing.assert_array_equal(evidence.image[2], examples.layer("2").image[7])
    alone = gather(model, examples, images, "2:3", progress=False)
    np.testing.assert_allclose(alone.vectors[0], evidence.vectors[0], atol=1e-6)
    assert alone.late is not None and alone.upstream is not None
    np.testing.assert_allclose(alone.late[0], evidence.late[0], atol=1e-4)
    np.testing.assert_allclose(alone.upstream[0], evidence.upstream[0, :, : alone.upstream.shape[2]], atol=1e-6)
    layer = examples.layer("2")
    every = layer.vectors[layer.image >= 0].astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(every.T, bias=True))
    centred = layer.vectors[3] - every.mean(0)
    centred[:, 3] = 0
    slow = centred @ axes @ np.diag((variances + 0.1 * variances.mean()) ** -0.5) @ axes.T
    np.testing.assert_allclose(evidence.vectors[0], slow, rtol=1e-4, atol=1e-5)
    pooled = gather(model, examples, units=[f"2:{channel}" for channel in range(9)])
    spread = np.cov(pooled.vectors.reshape(-1, 9).T)
    assert np.abs(spread - np.diag(np.diag(spread))).max() < 0.5 * np.diag(spread).max()
    assert judge(evidence).evidence.keys() == {
        f"{kind} {name}" for kind in ALL for name in ("gap", "distance", "neighbours", "clarity")
    }


def test_whitening_makes_the_usual_round_and_leaves_the_unit_out() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(60, 32, 8)) @ chance.normal(size=(8, 8)) + 5
    vectors[:, :, 3] *= 1 - (np.arange(60) == 7)[:, None]
    raw = clouds(1, "one", units=60, size=32)
    white = whitened(dataclasses.replace(raw, vectors=vectors))
    spread = np.cov(white.vectors[np.arange(60) != 7].reshape(-1, 8).T)
    assert np.diag(spread).min() > 0.05
    assert np.abs(np.linalg.eigvalsh(spread)).max() < 1.2
    assert np.abs(white.vectors[np.arange(60) != 7].mean((0, 1))).max() < 0.2
    moved = vectors.copy()
    moved[7, :, 3] = 0
    np.testing.assert_allclose(whitened(dataclasses.replace(raw, vectors=moved)).vectors, white.vectors)


def test_a_result_survives_a_round_trip(tmp_path: Path) -> None:
    vectors, _ = drawn_units(4, second=0.5, units=24)
    vectors[0, 5:] = np.nan
    model = wide_model(24)
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    write_polysemanticity(result, tmp_path / "found")
    back = read_polysemanticity(tmp_path / "found")
    for field in dataclasses.fields(result):
        if field.name not in ("evidence", "examples"):
            np.testing.assert_array_equal(getattr(back, field.name), getattr(result, field.name))
    assert back.examples is None
    assert back.evidence.keys() == result.evidence.keys()
    for name in back.evidence:
        np.testing.assert_array_equal(back.evidence[name], result.evidence[name])


def test_a_record_of_an_older_version_is_refused(tmp_path: Path) -> None:
    old: dict[str, Any] = {"units": ["0:1"], "verdicts": ["dead"], "level": 0.05, "far": 0.75, "draws": 9, "seed": 0}
    arrays = {"score": np.zeros(1), "p": np.zeros(1), "groups": np.zeros((1, 4), np.int64)}
    write_record(tmp_path / "old", "polysemanticity", arrays=arrays, fields={**old, "digest": "x"})
    with pytest.raises(ValueError, match="written by another version: find them again"):
        read_polysemanticity(tmp_path / "old")


def test_bad_input_is_refused_with_a_sentence() -> None:
    model = wide_model(16)
    images = list(random_images(12, size=4).float())
    examples = find_examples(model, images, ["0"], count=10, progress=False)
    with pytest.raises(ValueError, match="4 examples a unit are too few to tell groups: find at least 8"):
        polysemanticity(model, find_examples(model, images, ["0"], count=4, progress=False))
    with pytest.raises(ValueError, match="other weights"):
        with torch.no_grad():
            other = wide_model(17)
        polysemanticity(other, examples)
    with pytest.raises(ValueError, match="have no vectors"):
        polysemanticity(model, find_examples(model, images, ["0"], count=10, vectors=False, progress=False))
    with pytest.raises(ValueError, match="no channel 99"):
        polysemanticity(model, examples, ["0:99"])
    with pytest.raises(ValueError, match="'1'"):
        polysemanticity(model, examples, ["1:3"])
    with pytest.raises(ValueError, match="no unit was given"):
        polysemanticity(model, examples, [])
    with pytest.raises(ValueError, match=r"level is 2\.0"):
        polysemanticity(model, examples, level=2.0)
    with pytest.raises(ValueError, match="was not looked at"):
        polysemanticity(model, examples, ["0:3"], progress=False)["0:4"]
    with pytest.raises(ValueError, match="11 images, and the examples are from one of 12"):
        polysemanticity(model, examples, ["0:3"], dataset=images[:11], progress=False)


def test_evidence_of_another_shape_is_refused() -> None:
    model = wide_model(16)
    examples = find_examples(model, list(random_images(12, size=4).float()), ["0"], count=10, progress=False)
    units, right = ["0:3", "0:5"], np.random.default_rng(0).normal(size=(2, 10, 6))
    assert polysemanticity(model, examples, units, late=right, progress=False).units == ("0:3", "0:5")
    with pytest.raises(ValueError, match=r"late is float64 of shape \(2, 9, 6\): give floats of shape \(2, 10, d\)"):
        gather(model, examples, units=units, late=right[:, :9])
    with pytest.raises(ValueError, match="not finite"):
        gather(model, examples, units=units, upstream=right * np.nan)
    with pytest.raises(ValueError, match="upstream is int64"):
        gather(model, examples, units=units, upstream=np.ones((2, 10, 6), np.int64))
    with pytest.raises(ValueError, match="late has no layer '0': it has 5"):
        gather(model, examples, units=units, late={"5": right})
    with pytest.raises(ValueError, match="of 3 units, and 2 are looked at"):
        polysemanticity(model, examples, units, late=np.ones((3, 10, 6)), progress=False)
    with pytest.raises(ValueError, match="is not among the 2"):
        gather(model, examples, units=units).of(["0:4"])


def test_constant_embeddings_are_refused_and_part_nothing() -> None:
    model = wide_model(16)
    examples = find_examples(model, list(random_images(12, size=4).float()), ["0"], count=10, progress=False)
    for constant in (np.zeros((1, 10, 6)), np.ones((1, 10, 6))):
        with pytest.raises(ValueError, match="late is the same for all examples of all units"):
            gather(model, examples, units="0:3", late=constant)
    evidence = clouds(1, "half", units=6, kinds=ALL)
    result = judge(dataclasses.replace(evidence, late=np.ones_like(evidence.vectors)))
    assert (result.probability < judge(evidence).probability).all()
    assert (result.evidence["late gap"] <= 1e-9).all()


def test_it_shows_itself_in_a_notebook_with_the_flagged_units_first() -> None:
    vectors, _ = drawn_units(3, second=0.5)
    model = wide_model()
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    shown = result._repr_html_()
    first, last = (result.units[at] for at in (np.argmax(result.score), np.argmin(result.score)))
    assert f"<td>{first}</td>" in shown
    assert f"<td>{last}</td>" not in shown
    assert f"and {len(result) - 30} more units" in shown
