"""The report of an evaluation: tables for the terminal, and a directory of files with tables, plots and pictures."""

import contextlib
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coco.lettering import drawable_names, font_files
from coco.names import cell, for_file, markdown, markdown_picture, plain
from coco.whole_files import replacing, write_text
from evaluation.drawing import draw_mistakes, open_image
from evaluation.errors import Matches, image_mistakes, match_detections, mistakes_per_image
from evaluation.metric import NUMBERS, CocoMeanAveragePrecision

WORST_IMAGES = 12
LABEL = 60  # characters of a class name in a plot
SHOWN_SCORE = 0.3  # detections below it count as not made where the worst images are chosen and drawn
# Okabe and Ito's colours, told apart by colour-blind eyes too.
RIGHT, WRONG, PRECISION, RECALL = "#0072B2", "#D55E00", "#CC79A7", "#009E73"

_MEANING = (
    "AP, IoU 0.50:0.95, all sizes",
    "AP, IoU 0.50",
    "AP, IoU 0.75",
    "AP, small (area < 32^2 px)",
    "AP, medium (32^2 .. 96^2 px)",
    "AP, large (> 96^2 px)",
    "AR, 1 detection per image",
    "AR, 10 detections",
    "AR, 100 detections",
    "AR, small",
    "AR, medium",
    "AR, large",
)


