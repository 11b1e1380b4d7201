"""Records come back as they were written, or not at all; a killed writer loses nothing; file names never collide."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features import records
from features.records import (
    check_shapes,
    matches_record,
    plain,
    read_record,
    remove_leftovers,
    slug,
    write_atomically,
    write_record,
)

ROOT = Path(__file__).parents[1]
OLD = {"a": np.arange(6.0).reshape(2, 3)}
NEW = {"a": np.arange(40, dtype=np.int16), "b": np.array(np.nan)}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
dtypes = st.sampled_from(["?", "i1", "<i2", ">i4", "i8", "u1", ">u2", "u4", "u8", "f2", ">f4", "f8"])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def write_old(folder: Path) -> Path:
    return write_record(folder, "demo", arrays=OLD, fields={"seed": 1})


def assert_same_arrays(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert sorted(given) == sorted(expected)
    for name, array in expected.items():
        assert given[name].shape == array.shape
        assert given[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(given[name], array)


# Round trips


@given(
    st.dictionaries(st.text().filter(lambda name: name != "__metadata__"), arrays, max_size=3),
    st.dictionaries(st.text(), json_values),
)
@settings(max_examples=80, deadline=None)
def test_round_trip(given: dict[str, np.ndarray], fields: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_record(folder, "demo", arrays=given, fields=fields)
        read, read_fields = read_record(folder, "demo")
        assert sorted(path.name for path in Path(folder).iterdir()) == ["arrays.safetensors", "manifest.json"]
    assert_same_arrays(read, given)
    assert read_fields == fields


def test_strided_arrays_keep_their_values(tmp_path: Path) -> None:
    cube = np.arange(24.0).reshape(2, 3, 4)
    views = {
        "turned": cube.transpose(2, 0, 1),
        "backwards": cube[:, ::-1],
        "column": cube[:, 0],
        "wide": np.broadcast_to(cube[0, 0], (5, 4)),
    }
    write_record(tmp_path / "r", "demo", arrays=views, fields={})
    assert_same_arrays(read_record(tmp_path / "r", "demo")[0], views)


def test_read_arrays_can_be_written_to(tmp_path: Path) -> None:
    read, _ = read_record(write_old(tmp_path / "r"), "demo")
    assert read["a"].flags.writeable and read["a"].flags.owndata


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_old(tmp_path / "1"), write_old(tmp_path / "2")
    for name in ("manifest.json", "arrays.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_numbers_and_tuples_are_made_plain() -> None:
    given = {"n": np.int32(3), "x": (np.float32(0.5), [np.True_]), "m": np.eye(2), "none": None, "text": np.str_("ab")}
    assert plain(given) == {"n": 3, "x": [0.5, [True]], "m": [[1, 0], [0, 1]], "none": None, "text": "ab"}
    assert type(plain(np.str_("ab"))) is str


def test_manifest_says_what_is_there(tmp_path: Path) -> None:
    manifest = json.loads((write_old(tmp_path / "r") / "manifest.json").read_text())
    assert manifest["schema"] == records.SCHEMA and manifest["kind"] == "demo"
    assert manifest["arrays"] == {"a": ["float64", [2, 3]]} and manifest["versions"]["numpy"] == np.__version__


# Replacing, killing, failing


def test_replacing_takes_the_new_and_leaves_other_files(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "r")
    (folder / "page.html").write_text("mine")
    write_record(folder, "other", arrays=NEW, fields={})
    assert_same_arrays(read_record(folder, "other")[0], NEW)
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.safetensors", "manifest.json", "page.html"]


KILLED = """
import os, sys
import numpy as np
from features.records import write_record
folder, moment, seen = sys.argv[1], int(sys.argv[2]), 0
def kill(event, args):
    global seen
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder in str(args[0]):
        seen += 1
        if seen == moment:
            os._exit(9)
