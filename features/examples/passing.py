"""Passing: what one shard of a dataset gives (sweep), shards put together (merge), and what is said of it (finish)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from features.activations import turn
from features.examples import quantiles, sums
from features.examples.nonlinearities import Noting, Source, find_sources, hearing
from features.examples.nouns import LayerExamples
from features.examples.plans import DTYPES, Plan, folding, hashed, sampled_images
from features.examples.rankings import Ranked, merged
from features.examples.tallies import RANKINGS, Tally
from features.examples.telling import told
from features.models import Model
from features.visualization.folding import Folded

# What a shard gives, by name, "layer/name" for a layer's; merged, what the whole dataset gives.
Part: TypeAlias = dict[str, np.ndarray]

# Images that run through the network at a time on a processor. With more, what is to be read has left its cache:
# GoogLeNet takes 15 % longer per image with 32 than with 8, and reading its layers twice as long.
PIECE = 8


class _Batch(Protocol):
    """What a pass reads of a batch: see `features.examples.loading.Batch`."""

    @property
    def images(self) -> Tensor: ...
    @property
    def indices(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


def sweep(model: Model, batches: Iterable[_Batch], plan: Plan) -> Part:
    """Give what the images of ``batches`` show, in one pass; images ascend from batch to batch.

    The same images in the same batches give the same bytes, on the same machine with the same number of threads.
    Memory does not grow with their number: see `features.examples.find_examples`.
    """
    return _Sweep(model, plan).over(batches)


class _Sweep:
    """One sweep: the tallies of all layers, and what they need to know of the images that are in the network."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.sampled = set(sampled_images(plan).tolist())
        self.sources = find_sources(model, plan.layers)
        self.heard = self._heard()
        self.tallies = {name: Tally(model.layer(name), plan, self.sources[name]) for name in plan.layers}
        self.images, self.chosen = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
        self.drawn: dict[int, Tensor] = {}
        self.before: dict[int, Tensor] = {}
        self.labels: dict[int, int] = {}
        self.sample: list[int] = []
        self.classes: dict[int, int] = {}
        self.seen = 0

    def over(self, batches: Iterable[_Batch]) -> Part:
        model, plan = self.model, self.plan
        edits = {name: partial(self._read, name) for name in plan.layers}
        dtype = None if plan.dtype is None else DTYPES[plan.dtype]
        fold = folding(model, plan.layers, dtype=dtype) if plan.folded else Folded({}, frozenset())
        modes: list[AbstractContextManager[object]] = [fold]
        if dtype is not None:
            modes.insert(0, torch.autocast(model.device.type, dtype))
        for batch in batches:
            with torch.inference_mode(), hearing(model, plan.layers, edits), ExitStack() as stack:
                for mode in modes:
                    stack.enter_context(mode)
                self._run(batch)
            self._end(batch)
        return self._part()

    def _run(self, batch: _Batch) -> None:
        size = PIECE if self.model.device.type == "cpu" else max(1, len(batch.images))
        for start in range(0, len(batch.images), size):
            piece = slice(start, start + size)
            self._begin(batch.indices[piece])
            with Noting(self.heard):
                self.model(self._laid(batch.images[piece]))

    def _laid(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.plan.folded else images

    def _begin(self, indices: Tensor) -> None:
        self.images = indices.cpu().numpy()
        self.chosen = np.array([image in self.sampled for image in self.images.tolist()])
        self.drawn, self.before = {}, {}

    def _end(self, batch: _Batch) -> None:
        images, labels = batch.indices.cpu().numpy(), batch.labels.cpu().numpy()
        if not len(images):
            return
        self.seen += len(images)
        self.labels |= dict(zip(images.tolist(), labels.tolist(), strict=True))
        self.sample += [image for image in images.tolist() if image in self.sampled]
        counted = np.where((labels >= 0) & (labels < self.plan.classes), labels, -1)
        for label, count in zip(*np.unique(counted[counted >= 0], return_counts=True), strict=True):
            self.classes[int(label)] = self.classes.get(int(label), 0) + int(count)
        for tally in self.tallies.values():
            tally.settle(images, counted)
        if len(self.labels) > 2 * self.plan.shard:
            self._forget()

    def _forget(self) -> None:
        kept = {image for tally in self.tallies.values() for image in tally.kept_images().tolist()} | set(self.sample)
        self.labels = {image: label for image, label in self.labels.items() if image in kept}

    def _positions(self, count: int) -> Tensor:
        """Give the positions, of ``count``, that are counted in each image (n, s): one in each of s equal stretches."""
        if count not in self.drawn:
            taken = min(count, self.plan.positions)
            offset = (hashed(self.images, self.plan.seed + 1) >> np.uint64(32)).astype(np.float64) / 2.0**32
            places = (np.arange(taken) + offset[:, None]) * (count / taken)
            self.drawn[count] = torch.from_numpy(places.astype(np.int64).clip(0, count - 1)).to(self.model.device)
        return self.drawn[count]

    def _heard(self) -> dict[int, Any]:
        """Give what hears which call of a nonlinearity: where it is a layer's, some of what goes in is kept."""
        layouts = {
            call: self.model.layer(name).layout
            for name, source in self.sources.items()
            for call in source.calls
            if call is not None
        }
        return {call: partial(self._note, call, layout) for call, layout in layouts.items()}

    def _note(self, call: int, layout: str, tensor: Tensor) -> None:
        self.before[call] = self._some(turn(tensor, layout))

    def _some(self, maps: Tensor) -> Tensor:
        """Give the counted positions of ``maps`` (n, c, ...) as (n * s, c)."""
        rows = maps.reshape(*maps.shape, *[1] * (4 - maps.ndim)).permute(0, 2, 3, 1).flatten(1, 2)
        places = self._positions(rows.shape[1])
        return rows[torch.arange(len(rows), device=rows.device)[:, None], places].flatten(0, 1).float()

    def _read(self, name: str, maps: Tensor) -> Tensor:
        if len(maps) != len(self.images):
            raise ValueError(f"layer {name!r} gives {len(maps)} rows for {len(self.images)} images: read another layer")
        tally, source = self.tallies[name], self.sources[name]
        with torch._C.DisableTorchFunction():  # what is read here is no call of the network's
            tally.read(maps, self.images, self.chosen)
            after = None if source.rectified else self._some(maps)
            for when in source.counted:
                tally.count(when, self._joined(source, after) if after is None or when == "before" else after)
        return maps

    def _joined(self, source: Source, after: Tensor | None) -> Tensor:
        """Put together what went into the calls that a layer comes from; what comes from none is as it came out."""
        pieces, first = [], 0
        for call, size in zip(source.calls, source.sizes, strict=True):
            if call is not None:
                pieces.append(self.before[call])
            elif after is not None:
                pieces.append(after[:, first : first + size])
            first += size
        return torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]

    def _part(self) -> Part:
        part: Part = {}
        for name, tally in self.tallies.items():
            part |= {f"{name}/{key}": array for key, array in tally.arrays(sorted(self.classes)).items()}
            gated = [np.full(size, call is not None) for call, size in _pieces(self.sources[name])]
            part[f"{name}/nonlinear"] = np.concatenate(gated)
        part["images"] = np.array([self.seen])
        part["sample_image"] = np.array(self.sample, dtype=np.int64)
        part["class"] = np.array(sorted(self.classes), dtype=np.int64)
        part["class_count"] = np.array([self.classes[label] for label in sorted(self.classes)], dtype=np.int64)
        part["kept_image"] = _kept(part, self.plan.layers)
        part["kept_label"] = np.array([self.labels[image] for image in part["kept_image"].tolist()], dtype=np.int64)
        return part


