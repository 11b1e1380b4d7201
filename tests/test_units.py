"""Unit: addresses are read and written without loss, and what is no address is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.units import Unit

layers = st.text(min_size=1)
channels = st.integers(min_value=0, max_value=10**9)


@given(layers, channels)
def test_text_round_trip(layer: str, channel: int) -> None:
    unit = Unit(layer, channel)
    assert Unit.of(str(unit)) == unit
    assert Unit.of(unit) is unit
    assert hash(Unit.of(str(unit))) == hash(unit)


@given(st.lists(st.tuples(layers, channels)))
def test_order_is_layer_then_channel(pairs: list[tuple[str, int]]) -> None:
    assert [(unit.layer, unit.channel) for unit in sorted(Unit(*pair) for pair in pairs)] == sorted(pairs)


@pytest.mark.parametrize(
    ("text", "layer", "channel"),
    [("a:b:3", "a:b", 3), ("::3", ":", 3), ("layer2.1:0", "layer2.1", 0), ("name#1:12", "name#1", 12), (" :7", " ", 7)],
)
def test_the_last_colon_separates(text: str, layer: str, channel: int) -> None:
    assert Unit.of(text) == Unit(layer, channel)


def test_numpy_channels_become_plain() -> None:
    assert type(Unit("a", np.int64(3)).channel) is int
    assert Unit("a", np.int64(3)) == Unit("a", 3)


def test_is_frozen_and_copies() -> None:
    unit = Unit("a", 3)
    with pytest.raises(AttributeError):
        unit.channel = 4  # type: ignore[misc]
    assert copy.deepcopy(unit) == pickle.loads(pickle.dumps(unit)) == unit


@pytest.mark.parametrize(
    "text", ["", ":", "a", "a:", ":3", "a:-1", "a:1.0", "a:+1", "a: 1", "a:1 ", "a:٣", "a:²", "a:1_0", "3"]
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no unit: write 'layer:channel'"):
        Unit.of(text)


@pytest.mark.parametrize("other", [None, 3, ("a", 3), b"a:3", ["a:3"]])
def test_other_types_are_refused(other: object) -> None:
    with pytest.raises(TypeError, match="a unit is a Unit or text"):
        Unit.of(other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "channel", "kind"),
    [
        ("", 3, TypeError),
        (3, 3, TypeError),
        ("a", True, TypeError),
        ("a", 1.0, TypeError),
        ("a", "1", TypeError),
        ("a", -1, ValueError),
    ],
)
def test_parts_that_are_none_are_refused(layer: str, channel: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"Unit\("):
        Unit(layer, channel)