sys.addaudithook(kill)
write_record(folder, "demo", arrays={"a": np.arange(40, dtype=np.int16), "b": np.array(np.nan)}, fields={"seed": 2})
"""


@pytest.mark.parametrize("existing", [True, False])
def test_killed_at_every_step_the_record_is_the_old_or_the_new(tmp_path: Path, existing: bool) -> None:
    outcomes, finished, moment = [], False, 0
    while not finished:
        moment += 1
        folder = tmp_path / str(moment)
        if existing:
            write_old(folder)
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(moment)], cwd=ROOT, check=False)
        finished = done.returncode == 0
        assert done.returncode in (0, 9)
        outcomes.append(next((seed for seed in (1, 2) if matches_record(folder, "demo", seed=seed)), None))
        if outcomes[-1] is not None:
            assert_same_arrays(read_record(folder, "demo")[0], OLD if outcomes[-1] == 1 else NEW)
    assert moment > 5
    assert outcomes == sorted(outcomes, key=lambda seed: seed or 0)
    assert outcomes[0] == (1 if existing else None) and outcomes[-1] == 2
    assert existing is (None not in outcomes)


def test_leftovers_of_killed_writers_are_removed_once_old(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "r")
    names = [
        ".0123456789abcdef.part",
        "arrays.0123456789abcdef.safetensors",
        ".0123456789abcdef.part.txt",
        "notes.part",
    ]
    for name in names:
        (folder / name).write_text("x")
        os.utime(folder / name, (0, 0))
    (folder / ".fedcba9876543210.part").write_text("of a writer at work")
    assert remove_leftovers(folder) == 2
    assert not (folder / names[0]).exists() and not (folder / names[1]).exists()
    assert all((folder / name).exists() for name in [*names[2:], ".fedcba9876543210.part"])


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_failing_disk_is_told_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    folder = write_old(tmp_path / "r")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
        with pytest.raises(OSError, match="could not write") as caught:
            write_record(folder, "demo", arrays=NEW, fields={})
    assert caught.value.errno == code and str(folder) in str(caught.value)
    assert ("bytes free" in str(caught.value)) is (code == errno.ENOSPC)
    assert isinstance(caught.value, PermissionError) is (code == errno.EACCES)
    assert_same_arrays(read_record(folder, "demo")[0], OLD)
    assert len(list(folder.iterdir())) == 2


LIMITED = """
import resource, sys
import numpy as np
from features.records import write_record
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_record(sys.argv[1], "demo", arrays={"a": np.zeros(100_000)}, fields={})
except OSError as error:
    print(error.filename)
