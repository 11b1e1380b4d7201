"""Where networks come from: the embedded weights, torchvision, timm, lucent, or the user's own module."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from features.activations import nearest
from features.models.checkpoints import fill_network, read_weights
from features.models.inception import read_inception

EMBEDDED = ("sketches", "photographs")
SEEDS = ("seed0", "seed1")
LUCENT_URL = "https://github.com/ProGamerGov/pytorch-old-tensorflow-models/raw/master/inception5h.pth"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True, eq=False)
class Origin:
    """A network, not yet run, and what its source says about it; ``None`` where the source says nothing.

    ``labels`` are dropped where the network has another number of outputs.
    """

    net: nn.Module
    name: str
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()
    default_layers: tuple[str, ...] | None = None


def find_network(source: str | nn.Module, weights: Any, options: Mapping[str, Any]) -> Origin:
    """Build or take the network that ``source`` means, with its weights; see `features.models.load_model`."""
    if isinstance(source, nn.Module):
        return _own(source, weights, options)
    if not isinstance(source, str):
        raise TypeError(
            f"a model is named by text or is an nn.Module, not {type(source).__name__}: see help(load_model)"
        )
    for prefix, build in BUILDERS.items():
        if source.startswith(prefix):
            return build(source.removeprefix(prefix), weights, options)
    if source in EMBEDDED:
        return _embedded(source, weights, options)
    return _torchvision(source, weights, options)


def _own(net: nn.Module, weights: Any, options: Mapping[str, Any]) -> Origin:
    if options:
        raise TypeError(
            f"a network that is already built takes no {', '.join(options)}: give them to its own constructor"
        )
    learning = next((name for name, module in net.named_modules() if module.training), None)
    if learning is not None:
        part = f" in its module {learning!r}" if learning else ""
        raise ValueError(f"{type(net).__name__} is in training mode{part}: call net.eval() first")
    if weights is not None:
        if not isinstance(weights, (str, Path)):
            raise TypeError(
                f"the weights of a network that is already built are a file, not {weights!r}: give its path"
            )
        fill_network(net, read_weights(weights), origin=str(weights))
    return Origin(net, type(net).__name__)


def _embedded(source: str, weights: Any, options: Mapping[str, Any]) -> Origin:
    if options:
        raise TypeError(f"the embedded network {source!r} takes no {', '.join(options)}: its file says how it is built")
    if _is_path(weights):
        net, described = read_inception(weights)
    else:
        folder = files("features").joinpath(source)
        known = [seed for seed in SEEDS if folder.joinpath(f"{seed}.safetensors").is_file()]
        seed = "seed0" if weights is None else weights
        if seed not in known:
            raise ValueError(f"{source!r} has no weights {seed!r}: it has {', '.join(map(repr, known)) or 'none here'}")
        with as_file(folder.joinpath(f"{seed}.safetensors")) as path:
            net, described = read_inception(path)
    height, width = _size(described["image_size"])
    mean, std, labels = (tuple(described[key]) for key in ("mean", "std", "labels"))
    return Origin(net, source, (height, width), mean, std, labels)


def _torchvision(source: str, weights: Any, options: Mapping[str, Any]) -> Origin:
    known = models.list_models(module=models)
    if source not in known:
        listing = "torchvision.models.list_models(module=torchvision.models), besides 'sketches' and 'photographs'"
        raise ValueError(nearest(source, [*EMBEDDED, *known], what="model", listing=listing))
    kinds = models.get_model_weights(source)
    path = weights if _is_path(weights) else None
    chosen = None if path else _chosen(source, kinds, weights)
    if chosen is None:
        options = {**_quiet(source, random=path is None), **options}
    with _built(chosen, getattr(chosen, "url", "them")):
        net = models.get_model(source, weights=chosen, **options)
    if path:
        fill_network(net, read_weights(path), origin=str(path))
    said = chosen or kinds.DEFAULT
    preset = said.transforms()
    size = _size(preset.crop_size)
    return Origin(net, source, size, tuple(preset.mean), tuple(preset.std), tuple(said.meta.get("categories", ())))


def _quiet(source: str, *, random: bool) -> dict[str, bool]:
    """Give the options without which two torchvision networks carry unused heads and warn when they are built."""
    if source not in ("googlenet", "inception_v3"):
        return {}
    return {"aux_logits": False, "init_weights": random}


def _chosen(source: str, kinds: Any, weights: Any) -> Any:
    """Find the member of a torchvision weights enum that ``weights`` is or names."""
    if weights is None:
        return None
    if isinstance(weights, kinds):
        return weights
    name = str(weights).removeprefix(f"{kinds.__name__}.")
    if isinstance(weights, enum.Enum) or name not in kinds.__members__:
        names = ", ".join(map(repr, kinds.__members__))
        raise ValueError(f"{source} has no weights {str(weights)!r}: it has {names}; a file is given by its path")
    return kinds[name]


def _timm(source: str, weights: Any, options: Mapping[str, Any]) -> Origin:
    try:
        timm, timm_data = import_module("timm"), import_module("timm.data")
    except ImportError as missing:
        raise ImportError("models named 'timm:...' need the extra: pip install 'vision-circuits[timm]'") from missing
    if not timm.is_model(source):
        raise ValueError(nearest(source, timm.list_models(), what="timm model", listing="timm.list_models()"))
    path = weights if _is_path(weights) else None
    tagged = source if weights in (None, "DEFAULT") or path else f"{source.split('.')[0]}.{weights}"
    with _built(tagged, f"https://huggingface.co/timm/{tagged}"):
        net = timm.create_model(tagged, pretrained=weights is not None and path is None, **options)
    if path:
        fill_network(net, read_weights(path), origin=str(path))
    data = timm_data.resolve_model_data_config(net)
    info = timm_data.ImageNetInfo()
    labels = tuple(info.index_to_description(index) for index in range(info.num_classes()))
    height, width = data["input_size"][1:]
    return Origin(net, f"timm:{source}", (height, width), tuple(data["mean"]), tuple(data["std"]), labels)


def _lucent(source: str, weights: Any, options: Mapping[str, Any]) -> Origin:
    """Build lucent's InceptionV1, the network of the Distill articles, with two changes.

    Its ReLU that leaks in the backward pass becomes an ordinary one, since every attribution would be wrong otherwise,
    and its softmax is left out, so that the network gives logits.
    """
    if source != "inceptionv1":
        raise ValueError(
            f"no model 'lucent:{source}': there is 'lucent:inceptionv1'; the others of lucent are torchvision's"
        )
    try:
        zoo = import_module("lucent.modelzoo")
    except ImportError as missing:
        raise ImportError("'lucent:inceptionv1' needs the extra: pip install 'vision-circuits[lucent]'") from missing
    path = weights if _is_path(weights) else None
    if path is None and weights not in (None, "DEFAULT"):
        raise ValueError(
            f"'lucent:inceptionv1' has no weights {weights!r}: it has 'DEFAULT'; a file is given by its path"
        )
    with _built(source, LUCENT_URL):
        net = zoo.inceptionv1(pretrained=weights == "DEFAULT", redirected_ReLU=False, **options)
    net.softmax2 = nn.Identity()
    if path:
        fill_network(net, read_weights(path), origin=str(path))
    named = [name for name, _ in net.named_children() if "_" not in name and name.startswith(("conv2d", "mixed"))]
    # lucent.optvis.transform.preprocess_inceptionv1: x * 255 - 117, for pixels in [0, 1]
    mean, std = (117 / 255,) * 3, (1 / 255,) * 3
    return Origin(net, "lucent:inceptionv1", (224, 224), mean, std, (), (*named, "softmax2_pre_activation_matmul"))


@contextmanager
def _built(weights: Any, place: str) -> Iterator[None]:
    """Build from seed 0, leave the global generator as it was, and say in ``place`` where missing ``weights`` are."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        yield
    except OSError as fault:
        raise OSError(
            f"the weights {weights} could not be fetched ({fault}): load {place} and give its path"
        ) from fault
    finally:
        torch.random.set_rng_state(state)


def _is_path(weights: Any) -> bool:
    """Whether ``weights`` is a file: a Path, text that ends as files of weights do, or text that names an existing
    file."""
    if isinstance(weights, Path):
        return True
    return isinstance(weights, str) and (weights.endswith(SUFFIXES) or Path(weights).is_file())


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return height, width


BUILDERS = {"timm:": _timm, "lucent:": _lucent}
