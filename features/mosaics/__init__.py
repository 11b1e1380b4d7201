"""Mosaics: what a layer says of an image, position by position or in groups of neurons, and of many images: the
activation grid, neuron groups, the activation atlas, and sheets of all channels.
"""

from __future__ import annotations

from features.mosaics.activation_sheets import ActivationSheet, activation_sheet, write_activation_sheet
from features.mosaics.atlases import ActivationAtlas, activation_atlas
from features.mosaics.grids import ActivationGrid, ActivationGroups, activation_grid, activation_groups
from features.mosaics.keeping import read_mosaic, write_mosaic

__all__ = [
    "ActivationAtlas",
    "ActivationGrid",
    "ActivationGroups",
    "ActivationSheet",
    "activation_atlas",
    "activation_grid",
    "activation_groups",
    "activation_sheet",
    "read_mosaic",
    "write_activation_sheet",
    "write_mosaic",
]
