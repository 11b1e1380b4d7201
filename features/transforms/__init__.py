"""Transforms: what a picture must survive while it is made; jitter, scale, rotate, crop, pad, recolour, noise; each
image by its own generator.
"""

from __future__ import annotations

from features.transforms.changes import noise, pad, recolour
from features.transforms.moves import Affine, Transform, crop, jitter, rotate, scale
from features.transforms.sequence import LUCID, MACO, PRESETS, ROBUST, STANDARD, alike, transform

__all__ = [
    "LUCID",
    "MACO",
    "PRESETS",
    "ROBUST",
    "STANDARD",
    "TRANSFORMS",
    "Affine",
    "Transform",
    "alike",
    "crop",
    "jitter",
    "noise",
    "pad",
    "recolour",
    "rotate",
    "scale",
    "transform",
]

TRANSFORMS = {
    "jitter": jitter,
    "scale": scale,
    "rotate": rotate,
    "crop": crop,
    "pad": pad,
    "recolour": recolour,
    "noise": noise,
    "alike": alike,
}
