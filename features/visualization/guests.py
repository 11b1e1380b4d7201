"""Guests: objectives, pictures and transforms that speak lucent's protocols, made into those of this project.

An objective is a function of ``T``, where ``T(layer)`` gives a layer's activations, and gives a loss, one number that
is minimized; a picture is a function without arguments that gives ``(params, image_f)``; a transform is a function of
images alone. Nothing of lucent's is needed to use them.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Generator, Tensor

from features.activations import nearest
from features.models import Model, probe
from features.objectives import INPUT, Objective
from features.parameterizations import Parameterization
from features.transforms import Affine, Transform, transform
from features.units import Unit

Read: TypeAlias = Callable[[str], Tensor]
Loss: TypeAlias = Callable[[Read], Tensor]
Closure: TypeAlias = Callable[[], Tensor]
ParamF: TypeAlias = Callable[[], tuple[Iterable[Tensor], Closure]]
Alone: TypeAlias = Callable[[Tensor], Tensor]


def is_guest_objective(value: object) -> bool:
    """Whether ``value`` is a function of ``T``: anything that can be called and is nothing that this project knows."""
    return callable(value) and not isinstance(value, (Objective, Unit, str, type))


def is_guest_image(value: object) -> bool:
    """Whether ``value`` is a function that gives ``(params, image_f)``: it can be called, and has no ``start``."""
    return callable(value) and not hasattr(value, "start")


def is_guest_transform(value: object) -> bool:
    """Whether ``value`` is a function of images alone, and takes no generators.

    >>> is_guest_transform(lambda images: images), is_guest_transform(lambda images, generators: images)
    (True, False)
    """
    if isinstance(value, Affine) or not callable(value):
        return False
    called = value.forward if isinstance(value, torch.nn.Module) else value
    try:
        inspect.signature(called).bind(None, None)
    except TypeError:
        return True
    except ValueError:  # written in C, without a signature
        return False
    return False


def guest_objective(model: Model, function: Loss, *, count: int = 1, name: str | None = None) -> Objective:
    """Make an `Objective` of a function of ``T`` that gives a loss; each of its ``count`` pictures is scored by minus
    the loss of them all.

    ``T(layer)`` gives ``(count, c, ...)``, channels first, of the layer that `layer_of` finds; ``T("input")`` the
    picture as the network sees it, after the transforms (lucent: before); ``T("labels")`` the last layer. Which layers
    it reads is found by reading it once on ``count`` images of noise. ``name`` is otherwise what the function says of
    itself. Errors: ``ValueError`` for a layer that is not there, ``TypeError`` for a function that gives no number.

    >>> from features.models import load_model
    >>> dark = guest_objective(load_model("sketches"), lambda T: T("conv2d0")[:, 3].mean(), name="no 3")
    >>> dark.layers, dark.score({"conv2d0": torch.ones(1, 24, 2, 2)})
    (('conv2d0',), tensor([-1.]))
    """
    called = name or _called(function)
    height, width = model.image_size
    noise = torch.rand(count, model.channels, height, width, generator=Generator().manual_seed(0))
    layers = layers_asked(model, function, noise, name=called)
    meant = functools.cache(functools.partial(layer_of, model))

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        loss = one_number(function(lambda layer: activations[meant(layer)]), called)
        return -loss.expand(len(next(iter(activations.values()))))

    return Objective(score, layers, called, joint=count > 1)


def layers_asked(
    model: Model, function: Loss, images: Tensor, *, picture: Tensor | None = None, name: str | None = None
) -> tuple[str, ...]:
    """Give the layers of ``model`` that ``function`` reads, in that order, by reading it once on ``images`` ``(n,
    channels, h, w)`` in [0, 1]; ``T("input")`` is ``picture``, or ``images`` without one.
    """
    read: dict[str, Tensor] = {}
    shown = images if picture is None else picture

    def asked(layer: str) -> Tensor:
        found = layer_of(model, layer)
        if found not in read:
            read[found] = shown if found == INPUT else _reading(model, found, images)
        return read[found]

    with torch.no_grad(), seeded(0):
        one_number(function(asked), name or _called(function))
    return tuple(read)


def layer_of(model: Model, name: str) -> str:
    """Give the layer of ``model`` that ``name`` means: 'input', 'labels' (the last layer), a dotted name, or lucent's
    underscores for its dots.

    The name of a module itself comes first, so that 'a.b' and a module 'a_b' are two layers. A module that is called
    several times in one pass is refused without saying which call, 'name#0', 'name#1' ... (lucent reads the last one in
    silence), and so is a name that fits several modules. ``ValueError`` for these and for a name that fits none.

    >>> from features.models import load_model
    >>> layer_of(load_model("sketches"), "mixed3a_branch1x1_conv")
    'mixed3a.branch1x1.conv'
    """
    if not isinstance(name, str):
        raise TypeError(f"a layer is named by text such as 'mixed3a', not by {type(name).__name__}")
    if name == INPUT:
        return INPUT
    known = [layer.name for layer in model.layers]
    if name == "labels" and name not in known:
        return known[-1]
    base, mark, call = name.rpartition("#")
    base, call = (base, call) if mark else (name, "")
    fitting = {each.partition("#")[0] for each in known if each.partition("#")[0].replace(".", "_") == base}
    modules = [base] if any(each.partition("#")[0] == base for each in known) else sorted(fitting)
    if len(modules) > 1:
        raise ValueError(f"{name!r} may be any of {', '.join(map(repr, modules))}: say which, with its dots")
    calls = [each for each in known if modules and each.partition("#")[0] == modules[0]]
    if not call and len(calls) > 1:
        raise ValueError(
            f"{name!r} is called {len(calls)} times in one pass: say which, {base + '#0'!r} to "
            f"{base + f'#{len(calls) - 1}'!r}"
        )
    wanted = modules[0] + (f"#{call}" if call not in ("", "0") else "") if modules else name
    if wanted not in known:
        raise ValueError(nearest(name, known, listing="[layer.name for layer in model.layers]"))
    return wanted


def one_number(loss: Any, name: str) -> Tensor:
    """Give ``loss`` as a tensor of no axes; ``TypeError`` for anything else that is not one number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"the objective {name!r} gave {given}: give one number, a loss, as a tensor")
    return loss.reshape(())


