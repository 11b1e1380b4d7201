"""Vis: render_vis, the ascent under lucent's arguments."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from tqdm import tqdm

from features.activations import Edit
from features.lucent import objectives, param
from features.lucent.adapters import as_param_f
from features.lucent.chance import drawing, numbered
from features.lucent.render.networks import SIDE, Size, device_of, network_size, read, sides_of
from features.lucent.render.showing import checked_picture, export, show, tensor_to_img_array, view
from features.lucent.transform import standard_transforms, understood
from features.models import Model
from features.objectives import INPUT
from features.objectives import Objective as Score
from features.parameterizations import Parameterization
from features.transforms import Transform, transform
from features.units import Unit
from features.visualization.climbing import Scene, climb, rendering
from features.visualization.guests import Closure, Loss, ParamF, layer_of, layers_asked, one_number

Optimize: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]


def render_vis(
    model: nn.Module | Model,
    objective_f: Loss | Score | Unit | str,
    param_f: ParamF | Parameterization | None = None,
    optimizer: Optimize | None = None,
    transforms: Sequence[Callable[..., Tensor]] | None = None,
    thresholds: Sequence[int] = (512,),
    verbose: bool = False,
    preprocess: bool = True,
    progress: bool = True,
    show_image: bool = False,
    save_image: bool = False,
    image_name: str | os.PathLike[str] | None = None,
    show_inline: bool = False,
    fixed_image_size: int | Size | None = None,
    *,
    seed: int = 0,
) -> list[NDArray[np.float32]]:
    """Make pictures that minimize a loss, as lucent 0.1.8 does it, on the engine of `features.visualization`.

    ``param_f`` gives ``(params, image_f)`` (`param.image` of 128 pixels without it), or is a parameterization of
    `features`; ``optimizer`` gives a torch optimizer for a list of tensors (Adam at 0.05); ``objective_f`` is
    'layer:channel', an objective of `objectives`, of lucent or of `features.objectives`, or any function of ``T`` that
    gives a loss. Given is, for each step in ``thresholds`` in rising order, an array ``(n, h, w, c)`` in [0, 1]; after
    an interruption also the picture it left. A network is taken to want ImageNet's scale (one of lucent's class
    InceptionV1 its own; ``preprocess=False``: pictures in [0, 1], or what the transforms make of them); a `Model` knows
    its own.

    What is otherwise than in lucent, on purpose: a picture smaller than the network's 224 (a `Model`: its
    ``image_size``) or other than ``fixed_image_size`` is enlarged before the transforms, whose pixels so are those that
    the network sees, and after them its middle is taken, so that the network sees the same size in every step. Each
    picture of a batch has its own transforms (`transform.alike`). ``seed`` decides all that is drawn, also by functions
    that use global generators: the same call gives the same bits. A unit that is dead where it starts gets a gradient
    until it wakes. No window opens unless ``show_image`` asks for one; pictures are kept as PNG, rounded. Nothing stays
    in the network: no hook, no gradient, no change of mode. `layer_of` says what names of layers mean.

    Errors: ``ValueError`` for layers that do not exist or that the picture is too small for, for a network in training
    mode, for a loss that is not finite or does not depend on the picture; ``TypeError`` for what is none of the above.

    >>> from features.models import load_model
    >>> small = lambda: param.image(64)
    >>> pictures = render_vis(load_model("sketches"), "mixed3a:5", small, thresholds=(1, 2), progress=False)
    >>> len(pictures), pictures[0].shape
    (2, (1, 64, 64, 3))
    """
    steps = _checked_steps(thresholds)
    net = model.net if isinstance(model, Model) else model
    with drawing(seed, device_of(net)):
        params, image_f = _called(param_f, model)()
        parameters, first = list(params), checked_picture(image_f())
    easel = _Easel(image_f, understood(standard_transforms if transforms is None else transforms), len(first), seed)
    easel.size = network_size(model, sides_of(first), fixed_image_size)
    aim = _Aim.of(read(model, preprocess, first.shape[1], easel.size), objective_f, easel)
    diary = _Diary(aim, verbose)
    names = (aim.name,) * len(first)
    scene = Scene(
        parameters, easel.picture, diary.score, aim.layers, easel.shown, aim.edits, size=easel.size, names=names
    )
    try:
        with tqdm(total=max(steps), unit="step", mininterval=0.5, disable=not progress) as bar:
            climb(
                aim.model,
                scene,
                optimizer=optimizer or _adam,
                steps=max(steps),
                keep=steps,
                kept=diary.keep,
                step_done=lambda step: diary.step_done(step, bar),
            )
    except KeyboardInterrupt:
        diary.interrupted(image_f())
    _show(image_f(), show_image, show_inline, save_image, image_name)
    return diary.images


@dataclass
class _Easel:
    """The picture, and what the network is shown of it."""

    image_f: Closure
    transforms: list[Transform]
    count: int
    seed: int
    size: Size = (SIDE, SIDE)
    latest: Tensor = field(init=False)
    chances: list[Generator] = field(init=False)

    def __post_init__(self) -> None:
        self.chances = numbered(self.seed, "transforms", self.count)

    def picture(self) -> Tensor:
        self.latest = self.image_f()
        return self.latest

    def shown(self, pictures: Tensor) -> Tensor:
        return transform(self.sized(pictures), self.transforms, self.chances)

    def sized(self, pictures: Tensor) -> Tensor:
        if sides_of(pictures) == self.size:
            return pictures
        shrinks = self.size[0] < pictures.shape[2] or self.size[1] < pictures.shape[3]
        return F.interpolate(pictures, size=self.size, mode="bilinear", align_corners=False, antialias=shrinks)


@dataclass(frozen=True)
class _Aim:
    """What is wanted of the network: which layers are read and edited, and the score that is made of them."""

    model: Model
    layers: tuple[str, ...]
    edits: Mapping[str, Edit]
    score: Callable[[Mapping[str, Tensor]], Tensor]
    name: str

    @classmethod
    def of(cls, model: Model, wanted: Any, easel: _Easel) -> _Aim:
        if isinstance(wanted, Score):
            return cls(model, wanted.layers, wanted.edits, wanted.score, wanted.name)
        loss = objectives.as_objective(wanted)
        name = str(getattr(loss, "description", "") or getattr(loss, "__name__", "") or "the objective")

        meant = functools.cache(functools.partial(layer_of, model))

        def score(activations: Mapping[str, Tensor]) -> Tensor:
            def asked(layer: str) -> Tensor:
                found = meant(layer)
                return easel.latest if found == INPUT else activations[found]

            return -one_number(loss(asked), name)

        with rendering(model), torch.no_grad():
            layers = _asked(model, loss, easel, name)
        return cls(model, layers, {}, score, name)


@dataclass
class _Diary:
    """What is kept and said on the way: pictures at the thresholds, and the loss where ``verbose``."""

    aim: _Aim
    verbose: bool
    images: list[NDArray[np.float32]] = field(default_factory=list)
    loss: float | None = None
    taken: int = 0

    def score(self, activations: Mapping[str, Tensor]) -> Tensor:
        scores = self.aim.score(activations)
        if self.verbose:
            first, self.loss = self.loss is None, -float(scores.detach().mean())
            if first:
                print(f"Initial loss: {self.loss:.3f}")
        return scores

    def keep(self, step: int, pictures: Tensor) -> None:
        self.images.append(tensor_to_img_array(pictures))
        if self.verbose:
            print(f"Loss at step {step}: {self.loss:.3f}")

    def step_done(self, step: int, bar: Any) -> None:
        self.taken = step
        bar.update(1)

    def interrupted(self, picture: Tensor) -> None:
        print(f"Interrupted optimization at step {self.taken:d}.")
        self.images.append(tensor_to_img_array(picture))


def _asked(model: Model, loss: Loss, easel: _Easel, name: str) -> tuple[str, ...]:
    picture = easel.picture()
    try:
        layers = layers_asked(model, loss, easel.sized(picture), picture=picture, name=name)
    except RuntimeError as error:
        size = " x ".join(map(str, easel.size))
        raise ValueError(f"{name!r} cannot be read on pictures of {size} pixels in {model.name}: {error}") from error
    if not layers:
        raise ValueError(f"{name!r} does not depend on the image: it reads no layer, T('input') neither")
    return layers


def _checked_steps(thresholds: Sequence[int]) -> list[int]:
    steps = sorted(set(thresholds)) if isinstance(thresholds, Iterable) else []
    if not steps or not all(isinstance(step, (int, np.integer)) and step > 0 for step in steps):
        raise ValueError(f"thresholds is {thresholds!r}: give a list of steps, whole numbers above 0, such as (512,)")
    return [int(step) for step in steps]


def _called(given: ParamF | Parameterization | None, model: nn.Module | Model) -> ParamF:
    if given is None:
        return lambda: param.image(128)
    if not callable(given):
        return as_param_f(given, channels=model.channels if isinstance(model, Model) else 3)
    return given


def _adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=5e-2)


def _show(picture: Tensor, window: bool, inline: bool, save: bool, name: str | os.PathLike[str] | None) -> None:
    if save:
        export(picture, name)
    if inline:
        show(tensor_to_img_array(picture))
    elif window:
        view(picture)
