"""A table of boxes as docs/custom_data.md has it becomes what training reads."""

import csv

import numpy as np
from PIL import Image

from coco import check, convert
from coco.annotations import CocoAnnotations

COLUMNS = ("split", "picture", "class", "left", "top", "right", "bottom")


def test_a_table_of_boxes_becomes_a_data_set_fit_for_training(tmp_path):
    for split in ("train2017", "val2017"):
        (tmp_path / split / "kitchen").mkdir(parents=True)
        for number in range(2):
            colour = (number, len(split), 0)  # so that no two are equal
            Image.new("RGB", (100, 80), colour).save(tmp_path / split / "kitchen" / f"{number}.png")
    rows = [
        ("train2017", "kitchen/0.png", "pan", 10, 20, 60, 70.5),
        ("train2017", "kitchen/0.png", "kettle", 0, 0, 50, 50),
        ("train2017", "kitchen/1.png", "", "", "", "", ""),
        ("val2017", "kitchen/0.png", "kettle", 1, 2, 3, 4),
        ("val2017", "kitchen/1.png", "kettle", 1, 2, 30, 40),
    ]
    with open(tmp_path / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    convert.main([str(tmp_path), str(tmp_path / "made")])
    tmp_path = tmp_path / "made"

    train = CocoAnnotations.load(tmp_path / "annotations" / "instances_train2017.json")
    assert train.class_names == ("kettle", "pan") and train.trainable.tolist() == [0]
    boxes, labels = train.training_boxes(0)
    np.testing.assert_allclose(boxes, [[0.1, 0.25, 0.6, 0.88125], [0, 0, 0.5, 0.625]])
    assert labels.tolist() == [2, 1]
    assert check.main([str(tmp_path), "--output", str(tmp_path / "check.png")]) == 0
