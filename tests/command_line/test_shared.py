import errno
import sys

import pytest
import yaml
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.files import CheckpointError
from command_line.evaluate import EvaluateCLI
from command_line.fit_cli import FitCLI
from command_line.shared import UsageError, long_flags, run


def test_short_flags_become_lightnings():
    assert long_flags(["--accelerator", "mlu", "--devices=8", "--data_root", "x", "--model.gamma", "1"]) == [
        *("--trainer.accelerator", "mlu", "--trainer.devices=8", "--data.data_root", "x", "--model.gamma", "1")
    ]
    assert long_flags(["--max-epochs", "3"]) == ["--trainer.max_epochs", "3"]


@pytest.fixture
def cli(sample, tmp_path):
    def parse(*args):
        common = ["--accelerator", "cpu", "--data_root", str(sample), "--run_dir", str(tmp_path / "run")]
        return FitCLI([*common, "--num_workers", "0", "--batch_size", "4", "--model.backbone", "thin", *args])

    return parse


def test_the_model_takes_its_classes_from_the_data(cli):
    module = cli().model
    assert module.class_names == ("disc", "square", "triangle", "cross") and module.category_ids == (2, 3, 7, 40)


def test_the_later_of_config_and_flags_wins(cli, tmp_path):
    (tmp_path / "a.yaml").write_text("trainer:\n  max_epochs: 7\nmodel:\n  learning_rate: 0.5\n")
    config = ["--config", str(tmp_path / "a.yaml")]
    assert cli(*config, "--max_epochs", "9").trainer.max_epochs == 9
    other = cli("--max_epochs", "9", *config, "--run_dir", str(tmp_path / "other"))
    assert other.trainer.max_epochs == 7 and other.model.hparams.learning_rate == 0.5


def test_the_saved_config_repeats_the_run(cli):
    first = cli("--max_epochs", "3", "--seed", "5")
    path = first.save_config()
    saved = yaml.safe_load(path.read_text())
    assert saved["trainer"]["max_epochs"] == 3 and saved["seed_everything"] == 5
    again = FitCLI(["--config", str(path)])
    assert again.trainer.max_epochs == 3 and again.datamodule.seed == 5
    assert first.save_config().name == "config_1.yaml"


def test_runs_are_numbered_unless_named(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "0007").mkdir(parents=True)
    assert str(cli("--run_dir", "null").run_dir) == "runs/0008"


def test_a_used_run_directory_is_not_overwritten(cli, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"already holds checkpoints.*--ckpt_path last"):
        cli()


def test_auto_starts_fresh_where_a_kill_left_nothing_but_an_unfinished_checkpoint(cli, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / ".last.ckpt.123.unfinished").write_bytes(b"half")
    assert cli("--ckpt_path", "auto").ckpt_path is None


def test_a_strategy_and_plugins_may_be_objects_of_the_config(cli, tmp_path):
    (tmp_path / "ddp.yaml").write_text(
        "trainer:\n"
        "  strategy:\n"
        "    class_path: pytorch_lightning.strategies.SingleDeviceStrategy\n"
        "    init_args: {device: cpu}\n"
        "  plugins:\n"
        "    class_path: pytorch_lightning.plugins.MixedPrecision\n"
        "    init_args: {precision: bf16-mixed, device: cpu}\n"
    )
    trainer = cli("--config", str(tmp_path / "ddp.yaml")).trainer
    assert trainer.precision == "bf16-mixed"


def test_a_saved_configuration_repeats_the_run_with_its_nulls_and_leaves_the_directory_open(cli, tmp_path):
    first = cli("--stall_seconds", "null", "--save_every_minutes", "null", "--model.gamma", "0.5")
    path = first.save_config()
    again = cli("--config", str(path), "--run_dir", str(tmp_path / "other"))
    assert again.config.stall_seconds is None and again.config.save_every_minutes is None
    assert again.config.model.gamma == 0.5 and again.run_dir == tmp_path / "other"
    assert "run_dir" not in path.read_text()


def test_each_run_of_a_process_has_its_own_directory(cli, tmp_path):
    assert [cli("--run_dir", str(tmp_path / name)).run_dir.name for name in ("a", "b")] == ["a", "b"]


