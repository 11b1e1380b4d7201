"""Reading: the Jacobian of a target's position, read backwards through what autograd recorded, box by box.

Autograd's own backward pass works on whole maps. One position of the target reads a box of every tensor before it, and
one channel only some of the branches: here each operation is gone back through on that box and for those rows alone. A
convolution next to the target is not even multiplied: its weights are copied. The numbers are those of autograd
(`agrees` says so for a random row before they are used).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from circuits.wiring.pulls import Pull, Shape, hull, merged
from circuits.wiring.rules import RULES, Rule
from circuits.wiring.segments import Segment
from circuits.wiring.transposes import TRANSPOSES, ForeignError, Step, linear_layer, through_node

NUMBERS = 2**26  # of one tensor that a pass over some rows makes at most: 256 MB in float32
# How far, relative to the largest, a row read here may be from autograd's. Orders of summation differ (1e-6, TF32 on a
# GPU 1e-3); a wrong transpose changes everything.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3}
COARSE = 5e-2  # for half precision
# What tells one call of an operation from another of the same name, for its transpose.
SETTINGS = tuple(
    f"_saved_{name}"
    for name in (
        "stride",
        "padding",
        "dilation",
        "groups",
        "transposed",
        "kernel_size",
        "ceil_mode",
        "count_include_pad",
        *("dim", "dims", "dim0", "dim1", "keepdim", "shifts", "pad", "step", "alpha", "beta", "divisor_override"),
    )
)


@dataclass(frozen=True)
class Plan:
    """The recorded operations between the leaves and the target, last first."""

    segment: Segment
    nodes: tuple[Any, ...]
    active: frozenset[Any]
    leaves: dict[Any, str]

    def rules(self) -> list[Rule]:
        """Give the rules of `RULES` that made operations on the way linear."""
        names = {node.metadata.get("rule") for node in self.nodes}
        return [RULES[name] for name in names if name in RULES]


def plan(segment: Segment) -> Plan:
    """Put the operations that lead to a leaf in the order of the way back."""
    names = {id(leaf): name for name, leaf in segment.leaves.items()}
    active: dict[Any, bool] = {}
    order: list[Any] = []
    leaves: dict[Any, str] = {}
    stack: list[tuple[Any, bool]] = [(segment.output.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if done:
            active[node] = node in leaves or any(active[parent] for parent in parents)
            order.append(node)
        elif node not in active:
            active[node] = False
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in names:
                leaves[node] = names[id(variable)]
            stack.append((node, True))
            stack += [(parent, False) for parent in parents if parent not in active]
    nodes = tuple(node for node in dict.fromkeys(reversed(order)) if active[node])
    return Plan(segment, nodes, frozenset(nodes), leaves)


def read_rows(plan: Plan, start: Pull, *, bounded: bool) -> tuple[dict[str, list[Pull]], int]:
    """Give the pulls of each source for those of the target, and how many numbers the largest tensor had per row.

    Raises `UnboundedError` where a box that may grow over the border (``bounded=False``) cannot.
    """
    waiting: dict[tuple[Any, int], list[Pull]] = {(plan.nodes[0], plan.segment.output.output_nr): [start]}
    found: dict[str, list[Pull]] = {name: [] for name in plan.segment.leaves}
    most = 1
    for node in plan.nodes:
        outputs = [number for number in range(len(node._input_metadata)) if (node, number) in waiting]
        for number in outputs:
            pulls = merged(waiting.pop((node, number)))
            if node in plan.leaves:
                found[plan.leaves[node]] += pulls
                continue
            step = _step(plan, node, number, bounded=bounded)
            for pull in pulls:
                for key, part in _back(step, pull):
                    kept = part.clipped(tuple(key[0]._input_metadata[key[1]].shape)) if bounded else part
                    if kept is not None:
                        most = max(most, kept.data[0].numel())
                        waiting.setdefault(key, []).append(kept)
    return found, most


def _step(plan: Plan, node: Any, number: int, *, bounded: bool) -> Step:
    before = tuple(
        tuple(parent._input_metadata[place].shape) if parent in plan.active else None
        for parent, place in node.next_functions
    )
    return Step(node, number, before, tuple(node._input_metadata[number].shape), bounded)


def _back(step: Step, pull: Pull) -> list[tuple[tuple[Any, int], Pull]]:
    shortcut = linear_layer(step, pull)
    if shortcut is not None:
        return [shortcut]
    transpose = TRANSPOSES.get(step.node.name(), through_node)
    try:
        given = transpose(step, pull)
    except ForeignError:
        given = through_node(step, pull)
    return [(step.node.next_functions[place], part) for place, part in given if step.before[place] is not None]


def position(output: Tensor, place: Sequence[int] | None = None) -> tuple[int, ...]:
    """Give a position of the target, by default its centre."""
    return tuple(side // 2 for side in output.shape[2:]) if place is None else tuple(place)


def own_channels(output: Tensor, place: Sequence[int], rows: tuple[int, int]) -> Pull:
    """Give what channels ``rows`` of the target at a position are of themselves, mean over images."""
    n, count = len(output), rows[1] - rows[0]
    data = output.detach().new_full((1, n, count, *[1] * len(place)), 1 / n)
    return Pull(rows, data, (0, rows[0], *place), diagonal=1)


def mixed_channels(output: Tensor, place: Sequence[int], seed: int = 0) -> tuple[Pull, Tensor]:
    """Give one random mixture of the target's channels, and its weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(output.shape[1], generator=generator, dtype=torch.float64).to(output)
    data = (weights / len(output)).reshape(1, 1, -1, *[1] * len(place)).repeat(1, len(output), *[1] * (len(place) + 1))
    return Pull((0, 1), data, (0, 0, *place)), weights


