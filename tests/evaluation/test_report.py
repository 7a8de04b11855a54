"""Which detections COCOeval counts as right or wrong, and what a report of them says."""

import base64
import contextlib
import csv
import io
import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from checkpoints.published import COCO_CATEGORY_IDS
from coco.annotations import CocoAnnotations
from coco.whole_files import replacing
from evaluation.errors import image_mistakes, match_detections, mistakes_per_image
from evaluation.metric import NUMBERS, CocoMeanAveragePrecision
from evaluation.report import Slice, write_report
from evaluation.tables import class_table, why_not_comparable
from evaluation.thresholds import Rule
from tests.evaluation.test_metric import pycocotools_numbers, random_set, update_from_results


def computed_metric(path, results, image_ids=None):
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    update_from_results(metric, results, (metric.annotations.image_ids if image_ids is None else image_ids).tolist())
    return metric, metric.compute()


def write_truth(directory, annotations, classes=2, images=1):
    """Image ids from 1, category ids from 1; annotations as (image, category, bbox, iscrowd)."""
    path = directory / "truth.json"
    names = ("image_id", "category_id", "bbox", "iscrowd")
    rows = [
        {"id": i, **dict(zip(names, row, strict=True)), "area": row[2][2] * row[2][3]}
        for i, row in enumerate(annotations, start=1)
    ]
    pictures = [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 100} for i in range(1, images + 1)]
    categories = [{"id": c, "name": f"c{c}"} for c in range(1, classes + 1)]
    path.write_text(json.dumps({"images": pictures, "annotations": rows, "categories": categories}))
    for picture in pictures:
        Image.new("RGB", (200, 100), (90, 90, 90)).save(directory / picture["file_name"])
    return path


def found(image, category, bbox, score):
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "score": score}


@pytest.mark.parametrize("seed", range(4))
def test_right_wrong_and_ignored_are_those_of_COCOeval_with_crowds_and_equal_scores(tmp_path, seed):
    path, results = random_set(tmp_path, crowd=0.3, seed=seed)
    for result in results[::3]:
        result["score"] = round(result["score"], 1)
    metric, _ = computed_metric(path, results)
    detections, annotations = metric.detections, metric.annotations
    matches = match_detections(annotations, detections)

    # Loaded in our order, so that the evaluator's ids are our rows from 1 on.
    ours = zip(detections.image, np.array(annotations.category_ids)[detections.labels - 1], detections.xywh.tolist(),
               detections.scores, strict=True)  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        rows = [found(int(image), int(category), box, float(score)) for image, category, box, score in ours]
        evaluator = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluator.evaluate()
    state = {}
    for cell in evaluator.evalImgs:
        if cell is not None and cell["aRng"] == evaluator.params.areaRng[0]:
            for i, match, ignored in zip(cell["dtIds"], cell["dtMatches"][0], cell["dtIgnore"][0], strict=True):
                state[i - 1] = "ignored" if ignored else "right" if match else "wrong"
    assert len(state) == len(rows)
    expected = [state[row] for row in range(len(rows))]
    names = np.where(matches.right, "right", np.where(matches.wrong, "wrong", "ignored")).tolist()
    assert names == expected and set(expected) == {"right", "wrong", "ignored"}
    assert matches.objects.sum() == sum(not box["iscrowd"] for box in truth.dataset["annotations"])
    assert (matches.best_score >= 0).sum() == matches.right.sum(), "each right detection finds an object of its own"


def test_detections_behind_the_hundred_best_of_a_class_do_not_count(tmp_path):
    path = write_truth(tmp_path, [(1, 1, [0, 0, 50, 50], 0)])
    results = [found(1, 1, (100, 0, 20, 20), 1 - i / 1000) for i in range(105)] + [found(1, 1, (0, 0, 50, 50), 0.1)]
    metric, _ = computed_metric(path, results)
    matches = match_detections(metric.annotations, metric.detections)
    assert matches.wrong.sum() == 100 and not matches.right.any()