def test_a_requeued_slurm_job_goes_on_in_its_directory(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "ssd", "SLURM_NTASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    run_dir = cli("--run_dir", "null").run_dir
    assert str(run_dir) == "runs/slurm_17"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match="already holds checkpoints"):
        cli("--run_dir", "null")
    (run_dir / "hpc_ckpt_1.ckpt").touch()
    assert cli("--run_dir", "null").run_dir == run_dir, "Lightning goes on from what it saved when it requeued the job"


def test_lightnings_single_callback_and_missing_logger_or_checkpoints_work(cli, tmp_path):
    (tmp_path / "one.yaml").write_text("trainer: {callbacks: {class_path: pytorch_lightning.callbacks.Timer}}\n")
    flags = ("--trainer.logger", "false", "--trainer.enable_checkpointing", "false")
    trainer = cli("--config", str(tmp_path / "one.yaml"), *flags).trainer
    assert any(type(callback).__name__ == "Timer" for callback in trainer.callbacks)
    assert not trainer.checkpoint_callbacks and not trainer.loggers


def test_the_command_that_resumes_keeps_every_flag_but_run_directory_and_checkpoint(cli, sample, tmp_path):
    made = cli("--ckpt_path", "auto", "--model.backbone=resnet18", "--max_epochs", "3")
    command = made.resume_command
    assert command.startswith(f"{sys.executable} train.py ") and "--model.backbone=resnet18 --max_epochs 3" in command
    assert command.endswith(f"--run_dir {made.run_dir} --ckpt_path auto")
    assert command.count("--run_dir") == command.count("--ckpt_path") == 1
    typed = ("python", "main.py", "--checkpoint", "epoch_3.pt", "--save", "models")
    published = FitCLI(["--data_root", str(sample), "--accelerator", "cpu", "--run_dir", str(tmp_path)], command=typed)
    assert published.resume_command == f"python main.py --save models --run_dir {published.run_dir} --ckpt_path auto"


def test_the_home_directory_is_meant_by_a_tilde_wherever_it_is_written(cli, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(sample)
    (tmp_path / "a.yaml").write_text("run_dir: ~/other\nmodel:\n  backbone_weights: ~/weights.pth\n")
    made = cli("--data_root=~/data", "--config=~/a.yaml")
    assert made.datamodule.data_root == tmp_path / "data" and made.run_dir == tmp_path / "other"
    assert made.model.hparams.backbone_weights == str(tmp_path / "weights.pth")


def test_evaluate_without_a_checkpoint_asks_for_it_by_its_flag(sample):
    with pytest.raises(UsageError, match=r"^--ckpt_path is missing: the checkpoint to evaluate, such as runs/"):
        EvaluateCLI(["--data_root", str(sample), "--accelerator", "cpu"])


def test_help_lists_the_short_flags(capsys):
    with pytest.raises(SystemExit):
        EvaluateCLI(["--help_all"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--ckpt_path (--model.path)" in told and "--data_root (--data.data_root)" in told


def test_a_run_that_has_saved_nothing_starts_again_from_the_checkpoint_that_was_given(cli, sample, tmp_path):
    typed = ("python", "train.py", "--run_dir=old", "--ckpt_path", "other/best.ckpt")
    arguments = ["--data_root", str(sample), "--accelerator", "cpu", "--run_dir", str(tmp_path)]
    command = FitCLI(arguments, command=typed).start_command
    assert command == f"python train.py --ckpt_path other/best.ckpt --run_dir {tmp_path}"


def test_what_the_environment_lacks_is_said_though_clearing_up_fails_after_it():
    def main():
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError:
            raise RuntimeError("no loader to tear down")  # noqa: B904 - as Lightning does

    with pytest.raises(SystemExit, match=r"error: Too many open files: .*ulimit -n 4096"):
        run(main)


@pytest.mark.parametrize("lines", [0, 1, 2, 20, -1])
def test_a_saved_configuration_that_was_cut_off_is_refused_by_name(cli, tmp_path, lines):
    path = cli().save_config()
    assert cli("--config", str(path)).config.data.data_root
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    with pytest.raises(MisconfigurationException, match=r"--config .*config\.yaml: (cut off|there is nothing)"):
        cli("--config", str(path))


@pytest.mark.parametrize("part", [1.0, 0.5], ids=["whole", "half"])
def test_the_record_of_a_run_is_no_configuration(cli, part):
    path = cli().save_config().with_name("run.json")
    text = path.read_text()
    path.write_text(text[: int(part * len(text))])
    with pytest.raises(MisconfigurationException, match=r"run\.json"):
        cli(f"--config={path}")
