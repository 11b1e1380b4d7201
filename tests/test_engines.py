"""Engines: whoever computes the shards, whatever happens, the store is the same, byte for byte, or it says why not."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, assert_untouched, random_images, tiny_model
from reference import store_contents
from torch import Tensor
from torch.utils.data import TensorDataset

import features.examples.index as index_file
import features.examples.jobs as jobs
import features.examples.rays as rays
import features.records as records
from features.examples.engines import ENGINES, run
from features.examples.jobs import Job
from features.examples.nouns import Examples
from features.examples.plans import Plan, make_plan
from features.models import Model

COUNT = 30
ROOT = Path(__file__).resolve().parent.parent


class Trap:
    """A dataset whose item 13 does something to the process that reads it, as long as the file ``armed`` exists."""

    def __init__(self, armed: Path, deed: str, *, once: bool = False) -> None:
        self.armed, self.deed, self.once = armed, deed, once
        self.images = random_images(COUNT)

    fingerprint = "a trap"

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 13 and self.armed.exists():
            if self.once:
                self.armed.unlink()
            if self.deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the trap has closed")
        return self.images[index], index % len(CLASSES)


def plan_of(model: Model, dataset: Any, **asked: Any) -> Plan:
    return make_plan(model, dataset, ["block2", "logits"], **({"count": 3, "batch": 4, "shard": 8} | asked))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here outlives a process; that it outlives a power cut, which flushing is for, is not."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("batch_norm")


@pytest.fixture(scope="module")
def dataset() -> TensorDataset:
    return TensorDataset(random_images(COUNT), torch.arange(COUNT) % len(CLASSES))


@pytest.fixture(scope="module")
def wanted(model: Model, dataset: TensorDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the store of an uninterrupted run in this process holds."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    run(model, dataset, plan_of(model, dataset), folder, progress=False)
    return store_contents(folder)


def assert_finished(folder: Path, model: Model, dataset: Any, wanted: dict[str, str]) -> None:
    """Check that the run, called again, ends with what is ``wanted``, and leaves no parts."""
    run(model, dataset, plan_of(model, dataset), folder, progress=False)
    assert store_contents(folder) == wanted
    assert not list(folder.rglob(".*"))


def test_a_run_leaves_network_threads_and_random_numbers_as_they_were(
    model: Model, dataset: TensorDataset, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    with assert_untouched(model.net):
        run(model, dataset, plan_of(model, dataset), tmp_path / "store", threads=3, progress=False)
    assert torch.get_num_threads() == before


def test_processes_give_what_this_process_gives(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], tmp_path: Path
) -> None:
    with assert_untouched(model.net):
        found = run(
            model, dataset, plan_of(model, dataset), tmp_path / "store", engine="processes", workers=2, progress=False
        )
    assert isinstance(found, Examples)
    assert store_contents(tmp_path / "store") == wanted
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as base:
        assert sorted(base.execute("SELECT shard, engine FROM provenance WHERE event = 'shard'")) == [
            (shard, "processes") for shard in range(4)
        ]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shares_in_any_order_give_what_one_gives(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], tmp_path: Path, order: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for place, share in enumerate(order):
        monkeypatch.setenv("RANK", str(share - 1))
        monkeypatch.setenv("WORLD_SIZE", "3")
        text = "environment" if place == 1 else f"{share}/3"
        found = run(model, dataset, plan_of(model, dataset), tmp_path, shard=text, progress=False)
        assert (found is None) == (place < 2)
    assert store_contents(tmp_path) == wanted
    again = run(model, dataset, plan_of(model, dataset), tmp_path, shard="2/3", progress=False)
    assert isinstance(again, Examples)


def test_what_one_share_left_another_run_finishes(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(model, dataset, plan_of(model, dataset), tmp_path, shard="2/2", progress=False) is None
    computed = []
    compute = Job.compute

    def noted(job: Job, shard: int, tick: Callable[[int], None]) -> bytes:
        computed.append(shard)
        return compute(job, shard, tick)

    monkeypatch.setattr(Job, "compute", noted)
    assert_finished(tmp_path, model, dataset, wanted)
    assert computed == [0, 2]


def test_a_damaged_shard_is_computed_again(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], tmp_path: Path
) -> None:
    assert run(model, dataset, plan_of(model, dataset), tmp_path, shard="1/2", progress=False) is None
    path = sorted((tmp_path / "shards").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert_finished(tmp_path, model, dataset, wanted)


def test_killed_at_random_moments_and_resumed_it_is_byte_identical(tmp_path: Path) -> None:
    """The short version of ``python tests/benchmarks/kills.py 100``."""
    script = ROOT / "tests" / "benchmarks" / "kills.py"
    done = subprocess.run(
        [sys.executable, str(script), "3", "--seed", "5", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 stores" in done.stdout


def test_a_shard_whose_workers_die_is_tried_again_then_named_after_all_others_are_done(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed, folder = tmp_path / "armed", tmp_path / "store"
    trap = Trap(armed, "die")
    plan = plan_of(model, trap)
    run(model, trap, plan, tmp_path / "whole", progress=False)
    armed.write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "TRIES", 1)  # each costs a process
        with pytest.raises(
            RuntimeError, match=r"1 of 4 shards failed \(shard 1: its worker died with exit code -9; tried"
        ):
            run(model, trap, plan, folder, engine="processes", workers=1, progress=False)
    with closing(sqlite3.connect(folder / "index.sqlite")) as base:
        told = set(base.execute("SELECT event, shard FROM provenance"))
    assert told == {("failed", 1), ("shard", 0), ("shard", 2), ("shard", 3)}
    again = Trap(armed, "die", once=True)
    run(model, again, plan, folder, engine="processes", workers=1, progress=False)
    assert not armed.exists()
    assert store_contents(folder) == store_contents(tmp_path / "whole")


def test_a_shard_is_tried_three_times() -> None:
    queue, outcomes = jobs.Queue([5, 6]), []
    while (shard := queue.take()) is not None:
        outcomes.append(queue.lose(shard, "it died") if shard == 5 else shard)
    assert outcomes == [None, 6, None, jobs.Outcome(5, failure="it died; tried 3 times")]


@pytest.mark.parametrize("engine", ["local", "processes"])
def test_what_the_dataset_raises_is_raised_here(model: Model, tmp_path: Path, engine: str) -> None:
    trap = Trap(tmp_path / "armed", "raise")
    plan = plan_of(model, trap)
    (tmp_path / "armed").write_text("")
    with pytest.raises(RuntimeError, match="the trap has closed"):
        run(model, trap, plan, tmp_path / "store", engine=engine, workers=1, progress=False)
    assert not list((tmp_path / "store").glob("lock*"))


def test_what_cannot_be_sent_is_refused_with_a_sentence(model: Model, tmp_path: Path) -> None:
    class Local:
        fingerprint = "local"
        rows = random_images(4)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            return self.rows[index]

    local = Local()
    plan = plan_of(model, local)
    with pytest.raises(
        TypeError, match=r"the dataset cannot be sent to another process .*: define its class at the top"
    ):
        run(model, local, plan, tmp_path / "store", engine="processes", progress=False)


@pytest.mark.parametrize(("asked", "words"), [
    ({"engine": "proceses"}, "processes"), ({"workers": 0}, "workers is 0"), ({"workers": 2}, "is this process"),
    ({"threads": -1}, "threads is -1"), ({"shard": "9/4"}, "shard is 9/4"),
])  # fmt: skip
def test_bad_input_is_refused(
    model: Model, dataset: TensorDataset, tmp_path: Path, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(model, dataset, plan_of(model, dataset), tmp_path / "store", progress=False, **asked)


def test_every_engine_has_a_name_and_says_what_it_is() -> None:
    assert list(ENGINES) == ["local", "processes", "ray"]
    assert all(engine.__doc__ for engine in ENGINES.values())


# What goes wrong on a disk


class Disk:
    """Lets ``room`` files be written, then is full: of the next it takes half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.written = 10**9, 0
        write = records._write_through

        def limited(path: Path, blob: bytes) -> None:
            self.room -= 1
            self.written += 1
            if self.room < 0:
                path.write_bytes(blob[: len(blob) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, blob)

        monkeypatch.setattr(records, "_write_through", limited)


def test_a_disk_that_is_full_at_any_file_is_named_and_nothing_is_lost(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    run(model, dataset, plan_of(model, dataset), tmp_path / "whole", progress=False)
    files = disk.written
    assert files >= 11
    for room in range(files):
        folder = tmp_path / str(room)
        disk.room = room
        with pytest.raises(OSError, match=r"could not write [\d,]+ bytes, with [\d,]+ bytes free") as caught:
            run(model, dataset, plan_of(model, dataset), folder, progress=False)
        assert caught.value.errno == errno.ENOSPC
        assert str(folder) in str(caught.value.filename)
        disk.room = 10**9
        assert_finished(folder, model, dataset, wanted)


def test_an_index_that_finds_no_room_is_named_and_nothing_is_lost(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = index_file.fill

    def cramped(folder: Path, *given: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setitem(index_file.TABLES, "limit", "PRAGMA max_page_count = 1")
            fill(folder, *given)

    with monkeypatch.context() as patch:
        patch.setattr("features.examples.engines.fill", cramped)
        with pytest.raises(OSError, match=r"could not write, with [\d,]+ bytes free") as caught:
            run(model, dataset, plan_of(model, dataset), tmp_path / "store", progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).endswith("index.sqlite")
    assert_finished(tmp_path / "store", model, dataset, wanted)


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Make a file system of so many KiB, where we may."""
    place = tmp_path / "little"
    place.mkdir()
    sizes: list[int] = []

    def mount(size: int) -> Path:
        again = ["-o", f"remount,size={size}k"] if sizes else ["-t", "tmpfs", "-o", f"size={size}k", "none"]
        done = (
            subprocess.run(["mount", *again, str(place)], capture_output=True, check=False)
            if shutil.which("mount")
            else None
        )
        if done is None or done.returncode:
            pytest.skip("a small file system cannot be mounted here")
        sizes.append(size)
        return place

    yield mount
    if sizes:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_that_fills_up_loses_nothing(
    model: Model, dataset: TensorDataset, wanted: dict[str, str], little: Callable[[int], Path]
) -> None:
    full = 0
    for size in (4, 20, 40, 60, 80, 120, 200, 300):
        shutil.rmtree(little(64_000) / "store", ignore_errors=True)
        folder = little(size) / "store"
        try:
            run(model, dataset, plan_of(model, dataset), folder, progress=False)
        except OSError as error:
            full += 1
            assert error.errno == errno.ENOSPC, repr(error)
            assert re.search(r"[\d,]+ bytes free|No space left", str(error)), repr(error)
        little(64_000)
        assert_finished(folder, model, dataset, wanted)
    assert full >= 4


# What goes wrong with memory


def hungry(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Let a pass have batches of at most ``most`` images; give the sizes that it met."""
    met: list[int] = []
    sweep = jobs.sweep

    def limited(model: Model, stream: Iterator[Any], plan: Plan) -> Any:
        def checked() -> Iterator[Any]:
            for batch in stream:
                met.append(len(batch.images))
                if len(batch.images) > most:
                    raise error
                yield batch

        return sweep(model, checked(), plan)

    monkeypatch.setattr(jobs, "sweep", limited)
    return met


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 3 bytes"),
], ids=["cuda", "python", "cpu"])  # fmt: skip
def test_out_of_memory_halves_the_batch_and_says_so(
    model: Model, dataset: TensorDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plan = plan_of(model, dataset, batch=8)
    whole = run(model, dataset, plan, tmp_path / "whole", progress=False)
    hungry(monkeypatch, 2, error)
    found = run(model, dataset, plan, tmp_path / "store", progress=False)
    assert found is not None
    assert whole is not None
    halved = json.loads((tmp_path / "store" / "manifest.json").read_text())["results"]["halved"]
    assert halved == {str(shard): 2 for shard in range(4)}
    for name in found.layers:
        ours, theirs = found.layer(name), whole.layer(name)
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-5)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5, atol=1e-9)


def test_one_image_that_is_too_much_ends_it(
    model: Model, dataset: TensorDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = hungry(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(MemoryError, match="shard 0: a single image takes more memory than there is"):
        run(model, dataset, plan_of(model, dataset), tmp_path / "store", progress=False)
    assert met == [4, 2, 1]


# What goes wrong from outside

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from conftest import tiny_model, random_images
from features.examples.engines import run
from features.examples.plans import make_plan

class Slow:
    fingerprint = "slow"
    images = random_images(400)
    def __len__(self):
        return 400
    def __getitem__(self, index):
        if GATE.exists():
            print(os.getpid(), flush=True)
            time.sleep(0.05)
        return self.images[index]

GATE = Path(sys.argv[1]).with_name("slow")

if __name__ == "__main__" or "unguarded" in sys.argv:
    model, dataset = tiny_model("plain"), Slow()
    plan = make_plan(model, dataset, ["relu1"], count=3, batch=4, shard=8)
    GATE.write_text("")
    run(model, dataset, plan, sys.argv[1], engine=sys.argv[2], workers=1, progress=False)
"""


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], set[int]]]]:
    """Begin a slow run in a program of its own; give it, and the processes that read images, once they do."""
    programs: list[subprocess.Popen[str]] = []
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def begin(engine: str, *more: str) -> tuple[subprocess.Popen[str], set[int]]:
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "store"), engine, *more]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        programs.append(program)
        assert program.stdout is not None
        readers = {int(program.stdout.readline() or 0) for _ in range(20)}
        return program, readers

    yield begin
    for program in programs:
        program.kill()
        program.communicate()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(("engine", "sent"), [
    ("local", signal.SIGTERM), ("processes", signal.SIGINT), ("processes", signal.SIGKILL),
])  # fmt: skip
def test_a_signal_ends_it_soon_and_without_orphans(
    begun: Callable[..., tuple[subprocess.Popen[str], set[int]]], tmp_path: Path, engine: str, sent: signal.Signals
) -> None:
    start = time.monotonic()
    program, readers = begun(engine)
    assert all(is_running(pid) for pid in readers)
    began = time.monotonic()
    program.send_signal(sent)
    program.communicate(timeout=60)
    while any(is_running(pid) for pid in readers) and time.monotonic() - began < 60:
        time.sleep(0.01)
    # Five seconds, or on a busy machine less than the program took to begin (ten where this takes 1.2).
    assert time.monotonic() - began < max(5.0, began - start)
    assert program.returncode == -sent
    (tmp_path / "slow").unlink()
    assert resumed(tmp_path / "store") == 400
    assert not list((tmp_path / "store").rglob(".*"))


class Swift:
    """The slow dataset, at speed."""

    fingerprint = "slow"

    def __init__(self) -> None:
        self.images = random_images(400)

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def resumed(folder: Path, shard: str | None = None) -> int:
    """Finish the slow run in this process; give how many images it is of."""
    model, dataset = tiny_model("plain"), Swift()
    plan = make_plan(model, dataset, ["relu1"], count=3, batch=4, shard=8)
    found = run(model, dataset, plan, folder, shard=shard, progress=False)
    assert found is not None
    return found.images


def test_a_second_writer_is_refused_and_told_of_the_first(
    begun: Callable[..., tuple[subprocess.Popen[str], set[int]]], tmp_path: Path
) -> None:
    program, _ = begun("local")
    for share in (None, "1/2"):
        with pytest.raises(OSError, match=rf"another writer is at work: process {program.pid} on "):
            resumed(tmp_path / "store", share)
    program.kill()
    program.wait()
    (tmp_path / "slow").unlink()
    assert resumed(tmp_path / "store") == 400


def test_a_script_without_a_guard_is_told_so(
    begun: Callable[..., tuple[subprocess.Popen[str], set[int]]], tmp_path: Path
) -> None:
    program, _ = begun("processes", "unguarded")
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert (
        "a worker ended before it began, with exit code 1: a script that starts processes needs `if __name__" in errors
    )


# Ray


def test_ray_gives_what_this_process_gives_though_a_worker_is_killed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    import ray

    monkeypatch.setattr(rays, "PATIENCE", 600.0)  # a machine that is busy with other tests takes minutes to start Ray
    trap = Trap(tmp_path / "armed", "die", once=True)
    plan = plan_of(model, trap)
    run(model, trap, plan, tmp_path / "whole", progress=False)
    (tmp_path / "armed").write_text("")
    run(model, trap, plan, tmp_path / "store", engine="ray", workers=2, progress=False)
    assert not (tmp_path / "armed").exists()
    assert store_contents(tmp_path / "store") == store_contents(tmp_path / "whole")
    assert not ray.is_initialized()


class Cluster:
    """What `rays` uses of Ray, on a cluster whose CPUs somebody else has taken."""

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self.actor = self
        self.ready = self

    def remote(self, *_: Any) -> Any:
        return self

    def options(self, **_: Any) -> Any:
        return self

    def wait(self, _: Any, **__: Any) -> tuple[list[Any], list[Any]]:
        return [], []

    def kill(self, _: Any) -> None:
        return

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, "memory": 1e9, "node:10.0.0.1": 1.0}

    def available_resources(self) -> dict[str, float]:
        return {"memory": 1e9}


def test_a_cluster_that_lets_no_worker_start_is_given_up_with_its_resources_named(
    model: Model, dataset: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rays.PATIENCE + rays.BEAT <= 120
    monkeypatch.setattr(rays, "PATIENCE", 0.05)
    cluster = Cluster(2.0)
    job = Job(model, dataset, plan_of(model, dataset), "", 4)
    crew = rays._Crew(cluster, None, rays._resources(cluster, job, 2, 4), jobs.Queue([0, 1]))
    crew.hire()
    with pytest.raises(
        TimeoutError, match=r"each of 2 asks for 0\.5 CPUs, the cluster has \{'CPU': 2\.0, .*free \{'memory'"
    ):
        list(crew.work())


@pytest.mark.parametrize("cpus", [1.0, 2.0, 4.0, 16.0])
@pytest.mark.parametrize("workers", [None, 1, 3, 40])
@pytest.mark.parametrize("threads", [1, 4])
def test_ray_is_never_asked_for_all_cpus(
    model: Model, dataset: TensorDataset, cpus: float, workers: int | None, threads: int
) -> None:
    ask = rays._resources(Cluster(cpus), Job(model, dataset, plan_of(model, dataset), "", threads), workers, 50)
    assert ask.workers == workers or workers is None
    assert 0 < ask.cpus * ask.workers <= max(cpus - 1, 0.5)
