"""activation_sheet: everything that one picture excites in a network, layer by layer, as sheets of all channels."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.models import Model, probe
from features.objectives.places import square_of
from features.pictures import Picture, data_uri, enlarge, resize, sheet, signed
from features.records import write_atomically

TILE = 36  # side of a channel's map on the page, in pixels; pointed at it is four times as large
COLUMNS = 24
WITHIN = 0.995  # of a layer's values lie on the scale of its colours

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ActivationSheet:
    """The activations of all channels of some layers on one picture.

    ``picture`` (h, w, 3); ``maps`` gives for each layer (c, h, w), (c, 1, 1) where it has no positions, and of tokens
    the square of patches. It shows itself in a notebook; `write_activation_sheet` writes the page.
    """

    model: str
    picture: Picture
    maps: Mapping[str, Floats]

    def sparsity(self, layer: str) -> float:
        """Give the share of a layer's values, over channels and positions, that are not above 0."""
        return float((self.maps[layer] <= 0).mean())

    def silent(self, layer: str) -> float:
        """Give the share of a layer's channels that are nowhere above 0."""
        return float((self.maps[layer].max((1, 2)) <= 0).mean())

    def magnitude(self, layer: str) -> float:
        """Give the root mean square of a layer's values."""
        return float(np.sqrt(np.square(self.maps[layer].astype(np.float64)).mean()))

    def draw(self, layer: str) -> Picture:
        """Give the sheet of a layer: every channel in order, on one scale: orange above 0, blue below, white 0."""
        return sheet(self._tiles(layer), columns=COLUMNS)[0]

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} {self.sparsity(name):.0%}" for name in self.maps)
        return f"ActivationSheet({self.model}: not above 0: {layers})"

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{self._body()}"

    def _tiles(self, layer: str) -> list[Picture]:
        values = self.maps[layer]
        scale = self.scale(layer)
        return [enlarged(signed(each, scale=scale)) for each in values]

    def scale(self, layer: str) -> float:
        """Give the value that has the full colour: 99.5 % of the layer's values stay within."""
        strength = np.abs(self.maps[layer])
        return float(np.quantile(strength, WITHIN)) or float(strength.max()) or 1.0

    def _body(self) -> str:
        largest = max(self.magnitude(name) for name in self.maps)
        parts = [f'<div class="acts"><p><img src="{data_uri(self.picture, size=160)}" alt="the picture"></p>']
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{' x '.join(map(str, values.shape))}</td>"
            f"<td>{self.sparsity(name):.0%}</td><td>{self.silent(name):.0%}</td><td>{self.magnitude(name):.3g}</td>"
            f'<td><span class="bar" style="width:{120 * self.magnitude(name) / largest if largest else 0:.0f}px">'
            f"</span></td></tr>"
            for name, values in self.maps.items()
        )
        heads = ("layer", "channels x positions", "values not above 0", "silent channels", "root mean square", "")
        parts.append(
            f"<div class='wide'><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table></div>"
        )
        parts += [self._layer(name) for name in self.maps]
        return "".join(parts) + "</div>"

    def _layer(self, name: str) -> str:
        tiles = self._tiles(name)
        drawn, boxes = sheet(tiles, columns=COLUMNS)
        height, width = drawn.shape[:2]
        peaks = self.maps[name].max((1, 2))
        key = f"acts-{list(self.maps).index(name)}"
        cells = "".join(
            f'<i tabindex="0" role="img" class="{key}" style="background-position:-{box[1]}px -{box[0]}px" '
            f'title="{html.escape(name)}:{channel}, at most {peak:.3g}"></i>'
            for channel, (box, peak) in enumerate(zip(boxes, peaks.tolist(), strict=True))
        )
        style = (
            f".acts .{key}{{background-image:url({data_uri(drawn, form='png')});background-size:{width}px {height}px}}"
        )
        return (
            f"<section><h2>{html.escape(name)}</h2><p>Full colour at ±{self.scale(name):.3g}; orange above 0, blue "
            f'below.</p><style>{style}</style><div class="tiles">{cells}</div></section>'
        )


