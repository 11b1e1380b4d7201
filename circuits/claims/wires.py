"""Claims about wires: what the weights between layers say of them. A check gives whether it holds, and its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from circuits.claims.evidence import Evidence, NotTestable
from features.units import Unit

Given: TypeAlias = Mapping[str, Any]
Figures: TypeAlias = dict[str, float | int | str]
Outcome: TypeAlias = tuple[bool, Figures]

# A wire "excites" if few of the layer's other units excite the target there as much: a tenth, by default. A random wire
# passes one time in ten; a claim may ask for less with ``at_most``.
AT_MOST = 0.1


def excites(evidence: Evidence, given: Given) -> Outcome:
    """Check that the weights in the region add up to more than 0, and to more than most of the layer's other units'."""
    return _pushes(evidence, given, 1.0)


def inhibits(evidence: Evidence, given: Given) -> Outcome:
    """Check that the weights in the region add up to less than 0, and to less than most of the layer's other units'."""
    return _pushes(evidence, given, -1.0)


def positive(evidence: Evidence, given: Given) -> Outcome:
    """Check that all weights of the wire add up to more than 0."""
    weight, _ = _in_region(evidence, given, "all")
    return weight > 0, {"weight": weight}


def negative(evidence: Evidence, given: Given) -> Outcome:
    """Check that all weights of the wire add up to less than 0."""
    weight, _ = _in_region(evidence, given, "all")
    return weight < 0, {"weight": weight}


def strongest(evidence: Evidence, given: Given) -> Outcome:
    """Check that the source is among the target's ``rank`` strongest inputs from its layer, by the L2 norm."""
    source, target = _wire(evidence, given)
    norms = _rows(evidence, source, target).flatten(1).norm(dim=1)
    place = int((norms > norms[source.channel]).sum()) + 1
    return place <= given["rank"], {"rank": place, "of": len(norms), "strength": float(norms[source.channel])}


def stronger(evidence: Evidence, given: Given) -> Outcome:
    """Check that the source's weights on the target add up to more than those of the unit it is compared ``than``."""
    first, _ = _in_region(evidence, given, given.get("where", "all"))
    other, _ = _in_region(evidence, {**given, "source": given["than"]}, given.get("where", "all"))
    return first > other, {"weight": first, "weight_of_other": other}


def mirrored(evidence: Evidence, given: Given) -> Outcome:
    """Check that two units' (or groups') kernels on the target are mirror images, left and right.

    The cosine between one and the other's mirror image is above 0 and above the cosine without mirroring, and few units
    of the layer reach it in place of the second.
    """
    target = evidence.unit(given["target"])
    groups = [evidence.units(group) for group in given["sources"]]
    if len({unit.layer for group in groups for unit in group}) != 1:
        raise NotTestable("mirror images are looked for among units of one layer")
    one, other = (torch.stack([evidence.kernel(unit, target) for unit in group]).sum(0) for group in groups)
    if one.shape[-1] < 2:
        raise NotTestable(f"the wires into {target.layer!r} have no columns to mirror")
    rows = _rows(evidence, groups[0][0], target)
    turned, straight = _cosine(one, other.flip(-1)), _cosine(one, other)
    chance = _share([_cosine(one, row.flip(-1)) for row in rows], turned)
    held = turned > max(0.0, straight) and chance <= given.get("at_most", AT_MOST)
    return held, {"cosine_mirrored": turned, "cosine": straight, "p": chance}


def opposed(evidence: Evidence, given: Given) -> Outcome:
    """Check that two groups of sources act on each target in opposite places.

    The mean cosine between the groups' summed kernels, each without its mean, is below 0, and few pairs of groups drawn
    from the layer in order (the i-th unit and those after it) reach it.
    """
    groups = [evidence.units(group) for group in given["sources"]]
    targets = evidence.units(given["targets"])
    layer = groups[0][0].layer
    stacks = torch.stack([_centred(evidence.kernels(layer, target.layer)[target.channel]) for target in targets])
    if stacks[0, 0].numel() < 2:
        raise NotTestable("the wires have one position only, so nothing has places")
    found = _opposition(stacks, *([unit.channel for unit in group] for group in groups))
    null = [
        _opposition(stacks, *_drawn(stacks.shape[1], [len(group) for group in groups], seed)) for seed in range(200)
    ]
    chance = _share([-value for value in null], -found)
    return found < 0 and chance <= given.get("at_most", AT_MOST), {"cosine": found, "p": chance}


