"""Objectives under lucent's names: functions of ``T`` that give a loss, one number, which is minimized.

``T(layer)`` gives a layer's activations, channels first, of all pictures together. The signs and the scales are
lucent's: means over all pictures, so ``channel`` is minus the channel's mean, and `diversity` and
`blur_input_each_step` are minus what they measure.
"""

from __future__ import annotations

from features.lucent.objectives.given import as_loss, as_objective
from features.lucent.objectives.groups import alignment, blur_input_each_step, channel_interpolate, diversity
from features.lucent.objectives.losses import Objective, handle_batch, wrap_objective
from features.lucent.objectives.units import (
    channel,
    channel_weight,
    direction,
    direction_neuron,
    localgroup_weight,
    neuron,
    neuron_weight,
)

__all__ = [
    "OBJECTIVES",
    "Objective",
    "alignment",
    "as_loss",
    "as_objective",
    "blur_input_each_step",
    "channel",
    "channel_interpolate",
    "channel_weight",
    "direction",
    "direction_neuron",
    "diversity",
    "handle_batch",
    "localgroup_weight",
    "neuron",
    "neuron_weight",
    "wrap_objective",
]

OBJECTIVES = {
    "neuron": neuron,
    "channel": channel,
    "neuron_weight": neuron_weight,
    "channel_weight": channel_weight,
    "localgroup_weight": localgroup_weight,
    "direction": direction,
    "direction_neuron": direction_neuron,
    "blur_input_each_step": blur_input_each_step,
    "channel_interpolate": channel_interpolate,
    "alignment": alignment,
    "diversity": diversity,
}
