"""Examples: what a pass finds is what a slow, obvious one finds; boxes are causal; nothing stray, nothing lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, NETS, assert_untouched, random_images, tiny_model
from PIL import Image
from reference import slow_examples, slow_pools
from torch import Tensor, nn

from features.examples import (
    Examples,
    FolderImages,
    crops,
    find_examples,
    finding,
    fingerprint,
    fit_image,
    plans,
    read_examples,
    sums,
    tallies,
    write_examples,
)
from features.examples.loading import batches
from features.examples.passing import Part, finish, merge, sweep
from features.examples.plans import Plan
from features.examples.rankings import Ranking
from features.models import Model, load_model, probe
from features.pictures import from_image, to_image, write_picture
from features.records import read_record, write_record
from features.sketches import Sketches

PREFIXES = ("", "bottom_")
# What depends on which positions of an image were drawn, by the image's index.
DRAWN = frozenset(
    {f"{side}{name}" for side in ("", "pre_") for name in ("sketch", "sketch_start", "histogram", "edges")}
)


class Pairs:
    """A dataset of images and labels; items that are exceptions are raised."""

    classes = CLASSES

    def __init__(self, images: Any, labels: Any = None) -> None:
        self.images = list(images)
        self.given = [index % len(CLASSES) for index in range(len(self.images))] if labels is None else labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if isinstance(self.images[index], Exception):
            raise self.images[index]
        return self.images[index], self.given[index]


class Linear(nn.Module):
    """Units that are known in words: channel i of `out` is image channel 0 times ``scale[i]`` plus ``shift[i]``, at
    each pixel.
    """

    def __init__(self, scale: list[float], shift: list[float], *, rectified: bool) -> None:
        super().__init__()
        self.out = nn.Conv2d(1, len(scale), 1)
        self.out.weight.data = torch.tensor(scale, dtype=torch.float64)[:, None, None, None]
        self.out.bias.data = torch.tensor(shift, dtype=torch.float64)
        self.relu = nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.out(x)).mean((2, 3))


def known(scale: list[float], shift: list[float], *, rectified: bool = True, size: int = 4) -> Model:
    net = Linear(scale, shift, rectified=rectified).double().eval()
    return load_model(net, name="known", image_size=size, mean=(0.0,), std=(1.0,))


def find(model: Model, dataset: Any, layers: Any = None, **options: Any) -> Examples:
    return find_examples(model, dataset, layers, **{"progress": False, "count": 5, "batch": 7, **options})


def readable(model: Model) -> list[str]:
    return [layer.name for layer in model.layers]


def assert_same_examples(
    one: Examples,
    other: Examples,
    *,
    tolerance: float = 0.0,
    image: Callable[[Any], Any] = lambda ids: ids,
    skip: frozenset[str] = frozenset(),
) -> None:
    assert one.layers == other.layers
    for name in one.layers:
        for field in fields(one.layer(name)):
            if field.name in skip:
                continue
            left, right = getattr(one.layer(name), field.name), getattr(other.layer(name), field.name)
            if field.name.endswith("image"):
                right = image(right)
            np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance, err_msg=f"{name} {field.name}")


# Reference


@pytest.mark.parametrize("name", NETS)
def test_a_pass_finds_what_a_slow_one_finds(name: str) -> None:
    model = tiny_model(name)
    images = random_images(11, seed=3)
    dataset = Pairs(images)
    found = find(model, dataset, readable(model), batch=4)
    for layer in readable(model):
        expected = slow_examples(model, dataset, layer, 5)
        arrays = found.layer(layer)
        assert arrays.histogram.sum() == len(arrays.mean) * 11 * min(16, math.prod(model.layer(layer).shape[1:]))
        for key, array in expected.items():
            np.testing.assert_allclose(getattr(arrays, key), array, rtol=1e-5, atol=1e-6, err_msg=f"{layer} {key}")


@pytest.mark.parametrize("name", NETS)
def test_means_classes_and_samples_are_those_of_a_slow_pass(name: str) -> None:
    model = tiny_model(name)
    dataset = Pairs(random_images(11, seed=3), labels=[0, 1, 2, 0, 1, 2, 0, -1, 4, 4, 9])
    found = find(model, dataset, readable(model), batch=4)
    for layer in readable(model):
        arrays = found.layer(layer)
        for key, expected in slow_pools(model, dataset, layer, 5, len(CLASSES)).items():
            given = getattr(arrays, key)
            if key == "field":  # where there is an example
                given, expected = given[arrays.image >= 0], expected[arrays.image >= 0]
            np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6, err_msg=f"{layer} {key}")
        assert arrays.class_count.tolist() == [3, 2, 2, 0, 2] and arrays.sample_label.tolist() == dataset.given


@pytest.mark.parametrize("batch", [1, 3, 20, 64])
def test_results_do_not_depend_on_the_batch(batch: int) -> None:
    model = tiny_model("branch_concat")
    dataset = Pairs(random_images(20))
    one, other = find(model, dataset, batch=5), find(model, dataset, batch=batch)
    assert_same_examples(one, other, tolerance=1e-6)


def test_the_same_pass_gives_the_same_bytes() -> None:
    model = tiny_model("residual")
    dataset = Pairs(random_images(9))
    assert_same_examples(find(model, dataset), find(model, dataset))


def test_vectors_of_large_layers_are_kept_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = tiny_model("plain"), Pairs(random_images(9))
    whole = find(model, dataset, "relu1")
    monkeypatch.setattr(tallies, "LARGE", 150)
    small = find(model, dataset, "relu1").layer("relu1").vectors
    assert small.dtype == np.float16 and whole.layer("relu1").vectors.dtype == np.float32
    np.testing.assert_allclose(small, whole.layer("relu1").vectors, rtol=1e-3)
    assert find(model, dataset, "relu1", vectors=False).layer("relu1").vectors.shape == (6, 5, 0)


def test_the_model_is_left_as_it_was(tiny: Model) -> None:
    with assert_untouched(tiny.net):
        find(tiny, Pairs(random_images(3)))
    with assert_untouched(tiny.net), pytest.raises(ValueError, match="item 2"):
        find(tiny, Pairs([*random_images(2), torch.zeros(3, 5, 5)]), batch=1)


# Ties, dead units, numbers that are not finite


def test_ties_go_by_image_and_position() -> None:
    model = known([1.0], [0.0])
    images = torch.zeros(8, 1, 4, 4, dtype=torch.float64)
    for index, value in enumerate([0.2, 0.9, 0.5, 0.9, 0.9, 0.5, 0.1, 0.9]):
        images[index, 0, 1:, 2] = value
    for batch in (1, 3, 8):
        unit = find(model, images, "relu", batch=batch, count=6)["relu:0"]
        assert unit.image.tolist() == [1, 3, 4, 7, 2, 5]
        assert unit.bottom_image.tolist() == [6, 0, 2, 5, 1, 3]
        assert unit.position.tolist() == [[1, 2]] * 6
        assert unit.label.tolist() == [-1] * 6 and unit.names == ("",) * 6


def test_ties_go_by_image_in_large_batches_too() -> None:
    levels = torch.arange(600) % 3 / 4 + 0.25
    images = levels[:, None, None, None].expand(600, 1, 2, 2).double()
    unit = find(known([1.0], [0.0], size=2), images, "relu", batch=512, count=250)["relu:0"]
    assert unit.image.tolist() == [*range(2, 600, 3), *range(1, 150, 3)]
    assert unit.bottom_image.tolist() == [*range(0, 600, 3), *range(1, 150, 3)]


def test_dead_units_show_no_stray_image() -> None:
    model = known([1.0, -1.0, 0.0, 1.0, 0.0], [0.0, -0.5, 0.0, -0.8, 0.25])
    images = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None, None, None].expand(9, 1, 4, 4)
    found = find(model, Pairs(images), "relu", count=4)
    layer = found.layer("relu")
    assert layer.dead.tolist() == [False, True, True, False, False]
    assert layer.image.tolist() == [[8, 7, 6, 5], [-1] * 4, [-1] * 4, [8, -1, -1, -1], [0, 1, 2, 3]]
    assert np.isnan(layer.value[1]).all() and (layer.label[1] == -1).all()
    assert (layer.box[1] == 0).all() and (layer.vectors[1] == 0).all()
    assert len(found["relu:1"].image) == 0 and found["relu:1"].vectors.shape == (0, 5)
    assert found["relu:1"].bottom_image.tolist() == [0, 1, 2, 3]
    assert "dead" in repr(found["relu:1"]) and "at most 0.9" in repr(found["relu:0"])
    assert crops(found, Pairs(images), "relu:1") == []


def test_a_unit_below_zero_that_is_no_relu_keeps_its_examples() -> None:
    model = known([1.0], [-5.0], rectified=False)
    images = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None, None, None].expand(6, 1, 4, 4)
    unit = find(model, Pairs(images), "out")["out:0"]
    assert unit.image.tolist() == [5, 4, 3, 2, 1] and not unit.dead and unit.firing_rate == 0
    np.testing.assert_allclose(unit.value, [-4, -4.2, -4.4, -4.6, -4.8])


class Spoiled(nn.Module):
    """Gives its input in `out`, with pixels of exactly 1 as NaN, of exactly 0 as infinity, and a second channel
    unspoiled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        bad = x.masked_fill(x == 1, torch.nan).masked_fill(x == 0, torch.inf)
        return self.out(torch.cat([bad, x], 1)).mean((2, 3))


