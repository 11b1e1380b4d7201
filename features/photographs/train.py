"""Make the network of the photographs again: ``python -m features.photographs.train``, on CIFAR-10 or a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from features.models.inception import Widths
from features.photographs import Photographs
from features.sketches.train import Pictures, Plan, build, check_common, parse_common, run, train

FOLDER = Path(__file__).parent
BOUND = 6_000_000  # bytes of the weight file in the package
MEAN = (0.491, 0.482, 0.447)  # of the training photographs of CIFAR-10
STD = (0.247, 0.243, 0.262)
WIDTHS = Widths(
    kernel=7,
    conv2d0=32,
    conv2d1=32,
    conv2d2=64,
    mixed3a=(48, 48, 64, 12, 24, 24),
    mixed3b=(56, 56, 80, 12, 32, 24),
    mixed4a=(80, 80, 128, 16, 40, 40),
    mixed4b=(96, 96, 144, 20, 48, 48),
    mixed4c=(96, 96, 160, 20, 48, 48),
)


def train_photographs(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the photographs, train, measure on the held-out ones, write; give the figures."""
    parser = argparse.ArgumentParser("python -m features.photographs.train", description=__doc__)
    parse_common(parser, FOLDER / "seed0.safetensors", epochs=10)
    parser.add_argument("--data", type=Path, help="a folder with one folder of pictures for each class (CIFAR-10)")
    parser.add_argument("--held-out", type=Path, help="such a folder to measure with, needed with --data")
    given = parser.parse_args(argv)
    workers = check_common(given)
    learn, test = _open(given.data, given.held_out)
    plan = Plan(
        given.epochs,
        seed=given.seed,
        sizes=((0.6, 48), (1.0, 64)),  # the first epochs on smaller pictures: half the time for the same accuracy
        shift=0.08,
        zoom=0.1,
        flip=True,
        half=not given.float32,
    )
    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    net = build(WIDTHS, len(learn.labels), seed=given.seed, device=given.device)
    out = given.out or FOLDER / f"seed{given.seed}.safetensors"
    return train(
        net, Pictures.of(learn), Pictures.of(test), plan, labels=learn.labels, out=out, bound=BOUND, mean=MEAN, std=STD,
        workers=workers,
    )  # fmt: skip


def _open(data: Path | None, held_out: Path | None) -> tuple[Photographs, Photographs]:
    if (data is None) != (held_out is None):
        raise ValueError("--data and --held-out go together: give both folders, or neither for CIFAR-10")
    if data is None:
        return Photographs(train=True, download=True, size=32), Photographs(download=True, size=32)
    learn, test = Photographs(data), Photographs(held_out)
    if learn.labels != test.labels:
        raise ValueError(f"{data} has the classes {learn.labels} and {held_out} {test.labels}: give the same in both")
    if len(learn) < Plan.batch:
        raise ValueError(f"{data} has {len(learn)} pictures to train on: give {Plan.batch} or more")
    size = min(64, learn.side)
    return Photographs(data, size=size), Photographs(held_out, size=size)


if __name__ == "__main__":
    sys.exit(run(train_photographs))
