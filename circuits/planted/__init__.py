"""Planted: networks with circuits and polysemantic units put in by hand, the ground truth, and the ruler that grades by
it.

Names are imported when they are first used, so that the command line can ask what its options are at no cost.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

EXPORTS = {
    "Planted": "planting",
    "NETWORKS": "networks",
    "EDGE_SCORES": "edges",
    "EdgeGrades": "edges",
    "grade_edges": "edges",
    "Merge": "merging",
    "merged": "merging",
    "merged_beside": "merging",
    "mix": "merging",
    "MIXTURES": "members",
    "PHOTOGRAPH_KIN": "members",
    "SKETCH_KIN": "members",
    "Benchmark": "benchmarks",
    "make_benchmark": "benchmarks",
    "read_benchmark": "benchmarks",
    "write_benchmark": "benchmarks",
    "FactorMeanings": "factors",
    "factor_meanings": "factors",
    "with_factors": "factors",
    "Grades": "grading",
    "grade": "grading",
}

__all__ = list(EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'circuits.planted' has no attribute {name!r}: it offers {', '.join(EXPORTS)}")
    return getattr(import_module(f"circuits.planted.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
