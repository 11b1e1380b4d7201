"""Climbing: the loop that every picture is made by, whatever its numbers, its objective and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from features.activations import Edit
from features.models import Model, probe
from features.objectives import INPUT
from features.visualization.folding import Folded, folded, frozen
from features.visualization.optimizers import Optimize, made_for
from features.visualization.redirection import Redirected


class NotFinite(ValueError):
    """A score that is not a finite number: ``step`` when it came, ``row`` of which picture, and the last pictures
    ``(n, c, h, w)`` whose scores were all finite, those of the step before (``None`` if there was none).
    """

    def __init__(self, sentence: str, step: int, row: int, pictures: Tensor | None) -> None:
        super().__init__(sentence)
        self.step, self.row, self.pictures = step, row, pictures


@dataclass(frozen=True)
class Scene:
    """What is climbed: numbers, the pictures made of them, what the network is shown of these, and their scores.

    ``parameters`` are leaf tensors; ``picture()`` makes pictures ``(n, c, h, w)`` of their present values, each call
    anew. ``shown(pictures)`` gives what the network sees, ``(m, channels, h', w')`` in the range that the model takes,
    with ``m`` a multiple of ``n`` (several views of all pictures, one after the other). ``score(activations)`` gets the
    ``layers`` (and under `INPUT` what the network was shown) and gives what is maximized: ``(n,)``, or one number.
    ``edits`` are done to layers while they are read (`features.models.probe`). ``constrained()`` is called after
    every step, without gradients, to bring the parameters back to where they may be. ``size`` is the ``(h', w')`` that
    the network is shown, where it is not that of the pictures. ``names`` are what the pictures are called in errors.
    """

    parameters: Sequence[Tensor]
    picture: Callable[[], Tensor]
    score: Callable[[Mapping[str, Tensor]], Tensor]
    layers: Sequence[str]
    shown: Callable[[Tensor], Tensor] = lambda pictures: pictures
    edits: Mapping[str, Edit] = field(default_factory=dict)
    constrained: Callable[[], None] = lambda: None
    size: tuple[int, int] | None = None
    names: Sequence[str] = ("the objective",)


@dataclass(frozen=True)
class Climbed:
    """The end of a climb: ``pictures`` ``(n, c, h, w)`` as the parameters make them after the last step, ``history``
    from a step to the scores seen before it was taken, and ``asleep`` ``(n,)``: which pictures no gradient reached.
    """

    pictures: Tensor
    history: Mapping[int, Tensor]
    asleep: Tensor


def climb(
    model: Model,
    scene: Scene,
    *,
    optimizer: Optimize,
    steps: int,
    remember: Collection[int] = (),
    keep: Collection[int] = (),
    kept: Callable[[int, Tensor], None] = lambda step, pictures: None,
    step_done: Callable[[int], None] = lambda step: None,
    redirect: bool = True,
    dtype: torch.dtype | None = None,
) -> Climbed:
    """Take ``steps`` of ``optimizer`` up the score of ``scene``, with ``model`` frozen, folded and stopped at its
    deepest layer.

    ``kept(step, pictures)`` is called with the pictures after ``step`` steps, for the steps in ``keep`` (0 is the
    start, ``steps`` the end), and scores go to the history at the steps in ``remember``. ``redirect`` lets gradients
    past dead ReLUs for pictures that get none (`Redirected`). With ``dtype`` the network computes in it (autocast). The
    parameters are changed in place; the model is left as it was found, after an exception too.

    Raises `NotFinite` (a ``ValueError``) for a score that is not finite, and ``ValueError`` for one that does not
    depend on the pictures.

    >>> from features.models import load_model
    >>> from features.visualization.optimizers import plain
    >>> pixels = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    >>> scene = Scene([pixels], lambda: pixels, lambda seen: seen["conv2d0"][:, 3].mean((1, 2)), ["conv2d0"])
    >>> climb(load_model("sketches"), scene, optimizer=plain(0.01), steps=2).pictures.shape
    torch.Size([1, 3, 64, 64])
    """
    with rendering(model):
        ascent = _Ascent(model, scene, made_for(optimizer, list(scene.parameters), steps), redirect, dtype)
        history: dict[int, Tensor] = {}
        with ascent.sight.opened(_tried(scene.picture().detach(), model.channels, scene.size)):
            for step in range(steps):
                if step in keep:
                    kept(step, _apart(scene.picture().detach(), scene.parameters))
                scores = ascent.step(step)
                if step in remember:
                    history[step] = scores
                step_done(step + 1)
        pictures = _apart(scene.picture().detach(), scene.parameters)
        if steps in keep:
            kept(steps, pictures)
    return Climbed(pictures, history, ascent.asleep)


@contextmanager
def rendering(model: Model) -> Iterator[None]:
    """Freeze ``model`` and switch gradients on, whatever the caller's mode, for as long as the ``with`` lasts."""
    with frozen(model.net), torch.inference_mode(False), torch.enable_grad():
        yield


