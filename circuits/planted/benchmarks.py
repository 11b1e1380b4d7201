"""Benchmarks: planted units of a network with the evidence that scores see, and the truth that they do not see."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.meanings.evidence import Evidence, whitened
from circuits.meanings.upstream import sources_of
from circuits.planted.members import MIXTURES, Known, Plan, main_class, plan
from circuits.planted.merging import Merge, merged_beside
from circuits.planted.responses import BATCH, Responses, flat, opened, respond
from features.models import Model, probe
from features.records import read_record, write_record

KIND = "planted benchmark"
USUAL_UNITS, USUAL_EXAMPLES = 96, 30  # of each layer, by which its vectors are whitened
STILL_PURE = 0.75  # a control of which less is of one class has come to mean something else
COUNT = 100  # examples of a unit, as in PURE (Dreyer et al. 2024): 7 % are seven

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Planted units of one network: what a score is given, and the truth.

    - network, part: which network, and which of its units were taken (``all``, ``development`` or ``held-out``)
    - evidence: of ``n`` planted units, as `circuits.meanings.gather` gives it; ``late`` is the network's last layer,
      the mean over the positions of the whole picture
    - mixtures (n,): a key of `MIXTURES` for merged units, the kind of control for others
    - members (n,): the channels that each was made of; the layer is in the unit's name
    - owner (n, k): which member caused each example: that with the largest part in the peak; -1 for no example
    """

    network: str
    part: str
    evidence: Evidence
    mixtures: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    owner: Integers

    def __len__(self) -> int:
        return len(self.mixtures)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.mixtures.count(name)} {name}" for name in dict.fromkeys(self.mixtures))
        return f"Benchmark({self.network!r}, {self.part}: {counts})"

    @property
    def polysemantic(self) -> NDArray[np.bool_]:
        """The truth (n,): which units mean several things."""
        return np.array([mixture in MIXTURES for mixture in self.mixtures])

    @property
    def realized(self) -> NDArray[np.float64]:
        """The share of the examples (n,) that the most frequent member caused; 1 for units of one member."""
        counts = [np.bincount(row[row >= 0], minlength=1) for row in self.owner]
        return np.array([count.max() / max(1, count.sum()) for count in counts])

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer (n,) of the original network at which each was planted."""
        return tuple(unit.rpartition(":")[0].rpartition(".planted.")[0] for unit in self.evidence.units)


def make_benchmark(
    model: Model,
    dataset: Any,
    layers: Sequence[str],
    *,
    kin: Sequence[Collection[str]],
    names: Sequence[str] | None = None,
    part: str = "all",
    count: int = COUNT,
    rounds: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> Benchmark:
    """Plant merged units and controls at ``layers`` of ``model``, and gather the evidence on each from ``dataset``.

    The members mean one thing by the labels of ``dataset`` (`single_meaning`); ``kin`` are sets of classes that are not
    unrelated; ``names`` are those of the labels, by default the model's. The planted network is real: its units are
    read from a run of it (see `merged_beside`). One pass over
    the images, and two over those that can be examples.

    Raises ``ValueError`` where no unit of these layers means one thing, and for images without labels.
    """
    responses, labels = respond(
        model, dataset, {name: range(model.layer(name).channels) for name in layers}, progress=progress
    )
    if (labels < 0).any():
        raise ValueError("some images have no label: give a dataset of (image, label), which say what is unrelated")
    known = Known(labels, tuple(names or model.labels), kin)
    plans: dict[str, Plan] = {}
    for layer in layers:
        plans |= plan(layer, responses[layer], known, count=count, part=part, rounds=rounds, seed=seed)
    if not plans:
        raise ValueError(f"no unit of {', '.join(layers)} means one thing by its labels: name later layers")
    planted, where = merged_beside(model, {name: (each.layer, each.merges) for name, each in plans.items()})
    wanted = {where[name]: [merge.members[0] for merge in each.merges] for name, each in plans.items()}
    shown = _candidates(plans, responses, count)
    found, _ = respond(planted, dataset, wanted, shown, progress=progress)
    table = _Table.of(_planted(plans, where, found, known, count), plans, where, found, count)
    read = _read(model, planted, dataset, table, progress=progress)
    raw = Evidence(
        units=tuple(table.units), value=table.value, image=table.image, label=_labels(labels, table.image),
        classes=len(known.names), vectors=read["vectors"], late=read["late"], upstream=read["upstream"],
    )  # fmt: skip
    usual = _usual(model, dataset, responses, progress=progress)
    evidence = whitened(raw, table.layers, usual)
    members = tuple(merge.members for merge in table.merges)
    return Benchmark(model.name, part, evidence, tuple(table.mixtures), members, table.owner)


Row = tuple[str, Merge, str]  # the plan's name, what was planted, and as what


def _planted(
    plans: Mapping[str, Plan], where: Mapping[str, str], found: Mapping[str, Responses], known: Known, count: int
) -> list[Row]:
    """Give what was planted, less the controls that noise has made mean something else by the labels of their
    examples."""
    rows = []
    for name, each in plans.items():
        for merge, mixture in zip(each.merges, each.mixtures, strict=True):
            top = found[where[name]].top(merge.members[0], count)
            if mixture in MIXTURES or main_class(known.labels[top], known)[1] >= STILL_PURE:
                rows.append((name, merge, mixture))
    return rows


def _usual(
    model: Model, dataset: Any, responses: Mapping[str, Responses], *, progress: bool
) -> dict[str, NDArray[np.float32]]:
    """Give for each layer vectors (m, c) at the peaks of the examples of all kinds of its units, as they are without
    anything planted: what evidence is whitened by."""
    peaks: dict[int, list[tuple[str, int]]] = {}
    for layer, each in responses.items():
        for channel in each.channels[:: 1 + len(each.channels) // USUAL_UNITS]:
            for image in each.top(channel, USUAL_EXAMPLES).tolist():
                peaks.setdefault(image, []).append((layer, int(each.place[image, each.channels.index(channel)])))
    found: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in responses}
    images = sorted(peaks)
    with torch.inference_mode(), tqdm(total=len(images), unit="image", desc="usual", disable=not progress) as bar:
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            with probe(model, list(responses)) as activations:
                model(opened(model, dataset, some)[0])
                for row, image in enumerate(some):
                    for layer, place in peaks[image]:
                        found[layer].append(flat(activations[layer])[row, :, place].float().cpu().numpy())
            bar.update(len(some))
    return {layer: np.stack(rows) for layer, rows in found.items()}


@dataclass(frozen=True)
class _Table:
    """The planted units in a row, and the examples of each: (n, k)."""

    units: list[str]
    taps: list[str]
    layers: list[str]
    merges: list[Merge]
    mixtures: list[str]
    value: NDArray[np.float64]
    image: Integers
    place: Integers
    owner: Integers

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        plans: Mapping[str, Plan],
        where: Mapping[str, str],
        found: Mapping[str, Responses],
        count: int,
    ) -> _Table:
        value = np.full((len(rows), count), np.nan)
        image, place = np.full((2, len(rows), count), -1)
        for row, (name, merge, _) in enumerate(rows):
            tap, channel = found[where[name]], merge.members[0]
            top = tap.top(channel, count)
            column = tap.channels.index(channel)
            value[row, : len(top)], image[row, : len(top)] = tap.value[top, column], top
            place[row, : len(top)] = tap.place[top, column]
        taps = [where[name] for name, _, _ in rows]
        return cls(
            units=[f"{tap}:{merge.members[0]}" for tap, (_, merge, _) in zip(taps, rows, strict=True)],
            taps=taps,
            layers=[plans[name].layer for name, _, _ in rows],
            merges=[merge for _, merge, _ in rows],
            mixtures=[mixture for _, _, mixture in rows],
            value=value, image=image, place=place, owner=np.full_like(image, -1),
        )  # fmt: skip


def _candidates(plans: Mapping[str, Plan], responses: Mapping[str, Responses], count: int) -> list[int]:
    """Give the images that can be among the examples of a planted unit: those at which its members promise as much as
    noise can leave of the value at rank ``count``, less float noise."""
    shown: set[int] = set()
    for each in plans.values():
        for merge in each.merges:
            parts = [
                scale * responses[each.layer].of(member)
                for member, scale in zip(merge.members, merge.scales, strict=True)
            ]
            promised = np.max(parts, axis=0)
            last = np.sort(promised)[-min(count, len(promised))]
            shown.update(np.flatnonzero(promised >= last * (1 - merge.noise) * (1 - 1e-4)).tolist())
    return sorted(shown)


def _read(
    model: Model, planted: Model, dataset: Any, table: _Table, *, progress: bool
) -> dict[str, NDArray[np.float32]]:
    """Show the images that are examples once more: vectors (n, k, c), late (n, k, d), upstream (n, k, u), and owners,
    which go into the table."""
    last = next(name for name in reversed(model.default_layers) if len(model.layer(name).shape) == 3)
    sources = {layer: sources_of(model, layer) for layer in dict.fromkeys(table.layers)}
    shape = table.image.shape
    widths = {
        "vectors": max(model.layer(layer).channels for layer in sources),
        "late": model.layer(last).channels,
        "upstream": max(sum(model.layer(name).channels for name in names) for names in sources.values()),
    }
    found = {name: np.zeros((*shape, width), np.float32) for name, width in widths.items()}
    images, counts = np.unique(table.image[table.image >= 0], return_counts=True)
    # Images with as many examples together: backward passes serve a whole batch.
    order = images[np.argsort(-counts, kind="stable")]
    with tqdm(total=len(order), unit="image", desc="evidence", disable=not progress) as bar:
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            _Batch(model, planted, table, sources, last, some, opened(planted, dataset, some.tolist())[0]).note(found)
            bar.update(len(some))
    return found


class _Batch:
    """One run of the planted network, and what it says of the examples that lie in it."""

    def __init__(
        self,
        model: Model,
        planted: Model,
        table: _Table,
        sources: Mapping[str, Sequence[str]],
        last: str,
        indices: Integers,
        images: Tensor,
    ) -> None:
        self.model, self.table, self.sources, self.last = model, table, sources, last
        self.leaves: dict[str, Tensor] = {}
        place = {index: row for row, index in enumerate(indices.tolist())}
        self.units, self.ranks = np.nonzero(np.isin(table.image, indices))
        self.rows = np.array([place[index] for index in table.image[self.units, self.ranks].tolist()])
        self.taps = list(dict.fromkeys(table.taps[unit] for unit in self.units))
        raw = {layer: f"{layer}.module" for layer in sources}
        edits = {name: functools.partial(self._cut, name) for names in sources.values() for name in names}
        wanted = list(dict.fromkeys([*self.taps, *raw.values(), last]))
        with torch.enable_grad(), probe(planted, wanted, edits=edits) as activations:
            planted(images)
            self.maps = {name: flat(activations[name]) for name in wanted}
        self.raw = {layer: self.maps[name] for layer, name in raw.items()}
        self.averages = {name: maps.detach().mean(2).cpu().numpy() for name, maps in self.maps.items()}

    def _cut(self, name: str, value: Tensor) -> Tensor:
        self.leaves[name] = value.detach().clone().requires_grad_()
        return self.leaves[name].clone()

    def note(self, found: dict[str, NDArray[np.float32]]) -> None:
        table = self.table
        for tap in self.taps:
            mine = np.flatnonzero([table.taps[unit] == tap for unit in self.units])
            units, ranks, rows = self.units[mine], self.ranks[mine], self.rows[mine]
            layer, own = table.layers[units[0]], np.array([table.merges[unit].members[0] for unit in units])
            places = torch.from_numpy(table.place[units, ranks])
            vectors = self.maps[tap].detach()[torch.from_numpy(rows), :, places].cpu().numpy()
            vectors[np.arange(len(own)), own] = 0
            found["vectors"][units, ranks, : vectors.shape[1]] = vectors
            late = self.averages[tap if layer == self.last else self.last][rows].copy()
            if layer == self.last:
                late[np.arange(len(own)), own] = 0
            found["late"][units, ranks] = late
        for layer in self.sources:
            mine = np.flatnonzero([table.layers[unit] == layer for unit in self.units])
            self._upstream(layer, mine, found["upstream"])

    def _upstream(self, layer: str, mine: Integers, given: NDArray[np.float32]) -> None:
        """Write activation times gradient, and owners; of each image one example at a time."""
        leaves = [self.leaves[name] for name in self.sources[layer]]
        turn = np.zeros(len(mine), np.int64)
        seen: dict[int, int] = {}
        for at, row in enumerate(self.rows[mine].tolist()):
            turn[at] = seen[row] = seen.get(row, -1) + 1
        for number in range(turn.max(initial=-1) + 1):
            some = mine[turn == number]
            seed = torch.zeros_like(self.raw[layer])
            for at in some.tolist():
                unit, rank, row = self.units[at], self.ranks[at], self.rows[at]
                self._pull(layer, unit, rank, row, seed)
            gradients = torch.autograd.grad(self.raw[layer], leaves, seed, retain_graph=True)
            products = [flat(leaf.detach() * gradient).sum(2) for leaf, gradient in zip(leaves, gradients, strict=True)]
            given[self.units[some], self.ranks[some], : sum(each.shape[1] for each in products)] = (
                torch.cat(products, 1)[torch.from_numpy(self.rows[some])].cpu().numpy()
            )

    def _pull(self, layer: str, unit: int, rank: int, row: int, seed: Tensor) -> None:
        """Write the derivative of a planted unit at its peak by the layer's own units into ``seed``."""
        merge, place = self.table.merges[unit], int(self.table.place[unit, rank])
        scales = torch.tensor(merge.scales, dtype=seed.dtype, device=seed.device)
        parts = self.raw[layer].detach()[row, list(merge.members), place] * scales
        owner = int(parts.argmax())
        self.table.owner[unit, rank] = owner
        kept = float(self.table.value[unit, rank]) / float(parts[owner])
        seed[row, merge.members[owner], place] = scales[owner] * kept


