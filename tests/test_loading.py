"""Loading: batches are what a plain loop reads, whatever reads them; nothing outlives the reader."""

from __future__ import annotations

import gc
import io
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images, tiny_model
from PIL import Image
from reference import slow_batches
from torch.utils.data import Subset, TensorDataset

from features.examples import FolderImages
from features.examples.loading import AHEAD, PATIENCE, Batch, Intake, batches
from features.models import Model
from features.pictures import strict_decoding

INTAKE = Intake((12, 12), 3, torch.float64)


class Items:
    """A dataset of pairs; items that are exceptions are raised, and who read what is written down."""

    def __init__(self, images: Any, *, bad: dict[int, Any] | None = None, concurrent: bool = False) -> None:
        self.images, self.bad, self.concurrent = list(images), bad or {}, concurrent
        self.read: list[int] = []
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.read.append(index)
        self.threads.add(threading.get_ident())
        given = self.bad.get(index, self.images[index])
        if isinstance(given, BaseException):
            raise given
        return given, index % 4


class Stalled(Items):
    """A dataset whose items after the first few wait until they are let go, with time to notice."""

    def __init__(self, images: Any, free: int) -> None:
        super().__init__(images)
        self.free, self.go = free, threading.Event()

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index >= self.free:
            self.go.wait(20)
        return super().__getitem__(index)


def assert_same_batches(found: list[Batch], expected: list[Batch]) -> None:
    assert [batch.span for batch in found] == [batch.span for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.skipped == other.skipped
        for name in ("images", "indices", "labels"):
            left, right = getattr(one, name), getattr(other, name)
            assert left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right), name


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loading"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not readers()


# What the batches are


@pytest.mark.parametrize("workers", [0, 1, 2, 5, None])
@pytest.mark.parametrize("batch", [1, 3, 7, 40])
def test_batches_are_what_a_plain_loop_reads(workers: int | None, batch: int) -> None:
    bad = {index: ValueError(f"no {index}") for index in (0, 4, 5, 6, 7, 8, 9, 10, 22)} | {15: OSError("gone")}
    for indices in (range(23), range(4, 11), range(3, 20), range(5, 5)):
        items = Items(random_images(23), bad=bad, concurrent=True)
        found = list(batches(items, INTAKE, indices, batch, workers=workers))
        assert_same_batches(found, slow_batches(items, INTAKE, indices, batch))
        assert all(len(each.span) == len(each.images) + len(each.skipped) for each in found)


def test_a_bad_item_changes_no_other_batch() -> None:
    images = random_images(20)
    whole = list(batches(Items(images), INTAKE, range(20), 4))
    holed = list(batches(Items(images, bad={5: ValueError("x")}), INTAKE, range(20), 4))
    assert_same_batches(holed[:1] + holed[2:], whole[:1] + whole[2:])
    assert holed[1].indices.tolist() == [4, 6, 7] and torch.equal(holed[1].images, whole[1].images[[0, 2, 3]])


def test_a_batch_without_a_readable_item_is_empty_and_says_why() -> None:
    bad = {index: SyntaxError("broken PNG") for index in range(4, 8)}
    _, empty, _ = batches(Items(random_images(12), bad=bad), INTAKE, range(12), 4)
    assert empty.images.shape == (0, 3, 12, 12) and empty.indices.shape == empty.labels.shape == (0,)
    assert empty.skipped == tuple((index, "SyntaxError: broken PNG") for index in range(4, 8))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_indices_in_any_order(workers: int) -> None:
    items = Items(random_images(9), bad={7: ValueError("x")})
    for wanted in ([8, 0, 0, 7, 3], [], [2]):
        for dataset in (items, torch.stack(items.images)):
            bad = {} if dataset is not items else None
            found = list(batches(dataset, INTAKE, wanted, 2, workers=workers))
            expected = slow_batches(dataset, INTAKE, wanted, 2)
            assert_same_batches(found, expected)
            assert bad is None or not any(batch.skipped for batch in found)


def test_images_in_memory_are_sliced_and_equal_to_those_that_are_read(tmp_path: Path) -> None:
    images = random_images(10)
    labels = torch.arange(10) % 3
    slow = slow_batches(list(zip(images, labels, strict=True)), INTAKE, range(10), 4)
    assert_same_batches(list(batches(TensorDataset(images, labels), INTAKE, range(10), 4)), slow)
    alone = slow_batches(list(images), INTAKE, range(10), 4)
    np.save(tmp_path / "images.npy", images.numpy())
    frozen = images.numpy().copy()
    frozen.flags.writeable = False
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for dataset in (images, images.numpy(), frozen, mapped, TensorDataset(images), Subset(images, range(10))):
        assert_same_batches(list(batches(dataset, INTAKE, range(10), 4)), alone)
    first = next(batches(images, INTAKE, range(10), 4))
    assert first.images.data_ptr() == images.data_ptr()


