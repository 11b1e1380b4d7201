"""Wiring: which layer feeds which, and the linear map between two layers, both asked of autograd."""

from __future__ import annotations

from circuits.wiring.jacobian import connect, flow, linear_map
from circuits.wiring.rules import LINEAR, RULES, frozen, identity, register

__all__ = ["LINEAR", "RULES", "connect", "flow", "frozen", "identity", "linear_map", "register"]
