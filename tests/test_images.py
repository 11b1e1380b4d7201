"""Images: what any file gives, what a bad one does not change, what a dataset is known by."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder

from features.examples import FolderImages, fingerprint, fit_image, image_id
from features.examples.images import UNREADABLE, read_item
from features.examples.loading import Intake, batches
from features.pictures import decode_image

SIZE = (12, 12)
RAMP = np.linspace(0, 255, 24 * 20 * 3).reshape(24, 20, 3).astype(np.uint8)
QUADRANTS = np.zeros((16, 16, 3), np.uint8)
QUADRANTS[:8, :8], QUADRANTS[:8, 8:], QUADRANTS[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes that says that it is ``side`` x ``side``."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(300))) + chunk(b"IEND", b"")


def exif(turn: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags.tobytes()


PICTURE = Image.fromarray(RAMP)
PNG, JPEG = encoded(PICTURE, "PNG"), encoded(PICTURE, "JPEG", quality=95)
BROKEN = {
    "empty.png": b"",
    "text.jpg": b"this is no picture",
    "half.png": PNG[: len(PNG) // 2],
    "header.png": PNG[:30],
    "checksum.png": PNG.replace(b"IDAT", b"IDAT\x00", 1),
    "half.jpg": JPEG[: len(JPEG) // 3],
    "start.jpg": JPEG[:2],
    "page.html": b"<!DOCTYPE html><html></html>",
    "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "bomb.png": bomb(),
    "zeros.bmp": bytes(500),
}


def odd() -> dict[str, bytes]:
    """Files that are converted: every one shows `RAMP` or one colour."""
    sixteen = Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
    frames = [PICTURE.convert("P"), Image.new("P", PICTURE.size)]
    return {
        "grey.png": encoded(PICTURE.convert("L"), "PNG"),
        "bits.png": encoded(PICTURE.convert("1"), "PNG"),
        "palette.png": encoded(PICTURE.quantize(64), "PNG"),
        "alpha.png": encoded(PICTURE.convert("RGBA"), "PNG"),
        "grey-alpha.png": encoded(PICTURE.convert("LA"), "PNG"),
        "ink.jpg": encoded(PICTURE.convert("CMYK"), "JPEG"),
        "sixteen.png": encoded(sixteen, "PNG"),
        "sixteen.tif": encoded(sixteen, "TIFF"),
        "turned.jpg": encoded(PICTURE.rotate(90, expand=True), "JPEG", exif=exif(6), quality=95),
        "odd-exif.jpg": encoded(PICTURE, "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "dot.png": encoded(Image.new("RGB", (1, 1), (10, 20, 30)), "PNG"),
        "line.png": encoded(Image.new("RGB", (1, 400), (10, 20, 30)), "PNG"),
        "web.webp": encoded(PICTURE, "WEBP", lossless=True),
    }


def write(folder: Path, blobs: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
    return folder


# Files


def test_every_odd_file_is_converted_and_shows_what_it_holds(tmp_path: Path) -> None:
    folder = FolderImages(write(tmp_path, odd()), SIZE)
    expected = {channels: fit_image(PICTURE, SIZE, channels) for channels in (1, 3)}
    grey = expected[1].expand(3, -1, -1)
    for index, path in enumerate(folder.paths):
        image, label = folder[index]
        assert image.shape == (3, *SIZE) and image.dtype == torch.float32 and label == -1
        if path in ("dot.png", "line.png"):
            torch.testing.assert_close(image, torch.tensor([10, 20, 30])[:, None, None].expand(3, *SIZE) / 255)
        elif path == "bits.png":
            assert abs(image.mean() - grey.mean()) < 0.05
        else:
            wanted = grey if path.startswith(("grey", "sixteen")) else expected[3]
            exact = path.endswith((".png", ".webp", ".tif")) and "palette" not in path
            assert (image - wanted).abs().max() < (0.01 if exact else 0.12), path


def test_sixteen_bits_are_scaled_and_keep_their_precision() -> None:
    levels = (np.arange(144, dtype=np.uint16) * 3 + 20_000).reshape(12, 12)
    for form in ("PNG", "TIFF"):
        image = Image.open(io.BytesIO(encoded(Image.fromarray(levels), form)))
        fitted = fit_image(image, SIZE)
        np.testing.assert_allclose(fitted[1], levels / 65535, atol=1e-7)
        np.testing.assert_allclose(fit_image(image, SIZE, 1)[0], levels / 65535, atol=1e-7)
    top = fit_image(Image.fromarray(np.full((30, 30), 65535, np.uint16)), SIZE)
    assert top.min() == 1 and top.max() == 1
    floats = fit_image(Image.fromarray(np.full((30, 30), 0.3, np.float32)), SIZE)
    np.testing.assert_allclose(floats, 0.3, atol=1e-6)
    for wrong in (
        Image.fromarray(np.full((9, 9), 70_000, np.int32)),
        Image.fromarray(np.full((9, 9), -0.5, np.float32)),
    ):
        with pytest.raises(ValueError, match=r"values lie in \[0, 1\]"):
            fit_image(wrong, SIZE)


def test_transparency_lies_on_white() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4, 3] = 255
    half = Image.fromarray(pixels)
    for image in (half, half.convert("LA"), half.convert("P")):
        fitted = fit_image(image, (8, 8))
        assert fitted[:, :, :4].max() == 0
        assert fitted[:, :, 4:].min() == 1 or image.mode == "P"
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.info["transparency"] = 1
    assert fit_image(palette, (8, 8)).min() == 1
    np.testing.assert_allclose(
        fit_image(Image.new("RGBA", (4, 4), (255, 0, 0, 51)), (4, 4))[:, 0, 0], [1, 0.8, 0.8], atol=0.01
    )


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_comes_upright(turn: int) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    upright = Image.fromarray(QUADRANTS[:, :12])
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(undo[turn]))
    blob = encoded(stored, "PNG", exif=exif(turn))
    for size in ((16, 12), (8, 8), (5, 9)):
        found = fit_image(Image.open(io.BytesIO(blob)), size)
        torch.testing.assert_close(found, fit_image(upright, size), atol=1.1 / 255, rtol=0)


def test_bad_files_are_recorded_once_and_change_nothing(tmp_path: Path) -> None:
    good = {f"{index:02d}-{name}": blob for index, (name, blob) in enumerate(odd().items())}
    clean = FolderImages(write(tmp_path / "clean", good), SIZE)
    write(tmp_path / "mixed", good | {f"{place:02d}{name}": blob for place, (name, blob) in enumerate(BROKEN.items())})
    (tmp_path / "mixed" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    mixed = FolderImages(tmp_path / "mixed", SIZE)
    (alone,) = batches(clean, Intake(SIZE, 3), range(len(clean)), 99)
    read = list(batches(mixed, Intake(SIZE, 3), range(len(mixed)), 7))
    skipped = dict(each for batch in read for each in batch.skipped)
    names = {mixed.paths[index][2:] for index in skipped if mixed.paths[index] != "gone.png"}
    assert names == set(BROKEN) and len(skipped) == len(BROKEN) + 1
    assert all(mixed.paths[index] in reason or "gone.png" in reason for index, reason in skipped.items())
    assert torch.equal(torch.cat([batch.images for batch in read]), alone.images)


def test_random_damage_never_crashes() -> None:
    generator = np.random.default_rng(0)
    blobs = [encoded(PICTURE, form) for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
    kept = 0
    for trial in range(150):
        blob = bytearray(blobs[trial % len(blobs)])
        for place in generator.integers(0, len(blob), generator.integers(1, 12)):
            blob[place] = generator.integers(256)
        blob = blob[: generator.integers(1, len(blob) + 1)] if trial % 3 == 0 else blob
        try:
            image = fit_image(decode_image(bytes(blob), "x"), SIZE)
            assert image.shape == (3, *SIZE) and image.min() >= 0 and image.max() <= 1
            kept += 1
        except UNREADABLE:
            continue
    assert 10 < kept < 140


def test_a_bomb_is_refused_without_its_memory(tmp_path: Path) -> None:
    write(tmp_path, {"bomb.png": bomb(), "just-too-large.png": bomb(9_460)})
    code = (
        "import resource, sys\n"
        "from features.examples.folders import FolderImages\n"
        "folder = FolderImages(sys.argv[1], (12, 12))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for index in range(2):\n"
        "    try:\n"
        "        folder[index]\n"
        "    except ValueError as error:\n"
        "        print(str(error)[:120])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root, check=True
    )
    first, second, grown = done.stdout.splitlines()
    assert "bomb.png" in first and "pixels" in first and "just-too-large.png" in second and "pixels" in second
    assert int(grown) < 20_000  # kilobytes, for pictures that would take 270 MB and more


# Folders


def test_a_folder_says_what_its_images_are_called(tmp_path: Path) -> None:
    write(tmp_path / "b", {"x.png": PNG, "y.png": PNG})
    write(tmp_path / "a", {"z.png": PNG})
    folder = FolderImages(tmp_path, SIZE)
    assert [image_id(folder, index) for index in range(3)] == ["a/z.png", "b/x.png", "b/y.png"]
    assert [folder.label(index) for index in range(3)] == [0, 1, 1]
    assert repr(folder).endswith("3 files, 2 labels, as (12, 12))")
    assert [image_id(Subset(folder, [2, 0]), index) for index in range(2)] == ["b/y.png", "a/z.png"]
    torchs = ImageFolder(tmp_path)
    assert [image_id(torchs, index) for index in range(3)] == ["a/z.png", "b/x.png", "b/y.png"]
    assert image_id(random_images(3), 2) == "2"
    for index in range(3):
        torch.testing.assert_close(read_item(torchs, index, SIZE, 3)[0], folder[index][0])
        assert torchs[index][1] == folder[index][1]


def test_pipes_are_no_files(tmp_path: Path) -> None:
    write(tmp_path, {"x.png": PNG})
    os.mkfifo(tmp_path / "pipe.png")
    assert FolderImages(tmp_path, SIZE).paths == ("x.png",)


def test_a_folder_that_disappears_is_no_damaged_file(tmp_path: Path) -> None:
    folder = FolderImages(write(tmp_path / "f", {"x.png": PNG, "y.png": PNG}), SIZE)
    (tmp_path / "f" / "x.png").unlink()
    with pytest.raises(FileNotFoundError):
        folder[0]
    (tmp_path / "f").rename(tmp_path / "g")
    with pytest.raises(RuntimeError, match="has disappeared"):
        folder[1]


# Fingerprints


def test_a_folder_is_known_by_names_sizes_and_samples(tmp_path: Path) -> None:
    blobs = {f"{index:02d}.png": PNG + bytes(index) for index in range(40)}
    before = FolderImages(write(tmp_path / "one", blobs), SIZE).fingerprint
    os.utime(tmp_path / "one" / "03.png", (1, 1))
    assert FolderImages(tmp_path / "one", SIZE).fingerprint == before
    assert FolderImages(write(tmp_path / "copy", blobs), SIZE).fingerprint == before
    assert FolderImages(tmp_path / "one", (8, 8)).fingerprint != before
    first = next(iter(blobs))
    changes = [
        {first: blobs[first][:-1] + b"x"},  # one of the sixteen, of the same size
        {"07.png": blobs["07.png"] + b"x"},
        {"99.png": PNG},
    ]
    for number, change in enumerate(changes):
        changed = FolderImages(write(tmp_path / f"change{number}", blobs | change), SIZE)
        assert changed.fingerprint != before
    moved = write(tmp_path / "moved", blobs)
    (moved / "07.png").rename(moved / "07b.png")
    assert FolderImages(moved, SIZE).fingerprint != before


def test_a_changed_dataset_is_noticed(tmp_path: Path) -> None:
    images = random_images(40).float()
    one = images.clone()
    one[7, 1, 3, 3] += 1e-3  # item 7 is none of the sixteen
    assert fingerprint(images) == fingerprint(images.clone()) != fingerprint(one)
    labels = torch.arange(40)
    assert fingerprint(TensorDataset(images, labels)) != fingerprint(TensorDataset(one, labels))
    assert fingerprint(TensorDataset(images, labels)) != fingerprint(TensorDataset(images, labels + 1))
    assert fingerprint(Subset(images, range(30))) != fingerprint(Subset(images, range(10, 40)))
    swapped = [*range(40)]
    swapped[6:8] = [7, 6]
    assert fingerprint(Subset(images, range(40))) != fingerprint(Subset(images, swapped))
    write(tmp_path / "a", {f"{index:02d}.png": PNG for index in range(40)})
    before = fingerprint(ImageFolder(tmp_path))
    assert fingerprint(ImageFolder(tmp_path)) == before
    (tmp_path / "a" / "07.png").write_bytes(PNG + b"more")
    assert fingerprint(ImageFolder(tmp_path)) != before


def test_only_images_and_labels_count() -> None:
    images = random_images(5)

    class Odd:
        pass

    assert fingerprint([(image, 1, Odd()) for image in images]) == fingerprint([(image, 1) for image in images])
    tagged = [{"image": image, "label": 1, "extra": Odd()} for image in images]
    assert fingerprint(tagged) == fingerprint([(image, 1) for image in images])


def test_random_transforms_are_refused() -> None:
    class Random:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(3, 12, 12, generator=self.generator)

    with pytest.raises(ValueError, match="leave out random transforms"):
        fingerprint(Random())
