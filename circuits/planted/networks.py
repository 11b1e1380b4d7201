"""Networks: circuits of the thread, written by hand, each in a network that runs, with the answer known."""

from __future__ import annotations

from collections.abc import Callable

from circuits.planted.kernels import (
    Kernel,
    Source,
    Wiring,
    circle,
    curve,
    edge,
    gabor,
    halves,
    line,
    mirrored,
    ring,
    spot,
    turned,
    union,
)
from circuits.planted.planting import COLOURS, Bed, Planted, Seed, plant
from circuits.planted.stimuli import (
    COARSE,
    FINE,
    RADIUS,
    arc,
    bar,
    boundary,
    coarse,
    disc,
    fine,
    plain,
    spot_on,
    square,
    step,
    strokes,
)

BACKGROUND = 0.2
DISTRACTORS = 8
STRIDE = 2  # pixels from one position of a first layer to the next
EDGES, CURVES = 16, 8  # directions of each


def curves_and_circles(*, background: float = BACKGROUND, distractors: int = DISTRACTORS, seed: int = 0) -> Planted:
    """Oriented edges -> curves -> circles.

    16 edges, 8 curves (each reads the edges along its arc, and is inhibited by the opposite bend and by straight
    edges), one circle of 10 pixels (each curve on its own side excites, on the other inhibits). It is silent for
    straight edges, bars, squares, single arcs and circles of other sizes. (Cammarata et al. 2021, "Curve Circuits".)

    >>> planted = curves_and_circles()
    >>> from circuits.planted.planting import peak_responses
    >>> circles, edges = (planted.images(content, 5) for content in ("circle", "straight edge"))
    >>> bool(peak_responses(planted, [planted.unit("circle")], circles).median() > 0.5)
    True
    >>> bool(peak_responses(planted, [planted.unit("circle")], edges).max() < 0.1)
    True
    """
    contents = {
        "circle": disc(RADIUS),
        "small circle": disc(RADIUS / 2),
        "large circle": disc(2 * RADIUS),
        "straight edge": step(),
        "bar": bar(8),
        "square": square(2 * RADIUS),
        **{f"curve {angle:g}": arc(angle) for angle in _angles(CURVES)},
        "plain": plain(),
    }
    beds = [
        Bed("edges", 7, _edges(), STRIDE),
        Bed("curves", 13, _curves()),
        Bed("circles", 13, [Seed(Source("circle"), circle(RADIUS / STRIDE, CURVES), ("circle",), 0.6)]),
    ]
    return plant("curves and circles", beds, contents, background=background, distractors=distractors, seed=seed)


def high_low_frequency(*, background: float = BACKGROUND, distractors: int = DISTRACTORS, seed: int = 0) -> Planted:
    """The high-low frequency detector: stripes -> high and low frequencies -> boundaries between them.

    Fine and coarse Gabor filters at 4 angles and 4 phases; *high* unites the fine ones whatever their angle and is
    inhibited by the coarse, *low* the reverse; 8 boundaries read *high* on the side that they point to and *low* on the
    other, and are inhibited by each on the wrong side. A boundary's kernels have halves that weigh the same, so that
    their sum, the ``weight`` of an edge, is 0. (Schubert et al. 2021, "High-Low Frequency Detectors".)
    """
    contents = {
        **{f"high-low {angle:g}": boundary(angle, FINE, COARSE) for angle in _angles(8)},
        "high": fine(),
        "low": coarse(),
        **{f"high-plain {angle:g}": boundary(angle, FINE, None) for angle in (0, 180)},
        **{f"plain-low {angle:g}": boundary(angle, None, COARSE) for angle in (0, 180)},
        "plain": plain(),
    }
    gabors = [*_gabors("fine", FINE, 1.8), *_gabors("coarse", COARSE, 4.0)]
    groups = {
        name: [each.source for each in gabors if each.source.name.startswith(name)] for name in ("fine", "coarse")
    }
    reads = {
        "high": union(_all(groups["fine"], spot(2)), _all(groups["coarse"], -0.5 * spot(2))),
        "low": union(_all(groups["coarse"], spot(2)), _all(groups["fine"], -0.5 * spot(2))),
    }
    right = {Source("high"): halves(3), Source("low"): -halves(3)}
    beds = [
        Bed("stripes", 15, gabors, STRIDE),
        Bed("frequencies", 9, [Seed(Source(name), wiring, (name,), 0.2) for name, wiring in reads.items()]),
        Bed("boundaries", 13, [
            Seed(Source("high-low", angle), turned(right, angle), (f"high-low {angle:g}",), 0.5) for angle in _angles(8)
        ]),
    ]  # fmt: skip
    return plant("high-low frequency", beds, contents, background=background, distractors=distractors, seed=seed)


