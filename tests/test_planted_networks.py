"""Planted networks: hand-written circuits work as their truth says, and edge scores are graded against it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import assert_untouched
from sklearn.metrics import roc_auc_score

from circuits.graphs import build_graph
from circuits.interventions import ablate
from circuits.motifs import equivariance, union_over_cases
from circuits.planted.edges import EDGE_CHOICES, EDGE_SCORES, EdgeGrades, Wired, grade_edges, wire
from circuits.planted.kernels import Kernel, Source, curve, gabor, line, spot, turned, union
from circuits.planted.networks import NETWORKS, curves_and_circles
from circuits.planted.planting import Bed, Planted, Seed, peak_responses, plant
from circuits.planted.stimuli import bar, disc, draw, plain, step
from circuits.wiring import connect
from features.examples.images import read_item
from features.models import load_model
from features.units import Unit


@cache
def planted(name: str, background: float = 0.2, seed: int = 0) -> Planted:
    return NETWORKS[name](background=background, seed=seed)


def table(found: Planted, features: list[str], *, seed: int = 5, count: int = 8) -> dict[str, np.ndarray]:
    """The largest response of each unit to each content, on pictures that the network was not set by: (n, units)."""
    units = [found.unit(feature) for feature in features]
    return {
        content: peak_responses(found, units, found.images(content, count, seed=seed)).numpy()
        for content in found.contents
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_unit_fires_on_what_it_means(name: str) -> None:
    found = planted(name)
    means = {found.names[unit]: contents for unit, contents in found.means.items()}
    seen = table(found, list(means))
    for column, (feature, contents) in enumerate(means.items()):
        for content in contents:
            assert seen[content][:, column].mean() > 0.6, f"{feature} does not fire on {content}"


# Which contents a unit fires on that it does not mean, and how strongly at most, as a part of its response to its own.
OTHERS = {
    ("curves and circles", "circle"): 0.15,
    ("two meanings", "circle"): 0.3,
    ("two meanings", "stripes"): 0.05,
    ("two meanings", "circle or stripes"): 0.4,
    ("two cases", "arrow left"): 0.65,
    ("two cases", "arrow right"): 0.65,
    ("centres and surrounds", "red on green"): 0.6,
    **{("high-low frequency", f"high-low {angle}"): 0.75 for angle in range(0, 360, 45)},
}


@pytest.mark.parametrize(("name", "feature"), OTHERS)
def test_a_unit_is_silent_or_weak_on_everything_else(name: str, feature: str) -> None:
    found = planted(name)
    means = found.means[found.unit(feature)]
    seen = {content: values[:, 0].mean() for content, values in table(found, [feature]).items()}
    own = min(seen[content] for content in means)
    others = {content: value / own for content, value in seen.items() if content not in means}
    assert max(others.values()) < OTHERS[name, feature], others


def test_a_circle_unit_fires_on_every_circle_and_on_no_other_curvature_line_or_corner() -> None:
    found = planted("curves and circles")
    seen = {content: values[:, 0] for content, values in table(found, ["circle"], count=16).items()}
    lowest = seen.pop("circle").min()
    assert lowest > 0.2 and lowest > max(values.max() for values in seen.values())
    assert max(seen[each].max() for each in ("small circle", "large circle", "straight edge", "bar")) == 0


def test_curves_prefer_their_own_orientation_and_their_neighbours_come_next() -> None:
    found = planted("curves and circles")
    angles = range(0, 360, 45)
    seen = table(found, [f"curve {angle}" for angle in angles])
    tuning = np.array([seen[f"curve {angle}"].mean(0) for angle in angles])
    turned_to_own = np.array([np.roll(column, -number) for number, column in enumerate(tuning.T)])
    assert (turned_to_own[:, 0] > 1.2 * turned_to_own[:, 1:].max(1)).all()
    assert turned_to_own[:, [1, 7]].mean() > 1.5 * turned_to_own[:, 2:7].mean()


def test_a_boundary_needs_both_frequencies_on_their_own_sides() -> None:
    found = planted("high-low frequency")
    seen = table(found, ["high-low 0", "high-low 180"])
    assert (seen["high-low 0"][:, 0] > 2 * seen["high-low 0"][:, 1]).all()
    assert (seen["high-low 180"][:, 1] > 2 * seen["high-low 180"][:, 0]).all()
    for half in ("high", "low", "high-plain 0", "plain-low 0", "plain"):
        assert seen[half][:, 0].mean() < 0.5 * seen["high-low 0"][:, 0].mean(), half


def test_two_cases_exclude_each_other_and_the_union_takes_either() -> None:
    found = planted("two cases")
    seen = table(found, ["arrow left", "arrow right", "arrow"])
    left, right = seen["arrow left"], seen["arrow right"]
    assert left[:, 0].mean() > 4 * left[:, 1].mean() and right[:, 1].mean() > 4 * right[:, 0].mean()
    assert min(left[:, 2].mean(), right[:, 2].mean()) > 0.6
    assert max(seen[content][:, 2].max() for content in ("double arrow", "cross", "circle")) < 0.2


def test_cross_inhibition_is_what_keeps_the_double_arrow_out() -> None:
    found = planted("two cases")
    double, arrow = found.images("double arrow", 8, seed=5), [found.unit("arrow")]
    with ablate(found.model, [found.unit("tip right")]):
        without = peak_responses(found, arrow, double)
    assert peak_responses(found, arrow, double).max() < 0.2 < 0.5 < without.mean()


@pytest.mark.parametrize(
    ("part", "lost", "kept"), [("texture", "fine stripes", "circle"), ("curve", "circle", "fine stripes")]
)
def test_the_two_meanings_of_a_polysemantic_unit_go_by_separate_wires(part: str, lost: str, kept: str) -> None:
    found = planted("two meanings")
    unit = [found.unit("circle or stripes")]
    sources = [each for each, name in found.names.items() if name.startswith(part)]
    before = {content: peak_responses(found, unit, found.images(content, 8, seed=5)).mean() for content in (lost, kept)}
    with ablate(found.model, sources):
        after = {content: peak_responses(found, unit, found.images(content, 8, seed=5)).mean() for content in before}
    assert after[lost] < 0.1 * before[lost]
    assert after[kept] > 0.8 * before[kept]


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_background_the_planted_kernels_are_the_wires_of_connect(name: str) -> None:
    found = NETWORKS[name](background=0, distractors=3)
    layers = found.model.default_layers
    for source, target in pairwise(layers):
        weights = connect(found.model, source, target).numpy()
        truth = np.zeros_like(weights)
        for (one, other), kernel in found.kernels.items():
            if Unit.of(other).layer == target:
                truth[Unit.of(other).channel, Unit.of(one).channel] = kernel
        own = [Unit.of(unit).channel for unit in found.names if Unit.of(unit).layer == target]
        assert np.allclose(weights[own], truth[own], atol=1e-5 * np.abs(truth).max())


@pytest.mark.parametrize("name", ["curves and circles", "two cases", "centres and surrounds"])
def test_the_background_is_as_strong_as_it_says_and_lies_on_every_wire_of_planted_units(name: str) -> None:
    found = planted(name, background=0.5)
    layers = found.model.default_layers
    for source, target in pairwise(layers):
        weights = connect(found.model, source, target).numpy()
        for unit in (each for each in found.names if Unit.of(each).layer == target):
            own = {one: kernel for (one, other), kernel in found.kernels.items() if other == unit}
            rest = [
                np.linalg.norm(weights[Unit.of(unit).channel, channel] - own.get(f"{source}:{channel}", 0))
                for channel in range(weights.shape[1])
            ]
            assert min(rest) > 0
        assert 0.3 < _background_ratio(found, layers[1]) < 0.7


def _background_ratio(found: Planted, target: str) -> float:
    """Background over planted norm, each unit's scale taken out."""
    source = found.model.default_layers[0]
    weights = connect(found.model, source, target).numpy()
    background, planted_norms = [], []
    for unit in (each for each in found.names if Unit.of(each).layer == target):
        own = {Unit.of(one).channel: kernel for (one, other), kernel in found.kernels.items() if other == unit}
        row = weights[Unit.of(unit).channel]
        scale = np.linalg.norm(row)
        background += [np.linalg.norm(row[c]) / scale for c in range(len(row)) if c not in own]
        planted_norms += [np.linalg.norm(kernel) / scale for kernel in own.values()]
    return float(np.mean(background) / np.median(planted_norms))


