"""Objectives score what they say, image by image, and their algebra is that of numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NETS, assert_untouched, random_images, tiny_model
from reference import (
    slow_alignment,
    slow_blurred,
    slow_boundary,
    slow_diversity,
    slow_gram,
    slow_term,
    slow_variation,
)
from torch import Tensor

from features.models import Model, load_model, probe
from features.objectives import (
    INPUT,
    PENALTIES,
    Objective,
    alignment,
    blur,
    boundary,
    caricature,
    channel,
    climbing_through,
    cosine,
    difference,
    direction,
    directions,
    diversity,
    edits_together,
    energy,
    interpolation,
    inversion,
    l1,
    l2,
    logit,
    member,
    neuron,
    style,
    through,
    together,
    total_variation,
    whitening,
)

RAMP = {"map": torch.arange(2 * 3 * 4 * 10.0).reshape(2, 3, 4, 10), "vector": torch.arange(6.0).reshape(2, 3)}


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    """Give normal numbers of ``shape``, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(objective: Objective, activations: Mapping[str, Tensor] | None = None) -> list[float]:
    values: list[float] = objective.score(RAMP if activations is None else activations).tolist()
    return values


def test_a_channel_is_the_mean_over_positions_and_a_vector_is_itself() -> None:
    assert score(channel("map:1")) == RAMP["map"][:, 1].mean((1, 2)).tolist()
    assert score(channel("vector:2")) == [2.0, 5.0]
    assert score(channel("tokens:1"), {"tokens": torch.tensor([[[1.0, 3.0], [5.0, 9.0]]])}) == [7.0]


def test_a_neuron_is_at_the_centre_of_a_map_that_is_not_square() -> None:
    assert score(neuron("map:0")) == RAMP["map"][:, 0, 2, 5].tolist()


def test_positions_are_rows_first() -> None:
    assert score(neuron("map:2", (3, 9))) == RAMP["map"][:, 2, 3, 9].tolist()
    with pytest.raises(ValueError, match=r"no position \(9, 3\) in layer 'map': it has 4 x 10 positions"):
        score(neuron("map:2", (9, 3)))


def test_the_patches_of_a_transformer_have_rows_columns_and_a_centre() -> None:
    """ViT: the class token, then 14 x 14 patches, whose middle is not the middle of the 197 tokens."""
    tokens = {"vit": torch.arange(197.0).reshape(1, 1, 197), "swin": torch.arange(49.0).reshape(1, 1, 49)}
    assert score(neuron("vit:0"), tokens) == [1 + 7 * 14 + 7]
    assert score(neuron("vit:0", (2, 13)), tokens) == [1 + 2 * 14 + 13]
    assert score(neuron("vit:0", (0,)), tokens) == [0]
    assert score(neuron("swin:0"), tokens) == [3 * 7 + 3]
    with pytest.raises(ValueError, match=r"no position \(14, 0\) in layer 'vit': it has 14 x 14 positions"):
        score(neuron("vit:0", (14, 0)), tokens)
    with pytest.raises(ValueError, match=r"the 24 tokens of layer 'odd' are no square .* give the number of the token"):
        score(neuron("odd:0"), {"odd": torch.ones(1, 1, 24)})


def test_a_neuron_of_a_layer_without_positions_has_none() -> None:
    assert score(neuron("vector:1")) == [1.0, 4.0]
    with pytest.raises(ValueError, match="it has no positions"):
        score(neuron("vector:1", (0, 0)))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 4.0])
def test_a_direction_is_dot_times_cosine_to_the_power(power: float) -> None:
    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    expected = []
    for image in maps.numpy():
        cells = [image[:, y, x] for y in range(3) for x in range(4)]
        cosines = [cell @ vector / np.linalg.norm(cell) / np.linalg.norm(vector) for cell in cells]
        terms = [cell @ vector * max(0.1, cosine) ** power for cell, cosine in zip(cells, cosines, strict=True)]
        expected.append(np.mean(terms))
    np.testing.assert_allclose(score(direction("map", vector, cosine=power), {"map": maps}), expected)


def test_the_direction_of_an_axis_is_its_channel() -> None:
    np.testing.assert_allclose(score(direction("map", [0, 1, 0])), score(channel("map:1")))


def test_two_directions_have_two_names() -> None:
    names = {direction("map", v, cosine=p).name for v in ([1, 0, 0], [0, 1, 0]) for p in (0, 1)}
    assert len(names) == 4


def test_energy_is_the_mean_square() -> None:
    np.testing.assert_allclose(score(energy("map")), RAMP["map"].square().mean((1, 2, 3)).tolist())