def two_cases(*, background: float = BACKGROUND, distractors: int = DISTRACTORS, seed: int = 0) -> Planted:
    """A union over two cases: lines -> tips -> arrows to the left and to the right -> arrows.

    The two cases are mirror images: each is excited by its own tip and inhibited by the other's (cross inhibition), so
    that an arrow with two heads is neither; the union reads both, with mirrored kernels. (Olah et al. 2020, "Zoom In":
    oriented dog heads.)
    """
    shaft, length, wing = (0, -10, 0, 10), 10, 7
    tips = {
        "left": [(0, -length, side * wing, wing - length) for side in (-1, 1)],
        "right": [(0, length, side * wing, length - wing) for side in (-1, 1)],
    }
    contents = {
        "arrow left": strokes(shaft, *tips["left"]),
        "arrow right": strokes(shaft, *tips["right"]),
        "double arrow": strokes(shaft, *tips["left"], *tips["right"]),
        "tip left": strokes(*tips["left"]),
        "tip right": strokes(*tips["right"]),
        "line": strokes(shaft),
        "cross": strokes((-wing, -wing, wing, wing), (-wing, wing, wing, -wing)),
        "circle": disc(RADIUS),
        "plain": plain(),
    }
    swapped = {"tip left": "tip right"}
    tip = {  # '<': '/' above, '\' below, both to the right of where they meet; no line goes on to the left of it
        Source("line", 45.0): _at(2.25, 2.25) - 0.7 * _at(-2.25, 2.25) - 0.7 * _at(-2, -2),
        Source("line", 135.0): _at(-2.25, 2.25) - 0.7 * _at(2.25, 2.25) - 0.7 * _at(2, -2),
    }
    opposite = {Source("line", 135.0): tip[Source("line", 45.0)].mirrored()}
    opposite[Source("line", 45.0)] = tip[Source("line", 135.0)].mirrored()
    left = {
        Source("tip left"): _at(0, -5, 1.5),
        Source("shaft"): 0.6 * (spot(1.5) + _at(0, 3, 1.5)),
        Source("tip right"): -1.5 * (_at(0, 5, 1.5) + _at(0, -5, 1.5)),
    }
    case = {Source("arrow left"): _at(0, -2, 1.5)}
    beds = [
        Bed("lines", 7, [Seed(Source("line", a), _grey(line(3.0, 1.6).turned(a))) for a in _angles(4, 180)], STRIDE),
        Bed("tips", 9, [
            Seed(Source("tip left"), tip, ("tip left", "arrow left"), 0.35),
            Seed(Source("tip right"), opposite, ("tip right", "arrow right"), 0.35),
            Seed(Source("shaft"), {Source("line", 0.0): Kernel(line(3.0, 1.0).field)}, ("line",), 0.2),
        ]),
        Bed("cases", 13, [
            Seed(Source("arrow left"), left, ("arrow left", "tip left"), 0.6),
            Seed(Source("arrow right"), mirrored(left, swapped), ("arrow right", "tip right"), 0.6),
        ]),
        Bed("unions", 9, [
            Seed(
                Source("arrow"),
                union(case, mirrored(case, {"arrow left": "arrow right"})),
                ("arrow left", "arrow right"),
                0.3,
            )
        ]),
    ]  # fmt: skip
    return plant("two cases", beds, contents, background=background, distractors=distractors, seed=seed)


