"""contact_sheet: the examples of one unit as a ContactSheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.examples.images import UNREADABLE
from features.examples.sheets.contents import Band, ContactSheet, Histogram, Tile
from features.examples.sheets.crops import Pictures, dataset_pictures, peak, window
from features.pictures import Picture, crop
from features.units import Unit

if TYPE_CHECKING:  # the nouns show themselves with what is made here
    from features.examples.nouns import Examples, UnitExamples

COLUMNS = 10
DEPTH = 2  # rows of the examples that are spread over the quantiles
CLASSES = 6  # classes in the chart of means
NO_PICTURES = (
    "There are no pictures at hand. contact_sheet(examples, unit, dataset) takes them from the dataset; a search with "
    "store=... keeps them."
)


def contact_sheet(examples: Examples, unit: Unit | str, dataset: Any = None, *, count: int = COLUMNS) -> ContactSheet:
    """Give the contact sheet of ``unit``: its strongest examples (by peak, and by mean over positions), examples spread
    from high to low over the quantiles of its values, its weakest, each cut to what the unit sees with the peak marked;
    histograms of its activations before and after the nonlinearity, its firing rate, and the classes that excite it
    most.

    The pictures come from ``dataset``, the one that the examples were found in, or by default from where the examples
    have them: the store's thumbnails, or the dataset of a search in memory. Without either there are values and labels
    only. ``count`` is the most examples in a row. ``ValueError`` for a unit that was not looked at, a ``dataset`` of
    another length, and a ``count`` below 1.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> examples = find_examples(load_model("sketches"), Sketches(4), "mixed3a", count=2, progress=False)
    >>> contact_sheet(examples, "mixed3a:3").unit
    'mixed3a:3'
    """
    if count < 1:
        raise ValueError(f"count is {count}: give a whole number of at least 1")
    found = examples[unit]
    if dataset is None:
        return sheet_of(found, found.pictures, count=count)
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    return sheet_of(found, dataset_pictures(dataset, examples.image_size, examples.channels), count=count)


def sheet_of(found: UnitExamples, pictures: Pictures | None, *, count: int = COLUMNS) -> ContactSheet:
    """Give the contact sheet of the examples ``found`` for one unit, with ``pictures`` where there are any."""
    # Where there is one position the mean is the peak.
    placeless = np.array_equal(found.image, found.mean_image) and np.array_equal(found.value, found.mean_value)
    bands = [
        _ranked(found, "", "strongest, by the peak", pictures, count),
        *([] if placeless else [_ranked(found, "mean_", "strongest, by the mean over positions", pictures, count)]),
        _spread(found, pictures, count),
        _ranked(found, "bottom_", "weakest", pictures, count),
    ]
    return ContactSheet(
        unit=str(found.unit),
        numbers=_numbers(found),
        bands=tuple(band for band in bands if any(map(any, band.rows))),
        after=_histogram(found.histogram, found.edges),
        before=_histogram(found.pre_histogram, found.pre_edges) if found.nonlinear else None,
        classes=_classes(found),
        note=NO_PICTURES if pictures is None else "",
    )


def _ranked(found: UnitExamples, prefix: str, title: str, pictures: Pictures | None, count: int) -> Band:
    image, value = getattr(found, f"{prefix}image"), getattr(found, f"{prefix}value")[:count]
    if len(value) > 1 and value[0] == value[-1]:
        title = f"{title} (all equal: the first of the dataset)"
    return Band(title, (tuple(_tile(found, prefix, row, pictures) for row in range(min(count, len(image)))),))


def _spread(found: UnitExamples, pictures: Pictures | None, count: int) -> Band:
    """Give the examples spread over the quantiles: a column for each bin, the highest first."""
    bins, depth = found.quantile_image.shape
    shown = [int(place) for place in np.unique(np.linspace(bins - 1, 0, min(count, bins)).round())][::-1]
    heads = tuple(f"{100 * place / bins:.0f} to {100 * (place + 1) / bins:.0f} %" for place in shown)
    rows = [
        tuple(
            _tile(found, "quantile_", (place, row), pictures) if found.quantile_image[place, row] >= 0 else None
            for place in shown
        )
        for row in range(min(depth, DEPTH))
    ]
    return Band("spread over the images, from high to low", tuple(row for row in rows if any(row)), heads)


def _tile(found: UnitExamples, prefix: str, at: int | tuple[int, int], pictures: Pictures | None) -> Tile:
    image, label, value, box, field = (
        getattr(found, prefix + name)[at] for name in ("image", "label", "value", "box", "field")
    )
    name = found.classes[label] if 0 <= label < len(found.classes) else ""
    whole = None if pictures is None else _whole(pictures, int(image))
    if whole is None:
        return Tile(None, None, float(value), name, int(image))
    size = (whole.shape[0], whole.shape[1])
    shown = window(box.tolist(), size)
    return Tile(crop(whole, shown), peak(field.tolist(), shown, size), float(value), name, int(image))


def _whole(pictures: Pictures, image: int) -> Picture | None:
    """Give the whole picture, or ``None`` where it is no longer to be had: its tile then says so, the others stay."""
    try:
        return pictures(image)
    except (LookupError, *UNREADABLE):
        return None


def _numbers(found: UnitExamples) -> tuple[str, ...]:
    """Give the statistics in words."""
    if found.dead:
        return ("dead: never anything but 0",)
    lost = (f"{found.nonfinite:,} values were not finite",) if found.nonfinite else ()
    return (
        f"fires at {share(found.firing_rate)} of positions",
        f"mean {found.mean:.3g}, sd {found.sd:.3g}",
        f"from {found.minimum:.3g} to {found.maximum:.3g}",
        *lost,
    )


def share(part: float) -> str:
    """Give a share as a percentage with two digits that say something.

    >>> share(0.1234), share(0.00047), share(1.0)
    ('12 %', '0.047 %', '100 %')
    """
    return f"{100 * part:.2g} %" if part < 0.995 else f"{100 * part:.0f} %"


def _histogram(counts: NDArray[np.int64], edges: NDArray[np.floating]) -> Histogram | None:
    """Give the bins from the first to the last that is not empty."""
    filled = np.flatnonzero(counts)
    if len(filled) == 0:
        return None
    first, last = int(filled[0]), int(filled[-1])
    return Histogram(counts[first : last + 1], edges[first : last + 2].astype(np.float64))


def _classes(found: UnitExamples) -> tuple[tuple[str, float], ...]:
    """Give the classes with the highest means, highest first."""
    means = found.class_mean
    known = np.flatnonzero(np.isfinite(means))
    best = known[np.argsort(-means[known], kind="stable")][:CLASSES]
    names = (found.classes[place] if place < len(found.classes) else f"class {place}" for place in best.tolist())
    return tuple(zip(names, means[best].tolist(), strict=True))
