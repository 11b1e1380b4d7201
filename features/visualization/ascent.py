"""Ascent: visualize, the optimization that makes pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.models import Model
from features.objectives import INPUT, Objective, channel
from features.parameterizations import Parameterization, fourier
from features.transforms import STANDARD, Transform
from features.units import Unit
from features.visualization.grading import Known, strongest, verdict
from features.visualization.guests import (
    Alone,
    Loss,
    ParamF,
    guest_image,
    guest_objective,
    guest_transform,
    is_guest_image,
    is_guest_objective,
    is_guest_transform,
)
from features.visualization.optimizers import Optimize, momentum
from features.visualization.plans import Made, Plan, chunks, deepest
from features.visualization.results import Visualization
from features.visualization.sizes import spelled

What: TypeAlias = Unit | str | Objective | Loss

STEPS = 100
BATCH = 64


def visualize(
    model: Model,
    what: What | Sequence[What],
    *,
    image: Parameterization | ParamF | None = None,
    transforms: Sequence[Transform | Alone] = STANDARD,
    optimizer: Optimize | None = None,
    steps: int = STEPS,
    count: int = 1,
    views: int = 1,
    keep: int | Iterable[int] = 0,
    size: int | tuple[int, int] | None = None,
    examples: Known | None = None,
    seed: int = 0,
    batch: int = BATCH,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> Visualization:
    """Make the pictures that excite units most: gradient ascent on the image, many units at once (Olah et al. 2017).

    ``what`` is a unit, an `Objective`, or a sequence of them: ``count`` pictures each, in that order. A unit means its
    `channel`. From noise, ``steps`` of ``optimizer`` (`momentum` without it; any function that gets a list of tensors
    and gives a `torch.optim.Optimizer`) raise the objective of ``image`` (`fourier` of the network's input size without
    it) as seen through ``transforms`` (none if empty), in each step in the mean over ``views`` draws of them. The
    pictures after the steps in ``keep`` (every so many if it is a number; 0 keeps none) are kept as frames. Each
    picture then is rounded to 8 bits, scored without transforms and graded (`features.visualization.grading`), with
    ``examples`` (`features.find_examples`) also against what excites the unit most in data. With ``dtype``
    ``torch.bfloat16`` the steps are computed in it (autocast), the grades never. The network is shown the picture in
    its own size, or in ``size`` (``(h, w)``, or the side of a square), for which it is not resampled once more.
    Objectives, images and transforms that are lucent's are taken too (`features.visualization.guests`).

    Pictures are computed ``batch`` at a time, fewer where their activations would not fit
    (`features.visualization.plans.MEMORY`) or memory runs out, grouped by the last layer they need, where the forward
    pass stops. Start and transforms of a picture depend on ``seed``, the objective's name and the picture's number in
    its group alone. The same call gives the same bits on a CPU; with another ``batch`` or other companions, roundings
    differ and optimization amplifies them: pixels may differ, scores agree within about 2 %. A unit whose gradient is
    zero because it is dead where it starts gets its gradient past the ReLUs that block it until it wakes
    (`Redirected`). The network is left as it was found, and no global random state is used.

    Errors: ``ValueError`` for a unit or layer that does not exist, an objective that does not depend on the image, a
    size that the network does not take, and numbers out of range; `NotFinite`, a ``ValueError``, for a score that is
    not finite: it names the step and has the last finite ``pictures``; ``TypeError`` for other things.

    >>> from features.models import load_model
    >>> pictures = visualize(load_model("sketches"), ["conv2d0:3", "mixed3a:5"], steps=2, progress=False)
    >>> pictures.units, pictures.images.shape
    (('conv2d0:3', 'mixed3a:5'), (2, 64, 64, 3))
    """
    steps, count, views, batch, seed = _whole(
        steps=(steps, 0), count=(count, 1), views=(views, 1), batch=(batch, 1), seed=(seed, 0)
    )
    objectives = _objectives(model, what, count)
    _check_dtype(model, dtype)
    canvas = _image(image).sized(model.channels, model.image_size)
    optimizer = momentum() if optimizer is None else optimizer
    kept = _kept(keep, steps)
    plan = Plan(
        model, canvas, _transforms(transforms), optimizer, steps, count, views, kept, seed, dtype, spelled(size)
    )
    natural = None if examples is None else strongest(model, examples, objectives).repeat(count)
    plan.rehearse(objectives)
    made: dict[int, list[Made]] = {}
    with tqdm(
        total=len(objectives) * count, unit="picture", desc="pictures", mininterval=0.5, disable=not progress
    ) as bar:
        for chunk in chunks(plan, objectives, batch):
            bar.set_postfix_str(deepest(model, objectives[chunk[0]]), refresh=False)
            made.update(_rendered(plan, objectives, chunk, bar))
    pictures = [picture for index in range(len(objectives)) for picture in made[index]]
    return _gathered(plan, objectives, pictures, natural, batch)


def _rendered(
    plan: Plan, objectives: Sequence[Objective], chunk: Sequence[int], bar: Any
) -> Iterator[tuple[int, list[Made]]]:
    """Render a chunk; in halves, and halves of these, where it does not fit into memory."""
    done = bar.n
    try:
        pictures = plan.render(
            [objectives[index] for index in chunk], _counter(bar, len(chunk) * plan.count, plan.steps)
        )
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(chunk) == 1:
            many = "1 picture" if plan.count == 1 else f"a group of {plan.count} pictures"
            raise MemoryError(
                f"{many} of {objectives[chunk[0]].name!r} does not fit into memory: make it smaller, use fewer views"
            ) from error
    else:
        for place, index in enumerate(chunk):
            yield index, pictures[place * plan.count : (place + 1) * plan.count]
        return
    bar.update(done - bar.n)
    middle = len(chunk) // 2
    yield from _rendered(plan, objectives, chunk[:middle], bar)
    yield from _rendered(plan, objectives, chunk[middle:], bar)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in ("not enough memory", "can't allocate memory", "out of memory")
    )


def _objectives(model: Model, what: What | Sequence[What], count: int) -> list[Objective]:
    if not isinstance(model, Model):
        raise TypeError(f"the model is {type(model).__name__}: give what load_model gives")
    several = not isinstance(what, (Unit, str, Objective)) and not callable(what) and isinstance(what, Iterable)
    given = list(cast(Iterable[What], what)) if several else [cast(What, what)]
    if not given:
        raise ValueError(
            "there is nothing to visualize: give a unit such as 'mixed3a:3', an objective, or a list of them"
        )
    objectives = [_objective(model, each, count) for each in given]
    for objective in objectives:
        _check_objective(model, objective, count)
    names = [objective.name for objective in objectives]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is asked for twice: its pictures would be the same; give each objective once")
    return objectives


def _objective(model: Model, what: What, count: int) -> Objective:
    if isinstance(what, Objective):
        return what
    if isinstance(what, (Unit, str)):
        return channel(model.unit(what))
    if is_guest_objective(what):
        return guest_objective(model, what, count=count)
    raise TypeError(
        f"{what!r} is {type(what).__name__}: give a unit such as 'mixed3a:3', an Objective, or a list of them"
    )


def _image(image: Parameterization | ParamF | None) -> Parameterization:
    if image is None:
        return fourier()
    if is_guest_image(image):
        return guest_image(cast(ParamF, image))
    if not hasattr(image, "start") or not hasattr(image, "picture"):
        raise TypeError(
            f"the image is {type(image).__name__}: give a parameterization such as fourier(224), for a start from a "
            "picture starting_from(picture)"
        )
    return cast(Parameterization, image)


def _transforms(transforms: Sequence[Transform | Alone]) -> tuple[Transform, ...]:
    if callable(transforms) or not isinstance(transforms, Iterable):
        raise TypeError(f"transforms is {transforms!r}: give a sequence of transforms, () for none")
    wrong = next((each for each in transforms if not callable(each)), None)
    if wrong is not None:
        raise TypeError(f"{wrong!r} is no transform: give jitter(1 / 10), or a function of (images, generators)")
    return tuple(
        guest_transform(cast(Alone, each)) if is_guest_transform(each) else cast(Transform, each) for each in transforms
    )


def _check_objective(model: Model, objective: Objective, count: int) -> None:
    if objective.unit is not None:
        model.unit(objective.unit)
    for layer in [*objective.layers, *objective.edits]:
        if layer != INPUT:
            model.layer(layer)
    if not objective.layers:
        raise ValueError(f"{objective.name!r} does not depend on the image: it reads no layer")
    order = [INPUT, *(layer.name for layer in model.layers)]
    last = deepest(model, objective)
    late = next((layer for layer in objective.edits if order.index(layer) > order.index(last)), None)
    if late is not None:
        raise ValueError(
            f"{objective.name!r} edits {late!r}, which comes after {last!r}: give units of layers before it"
        )
    if objective.joint and count == 1:
        raise ValueError(
            f"{objective.name!r} scores the pictures of a group together, and a group of 1 was asked for: give "
            "count=2 or more"
        )


def _whole(**given: tuple[int, int]) -> list[int]:
    """Give numbers, numpy's too, as Python's; ``ValueError`` for one that is not whole or below its least."""
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
    return [int(value) for value, _ in given.values()]


def _check_dtype(model: Model, dtype: torch.dtype | None) -> None:
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype!r}: give torch.bfloat16 or torch.float16, or None for the network's own")
    if dtype is not None and model.dtype != torch.float32:
        raise ValueError(f"{model.name} computes in {model.dtype}: only a float32 network is computed in {dtype}")


def _kept(keep: int | Iterable[int], steps: int) -> frozenset[int]:
    """Give the steps to keep: every ``keep``-th, with the first and the last; or those named."""
    if isinstance(keep, (int, np.integer)):
        (every,) = _whole(keep=(int(keep), 0))
        return frozenset([*range(0, steps, every), steps] if every else [])
    wanted = list(keep)
    wrong = next((each for each in wanted if not isinstance(each, (int, np.integer)) or not 0 <= each <= steps), None)
    if wrong is not None:
        raise ValueError(f"step {wrong!r} cannot be kept: there are steps 0 (the start) to {steps} (the end)")
    return frozenset(map(int, wanted))


def _counter(bar: Any, count: int, steps: int) -> Callable[[int], None]:
    """Advance ``bar`` by whole pictures as the ``steps`` of ``count`` pictures are taken."""
    start = bar.n

    def step_done(step: int) -> None:
        bar.update(start + count * step // steps - bar.n)

    return step_done


def _described(part: Any) -> str:
    """Frozen dataclasses say all there is in their repr; a plain function has its name."""
    return getattr(part, "__qualname__", None) or repr(part)


def _gathered(
    plan: Plan,
    objectives: Sequence[Objective],
    pictures: Sequence[Made],
    natural: NDArray[np.float32] | None,
    batch: int,
) -> Visualization:
    images = _channels_last(torch.stack([picture.pixels for picture in pictures]))
    grades = _graded(pictures, natural)
    return Visualization(
        units=tuple(objective.name for objective in objectives for _ in range(plan.count)),
        images=images.astype(np.float32) / np.float32(255),
        scores=_column(pictures, "scores"),
        history={
            step: np.array([picture.history[step] for picture in pictures], np.float32)
            for step in sorted(pictures[0].history)
        },
        seed=plan.seed,
        settings=_settings(plan, batch, transparent=len(pictures[0].pixels) == plan.model.channels + 1),
        digest=plan.model.digest,
        frames={
            step: _channels_last(torch.stack([picture.frames[step] for picture in pictures]))
            for step in sorted(pictures[0].frames)
        },
        verdicts=tuple(map(_verdict, pictures, grades["ratio"], grades["natural"])),
        **grades,
    )


def _verdict(picture: Made, ratio: np.float32, natural: np.float32) -> str:
    return verdict(
        silent=picture.silent and max(picture.history.values(), default=math.nan) <= 0,
        score=picture.scores,
        start=picture.history.get(0, picture.scores),  # without a step the picture is its start
        ratio=float(ratio),
        robustness=picture.robustness,
        natural=float(natural),
    )


def _graded(pictures: Sequence[Made], natural: NDArray[np.float32] | None) -> dict[str, NDArray[np.float32]]:
    peaks = _column(pictures, "peaks")
    natural = np.full_like(peaks, np.nan) if natural is None else natural
    ratio = np.divide(peaks, natural, out=np.full_like(peaks, np.nan), where=natural > 0)
    others = {name: _column(pictures, name) for name in ("robustness", "spread")}
    return {"peaks": peaks, "natural": natural, "ratio": ratio, **others}


def _column(pictures: Sequence[Made], name: str) -> NDArray[np.float32]:
    return np.array([getattr(picture, name) for picture in pictures], np.float32)


def _channels_last(pixels: Tensor) -> NDArray[np.uint8]:
    """Give ``(n, c, h, w)`` as ``(n, h, w, c)``, one channel as three equal ones."""
    array = pixels.permute(0, 2, 3, 1).numpy()
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else np.ascontiguousarray(array)


def _settings(plan: Plan, batch: int, *, transparent: bool) -> Mapping[str, Any]:
    return {
        "model": plan.model.name,
        "image": _described(plan.image),
        "transforms": [_described(each) for each in plan.transforms],
        "optimizer": _described(plan.optimizer),
        "steps": plan.steps,
        "count": plan.count,
        "views": plan.views,
        "batch": batch,
        "size": plan.size,
        "dtype": None if plan.dtype is None else str(plan.dtype).removeprefix("torch."),
        "transparent": transparent,
    }
