"""Objectives score what they say, image by image, and their algebra is that of numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import random_images, tiny_model
from torch import Tensor

from features.models import Model, load_model, probe
from features.objectives import Objective, channel, direction, energy, logit, neuron, together

RAMP = {"map": torch.arange(2 * 3 * 4 * 10.0).reshape(2, 3, 4, 10), "vector": torch.arange(6.0).reshape(2, 3)}


def score(objective: Objective, activations: dict[str, Tensor] | None = None) -> list[float]:
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