def merge(parts: Sequence[Mapping[str, np.ndarray]]) -> Part:
    """Give what several parts of a dataset show together; of the same plan, and without a shard in common.

    In whatever order and groups parts are merged, the bytes are the same: rankings are ordered by value and image,
    and everything else is whole numbers.
    """
    if not parts:
        raise ValueError("no part was given: merge at least one")
    layers = tuple(name.removesuffix("/nonlinear") for name in parts[0] if name.endswith("/nonlinear"))
    total: Part = {"images": np.sum([part["images"] for part in parts], axis=0)}
    order = np.argsort(np.concatenate([part["sample_image"] for part in parts]), kind="stable")
    total["sample_image"] = np.concatenate([part["sample_image"] for part in parts])[order]
    total["class"] = np.unique(np.concatenate([part["class"] for part in parts]))
    total["class_count"] = np.zeros(len(total["class"]), dtype=np.int64)
    for part in parts:
        total["class_count"][np.searchsorted(total["class"], part["class"])] += part["class_count"]
    for name in layers:
        found = _merged_layer([_of_layer(part, name) | {"class": part["class"]} for part in parts], total, order)
        total |= {f"{name}/{key}": array for key, array in found.items()}
    total["kept_image"] = _kept(total, layers)
    images, first = np.unique(np.concatenate([part["kept_image"] for part in parts]), return_index=True)
    labels = np.concatenate([part["kept_label"] for part in parts])[first]
    total["kept_label"] = labels[np.searchsorted(images, total["kept_image"])]
    return total


