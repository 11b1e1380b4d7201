"""Contact sheets: one unit's examples at a glance, for a notebook, a page or a picture."""

from __future__ import annotations

from features.examples.sheets.contents import Band, ContactSheet, Histogram, Tile
from features.examples.sheets.crops import Pictures, dataset_pictures
from features.examples.sheets.gathering import contact_sheet, sheet_of
from features.examples.sheets.pages import HEADS, check_sheet_path, examples_html, overview, write_sheets

__all__ = [
    "HEADS",
    "Band",
    "ContactSheet",
    "Histogram",
    "Pictures",
    "Tile",
    "check_sheet_path",
    "contact_sheet",
    "dataset_pictures",
    "examples_html",
    "overview",
    "sheet_of",
    "write_sheets",
]
