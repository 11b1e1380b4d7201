"""Checking: a story tested on a model, claim by claim, with the figures."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from circuits.claims.evidence import Evidence, NotTestable
from circuits.claims.kinds import KINDS
from circuits.claims.stories import Claim, Story
from features.models import Model
from features.units import Unit

VERDICTS = ("held", "failed", "not testable")


@dataclass(frozen=True)
class Finding:
    """What became of one claim: its verdict, the figures it rests on, and for one that is not testable the reason."""

    claim: Claim
    verdict: str
    figures: Mapping[str, float | int | str]
    reason: str = ""


@dataclass(frozen=True)
class ClaimsReport:
    """What `check_claims` found, in the order of the story."""

    story: Story
    model: str
    digest: str
    findings: tuple[Finding, ...]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """How many claims held, failed, and could not be tested."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in VERDICTS}

    def __str__(self) -> str:
        """Give the report as lines of text: verdict, claim, figures."""
        wide = max(len(str(finding.claim)) for finding in self.findings)
        lines = [
            f"{finding.verdict:<12}  {finding.claim!s:<{wide}}  {finding.reason or _figures(finding)}".rstrip()
            for finding in self.findings
        ]
        return "\n".join([*lines, f"{self.story.title}, on {self.model}: {_summary(self.counts)}"])

    def to_json(self) -> str:
        """Give the report as JSON."""
        rows = [
            {"claim": str(finding.claim), "kind": finding.claim.kind, "verdict": finding.verdict}
            | {"figures": dict(finding.figures), "reason": finding.reason}
            for finding in self.findings
        ]
        head = {"title": self.story.title, "model": self.model, "digest": self.digest, **self.counts}
        return json.dumps({**head, "findings": rows}, indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{finding.verdict}</td><td>{html.escape(str(finding.claim))}</td>"
            f"<td>{html.escape(finding.reason or _figures(finding))}</td></tr>"
            for finding in self.findings
        )
        title = html.escape(f"{self.story.title}, on {self.model}: {_summary(self.counts)}")
        return f"<table><caption>{title}</caption><tr><th>verdict</th><th>claim</th><th>figures</th></tr>{rows}</table>"


def check_claims(model: Model, story: Story, *, dataset: Any = None, progress: bool = True) -> ClaimsReport:
    """Test every claim of ``story`` on ``model``: ``held``, ``failed``, or ``not testable`` with the reason.

    Claims about wires are checked against `circuits.connect`; ``p`` is the part of the source layer's units that would
    pass as well, the claimed one included. Claims about what units respond to and do need ``dataset``, as
    `find_examples` takes it; experiments use its first 256 pictures: they hold units at their mean, and look at the
    quarter on which these fire most; a change below 1 % of the target's mean does not count. A unit or layer that the
    model does not have makes a claim not testable, never an error, so that one story can be told of many checkpoints.

    >>> from circuits.claims.stories import read_claims
    >>> from features.models import load_model
    >>> report = check_claims(load_model("sketches"), read_claims("inceptionv1"), progress=False)
    >>> report.findings[0].verdict
    'not testable'
    """
    layers = [unit.layer for claim in story.claims for unit in _read_by(claim) if _exists(model, unit)]
    evidence = Evidence(model, dataset, tuple(dict.fromkeys(layers)), progress)
    bar = tqdm(story.claims, desc="claims", unit="claim", disable=not progress, leave=False)
    return ClaimsReport(story, model.name, model.digest, tuple(_checked(evidence, claim) for claim in bar))


def _checked(evidence: Evidence, claim: Claim) -> Finding:
    try:
        held, figures = KINDS[claim.kind].check(evidence, claim.given)
    except NotTestable as reason:
        return Finding(claim, "not testable", {}, str(reason))
    return Finding(claim, "held" if held else "failed", figures)


def _read_by(claim: Claim) -> list[Unit]:
    reads = KINDS[claim.kind].reads
    return [Unit.of(claim.given[reads])] if reads else []


def _exists(model: Model, unit: Unit) -> bool:
    try:
        model.unit(unit)
    except ValueError:
        return False
    return True


def _figures(finding: Finding) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"
        for key, value in finding.figures.items()
    )


def _summary(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
