"""load_model: a network from anywhere, made a Model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from features.models.model import Model
from features.models.reading import Reading, read_network
from features.models.sources import Origin, find_network


def load_model(
    source: str | nn.Module = "sketches",
    *,
    weights: Any = None,
    name: str | None = None,
    image_size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Model:
    """Give the `Model` of a network: what it takes to show it pictures, its layers and its labels.

    ``source`` is one of

    - ``"sketches"`` or ``"photographs"``, the embedded networks; ``weights`` is ``"seed0"`` or ``"seed1"``;
    - the name of a torchvision classification model, such as ``"googlenet"``; ``weights`` is a member of its enum or
      the name of one (``"DEFAULT"``, ``"IMAGENET1K_V1"``), or ``None`` for random weights, always those of seed 0. The
      preprocessing and the labels are those of the weights; without weights, or with weights from a file, those of the
      default weights. Unused auxiliary heads are left out;
    - ``"timm:NAME"`` with the extra ``timm``; ``weights`` is ``"DEFAULT"`` or a tag of timm;
    - ``"lucent:inceptionv1"`` with the extra ``lucent``; ``weights`` is ``"DEFAULT"``;
    - any ``nn.Module`` in eval mode, for which ``mean``, ``std`` and ``image_size`` must be said: its preprocessing is
      ``(images - mean) / std`` for images in [0, 1], one number per channel. It is used as it is, not copied.

    ``weights`` may always be the path of a checkpoint file: safetensors, or a torch file that holds only tensors.
    ``options`` go to the builder of torchvision, timm or lucent (``num_classes=10``, ``transform_input=True``). What is
    said here (``image_size`` in pixels, one number or ``(h, w)``) comes before what the source says; labels of the
    source are dropped when the network has another number of outputs. ``device`` and ``dtype`` move the network there.
    The network runs once, on a blank image.

    Errors: ``ValueError`` for a name, weights or sizes that do not exist or do not fit, for a network in training mode,
    and for an ``nn.Module`` without its input range; ``FileNotFoundError``; ``ImportError`` that names the extra;
    ``OSError`` when pretrained weights cannot be fetched.

    >>> model = load_model("sketches")
    >>> model.image_size, model.channels, len(model.labels) == model.layer("logits").channels
    ((64, 64), 3, True)
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)).eval()
    >>> load_model(net, image_size=12, mean=(0.13,), std=(0.31,)).default_layers
    ('0', '3')
    """
    origin = find_network(source, weights, options)
    origin = replace(
        origin,
        name=name or origin.name,
        image_size=origin.image_size if image_size is None else _checked_size(image_size),
        mean=origin.mean if mean is None else tuple(float(each) for each in mean),
        std=origin.std if std is None else tuple(float(each) for each in std),
    )
    net = origin.net.eval() if isinstance(source, str) else origin.net
    size, scale = _checked_input(origin)
    if device is not None or dtype is not None:
        net.to(device=device, dtype=dtype)
    reading = _read(net, origin.name, size, len(scale[0]))
    return Model(
        net=net,
        name=origin.name,
        image_size=size,
        mean=scale[0],
        std=scale[1],
        labels=_checked_labels(origin, labels, reading.outputs),
        layers=reading.layers,
        default_layers=origin.default_layers or reading.default_layers,
    )


def _checked_size(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(each, int) and each > 0 for each in pair):
        raise ValueError(f"image_size is {size!r}: give pixels, one number or (height, width)")
    return pair[0], pair[1]


def _checked_input(origin: Origin) -> tuple[tuple[int, int], tuple[tuple[float, ...], tuple[float, ...]]]:
    mean, std, size = origin.mean, origin.std, origin.image_size
    if mean is None or std is None or size is None:
        unsaid = [key for key, value in (("mean", mean), ("std", std), ("image_size", size)) if value is None]
        raise ValueError(
            f"the input of {origin.name} is not known without {', '.join(unsaid)}: for a network on ImageNet's scale "
            "write load_model(net, image_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), and for one "
            "that takes images in [0, 1] as they are mean=(0, 0, 0), std=(1, 1, 1); one number per channel"
        )
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(f"mean is {mean} and std is {std}: give one finite number per channel in each, std above 0")
    return size, (mean, std)


def _checked_labels(origin: Origin, labels: Sequence[str] | None, outputs: int | None) -> tuple[str, ...]:
    if labels is None:
        return origin.labels if len(origin.labels) == outputs else ()
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"labels is {labels!r}: give a list of texts, one per output")
    if labels and outputs is not None and len(labels) != outputs:
        raise ValueError(f"{len(labels)} labels were given: {origin.name} has {outputs} outputs")
    return tuple(labels)


def _read(net: nn.Module, name: str, size: tuple[int, int], channels: int) -> Reading:
    anchor = next((each for each in chain(net.parameters(), net.buffers()) if each.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, channels, *size, dtype=anchor.dtype, device=anchor.device)
    try:
        return read_network(net, image)
    except (RuntimeError, AssertionError, IndexError, NotImplementedError) as fault:
        given = f"{channels} channel{'s' if channels > 1 else ''} of {size[0]} x {size[1]} pixels"
        raise ValueError(
            f"{name} does not run on an image with {given} ({fault}): say image_size=, and mean= and std= with one "
            "number per channel"
        ) from fault
