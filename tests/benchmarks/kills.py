"""A run of find_examples into a store, killed at random moments and resumed: is the store the same, byte for byte?

    python tests/benchmarks/kills.py 100                       # engine local: about a minute
    python tests/benchmarks/kills.py 20 --engine processes     # coordinator and workers: every attempt imports torch

Each trial begins a store, ends the process with SIGKILL at a moment drawn uniformly over the length of a whole run
(with processes from the first shard on, since their start takes longest), resumes, perhaps kills that too, and lets it
finish in the end. Then every file is compared with those of a run that was never interrupted: shards, arrays, manifest,
and the rows and schemas of index and thumbnails but for the provenance. Counted too: shards that were computed again,
and parts of files that were left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from features.examples.engines import run
from features.examples.jobs import Job, Tick
from features.examples.plans import make_plan
from features.models import Model, load_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from reference import store_contents

IMAGES, SHARD, BATCH, WORKERS = 70, 4, 2, 2
LOG = "KILLS_LOG"
compute = Job.compute


def logged(job: Job, shard: int, tick: Tick) -> bytes:
    """Note that ``shard`` was begun; at the top of the module, so that it is so in spawned workers too."""
    with open(os.environ[LOG], "a", encoding="ascii") as file:  # noqa: PTH123
        file.write(f"{shard}\n")
    return compute(job, shard, tick)


if LOG in os.environ:
    Job.compute = logged  # type: ignore[method-assign]


def world() -> tuple[Model, TensorDataset]:
    """Give a tiny network and its images, always the same."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    labels = torch.randint(5, (IMAGES,), generator=generator)
    images = torch.rand(IMAGES, 3, 8, 8, generator=generator)
    names = tuple("abcde")
    model = load_model(net, name="tiny", image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, labels=names)
    return model, TensorDataset(images, labels)


def attempt(folder: Path, log: Path, engine: str) -> int:
    """Begin or resume in a process of its own; give its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        os.environ[LOG] = str(log)
        Job.compute = logged  # type: ignore[method-assign]
        model, dataset = world()
        plan = make_plan(model, dataset, ["2", "4"], count=4, batch=BATCH, shard=SHARD)
        workers = WORKERS if engine == "processes" else None
        run(model, dataset, plan, folder, engine=engine, workers=workers, thumbnails=4, progress=False)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def state(folder: Path) -> str:
    """Say how far a killed run had come."""
    if not (folder / "manifest.json").exists():
        return "before the manifest"
    if '"results": null' not in (folder / "manifest.json").read_text():
        return "thumbnails"
    done = [path.name for path in (folder / "shards").glob("*.safetensors")] if (folder / "shards").exists() else []
    covered = {shard for name in done for shard in range(int(name[:6]), int(name[7:13]) + 1)}
    return "merging" if len(covered) == -(-IMAGES // SHARD) else "among the shards"


def wait_for_work(pid: int, log: Path) -> float:
    """Wait until a worker has begun a shard, which is long after the program began, or all is done; give the moment."""
    while not log.read_text() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    return time.perf_counter()


def trial(folder: Path, engine: str, length: float, chance: random.Random, states: Counter[str]) -> tuple[int, int]:
    """Kill and resume until it is done; give how often it was killed, and how many shards were begun again at most at
    once.
    """
    begun: set[str] = set()
    kills, most = 0, 0
    while True:
        log = folder.with_name("log")
        log.write_text("")
        pid = attempt(folder, log, engine)
        killed = kills == 0 or chance.random() < 0.4
        if killed:
            if engine == "processes":
                wait_for_work(pid, log)
            time.sleep(chance.uniform(0, length))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        again = log.read_text().split()
        most = max(most, len(begun & set(again)))
        begun |= set(again)
        if os.WIFSIGNALED(status):
            kills += 1
            states[state(folder)] += 1
        elif os.WEXITSTATUS(status):
            raise SystemExit(f"the run failed with status {status}")
        elif kills or not killed:
            return kills, most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int)
    parser.add_argument("--engine", default="local", choices=["local", "processes"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to make the stores (default: the system's folder for temporary files)")
    asked = parser.parse_args()
    chance, states = random.Random(asked.seed), Counter[str]()
    kills, most, same, parts = 0, 0, 0, 0
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        whole = Path(place) / "whole"
        began, log = time.perf_counter(), Path(place) / "log"
        log.write_text("")
        pid = attempt(whole, log, asked.engine)
        began = wait_for_work(pid, log) if asked.engine == "processes" else began
        os.waitpid(pid, 0)
        length = time.perf_counter() - began
        wanted = store_contents(whole)
        for _ in range(asked.trials):
            folder = Path(place) / "killed"
            times, again = trial(folder, asked.engine, length, chance, states)
            kills, most = kills + times, max(most, again)
            parts += sum(path.name.endswith(".part") for path in folder.rglob(".*"))
            same += store_contents(folder) == wanted
            shutil.rmtree(folder)
    limit = 1 if asked.engine == "local" else WORKERS
    print(f"engine {asked.engine}, a run of {length:.2f} s: {same} of {asked.trials} stores are as uninterrupted")
    print(f"{len(wanted)} files and tables compared; {kills} kills: {dict(states)}")
    print(f"at most {most} shards begun again after a kill; {parts} parts of files left")
    return 0 if same == asked.trials and most <= limit and parts == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
