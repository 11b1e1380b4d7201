"""Attributions: where in each image a target's value comes from; frozen, shown over the pictures, kept on disk."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.pictures import Picture, data_uri, encode, grid, overlay, resize, signed
from features.records import check_shapes, read_record, write_record

KIND = "attribution"
SHOWN = 128  # pixels a picture is shown with at least
FEW = 16  # images that are shown in a notebook
WITHIN = 0.995  # of the pixels, whose heat is shown on the scale
PALE = 0.6  # how dark the grey picture under a heat is, so that its colours are seen


@dataclass(frozen=True, eq=False)
class Attribution:
    """Where in each image the target's value comes from.

    ``heat`` (n, h, w) is signed and unscaled, at the images' size: positive where the image speaks for the target.
    ``score`` (n,) is the target's value on each image. ``total`` (n,) is what the method promises the heat to sum to,
    and ``residual`` (n,) is the heat's sum minus that; both are ``None`` for methods that promise no sum. ``layer`` is
    the layer that was looked at, ``None`` for methods on pixels. ``pictures`` (n, h, w, 3) bytes are the images, where
    they have 1 or 3 channels. It shows itself in a notebook: each heat over its picture, on its own scale, which is
    said.
    """

    heat: NDArray[np.floating]
    method: str
    target: str
    layer: str | None
    score: NDArray[np.floating]
    total: NDArray[np.floating] | None
    residual: NDArray[np.floating] | None
    pictures: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.heat)

    def __repr__(self) -> str:
        place = f" at {self.layer}" if self.layer else ""
        left = f", residual at most {np.abs(self.residual).max():.3g}" if self.residual is not None else ""
        return f"Attribution({self.method}{place} of {self.target}: {len(self.heat)} images{left})"

    def scale(self, image: int = 0) -> float:
        """Give the heat that is shown in full colour: what 99.5 % of the pixels stay within, so that a few do not
        outshine the rest."""
        strength = np.abs(self.heat[image])
        within = float(np.quantile(strength, WITHIN))
        return within if within > 0 else float(strength.max())

    def overlay(self, image: int = 0, *, scale: float | None = None) -> Picture:
        """Give the heat of one image over its picture in pale grey: vermillion speaks for the target, blue against it,
        and nothing is tinted where the heat is 0; without pictures, the heat alone.

        ``scale`` is the heat of the full colour, by default `scale`.
        """
        scale = self.scale(image) if scale is None else scale
        if self.pictures is None:
            return resize(signed(self.heat[image], scale=scale), max(SHOWN, self.heat.shape[1]))
        return overlay(1 - PALE * (1 - self.picture(image).mean(2, keepdims=True)), self.heat[image], scale=scale)

    def picture(self, image: int = 0) -> Picture:
        """Give one of the images; ``ValueError`` where they are no pictures."""
        if self.pictures is None:
            raise ValueError("these images have other than 1 or 3 channels: there is no picture of them")
        return resize(self.pictures[image].astype(np.float32) / 255, max(SHOWN, self.heat.shape[1]))

    def _repr_png_(self) -> bytes:
        """Show the first images, each with its heat, on its own scale."""
        return encode(grid([self._pair(image) for image in range(min(FEW, len(self)))]), "png")

    def _repr_html_(self) -> str:
        """Show the first images, and under each the target's value and the heat of the full colour."""
        figures = "".join(
            f'<figure style="display:inline-block;margin:0 8px 8px 0;text-align:center">'
            f'<img src="{data_uri(self._pair(image))}" alt="image {image} and its heat">'
            f'<figcaption style="font-size:smaller">{self.score[image]:.3g}; full colour at '
            f"±{self.scale(image):.2g}</figcaption></figure>"
            for image in range(min(FEW, len(self)))
        )
        left = f"<p>and {len(self) - FEW} more images</p>" if len(self) > FEW else ""
        caution = f"<p><b>{html.escape(CAUTIONS[self.method])}</b></p>" if self.method in CAUTIONS else ""
        return f"<div><p>{html.escape(repr(self))}</p>{caution}{figures}{left}</div>"

    def _pair(self, image: int) -> Picture:
        shown = self.overlay(image)
        return shown if self.pictures is None else grid([self.picture(image), shown], columns=2)


def write_attribution(found: Attribution, folder: str | os.PathLike[str]) -> Path:
    """Write ``found`` as a record at ``folder``, from which `read_attribution` gives it back."""
    parts = {each.name: getattr(found, each.name) for each in fields(Attribution)}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    said = {name: part for name, part in parts.items() if name not in arrays and name in ("method", "target", "layer")}
    return write_record(folder, KIND, arrays=arrays, fields=said)


def read_attribution(folder: str | os.PathLike[str]) -> Attribution:
    """Read what `write_attribution` wrote; ``ValueError`` for a damaged record, ``FileNotFoundError`` for none."""
    arrays, said = read_record(folder, KIND)
    wanted: dict[str, tuple[int | str, ...]] = {"heat": ("n", "h", "w"), "score": ("n",)}
    optional: dict[str, tuple[int | str, ...]] = {
        "total": ("n",),
        "residual": ("n",),
        "pictures": ("n", "h", "w", 3),
    }
    axes = wanted | {name: shape for name, shape in optional.items() if name in arrays}
    check_shapes(arrays, axes)
    if sorted(said) != ["layer", "method", "target"]:
        raise ValueError(f"the attribution in '{folder}' was written by another version: make it again")
    return Attribution(**{name: arrays.get(name) for name in (*wanted, *optional)}, **said)  # type: ignore[arg-type]


INSENSITIVE = (
    "Shows the picture more than the network: this method hardly changes when weights are shuffled; see audit."
)
# What is said beside the heats of methods that are known to fail a check, on every network that was tried.
CAUTIONS = {"deconvnet": INSENSITIVE, "guided-backpropagation": INSENSITIVE}
