"""Claims: what is true of a network made by hand is held, what is false fails, what cannot be known is said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from circuits.claims import KINDS, STORIES, Claim, Story, check_claims, read_claims, write_claims
from features.models import Model, load_model
from features.sketches import HELD_OUT_SEED, Sketches
from tests.conftest import assert_untouched

CHANNELS = 20


class Planted(nn.Module):
    """Twenty units that copy the picture at different strengths, two targets with known kernels, and a class each."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Conv2d(1, CHANNELS, 1)
        self.high = nn.Conv2d(CHANNELS, 2, 3, padding=1)
        with torch.no_grad():
            self.low.weight.fill_(1.0)
            self.low.bias.zero_()
            self.high.weight.copy_(planted_kernels())
            self.high.bias.fill_(8.0)  # so that high:0 fires in spite of unit 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.high(torch.relu(self.low(x)))).mean((2, 3))


def planted_kernels() -> Tensor:
    """Unit 0 excites high:0 above and inhibits it below, 4 the other way; 2 is 1's mirror image; 3 inhibits."""
    noise = 0.01 * torch.randn(2, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(0))
    noise[0, 0] = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-0.5, -0.5, -0.5]])
    noise[0, 1] = torch.tensor([[0.9, 0.0, -0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.3]])
    noise[0, 2] = noise[0, 1].flip(-1)
    noise[0, 3] = -0.8
    noise[0, 4] = noise[0, 0].flip(0)
    return noise


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(Planted().eval(), name="planted", image_size=8, mean=(0.0,), std=(1.0,), labels=("dim", "bright"))


class Pictures:
    """Pictures of growing brightness: dim below a half, bright above."""

    labels = ("dim", "bright")

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 8, 8), (index + 1) / 40), int(index >= 20)


def verdict(model: Model, kind: str, dataset: Any = None, **given: Any) -> str:
    story = Story("one claim", "planted", (Claim(kind, given),))
    return check_claims(model, story, dataset=dataset, progress=False).findings[0].verdict


TRUE: list[tuple[str, dict[str, Any]]] = [
    ("excites", {"source": "low:0", "target": "high:0", "where": "upper"}),
    ("excites", {"source": "low:0", "target": "high:0"}),
    ("inhibits", {"source": "low:0", "target": "high:0", "where": "lower"}),
    ("inhibits", {"source": "low:3", "target": "high:0"}),
    ("positive", {"source": "low:0", "target": "high:0"}),
    ("negative", {"source": "low:3", "target": "high:0"}),
    ("strongest", {"source": "low:3", "target": "high:0", "rank": 1}),
    ("stronger", {"source": "low:0", "target": "high:0", "than": "low:1"}),
    ("stronger", {"source": "low:1", "target": "high:0", "than": "low:0", "where": "lower"}),
    ("mirrored", {"sources": ["low:1", "low:2"], "target": "high:0"}),
    ("opposed", {"sources": [["low:0"], ["low:4"]], "targets": ["high:0"]}),
    ("wide", {"layer": "low", "channels": CHANNELS}),
    ("responds", {"unit": "low:0", "label": "bright", "share": 0.5}),
    ("fires", {"unit": "low:0", "between": [0.9, 1]}),
    ("lowers", {"units": ["low:0"], "target": "high:0"}),
    ("raises", {"units": ["low:3"], "target": "high:0"}),
]
FALSE: list[tuple[str, dict[str, Any]]] = [
    ("excites", {"source": "low:0", "target": "high:0", "where": "lower"}),
    ("excites", {"source": "low:3", "target": "high:0"}),
    ("inhibits", {"source": "low:0", "target": "high:0", "where": "upper"}),
    ("positive", {"source": "low:3", "target": "high:0"}),
    ("negative", {"source": "low:0", "target": "high:0"}),
    ("strongest", {"source": "low:1", "target": "high:0", "rank": 2}),
    ("stronger", {"source": "low:3", "target": "high:0", "than": "low:1"}),
    ("mirrored", {"sources": ["low:0", "low:2"], "target": "high:0"}),
    ("opposed", {"sources": [["low:0"], ["low:0"]], "targets": ["high:0"], "at_most": 1}),
    ("wide", {"layer": "low", "channels": CHANNELS + 1}),
    ("responds", {"unit": "low:0", "label": "dim", "share": 0.5}),
    ("fires", {"unit": "low:0", "between": [0, 0.5]}),
    ("raises", {"units": ["low:0"], "target": "high:0"}),
    ("lowers", {"units": ["low:3"], "target": "high:0"}),
]


def identified(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value.values()))


@pytest.mark.parametrize(("kind", "given"), TRUE, ids=identified)
def test_what_was_planted_is_held(model: Model, kind: str, given: dict[str, Any]) -> None:
    assert verdict(model, kind, Pictures(), **given) == "held"


