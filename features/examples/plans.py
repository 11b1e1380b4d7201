"""Plans: what one pass over a dataset is to do; its results are a function of the plan, the model and the images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.examples.images import UNREADABLE, read_item
from features.models import Model, probe
from features.visualization.folding import Folded, folded

# How far the folded network's readings may be from the plain one's, as a share of the layer's largest.
TOLERANCE = 1e-5
CHECKED_IMAGES = 2
SHARD = 4096
POSITIONS = 16
SAMPLED = 1024
# Per-class sums take 16 bytes for each class and unit: 256 MB at most.
LARGEST_CLASSES = 2**24
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """What a pass does; made by `make_plan`. ``Plan(**dataclasses.asdict(plan))`` gives it back, from JSON too.

    ``layers``, ``count``, ``batch`` and ``vectors`` as in `features.examples.find_examples`, ``dtype`` the name of the
    type that the network computes in under autocast (``None``: its own), ``length`` the dataset's, ``shard`` how many
    images one shard holds. ``folded`` says whether the network runs with its batch norms folded, and ``unfolded`` why
    not. ``positions`` is how many positions of an image the histograms count, ``sampled`` how many images the quantile
    examples are drawn from, chosen by ``seed``; ``classes`` for how many classes means are kept (0: for none).
    """

    layers: tuple[str, ...]
    count: int
    batch: int
    shard: int
    length: int
    vectors: bool
    dtype: str | None
    folded: bool
    unfolded: str
    positions: int
    sampled: int
    classes: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def shards(self) -> tuple[range, ...]:
        """The indices of the images of each shard."""
        starts = range(0, self.length, self.shard)
        return tuple(range(start, min(start + self.shard, self.length)) for start in starts)


def make_plan(
    model: Model,
    dataset: Any,
    layers: str | Iterable[str] | None = None,
    *,
    count: int = 32,
    batch: int = 64,
    vectors: bool = True,
    dtype: torch.dtype | str | None = None,
    shard: int = SHARD,
    seed: int = 0,
) -> Plan:
    """Plan a pass of ``model`` over ``dataset``; see `Plan`, and `features.examples.find_examples` for what is asked.

    The network is to be run folded, convolutions and batch norms in one, if its readings of the first images agree with
    the plain network's to 1e-5 of each layer's largest.
    """
    names = _checked_layers(model, layers)
    length = _checked_length(dataset)
    for name, value in (("count", count), ("batch", batch), ("shard", shard)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1")
    unfolded = why_unfolded(model, names, _first_images(model, dataset))
    classes = len(class_names(model, dataset))
    units = sum(model.layer(name).channels for name in names)
    return Plan(
        layers=names, count=count, batch=batch, shard=shard, length=length, vectors=vectors,
        dtype=_checked_dtype(dtype), folded=not unfolded, unfolded=unfolded, positions=POSITIONS,
        sampled=min(SAMPLED, length), classes=classes if classes * units <= LARGEST_CLASSES else 0, seed=seed,
    )  # fmt: skip


def class_names(model: Model, dataset: Any) -> tuple[str, ...]:
    """Give the names of the classes: the dataset's ``classes`` or ``labels``, or the model's."""
    for name in ("classes", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, list | tuple) and found and all(isinstance(each, str) for each in found):
            return tuple(found)
    return model.labels


def why_unfolded(model: Model, layers: tuple[str, ...], images: Tensor) -> str:
    """Say why the network is not to be run folded; '' where it can be."""
    if not len(images):
        return "no image could be read to check it on"
    mode = folding(model, layers)
    if not mode.weights:
        return "there is nothing to fold"
    readings = []
    for each in (mode, Folded({}, frozenset())):
        with torch.no_grad(), probe(model, layers) as activations, each:
            model(images)
            readings.append({name: activations[name].clone() for name in layers})
    for name in layers:
        ours, plain = (reading[name] for reading in readings)
        far = float((ours - plain).abs().max() / plain.abs().max().clamp(min=1e-12))
        if not far <= TOLERANCE:
            return f"at layer {name!r} the folded network is off by more than {TOLERANCE:g} of the largest activation"
    return ""


def folding(model: Model, layers: tuple[str, ...], *, dtype: torch.dtype | None = None) -> Folded:
    """Give the mode in which the model runs folded, found out on one grey image with noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, model.channels, *model.image_size), generator=generator, dtype=torch.float64)
    return folded(model, layers, image.to(model.device, model.dtype), dtype=dtype)


def hashed(indices: NDArray[np.integer], seed: int) -> NDArray[np.uint64]:
    """Give a number from 0 to 2^64 for each image, as good as random (splitmix64, Steele, Lea and Flood 2014).

    >>> hashed(np.array([0, 1]), seed=0).tolist()
    [16294208416658607535, 7960286522194355700]
    """
    with np.errstate(over="ignore"):
        step = np.uint64(0x9E3779B97F4A7C15)
        mixed = (indices.astype(np.uint64) + np.uint64(1) + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)) * step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def sampled_images(plan: Plan) -> NDArray[np.int64]:
    """Give the images that the quantile examples are drawn from, ascending: those with the smallest hashes."""
    if plan.sampled >= plan.length:
        return np.arange(plan.length)
    keys = hashed(np.arange(plan.length), plan.seed)
    return np.sort(np.argpartition(keys, plan.sampled)[: plan.sampled])


def _checked_layers(model: Model, layers: str | Iterable[str] | None) -> tuple[str, ...]:
    names = model.default_layers if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise ValueError("no layer was given: name at least one of model.layers")
    wanted = {model.layer(name).name for name in names}
    return tuple(layer.name for layer in model.layers if layer.name in wanted)


def _checked_length(dataset: Any) -> int:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"{type(dataset).__name__} has no length or no items by index: give a map-style dataset or a list"
        )
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: give at least one image")
    return len(dataset)


def _checked_dtype(dtype: torch.dtype | str | None) -> str | None:
    name = str(dtype).removeprefix("torch.")
    if dtype is None or name == "float32":
        return None
    if name not in DTYPES:
        raise ValueError(f"dtype is {dtype}: give one of {', '.join(f'torch.{known}' for known in DTYPES)}, or None")
    return name


def _first_images(model: Model, dataset: Any) -> Tensor:
    """Give the first images that can be read; items of another form are left for the pass to refuse, by number."""
    found: list[Tensor] = []
    for index in range(min(len(dataset), 4 * CHECKED_IMAGES)):
        try:
            found.append(read_item(dataset, index, model.image_size, model.channels)[0])
        except (*UNREADABLE, TypeError):
            continue
        if len(found) == CHECKED_IMAGES:
            break
    empty = torch.empty((0, model.channels, *model.image_size))
    return (torch.stack(found) if found else empty).to(model.device, model.dtype)
