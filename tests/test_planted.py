"""The planted truth and the ruler: merged units, what labels and factors know of them, and how scores are graded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score, roc_auc_score
from torch import Tensor, nn

from circuits.meanings.evidence import Evidence, whitened
from circuits.meanings.upstream import find_upstream
from circuits.planted import factors, grading, members, merging
from circuits.planted.__main__ import main
from circuits.planted.benchmarks import Benchmark, make_benchmark, read_benchmark, write_benchmark
from circuits.planted.members import MIXTURES, Known
from circuits.planted.merging import Merge, Merging, merged, merged_beside, scaled
from circuits.planted.responses import Responses, respond
from features.examples import find_examples
from features.models import Model, load_model, probe
from features.sketches import LABELS, Sketches
from tests.conftest import assert_untouched, random_images, tiny_model

COLOURS = 6  # classes of the world of colours, and channels of its images
FAMILY = ("plain", "batch_norm", "residual", "branch_concat", "pooled", "inplace_relu")


# ---- merged units


def combined(maps: Tensor, merge: Merge) -> Tensor:
    """Say slowly what a planted unit gives, (n, ...) from (n, c, ...)."""
    best = torch.stack([scale * maps[:, member] for member, scale in zip(merge.members, merge.scales, strict=True)])
    value = best.max(0).values
    chance = value.abs() * merging.SCATTER
    return value * (1 - merge.noise * (chance - chance.floor()))


def test_a_merged_unit_by_hand() -> None:
    unit = Merging([Merge((2, 0), (1.0, 10.0)), Merge((1,), (3.0,))], channels=4)
    given = unit(torch.tensor([[[1.0, 0.1], [5.0, 6.0], [7.0, 7.0], [8.0, 9.0]]]))
    assert given.tolist() == [[[0.0, 0.0], [15.0, 18.0], [10.0, 7.0], [8.0, 9.0]]]


@pytest.mark.parametrize("name", FAMILY)
def test_a_network_with_merged_units_is_the_original_with_that_layer_edited(name: str) -> None:
    model, images = tiny_model(name), random_images(3)
    layer = model.default_layers[1]
    merges = [Merge((1, 4), (2.0, 0.5)), Merge((0,), (1.0,), "noise", 0.5), Merge((5, 2, 3), (1.0, 3.0, 0.3))]

    def edit(maps: Tensor) -> Tensor:
        given = maps.clone()
        for merge in merges:
            given[:, list(merge.members)] = 0
        for merge in merges:
            given[:, merge.members[0]] = combined(maps, merge)
        return given

    with assert_untouched(model.net):
        planted = merged(model, layer, merges)
        with probe(model, [layer], edits={layer: edit}, stop=False) as read:
            answers, expected = model(images), read[layer]
        with probe(planted, [layer], stop=False) as read:
            given, found = planted(images), read[layer]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(given, answers, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(given, model(images)), "what follows reads the planted units"


def test_units_merged_beside_a_layer_give_what_they_give_in_place_and_leave_the_answers_alone() -> None:
    model, images = tiny_model("branch_concat"), random_images(3)
    plans = {"a": ("mixed1", [Merge((1, 4), (2.0, 0.5))]), "b": ("mixed1", [Merge((1,), (1.0,), "noise", 0.9)])}
    with assert_untouched(model.net):
        planted, where = merged_beside(model, plans)
        with probe(planted, list(where.values()), stop=False) as read:
            answers, found = planted(images), dict(read)
        torch.testing.assert_close(answers, model(images), rtol=1e-12, atol=1e-12)
        for name, (layer, merges) in plans.items():
            net = merged(model, layer, merges)
            with probe(net, [layer]) as alone:
                net(images)
                torch.testing.assert_close(found[where[name]], alone[layer], rtol=0, atol=0)


def test_gradients_pass_through_the_member_that_is_largest() -> None:
    maps = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 2.0]], dtype=torch.float64, requires_grad=True)
    Merging([Merge((0, 1), (1.0, 2.0))], channels=3, dtype=torch.float64)(maps)[:, 0].sum().backward()
    assert maps.grad is not None
    assert maps.grad.tolist() == [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]


def test_wiring_reads_a_merged_unit_as_the_mean_of_its_members() -> None:
    from circuits.wiring import connect

    model = tiny_model("plain")
    merge = Merge((1, 4), (2.0, 0.5))
    wires, planted = connect(model, "relu1", "relu2"), connect(merged(model, "relu2", [merge]), "relu1", "relu2")
    torch.testing.assert_close(planted[1], (2.0 * wires[1] + 0.5 * wires[4]) / 2)
    torch.testing.assert_close(planted[0], wires[0])
    assert planted[4].abs().max() == 0


def test_noise_is_in_its_range_alike_in_every_batch_and_seems_random() -> None:
    maps = torch.rand(400, 2, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    noisy = Merging([Merge((0,), (1.0,), "noise", 0.5)], channels=2)
    kept = (noisy(maps)[:, 0] / maps[:, 0]).double()
    assert 0.5 <= kept.min() < 0.51
    assert 0.99 < kept.max() <= 1.0
    assert abs(kept.mean() - 0.75) < 0.01
    assert abs(np.corrcoef(kept.flatten(), maps[:, 0].flatten())[0, 1]) < 0.05
    torch.testing.assert_close(torch.cat([noisy(part) for part in maps.split(7)]), noisy(maps), rtol=0, atol=0)


def test_scales_share_the_examples_as_planned() -> None:
    rng = np.random.default_rng(0)
    for shares in MIXTURES.values():
        values = np.zeros((len(shares), 900), np.float32)
        for row in range(len(shares)):
            values[row, row * 300 : (row + 1) * 300] = rng.exponential(row + 1.0, 300)
        together = np.max(values * np.array(scaled(list(values), shares, 100))[:, None], axis=0)
        owners = np.argsort(-together, kind="stable")[:100] // 300
        assert np.bincount(owners, minlength=len(shares)).tolist() == [round(100 * share) for share in shares]


@pytest.mark.parametrize(
    ("layer", "merges", "message"),
    [
        ("relu2", [Merge((1, 9), (1.0, 1.0))], "below the layer's 7 channels"),
        ("relu2", [Merge((1, 2), (1.0, 1.0)), Merge((2,), (1.0,))], "channel 2 is a member of two"),
        ("relu2", [], "give at least one"),
        ("nowhere", [Merge((1,), (1.0,))], "no layer 'nowhere'"),
    ],
)
def test_merges_that_do_not_fit_are_refused(layer: str, merges: list[Merge], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merged(tiny_model("plain"), layer, merges)


def test_what_cannot_be_merged_is_refused() -> None:
    for members_, scales, noise, message in (
        ((), (), 0.0, "give different channels"),
        ((1, 1), (1.0, 1.0), 0.0, "give different channels"),
        ((1,), (1.0, 2.0), 0.0, "one scale for each"),
        ((-1,), (1.0,), 0.0, "channels from 0"),
        ((1,), (float("nan"),), 0.0, "scales above 0"),
        ((1,), (1.0,), 1.0, "from 0 to under 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Merge(members_, scales, noise=noise)
    for name in ("tokens", "reused_module"):
        model = tiny_model(name)
        layer = next(
            each.name
            for each in model.layers
            if each.layout == "ntc" or any(other.name == f"{each.name}#1" for other in model.layers)
        )
        with pytest.raises(ValueError, match="cannot be merged at"):
            merged(model, layer, [Merge((0,), (1.0,))])
    for shares in ((0.5, 0.4), (0.5,), (1.5, -0.5)):
        with pytest.raises(ValueError, match="1 together"):
            scaled([np.ones(9), np.ones(9)], shares, 4)
    with pytest.raises(ValueError, match="a member has 2 examples, and 4 are asked"):
        scaled([np.array([1.0, 2.0, 0.0]), np.ones(9)], (0.5, 0.5), 8)


# ---- a world whose classes are colours, and a network that has eight units for each


class Colours:
    """Images of six channels: class ``c`` is a bright patch of channel ``c``, whose brightness and place vary."""

    classes = tuple("abcdef")

    def __init__(self, count: int = 480) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rng = np.random.default_rng(index)
        label = index % COLOURS
        image = rng.uniform(0, 0.05, (COLOURS, 12, 12))
        y, x = rng.integers(1, 10, 2)
        image[label, y - 1 : y + 2, x - 1 : x + 2] += rng.uniform(0.3, 0.9)
        return torch.from_numpy(image), label


class Painter(nn.Module):
    """conv1 reads colours, conv2 has eight units for each class; all their weights vary a little."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(COLOURS, 12, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(12, 48, 1), nn.ReLU()
        self.logits = nn.Linear(48, COLOURS)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for each in self.parameters():
                each.copy_(0.02 * torch.rand(each.shape, generator=generator, dtype=torch.float64))
            for unit in range(12):
                self.conv1.weight[unit, unit % COLOURS] += torch.rand(3, 3, generator=generator)
            for unit in range(48):
                self.conv2.weight[unit, [unit % COLOURS, unit % COLOURS + COLOURS]] += torch.rand(
                    2, generator=generator
                )[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.relu2(self.conv2(self.relu1(self.conv1(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def painter() -> Model:
    net = Painter().double().eval()
    model = load_model(net, name="painter", image_size=12, mean=(0.0,) * COLOURS, std=(1.0,) * COLOURS)
    return replace(model, default_layers=("relu1", "relu2", "logits"))


@pytest.fixture(scope="module")
def planted(painter: Model) -> Benchmark:
    return make_benchmark(
        painter, Colours(), ["relu2"], kin=[("e", "f")], names=Colours.classes, count=20, rounds=3, progress=False
    )


def test_what_is_planted_is_what_was_planned(planted: Benchmark) -> None:
    assert {"50/50", "80/20", "93/7", "40/30/30", "single", "noise"} <= set(planted.mixtures)
    counts = {name: planted.mixtures.count(name) for name in planted.mixtures}
    assert counts["50/50"] == counts["80/20"] == counts["93/7"] >= 8
    for mixture, members_, owner, realized in zip(
        planted.mixtures, planted.members, planted.owner, planted.realized, strict=True
    ):
        shares = MIXTURES.get(mixture, (1.0,))
        if mixture in ("family", "near-duplicate"):
            assert len(members_) == 2
            continue
        assert abs(realized - max(shares)) <= 0.05
        assert len(members_) == len(shares) == owner.max() + 1
    assert planted.polysemantic.tolist() == [name in MIXTURES for name in planted.mixtures]


def test_members_are_of_classes_as_unrelated_as_they_are_said_to_be(planted: Benchmark) -> None:
    classes = np.array(Colours.classes)
    for mixture, members_, owner, labels in zip(
        planted.mixtures, planted.members, planted.owner, planted.evidence.label, strict=True
    ):
        names = {str(classes[member % COLOURS]) for member in members_}
        assert len(names) == (len(members_) if mixture in MIXTURES else 1)
        assert not {"e", "f"} <= names
        for place in set(owner.tolist()):
            assert (labels[owner == place] == members_[place] % COLOURS).mean() > 0.9
    once = [
        (mixture, frozenset(members_))
        for mixture, members_ in zip(planted.mixtures, planted.members, strict=True)
        if mixture != "noise"
    ]
    assert len(set(once)) == len(once)


def test_members_of_what_stands_side_by_side_are_disjoint(planted: Benchmark) -> None:
    layers = [unit.rpartition(":")[0] for unit in planted.evidence.units]
    for layer in set(layers):
        taken = [member for mine, some in zip(layers, planted.members, strict=True) if mine == layer for member in some]
        assert len(taken) == len(set(taken))


def test_a_split_by_units_shares_no_unit(painter: Model) -> None:
    wanted: dict[str, set[int]] = {}
    for part in ("development", "held-out"):
        made = make_benchmark(
            painter, Colours(), ["relu2"], kin=(), names=Colours.classes, part=part, count=20, rounds=1, progress=False
        )
        wanted[part] = {member for some in made.members for member in some}
    assert wanted["development"] and wanted["held-out"]
    assert not wanted["development"] & wanted["held-out"]


def test_evidence_is_what_the_planted_network_gives_by_the_ordinary_way(painter: Model, planted: Benchmark) -> None:
    responses, labels = respond(painter, Colours(), {"relu2": range(48)}, progress=False)
    known = Known(labels, Colours.classes, [("e", "f")])
    plans = members.plan("relu2", responses["relu2"], known, count=20, rounds=3)
    net, where = merged_beside(painter, {name: (each.layer, each.merges) for name, each in plans.items()})
    examples = find_examples(net, Colours(), list(where.values()), count=20, progress=False)
    units = list(planted.evidence.units)
    upstream = find_upstream(replace(net, default_layers=("relu1",)), examples, Colours(), units, progress=False)
    np.testing.assert_allclose(planted.evidence.upstream, upstream, rtol=1e-5, atol=1e-7)
    vectors = np.stack([examples[unit].vectors for unit in units])
    vectors[np.arange(len(units)), :, [examples[unit].unit.channel for unit in units]] = 0
    natural = find_examples(painter, Colours(), ["relu2"], count=30, progress=False).layer("relu2").vectors
    raw = replace(planted.evidence, vectors=vectors)
    seen = whitened(raw, ["relu2"] * len(units), {"relu2": natural.reshape(-1, 48)})
    np.testing.assert_allclose(planted.evidence.vectors, seen.vectors, rtol=1e-3, atol=1e-4)
    for row, unit in enumerate(units):
        found = examples[unit]
        assert planted.evidence.image[row].tolist() == found.image.tolist()
        assert planted.evidence.label[row].tolist() == found.label.tolist()
        np.testing.assert_allclose(planted.evidence.value[row], found.value, rtol=1e-6)
        assert planted.evidence.late is not None
        assert np.ptp(planted.evidence.late[row][:, found.unit.channel]) == 0


def test_a_benchmark_comes_back_from_disk(planted: Benchmark, tmp_path: Path) -> None:
    read = read_benchmark(write_benchmark(planted, tmp_path / "planted"))
    assert (read.mixtures, read.members, read.network, read.part) == (
        planted.mixtures, planted.members, planted.network, planted.part,
    )  # fmt: skip
    np.testing.assert_array_equal(read.owner, planted.owner)
    np.testing.assert_array_equal(read.evidence.image, planted.evidence.image)
    np.testing.assert_allclose(read.evidence.vectors, planted.evidence.vectors, rtol=1e-3, atol=1e-6)
    assert read.layers == ("relu2",) * len(planted)
    assert "50/50" in repr(read)


def test_a_network_without_single_meanings_and_images_without_labels_are_refused(painter: Model) -> None:
    with pytest.raises(ValueError, match="no unit of relu2 means one thing"):
        make_benchmark(painter, Colours(30), ["relu2"], kin=(), names=Colours.classes, count=20, progress=False)
    images = [Colours()[index][0] for index in range(8)]
    with pytest.raises(ValueError, match="have no label"):
        make_benchmark(painter, images, ["relu2"], kin=(), names=Colours.classes, count=4, progress=False)


# ---- the ruler


def fake(mixtures: list[str], *, seed: int = 0) -> Benchmark:
    """Give a benchmark with these units, each of two members of its own, and vectors without meaning."""
    count, rng = len(mixtures), np.random.default_rng(seed)
    evidence = Evidence(
        units=tuple(f"layer.planted.a:{row}" for row in range(count)),
        value=np.ones((count, 9)),
        image=np.tile(np.arange(9), (count, 1)),
        label=np.zeros((count, 9), np.int64),
        classes=2,
        vectors=rng.standard_normal((count, 9, 5)).astype(np.float32),
    )
    own = tuple((2 * row, 2 * row + 1) for row in range(count))
    return Benchmark("net", "all", evidence, tuple(mixtures), own, np.zeros((count, 9), np.int64))


def many(count: int = 60) -> Benchmark:
    return fake(["50/50"] * count + ["93/7"] * count + ["single"] * count + ["noise"] * count)


def test_auroc_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        positive, negative = rng.integers(0, 6, rng.integers(1, 30)), rng.integers(0, 5, rng.integers(1, 30))
        truth = np.repeat([1, 0], [len(positive), len(negative)])
        expected = roc_auc_score(truth, np.concatenate([positive, negative]))
        assert grading.auroc(positive, negative) == pytest.approx(expected, abs=1e-12)


def test_an_oracle_is_graded_one_and_chance_a_half() -> None:
    benchmark = many(150)
    rng = np.random.default_rng(1)
    scores: dict[str, Callable[[Evidence], np.ndarray]] = {
        "oracle": lambda evidence: benchmark.polysemantic.astype(float),
        "wrong": lambda evidence: -benchmark.polysemantic.astype(float),
        "constant": lambda evidence: np.zeros(len(evidence)),
        "chance": lambda evidence: rng.standard_normal(len(evidence)),
    }
    found = grading.grade(benchmark, scores, draws=200, progress=False)
    told = {(each.score, each.mixture): each for each in found.scores}
    for mixture in ("50/50", "93/7"):
        for name, value in (("oracle", 1.0), ("wrong", 0.0), ("constant", 0.5)):
            each = told[name, mixture]
            assert (each.auroc, each.low, each.high) == (value, value, value)
        each = told["chance", mixture]
        assert abs(each.auroc - 0.5) < 0.08
        assert each.low < 0.5 < each.high
        assert (each.merged, each.controls) == (150, 300)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    benchmark, inside = many(40), 0
    true = 0.7602  # that a normal number about 1 is larger than one about 0: Phi(1 / sqrt 2)
    for seed in range(60):
        values = np.random.default_rng(seed).standard_normal(len(benchmark)) + benchmark.polysemantic
        each = grading.grade_values(benchmark, "drawn", values, draws=200, seed=seed)[0]
        inside += each.low <= true <= each.high
    assert inside >= 52


def test_intervals_know_that_units_share_members() -> None:
    apart = many(40)
    main = np.arange(len(apart)) % 8 + 8 * ~apart.polysemantic
    values = np.random.default_rng(1).standard_normal(16)[main] + 0.5 * apart.polysemantic
    shared = replace(apart, members=tuple((int(each), 100 + row) for row, each in enumerate(main)))
    one, other = (grading.grade_values(each, "drawn", values, draws=300)[0] for each in (apart, shared))
    assert one.auroc == other.auroc
    assert other.high - other.low > 1.3 * (one.high - one.low)


def test_scores_that_refuse_are_named_and_those_of_another_shape_are_refused() -> None:
    def refuses(evidence: Evidence) -> np.ndarray:
        raise ValueError("the evidence has no upstream")

    found = grading.grade(many(5), {"pure": refuses}, draws=10, progress=False)
    assert found.left_out == (("net", "pure", "the evidence has no upstream"),)
    assert "pure was not graded on net: the evidence has no upstream." in str(found)
    with pytest.raises(ValueError, match=r"'short' gave have shape \(3,\)"):
        grading.grade(many(5), {"short": lambda evidence: np.zeros(3)}, draws=10, progress=False)
    with pytest.raises(ValueError, match="merged units and controls are needed"):
        grading.grade(fake(["50/50"] * 4), {}, progress=False)


def test_units_that_a_score_cannot_judge_are_left_out() -> None:
    benchmark = many(10)
    values = benchmark.polysemantic.astype(float)
    values[[0, 39]] = np.nan
    each = grading.grade_values(benchmark, "some", values, draws=20)[0]
    assert (each.merged, each.controls, each.auroc) == (9, 19, 1.0)


def test_the_most_diffuse_controls_are_graded_apart() -> None:
    benchmark = many(6)
    vectors = benchmark.evidence.vectors * np.where(np.arange(24) % 3 == 0, 5.0, 1.0)[:, None, None].astype(np.float32)
    wide = replace(benchmark, evidence=replace(benchmark.evidence, vectors=vectors))
    assert np.flatnonzero(grading.most_diffuse(wide)).tolist() == [12, 15, 18, 21]
    # Above two thirds of the controls, but below those that are wide.
    values = np.where(grading.most_diffuse(wide), 2.0, benchmark.polysemantic)
    each = grading.grade_values(wide, "fooled", values, draws=10)[0]
    assert (each.auroc, each.diffuse) == (pytest.approx(8 / 12), 0.0)


def test_calibration_by_hand() -> None:
    benchmark = fake(["50/50"] * 4 + ["single"] * 4)
    said = np.array([0.95, 0.95, 0.95, 0.25, 0.95, 0.25, 0.25, 0.25])
    found = grading.calibration(benchmark, said)
    # In [0.2, 0.3) weigh 4 of 8 units, 1 of 4 merged, 0.25 said; in [0.9, 1] 4 of 8, 3 of 4 merged, 0.95 said.
    assert found.ece == pytest.approx(0.5 * abs(0.25 - 0.25) + 0.5 * abs(0.95 - 0.75))
    assert found.weight[2] == found.weight[9] == pytest.approx(0.5)
    assert found.true[9] == pytest.approx(0.75)
    assert np.isnan(found.said[0])


def test_calibration_weighs_merged_units_and_controls_alike_whatever_their_number() -> None:
    rng = np.random.default_rng(0)
    benchmark = fake(["50/50"] * 300 + ["93/7"] * 20 + ["single"] * 40 + ["noise"] * 10)
    said = rng.uniform(size=len(benchmark))
    kinds = np.array(["control" if name not in MIXTURES else name for name in benchmark.mixtures])
    rows = [
        row for kind, share in (("50/50", 1), ("93/7", 1), ("control", 2))
        for row in np.flatnonzero(kinds == kind).repeat(600 * share // (kinds == kind).sum())
    ]  # fmt: skip
    expected = 0.0
    for number in range(10):  # the ordinary ECE of a set in which each kind is there as often as it weighs
        inside = [row for row in rows if number / 10 <= said[row] < (number + 1) / 10]
        if inside:
            expected += abs(sum(said[row] - benchmark.polysemantic[row] for row in inside)) / len(rows)
    assert grading.calibration(benchmark, said).ece == pytest.approx(expected, abs=1e-9)


def test_true_probabilities_are_calibrated_and_confident_wrong_ones_are_not() -> None:
    benchmark = many(60)
    truth = benchmark.polysemantic.astype(float)
    assert grading.calibration(benchmark, truth).ece == 0
    assert grading.calibration(benchmark, 1 - truth).ece == pytest.approx(1)
    assert grading.calibration(benchmark, np.full(len(truth), 0.5)).ece == pytest.approx(0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        grading.calibration(benchmark, truth * 2)


def test_flags_are_counted_by_kind_and_shown() -> None:
    benchmark = many(20)
    flag = benchmark.polysemantic.copy()
    flag[[0, 60]] = [False, True]  # a merged unit is missed, a noisy control is flagged
    found = grading.grade(benchmark, {}, lambda evidence: (flag.astype(float), flag), draws=10, progress=False)
    rates = {each.kind: each for each in found.flags}
    assert rates["50/50"].share == 0.95
    assert rates["noise"].share == rates["all controls"].share * 2 == 0.05
    assert rates["single"].share == 0
    assert rates["all controls"].low < 0.025 < rates["all controls"].high
    assert "| all controls | 2.5% of 40" in found.markdown()
    assert "ECE" in found.markdown()
    told = json.loads(found.to_json())
    assert told["flags"][0]["kind"] == "50/50"
    assert told["reliability"][0]["said"][5] is None


def test_wilson_by_hand() -> None:
    # (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n) for 5 of 20: 0.1119 to 0.4687 (Brown, Cai, DasGupta 2001)
    assert grading.wilson(5, 20) == pytest.approx((0.1119, 0.4687), abs=1e-4)
    assert grading.wilson(20, 20)[1] == 1.0


# ---- factors


def test_mutual_information_of_a_table_by_hand_and_of_scikit_learn() -> None:
    codes = np.repeat([0, 1], [4, 4])
    top = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
    # p(0, in) = 3/8, p(1, in) = 1/8 and so on against 1/4 each: 2 (3/8 log2 3/2 + 1/8 log2 1/2)
    assert factors.mutual_information(codes, top) == pytest.approx(2 * (3 / 8 * np.log2(1.5) - 1 / 8))
    rng = np.random.default_rng(0)
    for _ in range(10):
        codes, top = rng.integers(0, 5, 80), rng.uniform(size=80) < 0.3
        assert factors.mutual_information(codes, top) == pytest.approx(mutual_info_score(codes, top) / np.log(2))


def test_the_null_is_that_of_permutations() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 120)
    totals = np.bincount(codes)
    drawn = factors._information(factors._drawn(totals, 20, 3000, 0), totals)
    shuffled = [factors.mutual_information(codes, rng.permutation(120) < 20) for _ in range(1500)]
    assert drawn.mean() == pytest.approx(np.mean(shuffled), rel=0.06)
    assert np.quantile(drawn, 0.95) == pytest.approx(np.quantile(shuffled, 0.95), rel=0.1)


LABELLED = np.arange(3300) % len(LABELS)


def some_of(**counts: int) -> np.ndarray:
    return np.concatenate([np.flatnonzero(LABELS.index(name) == LABELLED)[:count] for name, count in counts.items()])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"snail": 100}, [{"snail"}]),
        ({"face": 50, "mushroom": 50}, [{"face"}, {"mushroom"}]),
        ({"face": 93, "mushroom": 7}, [{"face"}, {"mushroom"}]),
        ({"car": 60, "bus": 40}, [{"car", "bus"}]),
        ({"car": 40, "bus": 30, "cat": 30}, [{"car", "bus"}, {"cat"}]),
        ({"house": 34, "bus": 33, "bicycle": 33}, [{"house", "bus", "bicycle"}]),
        (dict.fromkeys(("car", "cat", "cup", "tree", "star", "dots", "boat", "fish"), 4), []),
    ],
)
def test_meanings_are_the_unrelated_classes_that_are_there_more_often_than_by_chance(
    counts: dict[str, int], expected: list[set[str]]
) -> None:
    top = some_of(**counts)
    if len(expected) == 0:
        top = np.random.default_rng(0).permutation(3300)[:100]
    found = factors.class_meanings(top, LABELLED, draws=400)
    assert [set(names) for names, _ in found] == expected
    assert all(share == pytest.approx(sum(counts[name] for name in names) / len(top)) for names, share in found)


def test_a_frequent_class_is_taken_out_of_chance_too_once_it_is_a_meaning() -> None:
    labels = np.repeat([LABELS.index(name) for name in ("snail", "cat", "bus")], [2500, 400, 400])
    top = np.concatenate([np.arange(90), 2500 + np.arange(10)])
    assert [names for names, _ in factors.class_meanings(top, labels)] == [("snail",), ("cat",)]


@pytest.mark.parametrize("factor", ["texture", "background", "pose", "part wheel"])
def test_the_factor_that_a_unit_was_made_of_is_found_first(
    factor: str, sketches: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Sketches(400)
    codes = factors.factor_table([world.factors(index) for index in range(400)])[factor]
    rng = np.random.default_rng(0)
    made = np.stack([(codes == codes.max()) + rng.uniform(0, 0.1, 400), rng.uniform(0, 1, 400)], axis=1)
    responses = Responses((3, 5), made.astype(np.float32), np.zeros((400, 2), np.int32))
    labels = np.array([world.label(index) for index in range(400)])
    monkeypatch.setattr(factors, "respond", lambda *_, **__: ({"mixed4c": responses}, labels))
    found = factors.factor_meanings(sketches, world, ["mixed4c:3", "mixed4c:5"], count=30, draws=300, progress=False)
    assert found.explained("mixed4c:3")[0] == factor
    beyond = found.information - found.chance
    assert beyond[0].max() > 4 * beyond[1].max()
    assert found.counts[1] == 0
    assert found.p.shape == (2, len(found.factors))


def test_factors_of_a_network_leave_it_as_it_was_and_refuse_too_few_pictures(sketches: Model) -> None:
    with assert_untouched(sketches.net):
        found = factors.factor_meanings(sketches, Sketches(40), "mixed4c:3", count=8, draws=50, progress=False)
    assert (found.units, found.images, found.count) == (("mixed4c:3",), 40, 8)
    with pytest.raises(ValueError, match="for a top of 40"):
        factors.factor_meanings(sketches, Sketches(60), ["mixed4c:3"], count=40, progress=False)
    with pytest.raises(ValueError, match="no channel 999"):
        factors.factor_meanings(sketches, Sketches(60), ["mixed4c:999"], count=8, progress=False)


def test_factors_as_embedding_put_what_is_alike_together() -> None:
    world = Sketches(300)
    known = [world.factors(index) for index in range(300)]
    rows = factors.factor_vectors(known)
    labels = np.array([each.label for each in known])
    distances = ((rows[:, None] - rows[None]) ** 2).sum(2)
    same = labels[:, None] == labels[None]
    assert distances[same & ~np.eye(300, dtype=bool)].mean() < 0.8 * distances[~same].mean()
    benchmark = fake(["50/50", "single"])
    seen = factors.with_factors(benchmark, world, progress=False)
    np.testing.assert_array_equal(seen.evidence.vectors[0], seen.evidence.vectors[1])
    assert seen.evidence.late is None
    assert seen.network == "net, true factors"


# ---- the command


def test_the_command_grades_what_was_kept(
    planted: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Verdict:
        probability = np.full(len(planted), 0.5)
        flag = np.zeros(len(planted), bool)

    monkeypatch.setattr("circuits.meanings.judging.judge", lambda evidence: Verdict)
    folder = str(write_benchmark(planted, tmp_path / "planted"))
    plain = ["--read", folder, "--scores", "mean-distance,label-entropy", "--no-edges", "--quiet"]
    assert main(plain) == 0
    shown = capsys.readouterr()
    assert "| label-entropy | 1.000 (1.00 to 1.00), 1.00 |" in shown.out
    assert "| all controls | 0.0% of" in shown.out
    assert shown.err == ""
    assert main([*plain, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {each["score"] for each in told["units"]["scores"]} == {"mean-distance", "label-entropy"}
    assert told["edges"] is None


def test_the_command_makes_the_benchmark_of_a_network(
    painter: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[object, ...]] = []

    def made(model: Model, dataset: Sketches, layers: list[str], **said: object) -> Benchmark:
        given.append((model.name, len(dataset), layers, said["part"], said["rounds"], said["count"]))
        return many(4)

    monkeypatch.setattr("circuits.planted.benchmarks.make_benchmark", made)
    assert main(["--images", "50", "--scores", "mean-distance", "--no-edges", "--ceiling", "--quiet"]) == 0
    assert given == [("sketches seed0", 50, ["mixed4a", "mixed4b", "mixed4c"], "held-out", 8, 100)]
    assert "| net, true factors |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "best"], "no score best: there are mean-distance"),
        (["--model", "photographs"], "photographs needs pictures"),
        (["--layers", "mixed9"], "no layer 'mixed9'"),
        (["--read", "nowhere"], "nowhere"),
        (["--weights", "seed7"], "seed7"),
        (["--model", "photographs", "--ceiling", "--dataset", "."], "--ceiling needs pictures"),
        (["--images", "0"], "no whole number of at least 1"),
    ],
)
def test_what_the_command_cannot_do_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
