"""Kinds of claims: what each needs to be told, how it is said, and how it is checked. KINDS is the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from circuits.claims import experiments, wires
from circuits.claims.evidence import Evidence
from circuits.claims.wires import Given, Outcome
from features.units import Unit

Field = Callable[[str, Any], None]
Check = Callable[[Evidence, Given], Outcome]

REGIONS = ("all", "upper", "lower", "left", "right", "centre", "around")


@dataclass(frozen=True)
class Kind:
    """One kind of claim: ``words`` say it with the names of its arguments in braces, ``reads`` names the units whose
    examples it needs.
    """

    check: Check
    words: str
    needs: Mapping[str, Field]
    takes: Mapping[str, Field] = field(default_factory=dict)
    reads: str = ""

    def say(self, given: Given) -> str:
        """Give the claim in words."""
        where = given.get("where", "all")
        place = "" if where == "all" else f" in the {where} part" if where == "centre" else f" {PLACES[where]}"
        told = {key: _spoken(value) for key, value in given.items()}
        return self.words.format_map(told) + place


def _unit(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}: give a unit, such as 'mixed4b:409'")
    Unit.of(value)


def _units(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} is {value!r}: give a list of units")
    for each in value:
        _unit(name, each)
    if len({Unit.of(each).layer for each in value}) != 1:
        raise ValueError(f"{name} is {value!r}: give units of one layer")


def _two_groups(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} is {value!r}: give two units, or two lists of units")
    for each in value:
        (_unit if isinstance(each, str) else _units)(name, each)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: give text")


def _labels(name: str, value: Any) -> None:
    for each in value if isinstance(value, list | tuple) and value else [value]:
        _text(name, each)


def _region(name: str, value: Any) -> None:
    if value not in REGIONS:
        raise ValueError(f"{name} is {value!r}: give one of {', '.join(map(repr, REGIONS))}")


def _count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least 1")


def _part(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}: give a number between 0 and 1")


def _number(name: str, value: Any) -> None:
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}: give a finite number")


def _interval(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)) or value[0] > value[1]:
        raise ValueError(f"{name} is {value!r}: give two numbers, the smaller one first")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _spoken(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_spoken(each) for each in value)
    return str(value)


PLACES = {
    "upper": "in the upper rows",
    "lower": "in the lower rows",
    "left": "in the left columns",
    "right": "in the right columns",
    "around": "around the centre",
}
WIRE: dict[str, Field] = {"source": _unit, "target": _unit}
PUSH: dict[str, Field] = {"where": _region, "at_most": _part}
EFFECT: dict[str, Field] = {"units": _units, "target": _unit}

KINDS: dict[str, Kind] = {
    "excites": Kind(wires.excites, "{source} excites {target}", WIRE, PUSH),
    "inhibits": Kind(wires.inhibits, "{source} inhibits {target}", WIRE, PUSH),
    "positive": Kind(wires.positive, "{source} -> {target} is positive", WIRE),
    "negative": Kind(wires.negative, "{source} -> {target} is negative", WIRE),
    "strongest": Kind(
        wires.strongest, "{source} is among the {rank} strongest inputs of {target}", {**WIRE, "rank": _count}
    ),
    "stronger": Kind(
        wires.stronger, "{source} excites {target} more than {than} does", {**WIRE, "than": _unit}, {"where": _region}
    ),
    "mirrored": Kind(
        wires.mirrored,
        "{sources} act on {target} as mirror images",
        {"sources": _two_groups, "target": _unit},
        {"at_most": _part},
    ),
    "opposed": Kind(
        wires.opposed,
        "{sources} act on {targets} in opposite places",
        {"sources": _two_groups, "targets": _units},
        {"at_most": _part},
    ),
    "out of": Kind(wires.out_of, "{units} come out of {branch}", {"units": _units, "branch": _text}),
    "wide": Kind(wires.wide, "{layer} has {channels} channels", {"layer": _text, "channels": _count}),
    "polysemantic": Kind(experiments.polysemantic, "{unit} is polysemantic", {"unit": _unit}, reads="unit"),
    "monosemantic": Kind(experiments.monosemantic, "{unit} is monosemantic", {"unit": _unit}, reads="unit"),
    "responds": Kind(
        experiments.responds, "{unit} responds to {label}", {"unit": _unit, "label": _labels}, {"share": _part}, "unit"
    ),
    "fires": Kind(
        experiments.fires, "{unit} fires at a rate of {between}", {"unit": _unit, "between": _interval}, reads="unit"
    ),
    "lowers": Kind(experiments.lowers, "removing {units} lowers {target}", EFFECT),
    "raises": Kind(experiments.raises, "removing {units} raises {target}", EFFECT),
    "costs": Kind(
        experiments.costs, "removing {units} costs {points} points of accuracy", {"units": _units, "points": _number}
    ),
}
