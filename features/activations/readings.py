"""Activations: what was read in the last forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor


class Activations(Mapping[str, Tensor]):
    """What the layers gave at the last forward pass: a mapping from layer to tensor, valid while its ``with`` lasts.

    Reading raises ``KeyError`` for a layer that was not asked for, and ``RuntimeError`` before the first forward pass,
    after the end of the ``with``, and for a tensor that was overwritten in place after it was read.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._kept: dict[str, tuple[Tensor, int | None]] = {}
        self._open = True

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(
                f"layer {name!r} was not asked for: this reads {', '.join(map(repr, self._names)) or 'no layer'}"
            )
        if not self._open:
            raise RuntimeError(
                f"the reading of {name!r} ended with its `with`: use it inside, or keep dict(activations) there"
            )
        if name not in self._kept:
            raise RuntimeError(
                f"nothing to read in {name!r} yet: call the network on a batch of images inside the `with` first"
            )
        tensor, version = self._kept[name]
        if version != version_of(tensor):
            raise RuntimeError(
                f"the reading of {name!r} was overwritten in place after it was taken: name it in overwritten=, "
                "and change only clones of what you read"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Activations({', '.join(f'{name}: {tuple(kept[0].shape)}' for name, kept in self._kept.items())})"

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def keep(self, name: str, tensor: Tensor) -> None:
        """Take ``tensor`` as the reading of ``name``; for `listen`."""
        self._kept[name] = (tensor, version_of(tensor))

    def clear(self) -> None:
        """Forget the last forward pass; for `listen`."""
        self._kept.clear()

    def close(self) -> None:
        """End the lifetime, and let go of the tensors; for `listen`."""
        self._open = False
        self._kept.clear()


def version_of(tensor: Tensor) -> int | None:
    """Count the in-place changes of ``tensor`` and of what shares its memory; inference mode counts none (``None``)."""
    return None if tensor.is_inference() else tensor._version
