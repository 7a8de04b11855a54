"""`python -m checkpoints` tells what a file is, in every form that is taken as a checkpoint."""

import hashlib
import json

import pytest
import torch

from checkpoints.__main__ import facts, main
from checkpoints.files import CheckpointError
from checkpoints.operating_point import OperatingPoint, save_operating_point
from checkpoints.progress import progress_after
from checkpoints.published import from_ours
from ssd.parameters import parameter_groups
from ssd_module import SSDModule, load_module

NAMES = ["cat", "dog\x1b[31m", "emu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint as a run leaves it after epoch 3, with thresholds, and published files of the same weights."""
    module = SSDModule("thin", 3, NAMES, [1, 5, 9])
    directory = tmp_path_factory.mktemp("files")
    optimizer = torch.optim.SGD(parameter_groups(module.model, 5e-4), lr=1e-3, momentum=0.9)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1e-3
    ours = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "global_step": 12,
        "loops": progress_after(3, 12),
        "optimizer_states": [optimizer.state_dict()],
        "last_validation": {"mAP": 0.25},
        "callbacks": {"ModelCheckpoint of the run: best": {"monitor": "mAP", "best_model_score": torch.tensor(0.5)}},
        "made_with": {"trainer": {"precision": "bf16-mixed"}, "device": "cpu", "versions": {"torch": "2.14"}},
        "COCODataModule": {"selection": {"classes": ["cat"], "upright": False}},
    }
    torch.save(ours, directory / "last.ckpt")
    save_operating_point(directory / "last.ckpt", OperatingPoint("f1", (0.5, 0.25, 0.5), 10, "digest"))
    published = from_ours(ours)
    torch.save(published, directory / "epoch_2.pt")
    torch.save({**published, "optimizer": {"of": "Apex"}}, directory / "apex.pt")
    torch.save({"model": published["model"]}, directory / "weights.pt")
    return directory


def test_of_a_run_it_tells_place_numbers_thresholds_and_data(files):
    found, content = facts(files / "last.ckpt"), (files / "last.ckpt").read_bytes()
    assert found["sha256"] == hashlib.sha256(content).hexdigest() and found["bytes"] == len(content)
    assert (found["format"], found["resumable"]) == ("of this project", True)
    assert (found["backbone"], found["class_names"], found["category_ids"]) == ("thin", NAMES, [1, 5, 9])
    assert (found["epochs"], found["steps"], found["mAP"]) == (3, 12, 0.25)
    assert (found["best"], found["precision"]) == ({"by": "mAP", "value": 0.5}, "bf16-mixed")
    assert found["score_thresholds"]["thresholds"] == [0.5, 0.25, 0.5] and found["data"]["classes"] == ["cat"]
    module = load_module(files / "last.ckpt")
    assert found["numbers"]["float32"] == sum(t.numel() for t in module.state_dict().values() if t.is_floating_point())


def test_of_a_published_file_it_tells_whether_training_can_go_on(files):
    whole, apex, weights = (facts(files / f"{name}.pt") for name in ("epoch_2", "apex", "weights"))
    assert (whole["format"], whole["epochs"], whole["steps"]) == ("of the published recipe", 3, 12)
    assert (whole["resumable"], apex["resumable"], weights["resumable"]) == (True, False, False)
    assert weights["format"] == "of the published recipe, weights alone"
    assert weights["class_names"] == ["class 1", "class 2", "class 3"] and weights["category_ids"] == [1, 2, 3]


def test_what_it_prints_is_for_people_or_for_programs(files, capsys):
    assert main([str(files / "last.ckpt")]) == 0
    told = capsys.readouterr().out
    lines = {name: value.strip() for name, _, value in (line.partition(":") for line in told.splitlines())}
    assert lines["class names"] == "3: cat, dog\\x1b[31m, emu", "no control characters"
    assert (lines["epochs"], lines["best"]) == ("3", "mAP 0.5000, of the run so far")
    assert (lines["score thresholds"], lines["data"]) == ("per class, by f1, chosen on 10 images", "classes ['cat']")
    assert main(["--json", str(files / "weights.pt"), str(files / "epoch_2.pt")]) == 0
    assert [json.loads(line)["epochs"] for line in capsys.readouterr().out.splitlines()] == [None, 3]


def test_what_is_no_checkpoint_is_an_error_that_names_it(files, tmp_path, capsys):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    saved = torch.load(files / "last.ckpt", weights_only=True)
    torch.save({**saved, "loops": 5}, tmp_path / "odd.ckpt")
    torch.save({**saved, "hyper_parameters": {"backbone": "thin", "num_classes": 4}}, tmp_path / "larger.ckpt")
    assert main([str(tmp_path / "other.pt"), str(tmp_path / "gone.pt"), str(files / "weights.pt")]) == 1
    out, err = capsys.readouterr()
    assert "other.pt: neither" in err and "gone.pt: no such" in err and "weights.pt" in out
    for name in ("odd.ckpt", "larger.ckpt"):
        with pytest.raises(CheckpointError, match=f"{name}: what it says of itself cannot be read"):
            facts(tmp_path / name)
