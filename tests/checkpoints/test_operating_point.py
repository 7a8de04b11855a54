"""Score thresholds in checkpoints: what prediction then does, and that all else in the file stays."""

import shutil

import numpy as np
import pytest
import torch

from checkpoints import files
from checkpoints.files import CheckpointError, read_checkpoint
from checkpoints.operating_point import KEY, OperatingPoint, save_operating_point
from command_line import export
from command_line.predict import predict
from prediction import Detector
from ssd_module import load_module
from training.published_saving import save_reference_checkpoint

POINT = OperatingPoint("f1", (0.9, 0.2, 0.5, 0.3), 10, "0123456789abcdef")
LOWEST = 0.2


@pytest.fixture
def with_point(random_detector, tmp_path):
    path = shutil.copy(random_detector, tmp_path / "with_point.ckpt")
    save_operating_point(path, POINT)
    return path


@pytest.fixture(scope="module")
def pictures(sample):
    return sorted((sample / "val2017").glob("*.jpg"))[:3]


def test_prediction_uses_the_thresholds_of_each_class_unless_told_otherwise(with_point, random_detector, pictures):
    everything = Detector(random_detector, "cpu", score_threshold=LOWEST)(pictures)
    seen = set()
    for found, all_ in zip(Detector(with_point, "cpu")(pictures), everything, strict=True):
        kept = all_.scores > np.array(POINT.thresholds, np.float32)[all_.labels - 1]
        assert 0 < kept.sum() < len(kept)
        assert np.array_equal(found.boxes, all_.boxes[kept]) and np.array_equal(found.labels, all_.labels[kept])
        seen |= set(found.labels.tolist())
    assert len(seen) > 1
    for found, all_ in zip(Detector(with_point, "cpu", score_threshold=LOWEST)(pictures), everything, strict=True):
        assert np.array_equal(found.scores, all_.scores), "a threshold given is that of all classes"


def test_a_checkpoint_without_thresholds_predicts_above_three_tenths(random_detector, pictures):
    assert load_module(random_detector).operating_point is None
    plain, given = (Detector(random_detector, "cpu", score_threshold=t)(pictures[0]) for t in (None, 0.3))
    assert np.array_equal(plain[0].scores, given[0].scores) and len(plain[0])


def test_predict_says_which_thresholds_it_uses(with_point, pictures, tmp_path, caplog):
    args = [str(pictures[0]), "--ckpt_path", str(with_point), "--accelerator", "cpu", "--output", str(tmp_path / "out")]
    with caplog.at_level("INFO"):
        predict(args)
    assert "score thresholds of the checkpoint: f1 per class, 0.200 to 0.900, chosen on 10 images" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        predict([*args, "--score_threshold", "0.4"])
    assert "score thresholds" not in caplog.text


def test_all_else_in_the_file_stays_to_the_bit_and_a_second_point_replaces_the_first(with_point, random_detector):
    save_operating_point(with_point, POINT._replace(rule="precision=0.9"))
    before, after = read_checkpoint(random_detector), read_checkpoint(with_point)
    assert after.pop(KEY)["rule"] == "precision=0.9" and after.keys() == before.keys()
    assert after["hyper_parameters"] == before["hyper_parameters"]
    assert all(torch.equal(after["state_dict"][key], value) for key, value in before["state_dict"].items())
    torch.load(with_point, weights_only=True)


def test_the_file_behind_a_link_is_written(random_detector, tmp_path):
    path = shutil.copy(random_detector, tmp_path / "real.ckpt")
    (tmp_path / "link.ckpt").symlink_to(path)
    save_operating_point(tmp_path / "link.ckpt", POINT)
    assert (tmp_path / "link.ckpt").is_symlink() and load_module(path).operating_point == POINT


def test_a_checkpoint_that_cannot_be_written_stays_as_it_was(with_point, monkeypatch):
    before = with_point.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.torch, "save", full)
    with pytest.raises(CheckpointError, match="could not be written"):
        save_operating_point(with_point, POINT)
    assert with_point.read_bytes() == before and [with_point] == list(with_point.parent.glob("*"))


def test_the_published_format_carries_them_there_and_back(with_point, tmp_path):
    export.main(["--ckpt_path", str(with_point), "--format", "published", "--output", str(tmp_path / "exported.pt")])
    save_reference_checkpoint(load_module(with_point), tmp_path / "saved.pt")
    for name in ("exported.pt", "saved.pt"):
        assert load_module(tmp_path / name).operating_point == POINT
    save_operating_point(tmp_path / "saved.pt", POINT._replace(images=7))
    assert load_module(tmp_path / "saved.pt").operating_point.images == 7


@pytest.mark.parametrize(
    "saved",
    [
        "f1",
        {},
        {**POINT._asdict(), "thresholds": [0.5] * 3},
        {**POINT._asdict(), "thresholds": [0.5, 0.5, 0.5, 1.0]},
        {**POINT._asdict(), "thresholds": [0.5, 0.5, 0.5, float("nan")]},
        {**POINT._asdict(), "thresholds": 0.5},
        {**POINT._asdict(), "images": "many"},
    ],
)
def test_thresholds_that_cannot_be_used_are_refused_by_name(with_point, saved):
    torch.save({**torch.load(with_point, weights_only=True), KEY: saved}, with_point)
    with pytest.raises(CheckpointError, match=r"with_point.ckpt: its `operating_point` has no thresholds in \[0, 1\)"):
        load_module(with_point)