@pytest.mark.parametrize("operate", [operator.add, operator.sub, operator.mul])
def test_algebra_is_that_of_numbers(operate: Callable[..., Objective]) -> None:
    first, second = channel("map:1"), neuron("vector:2")
    one, two = first.score(RAMP), second.score(RAMP)
    assert score(operate(first, second)) == operate(one, two).tolist()
    assert score(operate(first, 3)) == operate(one, 3).tolist()
    assert score(operate(0.5, first)) == operate(0.5, one).tolist()
    assert operate(first, second).layers == ("map", "vector")


def test_a_composed_objective_keeps_the_order_of_operations() -> None:
    a, b, c = channel("map:0"), channel("map:1"), channel("map:2")
    x, y, z = (each.score(RAMP) for each in (a, b, c))
    assert score(-(a + b) * 2 - (b - c)) == (-(x + y) * 2 - (y - z)).tolist()


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (channel("a:1") + channel("b:2"), "a:1 + b:2"),
        (2 * (channel("a:1") + 1), "2 * (a:1 + 1)"),
        (channel("a:1") - (channel("b:1") - channel("b:2")), "a:1 - (b:1 - b:2)"),
        (-channel("a:1"), "-a:1"),
        (-(channel("a:1") + channel("a:2")), "-(a:1 + a:2)"),
        (neuron("a:1", (2, 3)), "a:1 at (2, 3)"),
        (neuron("a:1"), "a:1 at the centre"),
        (channel("a:1") * channel("a:2"), "a:1 * a:2"),
        (1 - channel("a:1"), "1 - a:1"),
    ],
)
def test_names_read_as_they_were_written(objective: Objective, name: str) -> None:
    assert objective.name == name


def test_the_negative_of_a_channel_is_not_read_as_the_channel() -> None:
    objectives = [channel("map:1"), -channel("map:1")]
    assert together(objectives)(RAMP).tolist() == [score(objectives[0])[0], -score(objectives[0])[1]]


def test_each_layer_is_named_once() -> None:
    assert (channel("a:1") + channel("a:2") * channel("b:0")).layers == ("a", "b")


def test_objectives_add_to_nothing_else() -> None:
    with pytest.raises(TypeError):
        channel("a:1") + "a:2"  # type: ignore[operator]


@pytest.mark.parametrize("layer", ["conv2", "logits"])
def test_together_scores_image_i_by_objective_i_as_alone(layer: str) -> None:
    model = tiny_model("plain")
    objectives = [
        channel(f"{layer}:3"),
        energy("conv1"),
        channel("conv1:2"),
        channel(f"{layer}:0") - 2 * neuron("conv1:1"),
        direction(layer, np.arange(model.layer(layer).channels)),
        channel(f"{layer}:1"),
        channel("conv1:0"),
    ]
    images = random_images(len(objectives))
    with probe(model, ["conv1", layer]) as activations:
        model(images)
        joined = together(objectives)(activations)
        alone = [objective.score(activations)[index] for index, objective in enumerate(objectives)]
    torch.testing.assert_close(joined, torch.stack(alone))


def test_the_gradient_of_an_image_is_that_of_its_own_objective() -> None:
    model = tiny_model("batch_norm")
    objectives = [channel("block2:3"), energy("block1"), channel("block2:0"), neuron("block2:1", (2, 5))]
    images = random_images(4).requires_grad_()

    def gradient(score: Callable[..., Tensor], images: Tensor) -> Tensor:
        with probe(model, ["block1", "block2"]) as activations:
            model(images)
            return torch.autograd.grad(score(activations).sum(), images)[0]

    joined = gradient(together(objectives), images)
    for index, objective in enumerate(objectives):
        one = images[index : index + 1]
        torch.testing.assert_close(joined[index : index + 1], gradient(objective.score, one))


def test_a_logit_is_the_networks_own_output(sketches: Model) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    by_label = logit(sketches, sketches.labels[5])
    assert by_label.name == logit(sketches, 5).name == "logits:5"
    with torch.no_grad(), probe(sketches, by_label.layers) as activations:
        sketches(images)
        found = by_label.score(activations)
    torch.testing.assert_close(found, sketches(images)[:, 5])


def test_wrong_labels_are_refused() -> None:
    model = tiny_model("plain")
    with pytest.raises(ValueError, match="no label 'alpa': nearest are 'alpha'"):
        logit(model, "alpa")
    with pytest.raises(ValueError, match="no channel 5 in layer 'logits': it has 5 channels"):
        logit(model, 5)
    twice = load_model(
        model.net, name="twice", image_size=12, mean=model.mean, std=model.std, labels=["a", "b", "a", "c", "d"]
    )
    with pytest.raises(ValueError, match=r"'a' belongs to the classes \[0, 2\]"):
        logit(twice, "a")
    bare = load_model(model.net, name="bare", image_size=12, mean=model.mean, std=model.std)
    with pytest.raises(ValueError, match="has no labels: give the number of the class, 0 to 4"):
        logit(bare, "a")