class Sight:
    """The network with its eyes open: the layers of pictures, read from its folded form, and `INPUT`."""

    def __init__(
        self, model: Model, layers: Sequence[str], edits: Mapping[str, Edit], dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.edits, self.dtype = model, edits, dtype
        self.layers = [layer for layer in dict.fromkeys(layers) if layer != INPUT]
        self.mode: AbstractContextManager[Any] = nullcontext()
        self.activations: Mapping[str, Tensor] = {}

    @contextmanager
    def opened(self, picture: Tensor) -> Iterator[None]:
        """Read the layers for as long as the ``with`` lasts; the folding is tried on ``picture`` ``(1, c, h, w)``."""
        if not self.layers:
            yield
            return
        self.mode = self._folded(picture)
        with probe(self.model, self.layers, edits=self.edits) as self.activations:
            yield

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """Give the layers of ``images`` ``(n, c, h, w)``, and the images themselves."""
        if self.layers:
            with self.mode, self._autocast(images):
                self.model(images.to(self.model.dtype, memory_format=torch.channels_last))
        # what bfloat16 gave is added up in float32: a mean in 8 bits of mantissa has steps of half a percent
        found = {layer: self.activations[layer] for layer in self.layers}
        if self.dtype is not None:
            found = {name: each.float() for name, each in found.items()}
        return {INPUT: images, **found}

    def _folded(self, picture: Tensor) -> Folded:
        return folded(self.model, [*self.layers, *self.edits], picture.to(self.model.dtype), dtype=self.dtype)

    def _autocast(self, images: Tensor) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(images.device.type, self.dtype)


class _Ascent:
    """One climb on its way: the optimizer, the open network, and which pictures no gradient reaches."""

    def __init__(
        self, model: Model, scene: Scene, optimizer: torch.optim.Optimizer, redirect: bool, dtype: torch.dtype | None
    ) -> None:
        self.scene, self.optimizer, self.redirect = scene, optimizer, redirect
        self.sight = Sight(model, scene.layers, scene.edits, dtype)
        count = len(scene.picture())
        self.asleep = torch.zeros(count, dtype=torch.bool, device=model.device)
        self.level = torch.zeros(count, device=model.device)
        self.any_asleep = False
        self.last: Tensor | None = None

    def step(self, number: int) -> Tensor:
        """Take step ``number``; give the scores before it."""
        seen: list[Tensor] = []

        def closure() -> Tensor:
            scores = self._measured(number)
            seen.append(scores)
            return -scores.sum()

        self.optimizer.step(closure)  # type: ignore[arg-type]  # torch types the closure's loss as a float
        with torch.no_grad():
            self.scene.constrained()
        return seen[0]

    def _measured(self, number: int) -> Tensor:
        """Give the scores of the pictures, and each parameter the gradient of their negative sum."""
        pictures, parameters = self.scene.picture(), list(self.scene.parameters)
        images = self.scene.shown(pictures)
        with self._redirected(len(images)):
            scores = self.scene.score(self.sight.read(images))
        wanted = [pictures, *parameters]
        found = torch.autograd.grad(-scores.sum(), wanted, allow_unused=True) if scores.requires_grad else ()
        if all(each is None for each in found):
            raise ValueError(
                f"{self.scene.names[0]!r} does not depend on the image: no gradient reaches it from "
                f"{', '.join(self.scene.layers)}"
            )
        for parameter, gradient in zip(parameters, found[1:], strict=True):
            parameter.grad = _laid_out(gradient, parameter)
        self._watch(scores.detach(), found[0], number)
        self.last = _apart(pictures.detach(), parameters)
        return scores.detach()

    def _redirected(self, count: int) -> AbstractContextManager[Any]:
        if not (self.any_asleep and count % len(self.asleep) == 0):
            return nullcontext()
        return Redirected(self.asleep.repeat(count // len(self.asleep)))

    def _watch(self, scores: Tensor, gradient: Tensor | None, number: int) -> None:
        """Stop at scores that are not finite; mark the pictures that no gradient reaches, and unmark those whose score
        has risen since. The device is waited for once.
        """
        finite = torch.isfinite(scores)
        if self.redirect and gradient is not None:
            each = scores.expand(len(self.asleep)).to(self.level)
            self.asleep &= each <= self.level
            fallen = (gradient.flatten(1).abs().amax(1) == 0) & ~self.asleep
            self.level = torch.where(fallen, each, self.level)
            self.asleep |= fallen
        all_finite, self.any_asleep = torch.stack([finite.all(), self.asleep.any()]).tolist()
        if not all_finite:
            row = int((~finite).reshape(-1).nonzero()[0])
            raise NotFinite(
                f"the score of {self.scene.names[row]!r} is {float(scores.reshape(-1)[row])} at step {number}: try a "
                "smaller rate, or float32 weights",
                number,
                row,
                self.last,
            )


def _tried(pictures: Tensor, channels: int, size: tuple[int, int] | None) -> Tensor:
    """Give what the folding is tried on: the first picture, without alpha, in the size that the network is shown."""
    picture = pictures[:1, :channels]
    return picture if size is None else torch.nn.functional.interpolate(picture, size)


def _laid_out(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Give ``gradient`` in the layout of ``parameter``, which some of torch's optimizers rely on."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _apart(pictures: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Give ``pictures`` in memory of their own: where they are the parameters themselves, the next step would change
    them.
    """
    places = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    return pictures.clone() if pictures.untyped_storage().data_ptr() in places else pictures
