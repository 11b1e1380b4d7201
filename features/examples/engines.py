"""Engines: who computes the shards of a pass over a dataset. Whoever does, in whatever order, and however often it was
interrupted: the store is the same, byte for byte.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from features.activations import nearest
from features.examples.crews import processes
from features.examples.files import UNWRITTEN
from features.examples.images import fingerprint, image_id
from features.examples.index import fill, record
from features.examples.jobs import Job, Outcome, Tick, local
from features.examples.locking import Held, hold, holder, is_held
from features.examples.nouns import Examples
from features.examples.passing import finish, merge
from features.examples.plans import Plan
from features.examples.rays import ray_actors
from features.examples.shards import DamagedError, blocks, compact, merged, read_block, remove_contained, share_of
from features.examples.store import (
    SHARDS,
    begin,
    key_of,
    open_examples,
    read_manifest,
    tidy,
    write_layers,
    write_manifest,
)
from features.examples.telling import described
from features.examples.thumbnails import draw_thumbnails, kept_images
from features.models import Model
from features.records import MANIFEST

Engine: TypeAlias = Callable[[Job, Path, list[int], int | None, Tick], Generator[Outcome]]

LOCK = "lock"
# Seconds: no part of a file is so old while its writer lives.
YOUNG = 600.0
# Threads of torch for one worker where nothing is asked: more gain little for batches of a vision network.
THREADS = 4
# Seconds that a share waits for another that is just merging what all have done.
MERGING = 3600.0


def run(
    model: Model,
    dataset: Any,
    plan: Plan,
    store: str | os.PathLike[str],
    *,
    engine: str = "local",
    workers: int | None = None,
    shard: str | None = None,
    threads: int | None = None,
    thumbnails: int = 12,
    progress: bool = True,
) -> Examples | None:
    """Carry out ``plan`` on ``dataset`` into the folder ``store``, from where it was left, and give what it holds.

    ``engine`` is one of `ENGINES`, with ``workers`` at once. ``shard``, ``"i/n"`` or ``"environment"``, is for many
    programs that share a folder: each computes every n-th shard, and whoever finds all of them done merges; a share
    that is not the last gives ``None``. ``threads`` is how many threads of torch each worker uses (by default 4, or
    fewer where torch is set to fewer): the store remembers it, since the last bits of matrix products depend on it.
    ``thumbnails`` is how many images of each list of each unit are kept as pictures.

    Errors: ``ValueError`` saying what differs where the store was begun with another network, dataset or plan;
    ``OSError`` naming the path for a folder that cannot be written to, a full disk (with the free bytes), and another
    writer (with its name); ``MemoryError`` where one image is too much; ``RuntimeError`` naming the shards whose
    workers died three times, after all others are done. Nothing that was done is lost: call it again.
    """
    _check_asked(engine, workers, threads)
    share = None if shard is None else share_of(shard, os.environ)
    folder, begun = Path(store), _run(model, dataset, plan, threads)
    if not _is_complete(folder, begun, thumbnails):
        with _writer(folder, share):
            manifest = begin(folder, begun)
            if threads not in (None, manifest["run"]["threads"]):
                raise ValueError(
                    f"threads is {threads}, and the store '{folder}' was begun with {manifest['run']['threads']}: "
                    "leave it out"
                )
            job = Job(model, dataset, plan, key_of(manifest), manifest["run"]["threads"])
            if not _carry_out(job, folder, engine, workers, share, thumbnails, progress):
                return None
    return open_examples(folder)


def check_run(
    model: Model,
    dataset: Any,
    plan: Plan,
    store: str | os.PathLike[str],
    *,
    engine: str = "local",
    workers: int | None = None,
    shard: str | None = None,
) -> None:
    """Raise what `run` refuses before it looks at an image, as far as that is known without writing anything."""
    _check_asked(engine, workers, None)
    if shard is not None:
        share_of(shard, os.environ)
    folder, begun = Path(store), _run(model, dataset, plan, None)
    _check_place(folder)
    if folder.exists() and any(not path.name.startswith(LOCK) for path in folder.iterdir()):
        begin(folder, begun)


def _check_asked(engine: str, workers: int | None, threads: int | None) -> None:
    if engine not in ENGINES:
        raise ValueError(nearest(engine, ENGINES, what="engine", listing="features.examples.engines.ENGINES"))
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1")
    if engine == "local" and workers not in (None, 1):
        raise ValueError(f"workers is {workers}: engine 'local' is this process; give engine='processes' for more")


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is no folder: name another store", str(folder))
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder to make the store in", str(folder.absolute().parent)
        )


def _carry_out(
    job: Job,
    folder: Path,
    engine: str,
    workers: int | None,
    share: tuple[int, int] | None,
    thumbnails: int,
    progress: bool,
) -> bool:
    """Compute what is missing of our share, and merge if that was all; say whether it was."""
    tidy(folder, YOUNG if share else 0.0)
    if read_manifest(folder)["results"] is None:
        _compute(job, folder, engine, workers, share, progress)
    if share is None:
        _conclude(job, folder, engine, thumbnails, progress)
        return True
    if _present(folder / SHARDS) < set(range(len(job.plan.shards))):
        return False
    with _turn(folder / f"{LOCK}.merge"):
        _conclude(job, folder, f"{engine}, share {share[0]}/{share[1]}", thumbnails, progress)
    return True


def _compute(
    job: Job, folder: Path, engine: str, workers: int | None, share: tuple[int, int] | None, progress: bool
) -> None:
    place, (index, count) = folder / SHARDS, share or (1, 1)
    place.mkdir(exist_ok=True)
    spans = job.plan.shards
    mine = range(index - 1, len(spans), count)
    have = _verified(place, job.key, set(mine), alone=share is None)
    todo = [shard for shard in mine if shard not in have]
    if not todo:
        return
    lost: dict[int, str] = {}
    done = sum(len(spans[shard]) for shard in mine if shard in have)
    total = sum(len(spans[shard]) for shard in mine)
    with (
        tqdm(total=total, initial=done, unit="image", desc="examples", disable=not progress) as bar,
        closing(ENGINES[engine](job, place, todo, workers, bar.update)) as outcomes,
    ):
        for outcome in outcomes:
            lost |= {outcome.shard: outcome.failure} if outcome.failure else {}
            if share is None:  # an index on a network drive stands one machine only: shares leave it to who merges
                event = "failed" if outcome.failure else "shard"
                record(
                    folder, event, engine=engine, shard=outcome.shard, seconds=outcome.seconds, detail=outcome.failure
                )
                compact(place, job.key, merge)
    if lost:
        each = "; ".join(f"shard {shard}: {why}" for shard, why in sorted(lost.items()))
        raise RuntimeError(
            f"{len(lost)} of {len(spans)} shards failed ({each}); the others are done and kept, call it again for these"
        )


def _verified(place: Path, key: str, mine: set[int], *, alone: bool) -> set[int]:
    """Give the shards of ours that are there, whole; the damaged are removed, to be computed again."""
    if alone:
        remove_contained(place)
    have: set[int] = set()
    for block in blocks(place):
        shards = set(range(block.first, block.last + 1))
        if not shards & mine:
            continue
        try:
            read_block(block, key)
        except DamagedError:
            block.path.unlink()
            continue
        have |= shards
    return have


def _present(place: Path) -> set[int]:
    return {shard for block in blocks(place) for shard in range(block.first, block.last + 1)}


def _conclude(job: Job, folder: Path, engine: str, thumbnails: int, progress: bool) -> None:
    manifest = read_manifest(folder)
    if manifest["results"] is None:
        began = time.perf_counter()
        manifest["results"] = _results(job, folder)
        write_manifest(folder, manifest)
        record(folder, "merged", engine=engine, seconds=time.perf_counter() - began)
    if job.model.channels in (1, 3) and manifest["results"]["thumbnails"] < thumbnails:
        images = kept_images(open_examples(folder).arrays, thumbnails)
        draw_thumbnails(folder, job.dataset, images, job.model.image_size, job.model.channels, progress=progress)
        manifest["results"]["thumbnails"] = thumbnails
        write_manifest(folder, manifest)


def _results(job: Job, folder: Path) -> dict[str, Any]:
    """Merge the shards, write the arrays and the index, and give what the manifest says of them."""
    place, plan, model = folder / SHARDS, job.plan, job.model
    compact(place, job.key, merge)
    part, notes = merged(blocks(place), job.key, merge)
    skipped = [(int(index), str(reason)) for note in notes for index, reason in note["skipped"]]
    layers = finish(part, model, plan)
    told = described(model, job.dataset, plan, skipped, layers)
    files = write_layers(folder, layers)
    fill(folder, layers, {image: image_id(job.dataset, image) for image in kept_images(layers, plan.count)}, notes)
    return {
        "examples": {field.name: getattr(told, field.name) for field in fields(told) if field.name not in UNWRITTEN},
        "layers": {name: len(layer.mean) for name, layer in layers.items()},
        "files": files,
        "shards": [block.path.name for block in blocks(place)],
        "halved": {str(note["shard"]): note["batch"] for note in notes if note["batch"] != plan.batch},
        "thumbnails": 0,
    }


def _run(model: Model, dataset: Any, plan: Plan, threads: int | None) -> dict[str, Any]:
    if len(dataset) != plan.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the plan is for {plan.length}")
    return {
        "model": model.name,
        "digest": model.digest,
        "dataset": fingerprint(dataset),
        "length": plan.length,
        "image_size": list(model.image_size),
        "channels": model.channels,
        "pooling": ["max", "mean"],
        "plan": asdict(plan),
        "threads": threads or min(THREADS, torch.get_num_threads()),
        "torch": torch.__version__,
        "device": model.device.type,
    }


def _is_complete(folder: Path, begun: Mapping[str, Any], thumbnails: int) -> bool:
    """Say whether nothing is left to do, so that nobody needs to be kept from the folder."""
    if not (folder / MANIFEST).is_file():
        return False
    results = begin(folder, begun)["results"]
    return results is not None and (results.get("thumbnails") or 0) >= thumbnails


@contextmanager
def _writer(folder: Path, share: tuple[int, int] | None) -> Iterator[None]:
    """Hold the folder against other writers; shares hold it against those that do it all, and each against itself."""
    _check_place(folder)
    folder.mkdir(exist_ok=True)
    name = f"{LOCK}.{share[0]}-of-{share[1]}" if share else LOCK
    with hold(folder / name, f"share {share[0]}/{share[1]}" if share else "all shards"):
        for other in (folder / LOCK,) if share else sorted(folder.glob(f"{LOCK}.*")):
            if is_held(other):
                raise Held(
                    errno.EAGAIN, f"another writer is at work: {holder(other)}; wait for it, or end it", str(other)
                )
        yield


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold the lock ``path``, after waiting for who holds it."""
    until = time.monotonic() + MERGING
    while True:
        try:
            with hold(path, "merging"):
                yield
            return
        except Held:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


ENGINES: dict[str, Engine] = {"local": local, "processes": processes, "ray": ray_actors}
