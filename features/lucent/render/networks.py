"""Networks: what lucent's code knows of a network, made a Model; the size that the network is shown."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import torch
from torch import Tensor, nn

from features.models import Model, load_model

Size: TypeAlias = tuple[int, int]

# What torchvision's classifiers of ImageNet were trained with, and lucent's InceptionV1; the side of their pictures.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTIONV1 = (117 / 255,) * 3, (1 / 255,) * 3
SIDE = 224


def read(model: nn.Module | Model, preprocess: bool, channels: int, size: Size) -> Model:
    """Give the `Model` with the preprocessing that is wanted.

    A network need not run to its end on small pictures: where it does not, it is read at 224 pixels, and the layer that
    is wanted says whether it can be reached.
    """
    plain = (0.0,) * channels, (1.0,) * channels
    if isinstance(model, Model):
        return model if preprocess else dataclasses.replace(model, mean=plain[0], std=plain[1])
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is {type(model).__name__}: give a torch nn.Module, or a Model of load_model")
    mean, std = _scale(model) if preprocess else plain
    name = type(model).__name__
    try:
        return load_model(model, name=name, image_size=size, mean=mean, std=std)
    except ValueError as error:
        try:
            return load_model(model, name=name, image_size=SIDE, mean=mean, std=std)
        except ValueError:
            raise error from None


def _scale(net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    kind = type(net)
    own = kind.__name__ == "InceptionV1" and kind.__module__.partition(".")[0] == "lucent"
    return INCEPTIONV1 if own else IMAGENET


def network_size(model: nn.Module | Model, sides: Size, fixed: int | Size | None) -> Size:
    if fixed is not None:
        pair = (fixed, fixed) if isinstance(fixed, int) else tuple(fixed)
        if len(pair) != 2 or not all(isinstance(each, int) and each > 0 for each in pair):
            raise ValueError(f"fixed_image_size is {fixed!r}: give pixels, one number or (height, width)")
        return pair[0], pair[1]
    least = model.image_size if isinstance(model, Model) else (SIDE, SIDE)
    return least if sides[0] < least[0] or sides[1] < least[1] else sides


def sides_of(picture: Tensor) -> Size:
    return int(picture.shape[2]), int(picture.shape[3])


def device_of(net: nn.Module) -> torch.device:
    return next((each.device for each in net.parameters()), torch.device("cpu"))


def get_model_layers(model: nn.Module, getLayerRepr: bool = False) -> list[str] | dict[str, str]:
    """Give the names of all modules with underscores for dots, or a dictionary from these to their description.

    >>> get_model_layers(nn.Sequential(nn.Sequential(nn.ReLU())))
    ['0', '0_0']
    """
    found = {name.replace(".", "_"): repr(module) for name, module in model.named_modules() if name}
    return found if getLayerRepr else list(found)
