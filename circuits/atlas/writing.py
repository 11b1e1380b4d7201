"""write_atlas: pages about every unit of a network; write_unit: one page about one unit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from circuits.atlas.folders import Desk, claim
from circuits.atlas.measures import Plan, measure
from circuits.atlas.pages import write_pages
from circuits.meanings import FEWEST
from features.models import Model
from features.visualization.ascent import STEPS

KEEP = 10  # inputs of each unit
COUNT = 32  # examples of each unit


def write_atlas(
    model: Model,
    dataset: Any,
    folder: Path | str,
    *,
    layers: Iterable[str] | None = None,
    steps: int = STEPS,
    count: int = COUNT,
    keep: int = KEEP,
    seed: int = 0,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Write a folder of pages about ``model``, and give the path of its ``index.html``, which opens in any browser
    without a network.

    The front page shows every unit; each layer has a page; each unit has a page with its picture, its examples, how
    often it responds how strongly, whether it seems to mean several things and why, its inputs and outputs with their
    kernels, and its circuit to click through. ``dataset`` is what `find_examples` takes, or ``None``: then there are no
    examples and no verdicts, and the pages say so. ``layers`` are by default ``model.default_layers``; ``steps`` goes
    to `visualize`, ``count`` to `find_examples`, ``keep`` to `build_graph`, ``seed`` to all that is random.

    What was measured stays in ``folder/data``, each part with a note of what it was made from (weights, dataset,
    arguments, version). The next call reuses every part whose note still holds, says so, and makes the others; a call
    that was killed continues with the next layer. ``fresh=True`` reuses nothing. Every file is written aside and
    renamed, the index last.

    ``ValueError`` for a folder that is not empty and holds no atlas, and for layers that do not exist or are fewer than
    two; ``OSError`` naming the file that could not be written; and what the measurements raise.

    >>> import tempfile
    >>> from features.models import load_model
    >>> model, layers = load_model("sketches"), ["conv2d0", "conv2d1"]
    >>> with tempfile.TemporaryDirectory() as place:
    ...     index = write_atlas(model, None, place, layers=layers, steps=1, progress=False)
    ...     index.name, (index.parent / "units" / "conv2d1" / "3.html").is_file()
    ('index.html', True)
    """
    plan = make_plan(model, dataset, layers, steps=steps, count=count, keep=keep, seed=seed)
    desk = Desk(claim(Path(folder)), progress, fresh)
    return write_pages(plan, desk, measure(plan, desk))


def make_plan(
    model: Model, dataset: Any, layers: Iterable[str] | None, *, steps: int, count: int, keep: int, seed: int
) -> Plan:
    """Check what is asked for, before any work."""
    names = model.default_layers if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    wanted = {model.layer(name).name for name in names}
    if len(wanted) < 2:
        raise ValueError(
            f"{len(wanted)} layer(s) were given: an atlas needs two or more, because it shows how they are wired"
        )
    ordered = tuple(layer.name for layer in model.layers if layer.name in wanted)
    if dataset is not None and len(dataset) == 0:
        raise ValueError("the dataset is empty: give at least one picture, or None")
    if dataset is not None and count < FEWEST:
        raise ValueError(f"count is {count}: to say how many things a unit means takes {FEWEST} examples or more")
    return Plan(model, dataset, ordered, steps, count, keep, seed)
