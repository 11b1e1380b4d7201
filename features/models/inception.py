"""Inception: the small network of the embedded defaults, with the layer names of the Circuits thread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from features.records import write_atomically

Mixed = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Widths:
    """How many channels each layer of an `Inception` has.

    A mixed layer is six numbers: ``(branch1x1, bottleneck3x3, branch3x3, bottleneck5x5, branch5x5, pool_reduce)``;
    its output, the concatenation, has ``branch1x1 + branch3x3 + branch5x5 + pool_reduce`` channels. ``kernel`` is the
    side of the first layer's filters in pixels. The defaults are those of the network of `features.sketches`.

    >>> Widths().channels("mixed3a")
    64
    >>> Widths(**Widths(conv2d0=8).record()) == Widths(conv2d0=8)
    True
    """

    kernel: int = 7
    conv2d0: int = 24
    conv2d1: int = 24
    conv2d2: int = 48
    mixed3a: Mixed = (16, 20, 24, 8, 12, 12)
    mixed3b: Mixed = (20, 24, 32, 8, 16, 12)
    mixed4a: Mixed = (24, 32, 40, 12, 20, 12)
    mixed4b: Mixed = (24, 32, 40, 12, 20, 12)
    mixed4c: Mixed = (24, 32, 40, 12, 20, 12)

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            mixed = field.name.startswith("mixed")
            numbers = tuple(given) if isinstance(given, (list, tuple)) else (given,)
            if len(numbers) != (6 if mixed else 1) or not all(type(number) is int and number > 0 for number in numbers):
                wanted = "six whole numbers above 0" if mixed else "a whole number above 0"
                raise ValueError(f"the width of {field.name} is {given!r}: give {wanted}")
            object.__setattr__(self, field.name, numbers if mixed else numbers[0])
        if self.kernel % 2 == 0:
            raise ValueError(f"the first layer's kernel is {self.kernel}: give an odd side, so that it has a centre")

    def channels(self, layer: str) -> int:
        """Give the number of output channels of ``layer``, one of conv2d0 ... mixed4c."""
        if layer == "kernel" or layer not in asdict(self):
            raise ValueError(f"no layer {layer!r} in Widths: it has {', '.join(list(asdict(self))[1:])}")
        width = getattr(self, layer)
        return width if isinstance(width, int) else width[0] + width[2] + width[4] + width[5]

    def record(self) -> dict[str, Any]:
        """Give the widths as a JSON object; ``Widths(**record)`` reads it back."""
        return asdict(self)


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalization, ReLU: ``relu(norm(conv(x)))``; stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class MixedBlock(nn.Module):
    """Four branches of one input, concatenated: 1x1, 1x1 then 3x3, 1x1 then 5x5, max pool then 1x1.

    The block of InceptionV1 (Szegedy et al. 2014, "Going deeper with convolutions", figure 2b) with batch
    normalization.
    """

    def __init__(self, inputs: int, widths: Mixed) -> None:
        super().__init__()
        one, bottleneck3, three, bottleneck5, five, pooled = widths
        self.branch1x1 = ConvBlock(inputs, one, 1)
        self.bottleneck3x3 = ConvBlock(inputs, bottleneck3, 1)
        self.branch3x3 = ConvBlock(bottleneck3, three, 3)
        self.bottleneck5x5 = ConvBlock(inputs, bottleneck5, 1)
        self.branch5x5 = ConvBlock(bottleneck5, five, 5)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pool_reduce = ConvBlock(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3(self.bottleneck3x3(x))
        five = self.branch5x5(self.bottleneck5x5(x))
        return torch.cat([self.branch1x1(x), three, five, self.pool_reduce(self.pool(x))], dim=1)


class Inception(nn.Module):
    """A small Inception network for pictures of about 64x64 pixels: ``(n, 3, h, w)`` RGB to ``(n, classes)``.

    conv2d0 (stride 2), conv2d1 (1x1), conv2d2 (3x3), max pool, mixed3a, mixed3b, max pool, mixed4a, mixed4b, mixed4c,
    global average, logits. Every named layer gives its map after the ReLU. Fully convolutional: any size from 8x8
    pixels works. The parameters start from torch's global generator: build it inside `torch.random.fork_rng` to leave
    that as it was.

    >>> import torch
    >>> with torch.random.fork_rng():
    ...     net = Inception(Widths(), classes=5).eval()
    >>> net(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 5])
    """

    def __init__(self, widths: Widths, classes: int) -> None:
        super().__init__()
        wide = widths.channels
        self.widths = widths
        self.conv2d0 = ConvBlock(3, widths.conv2d0, widths.kernel, stride=2)
        self.conv2d1 = ConvBlock(widths.conv2d0, widths.conv2d1, 1)
        self.conv2d2 = ConvBlock(widths.conv2d1, widths.conv2d2, 3)
        self.pool3 = nn.MaxPool2d(3, stride=2, padding=1)
        self.mixed3a = MixedBlock(widths.conv2d2, widths.mixed3a)
        self.mixed3b = MixedBlock(wide("mixed3a"), widths.mixed3b)
        self.pool4 = nn.MaxPool2d(3, stride=2, padding=1)
        self.mixed4a = MixedBlock(wide("mixed3b"), widths.mixed4a)
        self.mixed4b = MixedBlock(wide("mixed4a"), widths.mixed4b)
        self.mixed4c = MixedBlock(wide("mixed4b"), widths.mixed4c)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.logits = nn.Linear(wide("mixed4c"), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d2(self.conv2d1(self.conv2d0(x)))
        x = self.mixed3b(self.mixed3a(self.pool3(x)))
        x = self.mixed4c(self.mixed4b(self.mixed4a(self.pool4(x))))
        return self.logits(self.average(x).flatten(1))  # type: ignore[no-any-return]


def read_inception(path: Path | str) -> tuple[Inception, dict[str, Any]]:
    """Read a network written by a training script: the network in eval mode, and what its file says about it.

    The description has the keys architecture, widths, image_size, mean, std, labels, seed, accuracy, dead_share and
    the circumstances of the training. Raises ``FileNotFoundError`` for no file, ``ValueError`` for a file that is not
    such a network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: make them with `python -m features.sketches.train`")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("model")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as damage:
        raise ValueError(f"{path} is no readable safetensors file ({damage}): write it again") from damage
    described = json.loads(text) if text else {}
    if described.get("architecture") != "inception":
        raise ValueError(
            f"{path} does not say that it holds an 'inception' network: load it with load_model(net, weights=path)"
        )
    if missing := [key for key in ("widths", "labels") if key not in described]:
        raise ValueError(f"the description in {path} lacks {', '.join(missing)}: write the file with write_inception")
    with torch.device("meta"):  # no random numbers are drawn for parameters that the file replaces
        net = Inception(Widths(**described["widths"]), classes=len(described["labels"]))
    try:
        net.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the tensors in {path} do not fit the network that it describes: {error}") from error
    return net.eval(), described


def write_inception(
    net: Inception, path: Path | str, described: Mapping[str, Any], *, bound: int | None = None
) -> Path:
    """Write ``net`` and what is to be said about it as one safetensors file that `read_inception` reads; give the path.

    ``described`` must name ``labels``; architecture and widths are added. Raises ``ValueError`` for another number of
    labels than the network has classes, and for a file of more than ``bound`` bytes (nothing is written then).
    """
    if len(described.get("labels", ())) != net.logits.out_features:
        named = len(described.get("labels", ()))
        raise ValueError(f"{named} labels for a network of {net.logits.out_features} classes: give one for each class")
    text = json.dumps({"architecture": "inception", "widths": net.widths.record(), **described}, allow_nan=False)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    blob = save(state, metadata={"model": text})
    if bound is not None and len(blob) > bound:
        raise ValueError(f"the weights take {len(blob)} bytes and may take {bound}: choose smaller Widths")
    return write_atomically(path, blob)
