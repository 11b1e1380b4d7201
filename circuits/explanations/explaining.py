"""Explaining: one picture, one target, one layer: the channels that carried it, with their pictures and meanings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.explanations.nouns import Carrier, Explanation
from circuits.explanations.tracing import explanation_graph, unit_of
from circuits.meanings import Polysemanticity, polysemanticity
from features.attribution import Attribution, ChannelAttribution, attribute_channels_along_path
from features.attribution.attributing import pictures_of
from features.attribution.targets import Target, check_images
from features.examples import Examples, crops, find_examples
from features.models import Model
from features.pictures import Picture
from features.units import Unit
from features.visualization import Visualization, visualize

ANSWERS = 5  # classes that are named beside the target
SHOWN = 6  # examples of a carrier
NEEDED = 32  # examples by which a verdict is reached


def explain(
    model: Model,
    image: Tensor,
    target: Target | None = None,
    layer: str | None = None,
    *,
    dataset: Any = None,
    examples: Examples | None = None,
    meanings: Polysemanticity | None = None,
    count: int = 8,
    pictures: bool = True,
    width: int = 4,
    breadth: int = 6,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Explanation:
    """Say through which channels of ``layer`` a picture made the network give ``target`` its value, and show them.

    Olah et al. 2018, "The Building Blocks of Interpretability": an attribution names channels, and each named channel
    is shown. ``image`` is (channels, h, w) in [0, 1]; ``target`` a class or a unit, by default the likeliest class;
    ``layer`` by default the last one with positions before it. The ``count`` channels that add or take most
    (`features.attribute_channels_along_path`, which adds up to what the layer makes of the target) come with their heat
    over the image, their visualization (``pictures=False`` leaves it out), what excites them in ``dataset`` (or in
    ``examples`` found before, whose pictures are then the dataset's), and whether they mean several things
    (``meanings`` found before, or judged here). ``width``, ``breadth`` and ``layers`` are those of
    `explanation_graph`.

    Errors: as those of `features.attribute` and `explanation_graph`; ``ValueError`` for examples of other weights.

    >>> from features.models import load_model
    >>> found = explain(
    ...     load_model("sketches"), torch.rand(3, 64, 64), "car", "mixed4b", pictures=False, width=1, progress=False
    ... )
    >>> len(found.carriers), found.target
    (8, 'car')
    """
    image = check_images(model, image[None] if image.ndim == 3 else image)
    unit = unit_of(model, image, target)
    if examples is not None and examples.digest != model.digest:
        raise ValueError(f"the examples are of other weights (of {examples.model!r}): find them again")
    graph = explanation_graph(model, image, unit, layers, width=width, breadth=breadth, progress=progress)
    channels = attribute_channels_along_path(model, image, unit, layer=layer, progress=progress)
    carriers = channels.top(0, count=count)
    units = [carrier for carrier, _ in carriers]
    made = visualize(model, units, seed=seed, progress=progress) if pictures and units else None
    if examples is None and dataset is not None:
        examples = find_examples(model, dataset, [channels.layer], count=NEEDED, progress=progress)
    if meanings is None and examples is not None and channels.layer in examples.layers:
        meanings = polysemanticity(model, examples, units, dataset=dataset, progress=False)
    return Explanation(
        model=model.name,
        picture=image[0].clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).float().cpu().numpy(),
        target=_named(model, unit),
        value=float(channels.score[0]),
        answers=_answers(model, image),
        layer=channels.layer,
        carriers=tuple(
            Carrier(
                carrier,
                share,
                _heat(channels.products[0, carrier.channel], image),
                None if made is None else made[carrier],
                "" if made is None else _grade(made, carrier),
                _examples(examples, dataset, carrier),
                _verdict(meanings, carrier),
            )
            for carrier, share in carriers
        ),
        covered=float(sum(abs(share) for _, share in carriers)),
        total=float(channels.total[0]) if channels.total is not None else 0.0,
        residual=float(channels.residual[0]) if channels.residual is not None else 0.0,
        overall=_overall(channels, image),
        graph=graph,
    )


def _named(model: Model, unit: Unit) -> str:
    classes = unit.layer == model.layers[-1].name and unit.channel < len(model.labels)
    return model.labels[unit.channel] if classes else str(unit)


def _answers(model: Model, image: Tensor) -> tuple[tuple[str, float], ...]:
    with torch.no_grad():
        logits = model(image)
    if logits.ndim != 2 or logits.shape[1] != len(model.labels):
        return ()
    shares = logits[0].double().softmax(0)
    best = shares.argsort(descending=True)[:ANSWERS].tolist()
    return tuple((model.labels[c], float(shares[c])) for c in best)


def _heat(coarse: np.ndarray, image: Tensor) -> np.ndarray:
    maps = torch.from_numpy(coarse)[None, None].double()
    large: np.ndarray = F.interpolate(maps, size=image.shape[2:], mode="bilinear", align_corners=False)[0, 0].numpy()
    return large


def _overall(channels: ChannelAttribution, image: Tensor) -> Attribution:
    """Give what all channels together add, position by position: Grad-CAM's mean gradient would mislead in the middle
    of a network."""
    heat = _heat(channels.spatial[0], image)[None]
    return Attribution(
        heat, channels.method, channels.target, channels.layer, channels.score, None, None, pictures_of(image)
    )


def _grade(made: Visualization, unit: Unit) -> str:
    return str(made.verdicts[list(made.units).index(str(unit))]) if made.verdicts is not None else ""


def _examples(examples: Examples | None, dataset: Any, unit: Unit) -> tuple[Picture, ...]:
    if examples is None or dataset is None or unit not in examples:
        return ()
    return tuple(crops(examples, dataset, unit, count=SHOWN))


def _verdict(meanings: Polysemanticity | None, unit: Unit) -> str:
    return meanings[unit].verdict if meanings is not None and str(unit) in meanings.units else ""