def test_channels_and_vectors_that_a_layer_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no channel 3 in layer 'map': it has 3 channels \(0 to 2\)"):
        score(channel("map:3"))
    with pytest.raises(ValueError, match="the direction has 2 numbers, and layer 'map' has 3 channels"):
        score(direction("map", [1, 2]))


@pytest.mark.parametrize("vector", [[], [[1.0]], [0.0, 0.0], [1.0, float("nan")]])
def test_directions_that_point_nowhere_are_refused(vector: list[float]) -> None:
    with pytest.raises(ValueError, match="a direction is finite numbers, one per channel, not all 0"):
        direction("map", vector)


def test_positions_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="positions count from 0"):
        neuron("map:0", (-1, 0))
    with pytest.raises(TypeError, match="a position is whole numbers"):
        neuron("map:0", (0.5, 1))  # type: ignore[arg-type]


def test_an_objective_that_gives_no_number_per_image_is_refused() -> None:
    wrong = Objective(lambda activations: activations["map"].mean((0, 1)), ("map",), "wrong")
    with pytest.raises(ValueError, match=r"'wrong' gave \(4, 10\) for one image"):
        together([wrong, wrong])(RAMP)


# Directions


def test_a_whitened_direction_is_the_direction_turned_by_the_matrix() -> None:
    maps, vector = {"map": random_maps(2, 5, 3, 4)}, np.arange(5.0)
    matrix = whitening(random_maps(100, 5).numpy())
    found = score(direction("map", vector, whitened=matrix, cosine=2), maps)
    np.testing.assert_allclose(found, score(direction("map", matrix @ vector, cosine=2), maps))
    assert not np.allclose(found, score(direction("map", vector, cosine=2), maps))


def test_whitening_makes_correlated_activations_white() -> None:
    """Turned by the root of the matrix, the second moments are those of noise: what all have in common is gone."""
    mixed = random_maps(500, 4).numpy() @ np.diag([1.0, 5.0, 0.2, 1.0]) @ random_maps(4, 4, seed=1).numpy() + 3
    values, vectors = np.linalg.eigh(whitening(mixed))
    white = mixed @ (vectors * np.sqrt(values))
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(4), atol=1e-9)


def test_a_dead_channel_stays_out_of_the_whitening() -> None:
    vectors = random_maps(50, 4).numpy() * [1, 1, 0, 1]
    matrix = whitening(vectors)
    assert not matrix[2].any() and not matrix[:, 2].any()
    np.testing.assert_allclose(matrix[np.ix_([0, 1, 3], [0, 1, 3])], whitening(vectors[:, [0, 1, 3]]))
    with pytest.raises(ValueError, match="whitened, the direction is 0"):
        direction("map", [0, 0, 1, 0], whitened=matrix)


def test_a_ridge_draws_the_whitening_towards_a_multiple_of_one() -> None:
    matrix = whitening(random_maps(50, 4).numpy() * [1, 2, 3, 4], ridge=1e6)
    np.testing.assert_allclose(matrix / matrix[0, 0], np.eye(4), atol=1e-5)


def test_a_cosine_is_that_of_the_vectors_and_ignores_their_lengths() -> None:
    maps, vector = random_maps(2, 5, 3, 4), np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    cells = maps.numpy().transpose(0, 2, 3, 1) @ vector / np.linalg.norm(maps.numpy(), axis=1) / np.linalg.norm(vector)
    np.testing.assert_allclose(score(cosine("map", vector), {"map": maps}), cells.mean((1, 2)))
    np.testing.assert_allclose(score(cosine("map", 7 * vector), {"map": 3 * maps}), cells.mean((1, 2)))


def test_a_direction_at_a_position_reads_one_vector() -> None:
    maps, vector = random_maps(2, 3, 4, 10), np.array([1.0, -2.0, 0.5])
    for position, (y, x) in (((3, 9), (3, 9)), ("centre", (2, 5))):
        expected = [slow_term(image[:, y, x], vector, 2) for image in maps.numpy()]
        np.testing.assert_allclose(score(direction("m", vector, cosine=2, position=position), {"m": maps}), expected)
    with pytest.raises(ValueError, match=r"no position \(9, 3\) in layer 'm': it has 4 x 10 positions"):
        score(direction("m", vector, position=(9, 3)), {"m": maps})


@pytest.mark.parametrize("position", [None, "centre", (0, 3)])
def test_picture_i_of_a_group_goes_along_vector_i(position: Any) -> None:
    maps, vectors = random_maps(4, 3, 4, 10), random_maps(4, 3, seed=1).numpy()
    matrix = whitening(random_maps(20, 3, seed=2).numpy())
    wanted = directions("m", vectors, cosine=2, whitened=matrix, position=position)
    each = [direction("m", vector, cosine=2, whitened=matrix, position=position) for vector in vectors]
    torch.testing.assert_close(wanted.score({"m": maps}), together(each)({"m": maps}))
    assert wanted.joint
    with pytest.raises(ValueError, match="is about a group of 4 pictures, and this has 3"):
        wanted.score({"m": maps[:3]})
    with pytest.raises(ValueError, match="1 directions make no group"):
        directions("m", vectors[:1])


