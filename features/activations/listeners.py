"""Listeners: what one `listen` wants of a network, and what it has got so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from features.activations.addresses import find_call
from features.activations.outputs import turn, turn_back
from features.activations.readings import Activations

Edit = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Listener:
    """What one `listen` wants, by module and number of call."""

    net: nn.Module
    names: list[str]
    edits: dict[str, Edit]
    stop: bool
    overwritten: Collection[str] | None
    layouts: dict[str, str]
    activations: Activations = field(init=False)
    addresses: dict[str, tuple[nn.Module, int]] = field(init=False)
    at: dict[tuple[int, int], list[str]] = field(init=False)
    pending: set[str] = field(init=False, default_factory=set)
    unedited: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.activations = Activations(self.names)
        self.addresses = {name: find_call(self.net, name) for name in dict.fromkeys([*self.names, *self.edits])}
        self.at = {}
        for name, (module, call) in self.addresses.items():
            self.at.setdefault((id(module), call), []).append(name)

    def begin(self) -> None:
        self.activations.clear()
        self.pending = set(self.names)
        self.unedited = set(self.edits)

    def done(self) -> bool:
        return self.stop and bool(self.names) and not self.pending

    def edit(self, place: tuple[int, int], value: Tensor) -> Tensor:
        for name in self.at.get(place, ()):
            if name in self.edits:
                value = self._edited(name, value)
                self.unedited.discard(name)
        return value

    def read(self, place: tuple[int, int], value: Tensor) -> Tensor:
        """Keep ``value``; give what the network goes on with, a view through which gradients reach the kept tensor."""
        for name in self.at.get(place, ()):
            if name in self.pending:
                layout = self.layouts.get(name)
                kept = turn(value, layout) if layout else value
                self.activations.keep(name, kept)
                self.pending.discard(name)
                value = turn_back(kept, layout) if layout else value
        return value

    def copy(self, place: tuple[int, int]) -> None:
        for name in self.at.get(place, ()):
            if name in self.names:
                self.activations.keep(name, self.activations[name].clone())

    def protects(self, place: tuple[int, int]) -> bool:
        names = self.at.get(place, ())
        return bool(names) and (self.overwritten is None or any(name in self.overwritten for name in names))

    def _edited(self, name: str, value: Tensor) -> Tensor:
        layout = self.layouts.get(name)
        before = turn(value, layout) if layout else value
        after = self.edits[name](before)
        if not isinstance(after, Tensor):
            raise TypeError(f"the edit of layer {name!r} gave {type(after).__name__}: return the tensor to go on with")
        if after.shape != before.shape:
            raise ValueError(
                f"the edit of layer {name!r} gave shape {tuple(after.shape)}: "
                f"return the shape it got, {tuple(before.shape)}"
            )
        return turn_back(after, layout) if layout else after

    def check_complete(self, counts: Mapping[int, int]) -> None:
        for name in [*self.names, *self.edits]:
            if name in self.pending or name in self.unedited:
                times = counts.get(id(self.addresses[name][0]), 0)
                seen = (
                    "never called" if times == 0 else f"called {times} time{'s' if times > 1 else ''}, counted from 0"
                )
                raise ValueError(
                    f"layer {name!r} was not reached: in this forward pass its module is {seen}; leave it out"
                )