def finish(part: Mapping[str, np.ndarray], model: Model, plan: Plan) -> dict[str, LayerExamples]:
    """Say what a part, of a shard or merged of all, shows of each layer of the plan."""
    return {
        name: told(_of_layer(part, name), {key: part[key] for key in SHARED}, model.layer(name), model.image_size, plan)
        for name in plan.layers
    }


def _merged_layer(parts: list[dict[str, np.ndarray]], total: Part, order: np.ndarray) -> Part:
    found: Part = {}
    count = parts[0]["top_value"].shape[1]
    for name, sign in RANKINGS.items():
        ranked = merged([_ranking(part, name, sign) for part in parts], count)
        found |= {
            f"{name}_value": np.float32(sign) * ranked.key + np.float32(0),
            f"{name}_image": ranked.image,
            f"{name}_place": ranked.place,
        }  # fmt: skip
    found |= _merged_columns(parts, found)
    for name in ("value", "place"):
        found[f"sample_{name}"] = np.concatenate([part[f"sample_{name}"] for part in parts], 1)[:, order]
    for name in ("sum", "squares"):
        found[name] = sums.carried(np.sum([part[name] for part in parts], axis=0))
    for name in ("positive", "seen", "nonfinite"):
        found[name] = np.sum([part[name] for part in parts], axis=0)
    found["minimum"] = np.min([part["minimum"] for part in parts], axis=0)
    found["maximum"] = np.max([part["maximum"] for part in parts], axis=0)
    for name in ("before", "after"):
        if name in parts[0]:
            counts, start = quantiles.added([(part[name], int(part[f"{name}_start"][0])) for part in parts])
            found |= {name: counts, f"{name}_start": np.array([start])}
    classes = np.zeros((2, len(total["class"]), len(found["seen"])), dtype=np.int64)
    for part in parts:
        classes[:, np.searchsorted(total["class"], part["class"])] += part["class_sum"]
    found["class_sum"] = sums.carried(classes)
    found["nonlinear"] = parts[0]["nonlinear"]
    return found


def _merged_columns(parts: list[dict[str, np.ndarray]], found: Part) -> Part:
    """Give the vectors that the merged top examples need, each once, in the order of image and position."""
    keys = np.concatenate([column_keys(part["column_image"], part["column_place"]) for part in parts])
    vectors = np.concatenate([part["columns"] for part in parts])
    wanted = np.unique(column_keys(found["top_image"], found["top_place"])[found["top_image"] >= 0])
    if not vectors.shape[1]:
        wanted = wanted[:0]
    order = np.argsort(keys, kind="stable")
    chosen = order[np.searchsorted(keys[order], wanted)]
    return {
        "columns": vectors[chosen],
        "column_image": wanted >> 32,
        "column_place": (wanted & 0xFFFFFFFF).astype(np.int32),
    }


def column_keys(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Give one number for each pair of image and position, in their order."""
    return (images.astype(np.int64) << 32) | places.astype(np.int64)


def _ranking(part: Mapping[str, np.ndarray], name: str, sign: int) -> Ranked:
    value, image = part[f"{name}_value"], part[f"{name}_image"]
    return Ranked(np.where(image < 0, -np.inf, np.float32(sign) * value), image, part[f"{name}_place"])


def _kept(part: Mapping[str, np.ndarray], layers: Iterable[str]) -> np.ndarray:
    images = [part["sample_image"], *(part[f"{layer}/{name}_image"].ravel() for layer in layers for name in RANKINGS)]
    kept = np.unique(np.concatenate(images))
    return kept[kept >= 0]


def _of_layer(part: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}/"): array for key, array in part.items() if key.startswith(f"{name}/")}


def _pieces(source: Source) -> Iterable[tuple[int | None, int]]:
    return zip(source.calls, source.sizes, strict=True)


SHARED = ("images", "sample_image", "class", "class_count", "kept_image", "kept_label")
