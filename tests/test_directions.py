"""Directions: features mixed by hand are found again, and are judged as units are."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_untouched, tiny_model
from torch import Tensor, nn

from circuits.meanings.directions import (
    METHODS,
    DirectionComparison,
    Directions,
    compare_directions,
    direction_evidence,
    find_direction_examples,
    interference,
    kmeans_directions,
    nmf_directions,
    random_directions,
    read_comparison,
    read_directions,
    unit_directions,
    write_comparison,
    write_directions,
)
from circuits.meanings.scores import SCORES
from features.examples import find_examples
from features.models import Model, load_model, probe

FEATURES = 4  # red, green, blue, ultraviolet
# Six units, one for each pair of features: none is of one alone, and no other four directions add up to the same.
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
MIXING = np.array([[float(feature in pair) for feature in range(FEATURES)] for pair in PAIRS])


class Mixture(nn.Module):
    """``mixed``: six units that mix four features, the colours; ``bare`` the same before its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.bare, self.mixed, self.logits = nn.Conv2d(4, 6, 1, bias=False), nn.ReLU(), nn.Linear(6, 4)
        with torch.no_grad():
            self.bare.weight.copy_(torch.from_numpy(MIXING)[:, :, None, None])
            self.logits.weight.copy_(torch.from_numpy(np.linalg.pinv(MIXING)))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.mixed(self.bare(x)).mean((2, 3)))