@pytest.mark.parametrize(("kind", "given"), FALSE, ids=identified)
def test_what_is_false_of_it_fails(model: Model, kind: str, given: dict[str, Any]) -> None:
    assert verdict(model, kind, Pictures(), **given) == "failed"


class Branched(nn.Module):
    """Two branches of three and five channels side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.joined = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 5, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(torch.cat([self.one(x), self.two(x)], 1))


def test_units_come_out_of_the_branch_they_are_concatenated_from() -> None:
    model = load_model(Branched().eval(), name="branched", image_size=8, mean=(0.0,), std=(1.0,), labels=())
    inside = {"units": ["joined:3", "joined:7"], "branch": "two"}
    assert verdict(model, "out of", **inside) == "held"
    assert verdict(model, "out of", **{**inside, "units": ["joined:2", "joined:3"]}) == "failed"
    finding = check_claims(model, Story("", "", (Claim("out of", inside),)), progress=False).findings[0]
    assert finding.figures["p"] == pytest.approx(10 / 28)  # 5 of 8 units, drawn twice without putting back


def test_the_chance_of_a_wire_is_its_rank_among_the_layers_units(model: Model) -> None:
    claim = Claim("excites", {"source": "low:0", "target": "high:0"})
    figures = check_claims(model, Story("", "", (claim,)), progress=False).findings[0].figures
    sums = planted_kernels()[0].sum((1, 2))
    assert figures["weight"] == pytest.approx(float(sums[0]), abs=1e-5)
    assert figures["p"] == pytest.approx(float((sums >= sums[0]).double().mean()))


def test_the_least_of_all_inhibitors_does_not_excite() -> None:
    """Being first among the layer's units is not enough: the weights must add up to more than 0."""
    net = Planted()
    with torch.no_grad():
        net.high.weight.copy_(-torch.arange(1.0, CHANNELS + 1)[None, :, None, None].expand(2, -1, 3, 3))
    model = load_model(net.eval(), name="inhibiting", image_size=8, mean=(0.0,), std=(1.0,), labels=())
    assert verdict(model, "excites", source="low:0", target="high:0") == "failed"
    assert verdict(model, "inhibits", source=f"low:{CHANNELS - 1}", target="high:0") == "held"


@pytest.mark.parametrize("kind", ["excites", "inhibits", "strongest"])
def test_random_wires_rarely_hold(kind: str) -> None:
    """Among wires of random weights one in ten is among the strongest tenth."""
    torch.manual_seed(0)  # the test's own network: its layers draw from the global generator
    net = Planted()
    with torch.no_grad():
        net.high.weight.normal_()
    model = load_model(net.eval(), name="random", image_size=8, mean=(0.0,), std=(1.0,), labels=())
    wires = [{"source": f"low:{i}", "target": f"high:{o}"} for i in range(CHANNELS) for o in range(2)]
    extra = {"rank": 2} if kind == "strongest" else {}
    story = Story("", "", tuple(Claim(kind, {**wire, **extra}) for wire in wires))
    held = check_claims(model, story, progress=False).counts["held"]
    assert held == 4


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("positive", {"source": "low:99", "target": "high:0"}, "no channel 99"),
        ("positive", {"source": "lo:1", "target": "high:0"}, "no layer 'lo'"),
        ("positive", {"source": "high:0", "target": "low:0"}, "does not feed"),
        ("excites", {"source": "low:0", "target": "head:0", "where": "upper"}, "no layer"),
        ("responds", {"unit": "low:0", "label": "bright"}, "dataset"),
        ("lowers", {"units": ["low:0"], "target": "high:0"}, "dataset"),
        ("polysemantic", {"unit": "low:0"}, "dataset"),
        ("out of", {"units": ["high:0"], "branch": "nowhere"}, "no layer"),
        ("wide", {"layer": "nowhere", "channels": 3}, "no layer"),
    ],
)
def test_what_cannot_be_tested_says_why(model: Model, kind: str, given: dict[str, Any], reason: str) -> None:
    finding = check_claims(model, Story("", "", (Claim(kind, given),)), progress=False).findings[0]
    assert finding.verdict == "not testable"
    assert reason in finding.reason


@pytest.mark.parametrize("unit", ["nowhere:0", "low:99"])
@pytest.mark.parametrize(
    ("kind", "given"),
    [("polysemantic", {}), ("monosemantic", {}), ("responds", {"label": "bright"}), ("fires", {"between": [0, 1]})],
)
def test_a_story_of_another_network_is_not_testable_though_there_are_pictures(
    model: Model, kind: str, given: dict[str, Any], unit: str
) -> None:
    """Not even one of its layers exists: there is nothing to find examples of."""
    assert verdict(model, kind, Pictures(), unit=unit, **given) == "not testable"


