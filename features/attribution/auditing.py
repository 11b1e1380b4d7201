"""Auditing: whether a method's heat deserves trust, on these images and this target, with figures and one sentence."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from features.attribution.attributing import attribute, named_method
from features.attribution.pixels import BASELINES
from features.attribution.targets import (
    TOGETHER,
    Method,
    Target,
    aim,
    check_images,
    mean_colour,
    score_of,
    scores_of,
)
from features.models import Model
from features.objectives import Objective

STEPS = 32  # points of an insertion or deletion curve
STAGES = 5  # of the cascade of randomized weights
PATCHES = 64  # random squares by which infidelity is estimated
SIDES = (1 / 8, 1 / 2)  # their sides, as shares of the picture's
PERTURBED, RADIUS = 4, 0.02  # copies of an image by which sensitivity is estimated, and how far they may be from it

# A heat that still correlates more than this with that of a network whose weights are shuffled from the output down to
# three fifths of the layers, or further, shows the picture and not the network. Measured on `features.sketches` and a
# GoogLeNet trained on CIFAR-10: gradients, Grad-CAM and LayerCAM -0.4 to 0.5, deconvnet 0.84 and 0.94, guided
# backpropagation 0.89 and 0.99.
ALIKE, FROM = 0.5, 2
COMPLETE = 0.05  # of the promised sum: a larger residual means too few steps

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Audit:
    """How far a method's heats can be trusted, on ``n`` images.

    - insertion, deletion (n,): the mean of the target's value while pixels appear (on a blurred picture) or disappear
      (into the mean colour), those of the largest heat first, in units of ``S(x) - S(nothing)`` above ``S(nothing)``
      (Petsiuk et al. 2018): high insertion and low deletion are good. random_insertion, random_deletion (n,): the same
      in random order.
    - randomization: pairs of how many of the weight tensors were shuffled, from the output down, and the mean rank
      correlation (Spearman) of the heats with the original ones (the cascade of Adebayo et al. 2018); it should fall to
      0 with the first, and must not stay above 0.5 when three fifths of the layers are shuffled.
    - completeness: the median of ``|residual / total|``, ``None`` where the method promises no sum.
    - infidelity (n,): the share of the target's changes, when random squares are hidden, that the heat in the squares
      does not predict, after the best scaling; 0 is perfect, 1 is no better than nothing (Yeh et al. 2019, by captum).
    - sensitivity (n,): the largest relative change of the heat in a ball of radius 0.02 around the image (ibid.).
    """

    method: str
    target: str
    layer: str | None
    insertion: Floats
    deletion: Floats
    random_insertion: Floats
    random_deletion: Floats
    randomization: tuple[tuple[int, float], ...]
    completeness: float | None
    infidelity: Floats
    sensitivity: Floats

    @property
    def passes_randomization(self) -> bool:
        """Whether the heat is another one once three fifths of the layers, or more, are shuffled."""
        return self._kept <= ALIKE

    @property
    def _kept(self) -> float:
        return max(similarity for _, similarity in self.randomization[FROM:] or self.randomization[-1:])

    @property
    def verdict(self) -> str:
        """One sentence with the figures."""
        parts = [
            f"passes randomization ({self._kept:+.2f})"
            if self.passes_randomization
            else f"FAILS randomization: its heat is much the same ({self._kept:+.2f}) for a network of shuffled weights"
        ]
        gain = self.insertion - self.deletion - (self.random_insertion - self.random_deletion)
        parts.append(f"insertion less deletion {np.median(gain):+.2f} against random")
        if self.completeness is not None:
            advice = "" if self.completeness <= COMPLETE else ": take more steps"
            parts.append(f"completeness residual {self.completeness:.1%}{advice}")
        parts.append(f"infidelity {np.median(self.infidelity):.2f}, sensitivity {np.median(self.sensitivity):.2f}")
        return f"{self.method}: " + "; ".join(parts)

    def __repr__(self) -> str:
        return f"Audit({self.verdict})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.verdict)}</p>"


def audit(
    model: Model,
    images: Tensor,
    target: Target,
    *,
    method: str | Method = "grad-cam",
    layer: str | None = None,
    seed: int = 0,
    batch: int = 16,
    progress: bool = True,
) -> Audit:
    """Test a method on ``images``: does its heat predict what hiding pixels does, and does it depend on the weights?

    The arguments are those of `attribute`; the measures are described in `Audit`. It takes about 12 attributions and
    230 forward passes of every image. The model is not touched: weights are shuffled in a copy. The same seed gives the
    same result.

    >>> from features.models import load_model
    >>> audit(load_model("sketches"), torch.rand(1, 3, 64, 64), "car", progress=False).method
    'grad-cam'
    """
    images = check_images(model, images)
    objective, name = aim(model, target), named_method(method)[0]
    found = attribute(model, images, objective, method=method, layer=layer, batch=batch, progress=False)

    def again(other: Model, others: Tensor) -> Floats:
        heat = attribute(other, others, objective, method=method, layer=found.layer, batch=batch, progress=False).heat
        return heat.astype(np.float64)

    with tqdm(total=5, desc=f"audit of {name}", unit="test", disable=not progress) as bar:
        ours = _curves(model, images, objective, [torch.from_numpy(found.heat)])
        bar.update()
        generator = torch.Generator().manual_seed(seed)
        chance = [torch.rand(found.heat.shape, generator=generator) for _ in range(3)]
        random = _curves(model, images, objective, chance)
        bar.update()
        cascade = tuple(
            (count, _similarity(found.heat, again(other, images))) for count, other in _cascade(model, seed)
        )
        bar.update()
        infidelity = _infidelity(model, images, objective, found.heat, seed)
        bar.update()
        sensitivity = _sensitivity(lambda others: again(model, others), images, seed)
        bar.update()
    complete = None
    if found.total is not None and found.residual is not None:
        complete = float(np.median(np.abs(found.residual) / np.maximum(np.abs(found.total), 1e-12)))
    return Audit(found.method, found.target, found.layer, *ours, *random, cascade, complete, infidelity, sensitivity)


def _curves(model: Model, images: Tensor, objective: Objective, heats: list[Tensor]) -> tuple[Floats, Floats]:
    """Give the areas under the insertion and the deletion curve, (n,) each, the mean over ``heats`` (n, h, w)."""
    nothing = mean_colour(model, images).expand_as(images)
    blurred = BASELINES["blurred"](model, images)
    empty, full = score_of(model, nothing, objective), score_of(model, images, objective)
    scale = full - empty
    scale = torch.where(scale.abs() > 1e-12, scale, 1)
    areas = []
    for start, end in ((blurred, images), (images, nothing)):
        means = []
        for heat in heats:
            rank = (-heat.flatten(1)).argsort(dim=1, stable=True).argsort(dim=1).reshape(heat.shape).to(images.device)
            stages = _stages(start, end, rank)
            scores = torch.stack(list(scores_of(model, stages, objective)))
            means.append(torch.trapezoid((scores - empty) / scale, dx=1 / STEPS, dim=0))
        areas.append(torch.stack(means).mean(0).double().cpu().numpy())
    return areas[0], areas[1]


def _stages(start: Tensor, end: Tensor, rank: Tensor) -> Iterator[Tensor]:
    """Give the pictures on the way from ``start`` to ``end``, pixels in the order of their rank (n, h, w)."""
    pixels = rank[0].numel()
    for step in range(STEPS + 1):
        yield torch.where((rank < round(pixels * step / STEPS))[:, None], end, start)


def _cascade(model: Model, seed: int) -> Iterator[tuple[int, Model]]:
    """Give how many weight tensors are shuffled and a copy of the model with these, from the output down to all."""
    net = copy.deepcopy(model.net)
    shuffled = replace(model, net=net)
    modules = [module for module in net.modules() if next(_own(module), None) is not None]
    order = [module for module in _by_execution(model, net) if module in modules]
    generator = torch.Generator().manual_seed(seed)
    ends = sorted({round(len(order) * stage / STAGES) for stage in range(1, STAGES + 1)} - {0})
    done, tensors = 0, 0
    for end in ends:
        for module in order[done:end]:
            for tensor in _own(module):
                flat = tensor.data.flatten()
                tensor.data.copy_(flat[torch.randperm(len(flat), generator=generator).to(flat.device)].view_as(tensor))
                tensors += 1
        done = end
        yield tensors, shuffled


def _own(module: nn.Module) -> Iterator[Tensor]:
    """Give the floating tensors of a module itself: weights, biases, running statistics."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point() and tensor.numel() > 1:
            yield tensor


