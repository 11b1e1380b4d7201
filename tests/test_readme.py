"""The README is true: its Python runs, its commands exist, and it has a paragraph for every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def rooms() -> list[str]:
    """List the files and folders of the two packages that hold Python, as the README names them."""
    found = []
    for package in ("features", "circuits"):
        for path in sorted((ROOT / package).iterdir()):
            if path.is_dir() and any(path.glob("*.py")):
                found.append(f"{package}/{path.name}/")
            elif path.suffix == ".py" and path.name != "__init__.py":
                found.append(f"{package}/{path.name}")
    return found


def test_there_is_a_tour() -> None:
    assert BLOCKS


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_in_the_readme_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})
    for name in re.findall(r'write_html\("([^"]+)"\)', BLOCKS[number]):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize("room", rooms())
def test_every_room_has_its_paragraph(room: str) -> None:
    assert f"`{room}`" in TEXT, f"README.md says nothing of {room}"


def test_the_two_commands_are_there() -> None:
    assert "pip install -e . && circuits atlas" in TEXT
    assert 'pip install -e ".[test]" && pytest' in TEXT
