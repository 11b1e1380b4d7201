"""Directions: feature directions of a layer as another basis than its units, and whether they are cleaner.
nmf_directions and kmeans_directions find them, compare_directions judges them as units are judged.
"""

from __future__ import annotations

from circuits.meanings.directions.comparing import (
    DirectionComparison,
    compare_directions,
    read_comparison,
    write_comparison,
)
from circuits.meanings.directions.examples import DirectionExamples, direction_evidence, find_direction_examples
from circuits.meanings.directions.finding import (
    METHODS,
    Directions,
    interference,
    kmeans_directions,
    nmf_directions,
    random_directions,
    read_directions,
    unit_directions,
    write_directions,
)

__all__ = [
    "METHODS",
    "DirectionComparison",
    "DirectionExamples",
    "Directions",
    "compare_directions",
    "direction_evidence",
    "find_direction_examples",
    "interference",
    "kmeans_directions",
    "nmf_directions",
    "random_directions",
    "read_comparison",
    "read_directions",
    "unit_directions",
    "write_comparison",
    "write_directions",
]
