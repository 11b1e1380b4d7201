"""Model: a network together with what it takes to show it pictures and to name its units; probe: read and edit its
layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from features.activations import Activations, Edit, first_tensor, listen, nearest
from features.models.layers import Layer
from features.units import Unit


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network in eval mode, its preprocessing, its layers and its labels; made by `load_model`.

    ``model(images)`` takes RGB (or 1, or N channels) in [0, 1], ``(n, channels, h, w)``, and gives the logits of
    ``net((images - mean) / std)``. ``layers`` are in order of execution; ``image_size`` is ``(h, w)`` in pixels.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> model(torch.rand(2, 3, 64, 64)).shape == (2, len(model.labels))
    True
    >>> model.default_layers[:4]
    ('conv2d0', 'conv2d1', 'conv2d2', 'mixed3a')
    """

    net: nn.Module
    name: str
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    default_layers: tuple[str, ...]
    _cache: dict[Any, Any] = field(init=False, default_factory=dict)

    def __call__(self, images: Tensor) -> Tensor:
        """Give the logits of ``images``, ``(n, channels, h, w)`` floats in [0, 1]; inside a `probe` that stopped early,
        ``None``.

        The images are moved to the network's device and number type. Of several outputs the first is given.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            wanted = f"(n, {self.channels}, h, w)"
            raise ValueError(f"images of shape {tuple(images.shape)} were given: {self.name} takes {wanted}")
        if not images.is_floating_point():
            raise TypeError(
                f"images of type {images.dtype} were given: {self.name} takes floats in [0, 1]; divide bytes by 255"
            )
        if self.net.training:
            raise RuntimeError(
                f"{self.name} is in training mode, where readings change by themselves: call model.net.eval()"
            )
        mean, std = self._scale()
        return first_tensor(self.net((images.to(mean) - mean) / std))  # type: ignore[return-value]

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.image_size))
        layers = f"{len(self.layers)} layers, {len(self.labels)} labels"
        return f"Model({self.name!r}: {type(self.net).__name__}, {self.channels} x {size}, {layers}, {self.device})"

    def layer(self, name: str) -> Layer:
        """Give the layer called ``name``; ``ValueError`` with the nearest names where there is none."""
        found = self._by_name.get(name)
        if found is None:
            raise ValueError(nearest(name, self._by_name, listing="[layer.name for layer in model.layers]"))
        return found

    def unit(self, unit: Unit | str) -> Unit:
        """Give ``unit`` if this network has it; ``ValueError`` for a layer or a channel that does not exist.

        >>> from features.models import load_model
        >>> load_model("sketches").unit("conv2d0:3")
        Unit(layer='conv2d0', channel=3)
        """
        unit = Unit.of(unit)
        count = self.layer(unit.layer).channels
        if unit.channel >= count:
            channels = f"{count} channels (0 to {count - 1})"
            raise ValueError(f"no channel {unit.channel} in layer {unit.layer!r}: it has {channels}")
        return unit

    @property
    def channels(self) -> int:
        """How many channels an image has."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the network's parameters."""
        return self._anchor.dtype

    @property
    def digest(self) -> str:
        """The sha256 of all parameters and buffers: names, shapes, number types and bytes.

        It is computed when first asked for, and again when a tensor has changed since.
        """
        state = sorted((name, each) for name, each in self.net.state_dict().items() if isinstance(each, Tensor))
        marks = tuple((name, each.data_ptr(), None if each.is_inference() else each._version) for name, each in state)
        if self._cache.get("marks") != marks:
            self._cache["digest"] = _sha256(state)
            self._cache["marks"] = marks
        return str(self._cache["digest"])

    @property
    def _anchor(self) -> Tensor:
        """A tensor that is where, and what, the images must be."""
        tensors = chain(self.net.parameters(), self.net.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))

    @cached_property
    def _by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Give mean and std ``(channels, 1, 1)`` as the network's tensors are; made once, since a copy to a device
        waits for it."""
        anchor = self._anchor
        key = (anchor.device, anchor.dtype)
        if key not in self._cache:
            with torch.inference_mode(False):
                mean, std = (
                    torch.tensor(each, dtype=anchor.dtype, device=anchor.device) for each in (self.mean, self.std)
                )
            self._cache[key] = (mean[:, None, None], std[:, None, None])
        return self._cache[key]  # type: ignore[no-any-return]


def _sha256(state: list[tuple[str, Tensor]]) -> str:
    total = hashlib.sha256()
    for name, tensor in state:
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@contextmanager
def probe(
    model: Model, layers: str | Iterable[str], *, edits: Mapping[str, Edit] | None = None, stop: bool = True
) -> Iterator[Activations]:
    """Read and edit layers of ``model`` for as long as the ``with`` lasts, channels first whatever the network's own
    layout.

    Inside, call ``model(images)``; then ``activations[name]`` is ``(n, c, h, w)``, ``(n, c, t)`` or ``(n, c)``, and
    gradients flow through it. ``edits`` maps layers to functions that get such a tensor and give one of the same shape.
    With ``stop`` the call ends after the last layer read and gives ``None``. See `features.activations.listen` for the
    rest.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> with probe(model, ["mixed3a"], edits={"conv2d0": torch.zeros_like}) as activations:
    ...     model(torch.rand(2, 3, 64, 64))
    ...     activations["mixed3a"].ndim
    4
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    used = {name: model.layer(name) for name in [*names, *(edits or {})]}
    with listen(
        model.net,
        names,
        edits=edits,
        stop=stop,
        overwritten={name for name, layer in used.items() if layer.overwritten},
        layouts={name: layer.layout for name, layer in used.items()},
    ) as activations:
        yield activations
