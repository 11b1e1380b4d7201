"""Tallies: what is kept of a layer while images stream by. Memory does not grow with the number of images."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.examples import sums
from features.examples.moments import Reading, read, rows_of
from features.examples.nonlinearities import Source
from features.examples.plans import Plan
from features.examples.quantiles import Counter
from features.examples.rankings import LOW, NOTHING, Ranking
from features.models import Layer

# Above this many numbers a layer's vectors are kept in 16 bits: 64 MB in 32 bits.
LARGE = 2**24
# Vectors that may be held beyond those of the top examples, before the ones not needed are let go.
SPARE = 8192
HALF_MAXIMUM = torch.finfo(torch.float16).max
# Means over positions are clipped at ±2^40 before they are added up by class.
LARGEST_MEAN = 2.0**40


class Vectors:
    """What all channels gave at the peaks of the top examples, once for each pair of image and position.

    Those that dropped out are let go now and then: at most ``1.25 * c * count`` (or 8,192 more than needed) and those
    of one batch are held, of ``c`` numbers each.
    """

    def __init__(self, channels: int, count: int, *, wanted: bool) -> None:
        self.limit = channels * count + max(channels * count // 4, SPARE)
        self.dtype = np.float16 if channels * count * channels > LARGE else np.float32
        width = channels if wanted else 0
        self.wanted = wanted
        self.keys = [np.empty(0, dtype=np.int64)]
        self.columns = [np.empty((0, width), dtype=self.dtype)]
        self.held = 0

    def add(self, rows: Tensor, images: np.ndarray, which: np.ndarray, places: np.ndarray, *, clean: bool) -> None:
        """Take from ``rows`` (n, p, c) the columns at pairs of image, by its number ``which`` in the piece, and place;
        ``clean`` where all of them are finite.
        """
        if not self.wanted or not len(which):
            return
        keys = np.unique((which.astype(np.int64) << 32) | places)
        which, places = keys >> 32, keys & LOW
        columns = rows[torch.from_numpy(which).to(rows.device), torch.from_numpy(places).to(rows.device)]
        if not clean:
            columns = torch.where(torch.isfinite(columns), columns, 0)
        if self.dtype == np.float16:
            columns = columns.clamp_(-HALF_MAXIMUM, HALF_MAXIMUM).half()
        self.keys.append((images[which] << 32) | places)
        self.columns.append(columns.cpu().numpy().astype(self.dtype, copy=False))
        self.held += len(keys)

    def settle(self, images: np.ndarray, places: np.ndarray, *, whole: bool = False) -> None:
        """Let go of what the top examples (c, k) do not need, if there is much of it; ``whole`` in any case."""
        if not whole and self.held <= self.limit:
            return
        keys = np.concatenate(self.keys)
        wanted = np.unique(((images << 32) | places)[images >= 0])
        order = np.argsort(keys, kind="stable")
        kept = order[np.searchsorted(keys[order], wanted)] if self.wanted else order[:0]
        starts = np.cumsum([0, *map(len, self.columns)])
        columns = np.empty((len(kept), self.columns[0].shape[1]), dtype=self.dtype)
        for start, block in zip(starts[:-1], self.columns, strict=True):
            inside = (kept >= start) & (kept < start + len(block))
            columns[inside] = block[kept[inside] - start]
        self.keys, self.columns, self.held = [keys[kept]], [columns], len(kept)


class Tally:
    """Everything that is kept of one layer: rankings, sums, counts, the sample and the vectors."""

    def __init__(self, layer: Layer, plan: Plan, source: Source) -> None:
        channels, count = layer.channels, plan.count
        self.rectified, self.layer = source.rectified, layer
        self.rankings = {name: Ranking(channels, count) for name in RANKINGS}
        self.bounds = self._bounds()
        self.vectors = Vectors(channels, count, wanted=plan.vectors)
        self.sums = {name: np.zeros((sums.LIMBS, channels), dtype=np.int64) for name in ("sum", "squares")}
        self.batch = {name: np.zeros(channels) for name in self.sums}
        self.counts = {name: np.zeros(channels, dtype=np.int64) for name in ("positive", "seen", "nonfinite")}
        self.minimum, self.maximum = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.counters = {name: Counter(channels) for name in source.counted}
        self.classes: dict[int, NDArray[np.int64]] = {}
        self.sample: list[tuple[np.ndarray, np.ndarray]] = []
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.uncounted: dict[str, list[Tensor]] = {name: [] for name in source.counted}

    def read(self, maps: Tensor, images: NDArray[np.int64], sampled: NDArray[np.bool_]) -> None:
        """Take in the activations ``maps`` (n, c, ...) of ``images`` (n,); ``sampled`` (n,) are in the sample."""
        rows = rows_of(maps)
        reading = read(rows, partial(self._wanted, rows.shape[1] * rows.shape[2], sampled), rectified=self.rectified)
        rows = reading.rows.flatten(1, 2)
        pooled = reading.pooled.float().cpu().numpy()
        means = (reading.sums / rows.shape[1]).cpu().numpy()
        keys = self._keys(pooled, means.astype(np.float32))
        places = reading.places.cpu().numpy()
        which = (keys["top"] > self.rankings["top"].least).nonzero()
        self.vectors.add(rows, images, which[0], places[which], clean=not bool(reading.nonfinite.any()))
        if sampled.any():
            self.sample.append((pooled[sampled], places[sampled]))
        self.waiting.append((pooled, means, places))
        self._sum(reading)

    def count(self, name: str, numbers: Tensor) -> None:
        """Count ``numbers`` (m, c): 'before' the nonlinearity or 'after' it."""
        self.uncounted[name].append(numbers)

    def settle(self, images: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """Rank and count what was read since the last time: of ``images`` (n,), with ``labels`` (n,), -1 for none."""
        pooled, means, places = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        self.waiting = []
        for name, total in self.batch.items():
            self.sums[name] += sums.split(total)
            total[:] = 0
        for name, key in self._keys(pooled, means.astype(np.float32)).items():
            self.rankings[name].add(key, images, places)
        self.bounds = self._bounds()
        self.vectors.settle(self.rankings["top"].image, self.rankings["top"].place)
        for name, pieces in self.uncounted.items():
            self.counters[name].add(torch.cat(pieces).cpu().numpy())
            pieces.clear()
        if (labels >= 0).any():
            self._sum_classes(means, labels)

    def kept_images(self) -> NDArray[np.int64]:
        """Give the images that are in a ranking."""
        return np.unique(np.concatenate([ranking.image.ravel() for ranking in self.rankings.values()]))

    def arrays(self, classes: list[int]) -> dict[str, np.ndarray]:
        """Give everything as arrays."""
        top = self.rankings["top"]
        self.vectors.settle(top.image, top.place, whole=True)
        found: dict[str, np.ndarray] = {}
        for name, sign in RANKINGS.items():
            ranking = self.rankings[name]
            found |= {
                f"{name}_value": np.float32(sign) * ranking.key + np.float32(0),
                f"{name}_image": ranking.image,
                f"{name}_place": ranking.place,
            }
        keys = self.vectors.keys[0]
        found |= {
            "columns": self.vectors.columns[0],
            "column_image": keys >> 32,
            "column_place": (keys & LOW).astype(np.int32),
        }
        found |= {name: sums.carried(total) for name, total in self.sums.items()} | self.counts
        found |= {"minimum": self.minimum, "maximum": self.maximum}
        for name, counter in self.counters.items():
            counts, start = counter.arrays()
            found |= {name: counts, f"{name}_start": np.array([start])}
        found |= self._sample_arrays()
        empty = np.zeros((2, 0, self.layer.channels), dtype=np.int64)
        by_class = [self.classes[label][:, None] for label in classes]
        return found | {"class_sum": sums.carried(np.concatenate([empty, *by_class], 1))}

    def _sample_arrays(self) -> dict[str, np.ndarray]:
        empty = (np.empty((0, self.layer.channels), np.float32), np.empty((0, self.layer.channels), np.int32))
        value, place = (np.concatenate(column).T for column in zip(empty, *self.sample, strict=True))
        return {"sample_value": np.ascontiguousarray(value), "sample_place": np.ascontiguousarray(place)}

    def _keys(self, pooled: np.ndarray, means: np.ndarray) -> dict[str, np.ndarray]:
        """Give what each ranking goes by, (n, c), with -inf for what it does not list."""
        lost = pooled == NOTHING
        silent = lost | (pooled <= 0) if self.rectified else lost
        return {
            "top": np.where(silent, NOTHING, pooled),
            "bottom": np.where(lost, NOTHING, -pooled),
            "mean": np.where(silent, NOTHING, means),
            "mean_bottom": np.where(lost, NOTHING, -means),
        }

    def _wanted(
        self, positions: int, sampled: NDArray[np.bool_], images: slice, pooled: Tensor, sums: Tensor
    ) -> Tensor:
        """Say whose places are needed: all of images in the sample, and what may enter a ranking."""
        if sampled[images].any():
            return torch.ones_like(pooled, dtype=torch.bool)
        high, low, high_mean, low_mean = self.bounds.to(pooled)
        means = sums / positions
        found: Tensor = (pooled > high) | (pooled < low) | (means > high_mean) | (means < low_mean)
        return found

    def _bounds(self) -> Tensor:
        """Give what values must exceed, or fall below, to enter each ranking, a little generously."""
        rows = [sign * self.rankings[name].least.astype(np.float64) for name, sign in RANKINGS.items()]
        signs = np.array(list(RANKINGS.values()))[:, None]
        bounds = np.stack(rows)
        return torch.from_numpy(bounds - signs * 1e-6 * np.where(np.isfinite(bounds), np.abs(bounds), 0))

    def _sum(self, reading: Reading) -> None:
        shift, offsets, squares, seen = (
            getattr(reading, name).cpu().numpy() for name in ("shift", "offsets", "squares", "seen")
        )
        # of x = d + s: the sum of d, and n s; the sum of d^2, and 2 s times that of d, and n s^2
        self.batch["sum"] += offsets
        self.batch["squares"] += squares
        if shift.any():
            self.sums["sum"] += seen * sums.split(shift)
            self.sums["squares"] += sums.split(2 * shift * offsets) + seen * sums.split(shift**2)
        for name, total in self.counts.items():
            total += getattr(reading, name).cpu().numpy().astype(np.int64)
        self.minimum = np.minimum(self.minimum, reading.lowest.cpu().numpy())
        self.maximum = np.maximum(self.maximum, reading.pooled.amax(0).double().cpu().numpy())

    def _sum_classes(self, means: np.ndarray, labels: NDArray[np.int64]) -> None:
        limbs = sums.split(means.clip(-LARGEST_MEAN, LARGEST_MEAN), top=0, limbs=2)
        for label in np.unique(labels[labels >= 0]).tolist():
            total = limbs[:, labels == label].sum(1)
            self.classes[label] = self.classes[label] + total if label in self.classes else total


# The lists of images of each unit, and the sign by which larger is better.
RANKINGS = {"top": 1, "bottom": -1, "mean": 1, "mean_bottom": -1}
