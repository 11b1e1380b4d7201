"""Parameterizations: the numbers that are optimized and the picture they make; fourier, pixels, pyramids, networks,
fixed spectra, transparency, and what starts from the user's own picture.
"""

from __future__ import annotations

from features.parameterizations.colours import COLOURS, correlate, decorrelate, fit_colours
from features.parameterizations.coordinates import cppn
from features.parameterizations.grids import pixels, pyramid, raw_pixels
from features.parameterizations.origins import masked, starting_from, within_l2, within_linf
from features.parameterizations.protocols import Constrained, Grouped, Invertible, Parameterization, Parameters, Seen
from features.parameterizations.sharing import shared
from features.parameterizations.spectra import CONTRAST, DECAY, fit_spectrum, fourier, maco
from features.parameterizations.transparency import transparent

__all__ = [
    "COLOURS",
    "CONTRAST",
    "DECAY",
    "PARAMETERIZATIONS",
    "WRAPPERS",
    "Constrained",
    "Grouped",
    "Invertible",
    "Parameterization",
    "Parameters",
    "Seen",
    "correlate",
    "cppn",
    "decorrelate",
    "fit_colours",
    "fit_spectrum",
    "fourier",
    "maco",
    "masked",
    "pixels",
    "pyramid",
    "raw_pixels",
    "shared",
    "starting_from",
    "transparent",
    "within_l2",
    "within_linf",
]

PARAMETERIZATIONS = {
    "fourier": fourier,
    "pixels": pixels,
    "raw-pixels": raw_pixels,
    "pyramid": pyramid,
    "cppn": cppn,
    "maco": maco,
}

WRAPPERS = {
    "shared": shared,
    "transparent": transparent,
    "starting-from": starting_from,
    "masked": masked,
    "within-l2": within_l2,
    "within-linf": within_linf,
}
