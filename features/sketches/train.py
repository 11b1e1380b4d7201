"""Make the network of the drawn world again: ``python -m features.sketches.train``. The photographs train here too."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from features.activations import listen
from features.models.inception import Inception, Widths, write_inception
from features.sketches import HELD_OUT_SEED, Sketches

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
LAYERS = ("conv2d0", "conv2d1", "conv2d2", "mixed3a", "mixed3b", "mixed4a", "mixed4b", "mixed4c")
FOLDER = Path(__file__).parent
BOUND = 4_000_000  # bytes of one weight file in the package


class Drawn(Protocol):
    """A dataset that can give all of its pictures at once."""

    def arrays(self, *, progress: bool = True) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Pictures:
    """Pictures in memory: ``images`` (n, 3, h, w) uint8 and ``labels`` (n,) int64."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, dataset: Drawn, *, progress: bool = True) -> Pictures:
        """Hold all pictures of ``dataset``, whose ``arrays`` gives (n, h, w, 3) uint8 and (n,) labels."""
        images, labels = dataset.arrays(progress=progress)
        return cls(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))


@dataclass(frozen=True)
class Plan:
    """How to train: one cycle of SGD with Nesterov momentum, on pictures that are varied anew each time they are seen.

    ``sizes`` are (share of the training, side in pixels): (0.5, 48), (1, 64) trains the first half on 48x48 pixels,
    which costs about half. ``shift`` is in units of the picture's side, ``zoom`` a relative change, ``turn`` in
    degrees, ``shade`` the largest change of contrast, brightness and of each colour channel; ``flip`` mirrors half of
    the pictures left to right. ``first_scale`` shrinks the first layer's random kernels before training and
    ``first_decay`` is their weight decay: behind a batch normalization neither changes what the network can compute,
    and together they wash the random start out of the filters, so that they can be read. ``half``: multiply in
    bfloat16, several times faster on GPUs and on processors that have it.
    """

    epochs: int
    seed: int = 0
    batch: int = 128
    rate: float = 0.2
    decay: float = 5e-4
    first_decay: float = 5e-4
    first_scale: float = 1.0
    smoothing: float = 0.1
    sizes: tuple[tuple[float, int], ...] = ((1.0, 64),)
    shift: float = 0.06
    zoom: float = 0.1
    turn: float = 0.0
    shade: float = 0.1
    flip: bool = False
    half: bool = True


@dataclass(frozen=True)
class Report:
    """What held-out pictures say of a network: the share classified rightly, the dead channels of each layer."""

    accuracy: float
    dead: dict[str, list[int]]
    units: int

    @property
    def dead_share(self) -> float:
        return sum(map(len, self.dead.values())) / self.units