def _reading(model: Model, layer: str, images: Tensor) -> Tensor:
    with probe(model, [layer]) as activations:
        model(images.to(model.device))
        return activations[layer]


def _called(function: Any) -> str:
    """What a function says of itself: lucent's objectives have a description, others a name."""
    said = getattr(function, "description", None) or getattr(function, "name", None)
    return str(said or getattr(function, "__qualname__", None) or type(function).__name__).replace("\n", " ")


def guest_transform(function: Alone) -> Transform:
    """Make a `Transform` of a function of images: it gets one picture at a time, and what it draws from the global
    generators depends on that picture's generator alone.

    Where the results differ in size, as after a random scale, the middle of each is taken, in the size that came in.

    >>> transform(torch.zeros(2, 3, 4, 4), [guest_transform(lambda images: images + 1)], [Generator()] * 2).mean()
    tensor(1.)
    """
    return _GuestTransform(function)


@dataclass(frozen=True)
class _GuestTransform:
    function: Alone

    def __repr__(self) -> str:
        return f"guest_transform({_called(self.function)})"

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        given = [self._one(image, each) for image, each in zip(torch.split(images, 1), generators, strict=True)]
        if any(each.shape != given[0].shape for each in given):
            given = [_middle(image, each) for image, each in zip(torch.split(images, 1), given, strict=True)]
        return torch.cat(given)

    def _one(self, image: Tensor, generator: Generator) -> Tensor:
        with seeded(int(torch.randint(2**62, (1,), generator=generator))):
            result = self.function(image)
        if not isinstance(result, Tensor) or result.ndim != 4 or len(result) != 1:
            raise TypeError(f"the transform {self.function!r} gave no image: it gets and gives (1, c, h, w)")
        return result


def _middle(image: Tensor, moved: Tensor) -> Tensor:
    return transform(image, [lambda images, generators: moved], [Generator()])


def guest_image(function: ParamF) -> Parameterization:
    """Make a `Parameterization` of a function that gives ``(params, image_f)``.

    It is called once for each picture, with the global generators seeded from that picture's own (and restored). If
    ``image_f()`` gives m pictures, they belong together and the function is called once for m. The tensors in
    ``params`` may be of any shape: they are carried with one copy per picture, and the mean over the copies of one call
    is what ``image_f`` sees.

    >>> def grey():
    ...     level = torch.zeros(1, requires_grad=True)
    ...     return [level], lambda: torch.sigmoid(level).expand(1, 3, 8, 8)
    >>> image = guest_image(grey)
    >>> image.picture(image.start([Generator(), Generator()])).shape, image.size
    (torch.Size([2, 3, 8, 8]), (8, 8))
    """
    return cast(Parameterization, _GuestImage(function))


