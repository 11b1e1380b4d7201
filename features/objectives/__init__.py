"""Objectives: what a picture is made to maximize; units, directions, images, groups, penalties, and ``+ - *``."""

from __future__ import annotations

from features.objectives.algebra import INPUT, Edit, Objective, Score
from features.objectives.directions import LEAST_COSINE, cosine, direction, directions, whitening
from features.objectives.groups import alignment, diversity, edits_together, interpolation, member, together
from features.objectives.images import caricature, difference, inversion, style
from features.objectives.penalties import PENALTIES, blur, boundary, l1, l2, total_variation
from features.objectives.places import Position
from features.objectives.units import channel, climbing_through, energy, logit, neuron, through

__all__ = [
    "INPUT",
    "LEAST_COSINE",
    "PENALTIES",
    "Edit",
    "Objective",
    "Position",
    "Score",
    "alignment",
    "blur",
    "boundary",
    "caricature",
    "channel",
    "climbing_through",
    "cosine",
    "difference",
    "direction",
    "directions",
    "diversity",
    "edits_together",
    "energy",
    "interpolation",
    "inversion",
    "l1",
    "l2",
    "logit",
    "member",
    "neuron",
    "style",
    "through",
    "together",
    "total_variation",
    "whitening",
]
