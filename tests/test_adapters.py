"""Adapters: rows and tar files give what their pictures give, under names that stay; nothing is lost without a word."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from features.examples import FolderImages, fingerprint, fit_image, from_hf, from_webdataset, image_id
from features.examples.loading import Intake, batches

SIZE = (12, 12)
INTAKE = Intake(SIZE, 3)
CLASSES = ("ant", "bee", "cat")
PIXELS = np.random.default_rng(0).integers(0, 255, (10, 20, 16, 3), dtype=np.uint8)


def png(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(buffer, "PNG")
    return buffer.getvalue()


def assert_shows(dataset: Any, order: list[int], *, labelled: bool = True) -> None:
    """Check that ``dataset`` gives the pictures ``order``, with label ``index % 3``."""
    (batch,) = batches(dataset, INTAKE, range(len(dataset)), 99)
    assert not batch.skipped
    assert torch.equal(batch.images, torch.stack([fit_image(Image.fromarray(PIXELS[index]), SIZE) for index in order]))
    assert batch.labels.tolist() == [index % 3 if labelled else -1 for index in order]


# webdataset


def tar(path: Path, files: dict[str, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, blob in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    return path


def sample(index: int, **more: bytes) -> dict[str, bytes]:
    files = {"png": png(index), "cls": str(index % 3).encode()} | more
    return {f"s{index}.{extension}": blob for extension, blob in files.items()}


def joined(*samples: dict[str, bytes]) -> dict[str, bytes]:
    return {name: blob for each in samples for name, blob in each.items()}


def index_of(*paths: Path, **options: Any) -> Any:
    return from_webdataset(paths, progress=False, **options)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
def test_shards_that_webdataset_wrote_are_read_at_random(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the extra webdataset is not installed")
    with webdataset.ShardWriter(str(tmp_path / "t-%04d.tar"), maxcount=4, verbose=0) as writer:
        for index in range(10):
            writer.write({"__key__": f"s{index}", "png": png(index), "cls": index % 3, "json": {"a": 1}})
    names = [f"s{index}" for index in range(10)]
    for shards in ("t-{0000..0002}.tar", "t-*.tar"):
        found = from_webdataset(tmp_path / shards, classes=CLASSES, progress=False)
        assert_shows(found, list(range(10)))
        assert [image_id(found, index) for index in range(10)] == names == list(found.keys) and found.classes == CLASSES
    streamed = webdataset.WebDataset([str(path) for path in sorted(tmp_path.glob("*.tar"))], shardshuffle=False)
    assert [each["__key__"] for each in streamed] == names
    assert repr(found) == "TarImages(10 samples in 3 shards)"
    assert_shows(from_webdataset(tmp_path / "t-*.tar", label=None, progress=False), list(range(10)), labelled=False)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_layout_of_tar_and_odd_names(tmp_path: Path, form: int) -> None:
    long = "/".join(["folder"] * 30) + "/a very long name éß" if form != tarfile.USTAR_FORMAT else "folder/é"
    files = {
        f"{long}.PNG": png(1),
        f"{long}.cls": b"1\n",
        "x.y/z.left.png": png(3),
        "x.y/z.cls": b"0",
        "__meta__": b"x",
    }
    found = index_of(tar(tmp_path / "t.tar", files, format=form))
    assert list(found.keys) == [long, "x.y/z"]
    assert_shows(found, [1, 3])


def test_what_is_no_sample_is_an_item_with_a_reason(tmp_path: Path) -> None:
    files = joined(
        sample(0), {"README": b"hello"}, sample(1), {"s2.cls": b"2", "s2.txt": b"x"},
        {"s3.png": b"", "s3.cls": b"0"}, {"s4.png": png(4), "s4.cls": b"cat"}, {"s5.png": png(5)},
    )  # fmt: skip
    path = tar(tmp_path / "t.tar", files)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("s6.png")
        link.type, link.linkname = tarfile.SYMTYPE, "s0.png"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    found = index_of(path)
    (batch,) = batches(found, INTAKE, range(len(found)), 99)
    assert batch.indices.tolist() == [0, 2, 6] and batch.labels.tolist() == [0, 1, -1]
    reasons = dict(batch.skipped)
    for index, words in {
        1: "'README' is no picture: its name has no extension",
        3: "'s2' is no picture: it has no image, only cls, txt",
        4: "'s3' is no picture: it is empty",
        5: "the label of 's4' is b'cat', no whole number",
        7: "'s6.png' is no picture: it is a link or a device",
    }.items():
        assert words in reasons.pop(index)
    assert not reasons


def test_a_damaged_shard_says_what_is_lost(tmp_path: Path) -> None:
    whole = tar(tmp_path / "whole.tar", joined(*map(sample, range(4)))).read_bytes()
    half, header = tmp_path / "half.tar", tmp_path / "header.tar"
    half.write_bytes(whole[: 512 * 7 + 300])
    spoiled = bytearray(whole)
    third = whole.index(b"s2.png")
    spoiled[third : third + 400] = b"\xff" * 400
    header.write_bytes(spoiled)
    twice = tmp_path / "twice.tar"
    twice.write_bytes(whole + whole)
    for path, kept, words in (
        (half, [0], "damaged at byte"),
        (header, [0, 1], f"the tar file is damaged at byte {third} of {len(whole)}: what follows is lost"),
        (twice, [0, 1, 2, 3], "no proper end"),
    ):
        found = index_of(tmp_path / "whole.tar", path)
        (batch,) = batches(found, INTAKE, range(len(found)), 99)
        assert batch.indices.tolist()[: 4 + len(kept)] == [0, 1, 2, 3, *(4 + index for index in kept)]
        assert len(batch.images) == 4 + len(kept) and batch.skipped
        assert words in batch.skipped[-1][1] and path.name in batch.skipped[-1][1]


def test_a_key_that_begins_again_is_another_sample(tmp_path: Path) -> None:
    path = tar(tmp_path / "t.tar", sample(0))
    with tarfile.open(path, "a") as archive:
        for name, blob in (("s0.png", png(1)), ("s0.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    assert_shows(index_of(path), [0, 1])


def test_a_key_that_occurs_twice_is_told_apart_by_its_shard(tmp_path: Path) -> None:
    one, other = tar(tmp_path / "a.tar", joined(*map(sample, range(3)))), tar(tmp_path / "b.tar", sample(1))
    found = index_of(one, other)
    assert [image_id(found, index) for index in range(4)] == ["s0", "a.tar/s1", "s2", "b.tar/s1"]


def test_the_extension_of_the_image_can_be_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "t.tar", {"s.jpg": b"junk", "s.mask.png": png(2), "s.id": b"2"})
    assert_shows(index_of(path, image="mask.png", label="id"), [2])
    with pytest.raises(ValueError, match=r"no sample in .*t.tar' \(of 1\) has an image; the first: s: it has no tif"):
        index_of(path, image="tif")


def test_shards_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no tar file '.*none-07.tar'"):
        from_webdataset(tmp_path / "none-{07..09}.tar", progress=False)
    with pytest.raises(ValueError, match="no tar file was given"):
        from_webdataset([], progress=False)
    packed = tmp_path / "t.tar.gz"
    packed.write_bytes(gzip.compress(tar(tmp_path / "t.tar", sample(1)).read_bytes()))
    for blob in (packed.read_bytes(), b"", b"junk" * 1000, bytes(1024)):
        packed.write_bytes(blob)
        with pytest.raises(ValueError, match="or a compressed one, which must be unpacked"):
            from_webdataset(packed, progress=False)


def test_shards_are_known_by_their_fingerprint(tmp_path: Path) -> None:
    files = joined(*map(sample, range(4)))
    before = fingerprint(index_of(tar(tmp_path / "t.tar", files)))
    (tmp_path / "copy").mkdir()
    assert fingerprint(index_of(tar(tmp_path / "copy" / "t.tar", files))) == before
    for changed in (
        joined(*map(sample, (0, 1, 3, 2))),
        files | {"s3.cls": b"10"},
        files | {"s2.png": png(2)[:-1] + b"x"},
    ):
        assert fingerprint(index_of(tar(tmp_path / "copy" / "t.tar", changed))) != before


# Hugging Face


@pytest.fixture
def hf() -> Any:
    return pytest.importorskip("datasets", reason="the extra hf is not installed")


def rows(hf: Any, labels: Any = None, *, image: str = "image", label: str = "label", **columns: Any) -> Any:
    table = {image: [{"bytes": png(index), "path": None} for index in range(6)]} | columns
    table |= {} if labels is None else {label: labels}
    return hf.Dataset.from_dict(table).cast_column(image, hf.Image())


NUMBERS = [index % 3 for index in range(6)]


def test_columns_are_recognised(hf: Any) -> None:
    classes = rows(hf, NUMBERS, image="img", label="fine").cast_column("fine", hf.ClassLabel(names=list(CLASSES)))
    for given in (classes, rows(hf, NUMBERS), rows(hf, [CLASSES[number] for number in NUMBERS], other=[0.5] * 6)):
        found = from_hf(given)
        assert_shows(found, list(range(6)))
    assert from_hf(classes).classes == CLASSES == found.classes and from_hf(rows(hf, NUMBERS)).classes == ()
    assert from_hf(rows(hf, ["cat", "ant", "bee"] * 2)).classes == CLASSES
    assert_shows(from_hf(rows(hf)), list(range(6)), labelled=False)
    assert repr(found) == "HuggingFaceImages(6 rows: image 'image', label 'label')"
    chosen = from_hf(rows(hf, NUMBERS, number=NUMBERS), label="number")
    assert_shows(chosen, list(range(6)))


def test_rows_that_were_chosen_and_shuffled_keep_their_order_and_keys(hf: Any) -> None:
    given = rows(hf, NUMBERS, name=[f"n{index}" for index in range(6)]).select([4, 1, 5])
    found = from_hf(given, key="name")
    assert_shows(found, [4, 1, 5])
    assert [image_id(found, index) for index in range(3)] == ["n4", "n1", "n5"]
    assert [image_id(from_hf(given), index) for index in range(3)] == ["0", "1", "2"]


def test_rows_that_cannot_be_read_are_skipped(hf: Any, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(2))
    blobs = [png(0), b"junk", None, None, None, png(5)]
    paths = [None, None, str(tmp_path / "x.png"), str(tmp_path / "gone.png"), None, "x"]
    images: list[Any] = [{"bytes": blob, "path": path} for blob, path in zip(blobs, paths, strict=True)]
    images[4] = None
    columns = hf.Features({"image": hf.Image(), "label": hf.Value("int64")})
    given = hf.Dataset.from_dict({"image": images, "label": [0, 1, 2, 0, 1, None]}, features=columns)
    (batch,) = batches(from_hf(given), INTAKE, range(6), 9)
    assert batch.indices.tolist() == [0, 2, 5] and batch.labels.tolist() == [0, 2, -1]
    reasons = dict(batch.skipped)
    assert "'row 1' is no picture" in reasons[1] and "gone.png" in reasons[3] and "row 4 has no image" in reasons[4]
    assert fingerprint(from_hf(given)) == fingerprint(from_hf(given))


def test_rows_are_known_by_their_fingerprint(hf: Any) -> None:
    before = fingerprint(from_hf(rows(hf, NUMBERS)))
    assert fingerprint(from_hf(rows(hf, NUMBERS))) == before
    assert fingerprint(from_hf(rows(hf, NUMBERS[::-1]))) != before
    assert fingerprint(from_hf(rows(hf, NUMBERS).select([0, 1, 2, 3, 5, 4]))) != before


def test_datasets_that_cannot_be_read_are_refused(hf: Any) -> None:
    plain = rows(hf, NUMBERS, text=["x"] * 6, real=[0.5] * 6)
    two = plain.add_column("again", [{"bytes": png(0), "path": None}] * 6).cast_column("again", hf.Image())
    for given, options, kind, words in (
        (hf.DatasetDict(train=plain), {}, TypeError, r"give one of its splits, dataset\['train'\]"),
        (plain.to_iterable_dataset(), {}, TypeError, "IterableDataset has no rows by index"),
        ([1], {}, TypeError, "list has no rows"),
        (plain.remove_columns("image"), {}, ValueError, "no column of images, of text, real, label"),
        (two, {}, ValueError, r"2 columns of images \(image, again\)"),
        (plain, {"image": "img"}, ValueError, "there is no column 'img'"),
        (plain, {"image": "text"}, ValueError, "the column 'text' holds no images"),
        (plain, {"label": "lab"}, ValueError, "there is no column 'lab'"),
        (plain, {"label": "real"}, ValueError, "the column 'real' holds float64"),
        (plain, {"key": "id"}, ValueError, "there is no column 'id'"),
    ):
        with pytest.raises(kind, match=words):
            from_hf(given, **options)


def test_a_folder_rows_and_shards_give_the_same(hf: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for index in range(6):
        (tmp_path / "folder" / f"{index}.png").write_bytes(png(index))
    shard = index_of(tar(tmp_path / "t.tar", joined(*map(sample, range(6)))))
    for dataset in (FolderImages(tmp_path / "folder", SIZE), from_hf(rows(hf)), shard):
        (batch,) = batches(dataset, INTAKE, range(6), 9)
        assert torch.equal(batch.images, next(batches(shard, INTAKE, range(6), 9)).images)
        assert dataset.concurrent