def test_every_mistake_is_named_by_its_kind(tmp_path):
    path = write_truth(
        tmp_path,
        [
            (1, 1, [0, 0, 40, 40], 0),
            (1, 2, [60, 0, 40, 40], 0),
            (1, 2, [120, 0, 40, 40], 0),
            (1, 1, [0, 50, 199, 50], 1),
        ],
    )
    results = [
        found(1, 1, (0, 0, 40, 40), 0.9),  # right
        found(1, 1, (2, 0, 40, 40), 0.8),
        found(1, 1, (60, 0, 40, 40), 0.7),
        found(1, 2, (60, 0, 80, 40), 0.65),  # right: half of it
        found(1, 2, (140, 0, 40, 40), 0.6),
        found(1, 2, (165, 60, 30, 30), 0.5),
        found(1, 1, (20, 60, 30, 30), 0.45),  # in the crowd: does not count
        found(1, 1, (100, 60, 30, 30), 0.2),  # below the threshold
    ]
    metric, _ = computed_metric(path, results)
    matches = match_detections(metric.annotations, metric.detections)
    right, mistakes = image_mistakes(metric.annotations, metric.detections, matches, 0, 0.3)
    assert metric.detections.scores[right].tolist() == [0.9, 0.65]
    assert [(m.kind, m.label, m.score, m.truth_label) for m in mistakes] == [
        ("duplicate", 1, 0.8, 1),
        ("wrong class", 1, 0.7, 2),
        ("wrong place", 2, 0.6, 2),
        ("background", 2, 0.5, None),
        ("missed", 2, None, None),
    ]
    assert mistakes_per_image(metric.annotations, metric.detections, matches, 0.3).tolist() == [5]
    assert mistakes[-1].box.tolist() == [120, 0, 160, 40]


def write(directory, metric, facts, images, **how):
    write_report(directory, metric.annotations, metric.found_detections, facts, images, **how)


