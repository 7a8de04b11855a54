"""Resuming with other settings, data or versions: each takes effect and is told, or is refused, naming old and new."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import EMAWeightAveraging

from checkpoints.files import CheckpointError
from command_line.fit_cli import FitCLI
from ssd_module import SSDModule
from tests.conftest import edit
from tests.training.test_resuming import arguments, assert_goes_on_exactly, run
from training.schedule import RecipeSchedule
from training.what_changed import (
    changed_settings,
    changed_validation,
    check_same_model,
    drop_average,
    keep_first_weights,
    made_with,
    take_settings,
)

TOLD = "otherwise than before"


def kept(straight, which="3_step"):
    return str(straight / "checkpoints" / f"kept_{which}.ckpt")


def test_changed_settings_take_effect_and_are_told_and_the_checkpoint_claims_what_is_so(
    small, straight, tmp_path, caplog
):
    """The right value of a run resumed at its milestone, on another validation set."""
    data = shutil.copytree(small, tmp_path / "data")
    edit(data / "annotations" / "instances_val2017.json", lambda content: content["annotations"].pop())
    changes = {
        "model.learning_rate": (0.0026, 0.5),
        "model.momentum": (0.9, 0.1),
        "model.weight_decay": (0.0005, 0.2),
        "model.warmup_steps": (2, 0),
        "model.milestones": ("[43, 54]", "[1]"),
        "model.gamma": (0.1, 0.25),
        "model.score_threshold": (0.05, 0.5),
        "trainer.gradient_clip_val": (None, 10.0),
    }
    flags = [text for name, (_, new) in changes.items() for text in (f"--{name}", str(new))]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(straight / "checkpoints" / "best.ckpt", tmp_path / "run" / "checkpoints")
    with caplog.at_level("INFO"):
        run(data, tmp_path / "run", "--ckpt_path", kept(straight), *flags, "--trainer.max_steps", "4")
    for name, (old, new) in changes.items():
        assert f"{name} {old} -> {new}" in caplog.text
    assert "another validation set (annotations" in caplog.text and "the best checkpoint, of mAP" in caplog.text
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == saved["lr_schedulers"][0]["base_lrs"] == [0.5 * 2 / 32] * 2
    assert [group["lr"] for group in groups] == pytest.approx([0.5 * 2 / 32 * 0.25] * 2)
    assert [group["momentum"] for group in groups] == [0.1, 0.1]
    assert sorted(group["weight_decay"] for group in groups) == [0, 0.2]
    assert (saved["hyper_parameters"]["learning_rate"], saved["hyper_parameters"]["momentum"]) == (0.5, 0.1)
    before = torch.load(kept(straight), weights_only=True)
    moved = saved["state_dict"]["model.offset_heads.0.weight"] - before["state_dict"]["model.offset_heads.0.weight"]
    assert moved.abs().max() > 0, "the step was made"


def test_a_checkpoint_from_before_such_things_were_saved_goes_on_without_a_word(small, straight, tmp_path, caplog):
    checkpoint = torch.load(kept(straight, "4_step"), weights_only=True)
    for key in ("made_with", "last_validation"):
        del checkpoint[key]
    del checkpoint["COCODataModule"]["evaluated_on"], checkpoint["COCODataModule"]["samples_from"]["pictures"]
    torch.save(checkpoint, tmp_path / "older.ckpt")
    with caplog.at_level("INFO"):
        assert_goes_on_exactly(small, straight, tmp_path / "run", tmp_path / "older.ckpt")
    assert TOLD not in caplog.text, "nothing was changed, either"


def test_other_pictures_under_the_same_names_are_refused_unless_asked_for(small, straight, tmp_path):
    data = shutil.copytree(small, tmp_path / "data")
    picture = sorted((data / "train2017").iterdir())[0]
    Image.new("RGB", Image.open(picture).size).save(picture)
    with pytest.raises(
        CheckpointError, match=r"other samples \(pictures \w+ -> \w+\).*--data.allow_other_samples true"
    ):
        run(data, tmp_path / "run", "--ckpt_path", kept(straight, "5_step"))
    flags = ("--data.allow_other_samples", "true", "--trainer.limit_val_batches", "0")
    assert run(data, tmp_path / "run", "--ckpt_path", kept(straight, "5_step"), *flags).global_step == 6


def test_epochs_of_another_length_are_refused(small, straight, tmp_path):
    with pytest.raises(CheckpointError, match=r"limit_train_batches 2: the checkpoint was made with 1\.0"):
        run(small, tmp_path / "run", "--ckpt_path", kept(straight), "--trainer.limit_train_batches", "2")


def test_first_weights_that_are_not_those_of_the_run_are_refused():
    hparams = {"backbone_weights": None, "finetune_from": None}
    keep_first_weights({"backbone_weights": "IMAGENET1K_V2", "finetune_from": None}, hparams)
    assert hparams["backbone_weights"] == "IMAGENET1K_V2", "the next checkpoint tells what the run began with"
    with pytest.raises(CheckpointError, match=r"finetune_from b\.ckpt: the run to resume began with a\.ckpt"):
        keep_first_weights({"finetune_from": "a.ckpt"}, {"finetune_from": "b.ckpt"})


def test_without_its_moving_average_a_run_goes_on_from_the_trained_weights():
    """Which Lightning would take for the average: that is what stands in `state_dict`."""
    checkpoint = {"state_dict": "average", "current_model_state": "trained"}
    drop_average(checkpoint, SimpleNamespace(callbacks=[EMAWeightAveraging()]))
    assert checkpoint["state_dict"] == "average"
    drop_average(checkpoint, SimpleNamespace(callbacks=[]))
    assert checkpoint["state_dict"] == "trained"


def trainer_of(**settings):
    names = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "max_epochs", "max_steps")
    names += ("limit_train_batches", "limit_val_batches", "val_check_interval", "check_val_every_n_epoch")
    device = SimpleNamespace(root_device=torch.device(settings.pop("device", "cpu")))
    return SimpleNamespace(**{**dict.fromkeys(names), **settings}, strategy=device, checkpoint_callbacks=[])


def test_the_trainers_settings_the_device_and_the_versions_are_told():
    module = SSDModule("thin", 2)
    checkpoint = {"made_with": made_with(trainer_of(precision="32-true", max_epochs=2), module)}
    checkpoint["made_with"]["versions"]["torch"] = "1.0"
    assert json.loads(json.dumps(checkpoint)) == checkpoint, "plain data"
    now = made_with(trainer_of(precision="bf16-mixed", max_epochs=4, device="cuda:1"), module)
    lines = changed_settings(checkpoint, now, module.hparams)
    told = "\n".join(lines)
    assert "trainer.precision 32-true -> bf16-mixed" in told and "device cpu -> cuda" in told
    assert f"version of torch 1.0 -> {torch.__version__}" in told
    assert "trainer.max_epochs 2 -> 4 (milestones stay at their epochs" in told
    assert len(lines) == 4
    again = {"made_with": made_with(trainer_of(), module), "hyper_parameters": dict(module.hparams)}
    assert changed_settings(again, made_with(trainer_of(), module), module.hparams) == []


def optimiser(rate, momentum):
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=momentum)
    return made, RecipeSchedule(made, 3, 0, (), 0.1)


def test_of_a_checkpoint_without_hyper_parameters_the_optimisers_own_settings_are_told():
    """The published recipe's."""
    (old, old_schedule), (new, new_schedule) = optimiser(0.1, 0.9), optimiser(0.2, 0.5)
    checkpoint = {"optimizer_states": [old.state_dict()], "lr_schedulers": [old_schedule.state_dict()]}
    trainer = SimpleNamespace(optimizers=[new], lr_scheduler_configs=[SimpleNamespace(scheduler=new_schedule)])
    told = take_settings(checkpoint, trainer)
    assert told == {
        "momentum": "the optimiser's momentum 0.9 -> 0.5",
        "learning_rate": "the learning rate of a step, after warm-up, 0.1 -> 0.2",
    }
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == [0.2]
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.5
    assert take_settings(checkpoint, trainer) == {}


