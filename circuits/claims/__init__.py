"""Claims: circuit stories as files of checkable statements; read_claims opens one, check_claims tests it on a model."""

from __future__ import annotations

from circuits.claims.checking import ClaimsReport, Finding, check_claims
from circuits.claims.kinds import KINDS
from circuits.claims.stories import STORIES, Claim, Story, read_claims, write_claims

__all__ = [
    "KINDS",
    "STORIES",
    "Claim",
    "ClaimsReport",
    "Finding",
    "Story",
    "check_claims",
    "read_claims",
    "write_claims",
]
