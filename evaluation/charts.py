"""Charts as plain data for the page: lines and bars in units of an SVG, drawn by its template in the page's colours."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.diagnostics import RELIABILITY_BINS, Reliability
from evaluation.errors import Matches

WIDTH, HEIGHT = 460, 300  # of the plot, without its axes
NAMED_CURVES = 10  # beyond so many classes colours would not be told apart: the best and worst three have names
SCORE_BINS = 20
UNIT_TICKS = tuple((value / 5, f"{value / 5:g}") for value in range(6))


@dataclass(frozen=True)
class Line:
    path: str  # an SVG path
    style: str  # CSS class
    label: str = ""  # in the legend; none if empty


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    style: str
    text: str  # shown on pointing at it


@dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    bar_legend: Sequence[tuple[str, str]] = ()  # CSS class, label
    x_ticks: Sequence[tuple[float, str]] = field(default=())  # position in px, text
    y_ticks: Sequence[tuple[float, str]] = field(default=())


def precision_recall(precision: np.ndarray, names: Sequence[str]) -> list[Chart]:
    """At IoU 0.5 and over 0.5:0.95; precision: [T, R, C], -1 in classes without objects."""
    measured = np.flatnonzero((precision > -1).all(axis=(0, 1)))
    order = measured[np.argsort(-precision[:, :, measured].mean(axis=(0, 1)), kind="stable")]
    named = order if len(order) <= NAMED_CURVES else np.concatenate((order[:3], order[-3:]))
    style = {int(c): f"c{place}" for place, c in enumerate(named)}
    recall = np.linspace(0, 1, precision.shape[1])
    charts = []
    for curves, title in ((precision[0], "At IoU 0.5"), (precision.mean(axis=0), "Mean over IoU 0.5:0.95")):
        lines = [Line(_path(recall, curves[:, c]), "faint") for c in order if int(c) not in style]
        for c in named:
            lines.append(Line(_path(recall, curves[:, c]), style[int(c)], f"{curves[:, c].mean():.3f} {names[c]}"))
        if len(order):
            mean = curves[:, order].mean(axis=1)
            lines.append(Line(_path(recall, mean), "whole", f"{mean.mean():.3f} mean of {len(order)} classes"))
        charts.append(_unit_chart(title, "recall", "precision", lines=lines))
    return charts


def scores(scores: np.ndarray, matches: Matches, threshold: float) -> list[Chart]:
    """How many detections of each score are right and wrong, and precision, recall and F1 by threshold."""
    return [_histogram(scores, matches), _rates(scores, matches, threshold)]


def reliability(found: Reliability) -> Chart:
    step = WIDTH / RELIABILITY_BINS
    bars = []
    for place in np.flatnonzero(found.count):
        height = found.right[place] * HEIGHT
        text = f"{found.count[place]} detections, mean score {found.score[place]:.3f}, {found.right[place]:.1%} right"
        bars.append(Bar(place * step + 1, HEIGHT - height, step - 2, height, "right", text))
    lines = [Line(_path(np.array([0, 1]), np.array([0, 1])), "dashed", "a score that says how often it is right")]
    return _unit_chart(
        "Reliability", "score", "share that is right", lines=lines, bars=bars, bar_legend=[("right", "as measured")]
    )


def _histogram(scores: np.ndarray, matches: Matches) -> Chart:
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    counts = {kind: np.histogram(scores[getattr(matches, kind)], edges)[0] for kind in ("right", "wrong")}
    most = max(1, *(int(each.max(initial=0)) for each in counts.values()))
    top = np.log1p(10.0 ** np.ceil(np.log10(most)))
    step = WIDTH / SCORE_BINS
    bars = [
        Bar(
            place * step + (0 if kind == "right" else step / 2) + 0.5,
            HEIGHT * (1 - np.log1p(number) / top),
            step / 2 - 1,
            HEIGHT * np.log1p(number) / top,
            kind,
            f"{number} {kind}, score {edges[place]:.2f} to {edges[place + 1]:.2f}",
        )
        for kind, each in counts.items()
        for place, number in enumerate(each.tolist())
        if number
    ]
    ticks = [0, *(10**power for power in range(int(np.ceil(np.log10(most))) + 1))]
    return Chart(
        "Detections by score",
        "score",
        "detections (logarithmic)",
        bars=bars,
        bar_legend=[(kind, f"{each.sum()} {kind}") for kind, each in counts.items()],
        x_ticks=[(WIDTH * value, text) for value, text in UNIT_TICKS],
        y_ticks=[
            (HEIGHT * (1 - np.log1p(value) / top), f"{value // 1000}k" if value >= 1000 else f"{value}")
            for value in ticks
        ],
    )


def _rates(scores: np.ndarray, matches: Matches, threshold: float) -> Chart:
    thresholds = np.linspace(0, 1, 201)
    right, wrong = (
        chosen.sum() - np.searchsorted(np.sort(scores[chosen]), thresholds, "right")
        for chosen in (matches.right, matches.wrong)
    )
    kept, objects = right + wrong, int(matches.objects.sum())
    there = kept > 0
    lines = [
        Line(_path(thresholds[there], right[there] / kept[there]), "c0", "precision"),
        Line(_path(thresholds, right / max(objects, 1)), "c1", f"recall of {objects} objects"),
        Line(_path(thresholds, 2 * right / np.maximum(kept + objects, 1)), "c2", "F1"),
        Line(_path(np.array([threshold, threshold]), np.array([0, 1])), "dashed", f"threshold {threshold:.3f}"),
    ]
    return _unit_chart("By threshold, all classes together", "score threshold", "", lines=lines)


def _unit_chart(title: str, x_label: str, y_label: str, **parts: Sequence) -> Chart:
    """Both axes from 0 to 1."""
    x_ticks = [(WIDTH * value, text) for value, text in UNIT_TICKS]
    y_ticks = [(HEIGHT * (1 - value), text) for value, text in UNIT_TICKS]
    return Chart(title, x_label, y_label, x_ticks=x_ticks, y_ticks=y_ticks, **parts)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    points = zip((WIDTH * x).round(1).tolist(), (HEIGHT * (1 - y)).round(1).tolist(), strict=True)
    return "M" + "L".join(f"{left:g} {top:g}" for left, top in points) if len(x) else ""