def test_numbers_that_are_not_finite_are_counted_and_never_listed() -> None:
    model = load_model(Spoiled().eval(), name="spoiled", image_size=4, mean=(0.0,), std=(1.0,))
    images = torch.linspace(0.1, 0.9, 6 * 16).reshape(6, 1, 4, 4)
    clean = find(model, Pairs(images), "out", count=3)
    images = images.clone()
    images[1], images[5, 0, 0, 0], images[0, 0, 3, 3] = 1, 0, 1
    found = find(model, Pairs(images), "out", count=6, batch=2)
    unit, other = found["out:0"], found["out:1"]
    assert unit.image.tolist() == [5, 4, 3, 2, 0] and unit.bottom_image.tolist() == [0, 2, 3, 4, 5]
    assert unit.nonfinite == 18 and other.nonfinite == 0
    assert other.image.tolist()[:2] == [0, 1] and not unit.dead
    finite = images[(images > 0) & (images < 1)].double()
    np.testing.assert_allclose([unit.mean, unit.sd], [finite.mean(), finite.std(unbiased=False)], rtol=1e-6)
    np.testing.assert_allclose([unit.minimum, unit.maximum], [finite.min(), finite.max()])
    assert unit.histogram.sum() == len(finite) and np.isfinite(unit.vectors).all()
    assert clean["out:0"].nonfinite == 0


def test_a_unit_that_is_never_finite_has_nothing() -> None:
    model = load_model(Spoiled().eval(), name="spoiled", image_size=4, mean=(0.0,), std=(1.0,))
    unit = find(model, Pairs(torch.ones(3, 1, 4, 4)), "out")["out:0"]
    assert len(unit.image) == len(unit.bottom_image) == 0 and unit.nonfinite == 48
    assert math.isnan(unit.mean) and math.isnan(unit.maximum) and not unit.dead and unit.histogram.sum() == 0


