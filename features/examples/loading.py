"""Loading: a dataset's images in batches, read by threads while the network works on the batch before."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from features.examples.images import UNREADABLE, check_form, check_image, check_range, open_item
from features.models import Model
from features.pictures import strict_decoding

Stream: TypeAlias = "Generator[Batch, None, None]"

# Batches that are read, or being read, while the caller works on one: with two, a slow file delays nobody.
AHEAD = 2
# More threads than this do not decode faster: resizing and the interpreter's lock then take the time.
MOST_WORKERS = 8
# Seconds that a thread gets to finish its image when the caller stops; it then ends by itself, with the image.
PATIENCE = 2.0
# Seconds between two looks at whether Ctrl-C was pressed while an image is waited for.
GLANCE = 0.5


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one run of indices that could be read, and what could not.

    ``images`` (n, channels, h, w) in [0, 1], of the model's number type and on its device; ``indices`` (n,) in the
    dataset, in the order they were asked for; ``labels`` (n,), -1 for none; ``skipped``, for the items of this run that
    cannot be read, pairs of index and reason. ``n`` is 0 where none can. ``span`` is the run: ``len(span) == n +
    len(skipped)``.
    """

    images: Tensor
    indices: Tensor
    labels: Tensor
    skipped: tuple[tuple[int, str], ...]
    span: Sequence[int]


@dataclass(frozen=True)
class Intake:
    """What a `Model` says of the images it takes, for where there is none at hand."""

    image_size: tuple[int, int]
    channels: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


def batches(
    dataset: Any, model: Model | Intake, indices: Sequence[int], batch: int, *, workers: int | None = None
) -> Stream:
    """Give the images of ``dataset`` at ``indices``, a range or a list, in order, a `Batch` for each run of ``batch``.

    Which indices make a batch depends on ``indices`` and ``batch`` alone: an item that cannot be read is missing from
    its own batch, and all others are as without it. What an item may be is in `find_examples`.

    ``workers`` threads read two batches ahead (Pillow decodes in parallel with the network), so that at most three
    batches are in memory; 0 reads when a batch is asked for. By default one thread, which reads in order, so that a
    dataset with a state (an open file) works; up to eight for datasets that declare ``concurrent = True`` and
    torchvision's folders; none for images that are in memory (a tensor or array ``(n, channels, h, w)``, a
    ``TensorDataset``), whose batches are slices. Threads end with the iterator: at its end, at an exception, when it is
    closed (``contextlib.closing``) or dropped; they never keep a program from ending.

    Errors, when a batch is reached: ``TypeError`` and ``ValueError`` naming the item, for images of another size, range
    or type; whatever else the dataset raises, with a note of the item. At once: ``ValueError`` for ``indices`` outside
    the dataset, or a ``batch`` or ``workers`` that is no such number.

    >>> from features.models import load_model
    >>> images = torch.rand(5, 3, 64, 64)
    >>> [batch.indices.tolist() for batch in batches(images, load_model("sketches"), range(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    _check_plan(dataset, indices, batch, workers)
    spans: list[Sequence[int]] = [indices[start : start + batch] for start in range(0, len(indices), batch)]
    held = _in_memory(dataset)
    if held is not None:
        return (_sliced(*held, model, span) for span in spans)
    workers = fitting_workers(dataset) if workers is None else workers
    return _read_ahead(dataset, model, spans, workers) if workers else _read_now(dataset, model, spans)


# What was read of a run of indices: the images' indices and labels, and the items that cannot be read.
_Read: TypeAlias = tuple[list[int], list[int], list[tuple[int, str]]]


def _read(dataset: Any, model: Model | Intake, span: Sequence[int], rows: Tensor, stopped: Callable[[], bool]) -> _Read:
    """Read the items of ``span`` into the first of ``rows`` (len(span), channels, h, w), those that can be read."""
    size, channels = model.image_size, model.channels
    indices: list[int] = []
    labels: list[int] = []
    skipped: list[tuple[int, str]] = []
    images: list[Tensor] = []
    for index in span:
        if stopped():
            break
        try:
            image, label = open_item(dataset, index, size, channels)
        except UNREADABLE as error:
            skipped.append((index, _reason(error)))
            continue
        except Exception as error:
            error.add_note(f"while item {index} of the dataset was read")
            raise
        tensor = check_form(image, index, size, channels)
        rows[len(indices)].copy_(tensor)
        indices.append(index)
        labels.append(label)
        images.append(tensor)
    if images and not _in_range(rows[: len(images)]):
        for index, tensor in zip(indices, images, strict=True):
            check_range(tensor, index)
    return indices, labels, skipped


def _reason(error: Exception) -> str:
    """Give an error in words that are the same at every run: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(error).__name__}: {error}")


def _in_range(images: Tensor) -> bool:
    low, high = images.aminmax()
    return bool(low >= 0) and bool(high <= 1)


def _read_now(dataset: Any, model: Model | Intake, spans: list[Sequence[int]]) -> Stream:
    for span in spans:
        with strict_decoding():
            rows = _rows(model, span)
            read = _read(dataset, model, span, rows, lambda: False)
        yield _joined(model, span, [(rows, read)])


