"""Wiring: which layer feeds which, and the linear map between two layers, both asked of autograd."""

from __future__ import annotations

from circuits.wiring.gated import connect_fitted, connect_gated, connect_local
from circuits.wiring.jacobian import connect, connections, flow, linear_map
from circuits.wiring.paths import Cancellation, Wash, cancellation, path_mass, paths_through, washed_out
from circuits.wiring.predictions import Linearity, linearity
from circuits.wiring.rules import LINEAR, RULES, frozen, identity, register
from circuits.wiring.watching import preactivations

__all__ = [
    "LINEAR",
    "RULES",
    "Cancellation",
    "Linearity",
    "Wash",
    "cancellation",
    "connect",
    "connect_fitted",
    "connect_gated",
    "connect_local",
    "connections",
    "flow",
    "frozen",
    "identity",
    "linear_map",
    "linearity",
    "path_mass",
    "paths_through",
    "preactivations",
    "register",
    "washed_out",
]
