"""Activations: read and edit what the modules of a network give. The only file of the project that touches hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from features.activations.addresses import nearest, refuse_deaf
from features.activations.listeners import Edit, Listener
from features.activations.outputs import TURNS, first_tensor, shares_memory, turn, turn_back, with_first_tensor
from features.activations.readings import Activations, version_of

__all__ = [
    "TURNS",
    "Activations",
    "Call",
    "Edit",
    "Witness",
    "first_tensor",
    "listen",
    "nearest",
    "record",
    "turn",
    "turn_back",
    "watch",
]


@contextmanager
def listen(
    net: nn.Module,
    names: str | Iterable[str],
    *,
    edits: Mapping[str, Edit] | None = None,
    stop: bool = True,
    overwritten: Collection[str] | None = None,
    layouts: Mapping[str, str] | None = None,
) -> Iterator[Activations]:
    """Read and edit what modules of ``net`` give, for as long as the ``with`` lasts.

    ``names`` are module names as in ``net.named_modules()``; a module that is called several times in one forward pass
    is ``name`` at its first call, then ``name#1``, ``name#2``. Of a tuple, a dictionary or a dataclass the first tensor
    is read and edited. ``edits`` maps names to functions that get a layer's tensor and give another of the same shape;
    it is handed to the network in its place, and reading the layer gives it too. With ``stop``, a call of ``net`` ends
    after the last layer in ``names`` and returns ``None`` (which a forward hook of ``net`` itself then sees); edits of
    later layers never happen. Several ``listen`` on one network work together: every edit is seen by every reading, and
    the pass ends when the last of them has all its layers.

    ``overwritten`` names the layers that the network itself later changes in place (`Layer.overwritten`): their
    readings are the original tensors and the network goes on with a copy, so that gradients still flow through the
    reading. (A module that gives its own input, as dropout does, is read as a copy, through which none flow.) Where it
    is not known (``None``) every layer but the last is treated so. ``layouts`` maps names to a key of `TURNS`; these
    are read and edited as views with channels first.

    At the end, after an exception too, the network is as it was. Errors: ``ValueError`` for a name that is no module,
    for a call that did not happen and for an edit that changes the shape; ``TypeError`` for a network whose modules
    cannot be heard.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    >>> with listen(net, ["0", "1"], edits={"0": lambda x: -x}) as activations:
    ...     net(torch.zeros(2, 3, 5, 5))
    ...     activations["1"].shape
    torch.Size([2, 8, 3, 3])
    """
    names = [names] if isinstance(names, str) else list(names)
    listener = Listener(net, names, dict(edits or {}), stop, overwritten, dict(layouts or {}))
    session = _Session.of(net)
    try:
        session.join(listener)
        yield listener.activations
    finally:
        session.leave(listener)
        listener.activations.close()


@contextmanager
def watch(module: nn.Module) -> Iterator[list[Any]]:
    """Keep what ``module`` gave at its last call, whoever called it, for as long as the ``with`` lasts.

    The list holds that output, and nothing before the first call. The caller goes on with a copy of its first tensor,
    through which gradients flow, so that nothing done in place changes what is kept.

    >>> relu = nn.ReLU()
    >>> with watch(relu) as outputs:
    ...     nn.Sequential(nn.Identity(), relu)(torch.tensor([-1.0, 2.0]))
    ...     outputs
    tensor([0., 2.])
    [tensor([0., 2.])]
    """
    refuse_deaf(module, "")
    outputs: list[Any] = []

    def hear(module: nn.Module, args: Any, output: Any) -> Any:
        outputs[:] = [output]
        first = first_tensor(output)
        return None if first is None else with_first_tensor(output, first.clone())

    handle = module.register_forward_hook(hear)
    try:
        yield outputs
    finally:
        handle.remove()


@dataclass(frozen=True)
class Call:
    """One call of a module seen by `record`.

    ``name`` is the call's address (``name``, ``name#1`` ...), ``inside`` the address of the call it happened in ('' for
    the network itself), ``shape`` and ``dtype`` those of its first tensor, ``overwritten`` whether that tensor was
    changed in place after the call.
    """

    name: str
    inside: str
    module: nn.Module
    shape: tuple[int, ...]
    dtype: torch.dtype
    overwritten: bool


class Witness(Protocol):
    """What `record` tells while the network runs: ``enter`` before a module call, ``leave`` after it with its first
    tensor."""

    def enter(self, name: str, module: nn.Module) -> None: ...

    def leave(self, name: str, module: nn.Module, output: Tensor | None) -> None: ...


def record(net: nn.Module, images: Tensor, *, witness: Witness | None = None) -> tuple[Call, ...]:
    """Run ``net`` on ``images`` once, without gradients, and give every call of a module that returned a tensor.

    The calls are in order of return; the last is that of the network itself, with the empty name.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
    >>> [(call.name, call.overwritten) for call in record(net, torch.zeros(1, 3, 5, 5))]
    [('0', True), ('1', False), ('', False)]
    """
    refuse_deaf(net, "")
    recorder = _Recorder(net, witness)
    try:
        recorder.attach()
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return recorder.calls(net(images))
    finally:
        recorder.detach()


class _Stop(BaseException):
    """Ends a forward pass when every reading is taken; a BaseException so that no ``except Exception`` of a network
    eats it."""


class _Session:
    """The hooks and the wrapped ``forward`` of one network while at least one `listen` is open on it."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.listeners: list[Listener] = []
        self.handles: dict[int, RemovableHandle] = {}
        self.counts: dict[int, int] = {}
        self.running = False
        self.editing = False

    @classmethod
    def of(cls, net: nn.Module) -> _Session:
        session = getattr(net.__dict__.get("forward"), "listening", None)
        return session if isinstance(session, _Session) else cls(net)

    def join(self, listener: Listener) -> None:
        if not self.listeners:
            self._wrap()
        self.listeners.append(listener)
        for module, _ in listener.addresses.values():
            if id(module) not in self.handles:
                self.handles[id(module)] = module.register_forward_hook(self._hear, with_kwargs=True)

    def leave(self, listener: Listener) -> None:
        if listener not in self.listeners:
            return
        self.listeners.remove(listener)
        needed = {id(module) for other in self.listeners for module, _ in other.addresses.values()}
        for key in [key for key in self.handles if key not in needed]:
            self.handles.pop(key).remove()
        if not self.listeners:
            self._unwrap()

    def _wrap(self) -> None:
        own = self.net.__dict__
        self.before = ("forward" in own, own.get("forward"))
        inner = self.net.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.editing:
                raise RuntimeError("an edit called the network that it edits: call it before, and keep what it gives")
            return inner(*args, **kwargs) if self.running else self._run(inner, *args, **kwargs)

        forward.__wrapped__ = inner  # type: ignore[attr-defined]  # inspect.signature shows that of the network
        forward.listening = self  # type: ignore[attr-defined]
        own["forward"] = forward

    def _unwrap(self) -> None:
        present, forward = self.before
        if present:
            self.net.__dict__["forward"] = forward
        else:
            del self.net.__dict__["forward"]

    def _run(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.counts.clear()
        for listener in self.listeners:
            listener.begin()
        self.running = True
        try:
            output = inner(*args, **kwargs)
        except _Stop:
            return None
        finally:
            self.running = self.editing = False
        for listener in self.listeners:
            listener.check_complete(self.counts)
        return output

    def _hear(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if not self.running:
            return None
        place = (id(module), self.counts.get(id(module), 0))
        self.counts[id(module)] = place[1] + 1
        if not any(place in listener.at for listener in self.listeners):
            return None
        original = self._first(module, output)
        edited = self._edit(place, original)
        read = edited
        for listener in self.listeners:
            read = listener.read(place, read)
        if all(listener.done() for listener in self.listeners):
            raise _Stop
        if any(listener.protects(place) for listener in self.listeners):
            read = self._protect(place, edited, read, [args, kwargs])
        return None if read is original else with_first_tensor(output, read)

    def _edit(self, place: tuple[int, int], value: Tensor) -> Tensor:
        self.editing = True
        for listener in self.listeners:
            value = listener.edit(place, value)
        self.editing = False
        return value

    def _protect(self, place: tuple[int, int], edited: Tensor, read: Tensor, given: Any) -> Tensor:
        """Keep the reading apart from what the network goes on with, and may overwrite.

        The network gets the copy, so that gradients flow through the reading; but where a module gave its own input,
        which the network may hold elsewhere too and expect to see changed, the reading is the copy.
        """
        if not shares_memory(given, edited):
            return read.clone()
        for listener in self.listeners:
            listener.copy(place)
        return edited

    def _first(self, module: nn.Module, output: Any) -> Tensor:
        tensor = first_tensor(output)
        if tensor is None:
            name = next((name for name, known in self.net.named_modules() if known is module), "?")
            raise TypeError(
                f"layer {name!r} gives no tensor but {type(output).__name__}: read one of the layers inside it"
            )
        return tensor


class _Recorder:
    """Hooks on every module for one forward pass."""

    def __init__(self, net: nn.Module, witness: Witness | None) -> None:
        self.net, self.witness = net, witness
        self.handles: list[RemovableHandle] = []
        self.counts: Counter[int] = Counter()
        self.stack: list[str] = []
        self.seen: list[tuple[str, str, nn.Module, Tensor, int | None]] = []

    def attach(self) -> None:
        self.names = {id(module): name for name, module in self.net.named_modules() if name}
        for name, module in self.net.named_modules():
            if name:
                refuse_deaf(module, name)
                self.handles.append(module.register_forward_pre_hook(self._enter))
                # also after a call that fails, in a network that goes on without it
                self.handles.append(module.register_forward_hook(self._leave, always_call=True))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        count = self.counts[id(module)]
        self.counts[id(module)] += 1
        name = self.names[id(module)] + (f"#{count}" if count else "")
        self.stack.append(name)
        if self.witness:
            self.witness.enter(name, module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self.stack.pop()
        tensor = first_tensor(output)
        if tensor is not None:
            inside = self.stack[-1] if self.stack else ""
            self.seen.append((name, inside, module, tensor, version_of(tensor)))
        if self.witness:
            self.witness.leave(name, module, tensor)

    def calls(self, output: Any) -> tuple[Call, ...]:
        tensor = first_tensor(output)
        if tensor is None:
            raise TypeError(
                f"{type(self.net).__name__} gives no tensor but {type(output).__name__}: give a network that does"
            )
        self.seen.append(("", "", self.net, tensor, version_of(tensor)))
        twice, times = Counter(name for name, *_ in self.seen).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{twice!r} is a module, and would be a later call of another one too: rename the module")
        return tuple(
            Call(name, inside, module, tuple(tensor.shape), tensor.dtype, version != version_of(tensor))
            for name, inside, module, tensor, version in self.seen
        )
