"""Atlas: a folder of pages about a whole network, made again only where something changed."""

from __future__ import annotations

from circuits.atlas.datasets import open_dataset
from circuits.atlas.single import write_unit
from circuits.atlas.writing import write_atlas

__all__ = ["open_dataset", "write_atlas", "write_unit"]
