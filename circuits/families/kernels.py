"""Families from kernels: those of a first layer turned and compared, and wires averaged over the turns of a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.families.grouping import Variants, group, variants
from circuits.families.nouns import Family, Transform, wrapped
from circuits.motifs.kernels import disc, warped
from circuits.motifs.rewiring import check_sampling
from features.units import Unit

Numbers = NDArray[np.float64]
Move = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Collapse:
    """The average wire between two families of turned units, by how far the source is turned against the target.

    ``kernels (k, kh, kw)`` is what a target that is not turned gets from a source at each of ``angles`` (degrees),
    averaged over ``counts`` wires; ``agreement`` is the mean cosine of these with their average: 1 where the wiring is
    exactly equivariant, near 0 (or below ``1 / counts`` in its square) where turning explains nothing.
    """

    angles: tuple[float, ...]
    kernels: Tensor = field(repr=False)
    counts: tuple[int, ...]
    agreement: tuple[float, ...]


def kernel_families(
    kernels: Tensor,
    layer: str,
    *,
    below: Sequence[Family] = (),
    step: float = 15.0,
    mirror: bool = True,
    scales: Sequence[float] = (),
    hues: Sequence[float] = (),
    least: float = 0.8,
    level: float = 0.05,
    samples: int = 19,
    seed: int = 0,
) -> tuple[Family, ...]:
    """Find families among the units of a layer by turning its kernels ``(o, i, kh, kw)`` onto each other.

    The similarity of ``b`` with ``a`` is the largest cosine of ``T K[a]`` with ``K[b]`` inside the disc in the kernel,
    over turns by multiples of ``step`` degrees, and with them mirrored, at the ``scales`` and ``hues`` (degrees) given.
    Where several transforms do (a bar turned by 0 or 180 degrees), the simplest is taken. A pair matches from ``least``
    on, if no more than the part ``level`` of ``samples`` null layers has a pair as similar: kernels with the same
    spectra and colours and random phases.

    The channels of a first layer stay what they are when it turns. Those of a deeper layer turn too: give the families
    ``below``, of the layer that the kernels read (`connect` gives them). A turned kernel then reads, in place of each
    member, the one that is turned as much further (to half a ``step``); channels without such a partner do not count.
    Where few channels have partners, ask `find_families`, which needs none.

    Raises ``ValueError`` for kernels of another shape, steps that do not divide 360, hues without three channels.

    >>> bar = torch.zeros(3, 7, 7)
    >>> bar[:, 2:] = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0])[:, None]
    >>> found = kernel_families(torch.stack([bar, warped(bar, 90)]), "conv1", step=30)
    >>> found[0].units, found[0].transforms[1].angle
    (('conv1:0', 'conv1:1'), 90.0)
    """
    check_sampling(samples, 1)
    _check_kernels(kernels)
    tried = variants(step, mirror, scales, hues)
    kernels = kernels.detach().double().cpu()
    random = np.random.default_rng(seed)
    moves = [_move(transform, below, kernels.shape[1], step) for transform in tried.transforms]
    similarity = _similarities(kernels, kernels, tried, moves)
    null = [_largest(_similarities(kernels, _scrambled(kernels, random), tried, moves)) for _ in range(samples)]
    names = [f"{layer}:{channel}" for channel in range(len(kernels))]
    return group(layer, names, similarity, tried, np.array(null), least=least, level=level, method="kernels")


def collapse(kernels: Tensor, sources: Family, targets: Family, *, step: float = 15.0) -> Collapse:
    """Average the wires between two families over the turns that they share: rotational weight collapse.

    ``kernels (o, i, kh, kw)`` is what `connect` gives between the two layers. Each ``W[i, j]`` is turned back by the
    angle of its target, and averaged with those whose source is then turned alike, to the nearest multiple of ``step``
    degrees: ``mean over angle(j) - angle(i) = d of R(-angle(i)) W[i, j]`` (Cammarata et al. 2021, "Curve Circuits").
    Mirrored members are left out.

    Raises ``ValueError`` for kernels of another shape, and units that they have not.
    """
    _check_kernels(kernels)
    bins: dict[float, list[Tensor]] = {}
    mask = disc(*kernels.shape[2:])
    for target, phi in _unmirrored(targets).items():
        for source, theta in _unmirrored(sources).items():
            kernel = _kernel(kernels, target, source)
            angle = wrapped(round((theta - phi) / step) * step)
            bins.setdefault(angle, []).append(warped(kernel, -phi) * mask)
    angles = sorted(bins)
    means = [torch.stack(bins[angle]).mean(0) for angle in angles]
    cosines = [
        float(torch.cosine_similarity(torch.stack(bins[angle]).flatten(1), mean.flatten()[None], dim=1).mean())
        for angle, mean in zip(angles, means, strict=True)
    ]
    return Collapse(tuple(angles), torch.stack(means), tuple(len(bins[angle]) for angle in angles), tuple(cosines))


def _similarities(kernels: Tensor, others: Tensor, tried: Variants, moves: Sequence[Move]) -> Numbers:
    """Give ``cos(T K[a], L[b])`` for all transforms, where channels ``move[0]`` become ``move[1]``: ``(t, a, b)``."""
    mask = disc(*kernels.shape[2:])
    found = []
    for transform, (before, after) in zip(tried.transforms, moves, strict=True):
        turned = _unit_length((transform(kernels) * mask)[:, before])
        found.append((turned @ _unit_length((others * mask)[:, after]).T).numpy())
    return np.stack(found)


def _move(transform: Transform, below: Sequence[Family], channels: int, step: float) -> Move:
    """Say which channel of the layer below becomes which when everything is transformed."""
    if not below:
        return list(range(channels)), list(range(channels))
    pairs = [pair for family in below for pair in _partners(transform, family, step)]
    if any(channel >= channels for pair in pairs for channel in pair):
        raise ValueError(f"the families below have units that are not among the kernels' {channels} channels")
    return [before for before, _ in pairs], [after for _, after in pairs]


def _partners(transform: Transform, family: Family, step: float) -> list[tuple[int, int]]:
    found = []
    for unit, own in zip(family.units, family.transforms, strict=True):
        angle = transform.angle - own.angle if transform.mirror else transform.angle + own.angle
        distance = {
            other: abs(wrapped(each.angle - angle))
            for other, each in zip(family.units, family.transforms, strict=True)
            if each.mirror == (own.mirror != transform.mirror)
        }
        nearest = min(distance, key=lambda other: distance[other], default=unit)
        if distance.get(nearest, 360.0) <= step / 2:
            found.append((Unit.of(unit).channel, Unit.of(nearest).channel))
    return found


def _unit_length(kernels: Tensor) -> Tensor:
    return torch.nn.functional.normalize(kernels.flatten(1), dim=1, eps=1e-30)


def _scrambled(kernels: Tensor, random: np.random.Generator) -> Tensor:
    """Give kernels with the amplitudes of each frequency and the relations between channels kept, phases random."""
    size = kernels.shape[2:]
    noise = torch.from_numpy(random.standard_normal((len(kernels), 1, *size)))
    phases = torch.fft.fft2(noise)
    phases = phases / phases.abs().clamp(min=1e-30)
    scrambled: Tensor = torch.fft.ifft2(torch.fft.fft2(kernels) * phases).real
    return scrambled


def _largest(similarity: Numbers) -> float:
    """Give the largest similarity of two different units."""
    best = similarity.max(0)
    np.fill_diagonal(best, -1.0)
    return float(best.max())


def _check_kernels(kernels: Tensor) -> None:
    if not isinstance(kernels, Tensor) or kernels.ndim != 4 or not kernels.is_floating_point():
        shape = tuple(getattr(kernels, "shape", ()))
        raise ValueError(f"kernels have shape {shape}: give floats (o, i, kh, kw), for example model.net.conv1.weight")
    if not torch.isfinite(kernels).all():
        raise ValueError("the kernels hold numbers that are infinite or NaN: such units have no family")


def _unmirrored(family: Family) -> dict[str, float]:
    pairs = zip(family.units, family.transforms, strict=True)
    return {unit: transform.angle for unit, transform in pairs if not transform.mirror}


def _kernel(kernels: Tensor, target: str, source: str) -> Tensor:
    o, i = Unit.of(target).channel, Unit.of(source).channel
    if o >= kernels.shape[0] or i >= kernels.shape[1]:
        raise ValueError(f"kernels of shape {tuple(kernels.shape)} have no wire {source!r} -> {target!r}: use connect")
    return kernels[o, i].detach().double().cpu()
