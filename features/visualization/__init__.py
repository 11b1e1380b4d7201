"""Visualization: pictures of what units respond to. visualize makes them, write_visualization and read_visualization
keep them.
"""

from __future__ import annotations

from features.visualization.ascent import visualize
from features.visualization.results import Visualization, read_visualization, write_visualization

__all__ = ["Visualization", "read_visualization", "visualize", "write_visualization"]
