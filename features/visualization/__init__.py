"""Visualization: pictures of what units respond to, and how good they are. visualize makes them, ascend makes them as
textbooks do, write_visualization and read_visualization keep them.
"""

from __future__ import annotations

from features.visualization.ascent import visualize
from features.visualization.climbing import NotFinite
from features.visualization.optimizers import OPTIMIZERS, adam, momentum, plain
from features.visualization.results import Visualization, read_visualization, write_visualization
from features.visualization.sizes import canvas
from features.visualization.textbook import ascend

__all__ = [
    "OPTIMIZERS",
    "NotFinite",
    "Visualization",
    "adam",
    "ascend",
    "canvas",
    "momentum",
    "plain",
    "read_visualization",
    "visualize",
    "write_visualization",
]
