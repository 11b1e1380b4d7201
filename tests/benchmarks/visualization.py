"""What pictures cost: visualize beside lucent 0.1.8's render_vis and beside the floor, the network alone.

    python tests/benchmarks/visualization.py [--quick] [--only speed|canvas|chunks|quality|sketches] [--trained FILE]

speed      milliseconds per step and picture, four units in a batch and one, on seven targets of torchvision networks of
           random weights (speed does not depend on them): lucent at its defaults (128 px, enlarged to 224 px), the
           floor (the network frozen, folded, channels last, stopped at the target: forward and backward on a fixed
           tensor), visualize as lucent has it (128 px, shown at 224 px), on pictures of 224 px, and the first with
           bfloat16 autocast
canvas     the same step on the picture that a unit's receptive field needs (`canvas`) beside 224 px
chunks     the same step with more and more pictures in a batch, and the memory that they take: what MEMORY rests on
quality    seconds of wall time until a unit's clean activation is what lucent reaches in its 512 steps, unit by unit
sketches   wall time of the pictures of all units of the embedded network, grades included, and where it goes

Rounds of all contenders are interleaved, and medians are taken over all steps of all rounds, so that a busy machine is
busy for all of them. Each section takes at most some four minutes of two quiet cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features.models import Model, load_model, probe
from features.objectives import channel, together
from features.parameterizations import fourier
from features.transforms import STANDARD
from features.visualization import canvas, momentum, plans, visualize
from features.visualization.climbing import Sight, rendering
from features.visualization.plans import Plan

TARGETS = [
    ("googlenet", "inception3a"),
    ("googlenet", "inception4b"),
    ("googlenet", "inception5b"),
    ("vgg16", "features.10"),
    ("vgg16", "features.28"),
    ("resnet50", "layer2"),
    ("resnet50", "layer4"),
]
LUCENT_STEPS = 512
WARM = 3  # steps that a run needs to warm up, and units that start dead to wake
Clock = list[float]


def stamped(clock: Clock) -> Callable[..., Tensor]:
    """Give a transform that changes nothing and notes when it is called, once per step."""

    def stamp(images: Tensor, generators: object = None) -> Tensor:
        if images.is_cuda:
            torch.cuda.synchronize()
        clock.append(time.perf_counter())
        return images

    return stamp


def lucent_steps(net: nn.Module, unit: str, steps: int, clock: Clock, **options: Any) -> np.ndarray:
    """Render ``unit`` with lucent at its defaults; its picture ``(h, w, 3)``."""
    from lucent.optvis import objectives, param, render, transform

    layer, _, index = unit.rpartition(":")
    steps_seen = options.pop("transforms", list(transform.standard_transforms))
    size = options.pop("size", 128)
    with silent():
        images = render.render_vis(
            net, objectives.channel(layer.replace(".", "_"), int(index)), param_f=lambda: param.image(size),
            transforms=[*steps_seen, stamped(clock)], thresholds=(steps,), progress=False, show_image=False, **options,
        )  # fmt: skip
    drop_hooks(net)
    return images[-1][0]


def drop_hooks(net: nn.Module) -> None:
    """Remove the hooks that lucent leaves on every module, which slow down whatever comes after it."""
    for module in net.modules():
        module._forward_hooks.clear()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def floor_steps(model: Model, units: Sequence[str], steps: int, clock: Clock) -> None:
    """Pass forwards and backwards over a fixed tensor, and nothing else."""
    layer = units[0].rpartition(":")[0]
    shape = (len(units), model.channels, *model.image_size)
    images = torch.rand(shape, device=model.device).contiguous(memory_format=torch.channels_last).requires_grad_()
    score, stamp, sight = together([channel(unit) for unit in units]), stamped(clock), Sight(model, [layer], {})
    with rendering(model), sight.opened(images[:1].detach()):
        for _ in range(steps):
            torch.autograd.grad(score(sight.read(stamp(images))).sum(), images)


def our_steps(model: Model, units: Sequence[str], steps: int, clock: Clock, **options: Any) -> None:
    visualize(
        model, units, steps=steps, transforms=(*STANDARD, stamped(clock)), batch=len(units), progress=False, **options
    )


def medians(contenders: dict[str, tuple[int, Callable[[Clock], object]]], rounds: int) -> dict[str, float]:
    """Give each contender's median step in milliseconds per picture."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (count, run) in contenders.items():
            clock: Clock = []
            run(clock)
            steps = [1000 * (after - before) / count for before, after in itertools.pairwise(clock)]
            taken[name] += steps[WARM:]
    return {name: statistics.median(values) for name, values in taken.items()}


