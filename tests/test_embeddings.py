"""Embeddings: each crop is what the unit saw, embedded once; duplicates: the same picture is shown once."""

from __future__ import annotations

import io
import sys
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import IMAGE_SIZE, assert_untouched, random_images, tiny_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from features.examples import (
    Embedder,
    Examples,
    clip,
    collapse_duplicates,
    embed,
    find_examples,
    fit_image,
    own_layers,
    perceptual_hash,
    read_embeddings,
    timm_embedder,
    write_embeddings,
)
from features.examples.duplicates import shown_once
from features.examples.embedders import digest_of, late_layer
from features.examples.nouns import PREFIXES, RANKED
from features.models import Model, probe
from features.pictures import decode_image, to_image
from features.records import read_record, write_record
from features.sketches import Sketches

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-test.zip"


def found(model: Model, dataset: Any, layers: Any, count: int = 4) -> Examples:
    return find_examples(model, dataset, layers, count=count, batch=7, progress=False)


def run(model: Model, examples: Examples, dataset: Any, *args: Any, **options: Any) -> Any:
    return embed(model, examples, dataset, *args, progress=False, **options)


@pytest.fixture(scope="module")
def tiny_case() -> tuple[Model, Tensor, Examples]:
    model, images = tiny_model("pooled"), random_images(30, seed=4)
    return model, images, found(model, images, [layer.name for layer in model.layers if len(layer.shape) == 3])


def slow_crop(image: Tensor, box: np.ndarray, margin: float, size: tuple[int, int]) -> Tensor:
    """Cut one widened square out of one image, in plain Python."""
    height, width = image.shape[1:]
    share = min(1.0, max((box[2] - box[0]) / height, (box[3] - box[1]) / width) * (1 + 2 * margin))
    edges = []
    for low, high, whole in ((box[0], box[2], height), (box[1], box[3], width)):
        side = next(n for n in range(1, whole + 1) if n >= share * whole - 1e-9)
        start = int((low + high - side) // 2)
        start = max(0, min(start, whole - side))
        edges.append((start, start + side))
    piece = image[None, :, edges[0][0] : edges[0][1], edges[1][0] : edges[1][1]]
    return F.interpolate(piece, size=size, mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)


# Crops


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.7])
def test_each_example_is_embedded_as_a_slow_loop_does(tiny_case: tuple[Model, Tensor, Examples], margin: float) -> None:
    model, images, examples = tiny_case
    name = late_layer(model).name
    made = run(model, examples, images, margin=margin)
    assert (
        made.layers == examples.layers and made.embedder == f"pooled: {name}" and made.embedder_digest == model.digest
    )
    for unit in examples:
        kept = examples[unit]
        assert made[unit].shape[0] == len(kept.image)
        for place, (index, box) in enumerate(zip(kept.image.tolist(), kept.box, strict=True)):
            crop = slow_crop(images[index], box, margin, (IMAGE_SIZE, IMAGE_SIZE))
            with probe(model, name) as activations, torch.no_grad():
                model(crop[None])
                wanted = activations[name].flatten(2).mean(2)[0]
            np.testing.assert_allclose(made[unit][place], wanted, rtol=1e-4, atol=1e-5)


