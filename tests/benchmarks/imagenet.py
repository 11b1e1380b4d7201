"""How long a search for examples in ImageNet's 1.28 million training pictures takes, put together from measured parts.

Run ``python tests/benchmarks/imagenet.py`` (three minutes). Measured here, in processor time of one thread: reading
and fitting a JPEG file of ImageNet's usual size, the sweep of all default layers of GoogLeNet (224 pixels, batch 32),
writing, reading and merging the shards' results, and drawing a thumbnail. Assumed, and marked so: what a GPU and a
machine are. The estimate is a sum on paper: nothing was run on ImageNet or on a GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from features.examples import FolderImages
from features.examples.index import LISTS
from features.examples.passing import finish, merge, sweep
from features.examples.plans import Plan, make_plan
from features.examples.shards import pack, read_block, write_block
from features.examples.tallies import LARGE
from features.examples.thumbnails import draw_thumbnails
from features.models import Model, load_model, probe

IMAGES = 1_281_167
# The mean size of ImageNet's training pictures is 469 x 387 pixels and 110 KB (138 GB for all of them).
PIXELS, BYTES = (469, 387), 110_000
COUNT, BATCH, FILES = 32, 32, 64
THUMBNAILS = 12  # of each list of each unit, as `features.examples.engines.run` keeps them
GRAIN = 13.0  # of the pictures that stand for ImageNet's, so that they take as many bytes
NOTE = {"key": "benchmark", "shards": [{"shard": 0}]}

# Assumed, not measured: a machine of one GPU, 16 cores and a local disk.
CORES = 16
# Of a forward pass on one RTX 3090 (mixed precision, batch 1,024) at 224 pixels: that of timm's ResNet-26, which takes
# 2.36 GMACs, where GoogLeNet takes 1.5. github.com/huggingface/pytorch-image-models,
# results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv: resnet26, 5121.5 images a second.
GPU_FORWARD = 5121.5
# Assumed: collecting costs a GPU as much again as the forward pass (on the CPU it is measured below), since it reads
# every activation once more, and a GPU reads slower than it multiplies.
GPU_COLLECTING = 2.0
# Assumed: what a networked disk gives each of ten machines, in bytes a second.
DISK = 500e6


@dataclass(frozen=True)
class Parts:
    """What was measured, in seconds of a processor and bytes: per image, per shard, per merge of two parts."""

    decode: float
    forward: float
    swept: float
    part: int
    write: float
    read: float
    merge: float
    finish: float
    thumbnail: float
    thumbnails: int
    shards: int


def main() -> None:
    torch.set_num_threads(1)
    model = load_model("googlenet")
    with tempfile.TemporaryDirectory() as folder:
        dataset = FolderImages(_photographs(Path(folder) / "pictures"), model)
        parts = measure(model, dataset, Path(folder))
    print(
        f"decoding and fitting   {1e3 * parts.decode:8.2f} ms an image and core   (JPEG of {PIXELS[0]} x {PIXELS[1]})"
    )
    print(f"forward, plain         {1e3 * parts.forward:8.2f} ms an image and core   (GoogLeNet, 224, batch {BATCH})")
    print(f"sweep, all layers      {1e3 * parts.swept:8.2f} ms an image and core")
    print(f"part of a shard        {parts.part / 1e6:8.1f} MB; {parts.shards} shards")
    print(f"write, read, merge     {parts.write:8.2f}, {parts.read:.2f}, {parts.merge:.2f} s a part")
    print(f"finishing              {parts.finish:8.2f} s")
    print(f"thumbnails             {1e3 * parts.thumbnail:8.2f} ms each; at most {parts.thumbnails:,}")
    for machines in (1, 10):
        rate = f"a GPU (assumed: {gpu_rate():,.0f} images a second) and {CORES} cores each"
        print(f"\n{machines} machine{'s' * (machines > 1)}, {rate}:")
        for name, seconds in estimate(parts, machines).items():
            print(f"  {name:34s} {seconds / 60:8.1f} min")
    print(f"\nthis machine, one core: {IMAGES * (parts.decode + parts.swept) / 3600:.0f} h")


def estimate(parts: Parts, machines: int) -> dict[str, float]:
    """Give the seconds of each stage; decoding and computing overlap, what follows does not."""
    share = IMAGES / machines
    decoding, computing = share * parts.decode / CORES, share / gpu_rate()
    shards = parts.shards / machines * (parts.write + parts.part / DISK)
    # Merging in levels reads and writes every part once a level; machines do their own shards, one the last level.
    joined = (parts.shards / machines + machines) * (parts.merge + parts.read + parts.part / DISK) + parts.finish
    thumbnails = parts.thumbnails * parts.thumbnail
    stages = {
        "decoding (alongside)": decoding,
        "computing (alongside)": computing,
        "the longer of the two": max(decoding, computing),
        "writing shards": shards,
        "merging": joined,
        "thumbnails, on one core": thumbnails,
    }
    return stages | {"in all": sum(list(stages.values())[2:])}


def gpu_rate() -> float:
    return GPU_FORWARD / GPU_COLLECTING


def measure(model: Model, dataset: FolderImages, folder: Path) -> Parts:
    """Measure every part on one thread; the best of several where it is short."""
    plan = make_plan(model, dataset, count=COUNT, batch=BATCH)
    images = torch.stack([dataset[index][0] for index in range(FILES)])
    batches = [Batch(images[start : start + BATCH], start) for start in range(0, FILES, BATCH)]
    part = sweep(model, batches, plan)
    blob = pack(part, NOTE)
    block = write_block(folder, 0, 0, blob)
    drawn = time.process_time()
    draw_thumbnails(folder, dataset, list(range(FILES)), model.image_size, model.channels, progress=False)
    drawn = time.process_time() - drawn
    # A part of few images holds fewer vectors than one of a whole shard: what was measured is scaled by the bytes.
    larger = full_bytes(model, plan) / len(blob)
    units = sum(model.layer(name).channels for name in plan.layers)
    return Parts(
        decode=_best(lambda: [dataset[index] for index in range(FILES)]) / FILES,
        forward=_best(lambda: _forward(model, plan, images)) / FILES,
        swept=_best(lambda: sweep(model, batches, plan)) / FILES,
        part=round(larger * len(blob)),
        write=larger * _best(lambda: write_block(folder, 0, 0, pack(part, NOTE))),
        read=larger * _best(lambda: read_block(block, str(NOTE["key"]))),
        merge=larger * _best(lambda: merge([part, part])),
        finish=larger * _best(lambda: finish(part, model, plan)),
        thumbnail=drawn / FILES,
        thumbnails=min(IMAGES, units * len(LISTS) * THUMBNAILS),
        shards=-(-IMAGES // plan.shard),
    )


class Batch:
    """Images (n, ch, h, w) with their indices and labels: what `sweep` reads of a batch."""

    def __init__(self, images: Tensor, first: int) -> None:
        self.images = images
        self.indices = torch.arange(first, first + len(images))
        self.labels = self.indices % 1000


def full_bytes(model: Model, plan: Plan) -> float:
    """Give the most bytes of a part: ``c * count`` vectors of ``c`` numbers for each layer, and the rankings."""
    widths = [model.layer(name).channels for name in plan.layers]
    vectors = sum(c * c * plan.count * (2 if c * c * plan.count > LARGE else 4) for c in widths)
    return vectors + sum(widths) * (4 * plan.count * 20 + plan.sampled * 8 + plan.classes * 16)


def _forward(model: Model, plan: Plan, images: Tensor) -> None:
    """The pass without any collecting, up to the last layer, of the network as it is."""
    with torch.inference_mode(), probe(model, plan.layers[-1:]):
        for start in range(0, len(images), BATCH):
            model(images[start : start + BATCH])


def _best(call: Callable[[], object], tries: int = 3) -> float:
    """Give the least processor time of several calls: other programs disturb it less than the clock's."""
    taken = []
    for _ in range(tries):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def _photographs(folder: Path) -> Path:
    """Write JPEG files of the size of ImageNet's: smooth noise in colours of nature, in detail until the bytes fit.

    What a decoder takes depends on the pixels and on the bytes, little on what is shown.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(FILES):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 29, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(PIXELS, Image.Resampling.BICUBIC), dtype=np.float64)
        fine = generator.normal(0, GRAIN, picture.shape[:2])[:, :, None]
        Image.fromarray((picture + fine).clip(0, 255).astype(np.uint8)).save(folder / f"{index:04d}.jpg", quality=90)
    mean = sum(path.stat().st_size for path in folder.iterdir()) / FILES
    if not 0.8 * BYTES < mean < 1.25 * BYTES:
        raise RuntimeError(f"the files have {mean:,.0f} bytes on average, not about {BYTES:,}: change GRAIN")
    return folder


if __name__ == "__main__":
    main()
