"""What makes sense with one unit of a vision network: its pictures, its dataset examples, attribution, activations.

Load a network with `load_model`, read and edit its layers with `probe`, see a unit with `visualize`, find what excites
it in a dataset with `find_examples`, and ask what in an image caused a response with `attribute`. Names are imported
when they are first used, so that ``import features`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

EXPORTS = {
    "Unit": "units",
    "load_model": "models",
    "probe": "models",
    "Model": "models",
    "Layer": "models",
    "ReceptiveField": "models",
    "listen": "activations",
    "Activations": "activations",
    "Sketches": "sketches",
    "HELD_OUT_SEED": "sketches",
    "Photographs": "photographs",
    "INPUT": "objectives",
    "Objective": "objectives",
    "channel": "objectives",
    "neuron": "objectives",
    "direction": "objectives",
    "directions": "objectives",
    "energy": "objectives",
    "logit": "objectives",
    "through": "objectives",
    "climbing_through": "objectives",
    "cosine": "objectives",
    "whitening": "objectives",
    "member": "objectives",
    "interpolation": "objectives",
    "alignment": "objectives",
    "diversity": "objectives",
    "inversion": "objectives",
    "caricature": "objectives",
    "difference": "objectives",
    "style": "objectives",
    "total_variation": "objectives",
    "l1": "objectives",
    "l2": "objectives",
    "blur": "objectives",
    "boundary": "objectives",
    "fourier": "parameterizations",
    "pixels": "parameterizations",
    "raw_pixels": "parameterizations",
    "pyramid": "parameterizations",
    "shared": "parameterizations",
    "cppn": "parameterizations",
    "maco": "parameterizations",
    "transparent": "parameterizations",
    "starting_from": "parameterizations",
    "masked": "parameterizations",
    "within_l2": "parameterizations",
    "within_linf": "parameterizations",
    "fit_colours": "parameterizations",
    "fit_spectrum": "parameterizations",
    "jitter": "transforms",
    "scale": "transforms",
    "rotate": "transforms",
    "pad": "transforms",
    "crop": "transforms",
    "recolour": "transforms",
    "noise": "transforms",
    "alike": "transforms",
    "STANDARD": "transforms",
    "LUCID": "transforms",
    "ROBUST": "transforms",
    "MACO": "transforms",
    "visualize": "visualization",
    "ascend": "visualization",
    "canvas": "visualization",
    "momentum": "visualization",
    "adam": "visualization",
    "plain": "visualization",
    "NotFinite": "visualization",
    "Visualization": "visualization",
    "write_visualization": "visualization",
    "read_visualization": "visualization",
    "find_examples": "examples",
    "Examples": "examples",
    "FolderImages": "examples",
    "crops": "examples",
    "write_examples": "examples",
    "read_examples": "examples",
    "attribute": "attribution",
    "Attribution": "attribution",
    "activation_grid": "mosaics",
    "activation_groups": "mosaics",
    "activation_atlas": "mosaics",
    "ActivationGrid": "mosaics",
    "ActivationGroups": "mosaics",
    "ActivationAtlas": "mosaics",
    "write_mosaic": "mosaics",
    "read_mosaic": "mosaics",
    "grid": "pictures",
    "write_picture": "pictures",
}

__all__ = list(EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'features' has no attribute {name!r}: it offers {', '.join(sorted(EXPORTS))}")
    value = getattr(import_module(f"features.{EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