def _read_ahead(dataset: Any, model: Model | Intake, spans: list[Sequence[int]], workers: int) -> Stream:
    tasks: SimpleQueue[_Piece | None] = SimpleQueue()
    stop = Event()
    threads = [Thread(target=_serve, args=(tasks,), name="loading", daemon=True) for _ in range(workers)]
    todo = iter(spans)
    waiting: deque[tuple[Sequence[int], list[_Piece]]] = deque()

    def ask(count: int) -> None:
        for span in islice(todo, count):
            pieces = _pieces(dataset, model, span, workers, stop)
            waiting.append((span, pieces))
            for piece in pieces:
                tasks.put(piece)

    try:
        with strict_decoding():
            for thread in threads:
                thread.start()
            ask(AHEAD)
            while waiting:
                span, pieces = waiting.popleft()
                read = [(piece.rows, piece.waited_for()) for piece in pieces]
                ask(1)
                yield _joined(model, span, read)
    finally:
        stop.set()
        for _ in threads:
            tasks.put(None)
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True, eq=False)
class _Piece:
    """A part of a batch, which one thread reads into its ``rows`` of the batch's tensor."""

    dataset: Any
    model: Model | Intake
    span: Sequence[int]
    rows: Tensor
    stop: Event
    result: Future[_Read]

    def read(self) -> None:
        try:
            self.result.set_result(_read(self.dataset, self.model, self.span, self.rows, self.stop.is_set))
        except BaseException as error:  # it belongs to the caller, who gets it where this batch would have been
            self.result.set_exception(error)

    def waited_for(self) -> _Read:
        """Give the result; in between, let the interpreter see signals that another thread has received."""
        while not wait([self.result], GLANCE).done:
            pass
        return self.result.result()


def _serve(tasks: SimpleQueue[_Piece | None]) -> None:
    while (piece := tasks.get()) is not None:
        piece.read()


def _pieces(dataset: Any, model: Model | Intake, span: Sequence[int], workers: int, stop: Event) -> list[_Piece]:
    rows, step = _rows(model, span), -(-len(span) // workers)
    cuts = [slice(start, start + step) for start in range(0, len(span), step)]
    return [_Piece(dataset, model, span[cut], rows[cut], stop, Future()) for cut in cuts]


def _rows(model: Model | Intake, span: Sequence[int]) -> Tensor:
    # The caller may be in inference mode, whose tensors other threads cannot write.
    with torch.inference_mode(False):
        return torch.empty(len(span), model.channels, *model.image_size, dtype=model.dtype, device="cpu")


def _joined(model: Model | Intake, span: Sequence[int], read: list[tuple[Tensor, _Read]]) -> Batch:
    """Make a batch of pieces; without a copy where nothing is missing."""
    indices = [index for _, piece in read for index in piece[0]]
    labels = [label for _, piece in read for label in piece[1]]
    skipped = tuple(each for _, piece in read for each in piece[2])
    filled = [rows[: len(piece[0])] for rows, piece in read]
    whole = _whole(filled) if not skipped else torch.cat(filled)
    device = model.device
    return Batch(
        whole.to(device), torch.tensor(indices, device=device).long(), torch.tensor(labels, device=device).long(),
        skipped, span,
    )  # fmt: skip


def _whole(parts: list[Tensor]) -> Tensor:
    """Give the tensor that ``parts`` are neighbouring rows of."""
    first = parts[0]
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride(), first.storage_offset())


def _in_memory(dataset: Any) -> tuple[Tensor | np.ndarray, Tensor | None] | None:
    """Give the images and the labels of a dataset that holds them as arrays; nothing for any other, or odd ones."""
    images, labels = dataset, None
    if type(dataset) is TensorDataset:
        images, labels = (*dataset.tensors, None)[:2]
    if not isinstance(images, Tensor) and type(images) is not np.ndarray:
        return None
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point() or labels.is_complex()):
        return None
    return images, labels


def _sliced(images: Tensor | np.ndarray, labels: Tensor | None, model: Model | Intake, span: Sequence[int]) -> Batch:
    where = slice(span.start, span.stop) if isinstance(span, range) else list(span)
    some = images[where]
    # An array may be read-only, of which torch warns.
    tensor = some.detach() if isinstance(some, Tensor) else torch.from_numpy(np.array(some))
    size, channels = model.image_size, model.channels
    if not (tensor.is_floating_point() and tensor.shape[1:] == (channels, *size) and _in_range(tensor)):
        for index, image in zip(span, tensor, strict=True):
            check_image(image, index, size, channels)
    device = model.device
    indices = torch.tensor(list(span), device=device)
    known = torch.full_like(indices, -1) if labels is None else labels[where].to(device).long()
    return Batch(tensor.to(device, model.dtype), indices, known, (), span)


def _check_plan(dataset: Any, indices: Sequence[int], batch: int, workers: int | None) -> None:
    for name, value, least in (("batch", batch, 1), ("workers", 0 if workers is None else workers, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
    length = len(dataset)
    ends = (indices[0], indices[-1]) if isinstance(indices, range) and indices else indices
    outside = [index for index in ends if not 0 <= index < length]
    if outside:
        raise ValueError(f"there is no item {outside[0]}: this dataset has {length} items (0 to {length - 1})")


def fitting_workers(dataset: Any) -> int:
    declared = getattr(dataset, "concurrent", type(dataset).__module__ == "torchvision.datasets.folder")
    if declared is not True:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores))