def test_edges_are_the_sums_of_the_kernels_and_say_what_excites_and_what_inhibits() -> None:
    found = planted("two cases")
    assert set(found.edges) == set(found.kernels)
    assert found.edges[found.unit("tip left"), found.unit("arrow left")] > 0
    assert found.edges[found.unit("tip right"), found.unit("arrow left")] < 0
    balanced = planted("high-low frequency")
    edge = balanced.unit("high"), balanced.unit("high-low 0")
    assert abs(balanced.edges[edge]) < 1e-6 * np.abs(balanced.kernels[edge]).sum()


def test_the_planted_union_is_found_as_a_motif_and_the_curves_turn_with_their_edges() -> None:
    found = planted("two cases")
    graph = build_graph(found.model, keep=20, progress=False)
    kernels = connect(found.model, "cases", "unions")
    motif = union_over_cases(graph, kernels, "tips", "cases", "unions", samples=9)
    roles = [{data["role"]: node for node, data in each.nodes(data=True)} for each in motif.found]
    cases = {found.unit("arrow left"), found.unit("arrow right")}
    assert any(role["union"] == found.unit("arrow") and {role["case"], role["case'"]} == cases for role in roles)
    curves = planted("curves and circles")
    families = [
        {unit: float(name.split()[1]) for unit, name in curves.names.items() if name.startswith(kind)}
        for kind in ("edge", "curve")
    ]
    weights = connect(curves.model, "edges", "curves")
    assert equivariance(weights, *families, tolerance=1, samples=19).p_value <= 0.05