def test_labels_that_the_dataset_lacks_are_not_testable(model: Model) -> None:
    assert verdict(model, "responds", Pictures(), unit="low:0", label="violet") == "not testable"


def test_removing_what_the_classes_rest_on_costs_accuracy_and_noise_does_not(model: Model) -> None:
    """The embedded network names fewer sketches right without a whole layer, and none fewer without one faint unit."""
    embedded = load_model("sketches")
    sketches = Sketches(64, seed=HELD_OUT_SEED)
    everything = [f"mixed4c:{c}" for c in range(96)]
    assert verdict(embedded, "costs", sketches, units=everything, points=50) == "held"
    assert verdict(embedded, "costs", sketches, units=everything[:1], points=50) == "failed"
    assert verdict(model, "costs", Sketches(8), units=["low:0"], points=0) == "not testable"


def test_checking_leaves_the_network_as_it_was(model: Model) -> None:
    story = Story("", "", tuple(Claim(kind, given) for kind, given in TRUE))
    with assert_untouched(model.net):
        check_claims(model, story, dataset=Pictures(), progress=False)


def test_the_story_of_the_embedded_network_holds() -> None:
    report = check_claims(
        load_model("sketches"), read_claims("sketches"), dataset=Sketches(2000, seed=HELD_OUT_SEED), progress=False
    )
    assert report.counts == {"held": len(report), "failed": 0, "not testable": 0}, str(report)


@pytest.mark.parametrize("name", STORIES)
def test_every_story_that_ships_reads_back_and_speaks(name: str, tmp_path: Path) -> None:
    story = read_claims(name)
    assert read_claims(write_claims(story, tmp_path / "story.json")) == story
    for claim in story.claims:
        assert "{" not in str(claim)
        assert "{" not in KINDS[claim.kind].say(claim.given)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_documented_and_tested(kind: str) -> None:
    assert (KINDS[kind].check.__doc__ or "").startswith("Check")
    elsewhere = {"out of", "costs", "polysemantic", "monosemantic"}
    assert kind in {name for name, _ in [*TRUE, *FALSE]} | elsewhere


def test_a_report_shows_itself_and_escapes_what_it_is_given(model: Model) -> None:
    claim = Claim("positive", {"source": "low:0", "target": "high:0"}, text="<script>alert(1)</script>")
    report = check_claims(model, Story("<b>", "planted", (claim,)), progress=False)
    shown = report._repr_html_()
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "held" in str(report).splitlines()[0]
    assert "1 held, 0 failed, 0 not testable" in str(report)
    assert json.loads(report.to_json())["findings"][0]["verdict"] == "held"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is no JSON"),
        ("[]", "schema"),
        ("[" * 100_000, "is no JSON"),
        ('{"schema": "circuits.claims/9"}', "circuits.claims/1"),
        ('{"schema": "circuits.claims/1", "claims": []}', "no list of claims"),
        ('{"schema": "circuits.claims/1", "claims": [{}]}', "claim 1: it has no kind"),
        ('{"schema": "circuits.claims/1", "claims": [{"kind": "excits"}]}', "excites"),
        ('{"schema": "circuits.claims/1", "claims": [{"kind": "positive", "source": "a:1"}]}', "lacks 'target'"),
        ('{"schema": "circuits.claims/1", "claims": [{"kind": "wide", "layer": "a", "channels": NaN}]}', "NaN"),
        ('{"schema": "circuits.claims/1", "claims": [{"kind": "wide", "layer": "a", "channels": 0}]}', "at least 1"),
        ('{"schema": "circuits.claims/1", "claims": [{"kind": "wide", "layer": 1, "channels": 1}]}', "give text"),
        ('{"schema": "circuits.claims/1", "title": 3, "claims": [{}]}', "title"),
        (
            '{"schema": "circuits.claims/1", "claims": [{"kind": "positive", "source": "a", "target": "b:1"}]}',
            "claim 1",
        ),
        (
            '{"schema": "circuits.claims/1", "claims": [{"kind": "excites", "source": "a:1", "target": "b:1", '
            '"where": "up"}]}',
            "'upper'",
        ),
        (
            '{"schema": "circuits.claims/1", "claims": [{"kind": "positive", "source": "a:1", "target": "b:1", '
            '"x": 1}]}',
            "does not take 'x'",
        ),
        (
            '{"schema": "circuits.claims/1", "claims": [{"kind": "lowers", "units": ["a:1", "b:1"], "target": "c:1"}]}',
            "one layer",
        ),
    ],
)
def test_a_file_that_is_no_story_is_refused_with_a_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        read_claims(path)


def test_a_missing_file_names_the_stories_there_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="inceptionv1"):
        read_claims(tmp_path / "none.json")
