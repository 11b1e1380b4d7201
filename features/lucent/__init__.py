"""lucent's names and signatures on this engine: ``from features.lucent import render, param, transform, objectives``.

Code written for lucent 0.1.8 runs with that in place of ``from lucent.optvis import render, param, transform,
objectives``; `render.render_vis` says what is otherwise than there, on purpose. Objects of the two can be mixed: see
`features.lucent.adapters`. lucent itself is not needed.
"""

from __future__ import annotations

from features.lucent import objectives, param, render, transform
from features.lucent.adapters import as_loss, as_param_f, as_transform

__all__ = ["as_loss", "as_param_f", "as_transform", "objectives", "param", "render", "transform"]
