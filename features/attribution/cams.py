"""Class activation maps: the channels of a layer, weighed by what they do for the target, enlarged to the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from features.attribution.layers import choose_layer, read_maps, read_values, score_edited
from features.attribution.targets import Method, mean_colour, score_of, scores_of
from features.models import Model
from features.objectives import Objective

# How far, relative to the largest, a gradient may vary over positions and images and still be the weight of a mean.
SAME = 1e-4
EPSILON = 1e-12


def cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """CAM: ``sum_k w_k A_k`` with ``w_k`` the target's weight for the mean of channel k, enlarged bilinearly.

    Zhou et al. 2016, "Learning Deep Features for Discriminative Localization". For networks in which the mean over
    positions of ``layer`` and a linear map give the target; then the map's mean is the target but for a constant. The
    weight is the gradient, which has to be the same at all positions and for all images: ``ValueError`` where it is
    not.
    """
    layer = choose_layer(model, objective, images, layer, shown=False)
    maps, grads = read_maps(model, images, objective, layer)
    weights = grads.mean((0, 2, 3), keepdim=True)
    if (grads - weights).abs().max() > SAME * grads.abs().max():
        raise ValueError(
            f"CAM needs a target that is linear in the mean of a layer, and {objective.name!r} is not so in {layer!r}: "
            "use grad-cam"
        )
    return _enlarged((weights * maps).sum(1) * maps[0, 0].numel(), images), None


def grad_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """Grad-CAM at ``layer``: ``sum_k w_k A_k`` with ``w_k`` the mean over positions of ``dS / dA_k``, enlarged
    bilinearly.

    Selvaraju et al. 2017, "Grad-CAM". They cut off what is below 0; here the sign is kept, since it says what speaks
    against the target. The layer is by default the last one with positions before the target. It promises no sum.
    """
    maps, grads = _read(model, images, objective, layer)
    return _enlarged((grads.mean((2, 3), keepdim=True) * maps).sum(1), images), None


def grad_cam_plus(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """Grad-CAM++: ``w_k = sum_xy a_k relu(G_k)`` with ``a_k = G_k^2 / (2 G_k^2 + G_k^3 sum_xy A_k)``.

    Chattopadhay et al. 2018: positions count by their share in the target's growth, so that several things of one
    class each show. The formula is that of an exponential on top of the target, as in the paper.
    """
    maps, grads = _read(model, images, objective, layer)
    squares = grads.square()
    below = 2 * squares + grads * squares * maps.sum((2, 3), keepdim=True)
    shares = squares / torch.where(below != 0, below, 1)
    weights = (shares * grads.clamp(min=0)).sum((2, 3), keepdim=True)
    return _enlarged((weights * maps).sum(1), images), None


def hires_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """HiResCAM: ``sum_k G_k A_k``, position by position, where Grad-CAM takes the mean of the gradient first.

    Draelos and Carin 2020. Before it is enlarged it sums to the target's linear part, exactly for a layer on which the
    target depends linearly.
    """
    maps, grads = _read(model, images, objective, layer)
    return _enlarged((grads * maps).sum(1), images), None


def xgrad_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """XGrad-CAM: ``w_k = sum_xy (A_k / sum_xy A_k) G_k``; Fu et al. 2020, from axioms of sensitivity and conservation.

    A channel whose activations sum to 0 gets no weight.
    """
    maps, grads = _read(model, images, objective, layer)
    sums = maps.sum((2, 3), keepdim=True)
    weights = (maps * grads).sum((2, 3), keepdim=True) / torch.where(sums.abs() > EPSILON, sums, 1)
    return _enlarged((torch.where(sums.abs() > EPSILON, weights, 0) * maps).sum(1), images), None


def layer_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """LayerCAM: ``sum_k relu(G_k) A_k``, position by position; Jiang et al. 2021. Finer than Grad-CAM in early
    layers."""
    maps, grads = _read(model, images, objective, layer)
    return _enlarged((grads.clamp(min=0) * maps).sum(1), images), None


def score_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """Score-CAM: channels weighed by the target on the picture seen through them; no gradient.

    Wang et al. 2020. ``w_k`` is the softmax over channels of ``S(x M_k) - S(nothing)``, with ``M_k`` the channel's map,
    enlarged, from 0 at its smallest to 1 at its largest value; what is masked shows the model's mean colour. One
    forward pass a channel and image.
    """
    layer = choose_layer(model, objective, images, layer)
    maps = read_values(model, images, objective, layer)
    nothing = mean_colour(model, images)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    flat = high - low <= EPSILON
    masks = (maps - low) / torch.where(flat, 1, high - low)
    seen = (nothing + _enlarged(masks[:, k], images)[:, None] * (images - nothing) for k in range(maps.shape[1]))
    gains = torch.stack(list(scores_of(model, seen, objective)), 1)
    gains = gains - score_of(model, nothing.expand_as(images), objective)[:, None]
    silent = flat[:, :, 0, 0]
    weights = gains.masked_fill(silent, -torch.inf).softmax(1).masked_fill(silent.all(1, keepdim=True), 0)
    return _enlarged((weights[:, :, None, None] * maps).sum(1), images), None


def ablation_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """Ablation-CAM: channels weighed by how far the target falls without them, ``w_k = S - S(A_k = 0)``; no gradient.

    Desai and Ramaswamy 2020. They divide by S, which only sets a scale, and turns the sign where S is negative. One
    forward pass a channel and image; channels that are silent on all images cost none.
    """
    layer = choose_layer(model, objective, images, layer)
    maps = read_values(model, images, objective, layer)
    before = score_of(model, images, objective)
    weights = torch.zeros_like(maps[:, :, 0, 0])
    for channel in maps.abs().amax((0, 2, 3)).nonzero()[:, 0].tolist():
        weights[:, channel] = before - score_edited(model, images, objective, {layer: _without(channel)})
    return _enlarged((weights[:, :, None, None] * maps).sum(1), images), None


def eigen_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """Eigen-CAM: the first principal component of a layer's activations over positions; it knows of no target.

    Bany Muhammad and Yeasin 2020: the projections of ``A`` (positions, c), less their mean, on the first right singular
    vector. The sign, which is free, is that of the correlation with the mean over channels. The target only says which
    layer is read where none is named.
    """
    layer = choose_layer(model, objective, images, layer)
    maps = read_values(model, images, objective, layer)
    points = maps.flatten(2).transpose(1, 2)
    centred = points - points.mean(1, keepdim=True)
    along = torch.linalg.svd(centred, full_matrices=False)[2][:, :1]
    projected = (centred @ along.transpose(1, 2))[:, :, 0]
    agree = (projected * centred.mean(2)).sum(1, keepdim=True)
    heat = (projected * torch.where(agree < 0, -1, 1)).reshape(len(maps), *maps.shape[2:])
    return _enlarged(heat, images), None


def _read(model: Model, images: Tensor, objective: Objective, layer: str | None) -> tuple[Tensor, Tensor]:
    return read_maps(model, images, objective, choose_layer(model, objective, images, layer))


def _enlarged(heat: Tensor, images: Tensor) -> Tensor:
    """Give (n, h, w) at the size of the images, bilinearly."""
    return F.interpolate(heat[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _without(channel: int) -> Callable[[Tensor], Tensor]:
    def edit(values: Tensor) -> Tensor:
        kept = values.clone()
        kept[:, channel] = 0
        return kept

    return edit


CAMS: dict[str, Method] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus,
    "hires-cam": hires_cam,
    "xgrad-cam": xgrad_cam,
    "layer-cam": layer_cam,
    "cam": cam,
    "score-cam": score_cam,
    "ablation-cam": ablation_cam,
    "eigen-cam": eigen_cam,
}
