"""Families: units that are turned, mirrored, scaled or recoloured copies of each other; their average wires.

(The function is `find_families`, so that ``circuits.families`` stays the module.)
"""

from __future__ import annotations

from circuits.families.kernels import Collapse, collapse, kernel_families
from circuits.families.nouns import Family, Transform, transform_between
from circuits.families.responses import find_families

__all__ = ["Collapse", "Family", "Transform", "collapse", "find_families", "kernel_families", "transform_between"]
