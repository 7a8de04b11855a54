"""Annotations that cannot train or be evaluated as meant: `coco.findings` names them, without opening a picture."""

import json
import re

import pytest

from coco.annotations import CocoAnnotations
from coco.findings import findings, findings_of_both


def write(path, boxes=((10, 20, 30, 20), (40, 10, 20, 30)), images=4, names=("red", "blue"), size=(96, 80), **more):
    """Each image has all the boxes, of one class after the other; `more` goes into every annotation."""
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]} for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [
            {"image_id": i, "category_id": k % len(names) + 1, "bbox": list(box), **more}
            for i in range(1, images + 1)
            for k, box in enumerate(boxes)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def change(path, alter):
    content = json.loads(path.read_text())
    alter(content)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def of(tmp_path, recwarn):
    def load(split="train", alter=lambda content: None, **options):
        return findings(CocoAnnotations.load(change(write(tmp_path / "a.json", **options), alter)), split)

    return load


def test_of_whole_data_nothing_is_said(of):
    for split in ("train", "val"):
        found = of(split)
        assert not found.problems and not found.notes


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": ()}, "no image has a usable box, so there is nothing to .* no annotations"),
        ({"iscrowd": 1}, r"every box \(8\) is a crowd"),
        ({"boxes": ((0.1, 0.2, 0.3, 0.3),), "images": 1}, r"every box \(1\) lies within 0..1.*multiply"),
        ({"boxes": ((200, 200, 10, 10),)}, "all 4 boxes have no size or lie outside"),
        ({"boxes": ((5, 5, 0, 10), (5, 5, -3, 10))}, "all 8 boxes have no size"),
        ({"boxes": ((10, 20, 1, 1), (40, 10, 0.5, 30))}, r"every box \(8\) is at most 1 px wide or high"),
        ({"boxes": ((50, 40, 95, 79), (10, 5, 60, 50))}, "stick out .* corners .*width = right - left"),
    ],
    ids=["empty", "crowds", "shares", "outside", "no size", "points", "corners"],
)
def test_data_that_is_not_what_it_should_be_is_a_problem_of_either_split(of, split, options, message):
    found = of(split, **options)
    assert len(found.problems) == 1
    assert re.search(message, found.problems[0]) and "a.json: " in found.problems[0]


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (
            {"boxes": ((10, 20, 30, 20), (40, 10, 20, 300))},
            "4 of 8 boxes stick out of the picture; training clips them",
        ),
        ({"boxes": ((10, 20, 30, 20), (200, 10, 20, 30))}, "4 of 8 boxes have no area inside the picture"),
        ({"boxes": ((10, 20, 30, 20), (40, 10, 1, 30))}, "4 of 8 boxes are at most 1 px wide or high"),
        ({"names": ("red", "blue", "green")}, "1 of 3 classes have no box: green"),
        ({"names": ("red", "red")}, "several categories have the same name: red"),
        (
            {"names": ("red", "Red")},
            "1 names of categories are there in more than one form, the first: 'Red' and 'red'",
        ),
        ({"names": ("red", " ")}, "1 categories have no name, ids 2"),
        ({"area": 0.01}, 'every "area" is at most 1 px^2'),
        ({"area": 9000}, '8 of 8 boxes have an "area" more than twice width x height'),
        (
            {"alter": lambda c: c["images"][1].update(file_name="1.jpg")},
            "1 file names are listed more than once (1 images too many): 1.jpg",
        ),
        ({"alter": lambda c: [a.update(iscrowd=1) for a in c["annotations"][:5]]}, "5 of 8 boxes are crowds"),
    ],
)
def test_what_is_odd_is_one_line_with_its_counts_and_no_problem(of, options, note):
    found = of("train", **options)
    assert not found.problems
    assert [line for line in found.notes if line.startswith(f"train: {note}")], found.notes


def test_boxes_that_fit_a_picture_lying_on_its_side_say_so(of):
    boxes = ((10, 70, 30, 20), (2, 2, 20, 20), (4, 2, 20, 20), (6, 2, 20, 20), (8, 2, 20, 20))
    found = of(boxes=boxes, size=(96, 80))
    assert "4 images have boxes that fit if width and height are swapped" in found.notes[0]


def test_a_class_of_crowds_alone_has_no_AP(of):
    found = of("val", alter=lambda c: [a.update(iscrowd=1) for a in c["annotations"] if a["category_id"] == 2])
    assert found.notes == ["val: 1 of 2 classes have crowds only, so no AP: blue"]


def test_a_few_boxes_beyond_the_border_are_no_corners(of):
    found = of(images=20, alter=lambda c: c["annotations"][0].update(bbox=[60, 20, 90, 40]))
    assert not found.problems and "1 of 40 boxes stick out" in found.notes[0]


def test_both_splits_together_are_looked_at_for_shared_pictures_and_classes_never_trained(tmp_path):
    train = CocoAnnotations.load(write(tmp_path / "train.json", boxes=((10, 20, 30, 20),)))
    val = CocoAnnotations.load(write(tmp_path / "val.json", images=2))
    (tmp_path / "other").mkdir()
    classes = "1 classes have boxes in val and none in train: blue"
    apart = findings_of_both(train, val, [tmp_path, tmp_path / "other"])
    assert apart.notes == [classes]
    together = findings_of_both(train, val, [tmp_path, tmp_path / "other" / ".."])
    assert together.notes[0] == classes and "2 pictures are in both splits" in together.notes[1]