@pytest.mark.parametrize("name", ["two cases", "centres and surrounds"])
def test_the_same_seed_gives_the_same_network_and_another_another_without_touching_any_generator(name: str) -> None:
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    one, two, other = (NETWORKS[name](seed=seed) for seed in (0, 0, 1))
    assert one.model.digest == two.model.digest != other.model.digest
    assert one.names == two.names != other.names
    assert torch.equal(torch.get_rng_state(), state) and np.random.get_state()[1].tobytes() == numbers  # noqa: NPY002


def test_pictures_are_what_a_model_takes_and_the_same_for_the_same_seed() -> None:
    found = planted("curves and circles")
    dataset = found.dataset(2, seed=4)
    assert [label for _, label in dataset] == [number for number in range(len(found.contents)) for _ in range(2)]
    image, label = read_item(dataset, 3, found.model.image_size, 3)
    assert label == 1 and image.min() >= 0 and image.max() <= 1
    assert torch.equal(found.images("square", 3, seed=2), found.images("square", 3, seed=2))
    assert not torch.equal(found.images("square", 3, seed=2), found.images("square", 3, seed=3))


def test_a_disc_lies_where_its_radius_says_and_a_step_gets_brighter_where_it_points() -> None:
    bright = (draw(disc(10), 20) > 0.65).float().mean(1).sum((1, 2))
    assert torch.allclose(bright.mean(), torch.tensor(math.pi * 100), rtol=0.06)
    right, up = draw(step(0), 4), draw(step(90), 4)
    assert (right[..., 40:].mean((1, 2, 3)) > right[..., :24].mean((1, 2, 3))).all()
    assert (up[:, :, :24].mean((1, 2, 3)) > up[:, :, 40:].mean((1, 2, 3))).all()


def test_kernels_turn_mirror_move_and_add_as_said() -> None:
    blob = spot(0.8).moved(1, 2).drawn(9)
    assert np.unravel_index(blob.argmax(), blob.shape) == (5, 6)
    moved = spot(0.8).moved(1, 2)
    assert np.allclose(moved.turned(90).drawn(9), np.rot90(blob))
    assert np.allclose(moved.mirrored().drawn(9), blob[:, ::-1])
    assert np.allclose((2 * moved - moved).drawn(9), blob)
    assert np.allclose(moved.turned(30).turned(60).drawn(9), np.rot90(blob))
    assert abs(gabor(4, 0, 1.8).drawn(15).sum()) < 1e-3 * np.abs(gabor(4, 0, 1.8).drawn(15)).sum()
    assert abs(line(3, 1.2).drawn(15).sum()) < 1e-2 * np.abs(line(3, 1.2).drawn(15)).sum()
    reads = curve(5, 16)
    assert {str(source) for source in turned(reads, 90)} == {str(source.turned(90)) for source in reads}
    both = union({Source("a"): spot(1)}, {Source("a"): spot(1), Source("b"): spot(1)})
    assert np.allclose(both[Source("a")].drawn(3), 2 * both[Source("b")].drawn(3))


def graded(values: np.ndarray, found: Wired) -> dict[str, float]:
    """AUROC and R-precision by loops, for comparison."""
    areas, hits, wanted = [], 0, 0
    for target in sorted({edge[1] for edge in found.edges}):
        mine = [place for place, edge in enumerate(found.edges) if edge[1] == target]
        truth = [found.edges[place] in found.planted.kernels for place in mine]
        if not all(truth):
            areas.append(roc_auc_score(truth, values[mine]))
        best = sorted(mine, key=lambda place: -values[place])[: sum(truth)]
        hits += sum(found.edges[place] in found.planted.kernels for place in best)
        wanted += sum(truth)
    return {"auroc": float(np.mean(areas)), "found": hits / wanted}


