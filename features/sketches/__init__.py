"""A drawn world whose every factor is known, and the networks trained on it."""

from __future__ import annotations

from features.sketches.world import HELD_OUT_SEED, LABELS, Factors, Part, Sketches

__all__ = ["HELD_OUT_SEED", "LABELS", "Factors", "Part", "Sketches"]