def test_directions_read_tokens_and_vectors() -> None:
    tokens, vector = random_maps(2, 3, 7), np.array([1.0, -2.0, 0.5])
    expected = [np.mean([slow_term(image[:, t], vector, 1) for t in range(7)]) for image in tokens.numpy()]
    np.testing.assert_allclose(score(direction("t", vector, cosine=1), {"t": tokens}), expected)
    np.testing.assert_allclose(
        score(cosine("t", vector, position=(0,)), {"t": tokens}), score(cosine("v", vector), {"v": tokens[:, :, 0]})
    )


def test_a_silent_layer_has_a_finite_direction_and_gradient() -> None:
    for objective in (direction("map", [1.0, 2.0], cosine=2), cosine("map", [1.0, 2.0])):
        silent = torch.zeros(1, 2, 3, 3, requires_grad=True)
        value = objective.score({"map": silent})
        (found,) = torch.autograd.grad(value.sum(), silent)
        assert value.tolist() == [0.0] and bool(torch.isfinite(found).all())


# Groups


def test_groups_are_scored_by_their_own_objective() -> None:
    maps = {"map": random_maps(8, 3, 4, 5), "other": random_maps(8, 2, 3, 3, seed=1)}
    objectives = [channel("map:1"), energy("other"), channel("map:0"), diversity("map"), channel("other:1")]
    counts = [2, 1, 1, 3, 1]
    parts, start = [], 0
    for objective, count in zip(objectives, counts, strict=True):
        parts.append(objective.score({name: values[start : start + count] for name, values in maps.items()}))
        start += count
    torch.testing.assert_close(together(objectives, counts)(maps), torch.cat(parts))


@pytest.mark.parametrize("counts", [[1], [1, 0], [1, 2, 3]])
def test_counts_that_are_not_one_for_each_objective_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="give each group at least 1 picture"):
        together([channel("a:0"), channel("a:1")], counts)


def test_diversity_is_the_likeness_of_textures() -> None:
    maps = random_maps(4, 3, 2, 5).abs()
    np.testing.assert_allclose(score(diversity("map"), {"map": maps}), slow_diversity(maps.numpy()))
    shuffled = maps[:1, :, :, torch.tensor([3, 1, 4, 0, 2])]
    np.testing.assert_allclose(score(diversity("map"), {"map": torch.cat([maps[:1], shuffled])}), [1.0, 1.0])


def test_alignment_adds_up_to_lucids() -> None:
    maps = random_maps(7, 3, 2, 5)
    found = score(alignment("map", decay=3), {"map": maps})
    assert len(found) == 7
    np.testing.assert_allclose(sum(found), slow_alignment(maps.numpy(), 3))
    apart = torch.zeros(7, 1, 1, 1, dtype=torch.float64)
    apart[6] = 1
    assert [value > 0 for value in score(alignment("map"), {"map": apart})] == [False] * 2 + [True] * 5


def test_an_interpolation_goes_from_one_to_the_other() -> None:
    maps = {"a": random_maps(5, 2, 3, 3), "b": random_maps(5, 4, 2, 2)}
    first, last = channel("a:1"), neuron("b:3")
    one, two = first.score(maps), last.score(maps)
    weights = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    wanted = interpolation(first, last)
    torch.testing.assert_close(wanted.score(maps), (1 - weights) * one + weights * two)
    assert wanted.joint and wanted.layers == ("a", "b") and wanted.name == "from a:1 to b:3 at the centre"


def test_a_member_is_scored_alone_and_the_others_are_0() -> None:
    maps = {"map": random_maps(4, 3, 5, 5).requires_grad_()}
    wanted = member(channel("map:1"), 2) - member(2 * energy("map"), 0)
    expected = torch.zeros(4, dtype=torch.float64)
    expected[2], expected[0] = channel("map:1").score(maps)[2], -2 * energy("map").score(maps)[0]
    torch.testing.assert_close(wanted.score(maps), expected)
    (slope,) = torch.autograd.grad(wanted.score(maps).sum(), maps["map"])
    assert [bool(each.any()) for each in slope] == [True, False, True, False]
    with pytest.raises(ValueError, match=r"has no picture 4: its group has 4 \(0 to 3\)"):
        member(channel("map:1"), 4).score(maps)
    with pytest.raises(ValueError, match="counted from 0"):
        member(channel("map:1"), -1)


