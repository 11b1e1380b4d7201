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
from circuits.claims import Claim, Story, write_claims
from circuits.graphs import MEASURES, build_graph, load_graph
from circuits.motifs import MOTIFS
from circuits.queries import QUERIES, upstream
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
        (["graph", "--out", "graph.xml"], ".html, .json"),
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


@pytest.fixture(scope="module")
def graph_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "graph.json"
    assert main(["graph", *FEW, "--out", str(path)]) == 0
    return path


def test_a_query_prints_what_the_function_gives(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["query", "upstream logits:13 width=3", "--graph", str(graph_file), "--json"]) == 0
    found = [(row["from"], row["to"]) for row in json.loads(capsys.readouterr().out)]
    assert sorted(found) == sorted(upstream(load_graph(graph_file), "logits:13", width=3).edges)


def test_a_query_builds_the_graph_where_none_is_given(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["query", "upstream logits:13", "--graph", str(graph_file)]) == 0
    from_file = capsys.readouterr().out
    assert main(["query", "upstream logits:13", *FEW]) == 0
    assert capsys.readouterr().out == from_file
    assert from_file.splitlines()[0].split() == ["from", "to", "weight", "strength", "share"]


@pytest.mark.parametrize("ending", [".json", ".graphml", ".gexf", ".cyjs"])
def test_a_graph_is_written_in_the_form_its_ending_names(ending: str, graph_file: Path, tmp_path: Path) -> None:
    path = tmp_path / f"answer{ending}"
    assert main(["query", "upstream logits:13", "--graph", str(graph_file), "--out", str(path)]) == 0
    assert set(load_graph(path).edges) == set(upstream(load_graph(graph_file), "logits:13").edges)


@pytest.mark.parametrize(
    "text", ["", "upstrea logits:13", "upstream", "upstream logits:99", "upstream logits:13 width=many", "upstream 'x"]
)
def test_a_query_that_is_none_is_exit_code_2(text: str, graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["query", text, "--graph", str(graph_file)]) == 2
    assert_one_sentence(capsys.readouterr().err)


def test_a_query_shows_only_so_many_rows(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = ["query", "upstream logits:13 width=3", "--graph", str(graph_file), "--count", "2"]
    assert main([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4  # a head, two rows, and how many there are


def test_a_reader_that_has_seen_enough_ends_it_without_a_word(graph_file: Path) -> None:
    command = [sys.executable, "-m", "circuits", "query", "communities", "--graph", str(graph_file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_an_empty_answer_says_why_beside_the_json(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["query", "prune share=1", "--graph", str(graph_file), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == []
    assert "no edge has a share of 1" in shown.err


@pytest.mark.parametrize("text", ["communities", "path_sum mixed4c:5 logits:13", "inhibition_pairs mixed4c logits"])
def test_an_answer_that_is_no_graph_is_not_written(
    text: str, graph_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = load_graph(graph_file)
    source, target = next(edge for edge in graph.edges if edge[1].startswith("logits"))
    text = f"path_sum {source} {target}" if text.startswith("path_sum") else text
    capsys.readouterr()
    path = tmp_path / "answer.json"
    assert main(["query", text, "--graph", str(graph_file), "--out", str(path)]) == 2
    assert "is no graph" in capsys.readouterr().err
    assert not path.exists()


def test_check_says_what_held_and_its_exit_code_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = build_graph(load_model("sketches"), ["mixed4c", "logits"], keep=1, progress=False)
    source, target, weight = next(iter(graph.edges(data="weight")))
    kinds = ("positive", "negative") if weight > 0 else ("negative", "positive")
    for kind, code in zip(kinds, (0, 1), strict=True):
        story = write_claims(Story("", "", (Claim(kind, {"source": source, "target": target}),)), tmp_path / "a.json")
        assert main(["check", str(story), "--quiet"]) == code
        assert capsys.readouterr().out.startswith("held" if code == 0 else "failed")
    assert main(["check", str(story), "--quiet", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1


def test_check_of_no_story_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    for story in ("bad.json", "missing.json"):
        assert main(["check", str(tmp_path / story)]) == 2
        assert_one_sentence(capsys.readouterr().err)


def test_the_help_names_every_query_and_every_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}" in shown for name in [*QUERIES, *MOTIFS])
    assert main(["graph", "--help"]) == 0
    assert "{" + ",".join(MEASURES) + "}" in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_a_graph_is_chosen_by_the_measure_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    assert main(["graph", *FEW, "--keep", "2", "--by", "inhibition", "--out", str(path)]) == 0
    wanted = build_graph(load_model("sketches"), ["mixed4c", "logits"], keep=2, by="inhibition", progress=False)
    assert set(load_graph(path).edges) == set(wanted.edges)
