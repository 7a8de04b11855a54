"""`--log_to`: W&B, MLflow and the recipe's log beside a run's own loggers, by one word."""

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.fit import train
from command_line.fit_cli import FitCLI
from tests.training.test_resuming import arguments
from training.csv_log import CSVLog
from training.dllogger import DLLogger
from training.loggers import check_log_to

STEPS = ("--max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1")


def test_one_line_adds_a_logger_to_those_of_the_run(sample, tmp_path):
    (tmp_path / "log.yaml").write_text("log_to: [dllogger, dllogger]\n")
    loggers = FitCLI([*arguments(sample, tmp_path / "run"), "--config", str(tmp_path / "log.yaml")]).trainer.loggers
    assert [type(logger) for logger in loggers] == [TensorBoardLogger, CSVLog, DLLogger]
    assert loggers[-1].path == tmp_path / "run" / "logs" / "dllogger.json"


@pytest.mark.parametrize("form", ["config", "flags"])
def test_any_lightning_logger_stands_in_place_of_the_run_s_own(sample, tmp_path, form):
    (tmp_path / "loggers.yaml").write_text(f"""
trainer:
  logger:
    - class_path: pytorch_lightning.loggers.CSVLogger
      init_args: {{save_dir: {tmp_path}}}
    - class_path: training.dllogger.DLLogger
      init_args: {{path: {tmp_path}/log.json}}
""")
    choice = {
        "config": ["--config", str(tmp_path / "loggers.yaml")],
        "flags": ["--trainer.logger", "CSVLogger", f"--trainer.logger.save_dir={tmp_path}", "--log_to", "dllogger"],
    }[form]
    loggers = FitCLI([*arguments(sample, tmp_path / "run"), *choice]).trainer.loggers
    assert [type(logger) for logger in loggers] == [CSVLogger, DLLogger]
    path = {"config": tmp_path / "log.json", "flags": tmp_path / "run" / "logs" / "dllogger.json"}[form]
    assert loggers[1].path == path


def test_what_cannot_be_logged_to_is_refused_before_there_is_a_run(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MisconfigurationException, match="--log_to comet: expected one of dllogger, mlflow, wandb"):
        FitCLI(arguments(sample, tmp_path / "run", "--log_to", "comet"))
    monkeypatch.setattr("training.loggers.PACKAGES", {"wandb": "wandb_of_no_one"})
    (tmp_path / "wandb_of_no_one").mkdir()  # as W&B makes one of its name where it runs
    with pytest.raises(MisconfigurationException, match=r"is not here\. Install it with: pip install wandb_of_no_one"):
        check_log_to(["wandb"])
    assert not (tmp_path / "run").exists()


@pytest.mark.extras
def test_wandb_keeps_a_run_offline_in_the_run_directory(sample, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = train([*arguments(sample, tmp_path / "run"), *STEPS, "--log_to", "wandb"])
    run = trainer.loggers[-1].experiment
    summary = dict(run.summary)
    run.finish()
    assert run.project == "ssd300" and run.name == "run"
    assert {"val/mAP", "train/loss_step", "train/learning_rate"} <= summary.keys() and "mAP" not in summary
    assert list((tmp_path / "run" / "logs" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.extras
def test_mlflow_keeps_a_run_in_the_run_directory(sample, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="pip install mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    trainer = train([*arguments(sample, tmp_path / "run"), *STEPS, "--log_to", "mlflow"])
    logger = trainer.loggers[-1]
    found = logger.experiment.get_run(logger.run_id)
    assert {"val/mAP", "train/loss_step", "train/learning_rate"} <= found.data.metrics.keys()
    assert found.info.status == "FINISHED" and found.data.params["backbone"] == "thin"
    assert (tmp_path / "run" / "logs" / "mlflow.db").is_file()
