"""The report of an evaluation: a directory with one page that opens offline, and what is on it as JSON and CSV."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coco.annotations import CocoAnnotations
from coco.names import cell, plain
from coco.whole_files import replacing, write_text
from evaluation import charts, coco_sets, diagnostics
from evaluation.detections import Detections
from evaluation.errors import match_detections
from evaluation.galleries import Galleries
from evaluation.numbers import evaluate_at_once
from evaluation.page import page
from evaluation.tables import MEANING, scope, why_not_comparable
from evaluation.thresholds import RESAMPLES, OperatingPoint, Rule, operating_points

RULES = (Rule(), Rule(0.9))
SHOWN_SCORE = 0.3  # where no threshold can be chosen
CONFUSIONS = 15  # that are listed in words


@dataclass(frozen=True)
class Slice:
    """Some of the evaluated images, by a name, and COCO's numbers on them."""

    name: str
    images: int
    numbers: Mapping[str, float]


def write_report(
    directory: Path,
    annotations: CocoAnnotations,
    detections: Detections,
    facts: Mapping[str, Any],
    images: Path | None = None,
    rules: Sequence[Rule] = RULES,
    slices: Sequence[Slice] = (),
) -> None:
    """Writes the report of the detections of some images:

    index.html (all of it, pictures included), report.json (the same without pictures; -1 where nothing could be
    measured, as COCOeval has it), classes.csv and thresholds.csv (there an empty cell), detections.json (COCO results).

    Args:
        facts: what was evaluated and how: images, images_in_split, score_threshold, and more for the page's head.
        images: directory of the evaluated images; None: without pictures.
        rules: how thresholds are chosen. Mistakes are those at the threshold of the first, for all classes together.

    Raises:
        ImageError: an image that cannot be read. OSError: a file that cannot be written.
    """
    found = evaluate_at_once(annotations, detections)
    matches = match_detections(annotations, detections)
    points = operating_points(annotations, detections, matches, rules, facts["score_threshold"])
    chosen = points[rules[0]][-1]
    threshold = chosen.threshold if chosen else max(SHOWN_SCORE, facts["score_threshold"])
    without_crowds = coco_sets.evaluate(annotations, detections, crowds=False)
    confusion = diagnostics.confusion_matrix(without_crowds, detections, threshold)
    reliability = diagnostics.reliability(detections.scores, matches)
    order = sorted(range(len(found.classes)), key=lambda c: -found.classes[c]["AP"])
    names = [plain(name) for name in annotations.class_names]
    galleries = Galleries(annotations, detections, matches, images, threshold) if images else None
    contents = {
        **facts,
        "not_comparable_with_published_COCO_because": why_not_comparable(annotations, facts),
        "numbers": found.numbers,
        "classes": [found.classes[c] for c in order],
        "operating_points": [
            {"rule": str(rule), "classes": [_named(found.classes[c], each[c]) for c in order], "together": each[-1]}
            for rule, each in points.items()
        ],
        "mistakes_at": threshold,
        "confusion": {"classes": annotations.class_names, "counts": confusion.tolist()},
        "tide": diagnostics.tide_errors(without_crowds),
        "reliability": reliability,
        "sizes": [row._asdict() for row in diagnostics.sizes_at_input(annotations, matches, threshold)],
        "slices": slices,
        "worst_images": galleries.worst() if galleries else [],
        "missed": galleries.missed() if galleries else [],
        "invented": galleries.invented() if galleries else [],
    }
    shown = {
        **contents,
        "facts": {key: plain(str(value)) for key, value in facts.items()},
        "scope": scope(facts),
        "meaning": MEANING,
        "operating_points": [
            {**each, "title": rule.title()} for rule, each in zip(points, contents["operating_points"], strict=True)
        ],
        "resamples": RESAMPLES,
        "pictures": galleries is not None,
        "confusions": _most_confused(confusion, names),
        "names": names,
        "precision_recall": charts.precision_recall(found.precision, names),
        "score_charts": charts.scores(detections.scores, matches, threshold),
        "reliability_chart": charts.reliability(reliability),
    }
    write_text(directory / "index.html", page(shown))
    write_text(directory / "report.json", json.dumps(_plain_data(contents), indent=1, allow_nan=False))
    _write_csv(directory / "classes.csv", contents["classes"])
    _write_csv(directory / "thresholds.csv", _threshold_rows(contents["operating_points"]))
    _write_detections(directory / "detections.json", annotations, detections)


def _named(row: Mapping[str, Any], point: OperatingPoint | None) -> dict[str, Any]:
    return {"name": row["name"], "category_id": row["category_id"], "point": point}


def _most_confused(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of classes by how often an object of the one is taken for the other."""
    between = confusion[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    objects = confusion[:-1].sum(axis=1)
    pairs = (divmod(int(place), len(names)) for place in np.argsort(-between, axis=None, kind="stable")[:CONFUSIONS])
    return [
        {"of": names[of], "taken_for": names[to], "count": int(between[of, to]), "share": between[of, to] / objects[of]}
        for of, to in pairs
        if between[of, to]
    ]


def _threshold_rows(operating_points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for each in operating_points:
        together = {"name": "all classes, one threshold", "category_id": "", "point": each["together"]}
        for row in (*each["classes"], together):
            values = asdict(row["point"]) if row["point"] else dict.fromkeys(OperatingPoint.__dataclass_fields__)
            rows.append({"rule": each["rule"], "name": row["name"], "category_id": row["category_id"]})
            for key, value in values.items():
                if key.endswith("_interval"):
                    rows[-1] |= dict(zip((f"{key}_low", f"{key}_high"), value or (None, None), strict=True))
                else:
                    rows[-1][key] = value
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with replacing(path, newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: "" if value in (-1, None) else cell(value) for key, value in row.items()} for row in rows
        )


def _write_detections(path: Path, annotations: CocoAnnotations, detections: Detections) -> None:
    """All digits, so that COCOeval gives the same numbers from the file."""
    categories = np.asarray(annotations.category_ids)[detections.labels - 1]
    columns = (detections.image, categories, detections.xywh, detections.scores.astype(np.float64))
    names = ("image_id", "category_id", "bbox", "score")
    records = [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    with replacing(path) as file:
        file.write(msgspec.json.encode(records))


def _plain_data(value: Any) -> Any:
    """For a JSON file: dataclasses as dicts, arrays as lists, no pictures, null for NaN and infinity."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {key: each for key, each in vars(value).items() if key != "picture"}
    if isinstance(value, Mapping):
        return {key: _plain_data(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain_data(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