@dataclass
class _GuestImage:
    """See `guest_image`. It holds the closures of its latest `start`, whose tensors `picture` gets."""

    function: ParamF
    calls: list[_Call] = field(default_factory=list, init=False, repr=False)

    def __repr__(self) -> str:
        return f"guest_image({_called(self.function)})"

    @property
    def size(self) -> tuple[int, int]:
        """Give ``(h, w)``, seen by calling the function once."""
        return self._seen().size

    def sized(self, channels: int, size: tuple[int, int]) -> _GuestImage:
        """Give the same: its size is its own. ``ValueError`` for another number of channels."""
        given = self._seen().channels
        if given != channels:
            raise ValueError(f"{self!r} gives pictures of {given} channels: the network takes {channels}")
        return self

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """Give each of ``params`` with as many copies as there are pictures, ``(n, ...)``."""
        self.calls = []
        while (done := sum(call.count for call in self.calls)) < len(generators):
            with seeded(int(torch.randint(2**62, (1,), generator=generators[done]))):
                self.calls.append(_Call(*_pair(self.function)))
        if done != len(generators):
            each = self.calls[0].count
            raise ValueError(f"{self!r} gives {each} pictures at a time: {len(generators)} is no multiple of that")
        copies = zip(*(call.copies() for call in self.calls), strict=True)
        return tuple(torch.cat(each).to(device, dtype) for each in copies)

    def picture(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """Give ``image_f()`` of every call, seen as a function of ``parameters``."""
        counts = [call.count for call in self.calls]
        parts = zip(*(torch.split(each, counts) for each in parameters), strict=True)
        return torch.cat(
            [
                _Through.apply(call, *(each.mean(0) for each in part))
                for call, part in zip(self.calls, parts, strict=True)
            ]
        )

    def _seen(self) -> _Call:
        with seeded(0):
            return _Call(*_pair(self.function))


def _pair(function: ParamF) -> tuple[Iterable[Tensor], Closure]:
    made = function()
    if not isinstance(made, (tuple, list)) or len(made) != 2 or not callable(made[1]):
        raise TypeError(
            f"the image {_called(function)} gave {type(made).__name__}: give (params, image_f); a parameterization is "
            "called first, as in image=fourier()"
        )
    return made[0], made[1]


class _Call:
    """One call of a function that gives ``(params, image_f)``, and how many pictures of what size it gave."""

    def __init__(self, params: Iterable[Tensor], image: Closure) -> None:
        self.params, self.image = list(params), image
        picture = image()
        if picture.ndim != 4:
            raise ValueError(f"image_f() gave shape {tuple(picture.shape)}: give pictures (n, c, h, w) in [0, 1]")
        self.count, self.channels = int(picture.shape[0]), int(picture.shape[1])
        self.size = (int(picture.shape[2]), int(picture.shape[3]))

    def copies(self) -> list[Tensor]:
        return [each.detach().expand(self.count, *each.shape) for each in self.params]

    def given(self, values: Iterable[Tensor]) -> Tensor:
        """Give the picture of ``values``, with gradients at `params`."""
        with torch.no_grad():
            for own, value in zip(self.params, values, strict=True):
                own.copy_(value)
        with torch.enable_grad():
            return self.image()


class _Through(torch.autograd.Function):
    """A closure over tensors, as a function of them: the values are written into its own tensors, and its gradients at
    these are handed on.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *values: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*values)
        return call.given(values).detach().to(values[0].device, values[0].dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # made again, since the closure may have made another picture from other values in the meantime
        picture = ctx.call.given(ctx.saved_tensors)
        found = torch.autograd.grad(picture, ctx.call.params, gradient.to(picture), allow_unused=True)
        each = zip(found, ctx.saved_tensors, strict=True)
        return (None, *(torch.zeros_like(value) if slope is None else slope.to(value) for slope, value in each))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python for as long as the ``with`` lasts, then restore them.

    For functions of others that draw from nowhere else; the graphics cards' generators are restored too.

    >>> with seeded(0):
    ...     first = torch.rand(1)
    >>> with seeded(0):
    ...     bool(torch.rand(1) == first)
    True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cards = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cards):
        try:
            torch.default_generator.manual_seed(seed)
            for card in cards:
                torch.cuda.default_generators[card].manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
