"""Attribution: which pixels, positions or channels made the network say what it said; attribute, attribute_channels,
audit.
"""

from __future__ import annotations

from features.attribution.attributing import METHODS, PIXEL_METHODS, attribute
from features.attribution.auditing import Audit, audit
from features.attribution.cams import (
    CAMS,
    ablation_cam,
    cam,
    eigen_cam,
    grad_cam,
    grad_cam_plus,
    hires_cam,
    layer_cam,
    score_cam,
    xgrad_cam,
)
from features.attribution.channels import (
    ChannelAttribution,
    GroupAttribution,
    attribute_channels,
    attribute_channels_along_path,
    attribute_groups,
)
from features.attribution.nouns import Attribution, read_attribution, write_attribution
from features.attribution.perturbing import occlusion, rise
from features.attribution.pixels import (
    BASELINES,
    absolute_gradient,
    gradient,
    gradient_x_input,
    integrated_gradients,
    saliency,
    smoothgrad,
    vargrad,
)
from features.attribution.rectified import deconvnet, guided_backpropagation
from features.attribution.targets import Method, aim, score_of

__all__ = [
    "BASELINES",
    "CAMS",
    "METHODS",
    "PIXEL_METHODS",
    "Attribution",
    "Audit",
    "ChannelAttribution",
    "GroupAttribution",
    "Method",
    "ablation_cam",
    "absolute_gradient",
    "aim",
    "attribute",
    "attribute_channels",
    "attribute_channels_along_path",
    "attribute_groups",
    "audit",
    "cam",
    "deconvnet",
    "eigen_cam",
    "grad_cam",
    "grad_cam_plus",
    "gradient",
    "gradient_x_input",
    "guided_backpropagation",
    "hires_cam",
    "integrated_gradients",
    "layer_cam",
    "occlusion",
    "read_attribution",
    "rise",
    "saliency",
    "score_cam",
    "score_of",
    "smoothgrad",
    "vargrad",
    "write_attribution",
    "xgrad_cam",
]
