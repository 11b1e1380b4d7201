"""Stories: claims about a network as a frozen noun, and the JSON file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.claims.kinds import KINDS, Kind
from features.activations import nearest
from features.records import write_atomically

SCHEMA = "circuits.claims/1"
LARGEST_FILE = 2**24  # bytes: 16 MB; a claim takes 200


@dataclass(frozen=True)
class Claim:
    """One statement: ``kind`` is a name of `KINDS`, ``given`` its arguments; ``text`` says it and ``cited`` where it is
    from, for people.
    """

    kind: str
    given: Mapping[str, Any]
    text: str = ""
    cited: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                nearest(str(self.kind), tuple(KINDS), what="kind of claim", listing="circuits.claims.KINDS")
            )
        _check_given(KINDS[self.kind], self.given)

    def __str__(self) -> str:
        """Give the words of whoever made the claim, or those of its kind."""
        return self.text or KINDS[self.kind].say(self.given)


@dataclass(frozen=True)
class Story:
    """Claims that belong together. ``network`` is what they were made of, as `load_model` spells it.

    >>> story = Story("wheels", "sketches", (Claim("positive", {"source": "mixed3a:1", "target": "mixed3b:2"}),))
    >>> str(story.claims[0])
    'mixed3a:1 -> mixed3b:2 is positive'
    """

    title: str
    network: str
    claims: tuple[Claim, ...]
    cited: str = ""


def read_claims(path: str | Path) -> Story:
    """Read a claims file, or one that comes with the package by its name: ``"sketches"``, ``"inceptionv1"``.

    The file is JSON: ``schema`` (``circuits.claims/1``), ``title``, ``network``, ``cited``, and ``claims``, a list of
    objects with ``kind``, the arguments of that kind, and, for people, ``text`` and ``cited``. Errors:
    ``FileNotFoundError``, and ``ValueError`` that names the claim and what is wrong with it.

    >>> read_claims("inceptionv1").network
    'lucent:inceptionv1'
    """
    place = STORIES.get(str(path), Path(path))
    if not place.is_file():
        raise FileNotFoundError(f"no claims at {place}: give a file, or one of {', '.join(map(repr, STORIES))}")
    if place.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{place} is larger than 16 MB: no claims file is")
    try:
        data = json.loads(place.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON ({error}): circuits.claims.write_claims writes such a file") from error
    return _story(data, place)


def write_claims(story: Story, path: str | Path) -> Path:
    """Write ``story`` as a claims file, atomically; give the path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_claims(write_claims(read_claims("sketches"), f"{folder}/story.json")) == read_claims("sketches")
    True
    """
    claims = [
        {**_told("text", claim.text), "kind": claim.kind, **claim.given, **_told("cited", claim.cited)}
        for claim in story.claims
    ]
    head = {"schema": SCHEMA, "title": story.title, "network": story.network, **_told("cited", story.cited)}
    try:
        text = json.dumps({**head, "claims": claims}, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the claims hold what JSON cannot ({error}): text, finite numbers and lists") from error
    return write_atomically(path, text + "\n")


def _told(key: str, text: str) -> dict[str, str]:
    return {key: text} if text else {}


def _story(data: Any, place: Path) -> Story:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        given = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{place} has schema {given!r}: a claims file has {SCHEMA!r}")
    if not isinstance(data.get("claims"), list) or not data["claims"]:
        raise ValueError(f"{place} has no list of claims")
    for key in ("title", "network", "cited"):
        if not isinstance(data.get(key, ""), str):
            raise ValueError(f"{place}: {key} is {data[key]!r}: it must be text")
    claims = tuple(_claim(given, place, number) for number, given in enumerate(data["claims"], 1))
    return Story(data.get("title", place.stem), data.get("network", ""), claims, data.get("cited", ""))


def _claim(given: Any, place: Path, number: int) -> Claim:
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
        raise ValueError(f"{place}, claim {number}: it has no kind, which is one of {', '.join(KINDS)}")
    rest = {key: value for key, value in given.items() if key not in {"kind", "text", "cited"}}
    try:
        return Claim(given["kind"], rest, _text(given.get("text", "")), _text(given.get("cited", "")))
    except ValueError as error:
        raise ValueError(f"{place}, claim {number}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} stands where text should")
    return value


def _check_given(kind: Kind, given: Mapping[str, Any]) -> None:
    missing = [name for name in kind.needs if name not in given]
    unknown = [name for name in given if name not in kind.needs and name not in kind.takes]
    if missing or unknown:
        wrong = f"lacks {missing[0]!r}" if missing else f"does not take {unknown[0]!r}"
        raise ValueError(
            f"a claim of this kind {wrong}: it needs {_listed(kind.needs)}, and takes {_listed(kind.takes)}"
        )
    for name, value in given.items():
        {**kind.needs, **kind.takes}[name](name, value)


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a claim")


STORIES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.json"))}