def test_numbers_whose_squares_cannot_be_added_count_as_not_finite() -> None:
    model = known([4e18, 1.0], [0.0, 0.0], rectified=False)
    images = torch.tensor([0.1, 0.2, 0.9, 0.8], dtype=torch.float64)[:, None, None, None].expand(4, 1, 4, 4)
    unit, other = (find(model, Pairs(images), "out")[f"out:{channel}"] for channel in range(2))
    assert unit.nonfinite == 32 and unit.image.tolist() == [1, 0] and unit.maximum == pytest.approx(8e17)
    assert other.nonfinite == 0 and other.image.tolist() == [2, 3, 1, 0]


def test_zeros_of_both_signs_are_equal() -> None:
    ranking = Ranking(1, 2)
    ranking.add(np.array([[-0.0], [0.0]], dtype=np.float32), np.array([3, 5]), np.zeros((2, 1), dtype=np.int32))
    assert ranking.image.tolist() == [[3, 5]]


# Statistics


def test_statistics_are_exact_far_from_zero() -> None:
    """float32 sums of squares lose everything here: the mean is 10,000 times the standard deviation."""
    model = known([1.0], [10_000.0], rectified=False)
    images = random_images(50, size=4, channels=1)
    unit = find(model, Pairs(images), "out")["out:0"]
    np.testing.assert_allclose([unit.mean, unit.sd], [10_000 + images.mean(), images.std(unbiased=False)], rtol=1e-9)
    single = load_model(model.net.float(), name="single", image_size=4, mean=(0.0,), std=(1.0,))
    unit = find(single, Pairs(images.float()), "out")["out:0"]
    np.testing.assert_allclose([unit.mean, unit.sd], [10_000 + images.mean(), images.std(unbiased=False)], rtol=1e-2)


def test_the_histogram_counts_what_numpy_counts() -> None:
    model = known([1.0, -2.0, 0.0, 300.0], [0.0, 1.0, 0.5, -100.0], rectified=False)
    images = random_images(12, size=4, channels=1)
    layer = find(model, Pairs(images), "out", batch=4).layer("out")
    scale, shift = torch.tensor([[1.0], [-2.0], [0.0], [300.0]]), torch.tensor([[0.0], [1.0], [0.5], [-100.0]])
    values = (images.flatten() * scale + shift).numpy().astype(np.float32)
    for channel in range(4):
        edges = layer.edges[channel]
        np.testing.assert_array_equal(layer.histogram[channel], np.histogram(values[channel], edges)[0])
        assert len(np.unique(np.diff(edges))) == 1 and edges[0] <= values[channel].min()
        assert edges[-1] >= values[channel].max() and layer.histogram[channel].sum() == 12 * 16


def test_of_large_layers_16_positions_an_image_are_counted_one_in_each_stretch() -> None:
    model = known([1.0], [0.0], rectified=False, size=32)
    ramp = torch.arange(1024, dtype=torch.float64).reshape(1, 1, 32, 32).expand(200, 1, 32, 32) / 1024
    unit = find(model, Pairs(ramp), "out")["out:0"]
    assert (unit.histogram.reshape(16, 2).sum(1) == 200).all() and unit.edges[-1] == 1
    assert unit.quantile(0.25) == pytest.approx(0.25, rel=0.05)


FED = [
    ("plain", "relu2", ["conv2"]),
    ("batch_norm", "block2", ["block2.1"]),
    ("inplace_relu", "features.3", ["features.2"]),
    ("branch_concat", "mixed1", ["mixed1.one", "mixed1.three", "mixed1.pooled"]),
    ("depthwise", "relu2", ["depthwise"]),
    ("reused_module", "relu#1", ["conv#1"]),
    ("nhwc", "blocks.0.gelu", ["blocks.0.expand"]),
]


@pytest.mark.parametrize(("name", "layer", "fed"), FED)
def test_what_went_into_a_nonlinearity_is_counted(
    monkeypatch: pytest.MonkeyPatch, name: str, layer: str, fed: list[str]
) -> None:
    """Modules, functions, operations in place, concatenations, and ReLU's kin."""
    monkeypatch.setattr(plans, "POSITIONS", 10**6)
    model, images = tiny_model(name), random_images(6)
    arrays = find(model, Pairs(images), layer, batch=4).layer(layer)
    before, after = [], []
    for image in images:
        with torch.no_grad(), probe(model, [*fed, layer]) as activations:
            model(image[None])
            before.append(np.concatenate([activations[each][0].flatten(1) for each in fed]).astype(np.float32))
            after.append(activations[layer][0].flatten(1).numpy().astype(np.float32))
    assert arrays.nonlinear.all()
    for values, histogram, edges in (
        (np.concatenate(before, 1), arrays.pre_histogram, arrays.pre_edges),
        (np.concatenate(after, 1), arrays.histogram, arrays.edges),
    ):
        for channel, row in enumerate(values):
            np.testing.assert_array_equal(histogram[channel], np.histogram(_unsigned_zero(row), edges[channel])[0])
    assert (arrays.pre_edges[:, 0] < 0).any()


def _unsigned_zero(values: np.ndarray) -> np.ndarray:
    """What is nearer to 0 than 2^-20 counts as 0."""
    return np.where(np.abs(values) < 2.0**-20, 0, values)