def out_of(evidence: Evidence, given: Given) -> Outcome:
    """Check that every one of the units is fed by the module ``branch``, of all that make up their layer."""
    units = evidence.units(given["units"])
    try:
        branch = evidence.model.layer(given["branch"]).name
    except ValueError as error:
        raise NotTestable(str(error)) from error
    fed = evidence.kernels(branch, units[0].layer).flatten(1).abs().amax(1) > 0
    inside = [bool(fed[unit.channel]) for unit in units]
    return all(inside), {
        "in_branch": sum(inside),
        "units": len(units),
        "p": _all_inside(int(fed.sum()), len(fed), len(units)),
    }


def wide(evidence: Evidence, given: Given) -> Outcome:
    """Check how many channels a layer has."""
    try:
        channels = evidence.model.layer(given["layer"]).channels
    except ValueError as error:
        raise NotTestable(str(error)) from error
    return channels == given["channels"], {"channels": channels}


def _pushes(evidence: Evidence, given: Given, sign: float) -> Outcome:
    weight, others = _in_region(evidence, given, given.get("where", "all"))
    chance = _share([sign * other for other in others], sign * weight)
    held = sign * weight > 0 and chance <= given.get("at_most", AT_MOST)
    return held, {"weight": weight, "p": chance}


def _in_region(evidence: Evidence, given: Given, where: str) -> tuple[float, list[float]]:
    """Give the sum of the wire's weights in a region, and that of all units of the source's layer."""
    source, target = _wire(evidence, given)
    rows = _rows(evidence, source, target)
    if where != "all" and min(rows.shape[1:]) < 2:
        raise NotTestable(
            f"the wires from {source.layer!r} to {target.layer!r} have one position only, so no {where} part"
        )
    sums = (rows * _region(where, rows.shape[1], rows.shape[2])).sum((1, 2))
    return float(sums[source.channel]), sums.tolist()


def _region(where: str, height: int, width: int) -> Tensor:
    """Give 1 in the region of a window and 0 elsewhere; a middle row or column belongs to neither half."""
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2
    middle = (y.abs() <= height / 6) & (x.abs() <= width / 6)
    regions = {"upper": y < 0, "lower": y > 0, "left": x < 0, "right": x > 0, "centre": middle, "around": ~middle}
    return torch.ones(height, width, dtype=torch.float64) * regions.get(where, torch.ones(1, 1))


def _wire(evidence: Evidence, given: Given) -> tuple[Unit, Unit]:
    return evidence.unit(given["source"]), evidence.unit(given["target"])


def _rows(evidence: Evidence, source: Unit, target: Unit) -> Tensor:
    """Give the kernels of the whole layer of ``source`` on ``target``, ``(i, kh, kw)``."""
    return evidence.kernels(source.layer, target.layer)[target.channel]


def _share(values: Sequence[float], reached: float) -> float:
    """Give the part of ``values`` that are at least ``reached``, the claimed one itself among them."""
    return sum(value >= reached - 1e-12 for value in values) / len(values)


def _cosine(one: Tensor, other: Tensor) -> float:
    length = float(one.norm() * other.norm())
    return float((one * other).sum()) / length if length else 0.0


def _centred(kernels: Tensor) -> Tensor:
    return kernels - kernels.mean((1, 2), keepdim=True)


def _opposition(stacks: Tensor, one: Sequence[int], other: Sequence[int]) -> float:
    pairs = zip(stacks[:, one].sum(1), stacks[:, other].sum(1), strict=True)
    found = [_cosine(*pair) for pair in pairs]
    return sum(found) / len(found)


def _drawn(count: int, sizes: Sequence[int], seed: int) -> list[list[int]]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[: sizes[0]], order[sizes[0] : sum(sizes)]]


def _all_inside(branch: int, layer: int, units: int) -> float:
    """Give the chance that ``units`` units drawn from the layer all come from the branch."""
    return math.comb(branch, units) / math.comb(layer, units)
