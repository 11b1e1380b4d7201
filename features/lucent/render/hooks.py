"""Hooks: the layers of a network read as lucent does, for as long as someone holds the reader."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from features.activations import watch
from features.lucent.render.networks import read, sides_of
from features.lucent.render.showing import checked_picture
from features.models import Model, probe
from features.objectives import INPUT
from features.visualization.guests import Closure, layer_of


class Hooked:
    """``T`` of `hook_model`: ``T(layer)`` is what that layer gave in the network's last forward pass.

    ``T.close()``, or the end of ``with hook_model(...) as T``, takes its hooks away; so does letting go of ``T``.
    """

    def __init__(self, model: Model, image_f: Closure) -> None:
        self.model, self.image_f = model, image_f
        stack = ExitStack()
        self.activations = stack.enter_context(probe(model, [layer.name for layer in model.layers], stop=False))
        self.close = weakref.finalize(self, stack.close)

    def __call__(self, layer: str) -> Tensor:
        found = layer_of(self.model, layer)
        return self.image_f() if found == INPUT else self.activations[found]

    def __enter__(self) -> Hooked:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Reading:
    """What one layer gave, as long as its `Hooked` is open."""

    def __init__(self, hooked: Hooked, layer: str) -> None:
        self.hooked, self.layer = hooked, layer
        self.close = hooked.close

    @property
    def features(self) -> Tensor:
        """Give the layer's activations in the last forward pass, channels first."""
        return self.hooked.activations[self.layer]


def hook_model(
    model: nn.Module | Model, image_f: Closure, return_hooks: bool = False
) -> Hooked | tuple[Hooked, dict[str, Reading]]:
    """Give ``T``, which reads the layers of ``model``: after ``model(images)``, ``T("mixed4a")`` is that layer's
    activations, channels first, ``T("labels")`` the last layer's, ``T("input")`` what ``image_f()`` gives.

    Names are those of `layer_of`. The network runs once, to see its layers, on a blank picture of ``image_f()``'s size.
    With ``return_hooks`` it gives ``(T, hooks)``, a dictionary from names with underscores to what has ``features``, as
    later lucents do. The hooks go with ``T``; lucent's stay for ever, and read what is made of a layer in place.

    >>> import torch
    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> with hook_model(model, lambda: torch.zeros(1, 3, 64, 64)) as T:
    ...     logits = model(T("input"))
    ...     bool((T("labels") == logits).all())
    True
    """
    picture = checked_picture(image_f())
    hooked = Hooked(read(model, isinstance(model, Model), picture.shape[1], sides_of(picture)), image_f)
    names = {name: name.replace(".", "_") for name in hooked.activations}
    return (hooked, {said: Reading(hooked, name) for name, said in names.items()}) if return_hooks else hooked


class ModuleHook:
    """What a module gave when it was last called: ``features``; until `close`.

    >>> import torch
    >>> module = nn.Conv2d(3, 8, 1)
    >>> hook = ModuleHook(module)
    >>> hook.features is None, bool((module(torch.ones(1, 3, 2, 2)) == hook.features).all())
    (True, True)
    >>> hook.close()
    """

    def __init__(self, module: nn.Module) -> None:
        stack = ExitStack()
        self._outputs = stack.enter_context(watch(module))
        self.module = module
        self.close = stack.close

    @property
    def features(self) -> Any:
        """Give the latest output, ``None`` before the first."""
        return self._outputs[-1] if self._outputs else None
