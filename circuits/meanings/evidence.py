"""Evidence: what is known of the examples of some units, from which every score of polysemanticity is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.meanings.nouns import Integers
from circuits.meanings.upstream import find_upstream
from features.examples import Examples, embed
from features.models import Model
from features.units import Unit

FEWEST = 8  # examples under which two groups cannot be told from one
MOST_ROWS = 2**16  # examples from which the covariance of a layer is taken
SOFTENED = 0.1  # of the mean variance is added to each before whitening: what hardly varies is not blown up
REFERENCE = 64  # units of a layer from whose examples it is taken what embeddings usually are
NOISE = 1e-6  # of the largest embedding: a dimension that varies by less does not vary
Numbers = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the ``k`` strongest examples of ``n`` units, best first; rows that are not filled are zeros.

    - units (n,): addresses; layers may be mixed.
    - value (n, k): the unit's activation, NaN where there is no example; image (n, k): index in the dataset, or -1;
      label (n, k): -1 where there is none; classes: how many classes the dataset names, 0 if it names none.
    - vectors (n, k, c): what the layer gave at the peak, the unit's own channel left out, from the mean of all examples
      of the layer and whitened by their covariance; columns beyond the layer's channels are 0. Without whitening, what
      all examples of a layer have in common hides what tells them apart.
    - late (n, k, d) or None: embeddings of the crops (`features.examples.embed`: by default the network's own late
      layer, of the crop alone), from the mean and in standard deviations of the embeddings of the whole layer.
    - upstream (n, k, u) or None: what each channel of the layers that feed this one gave to the unit at the peak,
      activation times gradient summed over positions (`find_upstream`).
    - pictures (n, p, d) or None: embeddings of ``p`` different pictures made by optimization for the unit.
    """

    units: tuple[str, ...]
    value: Numbers
    image: Integers
    label: Integers
    classes: int
    vectors: Numbers
    late: Numbers | None = None
    upstream: Numbers | None = None
    pictures: Numbers | None = None

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        kinds = [name for name in ("late", "upstream", "pictures") if getattr(self, name) is not None]
        return (
            f"Evidence({len(self)} units, {self.image.shape[1]} examples each, with {', '.join(['vectors', *kinds])})"
        )

    @property
    def sizes(self) -> Integers:
        """How many examples each unit has: (n,)."""
        return np.asarray((self.image >= 0).sum(1), np.int64)

    def of(self, units: Iterable[Unit | str]) -> Evidence:
        """Give the evidence of some of the units, in their order; ``ValueError`` for one that is not here."""
        places = {name: place for place, name in enumerate(self.units)}
        names = [str(Unit.of(unit)) for unit in units]
        strange = [name for name in names if name not in places]
        if strange:
            raise ValueError(f"unit {strange[0]!r} is not among the {len(self)} of this evidence: gather it with them")
        rows = [places[name] for name in names]
        parts = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("units", "classes")}
        taken: dict[str, Any] = {name: None if part is None else part[rows] for name, part in parts.items()}
        return Evidence(units=tuple(names), classes=self.classes, **taken)


def gather(
    model: Model,
    examples: Examples,
    dataset: Any = None,
    units: Iterable[Unit | str] | None = None,
    *,
    late: Any = None,
    upstream: Any = None,
    pictures: Any = None,
    progress: bool = True,
) -> Evidence:
    """Gather what is known of the examples of ``units`` (by default all), for `SCORES` and `polysemanticity`.

    Without ``dataset`` that is what `Examples` holds. With the dataset that the examples were found in, the crops are
    embedded by the network's own late layer (`features.examples.embed`) and the contributions of the layers below are
    measured (`find_upstream`: a forward and a backward pass for each example). ``late``, ``upstream`` and ``pictures``
    give these instead: an array (n, k, d) in the order of the units, or a mapping from layer to (c, k, d), such as
    what `embed` gives with another embedder.

    Raises ``ValueError`` for examples of other weights or without vectors, unknown units, fewer than 8 examples asked
    for, and arrays of another shape or with numbers that are not finite.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model = load_model("sketches")
    >>> examples = find_examples(model, Sketches(12), ["mixed4c"], count=8, progress=False)
    >>> gather(model, examples, units=["mixed4c:3", "mixed4c:5"]).vectors.shape
    (2, 8, 96)
    """
    chosen = checked_units(model, examples, units)
    parts = {
        name: np.stack([getattr(examples.layer(unit.layer), name)[unit.channel] for unit in chosen])
        for name in ("value", "image", "label")
    }
    if dataset is not None and late is None:
        asked = list(dict.fromkeys([*chosen, *_reference(examples, chosen)]))
        late = embed(model, examples, dataset, asked, progress=progress)
    if dataset is not None and upstream is None:
        upstream = find_upstream(model, examples, dataset, chosen, progress=progress)
    return Evidence(
        units=tuple(map(str, chosen)),
        **parts,
        classes=len(examples.labels),
        vectors=_vectors(examples, chosen),
        late=_rows_of("late", _standardized(late, examples, chosen), chosen, examples.count),
        upstream=_rows_of("upstream", upstream, chosen, examples.count),
        pictures=_rows_of("pictures", pictures, chosen, None),
    )


