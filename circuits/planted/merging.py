"""Merging: units that mean several things, put into a trained network by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.examples import Examples
from features.models import Model, load_model
from features.units import Unit

# The fraction of a unit's value times this number is as good as random among images, and still the same in batches of
# other sizes: float noise of 1e-6 moves it by 1e-3.
SCATTER = 997.0


@dataclass(frozen=True)
class Merge:
    """One planted unit: which channels of a layer it responds to, and how strongly.

    ``members`` are the channels; the unit takes the place of the first, the others fall silent. ``scales`` are their
    weights: the unit is the largest of ``scale * member``. ``noise`` in [0, 1) takes away up to that share of the
    value, by chance but the same in every run: it makes the examples diffuse without another meaning. ``kind`` says
    what it is, in a word of yours.

    >>> Merge((3, 5), (1.0, 0.5)).kind
    'merged'
    """

    members: tuple[int, ...]
    scales: tuple[float, ...]
    kind: str = "merged"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) != len(self.members) or len(self.scales) != len(self.members):
            raise ValueError(
                f"members {self.members} with scales {self.scales}: give different channels, and one scale for each"
            )
        if min(self.members) < 0 or not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ValueError(f"members {self.members} with scales {self.scales}: channels from 0, and scales above 0")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise is {self.noise}: give the largest share to take away, from 0 to under 1")


class Merging(nn.Module):
    """Put planted units in the place of their members: channels first, ``(n, c, ...)`` to the same shape.

    The planted channel gives ``max(scale * member) * (1 - noise * r)`` over its members, with ``r`` in [0, 1) read off
    the digits of that maximum (not differentiated); other members give 0, and every other channel is passed on as it
    is. A maximum, since the sum of two members is largest where neither of their meanings is but something that
    excites both a little; `circuits.wiring` reads it, as all maxima, as the mean of its members.

    ``ValueError`` for channels outside of the layer and for a channel in two units.

    >>> merging = Merging([Merge((0, 2), (1.0, 10.0))], channels=3)
    >>> merging(torch.tensor([[1.0, 5.0, 2.0]])).tolist()
    [[20.0, 5.0, 0.0]]
    """

    def __init__(self, merges: Sequence[Merge], channels: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        members = [member for merge in merges for member in merge.members]
        if len(set(members)) != len(members):
            twice = next(member for member in members if members.count(member) > 1)
            raise ValueError(f"channel {twice} is a member of two planted units: members are taken once")
        if not members or max(members) >= channels:
            raise ValueError(f"members {sorted(members)}: give at least one, below the layer's {channels} channels")
        passed = torch.ones(channels, 1, dtype=dtype)
        passed[members] = 0
        self.passed: Tensor
        self.register_buffer("passed", passed)
        sizes = sorted({len(merge.members) for merge in merges})
        self.groups = nn.ModuleList(
            _Group([merge for merge in merges if len(merge.members) == size], channels, dtype) for size in sizes
        )

    def forward(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(2) if maps.dim() > 2 else maps.unsqueeze(2)
        given = flat * self.passed
        for group in self.groups:
            given = given + group(flat)
        return given.reshape(maps.shape)


class _Group(nn.Module):
    """The planted units of as many members: ``(n, c, p)`` to the same shape, 0 in every other channel."""

    def __init__(self, merges: Sequence[Merge], channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.size = len(merges[0].members)
        places = torch.zeros(channels, len(merges), dtype=dtype)
        for row, merge in enumerate(merges):
            places[merge.members[0], row] = 1
        self.noisy = any(merge.noise for merge in merges)
        self.places: Tensor
        self.members: Tensor
        self.scales: Tensor
        self.noise: Tensor
        self.register_buffer("places", places)
        self.register_buffer("members", torch.tensor([merge.members for merge in merges]).flatten())
        self.register_buffer("scales", torch.tensor([merge.scales for merge in merges], dtype=dtype)[..., None])
        self.register_buffer("noise", torch.tensor([merge.noise for merge in merges], dtype=dtype)[:, None])

    def forward(self, flat: Tensor) -> Tensor:
        taken = flat.index_select(1, self.members)
        parts = taken.reshape(len(flat), -1, self.size, flat.shape[2]) * self.scales
        best = parts.amax(2)
        if self.noisy:
            best = best * (1 - self.noise * torch.frac(best.detach().abs() * SCATTER))
        return torch.einsum("cu,nup->ncp", self.places, best)


class InPlace(nn.Module):
    """A module whose output goes through `Merging`; its name is that of the module that it replaces."""

    def __init__(self, module: nn.Module, merging: Merging) -> None:
        super().__init__()
        self.module, self.merging = module, merging

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.merging(self.module(*inputs))  # type: ignore[no-any-return]


class Beside(nn.Module):
    """A module whose output is passed on as it is, with several `Merging` that read it."""

    def __init__(self, module: nn.Module, planted: Mapping[str, Merging]) -> None:
        super().__init__()
        self.module, self.planted = module, nn.ModuleDict(planted)

    def forward(self, *inputs: Tensor) -> Tensor:
        maps: Tensor = self.module(*inputs)
        for merging in self.planted.values():
            merging(maps)
        return maps


def merged(model: Model, layer: str, merges: Iterable[Merge]) -> Model:
    """Give a copy of ``model`` in which planted units stand in the place of their members at ``layer``.

    A real network: what follows the layer reads the planted units through the weights that read their members. The
    unit ``f"{layer}:{merge.members[0]}"`` is planted, its other members are silent. ``model`` is left alone.

    ``ValueError`` for an unknown layer, one of tokens (``(n, t, c)``), the second call of a module, and members that do
    not fit.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> planted = merged(model, "mixed4c", [Merge((3, 5), (1.0, 2.0))])
    >>> planted.layer("mixed4c").channels, planted.digest == model.digest
    (96, False)
    """
    net = copy.deepcopy(model.net)
    _replace(net, layer, InPlace(_module(model, net, layer), _merging(model, layer, merges)))
    return _as_model(model, net, f"{model.name} with units merged at {layer}")


def merged_beside(model: Model, plans: Mapping[str, tuple[str, Sequence[Merge]]]) -> tuple[Model, dict[str, str]]:
    """Give a copy of ``model`` with several plans of merged units at once, and under which layer each can be read.

    ``plans`` maps a name to a layer and its merges. Each gives a layer of its own that reads ``layer``'s output; the
    rest of the network goes on reading the output itself, and answers as before. One pass over a dataset then serves
    all plans. At its layer a plan gives exactly what `merged` gives there.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> planted, where = merged_beside(model, {"a": ("mixed4c", [Merge((3, 5), (1.0, 2.0))])})
    >>> where["a"], planted.layer(where["a"]).channels
    ('mixed4c.planted.a', 96)
    """
    net = copy.deepcopy(model.net)
    layers: dict[str, dict[str, Merging]] = {}
    for name, (layer, merges) in plans.items():
        layers.setdefault(layer, {})[name] = _merging(model, layer, merges)
    for layer, planted in layers.items():
        _replace(net, layer, Beside(_module(model, net, layer), planted))
    where = {name: f"{layer}.planted.{name}" for name, (layer, _) in plans.items()}
    return _as_model(model, net, f"{model.name} with units merged beside it"), where


def mix(examples: Examples, layer: str, members: Sequence[int], shares: Sequence[float], **said: object) -> Merge:
    """Give the `Merge` of ``members`` whose ``examples.count`` top examples are shared as ``shares`` say.

    Each member is scaled so that its value at rank ``round(share * count)`` becomes that of the first member at its
    own, whose scale is 1: from each then so many examples lie above one common value. That is exact where no image
    excites two members; `Benchmark.realized` measures it. ``said`` goes to `Merge`.

    ``ValueError`` for shares that do not sum to 1, and for members with fewer examples than their share asks for.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> examples = find_examples(load_model("sketches"), Sketches(12), ["mixed4c"], count=8, progress=False)
    >>> mix(examples, "mixed4c", (3, 5), (0.5, 0.5)).members
    (3, 5)
    """
    values = [examples[Unit(layer, member)].value for member in members]
    return Merge(tuple(members), scaled(values, shares, examples.count), **said)  # type: ignore[arg-type]


def scaled(values: Sequence[NDArray[np.floating]], shares: Sequence[float], count: int) -> tuple[float, ...]:
    """Give the scales of members with these ``values`` of images that `mix` gives them, for ``count`` examples.

    >>> scaled([np.array([4.0, 2.0, 1.0]), np.array([8.0, 5.0])], (0.75, 0.25), 4)
    (1.0, 0.125)
    """
    if len(shares) != len(values) or not math.isclose(sum(shares), 1) or min(shares, default=0) <= 0:
        raise ValueError(f"shares {tuple(shares)} for {len(values)} members: give one above 0 for each, 1 together")
    scales = []
    for mine, share in zip(values, shares, strict=True):
        best = -np.sort(-mine[mine > 0])
        rank = max(1, round(share * count))
        if len(best) < rank:
            raise ValueError(f"a member has {len(best)} examples, and {rank} are asked of it: show it more images")
        scales.append(float(best[rank - 1]))
    return tuple(scales[0] / scale for scale in scales)


def _merging(model: Model, layer: str, merges: Iterable[Merge]) -> Merging:
    merging = Merging(list(merges), model.layer(layer).channels, dtype=model.dtype)
    return merging.to(device=model.device).eval()


def _module(model: Model, net: nn.Module, layer: str) -> nn.Module:
    known = model.layer(layer)
    names: dict[str, nn.Module] = dict(net.named_modules(remove_duplicate=False))
    again = any(other.name == f"{layer}#1" for other in model.layers)
    if known.layout not in ("nchw", "nc") or layer not in names or again:
        raise ValueError(
            f"units cannot be merged at {layer!r}: give a module that is called once and gives (n, c, h, w) or (n, c)"
        )
    return names[layer]


def _replace(net: nn.Module, layer: str, module: nn.Module) -> None:
    parent, _, name = layer.rpartition(".")
    net.get_submodule(parent)._modules[name] = module.eval()


def _as_model(model: Model, net: nn.Module, name: str) -> Model:
    size, mean, std = model.image_size, model.mean, model.std
    made = load_model(net, name=name, image_size=size, mean=mean, std=std, labels=model.labels or None)
    known = {layer.name for layer in made.layers}
    return replace(made, default_layers=tuple(name for name in model.default_layers if name in known))
