"""Evidence: what claims are checked against, worked out once for all of them: kernels, examples, images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from circuits.meanings import UnitMeanings, polysemanticity
from circuits.wiring import connect
from features.examples import Examples, find_examples
from features.examples.images import read_item
from features.models import Model
from features.units import Unit

# An intervention is measured on the first images of the dataset: enough for a standard error, a few seconds on a CPU.
IMAGES = 256


class NotTestable(Exception):
    """A claim that this model and this dataset cannot decide; the message says why."""


@dataclass
class Evidence:
    """The model and the dataset of one check, and what has been worked out from them so far."""

    model: Model
    dataset: Any = None
    example_layers: Sequence[str] = ()
    progress: bool = False
    kernels_of: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    found: Examples | None = None
    verdicts: dict[Unit, UnitMeanings] = field(default_factory=dict)
    shown: tuple[Tensor, Tensor] | None = None

    def unit(self, name: str) -> Unit:
        try:
            return self.model.unit(name)
        except ValueError as error:
            raise NotTestable(str(error)) from error

    def units(self, names: str | Sequence[str]) -> list[Unit]:
        return [self.unit(name) for name in ([names] if isinstance(names, str) else names)]

    def kernels(self, source: str, target: str) -> Tensor:
        """Give the wires between two layers, ``(o, i, kh, kw)``, as `connect` does."""
        if (source, target) not in self.kernels_of:
            try:
                self.kernels_of[source, target] = connect(self.model, source, target).detach().double().cpu()
            except (ValueError, NotImplementedError) as error:
                raise NotTestable(str(error)) from error
        return self.kernels_of[source, target]

    def kernel(self, source: Unit, target: Unit) -> Tensor:
        return self.kernels(source.layer, target.layer)[target.channel, source.channel]

    def examples(self) -> Examples:
        """Give the examples of all layers that any claim asks after."""
        if self.dataset is None:
            raise NotTestable("it needs pictures: give a dataset (on the command line --dataset FOLDER)")
        if self.found is None:
            self.found = find_examples(self.model, self.dataset, self.example_layers, progress=self.progress)
        return self.found

    def meanings(self, unit: Unit) -> UnitMeanings:
        """Give the verdict on a unit, by all that can be known of its examples."""
        if unit not in self.verdicts:
            found = polysemanticity(self.model, self.examples(), [unit], dataset=self.dataset, progress=self.progress)
            self.verdicts[unit] = found[unit]
        return self.verdicts[unit]

    def images(self) -> tuple[Tensor, Tensor]:
        """Give the first `IMAGES` images that can be read, ``(n, c, h, w)``, and their labels ``(n,)``, -1 for none."""
        if self.dataset is None:
            raise NotTestable("it needs pictures: give a dataset (on the command line --dataset FOLDER)")
        if self.shown is None:
            self.shown = _first(self.dataset, self.model)
        return self.shown


def _first(dataset: Any, model: Model) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for index in range(len(dataset)):
        try:
            image, label = read_item(dataset, index, model.image_size, model.channels)
        except (OSError, ValueError, TypeError):  # find_examples records the reason; an experiment does without it
            continue
        images.append(image)
        labels.append(label)
        if len(images) == IMAGES:
            break
    if not images:
        raise NotTestable("the dataset has no picture that can be read")
    return torch.stack(images).to(model.device), torch.tensor(labels)