def metrics_table(numbers: Mapping[str, float]) -> str:
    """COCO's twelve numbers with what they mean; - where nothing could be measured (COCOeval's -1)."""
    rows = [f"{name:<12} {_number(numbers[name])}   {meaning}" for name, meaning in zip(NUMBERS, _MEANING, strict=True)]
    return "\n".join(("", "COCO metric  value   meaning", "-" * 52, *rows))


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Per-class AP, best first."""
    rows = [{**row, "name": plain(row["name"])} for row in rows]
    width = max([len("class"), *(len(row["name"]) for row in rows)])
    lines = [
        f"{row['name']:<{width}} {row['ground_truths']:>7} "
        + " ".join(_number(row[key]) for key in ("AP", "AP50", "AP75", "AR"))
        for row in sorted(rows, key=lambda row: -row["AP"])
    ]
    return "\n".join(("", f"{'class':<{width}}   boxes     AP   AP50   AP75     AR", "-" * (width + 36), *lines))


def scope(facts: Mapping[str, Any]) -> str:
    """Which images were evaluated, in words."""
    images, whole = facts["images"], facts["images_in_split"]
    return f"all {whole} images" if images == whole else f"the first {images} of {whole} images, by image id"


def write_report(
    directory: Path,
    metric: CocoMeanAveragePrecision,
    numbers: Mapping[str, float],
    facts: Mapping[str, Any],
    images: Path,
) -> None:
    """Writes the report of a computed metric, on the process that has its arrays (rank 0):

    report.json (facts, numbers and classes; -1 where nothing could be measured), classes.csv (there an empty cell),
    detections.json (COCO results), precision_recall.png, scores.png, and worst/ with index.md.

    Args:
        facts: what was evaluated and how, for report.json. images: directory of the evaluated images.
    """
    classes = sorted(metric.per_class(), key=lambda row: -row["AP"])
    whole = {**facts, "numbers": dict(numbers), "classes": classes}
    write_text(directory / "report.json", json.dumps(whole, indent=1))
    _write_csv(directory / "classes.csv", classes)
    _write_detections(directory / "detections.json", metric)
    matches = match_detections(metric.annotations, metric.found_detections)
    shown_score = max(SHOWN_SCORE, facts["score_threshold"])
    subtitle = scope(facts)
    _plot_precision_recall(directory / "precision_recall.png", metric, subtitle)
    _plot_scores(directory / "scores.png", metric.found_detections.scores, matches, facts["score_threshold"], subtitle)
    _write_worst_images(directory / "worst", metric, matches, images, shown_score)


def _write_csv(path: Path, classes: Sequence[Mapping[str, Any]]) -> None:
    with replacing(path, newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(classes[0]))
        writer.writeheader()
        writer.writerows({key: "" if value == -1 else cell(value) for key, value in row.items()} for row in classes)


def _write_detections(path: Path, metric: CocoMeanAveragePrecision) -> None:
    """All digits, so that COCOeval gives the same numbers from the file."""
    detections = metric.found_detections
    categories = np.asarray(metric.annotations.category_ids)[detections.labels - 1]
    columns = (detections.image, categories, detections.xywh, detections.scores.astype(np.float64))
    names = ("image_id", "category_id", "bbox", "score")
    records = [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    with replacing(path) as file:
        file.write(msgspec.json.encode(records))


def _plot_precision_recall(path: Path, metric: CocoMeanAveragePrecision, subtitle: str) -> None:
    precision = metric.found_evaluation["precision"][..., 0, -1]  # [T, R, C], -1 in classes without objects
    measured = np.flatnonzero((precision > -1).all(axis=(0, 1)))
    recall = np.linspace(0, 1, precision.shape[1])
    order = np.argsort(-precision[:, :, measured].mean(axis=(0, 1)), kind="stable")  # so a class has one colour in both
    # Beyond ten classes colours and names would not be told apart: only the ends of the field are named.
    named = order if len(order) <= 10 else np.concatenate((order[:3], order[-3:]))
    names = drawable_names(tuple(metric.annotations.class_names), tuple(metric.annotations.category_ids))
    figure, axes = _figure(2)
    for ax, curves, title in zip(
        axes, (precision[0], precision.mean(axis=0)), ("at IoU 0.5", "mean over IoU 0.5:0.95"), strict=True
    ):
        curves = curves[:, measured]  # [R, classes]
        average = curves.mean(axis=0)
        for c in order:
            style = {"color": "0.75", "linewidth": 0.6}
            if c in named:
                name = plain(names[measured[c]])[:LABEL]
                style = {"linewidth": 1.1, "label": f"{average[c]:.3f}  {name}"}
            ax.plot(recall, curves[:, c], **style)
        if len(order):
            mean = curves.mean(axis=1)
            ax.plot(recall, mean, color="black", linewidth=3, label=f"{mean.mean():.3f}  mean of {len(order)} classes")
            title_of_legend = "AP" if len(named) == len(order) else "AP of the best and worst"
            for text in ax.legend(title=title_of_legend, prop=_letters(names), loc="best").get_texts():
                text.set_parse_math(False)  # a name with two dollars is no formula
        ax.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
    figure.suptitle(f"Precision and recall, {subtitle}")
    _save(figure, path)


def _plot_scores(path: Path, scores: np.ndarray, matches: Matches, score_threshold: float, subtitle: str) -> None:
    figure, (counts, rates) = _figure(2)
    counts.axvspan(0, score_threshold, color="0.93", label=f"below score_threshold {score_threshold:g}: not detected")
    rates.axvspan(0, score_threshold, color="0.93")
    bins = np.linspace(0, 1, 41)
    for chosen, colour, name in ((matches.wrong, WRONG, "false"), (matches.right, RIGHT, "true")):
        label = f"{chosen.sum()} {name} positives"
        counts.hist(scores[chosen], bins, color=colour, alpha=0.35)
        counts.hist(scores[chosen], bins, color=colour, histtype="step", linewidth=1.6, label=label)
    counts.set(title="detections by score", xlabel="score", ylabel="detections", yscale="symlog", xlim=(0, 1))
    counts.yaxis.set_major_formatter("{x:g}")
    counts.legend()
    thresholds = np.linspace(0, 1, 201)
    right, wrong = (
        chosen.sum() - np.searchsorted(np.sort(scores[chosen]), thresholds) for chosen in (matches.right, matches.wrong)
    )
    kept = right + wrong
    precision = np.divide(right, kept, out=np.full(len(kept), np.nan), where=kept > 0)
    recall = right / max(matches.objects.sum(), 1)
    rates.plot(thresholds, precision, color=PRECISION, linewidth=2, label="precision")
    rates.plot(thresholds, recall, color=RECALL, linewidth=2, label=f"recall of {matches.objects.sum()} objects")
    rates.set(
        title="precision and recall of the detections kept", xlabel="lowest score kept", xlim=(0, 1), ylim=(0, 1.02)
    )
    rates.legend(loc="best")
    figure.suptitle(f"Scores of true and false positives at IoU 0.5, all classes, {subtitle}")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="png")


def _letters(names: Sequence[str]) -> Any:
    """Small letters for class names, from all the fonts that these need."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for file in font_files(names):
        with contextlib.suppress(OSError, RuntimeError):  # a font that Pillow reads and matplotlib does not
            font_manager.fontManager.addfont(file)
            families.append(font_manager.FontProperties(fname=file).get_name())
    return font_manager.FontProperties(family=families, size="small")


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # here, since only a report needs it; no pyplot: no display, no global state

    figure = Figure(figsize=(6 * columns, 5), dpi=120, layout="constrained")
    axes = figure.subplots(1, columns)
    for ax in axes:
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
    return figure, axes


