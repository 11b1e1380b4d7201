"""Mosaics: what a layer says of an image, position by position or in groups of neurons, and of many images: the
activation grid, neuron groups and the activation atlas.
"""

from __future__ import annotations

from features.mosaics.atlases import ActivationAtlas, activation_atlas
from features.mosaics.grids import ActivationGrid, ActivationGroups, activation_grid, activation_groups
from features.mosaics.keeping import read_mosaic, write_mosaic

__all__ = [
    "ActivationAtlas",
    "ActivationGrid",
    "ActivationGroups",
    "activation_atlas",
    "activation_grid",
    "activation_groups",
    "read_mosaic",
    "write_mosaic",
]
