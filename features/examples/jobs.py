"""Jobs: what a worker is given, and how it computes one shard, whatever engine it works for."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from features.examples.loading import Batch, batches
from features.examples.passing import sweep
from features.examples.plans import Plan
from features.examples.shards import Part, pack, write_block
from features.models import Model

Tick = Callable[[int], None]

# How often a shard is tried whose worker dies: once, and twice again.
TRIES = 3


@dataclass(frozen=True, eq=False)
class Job:
    """The whole of a pass over a dataset: the shards of ``plan``, known by ``key``, on ``threads`` threads of torch."""

    model: Model
    dataset: Any
    plan: Plan
    key: str
    threads: int

    def compute(self, shard: int, tick: Tick) -> bytes:
        """Give the bytes of shard ``shard``'s block; ``tick`` is told of every batch how many images it stood for.

        Where memory runs out, the shard begins again with half as many images a batch, as often as it takes; the note
        says with how many. Each shard begins with the plan's, so that what a shard gives does not depend on the others.
        Errors: ``MemoryError`` where one image is too much.
        """
        span, batch = self.plan.shards[shard], self.plan.batch
        while True:
            try:
                part, skipped = self._swept(span, batch, tick)
                break
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if batch == 1:
                    raise MemoryError(
                        f"shard {shard}: a single image takes more memory than there is: {error}"
                    ) from error
            batch = -(-batch // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        note = {"shard": shard, "first": span.start, "last": span.stop - 1, "images": len(span) - len(skipped)}
        return pack(part, {"key": self.key, "shards": [note | {"batch": batch, "skipped": skipped}]})

    def sent(self, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
        """Give the job as bytes for another process, the network on the CPU; ``TypeError`` for what cannot be sent."""
        model = self.model
        if model.device.type != "cpu":
            model = replace(model, net=deepcopy(model.net).cpu())
        for name, part in (("network", model), ("dataset", self.dataset)):
            try:
                dumps(part)
            except Exception as error:  # pickling runs anybody's code
                raise TypeError(
                    f"the {name} cannot be sent to another process ({error}): define its class at the top of a module, "
                    "without lambdas or open files, or use engine='local'"
                ) from error
        return dumps(replace(self, model=model))

    def _swept(self, span: range, batch: int, tick: Tick) -> tuple[Part, list[tuple[int, str]]]:
        """Give what a shard shows, and what of it could not be read."""
        skipped: list[tuple[int, str]] = []
        told = 0

        def counted(stream: Iterable[Batch]) -> Iterator[Batch]:
            nonlocal told
            for each in stream:
                skipped.extend(each.skipped)
                yield each
                told += len(each.span)
                tick(len(each.span))

        try:
            with _threads(self.threads), contextlib.closing(batches(self.dataset, self.model, span, batch)) as stream:
                return sweep(self.model, counted(stream), self.plan), skipped
        except (MemoryError, RuntimeError):
            tick(-told)
            raise


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: how many seconds it took, and what went wrong, '' for nothing."""

    shard: int
    seconds: float = 0.0
    failure: str = ""


class Queue:
    """The shards that wait for a worker, and how often each was tried."""

    def __init__(self, shards: list[int]) -> None:
        self.waiting = deque(shards)
        self.tried: Counter[int] = Counter()

    def take(self) -> int | None:
        """Give the next shard, or nothing."""
        if not self.waiting:
            return None
        shard = self.waiting.popleft()
        self.tried[shard] += 1
        return shard

    def lose(self, shard: int, why: str) -> Outcome | None:
        """Take back a shard whose worker died; once it was tried often enough, its outcome."""
        if self.tried[shard] < TRIES:
            self.waiting.append(shard)
            return None
        return Outcome(shard, failure=f"{why}; tried {TRIES} times")


def local(job: Job, folder: Path, shards: list[int], workers: int | None, tick: Tick) -> Generator[Outcome]:
    """Compute ``shards`` one after the other in this process."""
    if workers not in (None, 1):
        raise ValueError(f"workers is {workers}: engine 'local' is this process; give engine='processes' for more")
    for shard in shards:
        began = time.perf_counter()
        write_block(folder, shard, shard, job.compute(shard, tick))
        yield Outcome(shard, time.perf_counter() - began)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads: the last bits of its matrix products depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU's allocator says "can't allocate memory", and CUDA's libraries "out of memory" in a plain RuntimeError.
    said = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in said
        or "can't allocate memory" in said
    )