def test_a_member_of_a_joint_objective_keeps_its_companions() -> None:
    maps = {"map": random_maps(3, 3, 5, 5)}
    assert score(member(diversity("map"), 1), maps) == [0.0, score(diversity("map"), maps)[1], 0.0]


@pytest.mark.parametrize(
    "objective", [diversity("map"), alignment("map"), interpolation(channel("map:0"), channel("map:1"))]
)
def test_an_objective_of_a_group_refuses_a_single_picture(objective: Objective) -> None:
    assert objective.joint
    with pytest.raises(ValueError, match="is about a group of pictures, and this has one: ask for count=2 or more"):
        objective.score({"map": random_maps(1, 3, 4, 4)})


def test_jointness_and_edits_survive_the_algebra() -> None:
    wanted = 2 * (channel("a:0") - diversity("a")) + through("b:1", "a:2")
    assert wanted.joint and (-wanted).joint and list((-wanted).edits) == ["a"]
    assert wanted.layers == ("a", "b")
    assert not (channel("a:0") + energy("a")).joint
    assert hash(through("b:1", "a:2")) is not None


def test_two_edits_of_a_layer_do_not_add() -> None:
    with pytest.raises(ValueError, match="both edit layer 'a': a sum reads it edited once"):
        through("b:1", "a:2") + through("b:1", "a:3")
    one = through("b:1", "a:2")
    assert (one - 0.5 * one).edits == one.edits


# A unit through chosen others


@pytest.mark.parametrize("objective", [through, climbing_through])
def test_through_all_channels_is_the_unit_itself(objective: Callable[..., Objective]) -> None:
    model = tiny_model("branch_concat")
    images = random_images(3)
    wanted = objective("mixed2:3", [f"mixed1:{index}" for index in range(model.layer("mixed1").channels)])
    with probe(model, wanted.layers, edits=wanted.edits) as activations:
        model(images)
        found = wanted.score(activations)
    with probe(model, wanted.layers) as activations:
        model(images)
        torch.testing.assert_close(found, channel("mixed2:3").score(activations))


def test_through_a_unit_is_what_the_weights_let_through() -> None:
    """In a plain network the next layer's input holds the chosen channel only: its convolution alone says what comes
    out."""
    model = tiny_model("plain")
    images = random_images(2)
    wanted = through("conv2:3", ["relu1:1", "relu1:4"])
    with torch.no_grad(), probe(model, ["relu1", "conv2"], edits=wanted.edits) as activations:
        model(images)
        found = wanted.score(activations)
    with torch.no_grad(), probe(model, "relu1") as activations:
        model(images)
        source = activations["relu1"]
    convolution = model.net.conv2
    alone = torch.nn.functional.conv2d(
        source[:, [1, 4]], convolution.weight[3:4, [1, 4]], convolution.bias[3:4], padding=1
    )
    torch.testing.assert_close(found, alone.mean((1, 2, 3)).detach())


def test_climbing_through_keeps_the_value_and_cuts_the_other_gradients() -> None:
    model = tiny_model("plain")
    images = random_images(2).requires_grad_()

    def slope(objective: Objective) -> tuple[Tensor, Tensor]:
        with probe(model, objective.layers, edits=objective.edits) as activations:
            model(images)
            value = objective.score(activations)
            return value.detach(), torch.autograd.grad(value.sum(), images)[0]

    whole, slope_of_all = slope(channel("conv3:2"))
    parts = [slope(climbing_through("conv3:2", f"relu2:{index}")) for index in range(7)]
    for value, _ in parts:
        torch.testing.assert_close(value, whole)
    torch.testing.assert_close(sum(part for _, part in parts), slope_of_all)
    assert not torch.allclose(parts[0][1], slope_of_all)


def test_each_group_has_its_own_edit() -> None:
    model = tiny_model("plain")
    objectives = [channel("conv2:0"), through("conv2:0", "relu1:1"), through("conv2:0", ["relu1:2", "conv1:2"])]
    counts = [1, 2, 1]
    images = random_images(4)
    with probe(model, ["conv2"], edits=edits_together(objectives, counts)) as activations:
        model(images)
        found = together(objectives, counts)(activations)
    expected = []
    for objective, rows in zip(objectives, torch.split(images, counts), strict=True):
        with probe(model, ["conv2"], edits=objective.edits) as activations:
            model(rows)
            expected.append(objective.score(activations))
    torch.testing.assert_close(found, torch.cat(expected))


def test_through_refuses_nothing_itself_and_channels_that_are_none() -> None:
    with pytest.raises(ValueError, match="through no unit is nothing"):
        through("b:1", [])
    with pytest.raises(ValueError, match="through its own layer says nothing"):
        through("b:1", ["a:0", "b:2"])
    with pytest.raises(ValueError, match=r"no channel 3 in layer 'a': it has 3 channels \(0 to 2\)"):
        through("b:1", "a:3").edits["a"](torch.ones(1, 3, 2, 2))