def test_the_whole_image_is_seen_where_the_field_covers_it(sketches: Model) -> None:
    pictures = Sketches(5)
    seen: list[Tensor] = []

    def look(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return images.flatten(1)[:, :7]

    examples = found(sketches, pictures, ["mixed4c"], count=3)
    made = run(sketches, examples, pictures, embedder=look)
    assert made.embedder == "look" and made.embedder_digest == ""
    everything = torch.cat(seen)
    assert torch.equal(everything, torch.stack([pictures[index][0] for index in range(5)]))
    assert made.vectors.shape == (5, 7)
    layer = examples.layer("mixed4c")
    filled = layer.image >= 0
    np.testing.assert_array_equal(made.rows["mixed4c"], layer.image)
    expected = np.where(filled[..., None], everything.flatten(1)[:, :7].numpy()[layer.image], 0)
    np.testing.assert_array_equal(made.arrays["mixed4c"], expected)


def test_each_image_is_read_once_and_each_crop_embedded_once(tiny_case: tuple[Model, Tensor, Examples]) -> None:
    model, images, examples = tiny_case
    read: list[int] = []
    calls: list[int] = []

    class Counted:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Tensor:
            read.append(index)
            return images[index]

    def counting(crops: Tensor) -> Tensor:
        calls.append(len(crops))
        return crops.flatten(1)

    made = run(model, examples, Counted(), embedder=counting)
    kept = {index for layer in examples.arrays.values() for index in layer.image[layer.image >= 0].tolist()}
    assert sorted(read) == sorted(kept)
    assert sum(calls) == len(made.vectors) == len(np.unique(made.vectors, axis=0))
    assert max(calls) <= 64
    np.testing.assert_array_equal(
        np.concatenate([made.arrays[name][examples.layer(name).image >= 0] for name in made.layers]),
        made.vectors[np.concatenate([rows[rows >= 0] for rows in made.rows.values()])],
    )


def test_units_and_count_choose_the_rows(tiny_case: tuple[Model, Tensor, Examples]) -> None:
    model, images, examples = tiny_case
    name = examples.layers[0]
    whole = run(model, examples, images)
    for units in (f"{name}:1", [f"{name}:1", f"{name}:1"]):
        some = run(model, examples, images, units, count=2)
        assert some.layers == (name,)
        asked = np.zeros_like(some.rows[name], bool)
        asked[1, :2] = True
        np.testing.assert_array_equal(some.rows[name] >= 0, asked & (examples.layer(name).image >= 0))
        np.testing.assert_allclose(some[f"{name}:1"], whole[f"{name}:1"][:2], rtol=1e-5, atol=1e-6)
        assert not some.arrays[name][~asked].any()


def test_the_model_is_left_as_it_was(tiny: Model) -> None:
    images = random_images(9)
    examples = found(tiny, images, tiny.default_layers[-2:])
    with assert_untouched(tiny.net):
        made = run(tiny, examples, images)
    assert all(made.arrays[name].shape[:2] == (tiny.layer(name).channels, 4) for name in examples.layers)

    def broken(crops: Tensor) -> Tensor:
        raise ZeroDivisionError

    with assert_untouched(tiny.net), pytest.raises(ZeroDivisionError):
        run(tiny, examples, images, embedder=broken)


# Embedders


def test_several_layers_count_alike(sketches: Model) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one, other, both = (own_layers(sketches, names)(images) for names in ("mixed3a", "mixed4a", ["mixed3a", "mixed4a"]))
    assert one.shape == (3, 64) and both.shape == (3, 160)
    torch.testing.assert_close(both, torch.cat([one / one.norm(dim=1)[:, None], other / other.norm(dim=1)[:, None]], 1))
    assert own_layers(sketches)(torch.rand(2, 3, 30, 50)).shape == (2, 96)
    with pytest.raises(ValueError, match="no layer"):
        own_layers(sketches, [])
    with pytest.raises(ValueError, match="mixed4a"):
        own_layers(sketches, "mixed4z")


def test_an_embedder_gets_crops_of_its_size(tiny_case: tuple[Model, Tensor, Examples]) -> None:
    model, images, examples = tiny_case
    shapes = set()

    def look(crops: Tensor) -> Tensor:
        shapes.add(tuple(crops.shape[1:]))
        assert crops.min() >= 0 and crops.max() <= 1
        return crops.mean((2, 3))

    made = run(model, examples, images, embedder=Embedder("my own", "abc", (20, 28), look))
    assert shapes == {(3, 20, 28)} and (made.embedder, made.embedder_digest) == ("my own", "abc")


@pytest.fixture
def images_40() -> Tensor:
    return torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def test_clip_embeds_and_uses_no_global_chance(images_40: Tensor) -> None:
    pytest.importorskip("open_clip", reason="the extra clip is not installed")
    state = torch.get_rng_state()
    seen = clip("ViT-S-32-alt", None)
    assert torch.equal(torch.get_rng_state(), state)
    assert seen.size == (224, 224) and seen.name == "open_clip ViT-S-32-alt random" and len(seen.digest) == 64
    assert seen(images_40).shape == (2, 256)
    torch.testing.assert_close(seen(images_40).norm(dim=1), torch.ones(2))
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-Z'"):
        clip("ViT-Z")
    with pytest.raises(ValueError, match="'nothing' is no file, and no weights of ViT-B-32: it has openai"):
        clip("ViT-B-32", "nothing")


def test_timm_embeds_as_its_network_does_and_reads_weights_from_a_file(images_40: Tensor, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    net = timm.create_model("test_resnet", num_classes=0).eval()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    seen = timm_embedder("test_resnet", pretrained=str(tmp_path / "weights.safetensors"))
    assert seen.digest == digest_of(net) != timm_embedder("test_resnet", pretrained=False).digest
    mean, std = (torch.tensor(net.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    resized = F.interpolate(images_40, size=seen.size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(seen(images_40), net((resized - mean) / std))
    assert torch.equal(seen(images_40[:, :1]), seen(images_40[:, :1].expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="the images have 2 channels"):
        seen(images_40[:, :2])
    with pytest.raises(ValueError, match="timm has no model 'resnet0'"):
        timm_embedder("resnet0")
    with pytest.raises(ValueError, match=r"give a \.safetensors"):
        timm_embedder("test_resnet", pretrained="weights.pt")
    with pytest.raises(OSError, match=r"the weights of test_resnet of timm cannot be had \(FileNotFoundError"):
        timm_embedder("test_resnet", pretrained=str(tmp_path / "none.safetensors"))


def test_a_hub_that_cannot_be_reached_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")

    def unreachable(*args: Any, **options: Any) -> Any:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        OSError, match=r"resnet18 of timm cannot be had \(ConnectionError: no route.*where there is a network"
    ):
        timm_embedder("resnet18")
    with pytest.raises(ConnectionError):
        timm_embedder("resnet18", pretrained=False)


def test_embedders_say_which_extra_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"vision-circuits\[clip\]"):
        clip()
    with pytest.raises(ImportError, match=r"vision-circuits\[timm\]"):
        timm_embedder()


# Refusals


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (lambda x: x.flatten(1)[:, :1] * 0 + 3, ValueError, r"the same vector for all \d+ crops"),
        (lambda x: x.mean((2, 3)) * torch.nan, ValueError, r"not finite for \d+ of \d+ crops"),
        (lambda x: x.mean((1, 2, 3)), ValueError, r"the embedder gives \(\d+,\) for \d+ images: it should give"),
        (lambda x: x, ValueError, r"the embedder gives \(\d+, 3, 12, 12\)"),
        (lambda x: x.mean((2, 3))[:-1], ValueError, r"the embedder gives \(\d+, 3\) for \d+ images"),
        (lambda x: x.mean((2, 3))[:, :0], ValueError, r"the embedder gives \(\d+, 0\)"),
        (lambda x: x[:, 0].flatten(1)[:, : 1 + len(x)], ValueError, "numbers an image, and gave"),
        (lambda x: [1.0], TypeError, "the embedder gives a list"),
        (lambda x: np.full((len(x), 2), "a"), TypeError, "it should give real numbers"),
    ],
)
def test_embedders_that_tell_nothing_are_refused(
    tiny_case: tuple[Model, Tensor, Examples], function: Any, kind: type, words: str
) -> None:
    model, images, examples = tiny_case
    with pytest.raises(kind, match=words):
        run(model, examples, images, embedder=function)


def test_arrays_and_whole_numbers_are_vectors_too(tiny_case: tuple[Model, Tensor, Examples]) -> None:
    model, images, examples = tiny_case
    made = run(model, examples, images, embedder=lambda x: (x.mean((2, 3)) * 100).int().numpy())
    assert made.vectors.dtype == np.float32 and made.embedder == "<lambda>"


def test_examples_and_data_that_do_not_belong_together_are_refused(tiny_case: tuple[Model, Tensor, Examples]) -> None:
    model, images, examples = tiny_case
    name = examples.layers[0]
    for args, options, words in (
        ((tiny_model("pooled", seed=1), examples, images), {}, "the examples are of other weights"),
        ((model, examples, images[:9]), {}, "this dataset has 9 images"),
        ((model, examples, images, []), {}, "no unit was given"),
        ((model, examples, images, ["nothing:1"]), {}, "no layer 'nothing'"),
        ((model, examples, images, [f"{name}:99"]), {}, "no channel 99"),
        ((model, examples, images), {"count": 0}, "count is 0"),
        ((model, examples, images), {"margin": -0.1}, "margin is -0.1"),
        ((model, examples, images), {"margin": float("nan")}, "margin is nan"),
    ):
        with pytest.raises(ValueError, match=words):
            run(*args, **options)
    lost: list[Any] = list(images)
    lost[int(examples.layer(name).image[1, 0])] = "gone"
    with pytest.raises(TypeError, match="is of type str"):
        run(model, examples, lost)

    class Failing(list[Tensor]):
        def __getitem__(self, index: Any) -> Any:
            raise OSError("disk")

    with pytest.raises(ValueError, match=r"image \d+, an example, can no longer be read \(OSError: disk\)"):
        run(model, examples, Failing(images))


def test_units_without_examples_are_refused_alone_and_empty_among_others() -> None:
    model = tiny_model("plain")
    model.net.get_submodule("conv1").bias.data[2] = -1e3  # type: ignore[union-attr, index]
    images = random_images(12)
    examples = found(model, images, "relu1")
    assert examples["relu1:2"].dead
    with pytest.raises(ValueError, match="none of these units has an example"):
        run(model, examples, images, ["relu1:2"])
    made = run(model, examples, images)
    assert made["relu1:2"].shape == (0, made.vectors.shape[1]) and not made.arrays["relu1"][2].any()
    with pytest.raises(ValueError, match="no embeddings of layer 'relu2'"):
        made["relu2:0"]
    with pytest.raises(ValueError, match=r"no channel 99 in layer 'relu1': it has"):
        made["relu1:99"]


# On disk


def test_round_trip_through_a_folder(tiny_case: tuple[Model, Tensor, Examples], tmp_path: Path) -> None:
    model, images, examples = tiny_case
    made = run(model, examples, images, margin=0.25)
    read = read_embeddings(write_embeddings(made, tmp_path / "e"))
    assert repr(read) == repr(made) and len(read.arrays) == len(made.layers)
    for field in fields(made):
        if field.name not in ("vectors", "rows"):
            assert getattr(read, field.name) == getattr(made, field.name)
    for name in made.arrays:
        np.testing.assert_array_equal(read.arrays[name], made.arrays[name])
    arrays, described = read_record(tmp_path / "e", "embeddings")
    name = made.layers[0]
    for change in (
        {"vectors": arrays["vectors"][:3]},
        {f"{name}/rows": arrays["vectors"][:, 0]},
        {"vectors": arrays["vectors"][0]},
    ):
        write_record(tmp_path / "bad", "embeddings", arrays=arrays | change, fields=described)
        with pytest.raises(ValueError, match="are damaged"):
            read_embeddings(tmp_path / "bad")


# Duplicates


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_a_picture_that_was_touched_up_keeps_its_hash_and_others_do_not() -> None:
    pictures = [to_image(image.permute(1, 2, 0).numpy()) for image, _ in Sketches(60)]
    hashes = perceptual_hash(torch.stack([fit_image(each, (64, 64)) for each in pictures]))
    assert hashes.shape == (60, 99)
    apart = [(hashes[a] != hashes[b]).sum() for a in range(60) for b in range(a)]
    assert min(apart) > 12
    for touch in (
        lambda image: compressed(image, 60),
        lambda image: image.point(lambda level: int(level * 0.8)),
        lambda image: image.resize((48, 48), Image.Resampling.BILINEAR),
        lambda image: image.resize((100, 100), Image.Resampling.BICUBIC),
    ):
        again = perceptual_hash(torch.stack([fit_image(touch(each), (64, 64)) for each in pictures]))
        assert np.mean((again != hashes).sum(1) <= 12) >= 0.95
    assert not perceptual_hash(torch.full((2, 1, 50, 70), 0.4)).any()


def test_planted_duplicates_are_shown_once(sketches: Model) -> None:
    world = Sketches(12)
    originals = [world[index][0] for index in range(12)]
    darker = [image * 0.9 for image in originals[:6]]
    images = torch.stack([*originals, *originals[:3], *darker])
    source = np.array([*range(12), 0, 1, 2, *range(6)])
    examples = found(sketches, images, ["mixed3b", "mixed4c"], count=21)
    collapsed = collapse_duplicates(examples, images, progress=False)
    for name in examples.layers:
        before, after = examples.layer(name), collapsed.layer(name)
        ranked = {f"{prefix}{field}" for prefix in PREFIXES for field in RANKED} | {"vectors"}
        for field in {each.name for each in fields(before)} - ranked:
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
        for prefix in PREFIXES:
            for unit, images_of in enumerate(getattr(before, f"{prefix}image")):
                pictures = [source[image] if image >= 0 else -1 for image in images_of]
                kept = [rank for rank, each in enumerate(pictures) if each >= 0 and each not in pictures[:rank]]
                for field in (*RANKED, *([] if prefix else ["vectors"])):
                    old, new = (getattr(each, f"{prefix}{field}")[unit] for each in (before, after))
                    np.testing.assert_array_equal(new[: len(kept)], old[kept])
                    empty = {"value": np.nan, "image": -1, "label": -1}.get(field, 0)
                    np.testing.assert_array_equal(new[len(kept) :], np.full_like(new[len(kept) :], empty))
    assert (collapsed.count, collapsed.length, collapsed.dataset) == (examples.count, examples.length, examples.dataset)
    strict = collapse_duplicates(examples, images, distance=99, progress=False)
    assert all(len(strict[unit].image) == min(1, len(examples[unit].image)) for unit in examples)


def test_a_picture_like_one_that_went_stays() -> None:
    bits = np.arange(99)
    hashes = np.stack([bits < 0, bits < 8, bits < 16, bits < 50])  # neighbours are alike, the first and the third not
    ranks = np.array([[40, 41, 42, 43], [41, 42, 40, -1], [43, 43, 40, 42]])
    kept = shown_once(ranks, np.arange(40, 44), hashes, 12)
    assert kept.tolist() == [[True, False, True, True], [True, False, False, False], [True, False, True, True]]


def test_duplicates_that_cannot_be_told_are_refused(tiny_case: tuple[Model, Tensor, Examples]) -> None:
    _, images, examples = tiny_case
    for distance in (-1, 100, 1.5, True):
        with pytest.raises(ValueError, match=r"distance is .*: give how many of 99 bits"):
            collapse_duplicates(examples, images, distance=distance, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this dataset has 9 images"):
        collapse_duplicates(examples, images[:9], progress=False)


@pytest.mark.skipif(not PHOTOGRAPHS.is_file(), reason=f"no photographs at {PHOTOGRAPHS}")
def test_photographs_that_are_there_twice_are_found_among_a_thousand() -> None:
    with zipfile.ZipFile(PHOTOGRAPHS) as archive:
        names = [name for name in sorted(archive.namelist()) if "/dog/" in name and name.endswith(".jpg")]
        pictures = [fit_image(decode_image(archive.read(name), name), (32, 32)) for name in names]
    hashes = perceptual_hash(torch.stack(pictures))
    near = np.argwhere(np.triu((hashes[:, None] != hashes[None]).sum(2) <= 12, 1))
    numbers = {(int(names[one][-8:-4]), int(names[other][-8:-4])) for one, other in near.tolist()}
    # Looked at: the same photograph twice, enlarged or cut a little differently.
    assert numbers == {(269, 595), (296, 415)}