def kinds(plan: Plan) -> frozenset[tuple[Any, ...]]:
    """Say which operations are between the leaves and the target, with how they were called."""
    return frozenset(
        (
            node.name(),
            tuple(parent in plan.active for parent, _ in node.next_functions),
            tuple(getattr(getattr(node, "_saved_weight", None), "shape", ())[1:]),
            *(repr(getattr(node, key, None)) for key in SETTINGS),
        )
        for node in plan.nodes
    )


@torch.enable_grad()
def agrees(plan: Plan, place: Sequence[int]) -> bool:
    """Say whether a random row, read on the map as it is, is the one that autograd's own backward pass gives."""
    output = plan.segment.output
    start, weights = mixed_channels(output, place)
    at: Any = (slice(None), slice(None), *place)
    chosen = output[at].mean(0)
    leaves = list(plan.segment.leaves.values())
    truth = torch.autograd.grad((chosen * weights).sum(), leaves, retain_graph=True, allow_unused=True)
    with torch.no_grad():
        found, _ = read_rows(plan, start, bounded=True)
    return all(_close(found[name], true) for name, true in zip(plan.segment.leaves, truth, strict=True))


def _close(pulls: Sequence[Pull], truth: Tensor | None) -> bool:
    """Compare in the box that was read; outside of it nothing may be."""
    if truth is None or not pulls:
        return truth is None or not bool(truth.any())
    start, stop = hull(pulls)
    box: Any = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    inside, read = truth[box], torch.zeros_like(truth[box])
    for pull in pulls:
        read += pull.spread(start, stop).data[0]
    tolerance = TOLERANCES.get(truth.dtype, COARSE)
    total, seen = truth.abs().sum(), inside.abs().sum()
    if not total.isfinite():  # what autograd's own pass gives is NaN where a NaN meets a zero, too
        known = inside.isfinite()
        inside, read, total = inside[known], read[known], seen
    size = inside.abs().max() if inside.numel() else torch.zeros(())
    outside = not bool(total - seen > tolerance * total)
    return outside and (not inside.numel() or bool((read - inside).abs().max() <= tolerance * size))


@dataclass(frozen=True)
class Found:
    """What a source's channels do to the target's: ``kernels`` ``(o, i, *box)``, where the box begins; with ``total``
    they are summed over positions."""

    kernels: Tensor
    start: Shape
    total: bool


