"""The published workflow: train and save, resume, evaluate, measure; at a small size on the CPU."""

import json
import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.files import CheckpointError
from command_line.published import EvaluateAt, main


@pytest.fixture(scope="module")
def common(sample):
    """Flags of every run here: two steps of two pictures in an epoch, no downloads."""
    return [
        *("--data", str(sample), "--device", "CPU", "--num-workers", "0", "--bs", "2", "--iterations", "2"),
        *("--eval_iters", "2", "--ebs", "4", "--log-interval", "1", "--trainer.enable_progress_bar=false"),
        *("--trainer.num_sanity_val_steps=0", "--trainer.enable_model_summary=false"),
    ]


def run_main(directory, *flags):
    main([*flags, "--run_dir", str(directory)])


@pytest.fixture(scope="module")
def models(common, tmp_path_factory):
    """DIR of `--save DIR`, after two epochs of which the second is evaluated; log.json in it."""
    directory = tmp_path_factory.mktemp("published")
    flags = ["--backbone", "thin", "--epochs", "2", "--evaluation", "1", "--warmup", "1", "--save", str(directory)]
    random_weights = "--model.backbone_weights=null"
    run_main(directory / "run", *common, *flags, "--json-summary", str(directory / "log.json"), random_weights)
    return directory


def test_save_writes_every_epoch_in_the_published_format(models):
    assert sorted(path.name for path in models.glob("*.pt")) == ["epoch_0.pt", "epoch_1.pt"]
    saved = torch.load(models / "epoch_1.pt", weights_only=True)
    assert (saved["epoch"], saved["iteration"]) == (2, 4)
    assert {"model", "optimizer", "scheduler", "label_map"} <= saved.keys()


def test_the_log_has_settings_losses_times_and_the_mAP_of_the_epochs_asked_for(models):
    lines = (models / "log.json").read_text().splitlines()
    log = [(record["step"], record["data"]) for line in lines if "step" in (record := json.loads(line[5:]))]
    settings = next(data for step, data in log if step == "PARAMETER")
    assert (settings["batch size"], settings["lr warmup"], settings["backbone"]) == (2, 1, "thin")
    assert [step for step, data in log if "loss" in data] == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert [step for step, data in log if "mAP" in data] == [[1], []]
    assert [step for step, data in log if "time" in data] == [[0], [1]]
    assert next(data["model path"] for _, data in log if "model path" in data).endswith("epoch_0.pt")
    assert set(log[-2][1]) == {"total time"} and log[-1][0] == []


@pytest.mark.parametrize("flag", [["--trainer.check_val_every_n_epoch=3"], ["--trainer.check_val_every_n_epoch", "3"]])
def test_our_flag_for_regular_validations_wins_over_the_epochs_of_evaluation(flag, common, monkeypatch):
    given = []
    monkeypatch.setattr(
        "command_line.published.train", lambda arguments, callbacks, *rest: given.append((arguments, callbacks))
    )
    monkeypatch.setattr("command_line.published.print_results", lambda trainer: None)
    for more in ([], flag):
        main([*common, "--evaluation", "1", *more])
    (_, usual), (arguments, callbacks) = given
    assert [type(callback) for callback in usual] == [EvaluateAt] and not callbacks
    assert arguments[-len(flag) :] == flag


def test_training_goes_on_from_a_saved_epoch_to_the_same_weights(models, common, tmp_path):
    flags = [
        "--backbone",
        "thin",
        "--epochs",
        "2",
        "--evaluation",
        "--warmup",
        "1",
        "--save",
        str(tmp_path / "again"),
    ]
    run_main(tmp_path / "run", *common, *flags, "--checkpoint", str(models / "epoch_0.pt"))
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["epoch_1.pt"]
    straight, again = (torch.load(d / "epoch_1.pt", weights_only=True) for d in (models, tmp_path / "again"))
    assert all(torch.equal(again["model"][key], value) for key, value in straight["model"].items())
    assert again["scheduler"] == straight["scheduler"]


def test_a_checkpoint_of_another_backbone_than_asked_is_refused(models, common, tmp_path):
    checkpoint = ["--checkpoint", str(models / "epoch_0.pt"), "--backbone", "resnet18"]
    with pytest.raises(CheckpointError, match="backbone = thin, this run has resnet18"):
        run_main(tmp_path / "run", *common, *checkpoint)
    with pytest.raises(CheckpointError, match=r"--backbone resnet18: .*epoch_0\.pt is a thin"):
        main(["--data", "d", "--mode", "evaluation", *checkpoint])


def test_evaluation_mode_evaluates_a_saved_epoch(models, common, tmp_path, capsys):
    data = common[:6]
    log = tmp_path / "eval.json"
    flags = ["--mode", "evaluation", "--checkpoint", str(models / "epoch_1.pt"), "--json-summary", str(log)]
    main([*data, *flags, "--limit", "4", "--trainer.enable_progress_bar=false"])
    precision = float(re.search(r"Model precision (\S+) mAP", capsys.readouterr().out)[1])
    assert json.loads(log.read_text().splitlines()[-1][5:])["data"]["mAP"] == precision


@pytest.mark.parametrize("mode", ["benchmark-training", "benchmark-inference"])
def test_the_benchmark_modes_measure_the_steps_after_the_warm_up_and_leave_nothing(
    mode, common, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log.json"
    flags = ["--mode", mode, "--backbone", "thin", "--benchmark-warmup", "1", "--benchmark-iterations", "3"]
    main([*common, *flags, "--json-summary", str(log)])
    found = re.search(r"Average images/sec: (\S+)\tMedian images/sec: (\S+)", capsys.readouterr().out)
    figures = json.loads(log.read_text().splitlines()[-1][5:])["data"]
    assert float(found[1]) == pytest.approx(figures["avg_img/sec"], abs=1e-3)
    assert 0 < figures["min_img/sec"] <= figures["med_img/sec"] <= figures["max_img/sec"]
    assert [path.name for path in tmp_path.iterdir()] == ["log.json"]


def test_device_gpu_without_cuda_is_an_error_that_says_so(common):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(MisconfigurationException, match=r"--device \(--accelerator\) cuda: no CUDA device is visible"):
        main([*common, "--device", "GPU"])


def test_validation_comes_after_the_epochs_asked_for_and_no_other():
    asked, trainer, validated = EvaluateAt([0, 3]), pl.Trainer(logger=False, accelerator="cpu"), []
    for epoch in range(5):
        trainer.fit_loop.epoch_progress.current.completed = epoch
        asked.on_train_epoch_start(trainer, None)
        if (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0:
            validated.append(epoch)
    assert validated == [0, 3]


def test_a_refused_number_names_the_published_flag(sample):
    with pytest.raises(MisconfigurationException, match=r"^--lr \(--model\.learning_rate\) -1\.0: expected"):
        main(["--data", str(sample), "--no-cuda", "--backbone", "resnet18", "--lr", "-1"])