# About an image


IMAGE = random_images(1, seed=5)[0]


def about_an_image(model: Model, layer: str) -> dict[str, Objective]:
    """Every objective that aims at `IMAGE`."""
    return {
        "inversion": inversion(model, IMAGE, layer),
        "caricature": caricature(model, IMAGE, layer),
        "difference": difference(model, IMAGE, layer),
        "style": style(model, IMAGE, layer),
    }


def read(model: Model, objective: Objective, images: Tensor) -> Tensor:
    with torch.no_grad(), probe(model, [name for name in objective.layers if name != INPUT]) as activations:
        model(images)
        return objective.score({**activations, INPUT: images})


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_image_itself_is_what_is_wanted(name: str) -> None:
    model = tiny_model(name)
    layer = model.default_layers[1]
    with assert_untouched(model.net):
        wanted = about_an_image(model, layer)
    images = torch.cat([IMAGE[None], random_images(2)])
    for kind in ("inversion", "style", "difference"):
        own, *others = read(model, wanted[kind], images).abs().tolist()
        assert own < 1e-12 and min(others) > 1e-3, kind
    with torch.no_grad(), probe(model, layer) as activations:
        model(IMAGE[None])
        length = float(activations[layer].norm())
    assert float(read(model, wanted["caricature"], images)[0]) == pytest.approx(length)


