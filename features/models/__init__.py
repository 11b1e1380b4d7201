"""Model: a network that can be shown pictures and whose layers can be read. load_model makes one, probe reads it."""

from __future__ import annotations

from features.models.layers import Layer, ReceptiveField
from features.models.loading import load_model
from features.models.model import Model, probe

__all__ = ["Layer", "Model", "ReceptiveField", "load_model", "probe"]