def _by_execution(model: Model, net: nn.Module) -> list[nn.Module]:
    """Give the modules of a copy of the model's network, the last that ran first; those that no layer names at the
    end."""
    named = dict(net.named_modules())
    order = [named[layer.name.split("#")[0]] for layer in reversed(model.layers) if layer.name.split("#")[0] in named]
    return list(dict.fromkeys([*order, *reversed(list(net.modules()))]))


def _similarity(heats: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Give the mean over images of Spearman's correlation of heats; 0 where one of them is constant.

    Pixels where both are 0 do not count: what lies outside the target's receptive field is 0 whatever the weights.
    """
    found = []
    for heat, other in zip(heats, others, strict=True):
        seen = (heat != 0) | (other != 0)
        if not seen.any():
            found.append(0.0)
            continue
        ranks = np.stack([_ranks(each[seen]) for each in (heat, other)])
        ranks -= ranks.mean(1, keepdims=True)
        lengths = np.linalg.norm(ranks, axis=1)
        found.append(float(ranks[0] @ ranks[1] / (lengths[0] * lengths[1])) if lengths.all() else 0.0)
    return float(np.mean(found))


def _ranks(values: NDArray[np.floating]) -> Floats:
    """Give ranks, equal values their mean."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks


def _infidelity(model: Model, images: Tensor, objective: Objective, heat: NDArray[np.floating], seed: int) -> Floats:
    """Give the share of the target's changes that the heat misses, as random squares are hidden: (n,)."""
    from captum.metrics import infidelity  # importing captum takes seconds, and only an audit needs it

    nothing = mean_colour(model, images)

    def value(shown: Tensor, pictures: Tensor) -> Tensor:
        return score_of(model, nothing + shown.to(images) * (pictures - nothing), objective).double()

    def errors(told: Tensor) -> Floats:
        generator = torch.Generator().manual_seed(seed)

        def hide(shown: Tensor) -> tuple[Tensor, Tensor]:
            squares = _squares(shown, generator)
            return squares, shown - squares

        shown = torch.ones_like(told)
        found: Floats = (
            infidelity(
                value,
                hide,
                shown,
                told,
                additional_forward_args=(images,),
                n_perturb_samples=PATCHES,
                max_examples_per_batch=max(TOGETHER, len(images)),
                normalize=True,
            )
            .cpu()
            .numpy()
        )
        return found

    told = torch.from_numpy(heat.astype(np.float64))[:, None].to(images.device)
    none = errors(torch.zeros_like(told))  # what a heat that says nothing misses: all of it
    missed: Floats = np.divide(errors(told), none, out=np.zeros_like(none), where=none > 0)
    return missed


def _squares(shown: Tensor, generator: torch.Generator) -> Tensor:
    """Give as many masks like ``shown`` (m, 1, h, w), each 1 in a random square of an eighth to half of the side."""
    height, width = shown.shape[2:]
    sizes = (SIDES[0] + (SIDES[1] - SIDES[0]) * torch.rand(len(shown), generator=generator)) * min(height, width)
    edges = []
    for length in (height, width):
        start = torch.rand(len(shown), generator=generator) * (length - sizes)
        places = torch.arange(length) + 0.5
        edges.append((places >= start[:, None]) & (places < (start + sizes)[:, None]))
    return (edges[0][:, None, :, None] & edges[1][:, None, None, :]).to(shown)


def _sensitivity(explained: Callable[[Tensor], Floats], images: Tensor, seed: int) -> Floats:
    """Give the largest relative change of the heat in a small ball around each image, (n,)."""
    from captum.metrics import sensitivity_max  # see _infidelity

    generator = torch.Generator().manual_seed(seed)

    def near(pictures: Tensor, radius: float = RADIUS) -> Tensor:
        noise = 2 * torch.rand(pictures.shape, generator=generator, dtype=torch.float64).to(pictures) - 1
        return (pictures + radius * noise).clamp(0, 1)

    def told(pictures: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:  # captum gives one at first, the other later
        return (torch.from_numpy(explained(pictures[0] if isinstance(pictures, tuple) else pictures)),)

    found: Floats = (
        sensitivity_max(
            told,
            images,
            near,
            perturb_radius=RADIUS,
            n_perturb_samples=PERTURBED,
            max_examples_per_batch=len(images),
        )
        .double()
        .cpu()
        .numpy()
    )
    return found
