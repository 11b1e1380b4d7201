"""The command line: exit codes, one sentence for every error, results on standard output, nothing heavy for --help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits import __main__ as cli
from circuits.__main__ import main
from circuits.claims import Claim, Story, write_claims
from circuits.graphs import MEASURES, build_graph, load_graph
from circuits.motifs import MOTIFS
from circuits.queries import QUERIES, upstream
from features.examples import FolderImages, contact_sheet, find_examples
from features.examples.index import image_name
from features.examples.store import open_examples
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


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in cli.COMMANDS)])
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

    monkeypatch.setitem(cli.COMMANDS, "layers", replace(cli.COMMANDS["layers"], prepare=lambda args: work))
    assert main(["layers"]) == 1
    assert_one_sentence(capsys.readouterr().err)
    assert main(["layers", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_control_c_is_exit_code_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "layers", replace(cli.COMMANDS["layers"], prepare=lambda args: work))
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


# --- examples, sheet, excited -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve pictures of two classes, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, (image, _) in enumerate(Sketches(12)):
        write_picture(image.permute(1, 2, 0).numpy(), folder / f"class {index % 2}" / f"{index}.png")
    (folder / "class 1" / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def store(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "found"
    assert main(search(pictures, path)) == 0
    return path


def search(pictures: Path, store: Path) -> list[str]:
    return ["examples", "--dataset", str(pictures), "--store", str(store), "--layers", "mixed3a,mixed4c", "--quiet"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_examples_looks_at_a_folder_of_pictures_and_says_where_to_look(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*search(pictures, tmp_path / "found"), "--count", "4"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["mixed3a", "64"], ["mixed4c", "96"]]
    assert "notes.txt" in lines[3], "what could not be read is said"
    assert "4 examples each for 160 units, among 12 images" in lines[4]
    assert err == ""
    model = load_model("sketches")
    wanted = find_examples(model, FolderImages(pictures, model), ["mixed3a", "mixed4c"], count=4, progress=False)
    found = open_examples(tmp_path / "found")
    for name in found.layers:
        np.testing.assert_array_equal(found.layer(name).image, wanted.layer(name).image)
        np.testing.assert_allclose(found.layer(name).value, wanted.layer(name).value, rtol=1e-5)
        np.testing.assert_allclose(found.layer(name).class_mean, wanted.layer(name).class_mean, rtol=1e-4)
    look = lines[-1].removeprefix("Look: circuits ").split()
    assert main([*look, "--out", str(tmp_path / "sheet.html")]) == 0, "what it says to type is right"


def test_examples_shows_its_progress_on_standard_error(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word for word in search(pictures, tmp_path / "found") if word != "--quiet"]) == 0
    err = capsys.readouterr().err
    assert "image/s" in err and "13/13" in err, "a rate, and how far it is"


def test_examples_again_is_what_it_was(store: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    before = contents(store)
    assert main(search(pictures, store)) == 0
    said = capsys.readouterr().out
    assert contents(store) == before
    assert "12 images" in said


def test_examples_in_shares_is_what_it_is_alone(
    store: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*search(pictures, tmp_path / "shared"), "--shard", "2/2"]) == 0
    assert "share 2/2 is done" in capsys.readouterr().out
    assert main([*search(pictures, tmp_path / "shared"), "--shard", "1/2"]) == 0
    assert "Look: circuits sheet" in capsys.readouterr().out
    alone, shared = open_examples(store), open_examples(tmp_path / "shared")
    for name in alone.layers:
        np.testing.assert_array_equal(alone.layer(name).image, shared.layer(name).image)
        np.testing.assert_array_equal(alone.layer(name).value, shared.layer(name).value)


def test_examples_passes_on_what_it_is_told(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, Any]] = []

    def instead(*args: Any, **options: Any) -> None:
        calls.append((args, options))

    monkeypatch.setattr("features.examples.engines.run", instead)
    words = ["--count", "3", "--batch", "5", "--dtype", "bfloat16", "--engine", "processes", "--workers", "2"]
    assert main([*search(pictures, tmp_path / "s"), *words, "--shard", "1/4", "--weights", "seed1"]) == 0
    (model, dataset, plan, folder), options = calls[0]
    assert model.digest == load_model("sketches", weights="seed1").digest
    assert (type(dataset), len(dataset)) == (FolderImages, 13)
    assert (plan.count, plan.batch, plan.dtype, plan.classes) == (3, 5, "bfloat16", 2)
    assert plan.layers == ("mixed3a", "mixed4c")
    assert Path(folder) == tmp_path / "s"
    assert options == {"engine": "processes", "workers": 2, "shard": "1/4", "progress": False}


def test_the_choices_are_those_that_there_are() -> None:
    from features.examples.engines import ENGINES
    from features.examples.plans import DTYPES

    parser = cli._parser()
    commands = next(action for action in parser._actions if action.dest == "command")
    choices = {action.dest: action.choices for action in commands.choices["examples"]._actions}  # type: ignore[index, union-attr]
    assert choices["engine"] == list(ENGINES)
    assert set(choices["dtype"] or ()) == {"float32", *DTYPES}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "no-such-network"], "no-such-network"),
        (["--weights", "seed9"], "seed9"),
        (["--dataset", "/no/such/folder"], "'/no/such/folder' is no folder"),
        (["--layers", "mixed9z"], "mixed9z"),
        (["--store", "pictures"], "pictures"),
        (["--store", "a file"], "a file"),
        (["--store", "no/such/parent"], "no/such"),
        (["--engine", "local", "--workers", "2"], "workers"),
        (["--shard", "5/4"], "5/4"),
        (["--shard", "0/4"], "0/4"),
        (["--shard", "third"], "third"),
        (["--shard", "environment"], "RANK"),
        (["--device", "abacus"], "abacus"),
        (["--build", "depth=3"], "depth"),
        (["--build", "weights=x"], "'weights' is not part of that"),
        (["--model", "photographs", "--dataset-less"], "--dataset"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_bad_input_for_examples_is_a_sentence_before_anything_is_read(
    words: list[str],
    says: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a file").write_text("years of work", encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_text("years of work", encoding="utf-8")
    before = contents(tmp_path)
    given = ["--dataset", str(pictures)] if "--dataset-less" not in words else []
    assert main(["examples", *given, *(word for word in words if word != "--dataset-less")]) == 2
    out, err = capsys.readouterr()
    assert_one_sentence(err)
    assert says in err
    assert out == ""
    assert contents(tmp_path) == before, "nothing is written for a refused command"


@pytest.mark.parametrize(
    "words",
    [["--count", "0"], ["--count", "many"], ["--batch", "0"], ["--batch", "-3"], ["--dtype", "int8"],
     ["--engine", "dask"],
     ["--workers", "0"], ["--image-size", "big"], ["--build", "depth"]],
)  # fmt: skip
def test_wrong_words_for_examples_are_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", *words]) == 2
    assert f"argument {words[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [(["--weights", "seed1"], "digest"), (["--count", "3"], "count")])
def test_a_store_of_another_search_is_refused(
    words: list[str], says: str, store: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = contents(store)
    assert main([*search(pictures, store), *words]) == 2
    out, err = capsys.readouterr()
    assert_one_sentence(err)
    assert says in err and out == ""
    assert contents(store) == before


def test_sheet_writes_what_contact_sheet_gives(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sheets.html"
    capsys.readouterr()
    assert main(["sheet", "mixed3a:3", "mixed4c:9", "--store", str(store), "--out", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text(encoding="utf-8")
    examples = open_examples(store)
    for unit in ("mixed3a:3", "mixed4c:9"):
        assert contact_sheet(examples, unit)._repr_html_() in text
    assert "<image" in text, "the store's thumbnails"
    assert main(["sheet", "mixed3a:3", "--store", str(store), "--out", str(tmp_path / "sheet.png")]) == 0


def test_excited_lists_the_units_that_keep_a_picture(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = open_examples(store)
    capsys.readouterr()
    index = int(examples["mixed4c:9"].image[0])
    assert main(["excited", str(index), "--store", str(store), "--count", "500", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    wanted = {
        unit: float(found.value[list(found.image).index(index)])
        for unit in examples
        if index in (found := examples[unit]).image
    }
    assert {row["unit"]: row["value"] for row in rows} == pytest.approx(wanted)
    shares = [row["share"] for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert main(["excited", image_name(store, index), "--store", str(store), "--count", "500", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows, "a name does as well"
    assert main(["excited", str(index), "--store", str(store), "--count", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == rows[0]["unit"]


def test_a_picture_that_no_unit_keeps_says_so(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["excited", "no/such.png", "--store", str(store)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "" and "'no/such.png'" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sheet", "mixed3a:3", "--store", "/no/such/store"], "/no/such/store"),
        (["sheet", "mixed3b:3"], "mixed3b"),
        (["sheet", "mixed3a:64"], "no channel 64"),
        (["sheet", "mixed3a:1", "mixed3a"], "'mixed3a' is no unit"),
        (["sheet", "mixed3a:3", "--out", "sheet.pdf"], "end it with .html"),
        (["excited", "3", "--store", "/no/such/store"], "/no/such/store"),
        (["excited", "13"], "the dataset has 13 images (0 to 12)"),
    ],
)
def test_bad_questions_to_a_store_are_a_sentence(
    words: list[str],
    says: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main([*words, *([] if "--store" in words else ["--store", str(store)])]) == 2
    out, err = capsys.readouterr()
    assert_one_sentence(err)
    assert says in err and out == ""
    assert not list(tmp_path.iterdir())


def test_control_c_while_looking_leaves_what_was_found(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thumbnails are drawn last: stopped there, the same command draws them and does not look again."""

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    words = search(pictures, tmp_path / "found")
    with monkeypatch.context() as patched:
        patched.setattr("features.examples.engines.draw_thumbnails", stopped)
        assert main(words) == 130
    assert "the same command continues" in capsys.readouterr().err
    monkeypatch.setattr("features.examples.jobs.sweep", stopped)
    assert main(words) == 0
    assert "Look:" in capsys.readouterr().out