@pytest.mark.parametrize(("name", "layer"), [("plain", "conv2"), ("residual", "stem"), ("tokens", "blocks.0")])
def test_where_there_is_no_nonlinearity_before_is_after(name: str, layer: str) -> None:
    arrays = find(tiny_model(name), Pairs(random_images(6)), layer).layer(layer)
    assert not arrays.nonlinear.any()
    np.testing.assert_array_equal(arrays.pre_histogram, arrays.histogram)
    np.testing.assert_array_equal(arrays.pre_edges, arrays.edges)


class Bent(nn.Module):
    """ReLU's output with something done to it: a pool, a sum in place, another order of the same numbers."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.out, self.change = nn.Conv2d(1, 4, 1), nn.Identity(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.change(torch.relu(self.conv(x)))).mean((2, 3))


@pytest.mark.parametrize(
    ("change", "nonlinear"),
    [
        (lambda x: x, True),
        (lambda x: torch.nn.functional.dropout(x, training=False), True),
        (lambda x: torch.cat([x[:, :2], x[:, 2:]], 1), False),
        (lambda x: x.add_(1), False),
        (lambda x: torch.nn.functional.max_pool2d(x, 3, 1, 1), False),
        (lambda x: x.transpose(2, 3), False),
    ],
)
def test_what_comes_after_a_nonlinearity_ends_it(change: Callable[[Tensor], Tensor], nonlinear: bool) -> None:
    model = load_model(Bent(change).double().eval(), name="bent", image_size=4, mean=(0.0,), std=(1.0,))
    layer = find(model, Pairs(random_images(3, size=4, channels=1)), "out").layer("out")
    assert layer.nonlinear.tolist() == [nonlinear] * 4


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0])
def test_quantiles_are_within_the_stated_error(share: float) -> None:
    model = known([1.0, -3.0, 1e-4, 500.0], [0.0, 1.0, 0.0, -250.0], rectified=False)
    images = random_images(30, size=4, channels=1)
    found = find(model, Pairs(images), "out", batch=8)
    for channel, (scale, shift) in enumerate([(1.0, 0.0), (-3.0, 1.0), (1e-4, 0.0), (500.0, -250.0)]):
        values = np.sort((images.flatten() * scale + shift).numpy())
        exact, unit = values[int(share * (len(values) - 1))], found[f"out:{channel}"]
        assert unit.quantile(share) == pytest.approx(exact, rel=1 / 33 if 0 < share < 1 else 1e-12, abs=1e-6)
        assert unit.pre_quantile(share) == pytest.approx(exact, rel=1 / 33, abs=1e-6)
    with pytest.raises(ValueError, match=r"quantile 1.5 was asked for: give a share from 0"):
        found["out:0"].quantile(1.5)


def test_quantile_examples_are_spread_over_the_tenths_of_the_sample() -> None:
    model = known([1.0, 1.0, -1.0], [0.0, -0.5, 0.0])
    levels = torch.from_numpy(np.random.default_rng(0).permutation(400) / 400 + 0.001)
    found = find(model, levels[:, None, None, None].expand(400, 1, 4, 4), "relu")
    unit, half, dead = (found[f"relu:{channel}"] for channel in range(3))
    for each, least in ((unit, 0.0), (half, 0.5)):
        np.testing.assert_allclose(each.quantile_value, levels[each.quantile_image] - least, atol=1e-6)
        inside = np.sort(levels.numpy()[levels.numpy() > least]) - least
        for tenth, values in enumerate(each.quantile_value):
            ranks = np.searchsorted(inside, values - 1e-6)
            assert (ranks * 10 // len(inside) == tenth).all() and (np.diff(values) < 0).all()
        np.testing.assert_allclose(each.quantile_edges[[0, -1]], inside[[0, -1]], atol=1e-6)
    assert (dead.quantile_image == -1).all() and np.isnan(dead.quantile_edges).all()
    assert len(dead.mean_image) == 0 and len(dead.mean_bottom_image) == 5 and dead.mean_names == ()


def test_the_sample_is_drawn_by_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SAMPLED", 6)
    model, images = tiny_model("plain"), random_images(40)
    whole = find(model, Pairs(images)).layer("conv1")
    plan = plans.make_plan(model, Pairs(images))
    assert whole.sample_image.tolist() == plans.sampled_images(plan).tolist() != list(range(6))
    bad: list[Any] = list(images)
    bad[int(whole.sample_image[2])] = OSError("gone")
    rest = find(model, Pairs(bad)).layer("conv1")
    assert rest.sample_image.tolist() == np.delete(whole.sample_image, 2).tolist()
    np.testing.assert_allclose(rest.sample_value, np.delete(whole.sample_value, 2, 1), rtol=1e-9)
    drawn = [plans.sampled_images(replace(plan, seed=seed)).tolist() for seed in range(200)]
    shares = np.bincount(np.concatenate(drawn), minlength=40) / 200
    assert abs(shares - 6 / 40).max() < 0.1  # four standard deviations


# Shards


def shards_of(model: Model, dataset: Any, plan: Plan) -> list[Part]:
    return [sweep(model, batches(dataset, model, span, plan.batch), plan) for span in plan.shards]


def assert_same_bytes(one: Part, other: Part) -> None:
    assert list(one) == list(other) or sorted(one) == sorted(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype and array.shape == other[name].shape, name
        assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("name", ["plain", "branch_concat", "tokens", "nhwc"])
def test_any_order_and_grouping_of_shards_gives_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SAMPLED", 9)
    model = tiny_model(name)
    images: list[Any] = list(random_images(20))
    images[6:9] = [OSError("gone")] * 3  # a whole shard
    images[14] = images[3]  # ties
    dataset = Pairs(images)
    plan = plans.make_plan(model, dataset, readable(model), count=4, batch=3, shard=3)
    parts = shards_of(model, dataset, plan)
    whole = merge(parts)
    generator = np.random.default_rng(0)
    for _ in range(6):
        order, cuts = (
            generator.permutation(len(parts)),
            np.sort(generator.choice(range(1, len(parts)), 2, replace=False)),
        )
        groups = [merge([parts[each] for each in group]) for group in np.split(order, cuts)]
        assert_same_bytes(merge([groups[2], merge(groups[:2])]), whole)
    for part in parts:
        assert_same_bytes(merge([part]), part)
    assert_same_bytes(shards_of(model, dataset, replace(plan, shard=20))[0], whole)


def test_a_search_in_memory_is_that_of_its_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = tiny_model("branch_concat"), Pairs(random_images(20))
    found = find(model, dataset, batch=3)
    plan = plans.make_plan(model, dataset, count=5, batch=3, shard=6)
    sharded = finish(merge(shards_of(model, dataset, plan)), model, plan)
    assert_same_examples(replace(found, arrays=sharded), found)
    given = plans.make_plan
    monkeypatch.setattr(finding, "make_plan", lambda *args, **options: replace(given(*args, **options), shard=6))
    assert_same_examples(find(model, dataset, batch=3), found)


def test_vectors_that_are_let_go_on_the_way_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = tiny_model("plain"), Pairs(random_images(60))
    whole = find(model, dataset, batch=4, count=3)
    monkeypatch.setattr(tallies, "SPARE", 0)
    assert_same_examples(find(model, dataset, batch=4, count=3), whole)


def test_merging_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no part was given"):
        merge([])


@pytest.mark.parametrize("seed", range(5))
def test_sums_do_not_depend_on_their_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = generator.standard_normal(200) * 10.0 ** generator.uniform(-12, 15, 200)
    rows = sums.split(numbers)
    exact = sum(map(Fraction, numbers.tolist()))
    total = rows.sum(1)[:, None]
    assert sums.joined(total)[0] == pytest.approx(float(exact), rel=1e-15, abs=200 * 2.0**-80)
    parts = [sums.carried(group.sum(1)[:, None]) for group in np.array_split(rows[:, generator.permutation(200)], 7, 1)]
    np.testing.assert_array_equal(sums.carried(np.sum(parts, axis=0)), sums.carried(total))
    squares = sums.split(numbers**2).sum(1)[:, None]
    mean = exact / 200
    variance = sum((Fraction(number) - mean) ** 2 for number in numbers.tolist()) / 200
    assert sums.variance(total, squares, np.array([200]))[0] == pytest.approx(float(variance), rel=1e-12)


# Folding and half precision


def test_folded_readings_are_those_of_the_plain_network() -> None:
    model = load_model("sketches")
    images = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plan = plans.make_plan(model, images, count=5, batch=8)
    assert plan.folded and plan.unfolded == ""
    parts = [sweep(model, batches(images, model, range(24), 8), each) for each in (plan, replace(plan, folded=False))]
    for name, one in finish(parts[0], model, plan).items():
        other = finish(parts[1], model, plan)[name]
        scale = np.abs(other.sample_value).max()
        np.testing.assert_allclose(one.sample_value, other.sample_value, atol=1e-5 * scale, err_msg=name)
        for key in ("mean", "sd", "maximum"):
            np.testing.assert_allclose(getattr(one, key), getattr(other, key), atol=1e-5 * scale, err_msg=name)


def test_a_network_that_folding_would_change_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = tiny_model("batch_norm"), Pairs(random_images(6))
    assert plans.make_plan(model, dataset).folded
    monkeypatch.setattr(plans, "TOLERANCE", -1.0)
    plan = plans.make_plan(model, dataset)
    assert not plan.folded and "is off by more than" in plan.unfolded and plan.unfolded.startswith("at layer 'block1'")


def test_plans_are_plain_json() -> None:
    plan = plans.make_plan(tiny_model("plain"), Pairs(random_images(5)), dtype=torch.bfloat16, batch=2, shard=2)
    assert Plan(**json.loads(json.dumps(asdict(plan)))) == plan and plan.dtype == "bfloat16"
    assert plan.shards == (range(2), range(2, 4), range(4, 5))
    with pytest.raises(ValueError, match=r"dtype is torch.int8: give one of torch.bfloat16, torch.float16, or None"):
        plans.make_plan(tiny_model("plain"), Pairs(random_images(2)), dtype=torch.int8)


def test_under_half_precision_sums_are_taken_in_full() -> None:
    """A sum of 16 bits would stop growing at 256 times what is added."""
    model = load_model("sketches")
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plan = plans.make_plan(model, images, ["conv2d1", "mixed3a"], count=4, batch=8, dtype=torch.bfloat16)
    found = finish(sweep(model, batches(images, model, range(16), 8), plan), model, plan)
    mode = plans.folding(model, plan.layers, dtype=torch.bfloat16)
    readings: dict[str, list[Tensor]] = {name: [] for name in plan.layers}
    for piece in images.split(8):
        with torch.no_grad(), probe(model, plan.layers) as activations, torch.autocast("cpu", torch.bfloat16), mode:
            model(piece.contiguous(memory_format=torch.channels_last))
            for name in plan.layers:
                assert activations[name].dtype == torch.bfloat16
                readings[name].append(activations[name].double())
    for name, pieces in readings.items():
        maps = torch.cat(pieces).transpose(0, 1).flatten(1)
        np.testing.assert_allclose(found[name].mean, maps.mean(1), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found[name].sd, maps.std(1, unbiased=False), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found[name].firing_rate, (maps > 0).double().mean(1), rtol=1e-12)
        np.testing.assert_array_equal(found[name].maximum, maps.amax(1))


@pytest.mark.parametrize("layer", ["conv2d0", "mixed3b", "mixed4c"])
def test_statistics_of_a_float32_network_are_those_of_float64_references(layer: str) -> None:
    model = load_model("sketches")
    images = torch.stack([Sketches(20)[index][0] for index in range(20)])
    found = find(model, images, layer, batch=8).layer(layer)
    with torch.no_grad(), probe(model, layer) as activations:
        model(images)
        maps = activations[layer].double().transpose(0, 1).flatten(1)
    scale = float(maps.abs().max())
    for name, expected in {"mean": maps.mean(1), "sd": maps.std(1, unbiased=False), "maximum": maps.amax(1)}.items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-5, atol=1e-6 * scale, err_msg=name)
    np.testing.assert_allclose(found.firing_rate, (maps > 0).double().mean(1), atol=1e-4)  # roundings about 0


# Boxes are causal


@pytest.mark.parametrize("name", ["plain", "strided", "pooled", "grouped", "branch_concat", "residual", "depthwise"])
def test_only_pixels_in_the_box_change_the_value_at_the_peak(name: str) -> None:
    model = tiny_model(name)
    images = random_images(8, seed=1)
    layers = [layer.name for layer in model.layers if layer.field is not None]
    found = find(model, Pairs(images), layers, count=2)
    outside = random_images(1, seed=9)[0]
    smaller = 0
    for layer in layers:
        arrays = found.layer(layer)
        for channel in range(len(arrays.mean)):
            index, (y0, x0, y1, x1) = int(arrays.image[channel, 0]), arrays.box[channel, 0]
            if index < 0:
                continue
            hidden = outside.clone()
            hidden[:, y0:y1, x0:x1] = images[index, :, y0:y1, x0:x1]
            with torch.no_grad(), probe(model, layer) as activations:
                model(hidden[None])
                value = activations[layer][(0, channel, *arrays.position[channel, 0])]
            assert value.item() == pytest.approx(float(arrays.value[channel, 0]), rel=1e-5, abs=1e-6)
            smaller += (y1 - y0) * (x1 - x0) < 144
    assert smaller > 10


def test_vectors_are_the_layer_at_the_peak_and_the_unit_is_among_them(tiny: Model) -> None:
    images = random_images(12)
    for layer, arrays in find(tiny, Pairs(images), batch=3).arrays.items():
        rows, ranks = (arrays.image >= 0).nonzero()
        np.testing.assert_allclose(
            arrays.vectors[rows, ranks, rows], arrays.value[rows, ranks], rtol=1e-6, atol=1e-9, err_msg=layer
        )


def test_crops_are_the_pixels_of_the_box() -> None:
    model, images = tiny_model("plain"), random_images(8)
    dataset = Pairs(images)
    found = find(model, dataset, ["relu1", "logits"])
    unit = found["relu1:2"]
    for index, box, picture in zip(unit.image, unit.box, crops(found, dataset, "relu1:2"), strict=True):
        expected = images[index, :, box[0] : box[2], box[1] : box[3]].permute(1, 2, 0)
        np.testing.assert_allclose(picture, expected, atol=1e-7)
    assert all(picture.shape == (12, 12, 3) for picture in crops(found, dataset, "logits:1", count=2))
    assert len(crops(found, dataset, "relu1:2", count=2)) == 2
    wide, tight = crops(found, dataset, "relu1:2", count=1, margin=1.0)[0], crops(found, dataset, "relu1:2", count=1)[0]
    assert wide.shape[0] > tight.shape[0]
    with pytest.raises(ValueError, match="margin is -1"):
        crops(found, dataset, "relu1:2", margin=-1)
    with pytest.raises(ValueError, match="has 3 images, and the examples are from one of 8"):
        crops(found, Pairs(images[:3]), "relu1:2")


# Datasets


def test_every_form_of_item_is_read_alike() -> None:
    model, images = tiny_model("plain"), random_images(4)
    labelled = find(model, Pairs(images, labels=[2, 0, 1, 4]))
    forms: list[Any] = [
        [{"image": image, "label": label} for image, label in zip(images, [2, 0, 1, 4], strict=True)],
        [(image.numpy(), np.int64(label)) for image, label in zip(images, [2, 0, 1, 4], strict=True)],
        [[image, torch.tensor(label), "more"] for image, label in zip(images, [2, 0, 1, 4], strict=True)],
    ]
    for form in forms:
        assert_same_examples(find(model, form), labelled)
    unit = labelled["conv3:0"]
    assert [CLASSES[label] for label in unit.label] == list(unit.names)
    assert (find(model, list(images)).layer("conv3").label == -1).all()


def test_pictures_of_pillow_are_fitted() -> None:
    model = tiny_model("plain")
    pictures = [from_image(to_image(image.permute(1, 2, 0).numpy())) for image in random_images(4)]
    tensors = [torch.from_numpy(picture.transpose(2, 0, 1).copy()) for picture in pictures]
    assert_same_examples(find(model, [to_image(picture) for picture in pictures]), find(model, tensors))


def test_class_names_come_from_the_dataset_then_from_the_model() -> None:
    model, dataset = tiny_model("plain"), Pairs(random_images(3))
    dataset.classes = ("one", "two", "three", "four", "five")
    assert find(model, dataset).labels == ("one", "two", "three", "four", "five")
    assert find(model, list(random_images(3))).labels == CLASSES


def test_bad_items_are_skipped_and_change_nothing_else() -> None:
    model, images = tiny_model("branch_concat"), random_images(9)
    bad = [
        OSError("image file is truncated"),
        ValueError("no picture"),
        Image.DecompressionBombError("too large"),
        SyntaxError("broken PNG"),
    ]
    mixed: list[Any] = [bad[0], *images[:3], bad[1], bad[2], *images[3:], bad[3]]
    labels = [0, 0, 1, 2, 0, 0, 3, 4, 0, 1, 2, 3, 0]
    found, clean = find(model, Pairs(mixed, labels)), find(model, Pairs(images))
    moved = np.array([1, 2, 3, *range(6, 12), -1])
    assert_same_examples(found, clean, tolerance=1e-9, image=lambda ids: moved[ids], skip=DRAWN)
    assert [index for index, _ in found.skipped] == [0, 4, 5, 12]
    assert found.skipped[0][1] == "OSError: image file is truncated"
    assert found.images == 9 and found.length == 13 and "4 skipped" in repr(found)


def test_a_dataset_of_nothing_but_bad_items_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 images can be read; the first: OSError: gone"):
        find(tiny_model("plain"), Pairs([OSError("gone"), OSError("too")]))


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_errors_of_the_dataset_itself_are_not_swallowed(error: Exception) -> None:
    with pytest.raises(type(error), match="a bug"):
        find(tiny_model("plain"), Pairs([*random_images(1), error]))


@pytest.mark.parametrize(
    ("item", "kind", "said"),
    [
        (torch.zeros(3, 8, 8), ValueError, r"item 1 is \(3, 8, 8\): the model takes \(3, 12, 12\); resize it"),
        (torch.zeros(1, 12, 12), ValueError, r"item 1 is \(1, 12, 12\)"),
        (
            torch.full((3, 12, 12), 1.5),
            ValueError,
            "item 1 goes from 1.5 to 1.5: give values in .0, 1., not normalized",
        ),
        (torch.full((3, 12, 12), -0.1), ValueError, "not normalized"),
        (torch.full((3, 12, 12), torch.nan), ValueError, "item 1 goes from nan"),
        (torch.zeros(3, 12, 12, dtype=torch.uint8), TypeError, "divided by 255"),
        ("picture.jpg", TypeError, "item 1 is of type str"),
        ({"pixels": 3}, TypeError, "has the keys 'pixels': 'image' is needed"),
        ((torch.zeros(3, 12, 12), "cat"), TypeError, "the label of item 1 is 'cat': give a whole number"),
        ((torch.zeros(3, 12, 12), 1.5), TypeError, "give a whole number"),
        ((torch.zeros(3, 12, 12), torch.zeros(2)), TypeError, "give a whole number"),
    ],
)
def test_items_that_are_no_images_are_refused_by_number(item: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        find(tiny_model("plain"), [random_images(1)[0], item])


def test_bad_requests_are_refused() -> None:
    model, images = tiny_model("plain"), list(random_images(2))
    with pytest.raises(ValueError, match="the dataset is empty"):
        find(model, [])
    with pytest.raises(TypeError, match="has no length or no items by index"):
        find(model, iter(images))
    for name in ("count", "batch"):
        for value in (0, -1, 1.5, True, None):
            with pytest.raises(ValueError, match=f"{name} is .*: give a whole number of at least 1"):
                find(model, images, **{name: value})
    with pytest.raises(ValueError, match="no layer 'relu9'"):
        find(model, images, ["relu9"])
    with pytest.raises(ValueError, match="no layer was given"):
        find(model, images, [])


def test_layers_come_in_the_models_order() -> None:
    found = find(tiny_model("plain"), list(random_images(2)), ["relu3", "conv1", "relu3"])
    assert found.layers == ("conv1", "relu3")
    assert list(found)[:2] == ["conv1:0", "conv1:1"] and len(found) == 14 == len(list(found))
    assert "relu3:7" in found and not {"relu3:8", "relu2:0", 3} & set(found)
    assert "relu3:8" not in found and "relu2:0" not in found and 3 not in found
    with pytest.raises(ValueError, match="no examples of layer 'relu2'"):
        found["relu2:0"]
    with pytest.raises(ValueError, match=r"no channel 8 in layer 'relu3': it has 8 channels \(0 to 7\)"):
        found["relu3:8"]


def test_a_dataset_is_known_by_its_fingerprint() -> None:
    images = random_images(30)
    same = fingerprint(Pairs(images))
    assert same == fingerprint(Pairs(images.clone()))
    changed = images.clone()
    changed[0, 0, 0, 0] += 1e-6
    others = [Pairs(changed), Pairs(images[:29]), Pairs(images, labels=[9] * 30), Pairs([*images[:29], OSError("x")])]
    assert len({same, *map(fingerprint, others)}) == 5
    assert find(tiny_model("plain"), Pairs(images)).dataset == same


# Folders


def write_folder(folder: Path) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    pictures = [generator.random((12, 12, 3)) for _ in range(5)]
    names = ["beta/1.png", "beta/deep/2.png", "alpha/3.png", "top.png", "beta/0.PNG"]
    for name, picture in zip(names, pictures, strict=True):
        write_picture(picture, folder / name)
    return pictures


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    pictures = write_folder(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"")
    folder = FolderImages(tmp_path, tiny_model("plain"))
    assert folder.paths == ("alpha/3.png", "beta/0.PNG", "beta/1.png", "beta/deep/2.png", "top.png")
    assert folder.labels == ("alpha", "beta") and [folder[index][1] for index in range(5)] == [0, 1, 1, 1, -1]
    for index, source in enumerate([2, 4, 0, 1, 3]):
        np.testing.assert_allclose(folder[index][0].permute(1, 2, 0), pictures[source], atol=0.5 / 255 + 1e-6)
    before = folder.fingerprint
    write_picture(pictures[0][:6], tmp_path / "top.png")
    assert folder.fingerprint != before and fingerprint(folder) == folder.fingerprint


def test_damaged_files_are_recorded_and_change_nothing_else(tmp_path: Path) -> None:
    write_folder(tmp_path)
    model = tiny_model("plain")
    clean = find(model, FolderImages(tmp_path, model))
    (tmp_path / "alpha" / "0.png").write_bytes(b"")
    (tmp_path / "beta" / "notes.txt").write_text("hello")
    whole = (tmp_path / "top.png").read_bytes()
    (tmp_path / "zzz.png").write_bytes(whole[: len(whole) // 2])
    folder = FolderImages(tmp_path, model)
    found = find(model, folder)
    assert [folder.paths[index] for index, _ in found.skipped] == ["alpha/0.png", "beta/notes.txt", "zzz.png"]
    assert all("is no picture" in reason for _, reason in found.skipped)
    moved = np.array([1, 2, 3, 4, 6, -1])
    assert_same_examples(found, clean, tolerance=1e-9, image=lambda ids: moved[ids], skip=DRAWN)


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        FolderImages(tmp_path / "none", (8, 8))
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is no folder"):
        FolderImages(tmp_path / "file", (8, 8))
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(ValueError, match="there are no files"):
        FolderImages(tmp_path / "empty", (8, 8))


def test_a_folder_that_contains_itself_is_read_once(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "beta" / "loop").symlink_to(tmp_path)
    (tmp_path / "gamma").symlink_to(tmp_path / "alpha")
    assert [path for path in FolderImages(tmp_path, (8, 8)).paths if path.startswith(("beta", "gamma"))] == [
        "beta/0.PNG", "beta/1.png", "beta/deep/2.png", "gamma/3.png",
    ]  # fmt: skip


def test_the_short_side_is_fitted_and_the_centre_kept() -> None:
    ramp = np.zeros((20, 60, 3))
    ramp[:, :, 0] = np.arange(60) / 60
    ramp[:, 20:40, 1] = 1
    fitted = fit_image(to_image(ramp), (10, 10))
    assert fitted.shape == (3, 10, 10) and fitted[1, :, 1:-1].min() > 0.99 and fitted[1].min() > 0.8
    np.testing.assert_allclose(fitted[0].mean(0), np.arange(20.5, 40, 2) / 60, atol=0.01)
    tall = fit_image(to_image(ramp.transpose(1, 0, 2)), (10, 10))
    torch.testing.assert_close(tall, fitted.transpose(1, 2), atol=0.01, rtol=0)
    wide = fit_image(to_image(ramp), (10, 30))
    np.testing.assert_allclose(wide[0].mean(0), np.arange(0.5, 60, 2) / 60, atol=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "HSV"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 2), (7, 7)])
def test_every_mode_and_size_is_fitted(mode: str, size: tuple[int, int]) -> None:
    for channels in (1, 3):
        fitted = fit_image(Image.new(mode, size), (9, 6), channels)
        assert fitted.shape == (channels, 9, 6) and fitted.min() >= 0 and fitted.max() <= 1
    with pytest.raises(ValueError, match="the model takes 4 channels"):
        fit_image(Image.new(mode, size), (9, 6), 4)


def test_grey_models_take_pictures_and_give_grey_crops() -> None:
    model = known([1.0], [0.0])
    images = [Image.new("RGB", (4, 4), (level, level, level)) for level in (10, 200, 90)]
    found = find(model, images, "relu")
    assert found["relu:0"].image.tolist() == [1, 2, 0]
    np.testing.assert_allclose(crops(found, images, "relu:0", count=1)[0], 200 / 255, atol=1e-6)


# On disk


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    model, dataset = tiny_model("tokens"), Pairs([*random_images(5), OSError("x")])
    found = find(model, dataset)
    read = read_examples(write_examples(found, tmp_path / "examples"))
    assert_same_examples(read, found)
    assert repr(read) == repr(found)
    for field in fields(found):
        if field.name not in ("arrays", "pictures"):
            assert getattr(read, field.name) == getattr(found, field.name), field.name
    for name in found.layers:
        for field in fields(found.layer(name)):
            assert getattr(read.layer(name), field.name).dtype == getattr(found.layer(name), field.name).dtype


def test_examples_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    folder = write_examples(find(tiny_model("plain"), Pairs(random_images(3)), "relu1"), tmp_path / "e")
    arrays, described = read_record(folder, "examples")
    for change in ({"relu1/value": arrays["relu1/value"][:, :2]}, {"relu1/box": arrays["relu1/position"]}):
        write_record(tmp_path / "bad", "examples", arrays=arrays | change, fields=described)
        with pytest.raises(ValueError, match="are damaged: the array 'relu1/"):
            read_examples(tmp_path / "bad")
    write_record(tmp_path / "bad", "examples", arrays=arrays, fields=described | {"layers": ["relu9"]})
    with pytest.raises(ValueError, match="'relu9/value' is missing"):
        read_examples(tmp_path / "bad")
    write_record(tmp_path / "bad", "examples", arrays=arrays, fields={"layers": ["relu1"]})
    with pytest.raises(ValueError, match="are damaged"):
        read_examples(tmp_path / "bad")