def _labels(labels: Integers, image: Integers) -> Integers:
    return np.where(image >= 0, labels[image], -1)


def write_benchmark(benchmark: Benchmark, folder: str | os.PathLike[str]) -> Path:
    """Write ``benchmark`` as a record, its evidence in 16 bits; `read_benchmark` gives it back."""
    evidence = benchmark.evidence
    parts = {each.name: getattr(evidence, each.name) for each in fields(Evidence)}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    for name in ("vectors", "late", "upstream"):
        arrays[name] = np.clip(arrays[name], -60000, 60000).astype(np.float16)
    said: dict[str, Any] = {
        "network": benchmark.network,
        "part": benchmark.part,
        "mixtures": benchmark.mixtures,
        "members": benchmark.members,
        "units": evidence.units,
        "classes": evidence.classes,
    }
    return write_record(folder, KIND, arrays=arrays | {"owner": benchmark.owner}, fields=said)


def read_benchmark(folder: str | os.PathLike[str]) -> Benchmark:
    """Read what `write_benchmark` wrote."""
    arrays, said = read_record(folder, KIND)
    owner = arrays.pop("owner")
    parts: dict[str, Any] = {
        name: part.astype(np.float32) if part.dtype == np.float16 else part for name, part in arrays.items()
    }
    evidence = Evidence(units=tuple(said["units"]), classes=int(said["classes"]), **parts)
    members = tuple(tuple(each) for each in said["members"])
    return Benchmark(said["network"], said["part"], evidence, tuple(said["mixtures"]), members, owner)
