"""The store: what is written is read, an array at a time; the index says what the arrays say; nothing is trusted."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, random_images, tiny_model
from reference import store_contents
from torch.utils.data import TensorDataset

import features.examples.locking as locking
import features.examples.shards as shards_file
from features.examples.engines import run
from features.examples.index import LISTS, best_examples, image_name, most_excited
from features.examples.jobs import Job
from features.examples.loading import batches
from features.examples.locking import hold, holder, is_held
from features.examples.nouns import Examples, LayerExamples
from features.examples.passing import finish, sweep
from features.examples.plans import Plan, make_plan
from features.examples.shards import (
    FAN,
    blocks,
    compact,
    merged,
    pack,
    read_block,
    remove_contained,
    share_of,
    write_block,
)
from features.examples.store import check_store, open_examples
from features.models import Model

LAYERS = ("block1", "block3", "logits")
KEY = "k" * 64


def world(count: int = 41) -> tuple[Model, TensorDataset]:
    labels = torch.randint(len(CLASSES), (count,), generator=torch.Generator().manual_seed(1))
    return tiny_model("batch_norm"), TensorDataset(random_images(count), labels)


def small_plan(model: Model, dataset: TensorDataset, **asked: object) -> Plan:
    return make_plan(model, dataset, LAYERS, **({"count": 4, "batch": 4, "shard": 8} | asked))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here outlives a process; that it outlives a power cut, which flushing is for, is not."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, TensorDataset, Plan]:
    """A finished store and what it was made of."""
    folder = tmp_path_factory.mktemp("made") / "store"
    model, dataset = world()
    plan = small_plan(model, dataset)
    run(model, dataset, plan, folder, thumbnails=3, progress=False)
    return folder, model, dataset, plan


@pytest.fixture
def copied(made: tuple[Path, Model, TensorDataset, Plan], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "copied"))


def touch(examples: Examples) -> None:
    """Read every array."""
    for name in examples.layers:
        for field in fields(LayerExamples):
            getattr(examples.layer(name), field.name)


def test_what_is_read_is_what_a_pass_in_memory_finds(made: tuple[Path, Model, TensorDataset, Plan]) -> None:
    folder, model, dataset, plan = made
    part = sweep(model, batches(dataset, model, range(len(dataset)), plan.batch), plan)
    found, wanted = open_examples(folder), finish(part, model, plan)
    assert found.layers == plan.layers
    assert (found.length, found.images, found.count, found.batch) == (41, 41, 4, 4)
    for name, layer in wanted.items():
        for field in fields(layer):
            ours, theirs = getattr(found.layer(name), field.name), getattr(layer, field.name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}/{field.name}")


def test_an_array_is_read_when_it_is_asked_for(copied: Path) -> None:
    shutil.rmtree(copied / "vectors")
    (copied / "layers" / "block3.safetensors").unlink()
    examples = open_examples(copied)
    assert examples.layer("block1").value.shape == (6, 4)
    with pytest.raises(ValueError, match=r"vectors/block1\.safetensors cannot be read"):
        _ = examples.layer("block1").vectors
    with pytest.raises(ValueError, match=r"layers/block3\.safetensors cannot be read"):
        _ = examples.layer("block3").mean
    with pytest.raises(AttributeError, match="no 'nonsense'"):
        _ = examples.layer("block1").nonsense  # type: ignore[attr-defined]


def test_a_stored_layer_can_be_copied_changed_and_sent(made: tuple[Path, Model, TensorDataset, Plan]) -> None:
    layer = open_examples(made[0]).layer("block1")
    changed = dataclasses.replace(layer, mean=layer.mean + 1)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), changed):
        assert isinstance(other, LayerExamples)
        np.testing.assert_array_equal(other.value, layer.value)
    np.testing.assert_array_equal(changed.mean, layer.mean + 1)


@pytest.mark.parametrize("kind", LISTS)
def test_the_index_says_of_a_unit_what_the_arrays_say(made: tuple[Path, Model, TensorDataset, Plan], kind: str) -> None:
    folder = made[0]
    examples = open_examples(folder)
    for name in examples.layers:
        layer, prefix = examples.layer(name), LISTS[kind]
        for channel in range(len(layer.mean)):
            columns = [getattr(layer, f"{prefix}{each}")[channel] for each in ("image", "label", "value")]
            image, label, value = (column.reshape(-1).tolist() for column in columns)
            boxes = getattr(layer, f"{prefix}box")[channel].reshape(-1, 4).tolist()
            places = getattr(layer, f"{prefix}position")[channel].reshape(-1, 2).tolist()
            wanted = [
                (rank, image[rank], str(image[rank]), label[rank], value[rank], tuple(places[rank]), tuple(boxes[rank]))
                for rank in range(len(image))
                if image[rank] >= 0
            ]
            assert best_examples(folder, f"{name}:{channel}", 1000, kind=kind) == wanted
    assert len(best_examples(folder, "block3:0", 2)) == 2


def test_the_index_says_of_an_image_which_units_it_excites(made: tuple[Path, Model, TensorDataset, Plan]) -> None:
    folder, _, dataset, _ = made
    examples = open_examples(folder)
    seen = 0
    for image in range(len(dataset)):
        wanted = []
        for place, unit in enumerate(examples):
            found = examples[unit]
            for rank in np.flatnonzero(found.image == image).tolist():
                share = float(found.value[rank]) / found.maximum if found.maximum > 0 else -np.inf
                wanted.append((-share, place, unit, float(found.value[rank]), rank))
        wanted.sort()
        ours = most_excited(folder, image, 1000)
        assert [(each.unit, each.value, each.rank) for each in ours] == [each[2:] for each in wanted]
        shares = [-each[0] for each in wanted if each[0] < np.inf]
        np.testing.assert_allclose([each.share for each in ours][: len(shares)], shares)
        assert most_excited(folder, str(image), 3) == ours[:3]
        seen += len(ours)
    assert seen > 50
    assert most_excited(folder, 10**6) == most_excited(folder, "no such image") == []
    best = best_examples(folder, "block1:0")[0]
    assert image_name(folder, best.image) == best.id
    with pytest.raises(ValueError, match="keeps no image 1000000"):
        image_name(folder, 10**6)


def test_any_tool_can_read_the_index(made: tuple[Path, Model, TensorDataset, Plan]) -> None:
    with closing(sqlite3.connect(made[0] / "index.sqlite")) as index:
        assert index.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert index.execute("SELECT count(*), min(first), max(last), sum(images) FROM shards").fetchone() == (
            6,
            0,
            40,
            41,
        )
        assert index.execute("SELECT count(*) FROM units").fetchone() == (len(open_examples(made[0])),)
        events = [event for (event,) in index.execute("SELECT event FROM provenance ORDER BY entry")]
        assert events == ["shard"] * 6 + ["merged"]
        assert index.execute("SELECT DISTINCT pid FROM provenance").fetchall() == [(os.getpid(),)]


def test_thumbnails_are_the_images_that_units_keep(made: tuple[Path, Model, TensorDataset, Plan]) -> None:
    folder, _, dataset, _ = made
    examples = open_examples(folder)
    pictures = examples.pictures
    assert pictures is not None
    kept = {int(image) for unit in examples for image in examples[unit].image[:3]}
    assert kept
    for image in kept:
        picture = pictures(image)
        assert picture.shape == (12, 12, 3)
        truth = dataset[image][0].permute(1, 2, 0).numpy()
        # WebP halves the resolution of colour; of noise, brightness is what stays.
        assert np.corrcoef(picture.mean(2).ravel(), truth.mean(2).ravel())[0, 1] > 0.8
    with pytest.raises(KeyError):
        pictures(10**6)


def test_a_finished_store_is_opened_not_computed(
    made: tuple[Path, Model, TensorDataset, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, dataset, plan = made
    before = store_contents(folder)

    def fail(*_: object) -> bytes:
        raise AssertionError("computed again")

    monkeypatch.setattr(Job, "compute", fail)
    with hold(folder / "lock", "somebody else"):  # nothing is to be written, so nobody is in the way
        found = run(model, dataset, plan, folder, thumbnails=3, progress=False)
    assert found is not None
    assert found.images == 41
    assert store_contents(folder) == before


def other_weights(model: Model, dataset: TensorDataset) -> tuple[Model, TensorDataset, dict[str, object]]:
    return tiny_model("batch_norm", seed=1), dataset, {}


def other_images(model: Model, dataset: TensorDataset) -> tuple[Model, TensorDataset, dict[str, object]]:
    images = dataset.tensors[0].clone()
    images[0] = 1 - images[0]
    return model, TensorDataset(images, dataset.tensors[1]), {}


def fewer_images(model: Model, dataset: TensorDataset) -> tuple[Model, TensorDataset, dict[str, object]]:
    return model, TensorDataset(*(each[:40] for each in dataset.tensors)), {}


def other_plan(model: Model, dataset: TensorDataset) -> tuple[Model, TensorDataset, dict[str, object]]:
    return model, dataset, {"batch": 8}


CHANGES: dict[str, tuple[Callable[..., tuple[Model, TensorDataset, dict[str, object]]], str]] = {
    "weights": (other_weights, "begun with other weights: its digest is"),
    "images": (other_images, "begun with another dataset: its dataset is"),
    "length": (fewer_images, "begun with another dataset"),
    "plan": (other_plan, r"begun with another plan: its plan is \{'batch': 4\}, and now it is \{'batch': 8\}"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_network_dataset_or_plan_is_refused(
    copied: Path, made: tuple[Path, Model, TensorDataset, Plan], change: str, finished: bool
) -> None:
    changed, words = CHANGES[change]
    model, dataset, asked = changed(made[1], made[2])
    if not finished:
        manifest = json.loads((copied / "manifest.json").read_text())
        (copied / "manifest.json").write_text(json.dumps(manifest | {"results": None}))
    before = store_contents(copied)
    with pytest.raises(ValueError, match=words):
        run(model, dataset, small_plan(model, dataset, **asked), copied, progress=False)
    assert store_contents(copied) == before


@pytest.mark.parametrize("place", ["missing/store", "/proc/store", "file/store", "file", "strange", "record"])
def test_a_folder_that_cannot_be_a_store_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.tex").write_text("")
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "manifest.json").write_text('{"kind": "examples", "schema": 1}')
    model, dataset = world(9)
    plan = small_plan(model, dataset)
    monkeypatch.setattr(Job, "compute", lambda *_: pytest.fail("computed"))
    with pytest.raises((OSError, ValueError), match="store") as caught:
        run(model, dataset, plan, tmp_path / place, progress=False)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "strange" / "thesis.tex").exists()


def test_an_unfinished_store_says_so(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"results": None}))
    with pytest.raises(ValueError, match="is not finished: call find_examples"):
        open_examples(copied)
    with pytest.raises(FileNotFoundError, match="no store here"):
        open_examples(copied / "nowhere")
    with pytest.raises(FileNotFoundError, match="no store here"):
        best_examples(copied / "nowhere", "block1:0")


def test_a_store_of_a_newer_version_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(ValueError, match="newer version"):
        open_examples(copied)


def swap(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_row(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "index.sqlite")) as index, index:
        index.execute("UPDATE examples SET image = image + 1 WHERE list = 'top' AND rank = 0 AND unit = 0")


def remove_shard(folder: Path) -> None:
    blocks(folder / "shards")[0].path.unlink()


TAMPERINGS: dict[str, Callable[[Path], None]] = {
    "shard": lambda folder: swap(blocks(folder / "shards")[0].path),
    "missing shard": remove_shard,
    "arrays": lambda folder: swap(folder / "layers" / "block1.safetensors"),
    "vectors": lambda folder: swap(folder / "vectors" / "logits.safetensors"),
    "row": edit_row,
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_is_not_as_it_was_written_is_found(copied: Path, tampering: str) -> None:
    check_store(copied)
    TAMPERINGS[tampering](copied)
    with pytest.raises(ValueError, match=r"damaged|are not those|differ"):
        check_store(copied)


def use(folder: Path) -> None:
    """Do with a store all that a reader does."""
    examples = open_examples(folder)
    touch(examples)
    for unit in list(examples)[:3]:
        best_examples(folder, unit)
        assert examples.pictures is not None
        for image in examples[unit].image.tolist():
            examples.pictures(image)
    most_excited(folder, 3)
    check_store(folder)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage a file as disks, editors and enemies do."""
    changed = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(changed[: chance.randrange(len(changed) + 1)])
    if kind == 1:
        return bytes(changed) + chance.randbytes(chance.randrange(1, 200))
    for _ in range(chance.choice([1, 3, 30])):
        start = chance.randrange(len(changed)) if kind > 2 else chance.randrange(min(200, len(changed)))
        changed[start : start + (1 if kind != 4 else 8)] = chance.randbytes(1 if kind != 4 else 8)
    return bytes(changed)


