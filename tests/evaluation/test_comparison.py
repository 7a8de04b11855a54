import json
import math

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from evaluation.comparison import Comparison, Difference, class_table, compare, number_table, sentence
from evaluation.detections import Detections
from evaluation.metric import NUMBERS


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Sixty images with five objects of two classes each; a third class has none."""
    rng = np.random.default_rng(0)
    images = [{"id": i + 1, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(60)]
    boxes = [
        {"id": 5 * i + k + 1, "image_id": i + 1, "category_id": int(rng.integers(1, 3)), "iscrowd": 0}
        | {"bbox": [float(x) for x in (*rng.uniform(0, 300, 2), *rng.uniform(20, 170, 2))]}
        for i in range(60)
        for k in range(5)
    ]
    categories = [{"id": c, "name": name} for c, name in ((1, "cat"), (2, "dog"), (3, "emu"))]
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return CocoAnnotations.load(path, cache=False)


def detector(annotations, seed, jitter=0.08, missing=0.3):
    """What a detector finds that is off by `jitter` of a box's sides and misses some objects; and false positives."""
    rng = np.random.default_rng(seed)
    count = len(annotations.labels)
    noise = rng.normal(0, jitter, (count, 4)) * np.tile(annotations.bboxes[:, 2:], 2)
    image = np.repeat(annotations.image_ids, np.diff(annotations.first))
    rows = np.flatnonzero(rng.random(count) > missing)
    true = (annotations.bboxes + noise)[rows]
    false = np.concatenate((rng.uniform(0, 300, (120, 2)), rng.uniform(20, 170, (120, 2))), axis=1)
    boxes = np.concatenate((true, false))
    boxes[:, 2:] += boxes[:, :2]
    scores = np.concatenate((rng.beta(5, 2, len(rows)), rng.beta(2, 5, 120)))
    labels = np.concatenate((annotations.labels[rows], rng.integers(1, 3, 120))).astype(np.int16)
    image = np.concatenate((image[rows], rng.choice(annotations.image_ids, 120)))
    parts = [
        Detections(
            np.array([i]), np.array([(image == i).sum()]), boxes[image == i], scores[image == i], labels[image == i]
        )
        for i in annotations.image_ids
    ]
    return Detections.joined(parts)


def test_detectors_that_differ_by_chance_alone_are_said_to_be_noise(annotations):
    found = [
        compare(annotations, detector(annotations, 2 * s), detector(annotations, 2 * s + 1), 200) for s in range(12)
    ]
    beyond = sum(each.numbers[0].beyond_noise for each in found)
    assert beyond <= 2, "of 12, where 5 % are expected"
    assert all(each.numbers[0].a != each.numbers[0].b for each in found)
    words = [sentence(each) for each in found]
    assert sum(text.startswith("No difference beyond noise over 60 images: B - A is") for text in words) == 12 - beyond


@pytest.mark.parametrize("better", ("A", "B"))
def test_a_detector_that_is_better_is_said_to_be_by_how_much(annotations, better):
    good, bad = detector(annotations, 0, jitter=0.04), detector(annotations, 1, jitter=0.1)
    found = compare(annotations, *((good, bad) if better == "A" else (bad, good)), 200)
    total = found.numbers[0]
    assert total.beyond_noise and total.low < total.b - total.a < total.high
    low, high = sorted((abs(total.low), abs(total.high)))
    assert sentence(found) == (
        f"{better} is better by {abs(total.b - total.a):.3f} mAP, 95 % interval {low:.3f} to {high:.3f}, "
        "over 60 images."
    )
    assert all(row.beyond_noise for row in found.classes[:2])


def test_the_intervals_narrow_where_both_err_on_the_same_images(annotations):
    a, b = detector(annotations, 0), detector(annotations, 1)
    near = a._replace(boxes=a.boxes + 1)  # a pixel off: alike in every image
    paired, unpaired = (compare(annotations, a, other, 200).numbers[0] for other in (near, b))
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_the_same_detections_have_the_same_numbers_and_a_class_without_objects_has_none(annotations):
    a = detector(annotations, 0)
    found = compare(annotations, a, a, 100)
    assert [row.name for row in found.numbers] == list(NUMBERS)
    assert all(row.a == row.b and row.low == row.high == 0 for row in found.numbers[:6])
    assert sentence(found).startswith(f"A and B have the same mAP, {found.numbers[0].a:.3f}, over 60 images")
    assert math.isnan(found.classes[2].a) and math.isnan(found.classes[2].low)
    assert "emu" not in class_table(found) and "0 of 2 classes" in class_table(found)


def test_the_seed_decides_the_intervals(annotations):
    a, b = detector(annotations, 0), detector(annotations, 1)
    first, again, other = (compare(annotations, a, b, 100, seed).numbers for seed in (3, 3, 4))
    assert first == again != other


def test_detections_of_other_images_cannot_be_compared(annotations):
    a = detector(annotations, 0)
    with pytest.raises(ValueError, match="a has 60 images and b 59"):
        compare(annotations, a, Detections(a.image_ids[1:], a.counts[1:], a.boxes, a.scores, a.labels))


def test_tables_show_differences_with_their_sign_and_a_star_beyond_noise():
    rows = [Difference("mAP", 0.5, 0.25, -0.5, -0.125), Difference("mAP_small", math.nan, math.nan, math.nan, math.nan)]
    classes = [Difference("a\x1b[2J", 0.5, 0.5, -0.1, 0.1), Difference("b", 0.25, 0.5, 0.125, 0.375)]
    found = Comparison(7, 100, rows, classes)
    assert "mAP          0.500  0.250 -0.250  -0.500 .. -0.125 *" in number_table(found)
    assert "mAP_small        -      -      -       - ..      -\n" in number_table(found) + "\n"
    table = class_table(found).splitlines()
    assert table[3].split()[0] == "b" and table[3].endswith("*"), "what gained most comes first"
    assert table[4].startswith(r"a\x1b[2J") and table[5].startswith("* 1 of 2 classes, of which about 0.1")
    nothing = Comparison(7, 100, [rows[1]], [])
    assert sentence(nothing) == "There is nothing to compare: no objects are annotated in these 7 images."