def test_the_objectives_of_an_image_are_their_formulas() -> None:
    model = tiny_model("strided")
    wanted, images = about_an_image(model, "conv2"), random_images(2)
    with torch.no_grad(), probe(model, "conv2") as activations:
        model(torch.cat([IMAGE[None], images]))
        goal, *found = activations["conv2"].numpy()
    assert goal.shape[1] != goal.shape[2], "a map that is not square shows swapped axes"
    expected = {
        "inversion": [-((one - goal) ** 2).sum() / (goal**2).sum() for one in found],
        "difference": [abs(one - goal).mean() for one in found],
        "caricature": [slow_term(one.ravel(), goal.ravel() / np.linalg.norm(goal), 1) for one in found],
        "style": [-((slow_gram(one) - slow_gram(goal)) ** 2).sum() / (slow_gram(goal) ** 2).sum() for one in found],
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(read(model, wanted[kind], images), values, err_msg=kind)


@pytest.mark.parametrize("kind", [inversion, caricature, difference])
def test_a_mask_leaves_the_rest_of_the_image_free(kind: Callable[..., Objective]) -> None:
    model = tiny_model("plain")
    mask = np.zeros((12, 12))
    mask[:6] = 1
    wanted, images = kind(model, IMAGE, "conv2", mask=mask), random_images(1).requires_grad_()
    with probe(model, wanted.layers) as activations:
        model(images)
        (slope,) = torch.autograd.grad(wanted.score(activations).sum(), activations["conv2"])
    assert bool(slope[:, :, :6].any()) and not bool(slope[:, :, 6:].any())
    assert wanted.name != kind(model, IMAGE, "conv2").name


@pytest.mark.parametrize("kind", [inversion, caricature, difference])
def test_a_mask_of_ones_is_no_mask(kind: Callable[..., Objective]) -> None:
    model, images = tiny_model("strided"), random_images(2)
    masked, plain = (kind(model, IMAGE, "conv2", mask=mask) for mask in (np.ones((12, 12)), None))
    torch.testing.assert_close(read(model, masked, images), read(model, plain, images))


def test_a_mask_of_tokens_has_one_number_each() -> None:
    model = tiny_model("tokens")
    layer = "blocks.0"
    wanted = inversion(model, IMAGE, layer, mask=[1.0, *[0.0] * 9])
    images = random_images(1).requires_grad_()
    with probe(model, layer) as activations:
        model(images)
        (slope,) = torch.autograd.grad(wanted.score(activations).sum(), activations[layer])
    assert bool(slope[:, :, 0].all()) and not bool(slope[:, :, 1:].any())
    with pytest.raises(
        ValueError, match=r"a mask \(9,\) for layer 'blocks.0' of 10 positions: give a mask \(h, w\) or"
    ):
        inversion(model, IMAGE, layer, mask=np.ones(9))


def test_a_mask_over_the_image_finds_the_patches() -> None:
    model = tiny_model("tokens")
    mask = np.zeros((12, 12))
    mask[4:8, 8:] = 1
    images = random_images(1).requires_grad_()
    wanted = inversion(model, IMAGE, "blocks.0", mask=mask)
    with probe(model, "blocks.0") as activations:
        model(images)
        (slope,) = torch.autograd.grad(wanted.score(activations).sum(), activations["blocks.0"])
    assert slope.any(1)[0].nonzero().flatten().tolist() == [1 + 3 * 1 + 2]


def test_a_caricature_may_grow_and_an_inversion_may_not() -> None:
    model = tiny_model("plain")
    wanted = about_an_image(model, "relu2")
    with torch.no_grad(), probe(model, "relu2") as activations:
        model(IMAGE[None])
        own = activations["relu2"]
    values = {kind: [float(each.score({"relu2": scale * own})) for scale in (1, 3)] for kind, each in wanted.items()}
    assert values["caricature"][1] == pytest.approx(3 * values["caricature"][0])
    assert values["inversion"][1] == pytest.approx(-4.0)


def test_the_power_of_a_caricature_keeps_other_things_out() -> None:
    model = tiny_model("plain")
    with torch.no_grad(), probe(model, "relu2") as activations:
        model(torch.cat([IMAGE[None], random_images(1)]))
        own, other = activations["relu2"][:1], activations["relu2"][1:]
    foreign = other - own * float((other * own).sum() / own.square().sum())
    for power, wins in ((0, True), (4, False)):
        wanted = caricature(model, IMAGE, "relu2", power=power)
        mixed, pure = (float(wanted.score({"relu2": value})) for value in (1.5 * own + 3 * foreign, own))
        assert (mixed > pure) is wins


def test_differences_of_the_picture_itself() -> None:
    model = tiny_model("plain")
    near = difference(model, IMAGE, INPUT)
    assert near.layers == (INPUT,)
    assert score(near, {INPUT: IMAGE[None]}) == [0.0]
    np.testing.assert_allclose(score(near, {INPUT: IMAGE[None] + 0.25}), [0.25])


def test_a_picture_and_a_tensor_are_one_image() -> None:
    model = tiny_model("plain")
    picture = np.moveaxis(IMAGE.numpy(), 0, -1)
    names = {inversion(model, image, "conv2").name for image in (picture, IMAGE, IMAGE[None])}
    assert len(names) == 1 and names != {inversion(model, 1 - picture, "conv2").name}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((12, 12)), "this is no single image"),
        (np.zeros((2, 3, 12, 12)), "this is no single image"),
        (torch.zeros(2, 3, 12, 12), "this is no single image"),
        (np.zeros((12, 12, 3), np.uint8), "an image holds floats in"),
        (np.full((12, 12, 3), 2.0), "an image holds floats in"),
        (np.full((12, 12, 3), np.nan), "an image holds floats in"),
    ],
)
def test_what_is_no_image_is_refused(image: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inversion(tiny_model("plain"), image, "conv2")  # type: ignore[arg-type]


def test_a_style_does_not_depend_on_where_things_are_nor_on_the_size() -> None:
    model = tiny_model("plain")
    wanted = style(model, IMAGE, "relu2")
    with torch.no_grad(), probe(model, "relu2") as activations:
        model(IMAGE[None])
        own = activations["relu2"]
    for other in (own.flip(3), own.transpose(2, 3), torch.cat([own, own], 2)):
        assert abs(float(wanted.score({"relu2": other}))) < 1e-12


def test_a_picture_of_another_size_is_refused_except_for_its_style() -> None:
    model, larger = tiny_model("plain"), random_images(1, size=14)
    with pytest.raises(ValueError, match="the picture has 14 x 14 positions at layer 'conv2' and the image 12 x 12"):
        read(model, inversion(model, IMAGE, "conv2"), larger)
    assert bool(torch.isfinite(read(model, style(model, IMAGE, ["conv1", "conv2"]), larger)).all())


def test_layers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no layer 'conv9'"):
        inversion(tiny_model("plain"), IMAGE, "conv9")
    with pytest.raises(ValueError, match="at least one layer"):
        style(tiny_model("plain"), IMAGE, [])


# Penalties


PICTURES = random_images(2, seed=3)[:, :, :, :9]


def test_penalties_are_their_formulas() -> None:
    arrays = PICTURES.numpy()
    blurred = [np.stack([slow_blurred(plane, 3) for plane in image]) for image in arrays]
    expected = {
        "total variation": [slow_variation(image) for image in arrays],
        "l1": [abs(image - 0.5).mean() for image in arrays],
        "l2": [np.sqrt(((image - 0.5) ** 2).mean()) for image in arrays],
        "blur": [np.sqrt(((image - other) ** 2).mean()) for image, other in zip(arrays, blurred, strict=True)],
        "boundary": [slow_boundary(image, 3, 0.5) for image in arrays],
    }
    made = {name: make(3) if name == "boundary" else make() for name, make in PENALTIES.items()}
    assert made.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(score(made[name], {INPUT: PICTURES}), values, err_msg=name)
        assert made[name].layers == (INPUT,)


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_a_penalty_is_a_positive_number_and_0_on_grey(name: str) -> None:
    penalty = boundary(2) if name == "boundary" else PENALTIES[name]()
    assert all(value > 0 for value in score(penalty, {INPUT: PICTURES}))
    grey = torch.full((1, 3, 9, 7), 0.5, dtype=torch.float64, requires_grad=True)
    value = penalty.score({INPUT: grey})
    assert value.tolist() == pytest.approx([0], abs=1e-5)
    assert bool(torch.isfinite(torch.autograd.grad(value.sum(), grey)[0]).all())


def test_a_step_against_the_blur_penalty_goes_to_the_blurred_copy() -> None:
    pictures = PICTURES.clone().requires_grad_()
    values = blur().score({INPUT: pictures})
    (slope,) = torch.autograd.grad(values.square().sum() / 2, pictures)
    stepped = (pictures - slope * pictures[0].numel()).detach().numpy()
    np.testing.assert_allclose(stepped[0, 1], slow_blurred(PICTURES[0, 1].numpy(), 3))


def test_the_boundary_penalty_touches_only_the_border_and_its_neighbours() -> None:
    pictures = random_images(1, size=16).requires_grad_()
    (slope,) = torch.autograd.grad(boundary(3).score({INPUT: pictures}).sum(), pictures)
    assert not bool(slope[:, :, 5:-5, 5:-5].any()) and bool(slope[:, :, :3].all())
    with pytest.raises(ValueError, match="a picture of 16 x 16 pixels is all border: give a width below 8"):
        boundary(8).score({INPUT: pictures})
    with pytest.raises(ValueError, match="give a whole number of pixels"):
        boundary(0)


def test_penalties_of_a_layer() -> None:
    maps = {"map": random_maps(2, 3, 4, 5), "vector": random_maps(2, 3)}
    np.testing.assert_allclose(score(l1("vector", value=0), maps), maps["vector"].abs().mean(1))
    np.testing.assert_allclose(score(l2("map", value=1), maps), (maps["map"] - 1).square().mean((1, 2, 3)).sqrt())
    np.testing.assert_allclose(score(total_variation("map"), maps)[0], slow_variation(maps["map"][0].numpy()))
    with pytest.raises(ValueError, match="'total variation of vector' is about rows and columns"):
        total_variation("vector").score(maps)


# All of them


def every_objective(model: Model, layer: str) -> list[Objective]:
    """One of each that reads ``layer``, with maps or without."""
    ones = np.ones(model.layer(layer).channels)
    return [
        channel(f"{layer}:1"), neuron(f"{layer}:1"), energy(layer), direction(layer, ones, cosine=2),
        cosine(layer, ones), interpolation(channel(f"{layer}:0"), channel(f"{layer}:1")), alignment(layer),
        diversity(layer), member(channel(f"{layer}:1"), 1), *about_an_image(model, layer).values(),
        l1(layer), l2(layer), blur(), boundary(2), total_variation(),
    ]  # fmt: skip


@pytest.mark.parametrize("net", ["strided", "tokens", "nhwc", "residual"])
def test_every_objective_scores_maps_tokens_and_vectors(net: str) -> None:
    model, images = tiny_model(net), random_images(3)
    for layer in (model.default_layers[-2], model.default_layers[-1]):
        objectives = every_objective(model, layer)
        with torch.no_grad(), probe(model, layer) as activations:
            model(images)
            given = {**activations, INPUT: images}
            for objective in objectives:
                values = objective.score(given)
                assert values.shape == (3,) and bool(torch.isfinite(values).all()), objective.name
        assert len({objective.name for objective in objectives}) == len(objectives)


def test_objectives_that_are_not_joint_score_each_picture_alone() -> None:
    model, images = tiny_model("residual"), random_images(3)
    with torch.no_grad(), probe(model, "layer1.0") as activations:
        model(images)
        given = {**activations, INPUT: images}
        for objective in every_objective(model, "layer1.0"):
            if objective.joint:
                continue
            alone = [objective.score({name: each[i : i + 1] for name, each in given.items()}) for i in range(3)]
            torch.testing.assert_close(objective.score(given), torch.cat(alone), msg=objective.name)


def test_sixteen_bit_layers_are_scored_in_32_bits() -> None:
    """The Gram matrix of a large layer overflows float16, and a mean of bfloat16 has two digits."""
    maps = 60 * torch.rand(2, 16, 40, 40, generator=torch.Generator().manual_seed(0))
    objectives = [channel("m:3"), energy("m"), diversity("m"), direction("m", np.arange(1.0, 17), cosine=2), l2("m")]
    for kind in (torch.float16, torch.bfloat16):
        for objective in objectives:
            found, expected = objective.score({"m": maps.to(kind)}), objective.score({"m": maps.to(kind).float()})
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, msg=objective.name)
        joined = together([channel("m:3"), channel("m:1")])({"m": maps.to(kind)})
        assert joined.dtype == torch.float32
