"""An explanation of one picture, and the channels that carried it: frozen, and they show themselves."""

from __future__ import annotations

import html
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from features.attribution import Attribution
from features.pictures import Picture, data_uri, resize
from features.units import Unit

Floats = NDArray[np.float64]
WITHIN = 0.98  # of the pixels lie on the scale of the heats
TILE = 112  # side of a picture in the table, in pixels


@dataclass(frozen=True, eq=False)
class Carrier:
    """One channel that carried a decision.

    ``share`` is what it adds to the target, signed, as a part of the absolute sum over all channels of its layer.
    ``heat`` (h, w), at the image's size, is where in the image it adds it. ``picture`` is its visualization (``None``
    where none was asked for) and ``grade`` that picture's verdict; ``examples`` are what excites it most in the
    dataset, cut to what it sees; ``verdict`` says whether it means several things, '' where nobody judged it.
    """

    unit: Unit
    share: float
    heat: Floats
    picture: Picture | None
    grade: str
    examples: tuple[Picture, ...]
    verdict: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a network gave a target its value on one picture.

    ``picture`` (h, w, 3); ``target`` and its ``value``; ``answers`` the classes the network finds likeliest, with
    softmax probabilities; ``layer`` the one that was looked at, ``carriers`` its channels that add or take most, and
    ``covered`` the part of the absolute sum over all its channels that they make; ``total`` is what the layer as a
    whole makes of the target, ``S - S(layer = 0)``, and ``residual`` what the attributions miss of it. ``overall`` is
    where all its channels together add to it or take from it. ``graph`` is the circuit of this picture
    (`explanation_graph`).
    """

    model: str
    picture: Picture
    target: str
    value: float
    answers: tuple[tuple[str, float], ...]
    layer: str
    carriers: tuple[Carrier, ...]
    covered: float
    total: float
    residual: float
    overall: Attribution
    graph: nx.DiGraph

    def __repr__(self) -> str:
        named = ", ".join(f"{carrier.unit} {carrier.share:+.0%}" for carrier in self.carriers[:4])
        return f"Explanation({self.target} = {self.value:.3g} at {self.layer}: {named}, ...)"

    def _repr_html_(self) -> str:
        """Show the picture and its heat, and a row for each carrier: share, heat, visualization, examples, verdict."""
        heads = "".join(f"<th>{head}</th>" for head in ("channel", "share", "where", "what it looks for", "examples"))
        rows = "".join(self._row(carrier) for carrier in self.carriers)
        answers = ", ".join(f"{html.escape(name)} {share:.0%}" for name, share in self.answers)
        place = html.escape(self.layer)
        return (
            f"<p><b>{html.escape(self.target)}</b> = {self.value:.3g} ({answers})</p>"
            f'<p><img src="{data_uri(self.picture, size=2 * TILE)}" alt="the picture"> '
            f'<img src="{data_uri(self.overall.overlay(0), size=2 * TILE)}" alt="where {place} speaks for it">'
            f"</p><table><tr>{heads}</tr>{rows}</table>"
        )

    def _row(self, carrier: Carrier) -> str:
        pictures = [None if carrier.picture is None else carrier.picture, *carrier.examples[:4]]
        shown = [
            "" if picture is None else f'<img src="{data_uri(resize(picture, (TILE, TILE)))}" alt="">'
            for picture in pictures
        ]
        heat = data_uri(self.heat_of(carrier), size=TILE)
        verdict = f"<br>{html.escape(carrier.verdict)}" if carrier.verdict else ""
        return (
            f"<tr><td>{html.escape(str(carrier.unit))}{verdict}</td><td>{carrier.share:+.1%}</td>"
            f'<td><img src="{heat}" alt="where"></td><td>{shown[0]}</td><td>{"".join(shown[1:])}</td></tr>'
        )

    def heat_of(self, carrier: Carrier) -> Picture:
        """Give the picture with the carrier's heat over it, all carriers on one scale: that of the strongest."""
        largest = max((float(np.quantile(np.abs(each.heat), WITHIN)) for each in self.carriers), default=0.0)
        alone = Attribution(
            carrier.heat[None], "", str(carrier.unit), self.layer, np.zeros(1), None, None, self.overall.pictures
        )
        return alone.overlay(0, scale=largest or 1.0)
