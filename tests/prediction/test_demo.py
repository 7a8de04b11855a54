"""What the demo page shows, by the functions behind it; tests/command_line/test_demo.py looks at the page itself."""

import json
from pathlib import Path

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction.demo import detect
from prediction.detector import Detector


@pytest.fixture(scope="module")
def detector(thin_detector):
    return Detector(thin_detector, "cpu")


def test_pictures_are_drawn_and_told_by_name_and_a_broken_one_is_told(detector, sample, tmp_path):
    good, broken = sample / "val2017" / "000000000001.jpg", tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    (tmp_path / "out").mkdir()
    found = detect(detector, [str(good), str(broken)], tmp_path / "out", 0.2)
    assert len(found.pictures) == 1 and not found.videos
    assert {row[0] for row in found.rows} == {good.name} and all(float(row[3]) > 0.2 for row in found.rows)
    assert found.told == f"detections: {len(found.rows)}, in pictures: 1"
    (problem,) = found.problems
    assert problem.startswith("broken.jpg: not an image file") and str(tmp_path) not in problem
    records, images = (json.loads(Path(path).read_text()) for path in found.tables[:2])
    assert len(records) == len(found.rows) and images["images"][0]["file_name"] == good.name


def test_threshold_and_classes_are_of_one_visit_alone(detector, sample, tmp_path):
    picture, before = str(sample / "val2017" / "000000000001.jpg"), detector.thresholds.copy()
    counts = []
    for number, choice in enumerate([(0.2, ()), (0.6, ()), (0.2, ("id:7",)), (None, ())]):
        (tmp_path / str(number)).mkdir()
        rows = detect(detector, [picture], tmp_path / str(number), *choice).rows
        counts.append(len(rows))
        assert not choice[1] or {row[2] for row in rows} == {"triangle"}
    assert counts[0] > counts[1] and counts[0] >= counts[2] > 0 and counts[3] > 0
    assert (detector.thresholds == before).all() and detector.labels is None


def test_an_unknown_class_is_refused(detector, sample, tmp_path):
    with pytest.raises(MisconfigurationException, match="--classes id:99"):
        detect(detector, [str(sample / "val2017" / "000000000001.jpg")], tmp_path, 0.2, ["id:99"])