def speed(quick: bool, device: str) -> None:
    rounds, steps = (1, 7) if quick else (3, 9)
    print(
        "ms per step and picture: lucent, the floor, visualize on 128 px shown at 224, on 224 px, on 128 px in bfloat16"
    )
    heads = ("lucent", "floor", "ours", "at 224", "bf16")
    for count in (4, 1):
        print(f"{f'units in a batch: {count}':>24}{''.join(f'{head:>9}' for head in heads)}  "
              "lucent/ours  ours/floor  at 224/floor  ours/bf16")  # fmt: skip
        rows = []
        for name, layer in TARGETS:
            found = medians(contenders(name, layer, count, steps, device), rounds)
            ours, floor = found["ours"], found["floor"]
            rows.append((found["lucent"] / ours, ours / floor, found["at 224"] / floor, ours / found["bf16"]))
            print(
                f"{f'{name} {layer}':>24}{''.join(f'{found[head]:9.1f}' for head in heads)}{ratios(rows[-1])}",
                flush=True,
            )
        print(
            f"{'median of 7':>24}{' ' * 45}{ratios([statistics.median(column) for column in zip(*rows, strict=True)])}"
        )


def ratios(values: Sequence[float]) -> str:
    return "".join(f"{value:{width}.2f}x" for value, width in zip(values, (12, 11, 13, 10), strict=True))


def contenders(
    name: str, layer: str, count: int, steps: int, device: str
) -> dict[str, tuple[int, Callable[[Clock], object]]]:
    model = untrained(name, device)
    units = [f"{layer}:{3 * index}" for index in range(count)]
    return {
        "lucent": (1, lambda clock: lucent_steps(model.net, units[0], steps, clock)),
        "floor": (count, lambda clock: floor_steps(model, units, steps, clock)),
        "ours": (count, lambda clock: our_steps(model, units, steps, clock, image=fourier(128), size=224)),
        "at 224": (count, lambda clock: our_steps(model, units, steps, clock)),
        "bf16": (
            count,
            lambda clock: our_steps(model, units, steps, clock, image=fourier(128), size=224, dtype=torch.bfloat16),
        ),
    }


