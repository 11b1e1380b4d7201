"""Grading: how well a score tells planted units of several meanings from controls of one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from circuits.meanings.evidence import Evidence
from circuits.meanings.scores import SCORES, Score, mean_distance
from circuits.planted.benchmarks import Benchmark
from circuits.planted.members import MIXTURES

DRAWS = 1000  # bootstrap samples of the members
BINS = 10  # of equal width, in which probabilities are compared with what is true
LEVEL = 0.95  # of the intervals

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Judge = Callable[[Evidence], tuple[Floats, Flags]]


@dataclass(frozen=True)
class Grade:
    """How well ``score`` tells units of one ``mixture`` from all controls of the same network.

    ``auroc`` in [0, 1] is the chance that a merged unit scores higher than a control, ties counting half; ``low`` and
    ``high`` its 95 % interval, over drawings with replacement of the units' main *members* (several planted units
    share one). ``merged`` and ``controls`` are how many were compared, units that the score gave NaN left out.
    ``diffuse`` is the AUROC against the third of the controls whose examples lie furthest apart.
    """

    network: str
    score: str
    mixture: str
    auroc: float
    low: float
    high: float
    merged: int
    controls: int
    diffuse: float


@dataclass(frozen=True)
class Flagged:
    """How many units of one ``kind`` (a mixture, or a kind of control) the verdict flags: ``share`` of ``units``, with
    its 95 % interval (Wilson 1927)."""

    network: str
    kind: str
    share: float
    low: float
    high: float
    units: int


@dataclass(frozen=True)
class Reliability:
    """Whether probabilities mean what they say: for each of 10 bins of equal width how much weight lies in it, the mean
    probability there and the share of merged units; ``ece = sum of weight * |said - true|``.

    Merged units and controls weigh half each, and the mixtures as much as each other, so that the prior is one half.
    """

    network: str
    weight: tuple[float, ...]
    said: tuple[float, ...]
    true: tuple[float, ...]
    ece: float
    units: int


@dataclass(frozen=True)
class Grades:
    """What `grade` found; ``str`` and ``markdown`` show it, ``to_json`` gives every number. ``left_out`` are network,
    score and reason where a score refused the evidence."""

    scores: tuple[Grade, ...]
    flags: tuple[Flagged, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    left_out: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """Give tables: AUROC of every score by mixture for each network, then flags, then reliability."""
        networks = list(dict.fromkeys(each.network for each in self.scores))
        parts = [_auroc_table([each for each in self.scores if each.network == name], name) for name in networks]
        parts += [_flag_table(self.flags)] if self.flags else []
        parts += [_reliability_table(self.reliability)] if self.reliability else []
        parts += [f"{score} was not graded on {network}: {reason}." for network, score, reason in self.left_out]
        return "\n\n".join([HEAD, *parts])

    def to_json(self) -> str:
        """Give every number as a JSON object; what is not a number is null."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False)