def checked_units(model: Model, examples: Examples, units: Iterable[Unit | str] | None) -> list[Unit]:
    """Give the units to look at, once each; refuse examples that say nothing of them."""
    if examples.digest != model.digest:
        raise ValueError(
            f"the examples are of other weights (of {examples.model!r}): find them again with find_examples"
        )
    if examples.count < FEWEST:
        raise ValueError(
            f"{examples.count} examples a unit are too few to tell groups: find at least {FEWEST}, better 64"
        )
    named = [units] if isinstance(units, (Unit, str)) else list(examples) if units is None else list(units)
    if not named:
        raise ValueError("no unit was given: name at least one, or leave units out for all")
    chosen = list(dict.fromkeys(model.unit(unit) for unit in named))
    for layer in {unit.layer for unit in chosen}:
        if examples.layer(layer).vectors.shape[2] == 0:
            raise ValueError(f"the examples of {layer!r} have no vectors: find them again with vectors=True")
    return chosen


def whitened(
    evidence: Evidence, layers: Sequence[str] | None = None, usual: Mapping[str, Numbers] | None = None
) -> Evidence:
    """Give evidence that was gathered by other means (raw activations and embeddings) in the form that `gather` gives.

    Each unit's vectors are taken from the mean of what is ``usual`` in its layer, vectors (m, c) of the examples of all
    its units (by default those that are here), and whitened by their covariance; embeddings are taken from their mean
    here, in standard deviations. ``layers`` (n,) are by default those of the addresses. What is 0 in all examples of a
    unit (its own channel) stays 0. What is usual needs many units of all kinds: the fewer, the more of what tells a
    unit's own examples apart is taken for usual.
    """
    named = np.array([Unit.of(name).layer for name in evidence.units] if layers is None else list(layers))
    vectors, late = evidence.vectors.copy(), None if evidence.late is None else evidence.late.copy()
    for layer in dict.fromkeys(named.tolist()):
        mine, filled = np.flatnonzero(named == layer), evidence.image[named == layer] >= 0
        pool = evidence.vectors[mine][filled] if usual is None else usual[layer]
        width = pool.shape[1]
        vectors[mine, :, :width] = _whiten(evidence.vectors[mine, :, :width], filled, *_whitening(pool))
        if late is not None:
            late[mine] = _standardize(late[mine], late[mine][filled])
    return replace(evidence, vectors=vectors, late=late)


def _vectors(examples: Examples, units: list[Unit]) -> Numbers:
    """Give (n, k, c): what the layers gave where the units' examples peak, whitened, the unit itself left out."""
    layers = dict.fromkeys(unit.layer for unit in units)
    found = np.zeros((len(units), examples.count, max(len(examples.layer(name).mean) for name in layers)), np.float32)
    for name in layers:
        layer = examples.layer(name)
        mean, whitening = _whitening(layer.vectors[layer.image >= 0])
        for place, unit in enumerate(units):
            if unit.layer == name:
                vectors = layer.vectors[unit.channel].astype(np.float64)
                vectors[:, unit.channel] = 0
                filled = layer.image[unit.channel] >= 0
                found[place, :, : len(mean)] = _whiten(vectors[None], filled[None], mean, whitening, unit.channel)[0]
    return found


