"""Examples: what in a dataset excites a unit. find_examples looks, crops shows, FolderImages reads a folder of
pictures.
"""

from __future__ import annotations

from features.examples.finding import crops, find_examples
from features.examples.images import FolderImages, fingerprint, fit_image
from features.examples.nouns import Examples, LayerExamples, UnitExamples, read_examples, write_examples

__all__ = [
    "Examples",
    "FolderImages",
    "LayerExamples",
    "UnitExamples",
    "crops",
    "find_examples",
    "fingerprint",
    "fit_image",
    "read_examples",
    "write_examples",
]