def test_no_thread_is_started_for_images_in_memory() -> None:
    images = random_images(10)
    for dataset in (images, images.numpy(), TensorDataset(images)):
        stream = batches(dataset, INTAKE, range(10), 2)
        next(stream)
        assert not readers()


def test_images_come_as_the_model_takes_them() -> None:
    model = tiny_model("plain")
    assert model.dtype == torch.float64
    for dataset in (random_images(3).float(), list(random_images(3).float()), Items(random_images(3).float())):
        (batch,) = batches(dataset, model, range(3), 4)
        assert batch.images.dtype == torch.float64 and batch.images.device == model.device
    with torch.inference_mode():
        (batch,) = batches(Items(random_images(3)), model, range(3), 4)
        model(batch.images)


def test_pictures_of_a_folder_are_read_by_several_threads_in_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(30):
        picture = Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{index:02d}.png")
    (tmp_path / "07.png").write_bytes(b"")
    folder = FolderImages(tmp_path, (12, 12))
    expected = slow_batches(folder, INTAKE, range(30), 8)
    for workers in (0, 1, 4):
        assert_same_batches(list(batches(folder, INTAKE, range(30), 8, workers=workers)), expected)


# When they are read


def test_batches_are_read_while_the_caller_works_and_not_too_many() -> None:
    items = Items(random_images(40))
    with closing(batches(items, INTAKE, range(40), 4)) as stream:
        next(stream)
        ready = 4 * (1 + AHEAD)
        deadline = time.monotonic() + 10
        while len(items.read) < ready and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.1)
        assert items.read == list(range(ready))


def test_nothing_is_read_ahead_without_a_thread() -> None:
    items = Items(random_images(12))
    stream = batches(items, INTAKE, range(12), 4, workers=0)
    assert items.read == []
    next(stream)
    assert items.read == [0, 1, 2, 3] and items.threads == {threading.get_ident()}


def test_an_unknown_dataset_is_read_by_one_thread_in_order() -> None:
    items = Items(random_images(30))
    list(batches(items, INTAKE, range(30), 4))
    assert items.read == list(range(30))
    assert len(items.threads) == 1 and threading.get_ident() not in items.threads


class Meeting(Items):
    """A dataset whose first two items are only read together."""

    def __init__(self, images: Any) -> None:
        super().__init__(images, concurrent=True)
        self.barrier = threading.Barrier(2, timeout=20)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index in (0, 2):
            self.barrier.wait()
        return super().__getitem__(index)


def test_two_threads_read_one_batch_together() -> None:
    items = Meeting(random_images(4))
    (batch,) = batches(items, INTAKE, range(4), 4, workers=2)
    assert batch.indices.tolist() == [0, 1, 2, 3] and len(items.threads) == 2


# Errors, and the end


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (torch.zeros(3, 5, 5), ValueError, r"the image of item 6 is \(3, 5, 5\)"),
        (torch.full((3, 12, 12), 2.0), ValueError, "the image of item 6 goes from 2 to 2"),
        (torch.full((3, 12, 12), torch.nan), ValueError, "the image of item 6 goes from nan"),
        (torch.zeros(3, 12, 12, dtype=torch.uint8), TypeError, "the image of item 6 holds torch.uint8"),
        ("text", TypeError, "the image of item 6 is of type str"),
        (KeyError("column"), KeyError, "column"),
    ],
)
def test_errors_arrive_where_the_batch_would_have(workers: int, given: Any, kind: type, words: str) -> None:
    items = Items(random_images(20), bad={6: given})
    stream = batches(items, INTAKE, range(20), 4, workers=workers)
    assert next(stream).indices.tolist() == [0, 1, 2, 3]
    with pytest.raises(kind, match=words) as caught:
        next(stream)
    if kind is KeyError:
        assert set(caught.value.__notes__) == {"while item 6 of the dataset was read"}
    assert not readers()


def test_a_bad_item_in_memory_is_named() -> None:
    images = random_images(9)
    images[5, 0, 0, 0] = 1.5
    stream = batches(images, INTAKE, range(9), 4)
    next(stream)
    with pytest.raises(ValueError, match="item 5 goes from"):
        next(stream)
    with pytest.raises(TypeError, match=r"item 0 holds torch\.uint8"):
        next(batches((images * 255).byte(), INTAKE, range(9), 4))
    with pytest.raises(ValueError, match=r"item 0 is \(3, 11, 12\)"):
        next(batches(images[:, :, 1:], INTAKE, range(9), 4))
    noise = random_images(3) * (1 + 1e-5)
    assert len(next(batches(noise, INTAKE, range(3), 4)).images) == 3


