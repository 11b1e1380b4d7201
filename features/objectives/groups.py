"""Groups: several pictures of one objective, and objectives that score the pictures of a group together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from features.objectives.algebra import Edit, Objective, Score
from features.objectives.places import HALVES, checked, reading

# How far neighbours may be apart that `alignment` still pulls together (lucid, objectives.py, `alignment`).
REACH = 4


def together(objectives: Sequence[Objective], counts: Sequence[int] | None = None) -> Score:
    """Give the score of a batch in which group g, of ``counts[g]`` pictures (1 without ``counts``), is scored by
    objective g alone.

    The pictures of a group are neighbours, groups are in the order of ``objectives``. The channels of one layer are
    read in a single gather, whatever their number; every other objective sees the pictures of its own group only. The
    layers that objectives edit have to be edited for their own pictures where they are read: see `edits_together`.

    >>> from features.objectives import channel, energy
    >>> score = together([channel("conv:0"), channel("conv:1"), energy("conv")])
    >>> score({"conv": torch.arange(6.0).reshape(3, 2, 1, 1)})
    tensor([ 0.0000,  3.0000, 20.5000])
    >>> together([channel("conv:0"), diversity("conv")], [1, 2])({"conv": torch.ones(3, 2, 4, 4)})
    tensor([1., 1., 1.])
    """
    spans = _spans(objectives, counts)
    gathered: dict[str, list[int]] = {}
    for index, objective in enumerate(objectives):
        if objective.unit is not None and not objective.edits:
            gathered.setdefault(objective.unit.layer, []).append(index)
    read = {index for indexes in gathered.values() for index in indexes}
    alone = [index for index in range(len(objectives)) if index not in read]
    order = [index for indexes in gathered.values() for index in indexes] + alone
    back = torch.tensor([row for index in order for row in spans[index]], dtype=torch.long).argsort()

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        parts = [_gather(activations[layer], indexes, objectives, spans) for layer, indexes in gathered.items()]
        parts += [_one(objectives[index], activations, spans[index]) for index in alone]
        joined = torch.cat(parts)
        return joined[back.to(joined.device)]

    return score


def edits_together(objectives: Sequence[Objective], counts: Sequence[int] | None = None) -> dict[str, Edit]:
    """Give the edits of a batch in which the layers are edited for group g as objective g wants it, the rest left as it
    is.

    For ``probe(model, layers, edits=...)``, beside `together` of the same arguments.

    >>> from features.objectives import channel, through
    >>> edit = edits_together([channel("mixed4a:2"), through("mixed4a:2", "mixed3a:1")])["mixed3a"]
    >>> edit(torch.ones(2, 3, 1, 1)).reshape(2, 3)
    tensor([[1., 1., 1.],
            [0., 1., 0.]])
    """
    spans = _spans(objectives, counts)
    wanted: dict[str, dict[int, Edit]] = {}
    for index, objective in enumerate(objectives):
        for layer, edit in objective.edits.items():
            wanted.setdefault(layer, {})[index] = edit

    def edited(edits: Mapping[int, Edit]) -> Edit:
        def edit(values: Tensor) -> Tensor:
            parts = (values[span.start : span.stop] for span in spans)
            return torch.cat([edits[index](part) if index in edits else part for index, part in enumerate(parts)])

        return edit

    return {layer: edited(edits) for layer, edits in wanted.items()}


def member(objective: Objective, index: int) -> Objective:
    """An objective for one picture of a group, number ``index`` from 0; it scores the others 0.

    Raises ``ValueError``, when it is read, for a group without such a member.

    >>> from features.objectives import channel
    >>> first_and_last = member(channel("conv:0"), 0) + member(channel("conv:1"), 2)
    >>> first_and_last.score({"conv": torch.ones(3, 2, 4, 4)})
    tensor([1., 0., 1.])
    """
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ValueError(f"the pictures of a group are counted from 0, so {index!r} is none")

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        count = _count(objective, activations)
        if index >= count:
            raise ValueError(f"{objective.name!r} has no picture {index}: its group has {count} (0 to {count - 1})")
        if objective.joint:
            own = objective.score(activations)[index : index + 1]
        else:
            one = {layer: activations[layer][index : index + 1] for layer in objective.layers}
            own = objective.score(one)
        return torch.cat([own.new_zeros(index), own, own.new_zeros(count - index - 1)])

    name = f"({objective.name} for picture {index})"
    return dataclasses.replace(objective, score=score, name=name, unit=None, joint=True, peak=None)


def interpolation(first: Objective, last: Objective) -> Objective:
    """From one objective to another over a group of N pictures: picture i is scored ``(1 - w) first + w last`` with ``w
    = i / (N - 1)``.

    Subtract `alignment` to keep neighbours comparable (Olah et al. 2017, "Feature Visualization", the interaction of
    neurons; lucid's ``channel_interpolate``, which divides by 0 for a single picture: here it is refused).

    >>> from features.objectives import channel
    >>> halves = {"conv": torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1).expand(3, 2, 1, 1)}
    >>> interpolation(channel("conv:0"), channel("conv:1")).score(halves)
    tensor([1., 2., 3.])
    """
    both = first + last
    name = f"from {first.name} to {last.name}"

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        start, end = first.score(activations), last.score(activations)
        _check_group(len(start), name)
        return torch.lerp(start, end.to(start), torch.linspace(0, 1, len(start)).to(start))

    return dataclasses.replace(both, score=score, name=name, unit=None, joint=True)


def alignment(layer: str, *, decay: float = 2.0) -> Objective:
    """A penalty, to be subtracted: how different neighbours of a group are at ``layer``, position by position.

    Over all pairs at most four apart ``sum_d sum_i mean (a_i - a_{i+d})^2 / decay^d``, half of each pair's share to
    either picture, so that the scores of the group add up to lucid's ``alignment``, whose sign is the opposite (there
    it is added). It grows with the square of the layer's activations: try weights. Raises ``ValueError``, when it is
    read, for a group of one.

    >>> alignment("conv").score({"conv": torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)})
    tensor([1., 1.])
    """
    if not decay > 0:
        raise ValueError(f"decay is {decay}: give a number above 0, by which a step further apart counts less")
    name = f"alignment of {layer}"

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = reading(activations, layer)
        count = len(values)
        _check_group(count, name)
        total = values.new_zeros(count)
        for apart in range(1, min(REACH, count - 1) + 1):
            pairs = (values[:-apart] - values[apart:]).square().flatten(1).mean(1) / (2 * decay**apart)
            rest = values.new_zeros(apart)
            total = total + torch.cat([pairs, rest]) + torch.cat([rest, pairs])
        return total

    return Objective(score, (layer,), name, joint=True)


def diversity(layer: str) -> Objective:
    """A penalty, to be subtracted: how alike in texture each picture of a group is to the others.

    ``sum_{j != i} cos(G_i, G_j)`` with the Gram matrix ``G = A A^T`` of the channels over the positions: 0 if nothing
    is shared, N - 1 if all are the same. As in lucid the number is the likeness, and ``channel(unit) - 1e2 *
    diversity(layer)`` makes pictures differ (the mean over the group is lucid's and lucent's value). The weight is in
    units of the channel's activation. Raises ``ValueError``, when it is read, for a group of one.

    >>> same = torch.arange(4.0).reshape(1, 4, 1, 1).expand(3, 4, 2, 2)
    >>> diversity("mixed3a").score({"mixed3a": same})
    tensor([2., 2., 2.])
    """
    name = f"diversity of {layer}"

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = reading(activations, layer)
        _check_group(len(values), name)
        maps = values.reshape(len(values), values.shape[1], -1)
        grams = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1, eps=1e-10)
        alike = grams @ grams.T
        return alike.sum(1) - alike.diagonal()

    return Objective(score, (layer,), name, joint=True)


def _spans(objectives: Sequence[Objective], counts: Sequence[int] | None) -> list[range]:
    """Give the rows of each group."""
    sizes = [1] * len(objectives) if counts is None else list(counts)
    if len(sizes) != len(objectives) or any(size < 1 for size in sizes):
        raise ValueError(f"{len(objectives)} objectives with counts {sizes}: give each group at least 1 picture")
    ends = list(accumulate(sizes))
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _gather(values: Tensor, indexes: Sequence[int], objectives: Sequence[Objective], spans: Sequence[range]) -> Tensor:
    wanted = list(_rows_and_channels(values, indexes, objectives, spans))
    rows, channels = [row for row, _ in wanted], [channel for _, channel in wanted]
    found = values[rows, channels].reshape(len(rows), -1)
    return (found.float() if found.dtype in HALVES else found).mean(1)


def _rows_and_channels(
    values: Tensor, indexes: Sequence[int], objectives: Sequence[Objective], spans: Sequence[range]
) -> Iterator[tuple[int, int]]:
    for index in indexes:
        unit = objectives[index].unit
        if unit is not None:
            yield from ((row, checked(unit, values)) for row in spans[index])


def _one(objective: Objective, activations: Mapping[str, Tensor], rows: range) -> Tensor:
    own = {layer: activations[layer][rows.start : rows.stop] for layer in objective.layers}
    score = objective.score(own)
    if not isinstance(score, Tensor) or score.shape != (len(rows),):
        given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        images = "one image" if len(rows) == 1 else f"{len(rows)} images"
        raise ValueError(f"the objective {objective.name!r} gave {given} for {images}: give one number per image, (n,)")
    return score


def _count(objective: Objective, activations: Mapping[str, Tensor]) -> int:
    return len(activations[objective.layers[0]])


def _check_group(count: int, name: str) -> None:
    if count < 2:
        raise ValueError(f"{name!r} is about a group of pictures, and this has one: ask for count=2 or more")
