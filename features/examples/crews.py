"""Crews: processes of this machine that compute shards, replaced when they die, ended with the one that began them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from features.examples.jobs import Job, Outcome, Queue, Tick
from features.examples.shards import write_block

# Seconds that a worker gets to end by itself.
PATIENCE = 2.0


def processes(job: Job, folder: Path, shards: list[int], workers: int | None, tick: Tick) -> Generator[Outcome]:
    """Compute ``shards`` in ``workers`` processes of this machine: by default one for each GPU where the network is on
    one, else one for every ``job.threads`` cores.

    Processes are spawned, so that a script that comes here needs ``if __name__ == "__main__":``. A worker that dies is
    replaced; its shard is tried at most twice again. What a worker raises is raised here, and ends the others. Errors:
    ``TypeError`` for a dataset or a network that cannot be sent, ``RuntimeError`` where workers end before they begin.
    """
    devices = _devices(job, workers)[: len(shards)]
    sent, queue = job.sent(), Queue(shards)
    with _crew() as crew:
        crew.extend(_started(sent, folder, device) for device in devices)
        while queue.waiting or any(worker.shard is not None for worker in crew):
            for worker in crew:
                if worker.ready and worker.shard is None and queue.waiting:
                    worker.give(queue.take())
            for connection in wait([worker.pipe for worker in crew]):
                worker = next(each for each in crew if each.pipe is connection)
                outcome = _heard(worker, queue, tick)
                if not worker.alive:
                    crew.remove(worker)
                    worker.end()
                    crew.extend([_started(sent, folder, worker.device)] if queue.waiting else [])
                elif worker.ready and worker.shard is None:  # before its outcome is kept, which takes a while
                    worker.give(queue.take())
                if outcome is not None:
                    yield outcome


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str
    ready: bool = False
    alive: bool = True
    shard: int | None = None
    began: float = 0.0
    told: int = field(default=0)

    def give(self, shard: int | None) -> None:
        self.shard, self.began, self.told = shard, time.perf_counter(), 0
        if shard is not None:
            with suppress(OSError):  # it may have died, which reading from it will tell
                self.pipe.send(shard)

    def end(self) -> None:
        self.process.terminate()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


@contextmanager
def _crew() -> Iterator[list[_Worker]]:
    crew: list[_Worker] = []
    try:
        yield crew
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.end()


def _started(sent: bytes, folder: Path, device: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, str(folder), device), name="examples", daemon=True)
    process.start()
    there.close()
    with suppress(OSError):  # it may have died already, which reading from it will tell
        here.send_bytes(sent)
    return _Worker(process, here, device)


def _heard(worker: _Worker, queue: Queue, tick: Tick) -> Outcome | None:
    """Take in what a worker says, or its death; give what became of its shard, if anything has."""
    try:
        word, value = worker.pipe.recv()
    except (EOFError, OSError):
        return _died(worker, queue, tick)
    if word == "images":
        worker.told += value
        tick(value)
        return None
    if word == "error":
        raise value
    worker.ready = True
    if word == "ready":
        return None
    outcome = Outcome(value, time.perf_counter() - worker.began)
    worker.shard = None
    return outcome


def _died(worker: _Worker, queue: Queue, tick: Tick) -> Outcome | None:
    worker.alive = False
    worker.process.join(PATIENCE)
    code = worker.process.exitcode
    if not worker.ready:
        guard = "a script that starts processes needs `if __name__ == '__main__':` around what it does"
        why = guard if code == 1 else "perhaps the memory is too small for so many workers"
        raise RuntimeError(f"a worker ended before it began, with exit code {code}: {why}")
    shard, worker.shard = worker.shard, None
    tick(-worker.told)
    return None if shard is None else queue.lose(shard, f"its worker died with exit code {code}")


def serve(pipe: Connection, folder: str, device: str) -> None:
    """Compute the shards that come through ``pipe``, until it ends; what runs in a worker."""
    # Ctrl-C reaches every process of a terminal; the one that began us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job: Job = pickle.loads(pipe.recv_bytes())
        if device != "cpu":
            job.model.net.to(device)
        pipe.send(("ready", None))
        while True:
            shard = pipe.recv()
            blob = job.compute(shard, lambda images: pipe.send(("images", images)))
            write_block(Path(folder), shard, shard, blob)
            pipe.send(("done", shard))
    except Exception as error:
        with suppress(OSError):  # where the one who would be told has ended
            pipe.send(("error", _sendable(error)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """Give ``error`` if it arrives as what it is, else its words."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # an exception's own code
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def _devices(job: Job, workers: int | None) -> list[str]:
    if job.model.device.type == "cuda":
        gpus = torch.cuda.device_count()
        return [f"cuda:{index % gpus}" for index in range(workers or gpus)]
    if job.model.device.type != "cpu":
        raise ValueError(f"the network is on {job.model.device}: engine 'processes' has the CPU and CUDA; use 'local'")
    return ["cpu"] * (workers or max(1, cores() // job.threads))


def cores() -> int:
    """Give how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