"""


def test_a_file_that_outgrows_its_limit_leaves_no_part(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    folder = write_old(tmp_path / "r")
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert told.stdout.startswith(str(folder))
    assert_same_arrays(read_record(folder, "demo")[0], OLD)
    assert len(list(folder.iterdir())) == 2


def test_an_interrupt_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_path_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="could not write") as caught:
        write_atomically(tmp_path / "file" / "a.txt", "y")
    assert "a.txt" in str(caught.value)


def test_a_folder_is_not_overwritten_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="could not write"):
        write_atomically(tmp_path / "folder", "y")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "link").symlink_to(outside)
    write_atomically(tmp_path / "link", "new")
    assert outside.read_text() == "precious" and not (tmp_path / "link").is_symlink()
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="may not be a symbolic link"):
        write_old(tmp_path / "folder")
    assert list((tmp_path / "real").iterdir()) == []


def test_text_is_written_as_given(tmp_path: Path) -> None:
    assert write_atomically(tmp_path / "t", "a\r\nb\nü").read_bytes() == b"a\r\nb\n\xc3\xbc"


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_files_have_the_modes_of_ordinary_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    assert write_atomically(tmp_path / "t", "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Refusals


def test_missing_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        read_record(tmp_path / "none", "demo")
    with pytest.raises(FileNotFoundError, match=r"it has no manifest\.json"):
        read_record(tmp_path, "demo")


def test_other_kinds_and_newer_schemas_are_refused(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "r")
    with pytest.raises(ValueError, match="is of kind 'demo', not 'examples'"):
        read_record(folder, "examples")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 99, "sha256": None}))
    with pytest.raises(ValueError, match=r"newer version \(schema 99, this version reads up to 1\): update"):
        read_record(folder, "demo")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b""),
        ("manifest.json", b"{"),
        ("manifest.json", b"[]"),
        ("manifest.json", b"{}"),
        ("manifest.json", b"\xff\xfe\xfa"),
        ("manifest.json", b"[" * 200_000),
        ("manifest.json", b'{"schema": true}'),
        ("manifest.json", b'{"schema": 1, "kind": "demo"}'),
        ("manifest.json", b'{"schema": 1, "kind": "demo", "arrays": {}, "fields": {}, "sha256": "../../x"}'),
        ("manifest.json", b'{"schema": 1, "kind": "demo", "fields": {"a": NaN}}'),
        ("arrays.safetensors", b""),
        ("arrays.safetensors", b"x" * 64),
        ("arrays.safetensors", None),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = write_old(tmp_path / "r")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: .*; make it again"):
        read_record(folder, "demo")
    assert not matches_record(folder, "demo", seed=1)


def test_an_array_file_that_is_none_is_refused_even_with_the_right_digest(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "r")
    blob = b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a":{"dtype":"X'
    manifest = json.loads((folder / "manifest.json").read_text()) | {"sha256": hashlib.sha256(blob).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "arrays.safetensors").write_bytes(blob)
    with pytest.raises(ValueError, match="cannot be read"):
        read_record(folder, "demo")


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    folder = write_old(tmp_path / "r")
    path = folder / data.draw(st.sampled_from(["manifest.json", "arrays.safetensors"]))
    blob = bytearray(path.read_bytes())
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(blob)
    try:
        read, _ = read_record(folder, "demo")
    except ValueError:
        return
    assert path.name == "manifest.json"
    assert_same_arrays(read, OLD)


@pytest.mark.parametrize(
    "array", [[1, 2], np.array(["a"]), np.array([object()]), np.array([1 + 2j]), np.array(["2020"], "M8[D]"), None]
)
def test_arrays_that_cannot_be_kept_are_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(TypeError, match="the array 'x'"):
        write_record(tmp_path / "r", "demo", arrays={"x": array}, fields={})
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"a": [1, float("nan")]}, ValueError, r"fields\['a'\]\[1\] is nan"),
        ({"a": np.float32("inf")}, ValueError, r"fields\['a'\] is inf"),
        ({"a": {3: 1}}, TypeError, r"fields\['a'\] has the key 3"),
        ({"a": {1, 2}}, TypeError, r"fields\['a'\] is of type set"),
        ({"a": Path("x")}, TypeError, "JSON holds numbers"),
        ({"a": b"x"}, TypeError, "is of type bytes"),
    ],
)
def test_fields_that_are_no_json_are_refused(tmp_path: Path, fields: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        write_record(tmp_path / "r", "demo", arrays={}, fields=fields)


def test_matches_compares_the_fields_asked_for(tmp_path: Path) -> None:
    folder = write_record(tmp_path / "r", "demo", arrays={}, fields={"seed": 1, "size": (2, 3), "kind": "x"})
    assert matches_record(folder, "demo") and matches_record(folder, "demo", seed=np.int64(1), size=(2, 3), kind="x")
    assert not matches_record(folder, "demo", seed=2)
    assert not matches_record(folder, "demo", missing=None)
    assert not matches_record(folder, "other", seed=1)


def test_shapes_are_checked_by_named_axes() -> None:
    given = {"value": np.zeros((5, 3)), "box": np.zeros((5, 3, 4))}
    assert check_shapes(given, {"value": "ck", "box": ("c", "k", 4)}, c=5) == {"c": 5, "k": 3}
    with pytest.raises(ValueError, match=r"'box' is \(5, 3, 4\): it should be \(c, k, 2\) with c = 5, k = 3"):
        check_shapes(given, {"value": "ck", "box": ("c", "k", 2)})
    with pytest.raises(ValueError, match=r"'value' is \(5, 3\): it should be \(c\)"):
        check_shapes(given, {"value": "c"})
    with pytest.raises(ValueError, match=r"'value' is \(5, 3\): it should be \(c, k\) with c = 6"):
        check_shapes(given, {"value": "ck"}, c=6)
    with pytest.raises(ValueError, match="'label' is missing: there are box, value"):
        check_shapes(given, {"label": "ck"})


# File names


def assert_safe(name: str) -> None:
    assert 0 < len(name) <= 80
    assert name.isascii() and name == name.lower() and not set(name) & set('/\\:*?"<>| \0')
    assert not name.startswith(("-", ".")) and not name.endswith(".")
    assert f"{name}.html".split(".")[0] not in records.DEVICES


@given(st.lists(st.text(max_size=120), min_size=1, max_size=30, unique=True))
@settings(max_examples=600, deadline=None)
@example(["con", "CON", "con.txt", "a", "A", "a:1", "a~1", "a-1", "a/1", ".", "..", "", " ", "é", "é"])
@example(["a:3", "a=3", "a~3", "a:3.", "x" * 80, "x" * 81, "x" * 300, "ß", "SS", "ss", "ı", "i", "I", "İ", "\ud800"])
def test_slugs_are_safe_and_never_collide(names: list[str]) -> None:
    slugs = [slug(name) for name in names]
    for one in slugs:
        assert_safe(one)
    assert len({unicodedata.normalize("NFKC", one).casefold() for one in slugs}) == len(set(names))


@given(st.from_regex(r"[a-z][a-z0-9_]{0,8}([.=~][a-z0-9:=~]{1,24}){0,2}", fullmatch=True))
@settings(max_examples=500, deadline=None)
def test_the_slug_of_a_slug_is_taken_by_no_other_name(name: str) -> None:
    assert slug(slug(name)) != slug(name) or slug(name) == name


@pytest.mark.parametrize("name", ["mixed4b", "layer2.1", "inception3a", "features.10", "conv2d0", "blocks.0.norm1"])
def test_usual_names_keep_their_look(name: str) -> None:
    assert slug(name) == name
    assert slug(f"{name}:12") == f"{name}~12"


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="a name is text, not int"):
        slug(3)  # type: ignore[arg-type]
