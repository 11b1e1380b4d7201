"""Meanings: units that were given two meanings are told from units that are as diffuse with one."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_untouched, fill, random_images
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from circuits.meanings import FEWEST, polysemanticity, read_polysemanticity, write_polysemanticity
from circuits.meanings.judging import _discoveries
from features.examples import Examples, LayerExamples, find_examples
from features.models import Model, load_model

WIDTH, COUNT = 96, 32
Floats = NDArray[np.float64]


def wide_model(width: int = WIDTH) -> Model:
    net = fill(nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU()).double().eval())
    return load_model(net, name="wide", image_size=4, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def examples_of(model: Model, vectors: Floats, *, mean: float = 0.3, labels: bool = True) -> Examples:
    """Examples of layer '0' whose vectors are given, (c, k, c); every example of another image."""
    channels, count = vectors.shape[:2]
    images = np.tile(np.arange(count), (channels, 1))
    missing = np.isnan(vectors).all(2)
    numbers = {
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
    other = {each.name: np.zeros((channels, 1)) for each in dataclasses.fields(LayerExamples)}
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


@pytest.mark.parametrize(("second", "area", "found"), [(0.5, 0.99, 0.9), (0.2, 0.95, 0.8)])
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
    spread = [np.linalg.norm(each[:, None] - each[None], axis=2).mean() for each in vectors]
    assert roc_auc_score(planted, spread) < 0.8


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


@pytest.mark.parametrize("seed", [0, 1])
def test_under_the_null_next_to_nothing_is_flagged_and_p_is_spread_out(seed: int) -> None:
    """Points without groups, whatever their spread and wherever their centre."""
    chance = np.random.default_rng(seed)
    scales = chance.uniform(0.05, 2, size=(WIDTH, 1, WIDTH)) ** chance.integers(1, 5, size=(WIDTH, 1, 1))
    vectors = chance.normal(size=(WIDTH, COUNT, WIDTH)) * scales + chance.normal(size=(WIDTH, 1, WIDTH))
    model = wide_model()
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    assert result.flag.sum() <= 1
    assert 0.35 < result.p.mean() < 0.65
    assert (result.p < 0.05).mean() < 0.12


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
    other = polysemanticity(model, examples, seed=1, progress=False)
    assert not np.array_equal(whole.p, other.p)
    np.testing.assert_allclose(whole.distance, other.distance)


def test_scale_and_the_units_own_channel_do_not_matter() -> None:
    vectors, _ = drawn_units(2, second=0.5, units=24)
    model = wide_model(24)
    before = polysemanticity(model, examples_of(model, vectors), progress=False)
    vectors[np.arange(24), :, np.arange(24)] += np.linspace(0, 100, COUNT)
    after = polysemanticity(model, examples_of(model, vectors), progress=False)
    np.testing.assert_allclose(after.score, before.score)
    scaled = polysemanticity(model, examples_of(model, vectors * 1e4, mean=0.3e4), progress=False)
    np.testing.assert_allclose(scaled.score, before.score, rtol=1e-3)
    np.testing.assert_array_equal(scaled.flag, before.flag)


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
    assert (result.groups[0] == -1).all()
    assert (result.groups[3][20:] == -1).all()
    assert (result.groups[3][:20] >= 0).all()
    assert np.isnan(result.entropy).all()
    assert np.isfinite(result.p).all()
    assert result["0:4"].verdict == "polysemantic"
    assert len(result["0:3"].group) == 20


def test_evidence_is_reported_as_it_is() -> None:
    vectors, _ = drawn_units(4, second=0.5, units=24)
    model = wide_model(24)
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    one = result["0:2"]
    shares = np.bincount(np.arange(COUNT) % 3) / COUNT
    assert one.entropy == pytest.approx(-(shares * np.log(shares)).sum())
    assert one.score == pytest.approx(one.distance + 0.3 * math.log(one.separation))
    assert "24 units" in repr(result)
    assert list(result) == [f"0:{channel}" for channel in range(24)]


def test_a_result_survives_a_round_trip(tmp_path: Path) -> None:
    vectors, _ = drawn_units(4, second=0.5, units=24)
    model = wide_model(24)
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    write_polysemanticity(result, tmp_path / "found")
    back = read_polysemanticity(tmp_path / "found")
    for field in dataclasses.fields(result):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(result, field.name))


def test_false_discoveries_are_controlled_as_in_the_paper() -> None:
    """Benjamini and Hochberg (1995), their worked example: 4 of 15 at 5 %."""
    p = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
                  0.6528, 0.7590, 1.0000])  # fmt: skip
    order = np.random.default_rng(0).permutation(len(p))
    assert _discoveries(p, 0.05).sum() == 4
    assert set(p[order][_discoveries(p[order], 0.05)]) == set(p[:4])


def test_bad_input_is_refused_with_a_sentence() -> None:
    model = wide_model(16)
    images = list(random_images(12, size=4).float())
    examples = find_examples(model, images, ["0"], count=10, progress=False)
    with pytest.raises(ValueError, match="too few to tell groups: find at least 8"):
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
    with pytest.raises(ValueError, match="level is"):
        polysemanticity(model, examples, level=2.0)
    with pytest.raises(ValueError, match="was not looked at"):
        polysemanticity(model, examples, ["0:3"], progress=False)["0:4"]


def test_it_shows_itself_in_a_notebook_with_the_flagged_units_first() -> None:
    vectors, _ = drawn_units(3, second=0.5)
    model = wide_model()
    result = polysemanticity(model, examples_of(model, vectors), progress=False)
    shown = result._repr_html_()
    first = result.units[int(np.lexsort((-result.score, ~result.flag))[0])]
    assert shown.index(f"<td>{first}</td><td>polysemantic</td>") == shown.index("<td>")
    assert shown.count("<tr>") == 31
    assert f"and {len(result) - 30} more units" in shown
