"""The command line: exit codes, one sentence for every error, results on standard output, nothing heavy for --help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from circuits import __main__ as cli
from circuits.__main__ import main
from circuits.graphs import load_graph
from features.examples import FolderImages
from features.models import load_model
from features.pictures import write_picture
from features.sketches import HELD_OUT_SEED, Sketches

ROOT = Path(__file__).resolve().parent.parent
FEW = ["--layers", "mixed4c,logits", "--quiet"]


def assert_one_sentence(text: str) -> None:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("circuits: ")
    assert "Traceback" not in text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What the commands ask of the functions that do the long work, which are not called."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def instead(*args: Any, **options: Any) -> Path:
        calls.append((args, options))
        return Path(args[2]) / "index.html" if len(args) == 3 else Path(args[3])

    monkeypatch.setattr("circuits.atlas.write_atlas", instead)
    monkeypatch.setattr("circuits.atlas.write_unit", instead)
    return calls


@pytest.mark.parametrize("words", [["--help"], ["atlas", "--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from circuits.__main__ import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'plotly', 'networkx', 'PIL', 'jinja2'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "circuits" in done.stdout


@pytest.mark.parametrize("words", [[], ["paint"], ["atlas", "--seed", "-1"], ["atlas", "--steps", "0"], ["show"]])
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "usage: circuits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["layers", "--model", "no-such-network"], "no-such-network"),
        (["layers", "--weights", "seed9"], "seed9"),
        (["layers", "--layers", "mixed9z"], "mixed9z"),
        (["atlas", "--layers", "mixed9z"], "mixed9z"),
        (["atlas", "--dataset", "/no/such/folder"], "'/no/such/folder' is no folder"),
        (["atlas", "--model", "photographs"], "--dataset"),
        (["show", "mixed4a:9999"], "no channel 9999 in layer 'mixed4a'"),
        (["show", "nonsense"], "'nonsense' is no unit"),
        (["show", "mixed4a:1", "--out", "page.pdf"], ".html or .png"),
        (["graph", "--out", "graph.xml"], ".json or .html"),
        (["graph", "--unit", "mixed4a"], "'mixed4a' is no unit"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert_one_sentence(err)
    assert says in err
    assert out == ""
    assert not list(tmp_path.iterdir()), "nothing is written for a refused command"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("the device has no memory left"), OSError(28, "No space left on device", "x.html"), KeyError("x")],
)
def test_a_failure_while_working_is_a_sentence_and_exit_code_1(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "layers", lambda args: work)
    assert main(["layers"]) == 1
    assert_one_sentence(capsys.readouterr().err)
    assert main(["layers", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_control_c_is_exit_code_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "layers", lambda args: work)
    assert main(["layers"]) == 130
    assert "continues" in capsys.readouterr().err


def test_layers_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("sketches")
    assert main(["layers"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:]] == list(model.default_layers)
    assert main(["layers", "--json", "--all"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [layer.name for layer in model.layers]
    assert rows[0]["shape"] == list(model.layers[0].shape)


def test_graph_writes_json_or_a_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graph.json"
    assert main(["graph", *FEW, "--keep", "2", "--out", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    graph = load_graph(path)
    assert max(degree for _, degree in graph.in_degree()) == 2
    assert main(["graph", *FEW, "--unit", "logits:3", "--out", str(path)]) == 0
    assert set(load_graph(path).successors("mixed4c:0")) <= {"logits:3"} if "mixed4c:0" in load_graph(path) else True
    assert "logits:3" in load_graph(path)
    assert main(["graph", *FEW, "--out", str(tmp_path / "all.html")]) == 0
    assert "logits:3" in (tmp_path / "all.html").read_text(encoding="utf-8")


def test_atlas_without_arguments_is_the_sketches_into_atlas(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["atlas"]) == 0
    (model, dataset, folder), options = asked[0]
    assert model.name == "sketches"
    assert (type(dataset), len(dataset), dataset.seed) == (Sketches, 2000, HELD_OUT_SEED)
    assert folder == Path("atlas")
    assert options == {"layers": None, "seed": 0, "fresh": False, "progress": True}
    assert capsys.readouterr().out.splitlines()[-1] == f"Open {Path('atlas') / 'index.html'}"


def test_atlas_passes_on_what_it_is_told(asked: list[Any], tmp_path: Path) -> None:
    write_picture(load_picture(), tmp_path / "pictures" / "dog" / "1.png")
    words = [
        "--dataset",
        str(tmp_path / "pictures"),
        "--layers",
        "logits,mixed4c",
        "--layers",
        "mixed4a",
        "--seed",
        "7",
    ]
    words += [
        "--steps",
        "3",
        "--count",
        "5",
        "--fresh",
        "--quiet",
        "--weights",
        "seed1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["atlas", *words]) == 0
    (model, dataset, folder), options = asked[0]
    assert model.digest == load_model("sketches", weights="seed1").digest
    assert isinstance(dataset, FolderImages)
    assert folder == tmp_path / "out"
    layers = ("logits", "mixed4c", "mixed4a")
    assert options == {"layers": layers, "seed": 7, "fresh": True, "progress": False, "steps": 3, "count": 5}


def load_picture() -> Any:
    return Sketches(1)[0][0].permute(1, 2, 0).numpy()


def test_atlas_leaves_a_folder_alone_that_is_no_atlas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["atlas", "--out", str(tmp_path)]) == 2
    assert_one_sentence(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_show_asks_for_a_page_about_the_unit(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unit.png"
    assert main(["show", "mixed4c:5", "--out", str(path)]) == 0
    assert [str(asked[0][0][2]), asked[0][0][3]] == ["mixed4c:5", path]
    assert capsys.readouterr().out.strip() == str(path)


def test_open_opens_the_result(asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["atlas", "--open", "--out", str(tmp_path / "a")]) == 0
    assert opened == [(tmp_path / "a" / "index.html").as_uri()]


def test_every_command_is_known_to_the_parser() -> None:
    parser: Callable[..., Any] = cli._parser
    choices = next(action.choices for action in parser()._actions if action.dest == "command")
    assert set(choices) == set(cli.COMMANDS)
