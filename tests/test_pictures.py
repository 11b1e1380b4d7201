"""Pictures: exact values in and out, positions kept, colours honest, and bad input refused with a sentence."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from features import pictures
from features.pictures import (
    FORMS,
    check_picture,
    crop,
    data_uri,
    encode,
    enlarge,
    from_image,
    grid,
    overlay,
    read_picture,
    resize,
    sheet,
    signed,
    to_bytes,
    to_image,
    write_picture,
)

GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.random((9, 14, 3))


def decode(blob: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(blob)) as image:
        return np.asarray(image)


# Values


def test_every_eight_bit_value_survives() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(to_bytes((ramp / 255).astype(dtype))[:, :, 1], ramp)
        np.testing.assert_array_equal(
            from_image(to_image((ramp / 255).astype(dtype)))[:, :, 2], ramp.astype(np.float32) / np.float32(255)
        )


@given(st.floats(0, 1))
def test_values_round_to_the_nearest_never_down(value: float) -> None:
    assert abs(int(to_bytes(np.array([[value]]))[0, 0, 0]) - value * 255) <= 0.5 + 1e-9


def test_grey_gets_three_equal_channels_and_keeps_its_shape() -> None:
    grey = GENERATOR.random((3, 5))
    for array in (grey, grey[:, :, None]):
        checked = check_picture(array)
        assert checked.shape == (3, 5, 3) and checked.dtype == np.float64
        np.testing.assert_array_equal(checked, np.repeat(grey[:, :, None], 3, 2))


def test_input_is_never_changed_or_shared() -> None:
    given = PHOTO.copy()
    for result in (
        check_picture(given),
        crop(given, (0, 0, 9, 14)),
        resize(given, (9, 14)),
        enlarge(given, (9, 14)),
        grid([given]),
    ):
        result[...] = 0
    np.testing.assert_array_equal(given, PHOTO)


def test_float_noise_is_clipped_and_nothing_more() -> None:
    assert check_picture(np.array([[-1e-6, 1 + 1e-6]])).min() == 0
    assert check_picture(np.array([[-1e-6, 1 + 1e-6]])).max() == 1
    with pytest.raises(ValueError, match=r"from -0\.01 to 0\.5"):
        check_picture(np.array([[-0.01, 0.5]]))


@pytest.mark.parametrize(
    ("array", "kind", "said"),
    [
        (np.zeros((2, 2), np.uint8), TypeError, "divide 8-bit values by 255"),
        (np.zeros((2, 2), bool), TypeError, "not bool"),
        (np.zeros((3, 8, 8)), ValueError, r"not \(3, 8, 8\): move the channels to the end"),
        (np.zeros((8, 8, 4)), ValueError, r"not \(8, 8, 4\)$"),
        (np.zeros((1, 8, 8, 3)), ValueError, r"not \(1, 8, 8, 3\)"),
        (np.zeros((0, 8, 3)), ValueError, "at least one pixel"),
        (np.full((2, 2), np.nan), ValueError, "12 of this one's are not|4 of this one's are not"),
        (np.full((2, 2), np.inf), ValueError, "finite"),
        (np.full((2, 2), 255.0), ValueError, r"from 255 to 255: scale them first"),
    ],
)
def test_what_is_no_picture_is_refused(array: np.ndarray, kind: type[Exception], said: str) -> None:
    for use in (check_picture, to_image, encode, lambda one: grid([one]), lambda one: crop(one, (0, 0, 1, 1))):
        with pytest.raises(kind, match=said):
            use(array)


# Sizes and places


def test_crop_is_clipped_slicing() -> None:
    np.testing.assert_array_equal(crop(PHOTO, (2, 3, 5, 7)), PHOTO[2:5, 3:7])
    np.testing.assert_array_equal(crop(PHOTO, (-4, -9, 99, 99)), PHOTO)
    np.testing.assert_array_equal(crop(PHOTO, (1.5, 0.2, 2.5, 1.0)), PHOTO[1:3, 0:1])


@given(st.tuples(*[st.integers(-20, 30)] * 4))
def test_crop_gives_the_pixels_of_the_box_or_refuses(box: tuple[int, int, int, int]) -> None:
    inside = [(y, x) for y in range(9) for x in range(14) if box[0] <= y < box[2] and box[1] <= x < box[3]]
    if not inside:
        with pytest.raises(ValueError, match="holds no pixel of a picture of 9 x 14"):
            crop(PHOTO, box)
        return
    np.testing.assert_array_equal(crop(PHOTO, box).reshape(-1, 3), [PHOTO[place] for place in inside])


@pytest.mark.parametrize("box", [(0, 0, 1), (0, 0, 1, np.nan), (0, 0, np.inf, 2)])
def test_a_box_is_four_finite_numbers(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="four finite numbers"):
        crop(PHOTO, box)


def test_enlarge_repeats_pixels() -> None:
    np.testing.assert_array_equal(enlarge(PHOTO, (27, 42)), PHOTO.repeat(3, 0).repeat(3, 1))
    assert enlarge(PHOTO, 28).shape == (18, 28, 3)
    assert {tuple(pixel) for pixel in enlarge(PHOTO, (10, 31)).reshape(-1, 3)} == {
        tuple(pixel) for pixel in PHOTO.reshape(-1, 3)
    }
    with pytest.raises(ValueError, match="is smaller than the picture"):
        enlarge(PHOTO, 7)


def test_resize_keeps_constants_corners_and_means() -> None:
    np.testing.assert_allclose(resize(np.full((7, 9), 0.3), (40, 3)), 0.3, atol=1e-6)
    steps = np.zeros((64, 64))
    steps[:, 32:] = 1
    small = resize(steps, 8)
    assert small.shape == (8, 8, 3)
    np.testing.assert_allclose(small[:, [0, 1, 6, 7]].mean((0, 2)), [0, 0, 1, 1], atol=0.02)
    checks = np.indices((64, 64)).sum(0) % 2 * 1.0
    np.testing.assert_allclose(resize(checks, 8)[1:-1, 1:-1], 0.5, atol=0.02)  # without antialiasing: 0 or 1


@pytest.mark.parametrize(("size", "shape"), [(28, (18, 28)), (7, (4, 7)), ((3, 20), (3, 20)), (1, (1, 1))])
def test_a_single_size_is_the_longer_side(size: Any, shape: tuple[int, int]) -> None:
    assert resize(PHOTO, size).shape == (*shape, 3)
    assert resize(PHOTO.transpose(1, 0, 2), size if isinstance(size, int) else size[::-1]).shape == (*shape[::-1], 3)


@pytest.mark.parametrize("size", [0, -3, (0, 4)])
def test_sizes_below_one_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        resize(PHOTO, size)


@given(st.integers(1, 12), st.none() | st.integers(1, 5), st.integers(0, 3))
def test_grid_and_sheet_hold_each_picture_at_its_place(count: int, columns: int | None, gap: int) -> None:
    tiles = [np.full((2, 3), index / count) for index in range(count)]
    whole, boxes = sheet(tiles, columns=columns)
    for tile, (y0, x0, y1, x1) in zip(tiles, boxes, strict=True):
        np.testing.assert_array_equal(whole[y0:y1, x0:x1, 0], tile)
    spaced = grid(tiles, columns=columns, gap=gap)
    across = columns or int(np.ceil(np.sqrt(count)))
    used = min(across, count)
    rows = -(-count // across)
    assert spaced.shape == (rows * (2 + gap) - gap, used * (3 + gap) - gap, 3)
    for index, tile in enumerate(tiles):
        y, x = index // across * (2 + gap), index % across * (3 + gap)
        np.testing.assert_array_equal(spaced[y : y + 2, x : x + 3, 2], tile)
    assert np.sum(spaced != 1) <= np.sum(np.array(tiles) != 1) * 3


def test_grid_centres_smaller_pictures_on_white() -> None:
    made = grid([np.zeros((2, 2)), np.zeros((4, 4))], gap=0)
    np.testing.assert_array_equal(made[:, :4, 0], np.pad(np.zeros((2, 2)), 1, constant_values=1))


def test_empty_and_mixed_collections_are_refused() -> None:
    for make in (grid, sheet):
        with pytest.raises(ValueError, match="no pictures"):
            make([])
        with pytest.raises(ValueError, match="at least 1 column"):
            make([PHOTO], columns=0)
    with pytest.raises(ValueError, match="have one size, not 2"):
        sheet([np.zeros((2, 2)), np.zeros((2, 3))])


# Colours of signed maps


def test_signed_is_white_at_zero_orange_above_blue_below() -> None:
    colours = signed(np.array([[0.0, 3.0, -3.0, 1.5, -0.0]]))[0]
    np.testing.assert_array_equal(colours[[0, 4]], 1.0)
    np.testing.assert_allclose(colours[1:3], [pictures.POSITIVE, pictures.NEGATIVE], atol=1e-12)
    np.testing.assert_allclose(colours[3], (1 + pictures.POSITIVE) / 2)
    np.testing.assert_array_equal(signed(np.zeros((2, 3))), np.ones((2, 3, 3)))


def test_both_signs_share_one_scale_and_beyond_it_is_clipped() -> None:
    np.testing.assert_allclose(1 - signed(np.array([[1.0, -4.0]]))[0, 0], (1 - pictures.POSITIVE) / 4)
    np.testing.assert_array_equal(signed(np.array([[8.0]]), scale=2), pictures.POSITIVE[None, None])
    np.testing.assert_array_equal(signed(np.array([[8.0]]), scale=0), 1.0)


def test_the_colours_stay_apart_for_dichromats() -> None:
    """Viénot, Brettel and Mollon (1999): what is left without the long- or the middle-wave cones, in linear RGB."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    ends = np.stack([pictures.POSITIVE, pictures.NEGATIVE, np.ones(3)]) ** 2.2
    for lack in (protan, deutan):
        seen = np.clip(ends @ (np.linalg.inv(to_lms) @ lack @ to_lms).T, 0, 1) ** (1 / 2.2)
        assert min(np.linalg.norm(seen[i] - seen[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.4


def test_overlay_leaves_the_picture_at_zero_and_colours_the_peak() -> None:
    heat = np.zeros((9, 14))
    heat[4, 5], heat[0, 0] = 2, -1
    made = overlay(PHOTO, heat, opacity=1)
    np.testing.assert_allclose(made[4, 5], pictures.POSITIVE)
    np.testing.assert_allclose(made[0, 0], (PHOTO[0, 0] + pictures.NEGATIVE) / 2)
    rest = heat == 0
    np.testing.assert_array_equal(made[rest], PHOTO[rest])


def test_a_coarse_heat_lands_on_its_place() -> None:
    heat = np.zeros((3, 3))
    heat[0, 2] = 1
    made = overlay(np.zeros((30, 30)), heat)[:, :, 0]
    assert np.unravel_index(made.argmax(), made.shape)[0] < 10 <= 19 < np.unravel_index(made.argmax(), made.shape)[1]
    np.testing.assert_array_equal(made[15:, :15], 0)


@pytest.mark.parametrize("heat", [np.zeros(3), np.zeros((2, 2, 3)), np.zeros((0, 2)), [[np.nan]], [[np.inf]]])
def test_what_is_no_heat_is_refused(heat: Any) -> None:
    for use in (signed, lambda one: overlay(PHOTO, one)):
        with pytest.raises(ValueError, match="a heat map"):
            use(heat)


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
def test_scales_that_are_none_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="the scale"):
        signed(np.ones((2, 2)), scale=scale)
    with pytest.raises(ValueError, match="opacity"):
        overlay(PHOTO, np.ones((2, 2)), opacity=2)


# Files


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_deterministic_and_close(form: str, tmp_path: Path) -> None:
    smooth = resize(GENERATOR.random((4, 4, 3)), (40, 60))
    blob = encode(smooth, form)
    assert blob == encode(smooth, form)
    assert np.abs(decode(blob).astype(float) / 255 - smooth).mean() < (0.002 if form == "png" else 0.02)
    path = write_picture(smooth, tmp_path / "a" / f"b.{form}")
    assert path.read_bytes() == blob
    head, _, body = data_uri(smooth, form=form).partition(",")
    assert head == f"data:image/{form};base64" and base64.b64decode(body) == blob


def test_png_is_exact_and_a_sized_uri_is_that_size() -> None:
    np.testing.assert_array_equal(decode(encode(PHOTO, "png")), to_bytes(PHOTO))
    blob = base64.b64decode(data_uri(PHOTO, form="png", size=28).partition(",")[2])
    assert decode(blob).shape == (18, 28, 3)


def test_unknown_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'gif' is no form of picture: choose webp, png, jpeg"):
        encode(PHOTO, "gif")
    with pytest.raises(ValueError, match=r"'a\.txt' names no form of picture"):
        write_picture(PHOTO, tmp_path / "a.txt")
    assert write_picture(PHOTO, tmp_path / "a.JPG").read_bytes() == encode(PHOTO, "jpeg")


# What Pillow reads

SQUARE = Image.fromarray(to_bytes(PHOTO))


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"]
)
def test_every_mode_becomes_a_picture(mode: str) -> None:
    picture = from_image(Image.new(mode, (4, 3)))
    assert picture.shape == (3, 4, 3) and picture.dtype == np.float32


def test_known_conversions(tmp_path: Path) -> None:
    sixteen = np.array([[0, 257, 32896, 65535]], np.uint16)
    np.testing.assert_allclose(
        read_picture(save(Image.fromarray(sixteen), tmp_path / "16.png"))[0, :, 0], sixteen[0] / 65535, atol=1e-7
    )
    ink = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    np.testing.assert_allclose(read_picture(save(ink, tmp_path / "cmyk.jpg"))[0, 0], [1, 0, 0], atol=0.02)
    palette = SQUARE.quantize(256)
    np.testing.assert_array_equal(read_picture(save(palette, tmp_path / "p.png")), from_image(palette.convert("RGB")))
    np.testing.assert_array_equal(from_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))), 1.0)
    np.testing.assert_allclose(from_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))[0, 0], 127 / 255)


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_picture(save(SQUARE, tmp_path / "t.png", exif=exif))
    np.testing.assert_array_equal(turned, from_image(SQUARE.transpose(Image.Transpose.ROTATE_270)))


def damaged_files(folder: Path) -> dict[str, Path]:
    png, jpeg = encode(np.tile(PHOTO, (20, 20, 1)), "png"), encode(PHOTO, "jpeg")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    contents = {
        "empty.png": b"", "text.jpg": b"hello", "short.png": png[: len(png) // 2], "short.jpg": jpeg[:300],
        "flipped.png": bytes(flipped), "header.png": png[:20],
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_files_that_are_no_pictures_are_refused_by_name(tmp_path: Path) -> None:
    for name, path in damaged_files(tmp_path).items():
        with pytest.raises(ValueError, match="is no picture") as caught:
            read_picture(path)
        assert name in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.png")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("1", (400, 300)), tmp_path / "bomb.png")
    for limit in (100_000, 30_000):  # Pillow warns above its limit and raises above twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="120000 pixels"):
            read_picture(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(path).shape == (300, 400, 3)
