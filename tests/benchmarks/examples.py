"""What looking for examples costs: a sweep beside the network alone, and beside a loop with numpy.

    python tests/benchmarks/examples.py [--quick] [--images N] [--network googlenet] [--only parts|bf16]

parts   milliseconds per image over the same tensors in memory, in batches of 32, all default layers of a torchvision
        network of random weights: the floor (a copy with folded batch norms, channels last, nothing read), the plain
        network, the naive way (the plain network, hooks, numpy's max and argmax and the best images so far), and a
        sweep of ours; then the sweep without one thing at a time. The first images of a shard cost more than later
        ones: all of them are among the best so far, and the first 1,024 are in the sample
bf16    the share of the examples that bfloat16 keeps

Contenders take turns batch by batch, and ratios are taken batch by batch, so that a busy machine is busy for all of
them; with OMP_NUM_THREADS=1 the processor's time is counted, not the clock's.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from features.examples import find_examples, quantiles
from features.examples.loading import Batch, batches
from features.examples.passing import finish, sweep
from features.examples.plans import Plan, make_plan
from features.examples.rankings import Ranking
from features.models import Model, load_model

BATCH, COUNT = 32, 32


def untrained(name: str) -> Model:
    """Give a network of random weights whose batch norms know its own statistics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(name)
    norms = [module for module in model.net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model.net(torch.randn(8, 3, *model.image_size))
    model.net.eval()
    return model


def folded_copy(net: nn.Module) -> nn.Module:
    """Give a copy whose batch norms are folded by torch's own function, channels last."""
    net = copy.deepcopy(net)
    for module in net.modules():
        children = list(module.named_children())
        for (_, one), (name, other) in pairwise(children):
            if isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(one, other)
                one.weight, one.bias = fused.weight, fused.bias
                setattr(module, name, nn.Identity())
    return net.to(memory_format=torch.channels_last)


def floor(net: nn.Module, model: Model, images: Tensor) -> None:
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.mean, model.std))
    with torch.inference_mode():
        net(((images - mean) / std).contiguous(memory_format=torch.channels_last))


def plain(net: nn.Module, model: Model, images: Tensor) -> None:
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.mean, model.std))
    with torch.inference_mode():
        net((images - mean) / std)


def naive(net: nn.Module, model: Model, images: Tensor, kept: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    """Collect in numpy what most notebooks do: the largest value of each image and its place, and the best images."""
    modules = dict(net.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, output: Tensor) -> None:
            flat = output.detach().numpy().reshape(len(output), output.shape[1], -1)
            before = kept.setdefault(name, [])
            before.append((flat.max(2), flat.argmax(2)))
            np.argsort(-np.concatenate([values for values, _ in before]), axis=0)[:COUNT]

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in model.default_layers]
    plain(net, model, images)
    for handle in handles:
        handle.remove()


def raced(
    model: Model, images: Tensor, plan: Plan, others: dict[str, Callable[[Tensor], None]]
) -> dict[str, list[float]]:
    """Give the milliseconds per image that each batch takes the ``others`` and, between them, a sweep of ours."""
    taken: dict[str, list[float]] = {name: [] for name in (*others, "ours")}

    def stream() -> Iterator[Batch]:
        for batch in batches(images, model, range(len(images)), plan.batch):
            for name, run in others.items():
                taken[name].append(timed(run, batch.images))
            start = clock()
            yield batch
            taken["ours"].append(1000 * (clock() - start) / len(batch.images))

    sweep(model, stream(), plan)
    return taken


def timed(run: Callable[[Tensor], None], images: Tensor) -> float:
    start = clock()
    run(images)
    return 1000 * (clock() - start) / len(images)


def clock() -> float:
    """Seconds; of this process alone where it has one thread, so that what else is running counts less."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@contextmanager
def without_counts() -> Iterator[None]:
    with mock.patch.object(quantiles.Counter, "add", lambda self, numbers: None):
        yield


@contextmanager
def without_rankings() -> Iterator[None]:
    with mock.patch.object(Ranking, "add", lambda *given: None):
        yield


def parts(model: Model, images: Tensor) -> None:
    fast = folded_copy(model.net)
    kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    whole = make_plan(model, images, batch=BATCH, count=COUNT)
    slim = replace(whole, vectors=False)
    others: dict[str, Callable[[Tensor], None]] = {"floor": lambda each: floor(fast, model, each)}
    slow = copy.deepcopy(model.net)
    rivals = others | {
        "plain": lambda each: plain(slow, model, each),
        "naive": lambda each: naive(slow, model, each, kept),
    }
    variants: list[tuple[str, Plan, Callable[[], AbstractContextManager[None]]]] = [
        ("ours", whole, nullcontext),
        ("without vectors", slim, nullcontext),
        ("and without the sample", replace(slim, sampled=0), nullcontext),
        ("without vectors and histograms", slim, without_counts),
        ("without vectors and rankings", slim, without_rankings),
        ("in bfloat16", replace(whole, dtype="bfloat16"), nullcontext),
    ]
    print(f"{model.name}, {len(images)} images, {torch.get_num_threads()} thread(s); ms an image, median of batches; "
          "of the floor: all batches, the last half")  # fmt: skip
    for name, plan, context in variants:
        with context():
            found = raced(model, images, plan, rivals if name == "ours" else others)
        for each, times in found.items():
            if each != "floor" or name == "ours":
                ratios = [a / b for a, b in zip(times, found["floor"], strict=True)]
                shares = [statistics.median(part) for part in (ratios, ratios[len(ratios) // 2 :])]
                label = name if each == "ours" else each
                print(f"{label:>32} {statistics.median(times):7.1f} {shares[0]:7.2f} {shares[1]:7.2f}", flush=True)
        if name == "ours":
            faster = statistics.median(a / b for a, b in zip(found["naive"], found["ours"], strict=True))
            print(f"{'':>32} {faster:.2f}x faster than the naive way", flush=True)
    start = time.perf_counter()
    plan = make_plan(model, images, batch=BATCH, count=COUNT)
    planned = time.perf_counter() - start
    part = sweep(model, batches(images, model, range(BATCH), BATCH), plan)
    start = time.perf_counter()
    finish(part, model, plan)
    print(f"once: the plan {planned:.2f} s, the telling {time.perf_counter() - start:.2f} s", flush=True)


def bf16(model: Model, images: Tensor) -> None:
    exact, half = (find_examples(model, images, batch=BATCH, vectors=False, dtype=dtype, progress=False)
                   for dtype in (None, torch.bfloat16))  # fmt: skip
    print("share of the top examples that bfloat16 keeps, and of the first 8: mean of all units, worst unit")
    for name in exact.layers:
        line = f"{name:>16}"
        for count in (COUNT, 8):
            pairs = zip(exact.layer(name).image[:, :count], half.layer(name).image[:, :count], strict=True)
            kept = [len(set(a) & set(b) - {-1}) / (a >= 0).sum() for a, b in pairs if (a >= 0).any()]
            line += f" {np.mean(kept):7.1%} {np.min(kept):7.1%}"
        print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What looking for examples costs.")
    parser.add_argument("--quick", action="store_true", help="one round, fewer images")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--network", default="googlenet")
    parser.add_argument("--only", choices=("parts", "bf16"))
    arguments = parser.parse_args()
    model = untrained(arguments.network)
    count = 64 if arguments.quick else arguments.images
    images = torch.rand((count, 3, *model.image_size), generator=torch.Generator().manual_seed(0))
    if arguments.only in (None, "parts"):
        parts(model, images)
    if arguments.only in (None, "bf16"):
        bf16(model, images)
