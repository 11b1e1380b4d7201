"""How long a store's index takes to be written and asked, at 7,000 units: ``python tests/benchmarks/stores.py``.

Random examples, 32 of each list of each unit and 40 over the quantiles, among 50,000 images; each question opens the
file anew, as `best_examples` and `most_excited` do. Medians and 99th percentiles, in milliseconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from features.examples.index import INDEX, LISTS, best_examples, fill, most_excited

LAYERS, WIDTH, KEPT, IMAGES, QUESTIONS = 14, 500, 32, 50_000, 300


def layer(random: np.random.Generator) -> Any:
    found: dict[str, Any] = {name: random.random(WIDTH) for name in ("mean", "sd", "minimum", "firing_rate")}
    found |= {"maximum": np.full(WIDTH, 2.0), "nonfinite": np.zeros(WIDTH, int), "dead": np.zeros(WIDTH, bool)}
    for prefix in LISTS.values():
        shape = (WIDTH, 10, 4) if prefix == "quantile_" else (WIDTH, KEPT)
        found[f"{prefix}image"] = random.integers(IMAGES, size=shape)
        found[f"{prefix}label"] = random.integers(1000, size=shape)
        found[f"{prefix}value"] = random.random(shape).astype(np.float32)
        found[f"{prefix}position"] = random.integers(56, size=(*shape, 2))
        found[f"{prefix}box"] = random.integers(224, size=(*shape, 4))
    return SimpleNamespace(**found)


def asked(question: Callable[[int], object]) -> str:
    times = []
    for index in range(QUESTIONS):
        began = time.perf_counter()
        question(index)
        times.append(1000 * (time.perf_counter() - began))
    return f"{np.median(times):.2f} ms, 99 % within {np.percentile(times, 99):.2f}"


def main() -> None:
    random = np.random.default_rng(0)
    layers = {f"mixed{index}": layer(random) for index in range(LAYERS)}
    names = {image: f"n{image % 1000:08d}/{image}.jpeg" for image in range(IMAGES)}
    units = random.integers(LAYERS * WIDTH, size=QUESTIONS).tolist()
    images = random.integers(IMAGES, size=QUESTIONS).tolist()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        began = time.perf_counter()
        fill(folder, layers, names, [])
        took, size = time.perf_counter() - began, (folder / INDEX).stat().st_size / 1e6
        print(f"index of {LAYERS * WIDTH:,} units: written in {took:.1f} s, {size:.0f} MB")
        unit = [f"mixed{index // WIDTH}:{index % WIDTH}" for index in units]
        print("top 20 of a unit:", asked(lambda index: best_examples(folder, unit[index], 20)))
        print("units most excited by an image:", asked(lambda index: most_excited(folder, images[index], 20)))
        print("by the image's name:", asked(lambda index: most_excited(folder, names[images[index]], 20)))


if __name__ == "__main__":
    main()