def test_another_validation_set_is_told_with_the_best_that_stays():
    best = {
        "callbacks": {"ModelCheckpoint{'monitor': 'mAP'}": {"monitor": "mAP", "best_model_score": torch.tensor(0.5)}}
    }
    (line,) = changed_validation(best, {"images": 4, "pictures": "a"}, {"images": 2, "pictures": "a"})
    assert line.startswith("another validation set (images 4 -> 2): mAP before and after are not comparable")
    assert line.endswith("of mAP 0.500, stays until a validation beats it")
    assert changed_validation({}, {"images": 4}, {"images": 4}) == changed_validation({}, {}, {"images": 4}) == []


def test_classes_of_the_same_letters_and_other_bytes_are_told_apart():
    saved = {"class_names": ("caf\u00e9", "dog")}
    with pytest.raises(CheckpointError, match=r"'caf\\xe9' is not 'cafe\\u0301' \(Unicode form NFC against NFD\)"):
        check_same_model(saved, {"class_names": ("cafe\u0301", "dog")})
    with pytest.raises(CheckpointError, match=r"that it was trained with\.$"):
        check_same_model({"backbone": "resnet18"}, {"backbone": "resnet50"})


def test_a_resumed_run_keeps_its_precision_where_auto_would_be_another(small, straight, tmp_path, monkeypatch):
    monkeypatch.setattr("command_line.shared.fast_precision", lambda accelerator: "bf16-mixed")
    flags = arguments(small, tmp_path / "run", "--precision", "auto")
    assert FitCLI(flags).trainer.precision == "bf16-mixed"
    cli = FitCLI([*flags, "--ckpt_path", str(straight / "checkpoints" / "last.ckpt")])
    assert cli.trainer.precision == cli.config.trainer.precision == "32-true"