class Page(HTMLParser):
    """The texts and attributes of a page, as a browser reads them."""

    def __init__(self, path):
        super().__init__()
        self.path, self.tags, self.text, self.attributes = path, [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data

    def sources(self):
        return [value for name, value in self.attributes if name in ("src", "href") and not value.startswith("#")]


FACTS = {"images": 40, "images_in_split": 40, "score_threshold": 0.05}


@pytest.fixture
def written(tmp_path):
    """A report of a random set with a class that has no object."""
    path, results = random_set(tmp_path)
    truth = json.loads(path.read_text())
    truth["categories"].append({"id": 99, "name": "of which there is none"})
    path.write_text(json.dumps(truth))
    for image in truth["images"]:
        Image.new("RGB", (640, 480), (90, 90, 90)).save(tmp_path / image["file_name"])
    metric, numbers = computed_metric(path, results)
    write(tmp_path / "report", metric, FACTS, tmp_path)
    return path, tmp_path / "report", metric, numbers


def test_pycocotools_reads_the_detections_and_gives_the_same_twelve_numbers(written):
    path, directory, _, numbers = written
    results = json.loads((directory / "detections.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    assert pycocotools_numbers(path, results).stats.tolist() == pytest.approx(list(numbers.values()), abs=1e-9)


def test_the_tables_say_the_same_and_the_best_class_comes_first(written):
    _, directory, metric, numbers = written
    whole = json.loads((directory / "report.json").read_text())
    assert whole["numbers"] == numbers and set(numbers) == set(NUMBERS) and whole["images"] == 40
    with open(directory / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "category_id", "ground_truths", "AP", "AP50", "AP75", "AR"]
    assert [row["name"] for row in rows] == [row["name"] for row in whole["classes"]]
    precisions = [row["AP"] for row in whole["classes"]]
    assert precisions == sorted(precisions, reverse=True) and precisions[-1] == -1
    assert rows[-1]["name"] == "of which there is none" and rows[-1]["AP"] == "", "an empty cell, not -1, in a table"
    assert float(rows[0]["AP"]) == precisions[0]
    lines = class_table(metric.per_class()).splitlines()
    assert [line.split("  ")[0] for line in lines[3:]] == [row["name"] for row in rows]


def test_the_page_has_the_numbers_and_every_diagnostic_and_asks_for_nothing_outside(written):
    _, directory, _, numbers = written
    assert sorted(path.name for path in directory.iterdir()) == [
        "classes.csv", "detections.json", "index.html", "report.json", "thresholds.csv"
    ]  # fmt: skip
    page, whole = Page(directory / "index.html"), json.loads((directory / "report.json").read_text())
    for value in (*numbers.values(), whole["reliability"]["error"], *(each["cost"] for each in whole["tide"])):
        assert f"{value:.3f}" in page.text
    assert "Not comparable with published numbers" in page.text and "of which there is none" in page.text
    assert page.sources() and all(source.startswith("data:") for source in page.sources())
    assert page.tags.count("svg") == 5 and "://" not in (directory / "index.html").read_text()
    assert np.array(whole["confusion"]["counts"]).sum() > 0 and sum(whole["reliability"]["count"]) > 0
    assert sum(row["objects"] for row in whole["sizes"]) == sum(row["ground_truths"] for row in whole["classes"])
    best = whole["operating_points"][0]["together"]
    assert whole["mistakes_at"] == best["threshold"] and f"{best['threshold']:.3f}" in page.text
    with open(directory / "thresholds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rule"] for row in rows] == ["f1"] * 6 + ["precision=0.9"] * 6
    assert float(rows[5]["threshold"]) == best["threshold"] and rows[4]["threshold"] == "", "of which there is none"


def test_the_worst_images_and_single_mistakes_are_drawn_and_said_in_words(written):
    _, directory, metric, _ = written
    whole, page = json.loads((directory / "report.json").read_text()), Page(directory / "index.html")
    matches = match_detections(metric.annotations, metric.detections)
    counts = mistakes_per_image(metric.annotations, metric.detections, matches, whole["mistakes_at"])
    worst = whole["worst_images"]
    assert [len(image["mistakes"]) for image in worst] == sorted(counts, reverse=True)[:12]
    assert all(words in page.text for image in worst for words in image["mistakes"])
    assert len(whole["missed"]) == len(whole["invented"]) == 24
    scores = [float(each["words"].split(";")[0].split()[-1]) for each in whole["invented"]]
    assert scores == sorted(scores, reverse=True) and all(each["words"] in page.text for each in whole["invented"])
    pictures = [source for source in page.sources() if source.startswith("data:image/jpeg")]
    assert len(pictures) == 12 + 2 * 24
    for source in pictures:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()


def test_without_the_images_the_report_says_that_it_has_no_pictures(written, tmp_path):
    _, _, metric, _ = written
    write(tmp_path / "bare", metric, FACTS, None, slices=[Slice("day", 7, dict.fromkeys(NUMBERS, 0.125))])
    page = Page(tmp_path / "bare" / "index.html")
    assert "No pictures" in page.text and "img" not in page.tags and "day" in page.text and "0.125" in page.text
    assert json.loads((tmp_path / "bare" / "report.json").read_text())["slices"][0]["images"] == 7


def test_mistakes_are_those_at_the_threshold_of_the_rule_asked_for(written, tmp_path):
    _, _, metric, _ = written
    write(tmp_path / "sure", metric, FACTS, None, rules=[Rule(0.3)])
    whole = json.loads((tmp_path / "sure" / "report.json").read_text())
    (points,) = whole["operating_points"]
    assert points["rule"] == "precision=0.3" and whole["mistakes_at"] == points["together"]["threshold"]
    assert points["together"]["precision"] >= 0.3


def test_only_all_of_COCO_is_comparable_with_published_numbers():
    coco = SimpleNamespace(category_ids=COCO_CATEGORY_IDS)
    whole = {"images": 5000, "images_in_split": 5000, "max_detections": 200}
    assert why_not_comparable(coco, whole) == []
    for change in ({"images": 4952}, {"images": 80, "images_in_split": 80}, {"max_detections": 20}):
        assert len(why_not_comparable(coco, whole | change)) == 1
    assert "not COCO's 80" in why_not_comparable(SimpleNamespace(category_ids=range(1, 81)), whole)[0]


def test_nothing_to_find_and_nothing_found_is_a_report_too(tmp_path):
    metric, _ = computed_metric(write_truth(tmp_path, [], classes=1, images=2), [])
    write(tmp_path / "report", metric, FACTS, tmp_path)
    assert json.loads((tmp_path / "report" / "detections.json").read_text()) == []
    page = Page(tmp_path / "report" / "index.html")
    assert "No image has a mistake" in page.text and "no threshold gives that" in page.text


def test_the_metric_keeps_the_detections_until_it_is_reset(tmp_path):
    path, results = random_set(tmp_path)
    metric, _ = computed_metric(path, results)
    assert len(metric.detections.scores) == len(results)
    assert (np.diff(metric.detections.image_ids) > 0).all(), "in one order, whatever the order of the updates"
    metric.reset()
    assert metric.detections is None


def test_names_are_data_in_every_file_of_a_report_and_in_its_tables(written, tmp_path):
    path = write_truth(tmp_path, [(1, 1, (10, 10, 50, 50), 0), (1, 2, (90, 10, 50, 50), 0)])
    truth = json.loads(path.read_text())
    names = ("bill $5 \\unit $ =x", '=HYPERLINK("http://h/")<img src="http://h/t.png"><b>"\'&amp;\x1b]0;owned\x07')
    for category, name in zip(truth["categories"], names, strict=True):
        category["name"] = name
    (tmp_path / "1.jpg").rename(tmp_path / "![a](b)\x1b[2J.jpg")
    truth["images"][0]["file_name"] = "![a](b)\x1b[2J.jpg"
    path.write_text(json.dumps(truth))
    metric, _ = computed_metric(path, [found(1, 1, (10, 10, 50, 50), 0.9), found(1, 2, (150, 10, 9, 9), 0.8)])
    facts = {"score_threshold": 0.05, "images": 1, "images_in_split": 1, "ckpt_path": "<script>alert(1)</script>"}
    write(tmp_path / "report", metric, facts, tmp_path)
    assert "\x1b" not in class_table(metric.per_class())
    with open(tmp_path / "report" / "classes.csv", newline="", encoding="utf-8") as file:
        cells = [row["name"] for row in csv.DictReader(file)]
    assert cells[0] == names[0] and cells[1].startswith("'=HYPERLINK") and "\x1b" not in cells[1]
    html, page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8"), Page(tmp_path / "report/index.html")
    assert (
        "\x1b" not in html and page.tags.count("script") == 1 and "b" not in page.tags[page.tags.index("table") :][:40]
    )
    assert all(source.startswith("data:") for source in page.sources())
    assert names[0] in page.text and "<b>\"'&amp;" in page.text and "<script>alert(1)</script>" in page.text


def test_a_file_that_cannot_be_written_leaves_the_earlier_report(written, tmp_path, monkeypatch):
    _, report, metric, _ = written
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    for broken in ("index.html", "report.json", "classes.csv", "thresholds.csv", "detections.json"):

        @contextlib.contextmanager
        def fails(path, *, broken=broken, **how):
            with replacing(path, **how) as file:
                yield file
                if path.name == broken:
                    raise OSError("full")

        for place in ("evaluation.report", "coco.whole_files"):
            monkeypatch.setattr(f"{place}.replacing", fails)
        with pytest.raises(OSError, match="full"):
            write(report, metric, FACTS | {"images_in_split": 41}, tmp_path)
        after = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
        assert after.keys() == before.keys() and all(
            after[path] == before[path] for path in after if path.name == broken
        )
