"""Find what can be read in a network by running it once: its layers, and the few that a person means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from features.activations import TURNS, Call, record
from features.models.flow import Flow
from features.models.layers import Layer

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# How the classes are called that say how they order their axes, for where neither the flow nor the shape tells.
CHANNELS_SECOND = ("1d", "2d", "Flatten")
CHANNELS_LAST = ("LayerNorm", "RMSNorm", "Linear", "Permute")


@dataclass(frozen=True)
class Reading:
    """What one run of a network showed: the readable ``layers`` in order of execution, the ``default_layers``, and how
    many ``outputs`` one image gives (``None`` where that is no row of numbers)."""

    layers: tuple[Layer, ...]
    default_layers: tuple[str, ...]
    outputs: int | None


def read_network(net: nn.Module, image: Tensor) -> Reading:
    """Run ``net`` on ``image``, ``(1, channels, h, w)``, and describe what can be read in it.

    Readable is every module call whose first tensor is floating and is ``(1, c, h, w)``, ``(1, h, w, c)``, tokens or
    ``(1, c)``. The default layers are found by walking down the calls, from the network itself:

    1. a call that holds a single convolution and no linear layer is taken whole, with its normalization and
       nonlinearity (GoogLeNet's ``conv1``, MobileNet's ``features.0``); a bare convolution is taken as it is (VGG's
       ``features.10``);
    2. a call of a block is taken whole: a block is a class one of whose calls adds or concatenates in its own code,
       which is what a residual or a branch is (``inception3a``, ``layer2.1``, ``encoder.layers.encoder_layer_0``);
    3. any other call is opened, and the walk goes on inside it;
    4. of the linear layers met on the way the last is taken, the classifier; in a network without anything else, all.
    """
    flow = Flow(net, image)
    with flow:
        *calls, whole = record(net, image, witness=flow)
    layouts = {call.name: layout for call, layout in _layouts(net, image, calls, flow)}
    layers = tuple(_layer(call, layouts[call.name], flow) for call in calls if call.name in layouts)
    if not layers:
        raise ValueError(
            f"{type(net).__name__} has nothing to read: no module inside it gave (n, c, h, w), (n, t, c) or (n, c)"
        )
    outputs = whole.shape[1] if len(whole.shape) == 2 else None
    return Reading(layers, _Walk(calls, flow.joins, frozenset(layouts)).picked(), outputs)


def _layer(call: Call, layout: str, flow: Flow) -> Layer:
    shape = tuple(call.shape[axis] for axis in TURNS[layout])[1:]
    field = flow.traces[call.name].receptive_field() if len(shape) == 3 else None
    return Layer(call.name, type(call.module).__name__, shape[0], shape, layout, field, call.overwritten)


def _layouts(net: nn.Module, image: Tensor, calls: list[Call], flow: Flow) -> Iterator[tuple[Call, str]]:
    wide: Mapping[str, tuple[int, ...]] | None = None
    for call in calls:
        if call.name not in flow.traces or not call.dtype.is_floating_point or len(call.shape) not in (2, 3, 4):
            continue
        layout = _layout(call, flow, (image.shape[2], image.shape[3]))
        if layout == "?":
            wide = _shapes_of_a_wide_image(net, image) if wide is None else wide
            layout = _layout_by_width(call.shape, wide.get(call.name))
        if layout:
            yield call, layout


def _layout(call: Call, flow: Flow, image_size: tuple[int, int]) -> str:
    """Name the order of axes of a call's output: '' where it is no layer, '?' where one image cannot tell."""
    shape, kind = call.shape, type(call.module).__name__
    if len(shape) == 3:
        channels_second = kind.endswith(CHANNELS_SECOND)
        return ("nct" if channels_second else "ntc") if shape[0] == 1 else ("tnc" if shape[1] == 1 else "")
    if shape[0] != 1:
        return ""
    if len(shape) == 2:
        return "nc"
    axes = flow.traces[call.name].axes
    if axes in ((2, 3), (1, 2)):
        return "nchw" if axes == (2, 3) else "nhwc"
    fits = [_like(shape[2:], image_size), _like(shape[1:3], image_size)]
    if fits[0] != fits[1]:
        return "nchw" if fits[0] else "nhwc"
    return "nchw" if kind.endswith(CHANNELS_SECOND) else "nhwc" if kind.endswith(CHANNELS_LAST) else "?"


def _like(size: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether a map of ``size`` has the image's proportions, up to a position of rounding."""
    return abs(size[0] * image_size[1] - size[1] * image_size[0]) < max(image_size) and (
        image_size[0] != image_size[1] or size[0] == size[1]
    )


def _shapes_of_a_wide_image(net: nn.Module, image: Tensor) -> Mapping[str, tuple[int, ...]]:
    """Run the network on an image twice as wide; a network that takes only its own size tells nothing."""
    try:
        return {call.name: call.shape for call in record(net, torch.cat([image, image], 3))}
    except (RuntimeError, ValueError, AssertionError):
        return {}


def _layout_by_width(shape: tuple[int, ...], wide: tuple[int, ...] | None) -> str:
    """Find the axes that grew with the image's width, which hold no channels; where none did, assume torch's own."""
    grew = [axis for axis in (1, 2, 3) if wide is not None and len(wide) == 4 and wide[axis] != shape[axis]]
    return "nhwc" if grew and 3 not in grew else "nchw"


class _Walk:
    """The walk down the calls that `read_network` describes."""

    def __init__(self, calls: list[Call], joins: set[str], readable: frozenset[str]) -> None:
        self.joins, self.readable = joins, readable
        self.inside: dict[str, list[Call]] = {}
        for call in calls:
            self.inside.setdefault(call.inside, []).append(call)
        self.blocks = {type(call.module) for call in calls if call.name in joins} - {nn.Sequential}
        self.found: list[str] = []
        self.linear: list[str] = []

    def picked(self) -> tuple[str, ...]:
        for call in self.inside.get("", ()):
            self.visit(call)
        return (*self.found, *(self.linear[-1:] if self.found else self.linear))

    def visit(self, call: Call) -> None:
        if call.name in self.readable and self.is_whole(call):
            self.found.append(call.name)
        elif isinstance(call.module, nn.Linear):
            self.linear.append(call.name)
        else:
            for child in self.inside.get(call.name, ()):
                self.visit(child)

    def is_whole(self, call: Call) -> bool:
        leaves = list(self.leaves(call))
        convolutions = sum(isinstance(leaf.module, CONVOLUTIONS) for leaf in leaves)
        linears = sum(isinstance(leaf.module, nn.Linear) for leaf in leaves)
        return (convolutions == 1 and not linears) or (type(call.module) in self.blocks and convolutions + linears > 0)

    def leaves(self, call: Call) -> Iterator[Call]:
        """Give the calls without calls inside, and weighted layers, whose weights may be computed by modules inside."""
        children = self.inside.get(call.name, ())
        if not children or isinstance(call.module, (*CONVOLUTIONS, nn.Linear)):
            yield call
            return
        for child in children:
            yield from self.leaves(child)