def grade(
    benchmarks: Benchmark | Iterable[Benchmark],
    scores: Mapping[str, Score] | None = None,
    judge: Judge | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> Grades:
    """Grade ``scores`` (by default `SCORES`) by planted truth, and the verdict ``judge`` where one is given.

    A score is any function of `circuits.meanings.Evidence` that gives (n,), higher for more meanings; one that raises
    ``ValueError``, for evidence that there is not, is listed as left out, with what it said. ``judge`` gives the
    probability (n,) that a unit means several things, NaN where it says none, and whether it is flagged (n,).

    Raises ``ValueError`` for benchmarks without merged units or without controls, and for results of another shape.
    """
    several = [benchmarks] if isinstance(benchmarks, Benchmark) else list(benchmarks)
    chosen = SCORES if scores is None else scores
    found: list[Grade] = []
    flags: list[Flagged] = []
    reliability: list[Reliability] = []
    left_out: list[tuple[str, str, str]] = []
    with tqdm(total=len(several) * (len(chosen) + 1), desc="grading", unit="score", disable=not progress) as bar:
        for benchmark in several:
            _check(benchmark)
            evidence = benchmark.evidence
            for name, score in chosen.items():
                try:
                    values = score(evidence)
                except ValueError as reason:
                    left_out.append((title(benchmark), name, str(reason)))
                else:
                    found += grade_values(benchmark, name, values, draws=draws, seed=seed)
                bar.update()
            if judge is not None:
                probability, flag = judge(evidence)
                flags += flag_rates(benchmark, flag)
                reliability.append(calibration(benchmark, probability))
            bar.update()
    return Grades(tuple(found), tuple(flags), tuple(reliability), tuple(left_out))


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Give the chance that one of ``positive`` is larger than one of ``negative``, ties counting half (Mann and Whitney
    1947); NaN where one of them is empty.

    >>> auroc([3.0, 2.0], [1.0, 2.0])
    0.875
    """
    above = _above(np.asarray(positive, np.float64), np.asarray(negative, np.float64))
    return float(above.mean()) if above.size else math.nan


def flag_rates(benchmark: Benchmark, flag: ArrayLike) -> list[Flagged]:
    """Give the share of flagged units of each mixture and each kind of control, and of all controls together."""
    flags = _fitting(flag, benchmark, "flags").astype(bool)
    kinds = np.array(benchmark.mixtures)
    chosen = {kind: kinds == kind for kind in ORDER if (kinds == kind).any()}
    chosen["all controls"] = ~benchmark.polysemantic
    return [
        Flagged(title(benchmark), kind, float(flags[some].mean()), *wilson(int(flags[some].sum()), some.sum()),
                int(some.sum()))
        for kind, some in chosen.items()
    ]  # fmt: skip


def calibration(benchmark: Benchmark, probability: ArrayLike) -> Reliability:
    """Compare probabilities with the truth (see `Reliability`); NaN are left out.

    Raises ``ValueError`` for probabilities outside of [0, 1].
    """
    said = _fitting(probability, benchmark, "probabilities").astype(np.float64)
    known = np.isfinite(said)
    if ((said[known] < 0) | (said[known] > 1)).any():
        raise ValueError(f"a probability is {said[known].min()} or {said[known].max()}: give numbers from 0 to 1")
    weight = _weights(benchmark, known)
    bins = np.minimum((said[known] * BINS).astype(int), BINS - 1)
    truth = benchmark.polysemantic[known]
    total, claimed, right = (
        np.bincount(bins, weight * part, minlength=BINS) for part in (np.ones(len(bins)), said[known], truth)
    )
    ece = float(np.abs(claimed - right).sum())
    filled = np.maximum(total, 1e-300)
    mean, share = (tuple(np.where(total > 0, part / filled, np.nan).tolist()) for part in (claimed, right))
    return Reliability(title(benchmark), tuple(total.tolist()), mean, share, ece, int(known.sum()))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson 1927).

    >>> [round(end, 3) for end in wilson(0, 73)]
    [0.0, 0.05]
    """
    z = 1.959964
    share, spread = hits / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def grade_values(
    benchmark: Benchmark, name: str, given: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> list[Grade]:
    """Grade what a score called ``name`` gave for the units of ``benchmark``, (n,): one `Grade` for each mixture."""
    values = _fitting(given, benchmark, f"what {name!r} gave").astype(np.float64)
    weights = _bootstrap(benchmark, draws, seed)
    known = ~np.isnan(values)
    mixtures = np.array(benchmark.mixtures)
    controls = known & ~benchmark.polysemantic
    diffuse = most_diffuse(benchmark)
    found = []
    for mixture in MIXTURES:
        merged = known & (mixtures == mixture)
        if not merged.any() or not controls.any():
            continue
        above = _above(values[merged], values[controls])
        one, other = weights[:, merged], weights[:, controls]
        enough = (one.sum(1) > 0) & (other.sum(1) > 0)
        drawn = ((one @ above) * other).sum(1)[enough] / (one.sum(1) * other.sum(1))[enough]
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        hard = auroc(values[merged], values[controls & diffuse])
        counts = int(merged.sum()), int(controls.sum())
        found.append(
            Grade(title(benchmark), name, mixture, float(above.mean()), float(low), float(high), *counts, hard)
        )
    return found


def most_diffuse(benchmark: Benchmark) -> Flags:
    """Say which controls (n,) are the third whose examples lie furthest apart, by `mean_distance`."""
    spread = np.where(benchmark.polysemantic, -np.inf, np.nan_to_num(mean_distance(benchmark.evidence)))
    most = np.argsort(-spread, kind="stable")[: math.ceil((~benchmark.polysemantic).sum() / 3)]
    return np.isin(np.arange(len(benchmark)), most)


def _bootstrap(benchmark: Benchmark, draws: int, seed: int) -> Floats:
    """Give weights (draws, n): how often a unit's main member was drawn, where members are drawn with replacement."""
    main = [(layer, some[0]) for layer, some in zip(benchmark.layers, benchmark.members, strict=True)]
    names = {key: place for place, key in enumerate(dict.fromkeys(main))}
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, [names[key] for key in main]].astype(np.float64)


def _above(positive: Floats, negative: Floats) -> Floats:
    """Give (p, n): 1 where a positive is larger, 0.5 where they are equal."""
    return np.asarray((np.sign(positive[:, None] - negative[None]) + 1) / 2)


def _weights(benchmark: Benchmark, known: Flags) -> Floats:
    """Give each known unit's weight, 1 together: half for controls, half for the mixtures, which weigh alike."""
    kinds = np.where(benchmark.polysemantic, np.array(benchmark.mixtures), "control")[known]
    merged = {kind for kind in kinds.tolist() if kind != "control"}
    weight = np.zeros(len(kinds))
    for kind in set(kinds.tolist()):
        some = kinds == kind
        weight[some] = (0.5 if kind == "control" else 0.5 / len(merged)) / some.sum()
    total: Floats = weight / weight.sum()
    return total


def _fitting(given: ArrayLike, benchmark: Benchmark, what: str) -> NDArray[np.generic]:
    array = np.asarray(given)
    if array.shape != (len(benchmark),):
        raise ValueError(f"{what} have shape {array.shape}: give one number for each of {len(benchmark)} units")
    return array


def _check(benchmark: Benchmark) -> None:
    merged = int(benchmark.polysemantic.sum())
    if merged == 0 or merged == len(benchmark):
        raise ValueError(f"{benchmark!r} cannot grade anything: merged units and controls are needed")


def title(benchmark: Benchmark) -> str:
    """Name a benchmark in a table: its network, and the part of its units."""
    return benchmark.network if benchmark.part == "all" else f"{benchmark.network}, {benchmark.part}"


def _auroc_table(grades: Sequence[Grade], network: str) -> str:
    mixtures = [mixture for mixture in MIXTURES if any(each.mixture == mixture for each in grades)]
    counts = {each.mixture: f"{mixture_head(each)}" for each in grades}
    lines = [f"| {network} | " + " | ".join(counts[mixture] for mixture in mixtures) + " |"]
    lines.append("|---" * (len(mixtures) + 1) + "|")
    for score in dict.fromkeys(each.score for each in grades):
        cells = {each.mixture: _cell(each) for each in grades if each.score == score}
        lines.append(f"| {score} | " + " | ".join(cells.get(mixture, "") for mixture in mixtures) + " |")
    return "\n".join(lines)


def _cell(grade: Grade) -> str:
    return f"{grade.auroc:.3f} ({grade.low:.2f} to {grade.high:.2f}), {grade.diffuse:.2f}"


def mixture_head(grade: Grade) -> str:
    """Name a column: the mixture and how many units were compared."""
    return f"{grade.mixture} (n={grade.merged} vs {grade.controls})"


def _flag_table(flags: Sequence[Flagged]) -> str:
    networks = list(dict.fromkeys(each.network for each in flags))
    lines = ["| flagged | " + " | ".join(networks) + " |", "|---" * (len(networks) + 1) + "|"]
    for kind in dict.fromkeys(each.kind for each in flags):
        cells = {each.network: f"{each.share:.1%} of {each.units} ({each.low:.0%} to {each.high:.0%})" for each in flags
                 if each.kind == kind}  # fmt: skip
        lines.append(f"| {kind} | " + " | ".join(cells.get(network, "") for network in networks) + " |")
    return "\n".join(lines)


def _reliability_table(found: Sequence[Reliability]) -> str:
    head = [f"{each.network}: ECE {each.ece:.3f} (n={each.units})" for each in found]
    lines = ["| probability | " + " | ".join(head) + " |", "|---" * (len(found) + 1) + "|"]
    for number in range(BINS):
        cells = [
            f"{each.said[number]:.2f} said, {each.true[number]:.2f} true, weight {each.weight[number]:.2f}"
            if each.weight[number] > 0
            else ""
            for each in found
        ]
        lines.append(f"| {number / BINS:.1f} to {(number + 1) / BINS:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plain(value: object) -> object:
    """Give nested fields as JSON takes them: what is not a finite number becomes null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


HEAD = (
    "AUROC of merged units against controls of one meaning (95 % interval), then against the most diffuse third of "
    "the controls."
)
# What is shown first: merged units, then controls.
ORDER = (*MIXTURES, "near-duplicate", "family", "noise", "single")