def untrained(name: str, device: str) -> Model:
    """Give a network of random weights whose signals neither die nor explode: its batch norms know its own statistics.

    Units of torchvision's are silent without, and a unit that sleeps takes the slower way past its ReLUs.
    """
    model = load_model(name, device=device)
    norms = [module for module in model.net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model.net(torch.randn(4, 3, 224, 224, device=device))
    model.net.eval()
    return model


def canvases(quick: bool, device: str) -> None:
    model = untrained("googlenet", device)
    print("ms per step and picture, four units of GoogLeNet: on 224 px and on the unit's own canvas")
    for layer in ("conv3", "inception3a", "inception3b", "inception4b"):
        units = [f"{layer}:{index}" for index in range(4)]
        size = canvas(model, units)
        found = medians(
            {
                "whole": (4, lambda clock, units=units: our_steps(model, units, 9, clock)),
                "own": (
                    4,
                    lambda clock, units=units, size=size: our_steps(model, units, 9, clock, image=fourier(size)),
                ),
            },
            1 if quick else 3,
        )
        print(f"{layer:>12} {found['whole']:7.1f} {found['own']:7.1f}  {found['own'] / found['whole']:5.2f}x  {size}")


def chunks(quick: bool, device: str) -> None:
    print("ms per step and picture with 1, 2, 4, 8 and 16 pictures in a chunk, and MB that one picture keeps")
    plans.MEMORY[device] = 2**40
    for name, layer in (("vgg16", "features.10"), ("resnet50", "layer4"), ("googlenet", "inception4b")):
        model = untrained(name, device)
        plan = Plan(model, fourier().sized(3, (224, 224)), (), momentum(), 1, 1, 1, frozenset(), 0, None, None)
        kept = plan.cost(channel(f"{layer}:0")) / 2**20
        counts = (1, 4) if quick else (1, 2, 4, 8, 16)
        units = [f"{layer}:{index}" for index in range(max(counts))]
        runs = {
            str(count): (
                count,
                lambda clock, model=model, count=count, units=units: our_steps(model, units[:count], 7, clock),
            )
            for count in counts
        }
        found = medians(runs, 1)
        print(
            f"{name + ' ' + layer:>24}" + "".join(f"{each:9.1f}" for each in found.values()) + f"{kept:9.0f} MB",
            flush=True,
        )


def quality(quick: bool, device: str, weights: Path | None = None) -> None:
    middle = ("mixed3a", "mixed3b", "mixed4a", "mixed4c")
    models = [(name, load_model(name, device=device), middle) for name in ("sketches", "photographs")]
    if weights is not None:
        layers = ("inception3a", "inception3b", "inception4a", "inception4c")
        models.append((weights.stem, trained(weights, device), layers))
    for name, model, layers in models:
        units = [f"{layers[index % len(layers)]}:{5 * index + 2}" for index in range(3 if quick else 10)]
        ratios = [raced(model, unit) for unit in units]
        print(f"{name}: lucent's time over ours, median of {len(ratios)} units: {statistics.median(ratios):.1f}x\n")


def raced(model: Model, unit: str) -> float:
    """Print and give how much longer lucent's 512 steps take than ours to the same clean activation."""
    size, mean, std = model.image_size[0], *(torch.tensor(each).reshape(1, 3, 1, 1) for each in (model.mean, model.std))
    from lucent.optvis import transform

    moves = [*transform.standard_transforms, lambda images: (images - mean.to(images)) / std.to(images)]
    start = time.perf_counter()
    theirs = lucent_steps(
        model.net, unit, LUCENT_STEPS, [], transforms=moves, size=size, preprocess=False, fixed_image_size=size
    )
    lucent_time, target = time.perf_counter() - start, clean(model, unit, theirs)
    for steps in (6, 12, 25, 50, 100, 200, 400):
        start = time.perf_counter()
        ours = visualize(model, unit, steps=steps, progress=False)
        our_time, score = time.perf_counter() - start, float(ours.scores[0])
        if score >= target:
            break
    reached = "" if score >= target else " (not reached)"
    ratio = lucent_time / our_time if not reached else 0.0
    print(f"{unit:>16} lucent {target:8.3f} in {lucent_time:5.1f} s, ours {score:8.3f} in {our_time:5.2f} s "
          f"({steps} steps): {ratio:5.1f}x{reached}", flush=True)  # fmt: skip
    return ratio


def clean(model: Model, unit: str, picture: np.ndarray) -> float:
    """Give a unit's mean activation on a picture in 8 bits."""
    images = torch.from_numpy(np.round(picture * 255).astype(np.float32) / 255).permute(2, 0, 1)[None]
    layer = unit.rpartition(":")[0]
    with torch.no_grad(), probe(model, [layer]) as activations:
        model(images.to(model.device))
        return float(channel(unit).score(activations)[0])


def trained(weights: Path, device: str) -> Model:
    """Give torchvision's GoogLeNet trained on CIFAR-10 photographs enlarged to 64 px."""
    import torchvision
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False, transform_input=False)
    net.load_state_dict(load_file(weights))
    labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    means, sds = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return load_model(net.eval(), name=weights.stem, image_size=64, mean=means, std=sds, labels=labels, device=device)


def sketches(quick: bool, device: str) -> None:
    model = load_model("sketches", device=device)
    total = 0.0
    print("all units of sketches, 100 steps, with grades")
    for layer in model.default_layers:
        units = [f"{layer}:{index}" for index in range(model.layer(layer).channels)][:: 8 if quick else 1]
        start = time.perf_counter()
        made = visualize(model, units, progress=False)
        taken = time.perf_counter() - start
        total += taken
        verdicts = ", ".join(f"{made.verdicts.count(each)} {each}" for each in sorted(set(made.verdicts)))
        print(f"{layer:>10} {len(units):4} units {taken:6.1f} s {1000 * taken / len(units):6.0f} ms each  {verdicts}",
              flush=True)  # fmt: skip
    print(f"{'together':>10} {total:17.1f} s, {torch.get_num_threads()} thread(s)")


SECTIONS = {"speed": speed, "canvas": canvases, "chunks": chunks, "quality": quality, "sketches": sketches}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What pictures cost.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and units")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--trained", type=Path, help="a GoogLeNet trained on CIFAR-10 (safetensors), for quality")
    arguments = parser.parse_args()
    SECTIONS["quality"] = partial(quality, weights=arguments.trained)
    for section, run in SECTIONS.items():
        if arguments.only in (None, section):
            run(arguments.quick, arguments.device)
