"""The house: files import downwards only, packages stay in their place, importing changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS = [
    "features.units",
    "features.records",
    "features.pictures",
    "features.activations",
    "features.models",
    "features.sketches",
    "features.photographs",
    "features.objectives",
    "features.parameterizations",
    "features.transforms",
    "features.visualization",
    "features.examples",
    "features.attribution",
    "features.mosaics",
    "features.lucent",
    "circuits.wiring",
    "circuits.graphs",
    "circuits.contributions",
    "circuits.interventions",
    "circuits.meanings",
    "circuits.planted",
    "circuits.queries",
    "circuits.motifs",
    "circuits.families",
    "circuits.claims",
    "circuits.diagrams",
    "circuits.explanations",
    "circuits.atlas",
    "circuits.commands",
    "circuits.__main__",
]
FILES = sorted(path for package in ("features", "circuits") for path in (ROOT / package).rglob("*.py"))
VAGUE = {"utils", "util", "misc", "helpers", "helper", "common", "base", "core", "manager"}
NOT_IN_FEATURES = {"networkx", "plotly", "circuits"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def imported_modules(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively: write the whole name"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def upward_arrows(path: Path) -> list[str]:
    here = room_of(module_of(path))
    if here is None:
        return []
    there = {room for name in imported_modules(path) if (room := room_of(name)) is not None}
    return [f"{here} -> {room}" for room in sorted(there) if ROOMS.index(room) > ROOMS.index(here)]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    assert not upward_arrows(path)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_has_a_room_and_a_name_that_says_something(path: Path) -> None:
    module = module_of(path)
    assert module in {"features", "circuits"} or room_of(module) is not None, f"{module} is in no room of the list"
    assert not VAGUE & set(module.split("."))


def test_an_upward_arrow_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = tmp_path / "features" / "units.py"
    bad.parent.mkdir()
    bad.write_text("from features.models import load_model\n")
    assert upward_arrows(bad) == ["features.units -> features.models"]


def test_features_knows_nothing_of_graphs_or_drawings() -> None:
    for path in (ROOT / "features").rglob("*.py"):
        taken = {name.split(".")[0] for name in imported_modules(path)} & NOT_IN_FEATURES
        assert not taken, f"{path.name} imports {taken}"


def test_only_one_file_registers_hooks() -> None:
    names = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_hook")
    users = {module_of(path) for path in FILES if any(f"{name}(" in path.read_text(encoding="utf-8") for name in names)}
    assert users <= {"features.activations"}


@pytest.mark.parametrize("package", ["features", "circuits"])
def test_importing_a_package_costs_nothing(package: str) -> None:
    code = f"import sys, {package}; assert not {{'torch', 'numpy', 'plotly', 'networkx'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("package", ["features", "circuits"])
def test_every_promised_name_can_be_imported_and_is_documented(package: str) -> None:
    module = __import__(package)
    for name in module.__all__:
        value = getattr(module, name)
        assert not isinstance(value, type(sys)), f"{package}.{name} is a module, not what it promises"
        if callable(value):
            assert (value.__doc__ or "").strip(), f"{package}.{name} says nothing of itself"
    with pytest.raises(AttributeError, match="it offers"):
        module.no_such_name  # noqa: B018


def test_the_top_level_holds_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout: the packed sources have no list of files")
    top = {name.split("/")[0] for name in listed if not name.startswith(".")}
    assert top <= {"pyproject.toml", "README.md", "LICENSE", "circuits", "features", "tests", "notebooks"}
