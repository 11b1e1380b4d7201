"""Segment: one run of the network made linear, cut at its sources: leaves, target, and what autograd recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from circuits.wiring.linear import Linearized
from circuits.wiring.rules import RULES, Rule
from features.models import Model, probe

Edit = Callable[[Tensor], Tensor]


Rules = Callable[[], Mapping[str, Rule]]


def default_rules() -> Mapping[str, Rule]:
    """Give `RULES`."""
    return RULES


@dataclass(frozen=True)
class Segment:
    """The leaf in place of each source, the target, and the names of the operations met on the way to it."""

    leaves: dict[str, Tensor]
    output: Tensor
    used: frozenset[str]

    @property
    def leaf(self) -> Tensor:
        """The one leaf of a segment with one source."""
        return next(iter(self.leaves.values()))


def run(
    model: Model,
    source: str,
    target: str,
    cut: Collection[str],
    images: Tensor,
    *,
    structure: bool = False,
    rules: Rules = default_rules,
) -> Segment:
    """Run the linearized network from ``source`` to ``target`` with the layers of ``cut`` held fixed."""
    mode = Linearized(structure=structure, rules=RULES if structure else rules())
    edits: dict[str, Edit] = {**dict.fromkeys(cut, Tensor.detach), source: functools.partial(_leaf, mode)}
    edits = {name: edit for name, edit in edits.items() if runs_before(model, name, target)}
    with torch.enable_grad(), probe(model, [target], edits=edits) as activations, mode:
        model(images)
        output = activations[target]
    if mode.leaf is None or not output.requires_grad:
        reason = _why_not(model, source, target, cut, mode.used)
        raise ValueError(f"layer {source!r} does not feed {target!r}: {reason}; circuits.flow says what feeds what")
    segment = Segment({source: mode.leaf}, output, frozenset(mode.used))
    check_linear(segment)
    return segment


def run_all(model: Model, layers: Sequence[str], images: Tensor) -> dict[str, Segment]:
    """Run the linearized network once, cut at all ``layers``: for each its segment, from the layers that feed it.

    ``used`` is what the whole network used. A layer that reads none of the others has no leaves.
    """
    mode = Linearized()
    leaves: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def replace(name: str, value: Tensor) -> Tensor:
        outputs[name] = value
        given = _leaf(mode, value)
        leaves[name] = mode.leaves[-1]
        return given

    edits: dict[str, Edit] = {name: functools.partial(replace, name) for name in layers}
    with torch.enable_grad(), probe(model, list(layers), edits=edits), mode:
        model(images)
    names = {id(leaf): name for name, leaf in leaves.items()}
    segments = {}
    for name in layers:
        reached = {names.get(id(variable)) for variable in leaves_behind(outputs[name])}
        own = {source: leaves[source] for source in layers if source in reached}
        segments[name] = Segment(own, outputs[name], frozenset(mode.used))
    return segments


def _why_not(model: Model, source: str, target: str, cut: Collection[str], used: Collection[str]) -> str:
    """Say what lies between two layers of which the first does not feed the second."""
    if not runs_before(model, source, target) and _reaches(model, target, source):
        return f"{target!r} feeds {source!r}"
    if not runs_before(model, source, target) or not _reaches(model, source, target):
        return "no path leads from the one to the other"
    held = _held_between(model, source, target, cut)
    if held:
        return f"every path goes through layers held fixed ({', '.join(held)})"
    stopping = sorted(RULES.keys() & used)
    return f"every path goes through operations with rules that stop it (among {', '.join(stopping)})"


def _reaches(model: Model, source: str, target: str) -> bool:
    """Say whether autograd sees any path from one layer to another, in the network as it is."""
    leaves: list[Tensor] = []

    def replace(value: Tensor) -> Tensor:
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[0].clone()

    with torch.enable_grad(), probe(model, [target], edits={source: replace}) as activations:
        model(grey(model))
        return any(variable is leaf for variable in leaves_behind(activations[target]) for leaf in leaves)


def _held_between(model: Model, source: str, target: str, cut: Collection[str]) -> list[str]:
    """Give the layers of ``cut`` on a path from ``source`` to ``target``, in order of execution."""
    ordered = [layer.name for layer in model.layers if layer.name in {source, target, *cut}]
    behind: dict[str, set[str]] = {}
    for name, segment in run_all(model, ordered, grey(model)).items():  # sources come before what they feed
        behind[name] = set(segment.leaves).union(*(behind[each] for each in segment.leaves))
    return [name for name in ordered if name in behind[target] and source in behind[name]]


def _leaf(mode: Linearized, value: Tensor) -> Tensor:
    leaf = value.detach().requires_grad_()  # the network goes on with a copy
    mode.leaf = leaf
    return leaf.clone()


def check_linear(segment: Segment) -> None:
    """Refuse a segment whose target reads its leaf through an operation that is not linear and that nothing froze."""
    for node in nodes_behind(segment.output):
        name = str(node.name())
        if name == "RefusedBackward":
            raise NotImplementedError(node.reason)
        if isinstance(node, BackwardCFunction) and name != "JoinedBackward":
            raise NotImplementedError(
                f"{name.removesuffix('Backward')!r} is a torch.autograd.Function of the network's own, whose "
                "derivative is not known to be linear: write it with torch functions, or list layers around it"
            )


def nodes_behind(output: Tensor) -> Iterator[Any]:
    """Give every operation that autograd recorded behind a tensor, each once."""
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [parent for parent, _ in node.next_functions]


def leaves_behind(output: Tensor) -> Iterator[Any]:
    """Give every leaf that a tensor depends on."""
    for node in nodes_behind(output):
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable


def runs_before(model: Model, name: str, target: str) -> bool:
    """Say whether a layer's call ends before that of another."""
    names = [layer.name for layer in model.layers]
    return names.index(name) < names.index(target)


def grey(model: Model, size: tuple[int, int] | None = None) -> Tensor:
    """Give one grey image, of the model's own size or another."""
    size = model.image_size if size is None else size
    return torch.full((1, model.channels, *size), 0.5, dtype=model.dtype, device=model.device)