@torch.no_grad()
def window_of(plan: Plan, place: Sequence[int], *, bounded: bool) -> dict[str, list[Pull]]:
    """Give what a random mixture of the target's channels reads in each source."""
    return read_rows(plan, mixed_channels(plan.segment.output, place)[0], bounded=bounded)[0]


@torch.no_grad()
def read(
    plan: Plan, place: Sequence[int], *, bounded: bool, total: Callable[[str, Sequence[Pull]], bool]
) -> dict[str, Found]:
    """Give the whole Jacobian of a position of the target to each source.

    Where ``total`` says so of a source and of its pulls for a random row, only the sum over positions is kept. Raises
    `UnboundedError` as `read_rows` does.
    """
    output = plan.segment.output
    tried, most = read_rows(plan, mixed_channels(output, place)[0], bounded=bounded)
    sums = {name: total(name, parts) for name, parts in tried.items() if parts}
    count, channels = max(1, NUMBERS // most), output.shape[1]
    kernels: dict[str, _Kernels] = {}
    for name, parts in tried.items():
        if parts:
            whole = output.dim() == 2 and not sums[name]
            kernels[name] = _Kernels.over(parts, channels, plan.segment.leaves[name], whole=whole, total=sums[name])
    for first in range(0, channels, count):
        rows = (first, min(channels, first + count))
        found, _ = read_rows(plan, own_channels(output, place, rows), bounded=bounded)
        for name, parts in found.items():
            for part in parts:
                kernels[name].add(_without_images(part, total=sums[name]))
    return {name: Found(each.whole(), each.start, sums[name]) for name, each in kernels.items()}


def _without_images(pull: Pull, *, total: bool) -> Pull:
    """Sum over images, and with ``total`` over positions."""
    axes = [0, *range(2, len(pull.start))] if total else [0]
    if pull.diagonal in axes:
        pull = pull.dense()
    data = (
        pull.data.sum([axis + 1 for axis in axes], keepdim=True) if any(pull.extent[a] > 1 for a in axes) else pull.data
    )
    return replace(pull, data=data, start=tuple(0 if axis in axes else a for axis, a in enumerate(pull.start)))


@dataclass
class _Kernels:
    """Kernels ``(o, i, *box)`` that pulls are added to, a block of channels at a time."""

    like: Tensor
    shape: Shape
    start: Shape
    numbers: Tensor | None = None

    @classmethod
    def over(cls, pulls: Sequence[Pull], outputs: int, leaf: Tensor, *, whole: bool, total: bool) -> _Kernels:
        """Begin with the box of these pulls; with ``whole`` the source's map, with ``total`` one place."""
        start, stop = hull(pulls)
        if whole:
            start, stop = (0,) * leaf.dim(), tuple(leaf.shape)
        if total:
            start, stop = (0,) * leaf.dim(), (1,) * leaf.dim()
        box = [b - a for a, b in zip(start[2:], stop[2:], strict=True)]
        return cls(leaf, (outputs, leaf.shape[1], *box), start[2:])

    def add(self, pull: Pull) -> None:
        """Add a pull without images."""
        if self.numbers is None:
            alone = pull.diagonal is None and pull.start[2:] == self.start
            if alone and (pull.data.shape[0], *pull.data.shape[2:]) == self.shape and pull.data.shape[1] == 1:
                self.numbers = pull.data[:, 0].contiguous()
                return
            self.numbers = self.like.new_zeros(self.shape)
        box = zip(pull.start[2:], pull.stop[2:], self.start, strict=True)
        inner = tuple(slice(a - c, b - c) for a, b, c in box)
        if pull.diagonal == 1:
            part = self.numbers[(slice(None), slice(None), *inner)]
            rows = torch.arange(*pull.rows, device=part.device)
            part[rows, rows - pull.rows[0] + pull.start[1]] += pull.data[0, 0]
            return
        pull = pull.dense()
        self.numbers[(slice(*pull.rows), slice(pull.start[1], pull.stop[1]), *inner)] += pull.data[:, 0]

    def whole(self) -> Tensor:
        """Give what was added up."""
        return self.like.new_zeros(self.shape) if self.numbers is None else self.numbers