def centres_and_surrounds(*, background: float = BACKGROUND, distractors: int = DISTRACTORS, seed: int = 0) -> Planted:
    """Excitation and inhibition with known kernels: colours -> a centre of one on a surround of its opposite.

    Eight discs excite and eight rings inhibit; one spot unit reads every centre, and is inhibited by plain colour.
    """
    shades = {
        "red": (0.4, -0.2, -0.2),
        "green": (-0.2, 0.4, -0.2),
        "blue": (-0.2, -0.2, 0.4),
        "yellow": (0.2, 0.2, -0.4),
    }
    pairs = [("red", "green"), ("green", "red"), ("blue", "yellow"), ("yellow", "blue")]
    contents = {
        **{f"{one} on {other}": spot_on(shades[one], shades[other], 5) for one, other in pairs},
        **{name: spot_on(shade, shade, 5) for name, shade in shades.items()},
        "circle": disc(RADIUS),
        "plain": plain(),
    }
    colours = [
        Seed(Source(f"{name} patch"), {c: float(s) * spot(1.2) for c, s in zip(COLOURS, shade, strict=True)}, (name,))
        for name, shade in shades.items()
    ]
    centres = [
        Seed(
            Source(f"{one} on {other}"),
            {
                Source(f"{one} patch"): spot(1.2) - 0.5 * ring(4.5, 1.0),
                Source(f"{other} patch"): 0.5 * ring(4.5, 1.0) - spot(1.2),
            },
            (f"{one} on {other}",),
            0.5,
        )
        for one, other in pairs
    ]
    beds = [
        Bed("colours", 5, colours, STRIDE),
        Bed("centres", 13, centres),
        Bed("spots", 5, [
            Seed(
                Source("spot"),
                _all([each.source for each in centres], spot(1)),
                tuple(each.means[0] for each in centres),
            )
        ]),
    ]  # fmt: skip
    return plant("centres and surrounds", beds, contents, background=background, distractors=distractors, seed=seed)


def two_meanings(*, background: float = BACKGROUND, distractors: int = DISTRACTORS, seed: int = 0) -> Planted:
    """A polysemantic unit with two known meanings, circles and fine stripes, beside two units that mean one each.

    ``circle or stripes`` reads what ``circle`` reads (curves) and what ``stripes`` reads (texture), each enough alone.
    """
    contents = {
        "circle": disc(RADIUS),
        "fine stripes": fine(),
        "coarse stripes": coarse(),
        "straight edge": step(),
        "square": square(2 * RADIUS),
        "bar": bar(8),
        **{f"curve {angle:g}": arc(angle) for angle in _angles(CURVES)},
        "plain": plain(),
    }
    stripes = _gabors("fine", FINE, 1.8)
    texture = _all([each.source for each in stripes], spot(2))
    round_thing, fine_thing = circle(RADIUS / STRIDE, CURVES), {Source("texture"): spot(2)}
    beds = [
        Bed("edges", 11, [*_edges(), *stripes], STRIDE),
        Bed("parts", 13, [*_curves(), Seed(Source("texture"), texture, ("fine stripes",), 0.2)]),
        Bed("things", 13, [
            Seed(Source("circle"), round_thing, ("circle",), 0.6),
            Seed(Source("stripes"), fine_thing, ("fine stripes",), 0.5),
            Seed(
                Source("circle or stripes"),
                union(round_thing, _scaled(fine_thing, 1.5)),
                ("circle", "fine stripes"),
                0.6,
            ),
        ]),
    ]  # fmt: skip
    return plant("two meanings", beds, contents, background=background, distractors=distractors, seed=seed)


def _angles(count: int, around: float = 360.0) -> list[float]:
    return [around * number / count for number in range(count)]


def _at(up: float, right: float, sigma: float = 1.0) -> Kernel:
    return spot(sigma).moved(-up, right)


def _grey(kernel: Kernel) -> Wiring:
    return dict.fromkeys(COLOURS, kernel)


def _all(sources: list[Source], kernel: Kernel) -> Wiring:
    return dict.fromkeys(sources, kernel)


def _scaled(wiring: Wiring, factor: float) -> Wiring:
    return {source: factor * kernel for source, kernel in wiring.items()}


def _edges() -> list[Seed]:
    return [Seed(Source("edge", angle), _grey(edge(1.3).turned(angle)), (), 0.2) for angle in _angles(EDGES)]


def _curves() -> list[Seed]:
    reads = curve(RADIUS / STRIDE, EDGES)
    return [Seed(Source("curve", angle), turned(reads, angle), (f"curve {angle:g}",), 0.4) for angle in _angles(CURVES)]


def _gabors(name: str, wavelength: float, sigma: float) -> list[Seed]:
    return [
        Seed(Source(f"{name} {phase:g}", angle), _grey(gabor(wavelength, phase, sigma).turned(angle)), (), 0.2)
        for angle in _angles(4, 180)
        for phase in _angles(4)
    ]


NETWORKS: dict[str, Callable[..., Planted]] = {
    "curves and circles": curves_and_circles,
    "high-low frequency": high_low_frequency,
    "two cases": two_cases,
    "centres and surrounds": centres_and_surrounds,
    "two meanings": two_meanings,
}