def test_grades_are_what_a_slow_count_gives_and_a_strong_score_beats_a_blind_one() -> None:
    name = "centres and surrounds"
    grades = grade_edges([name], backgrounds=[0.2], progress=False)
    found = wire(planted(name))
    assert [each.score for each in grades.scores] == list(EDGE_SCORES)
    assert [each.choice for each in grades.choices] == list(EDGE_CHOICES)
    by_name = {each.score: each for each in grades.scores}
    for score in ("strength", "contribution"):
        expected = graded(EDGE_SCORES[score](found), found)
        assert by_name[score].auroc == pytest.approx(expected["auroc"])
        assert by_name[score].found == pytest.approx(expected["found"])
    assert by_name["strength"].found == 1 and by_name["strength"].auroc > 0.99
    assert by_name["inhibition"].excitatory < 1
    assert by_name["gated"].auroc == pytest.approx(by_name["strength"].auroc)  # nothing rectifies between neighbours
    chosen = {each.choice: each for each in grades.choices}
    kept = build_graph(found.planted.model, keep=10, progress=False)
    mine = [edge for edge in kept.edges if edge in set(found.edges)]
    hits = sum(edge in found.planted.kernels for edge in mine)
    assert chosen["build_graph by strength"].precision == pytest.approx(hits / len(mine))
    assert chosen["build_graph by strength"].recall == pytest.approx(hits / len(found.planted.kernels)) == 1
    assert chosen["q below 0.05"].precision > 0.9


def test_a_background_as_strong_as_the_circuit_hides_it_from_strength() -> None:
    name = "curves and circles"
    strong = grade_edges([name], backgrounds=[0.1, 1.0], scores=["strength"], choices=[], progress=False).scores
    assert strong[0].auroc > 0.99 > strong[1].auroc


def test_a_score_that_knows_nothing_is_graded_as_chance_and_one_that_knows_all_as_perfect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = np.random.default_rng(0)
    monkeypatch.setitem(EDGE_SCORES, "blind", lambda found: chance.random(len(found.edges)))
    monkeypatch.setitem(EDGE_SCORES, "constant", lambda found: np.ones(len(found.edges)))
    monkeypatch.setitem(
        EDGE_SCORES, "oracle", lambda found: np.array([float(edge in found.planted.kernels) for edge in found.edges])
    )
    scores = ["blind", "constant", "oracle"]
    grades = grade_edges(["curves and circles"], backgrounds=[0.2], scores=scores, choices=[], progress=False).scores
    assert 0.35 < grades[0].auroc < 0.65
    assert grades[1].auroc == 0.5
    assert (grades[2].auroc, grades[2].average_precision, grades[2].found) == (1, 1, 1)
    assert grades[2].excitatory == grades[2].inhibitory == 1


def test_grading_leaves_the_network_as_it_was() -> None:
    found = planted("centres and surrounds")
    with assert_untouched(found.model.net):
        seen = wire(found)
        for score in EDGE_SCORES.values():
            score(seen)


def test_grades_show_themselves_as_text_and_in_a_notebook() -> None:
    row = grade_edges(["centres and surrounds"], backgrounds=[0.2], scores=["strength"], choices=[], progress=False)
    grades = EdgeGrades((row.scores[0], replace(row.scores[0], network="other", auroc=0.5)), row.choices)
    text, markup = str(grades), grades._repr_html_()
    mean = f"{(row.scores[0].auroc + 0.5) / 2:.3g}"
    assert "strength" in text and mean in text and "choice" not in text
    assert f"<td>{mean}</td>" in markup


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: curves_and_circles(background=-1), "numbers from 0 on"),
        (lambda: curves_and_circles(background=math.nan), "numbers from 0 on"),
        (lambda: planted("two cases").unit("dog"), "no feature 'dog' was planted in two cases: there are"),
        (lambda: planted("two cases").images("dog"), "no content 'dog' of two cases: it has arrow left"),
        (lambda: planted("two cases").images("cross", 0), "at least one picture"),
        (lambda: spot(1).drawn(4), "odd number of rows"),
        (lambda: grade_edges(["dogs"]), "no planted network 'dogs': there are curves and circles"),
        (lambda: grade_edges(scores=["luck"]), "no edge score 'luck': there are strength"),
        (lambda: grade_edges(choices=["all"]), "no choice of edges 'all': there are build_graph by strength"),
        (
            lambda: plant(
                "silent", [Bed("a", 3, [Seed(Source("b"), {Source("red"): -1 * spot(1)}, ("disc",))])],
                {"disc": bar(200)}, background=0, distractors=0, seed=0,
            ),
            "nothing that is drawn excites 'b'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]


def test_a_planted_network_is_any_other_model() -> None:
    found = planted("two meanings")
    assert found.model.default_layers == ("edges", "parts", "things")
    again = load_model(found.model.net, name="again", image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert again.digest == found.model.digest
    assert isinstance(spot(1) + spot(2), Kernel) and plain() is not None
