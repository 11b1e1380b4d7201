"""write_unit: one page, or one picture, about one unit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from circuits.atlas.pages import circuit_of
from circuits.diagrams.drawings import compose
from circuits.diagrams.figures import in_order
from circuits.diagrams.pages import LARGE, circuit_page
from circuits.graphs import build_graph
from features.examples import crops, find_examples
from features.models import Model
from features.pictures import Picture, data_uri, grid, resize, write_picture
from features.records import write_atomically
from features.units import Unit
from features.visualization import visualize
from features.visualization.ascent import STEPS

CROPS = 12
TILE = 96  # side of an example in pixels
PORTRAIT = 3 * TILE + 4  # as high as three rows of examples with their gaps


def write_unit(
    model: Model,
    dataset: Any,
    unit: Unit | str,
    path: Path | str,
    *,
    layers: Iterable[str] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write one page about ``unit``, or with a ``path`` that ends with .png one picture, and give the path.

    The page is that of `write_circuit`, for the circuit of the unit (two layers up, one down), with the examples of
    ``dataset`` that excite it most, cut to what it sees; the picture is the unit's visualization beside these examples.
    ``dataset`` may be ``None``. ``layers`` are those that the circuit may pass through, by default
    ``model.default_layers``; the unit's own is added. ``ValueError`` for a unit that does not exist, and for a path
    that ends otherwise.
    """
    unit, path = model.unit(unit), Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".html", ".png"):
        raise ValueError(f"'{path.name}' names no form that is known: end it with .html or .png")
    found = [] if dataset is None else _crops(model, dataset, unit, progress)
    if suffix == ".png":
        made = visualize(model, unit, steps=steps, seed=seed, progress=progress)
        return write_picture(_beside(made[unit], found), path)
    names = {*(model.default_layers if layers is None else layers), unit.layer}
    graph = circuit_of(build_graph(model, sorted(names), progress=progress), str(unit))
    made = visualize(model, in_order(graph), steps=steps, seed=seed, progress=progress)
    sources = {name: data_uri(made[name], size=LARGE) for name in graph}
    examples = [data_uri(picture, size=TILE) for picture in found]
    return write_atomically(
        path, circuit_page(compose(graph, title=str(unit)), sources, focus=str(unit), examples=examples)
    )


def _crops(model: Model, dataset: Any, unit: Unit, progress: bool) -> list[Picture]:
    examples = find_examples(model, dataset, [unit.layer], count=CROPS, vectors=False, progress=progress)
    return crops(examples, dataset, unit, count=CROPS)


def _beside(portrait: Picture, found: list[Picture]) -> Picture:
    large = resize(portrait, (PORTRAIT, PORTRAIT))
    if not found:
        return large
    tiles = grid([resize(picture, TILE) for picture in found], columns=4)
    padded = np.ones((max(PORTRAIT, tiles.shape[0]), tiles.shape[1], 3), dtype=tiles.dtype)
    padded[: tiles.shape[0]] = tiles
    return np.hstack([large, np.ones((PORTRAIT, 16, 3), dtype=large.dtype), padded[:PORTRAIT]])