def _write_worst_images(
    directory: Path, metric: CocoMeanAveragePrecision, matches: Matches, images: Path, shown_score: float
) -> None:
    """The images with most mistakes, drawn, and index.md that says what is wrong in each."""
    annotations, detections = metric.annotations, metric.found_detections
    names = drawable_names(tuple(annotations.class_names), tuple(annotations.category_ids))
    counts = mistakes_per_image(annotations, detections, matches, shown_score)
    worst = [index for index in np.argsort(-counts, kind="stable")[:WORST_IMAGES] if counts[index]]
    words = [markdown(name) for name in annotations.class_names]
    lines = [
        "# Images with most mistakes",
        "",
        f"A mistake is a missed object or a false positive, at IoU 0.5 and scores from {shown_score:g} on. "
        f"{np.count_nonzero(counts)} of {len(counts)} images have any; {counts.sum()} in all.",
    ]
    drawn = set()
    for place, index in enumerate(worst, start=1):
        i = int(np.searchsorted(annotations.image_ids, detections.image_ids[index]))
        path, picture = open_image(annotations, images, i)
        right, mistakes = image_mistakes(annotations, detections, matches, index, shown_score)
        name = f"{place:02d}_{for_file(path.stem)}.png"
        drawn.add(name)
        with replacing(directory / name) as file:
            draw_mistakes(picture, detections.boxes[right], mistakes, names).save(file, format="PNG")
        lines += [
            "",
            f"## {place}. {markdown(path.name)} (image id {annotations.image_ids[i]})",
            "",
            markdown_picture(name),
            "",
        ]
        lines += [f"{len(right)} right, {len(mistakes)} mistakes:", ""]
        lines += [f"{n}. {_in_words(m, words)}" for n, m in enumerate(mistakes, start=1)]
    write_text(directory / "index.md", "\n".join(lines) + "\n")
    for old in directory.glob("[0-9][0-9]_*.png"):
        if old.name not in drawn:  # of an earlier report
            old.unlink()


def _in_words(mistake: Any, class_names: Sequence[str]) -> str:
    name = class_names[mistake.label - 1]
    left, top, right, bottom = (round(float(value)) for value in mistake.box)
    where = f"at x {left}..{right}, y {top}..{bottom}"
    if mistake.kind == "missed":
        return f"missed: {name} {where}"
    truth = class_names[mistake.truth_label - 1] if mistake.truth_label else ""
    why = {
        "duplicate": f"that {name} is found already",
        "wrong class": f"it is a {truth}, IoU {mistake.iou:.2f}",
        "wrong place": f"IoU with a {name} is only {mistake.iou:.2f}",
        "background": f"no {name} is annotated there",
    }
    return f"{mistake.kind}: {name} {mistake.score:.2f} {where}; {why[mistake.kind]}"


def _number(value: float) -> str:
    return "     -" if value == -1 else f"{value:6.3f}"
