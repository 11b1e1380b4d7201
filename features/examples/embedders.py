"""Embedders: functions from images to vectors, images that look alike to vectors that are near."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.models import Layer, Model, probe


@dataclass(frozen=True, eq=False)
class Embedder:
    """A function from images ``(n, channels, *size)`` in [0, 1] to vectors ``(n, d)``, and what it is.

    ``name`` says which network and which weights, ``digest`` is the SHA-256 of these weights, ``size`` (h, w) what it
    takes, ``function`` does it. Called with images of another size it resizes them (bilinear, antialiased).
    """

    name: str
    digest: str
    size: tuple[int, int]
    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(resize_images(images, self.size))


def own_layers(model: Model, layers: str | Iterable[str] | None = None) -> Embedder:
    """Embed with ``layers`` of ``model``: the mean over positions of each channel; by default of the `late_layer`.

    Of several layers each one's vector is divided by its length, so that all count alike, and they are joined; a single
    one is given as it is.

    >>> from features.models import load_model
    >>> own_layers(load_model("sketches"), ["mixed3a", "mixed4a"])(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 160])
    """
    names = [late_layer(model).name] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise ValueError("no layer was given: name at least one of model.layers, or leave it to the late layer")
    for name in names:
        model.layer(name)

    def embed(images: Tensor) -> Tensor:
        with probe(model, names) as activations:
            # channels last: the same numbers but for rounding, twice as fast (pools above all)
            model(images.contiguous(memory_format=torch.channels_last))
            means = [_pooled(activations[name]) for name in names]
        return means[0] if len(means) == 1 else torch.cat([F.normalize(each, dim=1) for each in means], 1)

    return Embedder(f"{model.name}: {', '.join(names)}", model.digest, model.image_size, embed)


def _pooled(activation: Tensor) -> Tensor:
    return activation.flatten(2).mean(2) if activation.ndim > 2 else activation.clone()


def late_layer(model: Model) -> Layer:
    """Give the last of the model's default layers that has positions; where none has, the last but one, or the only.

    >>> from features.models import load_model
    >>> late_layer(load_model("sketches")).name
    'mixed4c'
    """
    layers = [model.layer(name) for name in model.default_layers]
    placed = [layer for layer in layers if len(layer.shape) > 1]
    return (placed or layers[:-1] or layers)[-1]


def clip(name: str = "ViT-B-32", pretrained: str | None = "laion2b_s34b_b79k", *, device: str = "cpu") -> Embedder:
    """Embed with the image half of a CLIP of ``open_clip`` (Radford et al. 2021), its vectors of length 1.

    ``name`` and ``pretrained`` are those of ``open_clip.list_pretrained()``, or ``pretrained`` is a checkpoint file;
    ``None`` gives random weights. Errors: ``ImportError`` without the extra 'clip', ``ValueError`` for names that do
    not exist, ``OSError`` where the weights can be neither found nor downloaded (the hub is tried for a minute; with
    the environment variable ``HF_HUB_OFFLINE=1`` it is not).
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("clip() needs the package open_clip: pip install 'vision-circuits[clip]'") from error
    if name not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {name!r}: choose one of open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not (pretrained is None or pretrained in tags or Path(pretrained).is_file()):
        raise ValueError(f"{pretrained!r} is no file, and no weights of {name}: it has {', '.join(tags) or 'none'}")
    net = _fetched(
        lambda: open_clip.create_model(name, pretrained=pretrained, device=device), f"{name} of open_clip", pretrained
    )
    visual = net.visual
    size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
    look = _Look(net.encode_image, size, visual.image_mean, visual.image_std, device)
    return Embedder(
        f"open_clip {name} {pretrained or 'random'}", digest_of(net), size, lambda images: F.normalize(look(images))
    )


def timm_embedder(
    name: str = "vit_small_patch14_dinov2.lvd142m", *, pretrained: bool | str = True, device: str = "cpu"
) -> Embedder:
    """Embed with a network of ``timm`` without its classifier; by default the small DINOv2 (Oquab et al. 2023).

    ``name`` is one of ``timm.list_models()``, with or without the tag of its weights; ``pretrained`` a file of weights
    (.safetensors), ``True`` for the hub's, ``False`` for random ones. Errors: ``ImportError`` without the extra 'timm',
    ``ValueError`` for a name that does not exist or a file of another kind, ``OSError`` where the weights can be
    neither found nor downloaded (see `clip`).
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm_embedder() needs the package timm: pip install 'vision-circuits[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}: choose one of timm.list_models()")
    if isinstance(pretrained, str) and not pretrained.endswith(".safetensors"):
        raise ValueError(f"'{pretrained}' is no file of weights that is safe to read: give a .safetensors")
    source: dict[str, Any] = {"pretrained_cfg_overlay": {"file": pretrained}} if isinstance(pretrained, str) else {}
    net = _fetched(
        lambda: timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **source),
        f"{name} of timm",
        pretrained,
    )
    given = timm.data.resolve_model_data_config(net)  # type: ignore[attr-defined, no-untyped-call]
    look = _Look(net.to(device), given["input_size"][1:], given["mean"], given["std"], device)
    return Embedder(f"timm {name}{'' if pretrained else ' random'}", digest_of(net), look.size, look)


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Give ``images`` (n, channels, h, w) at ``size``: bilinear, antialiased where they shrink, as they are where they
    fit.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def digest_of(net: nn.Module) -> str:
    """Give the SHA-256 of a network's parameters and buffers: names, shapes, number types and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@dataclass(frozen=True, eq=False)
class _Look:
    """A network with its preprocessing: RGB in [0, 1], grey three times, then mean and standard deviation."""

    net: Callable[[Tensor], Tensor]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"the images have {images.shape[1]} channels: this embedder takes RGB or grey")
        given = images.to(self.device, torch.float32).expand(-1, 3, -1, -1)
        mean, std = (given.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
        with torch.no_grad():
            return self.net((given - mean) / std)


def _fetched(make: Callable[[], Any], what: str, weights: Any) -> Any:
    """Make a network in eval mode; the global generator, from which random weights come, is left as it was."""
    try:
        with torch.random.fork_rng(devices=[]):
            net = make()
    except Exception as error:  # hubs, caches and checkpoints fail in their own ways
        if not weights:
            raise
        raise OSError(
            f"the weights of {what} cannot be had ({type(error).__name__}: {error}): "
            "download them where there is a network, and give the file or the cache"
        ) from error
    return net.eval()


# Embedders that a name can ask for, with their default weights.
EMBEDDERS: dict[str, Callable[..., Embedder]] = {"own": own_layers, "clip": clip, "timm": timm_embedder}
