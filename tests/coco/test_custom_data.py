"""docs/custom_data.md: its converter makes what training reads."""

import csv
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from coco import check
from coco.annotations import CocoAnnotations
from tests.conftest import PROJECT

COLUMNS = ("split", "picture", "class", "left", "top", "right", "bottom")


def test_the_converter_of_the_page_turns_a_table_of_boxes_into_a_data_set_fit_for_training(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "custom_data.md").read_text(), re.DOTALL)
    (tmp_path / "to_coco.py").write_text(program)
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
    subprocess.run([sys.executable, "to_coco.py", "."], cwd=tmp_path, check=True, timeout=60)

    train = CocoAnnotations.load(tmp_path / "annotations" / "instances_train2017.json")
    assert train.class_names == ("kettle", "pan") and train.trainable.tolist() == [0]
    boxes, labels = train.training_boxes(0)
    np.testing.assert_allclose(boxes, [[0.1, 0.25, 0.6, 0.88125], [0, 0, 0.5, 0.625]])
    assert labels.tolist() == [2, 1]
    assert check.main([str(tmp_path), "--output", str(tmp_path / "check.png")]) == 0