class Colours(list[tuple[Tensor, int]]):
    """Pictures of some places in one colour, on black."""

    classes = ("red", "green", "blue", "ultraviolet")

    def __init__(self, count: int = 60, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        for index in range(count):
            image = torch.zeros(4, 8, 8, dtype=torch.float64)
            places = torch.rand(8, 8, generator=generator, dtype=torch.float64)
            image[index % 4] = torch.where(places > 0.6, places, 0.0) * (
                0.6 + 0.4 * torch.rand((), generator=generator)
            )
            self.append((image, index % 4))


@pytest.fixture(scope="module")
def mixture() -> Model:
    net = Mixture().double().eval()
    return load_model(net, name="mixture", image_size=8, mean=(0.0,) * 4, std=(1.0,) * 4, labels=Colours.classes)


@pytest.fixture(scope="module")
def colours() -> Colours:
    return Colours()


@pytest.fixture(scope="module")
def found(mixture: Model, colours: Colours) -> Directions:
    return nmf_directions(mixture, "mixed", colours, count=FEATURES, progress=False)


def matched(vectors: np.ndarray) -> list[float]:
    """Give the cosine of each feature's true direction with the direction most like it."""
    truth = MIXING / np.linalg.norm(MIXING, axis=0)
    return np.abs(vectors @ truth).max(0).tolist()


# found


def test_factorization_finds_what_was_mixed(found: Directions) -> None:
    assert min(matched(found.vectors)) > 0.99
    assert found.explained > 0.99
    assert (found.vectors >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1)


def test_clusters_find_what_was_mixed(mixture: Model, colours: Colours) -> None:
    clusters = kmeans_directions(mixture, "mixed", colours, count=FEATURES, progress=False)
    truth = (MIXING / np.linalg.norm(MIXING, axis=0)).T
    nearest = (clusters.vectors @ truth.T).argmax(1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    assert clusters.explained > 0.5
    np.testing.assert_allclose(np.linalg.norm(clusters.vectors, axis=1), 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_again_and_the_network_as_it_was(mixture: Model, colours: Colours, method: str) -> None:
    with assert_untouched(mixture.net):
        first, second = (METHODS[method](mixture, "mixed", colours, count=3, progress=False) for _ in range(2))
    other = METHODS[method](mixture, "mixed", colours, count=3, seed=1, progress=False)
    assert np.array_equal(first.vectors, second.vectors)
    assert not np.array_equal(first.vectors, other.vectors)


def test_vectors_are_drawn_from_images_all_over_the_dataset(mixture: Model) -> None:
    class Counted(Colours):
        seen: set[int]

        def __getitem__(self, index: Any) -> Any:
            self.seen.add(index)
            return super().__getitem__(index)

    counted = Counted()
    counted.seen = set()
    kept = kmeans_directions(mixture, "mixed", counted, count=2, images=5, progress=False)
    assert sorted(counted.seen) == [0, 15, 30, 44, 59]
    assert kept.images == 5


def test_a_layer_with_numbers_below_zero_has_no_factors(colours: Colours) -> None:
    net = Mixture().double().eval()
    with torch.no_grad():
        net.bare.weight[0] = -1
    model = load_model(net, name="negative", image_size=8, mean=(0.0,) * 4, std=(1.0,) * 4, labels=Colours.classes)
    with pytest.raises(ValueError, match="have no NMF"):
        nmf_directions(model, "bare", colours, count=2, progress=False)
    assert len(kmeans_directions(model, "bare", colours, count=2, progress=False)) == 2


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("count is 0", {"count": 0}),
        ("count is True", {"count": True}),
        ("more images", {"count": 10**4}),
        ("nothing", {"images": 0}),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_directions(
    mixture: Model, colours: Colours, method: str, words: str, given: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=words):
        METHODS[method](mixture, "mixed", colours, **{"count": 3, "progress": False} | given)


# controls, and how directions get into each other's way


def test_the_control_loses_only_which_channels_belong_together(found: Directions) -> None:
    control = random_directions(found, seed=3)
    assert np.array_equal(np.sort(control.vectors, axis=1), np.sort(found.vectors, axis=1))
    assert not np.array_equal(control.vectors, found.vectors)
    assert np.array_equal(control.vectors, random_directions(found, seed=3).vectors)
    assert not np.array_equal(control.vectors, random_directions(found, seed=4).vectors)


def test_interference_is_cosines_without_the_diagonal(mixture: Model, found: Directions) -> None:
    assert not interference(unit_directions(mixture, "mixed")).any()
    known = replace(found, vectors=np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]))
    np.testing.assert_allclose(interference(known), [[0, 0.6, 0], [0.6, 0, -0.8], [0, -0.8, 0]])
    assert np.array_equal(known.vectors, [[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])


# examples


def test_examples_of_the_units_as_directions_are_the_examples_of_the_units(mixture: Model, colours: Colours) -> None:
    basis = unit_directions(mixture, "mixed")
    given = find_direction_examples(mixture, basis, colours, count=7, progress=False)
    units = find_examples(mixture, colours, ["mixed"], count=7, progress=False).layer("mixed")
    for name in ("image", "label", "position"):
        assert np.array_equal(getattr(given, name), getattr(units, name)), name
    np.testing.assert_allclose(given.value, units.value, rtol=1e-6)
    np.testing.assert_allclose(given.vectors, units.vectors, rtol=1e-6)


def test_examples_are_the_furthest_along(mixture: Model, found: Directions) -> None:
    """Against a plain loop over images, in another order of batches: 150 images are three of them."""
    many = Colours(150, seed=5)
    given = find_direction_examples(mixture, found, many, count=10, progress=False)
    images = torch.stack([image for image, _ in many])
    with torch.no_grad(), probe(mixture, ["mixed"]) as activations:
        mixture(images)
        maps = activations["mixed"].numpy().copy()
    for row, vector in enumerate(found.vectors):
        values = [max(float(maps[n, :, y, x] @ vector) for y in range(8) for x in range(8)) for n in range(len(many))]
        best = sorted(range(len(many)), key=lambda n: (-values[n], n))[:10]
        assert given.image[row].tolist() == best
        np.testing.assert_allclose(given.value[row], [values[n] for n in best], rtol=1e-5)
        (y, x), n = given.position[row, 0], best[0]
        np.testing.assert_allclose(given.vectors[row, 0], maps[n, :, y, x], rtol=1e-6)


def test_what_lies_along_a_direction_is_no_evidence_against_it(
    mixture: Model, colours: Colours, found: Directions
) -> None:
    given = find_direction_examples(mixture, found, colours, count=12, progress=False)
    evidence = direction_evidence(given, found)
    more = np.random.default_rng(0).normal(size=given.value.shape)
    more -= more.mean(1, keepdims=True)  # the mean of all vectors stays
    moved = given.vectors + (more[:, :, None] * found.vectors[:, None]).astype(np.float32)
    again = direction_evidence(replace(given, vectors=moved), found)
    np.testing.assert_allclose(again.vectors, evidence.vectors, atol=1e-3)
    across = given.vectors + (more[:, :, None] * np.roll(found.vectors, 1, axis=0)[:, None]).astype(np.float32)
    assert not np.allclose(
        direction_evidence(replace(given, vectors=across), found).vectors, evidence.vectors, atol=0.1
    )


def test_all_scores_of_examples_judge_directions(mixture: Model, colours: Colours, found: Directions) -> None:
    evidence = direction_evidence(find_direction_examples(mixture, found, colours, count=12, progress=False), found)
    for name, score in SCORES.items():
        if name not in ("pure", "visualizations"):
            assert score(evidence).shape == (FEATURES,), name


@pytest.mark.parametrize(("words", "count"), [("count is 0", 0), ("count is 61", 61)])
def test_too_many_examples(mixture: Model, colours: Colours, found: Directions, words: str, count: int) -> None:
    with pytest.raises(ValueError, match=words):
        find_direction_examples(mixture, found, colours, count=count, progress=False)


def test_directions_of_elsewhere_are_refused(mixture: Model, colours: Colours, found: Directions) -> None:
    with pytest.raises(ValueError, match="other weights"):
        find_direction_examples(tiny_model("plain"), found, colours, count=3)
    with pytest.raises(ValueError, match="give those of one"):
        find_direction_examples(mixture, [found, unit_directions(mixture, "bare")], colours, count=3)
    with pytest.raises(ValueError, match="no directions"):
        find_direction_examples(mixture, [], colours, count=3)
    given = find_direction_examples(mixture, found, colours, count=8, progress=False)
    with pytest.raises(ValueError, match="give those they are of"):
        direction_evidence(given, unit_directions(mixture, "mixed"))


# compared


@pytest.fixture(scope="module")
def compared(mixture: Model, found: Directions) -> DirectionComparison:
    scores = ["label-entropy", "agreement"]
    return compare_directions(mixture, found, Colours(120, seed=9), scores=scores, count=24, progress=False)


def test_directions_of_features_are_cleaner_than_units_that_mix_them(compared: DirectionComparison) -> None:
    assert compared.bases == ("units", "NMF", "NMF, shuffled")
    assert np.bincount(compared.basis).tolist() == [6, 4, 4]
    units, features, shuffled = compared.mean
    assert features[0] == 0
    assert features[-1] == 1
    assert units[0] > 0.5
    assert shuffled[0] > features[0]
    assert compared.less_high[1, 0] < 0
    assert compared.less_low[1, -1] > 0
    np.testing.assert_allclose(compared.less[1], features - units)
    assert (compared.low <= compared.mean).all() and (compared.mean <= compared.high).all()


def test_units_compared_with_themselves_are_no_cleaner(mixture: Model) -> None:
    same = compare_directions(
        mixture, unit_directions(mixture, "mixed"), Colours(), scores=["label-entropy"], count=12, progress=False
    )
    assert np.array_equal(same.values[same.basis == 0], same.values[same.basis == 1])
    assert (same.less[1] == 0).all()
    assert same.less_low[1, 0] <= 0 <= same.less_high[1, 0]


def test_what_cannot_be_compared(mixture: Model, found: Directions) -> None:
    with pytest.raises(ValueError, match="no score 'beauty'"):
        compare_directions(mixture, found, Colours(), scores=["beauty"])
    with pytest.raises(ValueError, match="no directions"):
        compare_directions(mixture, [], Colours())
    with pytest.raises(ValueError, match="upstream"):
        compare_directions(mixture, found, Colours(), scores=["pure"], count=12, progress=False)


def test_records_come_back(found: Directions, compared: DirectionComparison, tmp_path: Path) -> None:
    pairs = [
        (found, read_directions(write_directions(found, tmp_path / "one"))),
        (random_directions(found), read_directions(write_directions(random_directions(found), tmp_path / "two"))),
        (compared, read_comparison(write_comparison(compared, tmp_path / "three"))),
    ]
    for before, after in pairs:
        for each in fields(before):
            old, new = getattr(before, each.name), getattr(after, each.name)
            same = (
                np.array_equal(old, new) if isinstance(old, np.ndarray) else old == new or (old != old and new != new)
            )
            assert same, each.name
    with pytest.raises(ValueError, match="of kind"):
        read_directions(tmp_path / "three")


def test_they_show_themselves(found: Directions, compared: DirectionComparison) -> None:
    assert repr(found) == "Directions(mixed: 4 by NMF, 100% explained)"
    page = compared._repr_html_()
    assert page.count("<tr>") == 4
    assert "6 units" in page and "purity" in page and "label-entropy" in page
    assert repr(compared).startswith("DirectionComparison(mixed, 24 examples each)")