def activation_sheet(model: Model, image: Tensor, layers: str | Iterable[str] | None = None) -> ActivationSheet:
    """Give what every channel of ``layers`` (by default ``model.default_layers``) says of one picture.

    ``image`` is (channels, h, w) in [0, 1]. Chollet 2017, "Deep Learning with Python" calls the series of sheets a
    distillation: later layers hold less of the picture and more of its class, and more of their values are 0; the table
    at the head of the page has both by layer. ``ValueError`` for images of another size and unknown layers.

    >>> from features.models import load_model
    >>> seen = activation_sheet(load_model("sketches"), torch.rand(3, 64, 64), ["conv2d0", "mixed4c"])
    >>> seen.maps["conv2d0"].shape, seen.draw("mixed4c").shape
    ((24, 32, 32), (144, 864, 3))
    """
    names = model.default_layers if layers is None else [layers] if isinstance(layers, str) else list(layers)
    names = [model.layer(name).name for name in names]
    if not names:
        raise ValueError("no layer was given: name at least one of model.layers")
    wanted = (model.channels, *model.image_size)
    if tuple(image.shape) not in (wanted, (1, *wanted)):
        raise ValueError(f"an image is {wanted} for {model.name}, not {tuple(image.shape)}: fit it with fit_image")
    image = image.reshape(1, *wanted)
    with torch.no_grad(), probe(model, names) as activations:
        model(image)
        maps = {name: _maps(activations[name][0], name) for name in names}
    shown = image[0].detach().clamp(0, 1).float().cpu().permute(1, 2, 0).numpy()
    if shown.shape[2] not in (1, 3):
        shown = shown.mean(2, keepdims=True)
    return ActivationSheet(model.name, np.broadcast_to(shown, (*shown.shape[:2], 3)), maps)


def write_activation_sheet(seen: ActivationSheet, path: str | os.PathLike[str]) -> Path:
    """Write ``seen`` as one HTML file that opens anywhere, asks for nothing and runs no script; give its path.

    A map grows when it is pointed at, or reached with the tab key, and says its channel and largest value.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    title = html.escape(f"What {seen.model} makes of a picture")
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{PAGE}{STYLE}</style></head><body><h1>{title}</h1>{seen._body()}</body></html>"
    )
    return write_atomically(Path(path), text)


def enlarged(picture: Picture) -> Picture:
    """Give a map as a tile: whole pixels where it is small, averaged where it is large."""
    height, width = picture.shape[:2]
    if height <= TILE and width <= TILE:
        return enlarge(picture, (TILE, TILE))
    return resize(picture, (TILE, TILE))


def _maps(values: Tensor, layer: str) -> Floats:
    """Give one image's activations as (c, h, w)."""
    if values.ndim == 1:
        values = values[:, None, None]
    elif values.ndim == 2:
        extras, side = square_of(values.shape[1], layer)
        values = values[:, extras:].reshape(len(values), side, side)
    found: Floats = values.float().cpu().numpy()
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


PAGE = "body{font:15px/1.5 system-ui,sans-serif;margin:32px auto;max-width:960px;padding:0 24px;color:#1b1b1d}"
STYLE = (
    ".acts h2{font-size:1.05rem;margin:28px 0 4px}.acts p{color:#666;font-size:.85rem;margin:0 0 8px}"
    ".acts table{border-collapse:collapse;font-size:.85rem}.acts td,.acts th{text-align:left;padding:2px 14px 2px 0}"
    ".acts .wide{overflow-x:auto}.acts .bar{display:block;height:6px;background:#d55e00;border-radius:2px}"
    f".acts .tiles{{display:grid;grid-template-columns:repeat(auto-fill,{TILE}px);gap:2px}}"
    f".acts .tiles i{{display:block;width:{TILE}px;height:{TILE}px;outline:1px solid #eee;image-rendering:pixelated}}"
    ".acts .tiles i:hover,.acts .tiles i:focus{transform:scale(4);z-index:2;position:relative;outline-color:#999}"
)
