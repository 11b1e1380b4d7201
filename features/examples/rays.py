"""Rays: actors of Ray that compute shards, on this machine or a cluster. Ray launches; shards, resume and merging are
ours.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.examples.jobs import Job, Outcome, Queue, Tick
from features.examples.shards import write_block

# Seconds without a word after which there is an error in place of waiting: no worker has started, or one is silent.
PATIENCE = 100.0
# Seconds between two looks at the clock, and at the workers.
BEAT = 2.0
# Ray counts resources in ten-thousandths.
GRAIN = 10_000
# While Ray starts: no usage statistics; and GPUs stay visible to workers that ask for none, of which Ray else warns.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_actors(job: Job, folder: Path, shards: list[int], workers: int | None, tick: Tick) -> Generator[Outcome]:
    """Compute ``shards`` with ``workers`` actors of Ray, on the cluster that the program is connected to, or one of
    this machine alone, begun and ended here (without dashboard and usage statistics).

    By default one actor for each GPU where the network is on one, else for every ``job.threads`` CPUs; together they
    ask for one CPU less than there are, since Ray hangs when actors take all. Workers send their shards here, so only
    this process needs the store's folder; the dataset must be readable where they run. An actor that dies, or is silent
    for 100 s, is replaced; its shard is tried at most twice again. Errors: ``ImportError`` naming the extra;
    ``TimeoutError`` with the resources where no actor can start within 100 s; what a worker raises.
    """
    ray = _imported()
    with _cluster(ray):
        ask = _resources(ray, job, workers, len(shards))
        sent = ray.put(job.sent(ray.cloudpickle.dumps))
        crew = _Crew(ray, sent, ask, Queue(shards))
        try:
            for _ in range(ask.workers):
                crew.hire()
            for shard, blob, seconds, failure in crew.work():
                if not failure:
                    write_block(folder, shard, shard, blob)
                    tick(len(job.plan.shards[shard]))
                yield Outcome(shard, seconds, failure)
        finally:
            crew.dismiss()


class Worker:
    """What runs in an actor."""

    def __init__(self, sent: bytes, device: str, paths: list[str]) -> None:
        # Where the program that began us finds its modules, the dataset's among them.
        sys.path.extend(path for path in paths if path not in sys.path)
        self.job: Job = pickle.loads(sent)
        if device != "cpu":
            self.job.model.net.to(device)

    def ready(self) -> None:
        return

    def compute(self, shard: int) -> bytes:
        return self.job.compute(shard, lambda images: None)


@dataclass(frozen=True)
class _Ask:
    """How many workers, and what each of them asks of the cluster."""

    workers: int
    cpus: float
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus} GPU" if self.gpus else "")


@dataclass(eq=False)
class _Member:
    actor: Any
    since: float
    shard: int | None = None
    ready: bool = False
    ping: Any = None
    pinged: float = 0.0


class _Crew:
    """The actors, and what each is doing: ``pending`` maps what it will answer to the one who does."""

    def __init__(self, ray: Any, sent: Any, ask: _Ask, queue: Queue) -> None:
        self.ray, self.sent, self.ask, self.queue = ray, sent, ask, queue
        self.pending: dict[Any, _Member] = {}
        self.idle: list[_Member] = []

    def hire(self) -> None:
        # Two calls at once: an actor that computes still answers whether it is there.
        options = {"num_cpus": self.ask.cpus, "num_gpus": self.ask.gpus, "max_concurrency": 2, "max_restarts": 0}
        actor = (
            self.ray.remote(Worker).options(**options).remote(self.sent, "cuda" if self.ask.gpus else "cpu", sys.path)
        )
        self.pending[actor.ready.remote()] = _Member(actor, time.monotonic())

    def work(self) -> Iterator[tuple[int, bytes, float, str]]:
        """Give shard, bytes, seconds and failure of every shard as it is done."""
        while self.queue.waiting or any(member.shard is not None for member in self.pending.values()):
            self._give()
            answered, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=BEAT)
            for answer in answered:
                member = self.pending.pop(answer)
                yield from self._take(member, answer)
            self._watch()
            yield from self._bury()

    def dismiss(self) -> None:
        for member in [*self.pending.values(), *self.idle]:
            self.ray.kill(member.actor)

    def _give(self) -> None:
        while self.idle and self.queue.waiting:
            member = self.idle.pop()
            member.shard, member.since = self.queue.take(), time.monotonic()
            self.pending[member.actor.compute.remote(member.shard)] = member

    def _take(self, member: _Member, answer: Any) -> Iterator[tuple[int, bytes, float, str]]:
        try:
            blob = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            # Ray's text has the worker's traceback; what went wrong is in the last line.
            yield from self._lost(member, f"its worker died ({str(error).strip().splitlines()[-1]:.200})")
            return
        if member.shard is not None:
            yield member.shard, blob, time.monotonic() - member.since, ""
        member.shard, member.ready = None, True
        self.idle.append(member)

    def _lost(self, member: _Member, why: str) -> Iterator[tuple[int, bytes, float, str]]:
        if not member.ready:
            raise RuntimeError(f"a worker ended before it began ({why}): see Ray's logs")
        outcome = self.queue.lose(member.shard, why) if member.shard is not None else None
        if outcome is not None:
            yield outcome.shard, b"", 0.0, outcome.failure
        if self.queue.waiting:
            self.hire()

    def _watch(self) -> None:
        """Raise where no worker has started for too long: Ray itself would wait for ever."""
        waits = [member.since for member in self.pending.values() if not member.ready]
        at_work = self.idle or any(member.ready for member in self.pending.values())
        if waits and not at_work and time.monotonic() - min(waits) > PATIENCE:
            there, free = _known(self.ray.cluster_resources()), _known(self.ray.available_resources())
            raise TimeoutError(
                f"no worker of Ray has started for {PATIENCE:.0f} s: each of {self.ask.workers} asks for {self.ask}, "
                f"the cluster has {there}, of which free {free}; free some, or ask for fewer workers"
            )

    def _bury(self) -> Iterator[tuple[int, bytes, float, str]]:
        """Take for dead, and end, a worker that has been silent for too long while it had a shard."""
        now = time.monotonic()
        for answer, member in list(self.pending.items()):
            if member.shard is None:
                continue
            if member.ping is None or self.ray.wait([member.ping], timeout=0)[0]:
                member.ping, member.pinged = member.actor.ready.remote(), now
            elif now - member.pinged > PATIENCE:
                del self.pending[answer]
                self.ray.kill(member.actor)
                yield from self._lost(member, f"its worker was silent for {PATIENCE:.0f} s")


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _resources(ray: Any, job: Job, workers: int | None, shards: int) -> _Ask:
    there = ray.cluster_resources()
    gpus = 1 if job.model.device.type == "cuda" else 0
    if there.get("GPU", 0) < gpus:
        raise ValueError(f"the network is on a GPU and the cluster of Ray has {there}: move the network to the CPU")
    cpus = float(there.get("CPU", 1))
    spare = cpus - 1 if cpus > 1 else cpus / 2
    count = min(shards, workers or (int(there["GPU"]) if gpus else max(1, int(spare // job.threads))))
    return _Ask(count, min(job.threads, int(spare / count * GRAIN) / GRAIN), gpus)


def _known(resources: dict[str, float]) -> dict[str, float]:
    return {name: resources[name] for name in ("CPU", "GPU", "memory") if name in resources}


def _imported() -> Any:
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)  # Ray reads some of them when it is imported
    try:
        import ray
        import ray.cloudpickle
    except ImportError as error:
        raise ImportError("engine 'ray' needs Ray: pip install 'vision-circuits[ray]'") from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return ray
