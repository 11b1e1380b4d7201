"""Training the embedded networks again, and the photographs that one of them is trained on."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import features
from features.models.inception import Inception, Widths, read_inception
from features.photographs import LABELS, Photographs
from features.photographs.train import train_photographs
from features.sketches import Sketches
from features.sketches.train import Pictures, Plan, build, cycle, fit, measure, run, train_sketches, vary

SHARED = Path(__file__).parents[2] / "shared" / "data" / "cifar10-test.zip"
TINY = Widths(3, 8, 8, 12, *[(4, 4, 6, 2, 4, 2)] * 5)
STILL = Plan(1, shift=0.0, zoom=0.0, turn=0.0, shade=0.0)
NORMAL = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def stripes(count: int = 96, size: int = 32) -> Pictures:
    """Two classes: horizontal and vertical stripes of random phase and contrast."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    waves = 0.5 + rng.uniform(0.2, 0.5, (count, 1)) * np.sin(np.arange(size) * 0.9 + rng.uniform(0, 6, (count, 1)))
    across = np.where(labels[:, None, None] == 0, waves[:, :, None], waves[:, None, :]) * np.ones((count, size, size))
    images = (across[:, None].repeat(3, axis=1) * 255).astype(np.uint8)
    return Pictures(torch.from_numpy(images), torch.from_numpy(labels))


def train_tiny(plan: Plan, workers: int = 1) -> tuple[Inception, list[float]]:
    net = build(TINY, 2, seed=plan.seed, device="cpu")
    return net, list(fit(net, stripes(), plan, workers=workers, **NORMAL))


@pytest.mark.parametrize("workers", [1, 2])
def test_training_lowers_the_loss_and_is_repeated_by_its_seed(workers: int) -> None:
    plan = Plan(8, seed=5, batch=16, rate=0.05, sizes=((0.5, 24), (1.0, 32)), half=False)
    before, state = torch.random.get_rng_state(), torch.get_num_threads()
    net, losses = train_tiny(plan, workers)
    again, same = train_tiny(plan, workers)
    other, _ = train_tiny(replace(plan, seed=6), workers)
    assert losses[-1] < 0.6 * losses[0] and not net.training
    assert measure(net, stripes(), size=32, **NORMAL).accuracy > 0.9
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert not torch.equal(net.logits.weight, other.logits.weight)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == state


def test_the_workers_gradient_is_the_gradient_of_the_whole_batch() -> None:
    """Without batch statistics, two workers with half a batch each take the same step as one with the whole."""
    plan = replace(STILL, epochs=1, batch=96, rate=0.1, sizes=((1.0, 32),), half=False)
    nets = []
    for workers in (1, 2):
        net = build(TINY, 2, seed=0, device="cpu").double().float()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
                module.training = False
        list(fit(net, stripes(), plan, workers=workers, **NORMAL))
        nets.append(net)
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_learning_rate_rises_and_falls_once() -> None:
    rates = np.array([cycle(progress) for progress in np.linspace(0, 1, 201)])
    assert (np.diff(rates[:41]) > 0).all() and (np.diff(rates[40:]) < 0).all()
    assert rates.max() == pytest.approx(1) and rates[-1] == pytest.approx(0)


