"""Ascent: visualize, the optimization that makes pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from features.models import Model, probe
from features.objectives import Objective, channel, together
from features.parameterizations import Parameterization, fourier
from features.transforms import STANDARD, Transform, transform
from features.units import Unit
from features.visualization.folding import folded, frozen
from features.visualization.redirection import Redirected
from features.visualization.results import Visualization

What: TypeAlias = Unit | str | Objective

# Gradients of unit size with momentum against Adam, both 100 steps at 0.05 from Fourier noise of decay 1, medians over
# 11 units of a GoogLeNet trained on CIFAR-10 at 64 px: 1.2 % instead of 8.4 % of the picture's energy above a quarter
# cycle per pixel, and 8 % more activation under transforms that neither was made with. Adam moves every frequency
# alike, also those whose gradient is noise.
STEPS = 100
RATE = 0.08
MOMENTUM = 0.9
TINY = 1e-18  # squares of smaller float32 gradients are 0
BATCH = 64
EVERY = 10  # steps between two entries of the history


def visualize(
    model: Model,
    what: What | Sequence[What],
    *,
    image: Parameterization | None = None,
    transforms: Sequence[Transform] = STANDARD,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
    batch: int = BATCH,
    progress: bool = True,
) -> Visualization:
    """Make the pictures that excite units most: gradient ascent on the image, many units at once (Olah et al. 2017).

    ``what`` is a unit, an `Objective`, or a sequence of them: one picture each, in that order. A unit means its
    `channel`. From noise, ``steps`` steps with momentum, of size ``rate`` at first and falling to 0, raise the
    objective of ``image`` (`fourier` of the network's input size without it) as seen through ``transforms`` (none if
    empty). Each picture then is rounded to 8 bits and scored without transforms.

    Units are computed ``batch`` at a time, grouped by the last layer they need, where the forward pass stops. Start and
    transforms of a picture depend on ``seed`` and the objective's name alone. The same call gives the same bits on a
    CPU; with another ``batch`` or other companions, roundings differ and optimization amplifies them: pixels may
    differ, scores agree within about 2 %. A unit whose gradient is zero because it is dead where it starts gets its
    gradient past the ReLUs that block it until it wakes (`Redirected`). The network is left as it was found, and no
    global random state is used.

    Errors: ``ValueError`` for a unit or layer that does not exist, an objective that does not depend on the image, a
    score that is not finite (it names the step), a size that the network does not take, and numbers out of range;
    ``TypeError`` for other things.

    >>> from features.models import load_model
    >>> pictures = visualize(load_model("sketches"), ["conv2d0:3", "mixed3a:5"], steps=2, progress=False)
    >>> pictures.units, pictures.images.shape
    (('conv2d0:3', 'mixed3a:5'), (2, 64, 64, 3))
    """
    objectives = _objectives(model, what)
    _check_numbers(steps, rate, batch, seed)
    image = (fourier() if image is None else image).sized(model.channels, model.image_size)
    plan = _Plan(model, image, tuple(transforms), steps, rate, seed)
    plan.rehearse(objectives)
    results: dict[int, _Picture] = {}
    with (
        _rendering(model),
        tqdm(total=len(objectives), unit="unit", desc="pictures", mininterval=0.5, disable=not progress) as bar,
    ):
        for chunk in _chunks(model, objectives, batch):
            bar.set_postfix_str(_deepest(model, objectives[chunk[0]]), refresh=False)
            made = plan.render([objectives[index] for index in chunk], _counter(bar, len(chunk), steps))
            results.update(zip(chunk, made, strict=True))
    return _gathered(plan, objectives, [results[index] for index in range(len(objectives))], batch)


@dataclass(frozen=True)
class _Picture:
    """One finished picture ``(c, h, w)`` in 8 bits, its score, and the scores on the way."""

    pixels: Tensor
    score: float
    history: Mapping[int, float]


@dataclass(frozen=True)
class _Plan:
    """How pictures are made, for all chunks alike."""

    model: Model
    image: Parameterization
    transforms: tuple[Transform, ...]
    steps: int
    rate: float
    seed: int

    def render(self, objectives: Sequence[Objective], step_done: Callable[[int], None]) -> list[_Picture]:
        chances = [_generator(self.seed, objective.name, "transforms") for objective in objectives]
        starts = [_generator(self.seed, objective.name, "start") for objective in objectives]
        ascent = _Ascent(
            self.image, self.image.start(starts, device=self.model.device, dtype=self._dtype), self.steps, self.rate
        )
        view = _View(self.model, objectives)
        history: dict[int, Tensor] = {}
        with view.opened(ascent.picture().detach()[:1]):
            for step in range(self.steps):
                scores = self._step(ascent, view, chances, step)
                if step % EVERY == 0:
                    history[step] = scores
                step_done(step + 1)
            pixels = (ascent.picture().detach() * 255).round().to(torch.uint8)
            with torch.no_grad():
                final = view.scores(pixels.to(self._dtype) / 255, f"on the finished picture, after step {self.steps}")
        return [
            _Picture(
                pixels[index].cpu(), float(final[index]), {step: float(each[index]) for step, each in history.items()}
            )
            for index in range(len(objectives))
        ]

    def _step(self, ascent: _Ascent, view: _View, chances: Sequence[Generator], step: int) -> Tensor:
        picture = ascent.picture()
        with ExitStack() as stack:
            if bool(view.asleep.any()):
                stack.enter_context(Redirected(view.asleep))
            scores = view.scores(transform(picture, self.transforms, chances), f"at step {step}")
        gradient = view.gradient(scores, picture)
        ascent.climb(picture, gradient)
        view.watch_sleep(scores.detach(), gradient)
        return scores.detach()

    def rehearse(self, objectives: Sequence[Objective]) -> None:
        """Show the network one picture and read every objective once, so that a wrong one is refused before hours of
        work.
        """
        alone = [objective for objective in objectives if objective.unit is None]
        names = sorted({layer for objective in alone for layer in objective.layers}) or [self.model.layers[0].name]
        chance = _generator(self.seed, "rehearsal", "start")
        with _rendering(self.model), probe(self.model, names, stop=False) as activations:
            start = self.image.start([chance], device=self.model.device, dtype=self._dtype)
            picture = self.image.picture(start).to(self.model.dtype)
            try:
                self.model(picture.requires_grad_())
            except (RuntimeError, ValueError, AssertionError) as error:
                if tuple(picture.shape[2:]) == self.model.image_size:
                    raise
                raise ValueError(self._wrong_size(picture)) from error
            for objective in alone:
                if not together([objective])(activations).requires_grad:
                    raise ValueError(f"{objective.name!r} does not depend on the image: no gradient reaches it")

    def _wrong_size(self, picture: Tensor) -> str:
        given, wanted = (" x ".join(map(str, size)) for size in (picture.shape[2:], self.model.image_size))
        return f"{self.model.name} does not take pictures of {given} pixels: leave the size out to get {wanted}"

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32


class _Ascent:
    """The parameters, climbing: momentum on gradients of unit size, the rate falling along half a cosine to 0.

    Each image's gradient is divided by its root mean square, so that the scale of a layer does not matter, and images
    of a batch never meet.
    """

    def __init__(self, image: Parameterization, parameters: tuple[Tensor, ...], steps: int, rate: float) -> None:
        self.image, self.steps, self.rate, self.taken = image, steps, rate, 0
        self.parameters = tuple(parameter.requires_grad_(True) for parameter in parameters)
        self.momenta = [torch.zeros_like(each) for each in self.parameters]

    def picture(self) -> Tensor:
        return self.image.picture(self.parameters)

    def climb(self, picture: Tensor, gradient: Tensor) -> None:
        gradients = torch.autograd.grad(picture, self.parameters, gradient)
        rate = self.rate * (1 + math.cos(math.pi * self.taken / self.steps)) / 2
        self.taken += 1
        with torch.no_grad():
            for parameter, slope, momentum in zip(self.parameters, gradients, self.momenta, strict=True):
                size = slope.flatten(1).square().mean(1).sqrt().clamp(min=TINY)
                momentum.lerp_(slope / size.reshape(-1, *[1] * (slope.ndim - 1)), 1 - MOMENTUM)
                parameter.sub_(momentum, alpha=rate / (1 - MOMENTUM**self.taken))


class _View:
    """The network with its eyes open: what a batch of pictures scores, and which of its images get no gradient."""

    def __init__(self, model: Model, objectives: Sequence[Objective]) -> None:
        self.model = model
        self.names = [objective.name for objective in objectives]
        self.layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
        self.score = together(objectives)
        self.asleep = torch.zeros(len(objectives), dtype=torch.bool, device=model.device)
        self.level = torch.zeros(len(objectives), device=model.device)
        self.activations: Mapping[str, Tensor] = {}

    @contextmanager
    def opened(self, picture: Tensor) -> Iterator[None]:
        """Read the layers for as long as the ``with`` lasts; the folding is tried on ``picture`` ``(1, c, h, w)``."""
        mode = folded(self.model, self.layers, picture.to(self.model.dtype))
        with probe(self.model, self.layers) as self.activations, mode:
            yield

    def scores(self, images: Tensor, when: str) -> Tensor:
        """Give the scores ``(n,)`` of ``images``; refuse those that are not finite."""
        self.model(images.to(self.model.dtype, memory_format=torch.channels_last))
        scores = self.score(self.activations)
        finite = torch.isfinite(scores.detach())
        if not bool(finite.all()):
            worst = int((~finite).nonzero()[0])
            value = float(scores.detach()[worst])
            raise ValueError(
                f"the score of {self.names[worst]!r} is {value} {when}: try a smaller rate, or float32 weights"
            )
        return scores

    def gradient(self, scores: Tensor, picture: Tensor) -> Tensor:
        """Give what moving ``picture`` ``(n, c, h, w)`` changes in the negative scores."""
        found = torch.autograd.grad(-scores.sum(), picture, allow_unused=True)[0] if scores.requires_grad else None
        if found is None:
            raise ValueError(
                f"{self.names[0]!r} does not depend on the image: no gradient reaches it from {self.layers}"
            )
        return found

    def watch_sleep(self, scores: Tensor, gradient: Tensor) -> None:
        """Mark the images that no gradient reaches, and unmark those whose score has risen since."""
        self.asleep &= scores <= self.level
        fallen = (gradient == 0).flatten(1).all(1) & ~self.asleep
        self.level = torch.where(fallen, scores.to(self.level), self.level)
        self.asleep |= fallen


@contextmanager
def _rendering(model: Model) -> Iterator[None]:
    with frozen(model.net), torch.inference_mode(False), torch.enable_grad():
        yield


def _objectives(model: Model, what: What | Sequence[What]) -> list[Objective]:
    given = [what] if isinstance(what, (Unit, str, Objective)) else list(what)
    if not given:
        raise ValueError(
            "there is nothing to visualize: give a unit such as 'mixed3a:3', an objective, or a list of them"
        )
    objectives = []
    for each in given:
        if not isinstance(each, (Unit, str, Objective)):
            raise TypeError(
                f"{each!r} is {type(each).__name__}: give a unit such as 'mixed3a:3', an Objective, or a list of them"
            )
        objectives.append(each if isinstance(each, Objective) else channel(model.unit(each)))
    for objective in objectives:
        if objective.unit is not None:
            model.unit(objective.unit)
        for layer in objective.layers:
            model.layer(layer)
        if not objective.layers:
            raise ValueError(f"{objective.name!r} does not depend on the image: it reads no layer")
    names = [objective.name for objective in objectives]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is asked for twice: its pictures would be the same; give each objective once")
    return objectives


def _check_numbers(steps: int, rate: float, batch: int, seed: int) -> None:
    for name, value, least in (("steps", steps, 0), ("batch", batch, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
    if not (0 < rate < float("inf")):
        raise ValueError(f"rate is {rate!r}: give a finite number above 0")


def _chunks(model: Model, objectives: Sequence[Objective], batch: int) -> list[list[int]]:
    """Which objectives are computed together: those that need the network up to the same layer, at most ``batch``."""
    groups: dict[str, list[int]] = {}
    for index, objective in enumerate(objectives):
        groups.setdefault(_deepest(model, objective), []).append(index)
    return [group[start : start + batch] for group in groups.values() for start in range(0, len(group), batch)]


def _deepest(model: Model, objective: Objective) -> str:
    return next(layer.name for layer in reversed(model.layers) if layer.name in objective.layers)


def _generator(seed: int, name: str, purpose: str) -> Generator:
    """Give the random numbers of one picture for one purpose, the same whatever else is computed."""
    digest = hashlib.sha256(f"{seed}\n{name}\n{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _counter(bar: Any, count: int, steps: int) -> Callable[[int], None]:
    """Advance ``bar`` by whole pictures as the ``steps`` of ``count`` pictures are taken."""
    start = bar.n

    def step_done(step: int) -> None:
        bar.update(start + count * step // steps - bar.n)

    return step_done


def _described(part: Any) -> str:
    """Frozen dataclasses say all there is in their repr; a plain function has its name."""
    return getattr(part, "__qualname__", None) or repr(part)


def _gathered(plan: _Plan, objectives: Sequence[Objective], pictures: Sequence[_Picture], batch: int) -> Visualization:
    pixels = torch.stack([picture.pixels for picture in pictures]).permute(0, 2, 3, 1).numpy()
    images = pixels.astype(np.float32) / np.float32(255)
    steps = sorted(pictures[0].history)
    return Visualization(
        units=tuple(objective.name for objective in objectives),
        images=np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images,
        scores=np.array([picture.score for picture in pictures], np.float32),
        history={step: np.array([picture.history[step] for picture in pictures], np.float32) for step in steps},
        seed=plan.seed,
        settings={
            "model": plan.model.name,
            "image": _described(plan.image),
            "transforms": [_described(each) for each in plan.transforms],
            "steps": plan.steps,
            "rate": plan.rate,
            "batch": batch,
        },
        digest=plan.model.digest,
    )
