"""Claims about what units do: checked on pictures, by reading activations and by switching units off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.claims.evidence import Evidence, NotTestable
from circuits.claims.wires import Given, Outcome
from circuits.interventions import ablate
from features.models import probe
from features.units import Unit

FEWEST = 5  # pictures on which a target must fire before an experiment on it counts
CERTAIN = 2.0  # standard errors: a two-sided 95 % interval of the mean
FAINT = 0.01  # share of the target's mean below which a change is certain and yet says nothing
SHARE = 0.5  # of a unit's examples, where a claim does not say how many


def polysemantic(evidence: Evidence, given: Given) -> Outcome:
    """Check that the unit is flagged: its examples fall into groups further apart than the null allows."""
    return _means_as_said(evidence, given, "polysemantic")


def monosemantic(evidence: Evidence, given: Given) -> Outcome:
    """Check that the unit is not flagged, and that there was enough to decide."""
    return _means_as_said(evidence, given, "monosemantic")


def responds(evidence: Evidence, given: Given) -> Outcome:
    """Check that at least ``share`` of the unit's strongest examples have one of the labels."""
    unit = evidence.unit(given["unit"])
    labels = [given["label"]] if isinstance(given["label"], str) else list(given["label"])
    examples = evidence.examples()
    unknown = next((label for label in labels if label not in examples.labels), None)
    if unknown is not None:
        raise NotTestable(f"the dataset has no label {unknown!r}")
    names = examples[unit].names
    if not names:
        raise NotTestable("the unit never fires on the dataset")
    share = sum(name in labels for name in names) / len(names)
    return share >= given.get("share", SHARE), {"share": share, "examples": len(names)}


def fires(evidence: Evidence, given: Given) -> Outcome:
    """Check that the unit's firing rate over pictures and positions lies between two numbers."""
    unit = evidence.unit(given["unit"])
    low, high = given["between"]
    rate = float(evidence.examples()[unit].firing_rate)
    return low <= rate <= high, {"firing_rate": rate}


def lowers(evidence: Evidence, given: Given) -> Outcome:
    """Check by experiment that holding the units at their mean lowers the target, where they fire most."""
    return _moves(evidence, given, -1.0)


def raises(evidence: Evidence, given: Given) -> Outcome:
    """Check by experiment that holding the units at their mean raises the target, where they fire most."""
    return _moves(evidence, given, 1.0)


def costs(evidence: Evidence, given: Given) -> Outcome:
    """Check that with the units at their mean the network names ``points`` per cent fewer pictures right, or more."""
    units = evidence.units(given["units"])
    images, labels = evidence.images()
    if not bool((labels >= 0).any()) or evidence.model.layers[-1].channels <= int(labels.max()):
        raise NotTestable("the dataset's labels are not those of the network")
    before = _right(evidence, images, labels)
    with ablate(evidence.model, units, value="mean", images=images):
        after = _right(evidence, images, labels)
    lost = 100 * (before - after)
    return lost >= given["points"], {"before": before, "after": after, "points": lost, "pictures": len(images)}


def _moves(evidence: Evidence, given: Given, sign: float) -> Outcome:
    """Hold the units at their mean and look where they fire most: what the mean over positions of the target does."""
    units, target = evidence.units(given["units"]), evidence.unit(given["target"])
    images, _ = evidence.images()
    shown = images[_most_active(evidence, units, images)]
    clean = _means(evidence, [target], shown)[:, 0]
    with ablate(evidence.model, units, value="mean", images=images):
        without = _means(evidence, [target], shown)[:, 0]
    counts = (clean != 0) | (without != 0)
    change = (without - clean)[counts]
    if len(change) < FEWEST:
        raise NotTestable(f"{target} fires on {len(change)} of the {len(shown)} pictures that excite {units[0]} most")
    mean, error = float(change.mean()), float(change.std()) / math.sqrt(len(change))
    level = float(clean[counts].abs().mean())
    figures = {"change": mean, "error": error, "of": level, "pictures": len(change)}
    return sign * mean > max(CERTAIN * error, FAINT * level), dict(figures)


def _most_active(evidence: Evidence, units: Sequence[Unit], images: Tensor) -> Tensor:
    """Give the places of the quarter of the pictures on which the units fire most."""
    total = _means(evidence, units, images).sum(1)
    return total.argsort(descending=True, stable=True)[: max(FEWEST, len(images) // 4)]


def _means(evidence: Evidence, units: Sequence[Unit], images: Tensor) -> Tensor:
    """Give the units' activations, units of one layer, averaged over positions: ``(n, units)``."""
    parts = []
    for batch in torch.split(images, 64):
        with torch.no_grad(), probe(evidence.model, [units[0].layer]) as activations:
            evidence.model(batch)
            values = activations[units[0].layer][:, [unit.channel for unit in units]]
            parts.append(values.reshape(*values.shape[:2], -1).double().mean(2).cpu())
    return torch.cat(parts)


def _right(evidence: Evidence, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        guesses = torch.cat([evidence.model(batch).argmax(1).cpu() for batch in torch.split(images, 64)])
    return float((guesses == labels)[labels >= 0].double().mean())


def _means_as_said(evidence: Evidence, given: Given, verdict: str) -> Outcome:
    unit = evidence.unit(given["unit"])
    found = evidence.meanings(unit)
    if found.verdict in {"dead", "undecided"}:
        sure = "" if math.isnan(found.probability) else f", with a probability of {found.probability:.2f}"
        raise NotTestable(f"this dataset does not decide it: the unit is {found.verdict}{sure}")
    said: dict[str, float | int | str] = {
        "verdict": found.verdict,
        "meanings": found.meanings,
        "probability": found.probability,
    }
    return found.verdict == verdict, said