def test_threads_end_when_the_caller_stops() -> None:
    def opened() -> Any:
        stream = batches(Items(random_images(40)), INTAKE, range(40), 4, workers=3)
        next(stream)
        assert len(readers()) == 3
        return stream

    with closing(opened()):
        pass
    assert not readers()
    stream = opened()
    del stream
    gc.collect()
    assert not readers()
    with pytest.raises(ZeroDivisionError), closing(opened()) as stream:
        for _ in stream:
            _ = 1 / 0
    assert not readers()
    list(batches(Items(random_images(9)), INTAKE, range(9), 4, workers=3))
    assert not readers()


def test_a_stop_waits_for_no_more_than_the_image_at_hand() -> None:
    items = Stalled(random_images(400), free=2)
    stream = batches(items, INTAKE, range(400), 2)
    next(stream)
    threading.Timer(0.2, items.go.set).start()
    stream.close()
    assert not readers() and len(items.read) <= 3


@pytest.fixture
def listening() -> Iterator[None]:
    """Hear Ctrl-C, which a program that was started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_ends_it_and_an_item_that_never_comes_keeps_nothing_alive() -> None:
    items = Stalled(random_images(40), free=4)
    # As the kernel may deliver it: to a thread that is not the one that waits.
    threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), closing(batches(items, INTAKE, range(40), 2)) as stream:
        for _ in stream:
            assert all(thread.daemon for thread in readers())
    assert time.monotonic() - start < 0.3 + PATIENCE + 5
    assert len(readers()) == 1  # it waits for an item that does not come, and is left to it
    items.go.set()
    readers()[0].join(10)


def test_plans_that_cannot_be_are_refused_at_once() -> None:
    items = Items(random_images(5))
    for indices in (range(6), range(-1, 3), [0, 5], [-1], range(9, 12)):
        with pytest.raises(ValueError, match=r"there is no item -?\d+: this dataset has 5 items \(0 to 4\)"):
            batches(items, INTAKE, indices, 2)
    for batch in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match=r"batch is .*: give a whole number of at least 1"):
            batches(items, INTAKE, range(5), batch)
    for workers in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"workers is .*: give a whole number of at least 0"):
            batches(items, INTAKE, range(5), 2, workers=workers)
    assert items.read == []


# Reasons and warnings


class Opened:
    """A dataset that opens files with Pillow itself, as many do."""

    def __init__(self, blobs: list[bytes]) -> None:
        self.blobs = blobs

    def __len__(self) -> int:
        return len(self.blobs)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.blobs[index])).convert("RGB")


def png(size: tuple[int, int] = (12, 12)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, 77).save(buffer, "PNG")
    return buffer.getvalue()


def test_reasons_are_the_same_words_at_every_run() -> None:
    blobs = [png(), b"", b"junk", png()[:40], png()[:-30]]
    runs = [[next(batches(Opened(list(blobs)), INTAKE, range(5), 8)).skipped for _ in range(2)] for _ in range(2)]
    assert runs[0] == runs[1] and runs[0][0] == runs[0][1]
    assert {index for index, _ in runs[0][0]} >= {1, 2, 3} and "0x" not in str(runs)


def test_a_dataset_that_opens_a_bomb_itself_is_stopped_and_the_filters_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside = list(warnings.filters)
        dataset = Opened([png(), png((40, 40)), png((60, 60)), png()])
        for workers in (0, 1, 3):
            (batch,) = batches(dataset, INTAKE, range(4), 4, workers=workers)
            assert [index for index, _ in batch.skipped] == [1, 2]
            assert all("DecompressionBomb" in reason for _, reason in batch.skipped)
            assert list(warnings.filters) == inside
    assert list(warnings.filters) == before


def test_strict_decoding_in_threads_leaves_the_filters_as_they_were() -> None:
    before = list(warnings.filters)

    def enter() -> None:
        for _ in range(200):
            with strict_decoding():
                pass

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
    with strict_decoding():
        assert len(warnings.filters) == len(before) + 2
        with strict_decoding():
            assert len(warnings.filters) == len(before) + 2
        assert len(warnings.filters) == len(before) + 2
        with pytest.raises(UserWarning):
            warnings.warn("not of Pillow", UserWarning, stacklevel=1)
    assert list(warnings.filters) == before


def test_a_real_model_says_what_it_takes(sketches: Model) -> None:
    (batch,) = batches([torch.zeros(3, 64, 64)], sketches, range(1), 4)
    assert batch.images.shape == (1, 3, 64, 64) and batch.labels.tolist() == [-1]
