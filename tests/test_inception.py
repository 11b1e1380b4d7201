"""The small Inception network, and the three trained ones in the package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import features
from features.activations import listen
from features.models.inception import Inception, Widths, read_inception, write_inception
from features.photographs import LABELS as PHOTOGRAPH_LABELS
from features.sketches import HELD_OUT_SEED, LABELS, Sketches
from features.sketches.train import LAYERS, Pictures, measure

HOUSE = Path(features.__file__).parent
SHIPPED = {
    "sketches/seed0": (4_000_000, LABELS),
    "sketches/seed1": (4_000_000, LABELS),
    "photographs/seed0": (6_000_000, PHOTOGRAPH_LABELS),
}
TINY = Widths(3, 4, 4, 6, *[(2, 2, 3, 2, 2, 1)] * 5)


def build(widths: Widths, classes: int = 5, seed: int = 0) -> Inception:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Inception(widths, classes).eval()


@pytest.mark.parametrize("size", [(64, 64), (63, 65), (33, 97), (8, 8)])
def test_every_layer_has_its_width_and_its_place_for_any_size(size: tuple[int, int]) -> None:
    net, names = build(TINY), list(LAYERS)
    halved = [-(-side // 2) for side in size]
    quartered, eighth = [-(-side // 2) for side in halved], [-(-side // 4) for side in halved]
    with listen(net, names, stop=False) as heard:
        logits = net(torch.zeros(2, 3, *size))
        shapes = {name: tuple(values.shape) for name, values in heard.items()}
    assert logits.shape == (2, 5)
    for name in names:
        sides = halved if name.startswith("conv") else quartered if name.startswith("mixed3") else eighth
        assert shapes[name] == (2, TINY.channels(name), *sides), name


def test_named_layers_are_after_the_relu_and_mixed_layers_concatenate_their_branches() -> None:
    net = build(TINY)
    branches = ["branch1x1", "branch3x3", "branch5x5", "pool_reduce"]
    names = [*LAYERS, *[f"mixed4b.{branch}" for branch in branches]]
    with listen(net, names, stop=False) as heard:
        net(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        assert all((heard[name] >= 0).all() and (heard[name] == 0).any() for name in LAYERS)
        assert torch.equal(heard["mixed4b"], torch.cat([heard[f"mixed4b.{branch}"] for branch in branches], 1))


def test_a_shift_by_the_whole_stride_shifts_every_map() -> None:
    """Away from the border a fully convolutional network of stride 8 moves with its picture."""
    net = build(TINY)
    picture = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with listen(net, LAYERS, stop=False) as heard:
        net(picture)
        still = dict(heard.items())
        net(picture.roll(8, dims=3))
        moved = dict(heard.items())
    for name, stride in (("conv2d2", 2), ("mixed3b", 4), ("mixed4a", 8)):
        by, edge = 8 // stride, 48 // stride
        inner = slice(edge, -edge)
        torch.testing.assert_close(moved[name].roll(-by, 3)[..., inner, inner], still[name][..., inner, inner])


def test_importing_and_reading_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    read_inception(HOUSE / "sketches" / "seed0.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_widths_and_weights_come_back_from_the_file(tmp_path: Path) -> None:
    widths = replace(TINY, mixed4a=(1, 2, 3, 4, 5, 6), conv2d1=7)
    net = build(widths)
    path = write_inception(net, tmp_path / "net.safetensors", {"labels": list("abcde"), "seed": 3})
    again, described = read_inception(path)
    assert again.widths == widths and described["seed"] == 3 and described["labels"] == list("abcde")
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(picture), net(picture)) and not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mixed3a": (1, 2, 3)}, r"mixed3a is \(1, 2, 3\): give six whole numbers above 0"),
        ({"conv2d0": 0}, "conv2d0 is 0: give a whole number above 0"),
        ({"conv2d2": 2.5}, "conv2d2 is 2.5"),
        ({"kernel": 4}, "kernel is 4: give an odd side"),
    ],
)
def test_impossible_widths_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Widths(**change)


def test_unknown_layers_missing_labels_and_large_files_are_refused(tmp_path: Path) -> None:
    net, path = build(TINY), tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match="no layer 'mixed5a' in Widths: it has conv2d0, "):
        TINY.channels("mixed5a")
    with pytest.raises(ValueError, match="4 labels for a network of 5 classes"):
        write_inception(net, path, {"labels": list("abcd")})
    with pytest.raises(ValueError, match="may take 100: choose smaller Widths"):
        write_inception(net, path, {"labels": list("abcde")}, bound=100)
    assert not path.exists()


def test_files_that_hold_no_such_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_inception(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match="no readable safetensors file"):
        read_inception(tmp_path / "broken.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not say that it holds an 'inception' network"):
        read_inception(tmp_path / "other.safetensors")
    save_file(
        {"a": torch.zeros(1)}, tmp_path / "torn.safetensors", {"model": json.dumps({"architecture": "inception"})}
    )
    with pytest.raises(ValueError, match="lacks widths, labels"):
        read_inception(tmp_path / "torn.safetensors")
    said = {"model": json.dumps({"architecture": "inception", "widths": TINY.record(), "labels": ["a"]})}
    save_file({"a": torch.zeros(1)}, tmp_path / "empty.safetensors", said)
    with pytest.raises(ValueError, match="do not fit the network that it describes"):
        read_inception(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_says_what_it_is(name: str) -> None:
    path, (bound, labels) = HOUSE / f"{name}.safetensors", SHIPPED[name]
    net, described = read_inception(path)
    assert path.stat().st_size <= bound
    assert tuple(described["labels"]) == labels and described["image_size"] == [64, 64]
    assert described["dead_share"] < 0.05 and described["minutes"] > 0
    assert described["accuracy"] >= (0.86 if name.startswith("photographs") else 0.97)
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())
    assert f"seed{described['seed']}" == path.stem


@pytest.mark.parametrize("seed", [0, 1])
def test_a_shipped_network_knows_sketches_that_it_has_never_seen(seed: int) -> None:
    net, described = read_inception(HOUSE / "sketches" / f"seed{seed}.safetensors")
    pictures = Pictures.of(Sketches(400, seed=HELD_OUT_SEED + 7), progress=False)
    report = measure(net, pictures, mean=described["mean"], std=described["std"])
    assert report.accuracy >= 0.94
    assert report.dead_share < 0.05
    assert report.units == sum(net.widths.channels(layer) for layer in LAYERS)


def test_the_two_seeds_are_two_networks() -> None:
    first, second = (read_inception(HOUSE / "sketches" / f"seed{seed}.safetensors")[0] for seed in (0, 1))
    assert first.widths == second.widths
    assert not torch.allclose(first.conv2d0.conv.weight, second.conv2d0.conv.weight, atol=0.05)
