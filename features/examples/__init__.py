"""Examples: what in a dataset excites a unit. find_examples looks, crops shows, FolderImages reads a folder of
pictures.
"""

from __future__ import annotations

from features.examples.adapters import HuggingFaceImages, TarImages, from_hf, from_webdataset
from features.examples.duplicates import collapse_duplicates, perceptual_hash
from features.examples.embedders import Embedder, clip, own_layers, timm_embedder
from features.examples.embeddings import Embeddings, embed, read_embeddings, write_embeddings
from features.examples.files import read_examples, write_examples
from features.examples.finding import crops, find_examples
from features.examples.fitting import fit_image
from features.examples.folders import FolderImages
from features.examples.images import fingerprint, image_id
from features.examples.index import best_examples, image_name, most_excited
from features.examples.nouns import Examples, LayerExamples, UnitExamples
from features.examples.sheets import ContactSheet, contact_sheet, write_sheets
from features.examples.store import check_store, open_examples
from features.examples.tables import example_frame, unit_frame, write_example_table, write_unit_table

__all__ = [
    "ContactSheet",
    "Embedder",
    "Embeddings",
    "Examples",
    "FolderImages",
    "HuggingFaceImages",
    "LayerExamples",
    "TarImages",
    "UnitExamples",
    "best_examples",
    "check_store",
    "clip",
    "collapse_duplicates",
    "contact_sheet",
    "crops",
    "embed",
    "example_frame",
    "find_examples",
    "fingerprint",
    "fit_image",
    "from_hf",
    "from_webdataset",
    "image_id",
    "image_name",
    "most_excited",
    "open_examples",
    "own_layers",
    "perceptual_hash",
    "read_embeddings",
    "read_examples",
    "timm_embedder",
    "unit_frame",
    "write_embeddings",
    "write_example_table",
    "write_examples",
    "write_sheets",
    "write_unit_table",
]