def test_nothing_varied_is_plain_bilinear_enlargement() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(images, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(vary(images, 64, STILL, torch.Generator()), expected, atol=1e-5, rtol=0)


def test_flip_mirrors_half_of_the_pictures_and_nothing_else() -> None:
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    varied = vary(images, 16, replace(STILL, flip=True), torch.Generator().manual_seed(1))
    same = torch.isclose(varied, images, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(varied, images.flip(3), atol=1e-5).flatten(1).all(1)
    assert (same | mirrored).all() and 16 < int(mirrored.sum()) < 48


def test_shade_moves_a_grey_picture_no_further_than_it_says() -> None:
    images = torch.full((200, 3, 8, 8), 0.5)
    varied = vary(images, 8, replace(STILL, shade=0.2), torch.Generator().manual_seed(1))
    assert 0.15 < float((varied - 0.5).abs().max()) <= 0.2 + 1e-6


def test_measure_counts_right_answers_and_names_dead_units() -> None:
    net = build(TINY, 2, seed=0, device="cpu").eval()
    with torch.no_grad():
        net.conv2d1.norm.weight[3] = 0
        net.conv2d1.norm.bias[3] = -1
        net.logits.weight.zero_()
        net.logits.bias.copy_(torch.tensor([1.0, 0.0]))
    report = measure(net, stripes(), size=32, **NORMAL)
    assert report.accuracy == 0.5 and report.dead["conv2d1"] == [3]
    assert report.dead_share == pytest.approx(sum(map(len, report.dead.values())) / report.units)


def test_the_command_writes_a_network_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.safetensors"
    threads = torch.get_num_threads()
    arguments = f"--count 128 --held-out 33 --epochs 1 --workers 1 --float32 --device cpu --out {out}".split()
    assert run(train_sketches, arguments) == 0
    said = json.loads(capsys.readouterr().out)
    net, described = read_inception(out)
    assert {**described, **said} == described and tuple(said["labels"]) == Sketches.labels
    assert net.widths == Widths() and torch.get_num_threads() == threads
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--epochs 0", "--epochs is 0: give 1 or more"),
        ("--seed -1", "--seed is -1: give 0 or more"),
        ("--seed 1000", "--seed is 1000: give one below 1000"),
        ("--count 5", "--count is 5, --held-out 4000: give 128 and 1 or more"),
        ("--workers 0", "--workers is 0: give 1 or more"),
        ("--device abacus", "--device 'abacus' cannot be used here"),
        ("--out net.bin", "--out is net.bin: give a file name that ends in .safetensors"),
    ],
)
def test_impossible_sketch_trainings_are_refused(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(train_sketches, arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and sentence in said.err and said.err.count("\n") == 1


def write_folder(root: Path, classes: str, count: int = 2, size: tuple[int, int] = (32, 32)) -> Path:
    for number, name in enumerate(classes.split()):
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", size, (40 * number, 20 * k, 7)).save(root / name / f"{k}.png")
    return root


def test_impossible_photograph_trainings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write_folder(tmp_path / "one", "cat dog"), write_folder(tmp_path / "two", "cat fox")
    for arguments, sentence in [
        (["--data", str(one)], "--data and --held-out go together"),
        (["--data", str(one), "--held-out", str(two)], "give the same in both"),
        (["--data", str(tmp_path / "no"), "--held-out", str(one)], "no folder "),
        (["--data", str(one / "cat"), "--held-out", str(one)], "no pictures in the folders of "),
        (["--data", str(one), "--held-out", str(one)], "has 4 pictures to train on: give 128 or more"),
    ]:
        assert run(train_photographs, [*arguments, "--device", "cpu"]) == 2
        assert sentence in capsys.readouterr().err


def test_a_folder_of_class_folders_is_a_dataset(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "cat dog", size=(50, 40))
    (root / "dog" / "note.txt").write_text("no picture")
    photographs = Photographs(root, size=48)
    image, label = photographs[3]
    assert photographs.labels == ("cat", "dog") and len(photographs) == 4 and label == 1 == photographs.label(3)
    assert image.shape == (3, 48, 48) and image.dtype == torch.float32
    torch.testing.assert_close(image[:, 5, 7], torch.tensor([40, 20, 7]) / 255)
    images, labels = photographs.arrays(progress=False)
    assert images.shape == (4, 48, 48, 3) and labels.tolist() == [0, 0, 1, 1]
    assert images[3, 5, 7].tolist() == [40, 20, 7] and photographs.side == 40


def test_a_wide_photograph_is_cropped_to_its_central_square(tmp_path: Path) -> None:
    (tmp_path / "band").mkdir()
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(tmp_path / "band" / "0.png")
    assert (Photographs(tmp_path, size=16)[0][0] * 255).round().eq(200).all()


def test_photographs_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 at .*download=True"):
        Photographs()
    with pytest.raises(FileNotFoundError, match="no folder "):
        Photographs(tmp_path / "none")
    with pytest.raises(ValueError, match="no training part"):
        Photographs(write_folder(tmp_path / "some", "cat"), train=True)
    with pytest.raises(ValueError, match="size is 0"):
        Photographs(tmp_path / "some", size=0)
    with pytest.raises(IndexError, match="no photograph 2: there are 2"):
        Photographs(tmp_path / "some")[2]


@pytest.mark.skipif(not SHARED.is_file(), reason="needs real photographs: ../shared/data/cifar10-test.zip")
def test_the_shipped_network_knows_photographs_that_it_has_never_seen() -> None:
    net, described = read_inception(Path(features.__file__).parent / "photographs" / "seed0.safetensors")
    images, labels = [], []
    with zipfile.ZipFile(SHARED) as archive:
        names = sorted(
            name for name in archive.namelist() if Path(name).parent.name in LABELS and "." in Path(name).name
        )
        for name in names[::25]:
            images.append(np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")))
            labels.append(LABELS.index(Path(name).parent.name))
    pictures = Pictures(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels))
    report = measure(net, pictures, mean=described["mean"], std=described["std"])
    assert len(labels) == 400 and report.accuracy > 0.82
    assert report.dead_share < 0.05


def test_the_module_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "features.sketches.train", "--epochs", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr == "error: --epochs is 0: give 1 or more\n"