def _whitening(vectors: Numbers) -> tuple[Numbers, Numbers]:
    """Give the mean (c,) of vectors (m, c), and the matrix (c, c) that whitens them."""
    some = vectors[:: 1 + len(vectors) // MOST_ROWS].astype(np.float64)
    if len(some) == 0:
        return np.zeros(vectors.shape[1]), np.eye(vectors.shape[1])
    mean = some.mean(0)
    variances, axes = np.linalg.eigh((some - mean).T @ (some - mean) / len(some))
    softened = np.maximum(variances, 0) + SOFTENED * max(variances.mean(), np.finfo(np.float64).tiny)
    return mean, axes / np.sqrt(softened) @ axes.T


def _whiten(
    vectors: Numbers, filled: NDArray[np.bool_], mean: Numbers, whitening: Numbers, own: int | None = None
) -> Numbers:
    """Whiten vectors (n, k, c), what a unit's examples leave at 0 excepted; rows that are not filled become 0."""
    silent = (vectors == 0).all(1, keepdims=True) if own is None else (np.arange(len(mean)) == own)[None, None]
    centred = np.where(silent | ~filled[:, :, None], 0, vectors - mean)
    return np.where(filled[:, :, None], centred @ whitening, 0)


def _standardize(rows: Numbers, usual: Numbers) -> Numbers:
    """Give embeddings (n, k, d) from the mean of usual ones (m, d), in their standard deviations; zeros stay."""
    sd = usual.std(0) + NOISE * np.abs(usual).max(initial=1e-30)
    return np.where(np.abs(rows).sum(2, keepdims=True) > 0, (rows - usual.mean(0)) / sd, 0)


def _reference(examples: Examples, units: list[Unit]) -> list[Unit]:
    """Give units evenly spread over each layer: what is usual there does not depend on the units asked for."""
    found = []
    for layer in dict.fromkeys(unit.layer for unit in units):
        alive = np.flatnonzero((examples.layer(layer).image >= 0).any(1))
        found += [Unit(layer, int(channel)) for channel in alive[:: 1 + len(alive) // REFERENCE]]
    return found


def _standardized(late: Any, examples: Examples, units: list[Unit]) -> Any:
    """Give embeddings of layers from their mean, in standard deviations; an array is taken as it is."""
    arrays = getattr(late, "arrays", late)
    if not isinstance(arrays, Mapping):
        return arrays
    given = {}
    for layer in dict.fromkeys(unit.layer for unit in units):
        if layer not in arrays:
            raise ValueError(f"late has no layer {layer!r}: it has {', '.join(arrays)}")
        rows = np.asarray(arrays[layer])
        usual = rows[[unit.channel for unit in _reference(examples, [Unit(layer, 0)])]]
        given[layer] = _standardize(rows, usual[np.abs(usual).sum(2) > 0])
    return given


def _rows_of(name: str, given: Any, units: list[Unit], count: int | None) -> Numbers | None:
    """Give the array (n, k, d) of ``units``, from one or from arrays (c, k, d) of layers, padded with zeros."""
    if given is None:
        return None
    rows = _taken(name, given, units)
    numbers = np.asarray(rows)
    wanted = f"({len(units)}, {'p' if count is None else count}, d)"
    shaped = numbers.ndim == 3 and len(numbers) == len(units) and count in (None, numbers.shape[1])
    if not shaped or numbers.shape[2] == 0 or not np.issubdtype(numbers.dtype, np.floating):
        raise ValueError(f"{name} is {numbers.dtype} of shape {numbers.shape}: give floats of shape {wanted}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds numbers that are not finite: give 0 where there is no example")
    if (numbers == numbers[:1, :1]).all() and numbers.shape[1] > 1:
        raise ValueError(f"{name} is the same for all examples of all units: what made it tells nothing apart")
    return numbers


def _taken(name: str, given: Any, units: list[Unit]) -> Any:
    if not isinstance(given, Mapping):
        return given
    missing = [unit.layer for unit in units if unit.layer not in given]
    if missing:
        raise ValueError(f"{name} has no layer {missing[0]!r}: it has {', '.join(given)}")
    arrays = {layer: np.asarray(given[layer]) for layer in dict.fromkeys(unit.layer for unit in units)}
    width = max(array.shape[-1] for array in arrays.values())
    padded = {layer: np.pad(a, ((0, 0), (0, 0), (0, width - a.shape[-1]))) for layer, a in arrays.items()}
    return np.stack([padded[unit.layer][unit.channel] for unit in units])