def prepare(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn (n, 3, h, w) pictures in [0, 1] into a network's input: ``(x - mean) / std``, channels last in memory."""
    shape = (1, 3, 1, 1)
    normal = (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
    return normal.contiguous(memory_format=torch.channels_last)


def vary(images: Tensor, size: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Give each picture a shift, zoom, turn, flip and shade of its own, and resample it to ``size`` pixels (bilinear).

    ``images`` is (n, 3, h, w) in [0, 1]; what comes in from outside is the picture mirrored at its border.
    """
    n = len(images)
    angle, x, y, zoom = (torch.rand(4, n, generator=generator) * 2 - 1) * torch.tensor(
        [[math.radians(plan.turn)], [2 * plan.shift], [2 * plan.shift], [plan.zoom]]
    )
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5 * plan.flip, -1.0, 1.0)
    scale = torch.exp(zoom)
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = torch.stack([torch.stack([mirror * cosine, -sine, x], 1), torch.stack([mirror * sine, cosine, y], 1)], 1)
    grid = F.affine_grid(rows.to(images.device), [n, 3, size, size], align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    gain, bright, tint = ((torch.rand(3, n, 3, generator=generator) * 2 - 1) * plan.shade).to(images.device).unbind()
    gain, bright = gain[:, :1] + 0.5 * tint, bright[:, :1]
    return ((moved - 0.5) * (1 + gain[..., None, None]) + 0.5 + bright[..., None, None]).clamp(0, 1)


def fit(
    net: Inception, pictures: Pictures, plan: Plan, *, mean: Sequence[float], std: Sequence[float], workers: int = 1
) -> Iterator[float]:
    """Train ``net`` in place as ``plan`` says; give the mean loss of each epoch when it is over.

    ``workers`` threads share each batch and meet once a step: on a busy machine that is several times faster than
    torch's own threads, which meet at every operation. Random numbers come from ``plan.seed`` alone: the same plan
    with as many workers repeats the run.
    """
    with torch.no_grad():
        net.conv2d0.conv.weight.mul_(plan.first_scale)
    team = [_Worker(net if number == 0 else copy.deepcopy(net), plan, number, mean, std) for number in range(workers)]
    generator = torch.Generator().manual_seed(plan.seed)
    steps = max(1, len(pictures.labels) // plan.batch)
    optimizer = torch.optim.SGD(_groups(net, plan), lr=plan.rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cycle(step / (steps * plan.epochs)))
    with ThreadPoolExecutor(workers) as pool:
        for epoch in range(plan.epochs):
            total, size = 0.0, next(size for share, size in plan.sizes if epoch < share * plan.epochs)
            batches = torch.randperm(len(pictures.labels), generator=generator)[: steps * plan.batch].view(steps, -1)
            for chosen in tqdm(batches, desc=f"epoch {epoch + 1}/{plan.epochs}", leave=False, file=sys.stderr):
                parts = [Pictures(pictures.images[part], pictures.labels[part]) for part in chosen.chunk(workers)]
                total += sum(pool.map(_Worker.differentiate, team, parts, [size] * workers)) / len(parts)
                _gather(team)
                optimizer.step()
                schedule.step()
                _spread(team)
            yield total / len(batches)
    net.eval()


@dataclass(frozen=True)
class _Worker:
    """One thread's copy of the network, with random numbers of its own."""

    net: Inception
    plan: Plan
    number: int
    mean: Sequence[float]
    std: Sequence[float]
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.generator.manual_seed((self.plan.seed << 8) + self.number + 1)

    def differentiate(self, pictures: Pictures, size: int) -> float:
        """Leave the gradient of the mean loss in the parameters; give the loss."""
        self.net.train()
        self.net.zero_grad()
        device = next(self.net.parameters()).device
        images = vary(pictures.images.to(device).float() / 255, size, self.plan, self.generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.plan.half):
            logits = self.net(prepare(images, self.mean, self.std))
        loss = F.cross_entropy(logits.float(), pictures.labels.to(device), label_smoothing=self.plan.smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()


def _gather(team: Sequence[_Worker]) -> None:
    """Put the mean of the workers' gradients into the first worker's parameters."""
    for parameters in zip(*(worker.net.parameters() for worker in team), strict=True):
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        parameters[0].grad = torch.stack(gradients).mean(0)


def _spread(team: Sequence[_Worker]) -> None:
    """Give every worker the first one's parameters."""
    with torch.no_grad():
        for parameters in zip(*(worker.net.parameters() for worker in team), strict=True):
            for parameter in parameters[1:]:
                parameter.copy_(parameters[0])


def cycle(progress: float) -> float:
    """Give the share of the highest learning rate at ``progress`` in [0, 1]: up for a fifth, then down, as cosines.

    >>> [round(cycle(progress), 3) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    if progress < 0.2:
        return 0.52 - 0.48 * math.cos(math.pi * progress / 0.2)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.2) / 0.8)


def _groups(net: Inception, plan: Plan) -> list[dict[str, Any]]:
    """Decay the kernels only: a decayed batch normalization lets units die."""
    first = net.conv2d0.conv.weight
    kernels = [parameter for parameter in net.parameters() if parameter.dim() > 1 and parameter is not first]
    others = [parameter for parameter in net.parameters() if parameter.dim() <= 1]
    return [
        {"params": [first], "weight_decay": plan.first_decay},
        {"params": kernels, "weight_decay": plan.decay},
        {"params": others, "weight_decay": 0.0},
    ]


def measure(
    net: nn.Module, pictures: Pictures, *, mean: Sequence[float], std: Sequence[float], size: int = 64
) -> Report:
    """Measure accuracy and dead units on pictures that were not trained on, in float32, at ``size`` pixels.

    A unit, a channel of one of `LAYERS`, is dead when it fires (is above 0) at fewer than 0.01 % of all positions.
    """
    device = next(net.parameters()).device
    right, fired = 0, {name: torch.zeros((), dtype=torch.float64) for name in LAYERS}
    net.eval()
    with torch.no_grad(), listen(net, LAYERS, stop=False) as heard:
        for start in range(0, len(pictures.labels), 250):
            images = pictures.images[start : start + 250].to(device).float() / 255
            if images.shape[-1] != size:
                images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
            logits = net(prepare(images, mean, std))
            right += int((logits.argmax(1).cpu() == pictures.labels[start : start + 250]).sum())
            for name, values in heard.items():
                fired[name] = fired[name] + (values > 0).double().mean((2, 3)).sum(0).cpu()
    shares = {name: total / len(pictures.labels) for name, total in fired.items()}
    dead = {name: torch.nonzero(share < 1e-4).flatten().tolist() for name, share in shares.items()}
    return Report(right / len(pictures.labels), dead, sum(map(len, shares.values())))


def build(widths: Widths, classes: int, *, seed: int, device: str) -> Inception:
    """Give a network with random weights that follow from ``seed``; the global generators stay as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        net = Inception(widths, classes)
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(
    net: Inception,
    pictures: Pictures,
    held_out: Pictures,
    plan: Plan,
    *,
    labels: Sequence[str],
    out: Path,
    bound: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    workers: int = 1,
) -> dict[str, Any]:
    """Train, measure on ``held_out`` and write the weights to ``out``; give what the file says about them.

    After every epoch the weights so far go to ``out`` with ``.part`` added, which is removed at the end.
    """
    begun, losses, part = time.monotonic(), [], out.with_name(out.name + ".part")
    said: dict[str, Any] = {"image_size": [64, 64], "mean": list(mean), "std": list(std), "labels": list(labels)}
    for loss in fit(net, pictures, plan, mean=mean, std=std, workers=workers):
        losses.append(round(loss, 4))
        write_inception(net, part, {**said, "losses": losses}, bound=bound)
        tqdm.write(f"epoch {len(losses)}/{plan.epochs}: loss {loss:.3f}, {_minutes(begun)} minutes", file=sys.stderr)
    minutes = _minutes(begun)
    report = measure(net, held_out, mean=mean, std=std)
    said |= {"seed": plan.seed, "accuracy": report.accuracy, "dead_share": report.dead_share, "dead": report.dead}
    said |= {"count": len(pictures.labels), "held_out": len(held_out.labels), "epochs": plan.epochs, "losses": losses}
    said |= {"plan": asdict(plan), "workers": workers, "minutes": minutes, "torch": torch.__version__}
    write_inception(net, out, said, bound=bound)
    part.unlink(missing_ok=True)
    return said


def _minutes(begun: float) -> float:
    return round((time.monotonic() - begun) / 60, 1)


def parse_common(parser: argparse.ArgumentParser, out: Path, epochs: int) -> None:
    """Add the options that both training commands have."""
    parser.add_argument("--seed", type=int, default=0, help="where all random numbers come from (0)")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"times that each picture is seen ({epochs})")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, ..."
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="threads on a processor (as many as it has cores, to 4)"
    )
    parser.add_argument("--float32", action="store_true", help="for processors that are slow in bfloat16")
    parser.add_argument("--out", type=Path, default=None, help=f"the file to write ({out.name}, in the package)")


def check_common(given: argparse.Namespace) -> int:
    """Refuse impossible options with ``ValueError``; give the number of workers."""
    for name, least in (("seed", 0), ("epochs", 1)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name} is {getattr(given, name)}: give {least} or more")
    if given.workers is not None and given.workers < 1:
        raise ValueError(f"--workers is {given.workers}: give 1 or more")
    if given.out is not None and given.out.suffix != ".safetensors":
        raise ValueError(f"--out is {given.out}: give a file name that ends in .safetensors")
    try:
        torch.empty(0, device=given.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {given.device!r} cannot be used here: give cpu, or install torch for it") from error
    if not given.device.startswith("cpu"):
        return 1
    return int(given.workers or min(4, os.cpu_count() or 1))


def run(command: Callable[[Sequence[str] | None], dict[str, Any]], argv: Sequence[str] | None = None) -> int:
    """Run a training command: its figures as a line of JSON on stdout and 0, or one sentence on stderr and 2."""
    threads = torch.get_num_threads()
    try:
        print(json.dumps(command(argv)))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    return 0


def train_sketches(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Draw the training and the held-out sketches, train, write; give the figures.

    The weights in the package were made with ``--workers 1``, for ``--seed 0`` and ``--seed 1``.
    """
    parser = argparse.ArgumentParser("python -m features.sketches.train", description=__doc__)
    parse_common(parser, FOLDER / "seed0.safetensors", epochs=9)
    parser.add_argument("--count", type=int, default=20_000, help="training pictures (20000)")
    parser.add_argument("--held-out", type=int, default=4_000, help="pictures to measure with (4000)")
    given = parser.parse_args(argv)
    workers = check_common(given)
    plan = Plan(given.epochs, seed=given.seed, first_scale=0.1, first_decay=5e-3, half=not given.float32)
    if given.count < plan.batch or given.held_out < 1:
        raise ValueError(f"--count is {given.count}, --held-out {given.held_out}: give {plan.batch} and 1 or more")
    if given.seed >= 1000:
        raise ValueError(f"--seed is {given.seed}: give one below 1000, the seeds of training sketches")
    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    pictures = Pictures.of(Sketches(given.count, seed=given.seed))
    held_out = Pictures.of(Sketches(given.held_out, seed=HELD_OUT_SEED))
    net = build(Widths(), len(Sketches.labels), seed=given.seed, device=given.device)
    out = given.out or FOLDER / f"seed{given.seed}.safetensors"
    return train(net, pictures, held_out, plan, labels=Sketches.labels, out=out, bound=BOUND, workers=workers)


if __name__ == "__main__":
    sys.exit(run(train_sketches))
