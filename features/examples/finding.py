"""find_examples: one pass over a dataset that finds what excites each unit; crops: the pictures of what it found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from tqdm import tqdm

from features.examples.engines import run
from features.examples.images import read_item
from features.examples.loading import Batch, batches
from features.examples.nouns import Examples
from features.examples.passing import Part, finish, merge, sweep
from features.examples.plans import Plan, make_plan
from features.examples.sheets import dataset_pictures
from features.examples.telling import described
from features.models import Model
from features.pictures import Picture, crop
from features.units import Unit


@overload
def find_examples(
    model: Model,
    dataset: Any,
    layers: str | Iterable[str] | None = None,
    *,
    count: int = 32,
    batch: int = 64,
    vectors: bool = True,
    dtype: torch.dtype | str | None = None,
    store: str | os.PathLike[str] | None = None,
    engine: str = "local",
    workers: int | None = None,
    shard: None = None,
    threads: int | None = None,
    thumbnails: int = 12,
    progress: bool = True,
) -> Examples: ...
@overload
def find_examples(
    model: Model,
    dataset: Any,
    layers: str | Iterable[str] | None = None,
    *,
    count: int = 32,
    batch: int = 64,
    vectors: bool = True,
    dtype: torch.dtype | str | None = None,
    store: str | os.PathLike[str],
    engine: str = "local",
    workers: int | None = None,
    shard: str,
    threads: int | None = None,
    thumbnails: int = 12,
    progress: bool = True,
) -> Examples | None: ...
def find_examples(
    model: Model,
    dataset: Any,
    layers: str | Iterable[str] | None = None,
    *,
    count: int = 32,
    batch: int = 64,
    vectors: bool = True,
    dtype: torch.dtype | str | None = None,
    store: str | os.PathLike[str] | None = None,
    engine: str = "local",
    workers: int | None = None,
    shard: str | None = None,
    threads: int | None = None,
    thumbnails: int = 12,
    progress: bool = True,
) -> Examples | None:
    """Find the ``count`` images of ``dataset`` that excite each unit most and least, and each unit's statistics, in one
    pass.

    ``dataset`` has a length and gives, by index, an image, ``(image, label)`` or ``{"image": ..., "label": ...}``; an
    image is a tensor ``(channels, h, w)`` of the model's size in [0, 1], or an image of Pillow, which is fitted (short
    side, then centre). ``layers`` are by default ``model.default_layers``. What is kept is described in
    `LayerExamples`; ``vectors=False`` leaves out the activation vectors, which take ``c * count * c`` numbers a layer.
    Names of classes are the dataset's ``classes`` or ``labels``, or the model's.

    Items that cannot be read (the dataset raises ``OSError``, ``ValueError``, ...) are skipped and listed with the
    reason; the rest gives what it would give without them. Results do not depend on ``batch`` but for float noise, and
    depend on nothing random; batch norms are folded where the readings agree to 1e-5 (see `make_plan`). With ``dtype``
    (``torch.bfloat16``) the network computes in 16 bits, and everything is added up in 32 or more: statistics then
    differ in the third digit, images whose values are about as large change places, and many have equal values, which
    go by image; of the examples in the first places most stay, of those in the last ones fewer.

    With a ``store``, a folder, everything is kept there as it is found, and a pass that was interrupted goes on where
    it was: ``engine``, ``workers``, ``shard``, ``threads`` and ``thumbnails`` are described in
    `features.examples.engines.run`; the results are the same. ``None`` only for a ``shard`` that is not the last.

    Memory does not grow with the dataset: ``c * count * c`` numbers for the vectors (a quarter more while at work),
    ``1,600 * count`` bytes a unit for the lists when they are told, 12 KB a unit for the sample of 1,024 images, 16
    bytes for each class, and some 6 KB for each sketch; with activations of 8 images (of a batch on a GPU).

    Errors: ``TypeError`` and ``ValueError`` naming the item, for images of another size, range or type, and for a
    dataset that is empty or has no length; with a store as `run` says.

    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> examples = find_examples(load_model("sketches"), Sketches(6), ["mixed3a"], count=2, progress=False)
    >>> examples.layer("mixed3a").box.shape == (64, 2, 4)
    True
    """
    plan = make_plan(model, dataset, layers, count=count, batch=batch, vectors=vectors, dtype=dtype)
    if store is not None:
        return run(
            model, dataset, plan, store, engine=engine, workers=workers, shard=shard, threads=threads,
            thumbnails=thumbnails, progress=progress,
        )  # fmt: skip
    if (engine, workers, shard, threads) != ("local", None, None, None):
        raise ValueError("engine, workers, shard and threads were given without a store: name a folder with store=")
    part, skipped = _passed(model, dataset, plan, progress=progress)
    found = described(model, dataset, plan, skipped, finish(part, model, plan))
    return replace(found, pictures=dataset_pictures(dataset, model.image_size, model.channels))


def crops(examples: Examples, dataset: Any, unit: Unit | str, *, count: int = 9, margin: float = 0.0) -> list[Picture]:
    """Give the ``count`` best examples of ``unit`` as pictures ``(h, w, 3)``, each cropped to the receptive field of
    its peak.

    The field is clipped to the image, so that pictures from the border are smaller, and late units show whole images.
    ``margin`` widens the box on every side by that share of its height and width. Units with fewer examples give fewer
    pictures, dead ones none. ``ValueError`` for a dataset of another length than the one the examples were found in.
    """
    found = examples[unit]
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    if examples.channels not in (1, 3):
        raise ValueError(f"images of {examples.channels} channels cannot be shown: pictures have 1 or 3")
    pictures = []
    for index, box in zip(found.image[:count].tolist(), found.box[:count].tolist(), strict=True):
        image, _ = read_item(dataset, index, examples.image_size, examples.channels)
        picture = image.clamp(0, 1).permute(1, 2, 0).cpu().double().numpy().astype(np.float32)
        pictures.append(crop(picture, _widened(box, margin)))
    return pictures


def _passed(model: Model, dataset: Any, plan: Plan, *, progress: bool) -> tuple[Part, list[tuple[int, str]]]:
    """Sweep the shards of a plan one after the other; give what they show together, and what was skipped."""
    skipped: list[tuple[int, str]] = []
    total: Part | None = None
    with tqdm(total=plan.length, unit="image", desc="examples", disable=not progress) as bar:

        def counted(stream: Iterable[Batch]) -> Iterator[Batch]:
            for batch in stream:
                skipped.extend(batch.skipped)
                yield batch
                bar.update(len(batch.span))

        for span in plan.shards:
            with closing(batches(dataset, model, span, plan.batch)) as stream:
                part = sweep(model, counted(stream), plan)
            total = part if total is None else merge([total, part])
    assert total is not None  # a plan has at least one shard
    return total, skipped


def _widened(box: list[int], margin: float) -> tuple[float, float, float, float]:
    if not margin >= 0:
        raise ValueError(f"margin is {margin}: give the share of the box to add on each side, 0 or more")
    y0, x0, y1, x1 = box
    more_y, more_x = margin * (y1 - y0), margin * (x1 - x0)
    return y0 - more_y, x0 - more_x, y1 + more_y, x1 + more_x
