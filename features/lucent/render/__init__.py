"""Rendering under lucent's names: render_vis, hook_model, and what shows and keeps pictures."""

from __future__ import annotations

from features.lucent.render.hooks import ModuleHook, hook_model
from features.lucent.render.networks import get_model_layers
from features.lucent.render.showing import export, show, tensor_to_img_array, view
from features.lucent.render.vis import render_vis

__all__ = [
    "ModuleHook",
    "export",
    "get_model_layers",
    "hook_model",
    "render_vis",
    "show",
    "tensor_to_img_array",
    "view",
]
