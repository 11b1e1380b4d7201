"""Plans: how the pictures of one call are made, chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from features.models import Model, probe
from features.objectives import INPUT, Objective, edits_together, together
from features.parameterizations import Constrained, Parameterization, Seen
from features.transforms import Transform, transform
from features.visualization.climbing import Climbed, NotFinite, Scene, Sight, climb, rendering
from features.visualization.grading import Grades, grade
from features.visualization.optimizers import Optimize
from features.visualization.sizes import Size, least_size

EVERY = 10  # steps between two entries of the history

# Bytes that autograd may keep of one chunk. Blocks of more than 32 MB go back to the system at every step, and each new
# page of them faults: a prototype's steps of VGG16 at 224 px took up to 2.4 times as long with 16 pictures or more,
# while ResNet50's last layers (129 MB per picture) want 4 at least (`tests/benchmarks/visualization.py --only chunks`).
MEMORY = {"cpu": 600 * 2**20, "cuda": 8 * 2**30}


@dataclass(frozen=True)
class Made:
    """One finished picture ``(c, h, w)`` in 8 bits, its grades, the scores on the way and the kept steps."""

    pixels: Tensor
    scores: float
    peaks: float
    robustness: float
    spread: float
    silent: bool
    history: Mapping[int, float]
    frames: Mapping[int, Tensor]


@dataclass(frozen=True)
class Plan:
    """How pictures are made, for all chunks alike; ``count`` pictures for each objective, neighbours in every batch."""

    model: Model
    image: Parameterization
    transforms: tuple[Transform, ...]
    optimizer: Optimize
    steps: int
    count: int
    views: int
    keep: frozenset[int]
    seed: int
    dtype: torch.dtype | None
    size: Size | None
    _costs: dict[str, int] = field(default_factory=dict, compare=False)

    def render(self, objectives: Sequence[Objective], step_done: Callable[[int], None]) -> list[Made]:
        """Make and grade the pictures of ``objectives``."""
        with rendering(self.model):
            return self._rendered(objectives, step_done)

    def _rendered(self, objectives: Sequence[Objective], step_done: Callable[[int], None]) -> list[Made]:
        frames: dict[int, Tensor] = {}

        def kept(step: int, pictures: Tensor) -> None:
            frames[step] = _bytes(pictures).cpu()

        climbed = climb(
            self.model,
            self._scene(objectives),
            optimizer=self.optimizer,
            steps=self.steps,
            remember=self.keep.union(range(0, self.steps, EVERY)),
            keep=self.keep,
            kept=kept,
            step_done=step_done,
            dtype=self.dtype,
        )
        return self._finished(objectives, climbed, frames)

    def rehearse(self, objectives: Sequence[Objective]) -> None:
        """Show the network one group of pictures and read every objective once, so that a wrong one is refused before
        hours of work.
        """
        with rendering(self.model):
            pictures = self.image.picture(self._start([("rehearsal", member) for member in range(self.count)]))
            images = self._clean(pictures.detach()).to(self.model.dtype).requires_grad_()
            layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
            alone = [objective for objective in objectives if objective.unit is None and not objective.edits]
            self._read_once(images if alone else images[:1], layers, alone)
            for objective in objectives:
                if objective.edits:
                    self._read_once(images, objective.layers, [objective])

    def cost(self, objective: Objective) -> int:
        """Give the bytes that autograd keeps of one picture on its way to the objective's layers, measured once for
        each deepest layer.
        """
        layer = deepest(self.model, objective)
        if layer not in self._costs:
            with rendering(self.model):
                start = self._start([("rehearsal", member) for member in range(self.count)])
                images = self._clean(self.image.picture(start).detach())[:1]
                self._costs[layer] = _footprint(self.model, layer, images, self.dtype) * self.views
        return self._costs[layer]

    def _scene(self, objectives: Sequence[Objective]) -> Scene:
        members = [(objective.name, member) for objective in objectives for member in range(self.count)]
        parameters = [each.requires_grad_(True) for each in self._start(members)]
        chances = self._generators(members, "transforms") * self.views
        grounds = self._generators(members, "background") * self.views
        wanted, counts = list(objectives) * self.views, [self.count] * len(objectives) * self.views
        score = together(wanted, counts)
        image = self.image

        def shown(pictures: Tensor) -> Tensor:
            images = pictures if self.views == 1 else pictures.repeat(self.views, 1, 1, 1)
            return transform(self._seen(images, grounds), self.transforms, chances, size=self.size)

        return Scene(
            parameters,
            picture=lambda: image.picture(tuple(parameters)),
            score=lambda seen: score(seen).reshape(self.views, -1).mean(0),
            layers=list(dict.fromkeys(layer for objective in objectives for layer in objective.layers)),
            shown=shown,
            edits=edits_together(wanted, counts),
            constrained=lambda: image.constrained(tuple(parameters)) if isinstance(image, Constrained) else None,
            size=self.size,
            names=[name for name, _ in members],
        )

    def _finished(self, objectives: Sequence[Objective], climbed: Climbed, frames: Mapping[int, Tensor]) -> list[Made]:
        """Round the pictures to bytes and grade what is left of them."""
        pixels = _bytes(climbed.pictures)
        images = self._seen(pixels.to(climbed.pictures.dtype) / 255, None)
        members = [(objective.name, member) for objective in objectives for member in range(self.count)]
        counts = [self.count] * len(objectives)
        layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
        sight = Sight(self.model, layers, edits_together(objectives, counts))
        with sight.opened(self._fitted(images[:1])), torch.no_grad():
            grades = grade(
                lambda images: sight.read(self._fitted(images)),
                together(objectives, counts),
                objectives,
                images,
                self._generators(members, "held out"),
                layer=deepest(self.model, objectives[0]),
            )
        self._check_finite(grades, members, climbed)
        return [
            Made(
                pixels[row].cpu(),
                **{name: float(values[row]) for name, values in vars(grades).items()},
                silent=bool(climbed.asleep[row]),
                history={step: float(each.reshape(-1)[row]) for step, each in climbed.history.items()},
                frames={step: frame[row] for step, frame in frames.items()},
            )
            for row in range(len(pixels))
        ]

    def _check_finite(self, grades: Grades, members: Sequence[tuple[str, int]], climbed: Climbed) -> None:
        finite = torch.isfinite(grades.scores)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            value, name = float(grades.scores[row]), members[row][0]
            sentence = f"the score of {name!r} is {value} on the finished picture, after step {self.steps}"
            raise NotFinite(f"{sentence}: try a smaller rate, or float32 weights", self.steps, row, climbed.pictures)

    def _read_once(self, images: Tensor, layers: Sequence[str], objectives: Sequence[Objective]) -> None:
        counts = [self.count] * len(objectives[:1])
        names = [layer for layer in layers if layer != INPUT]
        with probe(self.model, names, edits=edits_together(objectives[:1], counts)) as activations:
            try:
                if names:
                    self.model(images)
            except (RuntimeError, ValueError, AssertionError) as error:
                size = (int(images.shape[2]), int(images.shape[3]))
                if size == self.model.image_size:
                    raise
                raise ValueError(self._wrong_size(size, names)) from error
            read = {INPUT: images, **{name: activations[name] for name in names}}
            for objective in objectives:
                if not together([objective], [self.count])(read).requires_grad:
                    raise ValueError(f"{objective.name!r} does not depend on the image: no gradient reaches it")

    def _wrong_size(self, size: tuple[int, int], layers: Sequence[str]) -> str:
        given, wanted = (" x ".join(map(str, each)) for each in (size, self.model.image_size))
        least = least_size(self.model, layers, size)
        if least is None or least == self.model.image_size:
            sentence = f"{self.model.name} does not take pictures of {given} pixels: leave the size out to get {wanted}"
            return f"{sentence}, or give visualize size={self.model.image_size} to show it the picture in that"
        smallest = " x ".join(map(str, least))
        return f"{given} pixels are too few for {layers[-1]!r}: the least size of this shape that works is {smallest}"

    def _start(self, members: Sequence[tuple[str, int]]) -> tuple[Tensor, ...]:
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        return self.image.start(self._generators(members, "start"), device=self.model.device, dtype=dtype)

    def _seen(self, pictures: Tensor, grounds: Sequence[Generator] | None) -> Tensor:
        return self.image.seen(pictures, grounds) if isinstance(self.image, Seen) else pictures

    def _clean(self, pictures: Tensor) -> Tensor:
        """Give what the network is shown of pictures that nothing is done to."""
        return self._fitted(self._seen(pictures, None))

    def _fitted(self, images: Tensor) -> Tensor:
        return transform(images, (), [Generator()] * len(images), size=self.size)

    def _generators(self, members: Sequence[tuple[str, int]], purpose: str) -> list[Generator]:
        return [_generator(self.seed, name, member, purpose) for name, member in members]


def chunks(plan: Plan, objectives: Sequence[Objective], batch: int) -> Iterator[list[int]]:
    """Which objectives are computed together: those that need the network up to the same layer, at most ``batch``
    pictures, and as many as `MEMORY` has room for, but at least one objective.
    """
    groups: dict[str, list[int]] = {}
    for index, objective in enumerate(objectives):
        groups.setdefault(deepest(plan.model, objective), []).append(index)
    room = MEMORY.get(plan.model.device.type, MEMORY["cuda"])
    for group in groups.values():
        pictures = min(batch, room // max(1, plan.cost(objectives[group[0]])))
        size = max(1, pictures // plan.count)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def deepest(model: Model, objective: Objective) -> str:
    """Give the last layer in order of execution that ``objective`` reads; `INPUT` where it reads none."""
    return next((layer.name for layer in reversed(model.layers) if layer.name in objective.layers), INPUT)


def _generator(seed: int, name: str, member: int, purpose: str) -> Generator:
    """Give the random numbers of one picture for one purpose, the same whatever else is computed."""
    which = f"{name}\n{member}" if member else name
    digest = hashlib.sha256(f"{seed}\n{which}\n{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


def _footprint(model: Model, layer: str, images: Tensor, dtype: torch.dtype | None) -> int:
    """Give the bytes that a forward pass as far as ``layer`` keeps for the way back, weights not counted."""
    weights = {each.untyped_storage().data_ptr() for each in model.net.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    sight = Sight(model, [layer], {}, dtype)
    with sight.opened(images), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        sight.read(images.requires_grad_())
    return sum(kept.values())