def test_damaged_files_are_refused_with_a_sentence_never_another_exception(
    made: tuple[Path, Model, TensorDataset, Plan], copied: Path
) -> None:
    chance = random.Random(0)
    files = [path.relative_to(copied) for path in copied.rglob("*") if path.is_file()]
    refused, rounds = 0, int(os.environ.get("STORE_MUTATIONS", "150"))
    for _ in range(rounds):
        name = chance.choice([*files, Path("manifest.json"), Path("index.sqlite")])
        whole = (made[0] / name).read_bytes()
        (copied / name).write_bytes(mutate(whole, chance))
        began = time.perf_counter()
        try:
            use(copied)
        except (ValueError, OSError, KeyError) as error:
            assert not isinstance(error, KeyError) or isinstance(error.args[0], int), repr(error)
            assert str(error).strip()
            refused += 1
        assert time.perf_counter() - began < 5
        (copied / name).write_bytes(whole)
        for path in copied.glob("*-*"):
            path.unlink()
    use(copied)
    assert refused > rounds / 2


HOSTILE: dict[str, object] = {
    "a list": [],
    "deep": json.loads("[" * 500 + "]" * 500),
    "results are text": {"results": "yes"},
    "no run": {"run": None},
    "threads": {"run": {"threads": "many"}},
    "negative threads": {"run": {"threads": -3}},
    "kind": {"kind": "</script>"},
    "schema": {"schema": "1"},
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_manifests_are_refused_with_a_sentence(
    copied: Path, made: tuple[Path, Model, TensorDataset, Plan], hostile: str
) -> None:
    manifest, change = json.loads((copied / "manifest.json").read_text()), HOSTILE[hostile]
    (copied / "manifest.json").write_text(json.dumps(manifest | change if isinstance(change, dict) else change))
    for act in (lambda: open_examples(copied), lambda: run(*made[1:3], made[3], copied, progress=False)):
        with pytest.raises(ValueError, match=r"store|record") as caught:
            act()
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("change", [
    {"layers": {"../../secret": 3}}, {"layers": {"block1": 10**9}}, {"layers": []}, {"files": {}}, {"examples": {}},
    {"examples": None},
])  # fmt: skip
def test_hostile_results_are_refused_when_they_are_read(copied: Path, change: dict[str, object]) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["results"] |= change
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (copied.parent / "secret.safetensors").write_bytes(b"secret")
    with pytest.raises(ValueError, match="damaged"):
        touch(open_examples(copied))


def test_an_index_whose_question_never_ends_is_given_up(copied: Path) -> None:
    with closing(sqlite3.connect(copied / "index.sqlite")) as index, index:
        index.execute("ALTER TABLE examples RENAME TO hidden")
        index.execute(
            "CREATE VIEW examples AS WITH RECURSIVE n(image) AS (SELECT 1 UNION ALL SELECT image FROM n) "
            "SELECT 0 AS unit, 'top' AS list, 0 AS rank, image, 0 AS label, 1.0 AS value, 0 AS y, 0 AS x, 0 AS y0,"
            " 0 AS x0, 0 AS y1, 0 AS x1 FROM n"
        )
    began = time.perf_counter()
    with pytest.raises(ValueError, match="damaged or not finished: interrupted"):
        most_excited(copied, 3)
    assert time.perf_counter() - began < 8


# Shards


def numbers(shard: int) -> dict[str, np.ndarray]:
    return {"number": np.array([shard]), "square": np.array([shard * shard], dtype=np.float32)}


def put_together(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    order = np.argsort(np.concatenate([part["number"] for part in parts]))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def write_shard(folder: Path, shard: int) -> None:
    write_block(folder, shard, shard, pack(numbers(shard), {"key": KEY, "shards": [{"shard": shard}]}))


def test_blocks_do_not_depend_on_the_order_in_which_shards_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_file, "FAN", 4)
    count, found = 4 * 4 + 4 + 3, []
    for seed in (None, 0, 1):
        folder = tmp_path / str(seed)
        order = list(range(count))
        if seed is not None:
            random.Random(seed).shuffle(order)
        for place, shard in enumerate(order):
            write_shard(folder, shard)
            if seed == 0 or place == count - 1:
                compact(folder, KEY, put_together)
        found.append(store_contents(folder))
        spans = [(block.first, block.last) for block in blocks(folder)]
        assert spans == [(0, 15), (16, 19), (20, 20), (21, 21), (22, 22)]
        part, notes = merged(blocks(folder), KEY, put_together)
        assert part["number"].tolist() == [note["shard"] for note in notes] == list(range(count))
    assert found[0] == found[1] == found[2]


def test_what_a_killed_merge_left_is_removed(tmp_path: Path) -> None:
    for shard in range(FAN):
        write_shard(tmp_path, shard)
    left = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    compact(tmp_path, KEY, put_together)
    for shard in (2, 7):
        write_block(tmp_path, shard, shard, left[shard])
    assert [(block.first, block.last) for block in blocks(tmp_path)] == [(0, FAN - 1)]
    remove_contained(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_shard_of_another_run_or_number_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, 3)
    block = blocks(tmp_path)[0]
    assert read_block(block, KEY)[0]["number"].tolist() == [3]
    with pytest.raises(ValueError, match="belongs to another run"):
        read_block(block, "another")
    renamed = block.path.rename(block.path.with_name(block.path.name.replace("000003-000003", "000004-000004")))
    with pytest.raises(ValueError, match="belongs to another run"):
        read_block(dataclasses.replace(block, first=4, last=4, path=renamed), KEY)


SHARES = {
    "1/8": ({}, (1, 8)),
    "8/8": ({}, (8, 8)),
    "torchrun": ({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (4, 4)),
    "array": ({"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5"}, (3, 5)),
    "steps": ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_STEP": "4", "SLURM_ARRAY_TASK_COUNT": "3"}, (3, 3)),
    "tasks of an array": (
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_NTASKS": "3", "SLURM_PROCID": "2"}, (6, 6),
    ),
    "slurm": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_what_was_said_or_what_the_environment_says(name: str) -> None:
    environment, wanted = SHARES[name]
    assert share_of(name if "/" in name else "environment", environment) == wanted


@pytest.mark.parametrize(("text", "environment"), [
    ("0/4", {}), ("5/4", {}), ("1/0", {}), ("a/b", {}), ("", {}), ("1", {}), ("-1/4", {}), ("environment", {}),
    ("environment", {"RANK": "0"}), ("environment", {"RANK": "4", "WORLD_SIZE": "4"}),
    ("environment", {"RANK": "x", "WORLD_SIZE": "4"}),
])  # fmt: skip
def test_a_share_that_is_none_is_refused(text: str, environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"shard is|environment|WORLD_SIZE"):
        share_of(text, environment)


# Locks

HOLDER = """
import runpy, sys, time
from pathlib import Path
hold = runpy.run_path(sys.argv[2])["hold"]  # the file alone: its package would import torch
with hold(Path(sys.argv[1]), "a long job"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(locking.__file__)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert is_held(path)
        with pytest.raises(OSError, match=rf"another writer is at work: process {first.pid} on .*a long job"):
            with hold(path, "another"):
                pass
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert path.exists()
    assert not is_held(path)
    with hold(path, "another"):
        assert f"process {os.getpid()} on" in holder(path)
        with pytest.raises(OSError, match="another writer"), hold(path, "the same process again"):
            pass
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"pid": "x"}', "[" * 5000])
def test_a_lock_file_of_nobody_is_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    assert "not yet said its name" in holder(path)
    with hold(path, "mine"):
        assert is_held(path)


def test_a_lock_is_no_way_to_write_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), hold(tmp_path / "lock", "mine"):
        pass
    assert (tmp_path / "precious").read_text() == "data"
