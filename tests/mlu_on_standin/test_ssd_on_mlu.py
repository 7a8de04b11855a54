"""Training, resuming, evaluating and predicting on one stand-in MLU, through train.py and evaluate.py."""

import json

import pytest
import pytorch_lightning as pl
import torch

import coco.augment
import ssd.postprocess
from accelerators import resolve_trainer_flags
from command_line.evaluate import evaluate
from command_line.fit import train
from datamodule import COCODataModule
from evaluation.metric import NUMBERS
from ssd_module import load_module
from tests.mlu_on_standin.witness import BATCH, LOGGER, arguments, checkpoint, logged, ranks
from tests.training.test_resuming import assert_equal, whole_state

SHEET = ("uint8 [2, 300, 300, 3]", "float32 [2, 8, 4]", "int64 [2, 8]")
VALIDATED = [*BATCH[:3]]  # without the colours; boxes and labels for the loss, which nothing reads in a step
DETECTIONS = [
    "d2h float32 [2, 200, 4] training/detecting.py",
    "d2h float32 [2, 200] training/detecting.py",
    "d2h int64 [2, 200] training/detecting.py",
]


def run(*args: str) -> pl.Trainer:
    return train(args)


@pytest.fixture(scope="module")
def on_cpu(sample, tmp_path_factory):
    """Two epochs on the CPU."""
    run_dir = tmp_path_factory.mktemp("cpu")
    run(*arguments(sample, run_dir, "cpu", "--max_epochs", "2"))
    return run_dir


@pytest.fixture(scope="module")
def attempts():
    """One entry for every attempt of `detect` at a batch, in the run of `on_mlu`."""
    return []


@pytest.fixture(scope="module")
def on_mlu(sample, out, attempts):
    """The same, but on an MLU, one epoch; validation counts its attempts."""
    decode = ssd.postprocess.decode_offsets

    def counted(*args):
        attempts.append(len(args[0]))
        return decode(*args)

    coco.augment._cached_imagenet.cache_clear()  # what other cases sent to the device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd.postprocess, "decode_offsets", counted)
        run(*arguments(sample, out / "mlu", "mlu", "--devices", "1"))
    (out / "mlu" / "rank0.json").rename(out / "mlu" / "first.json")
    return out / "mlu"


@pytest.fixture(scope="module")
def steps(on_mlu):
    """The transfers of each step of `on_mlu`'s epoch: four of training, five of validation."""
    found = json.loads((on_mlu / "first.json").read_text())["steps"]
    assert len(found) == 4 + 5
    return found


def test_training_on_an_mlu_equals_training_on_the_cpu_to_the_last_bit(on_cpu, on_mlu):
    ours, theirs = (checkpoint(run_dir, "epoch000") for run_dir in (on_mlu, on_cpu))
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key
    for step in (ours, theirs):
        assert step["global_step"] == 4
    for column in ("train/loss_step", "train/localisation", "train/confidence", "train/loss_epoch"):
        mlu = dict(logged(on_mlu, column))
        cpu = dict(logged(on_cpu, column)[: len(mlu)])
        assert mlu and mlu == pytest.approx(cpu, rel=1e-6), column  # its sums run in another order


def test_validation_on_an_mlu_finds_the_numbers_of_the_cpu(on_cpu, on_mlu):
    for name in NUMBERS:
        ((step, mlu), *_), ((same_step, cpu), *_) = (logged(run_dir, f"val/{name}") for run_dir in (on_mlu, on_cpu))
        assert step == same_step and mlu == pytest.approx(cpu, abs=1e-4), name


def test_a_training_step_moves_the_batch_and_nothing_else(steps):
    assert steps[2] == BATCH


def test_a_training_step_that_logs_reads_the_scalars(steps):
    assert steps[1] == [
        *BATCH,
        # loss, localisation, confidence and the gradients' norm are logged for the first time: a value and a count
        # each, which it moves twice
        *[f"h2d float32 [] {LOGGER}/result.py", f"h2d int64 [] {LOGGER}/result.py"] * 4 * 2,
        "d2h float32 [2] training/losses.py",
        *[f"d2h float32 [] {LOGGER}/logger_connector.py"] * 4,
    ]


def test_the_first_training_step_also_moves_constants(steps):
    assert [words for words in steps[0] if words not in BATCH] == [
        *["h2d float32 [3, 1, 1] coco/augment.py"] * 2,
        # the sheet of what is trained on, RUN/pictures/train_batch.png
        *(
            f"d2h {what} training/pictures.py"
            for what in ("uint8 [2, 300, 300, 3]", "float32 [2, 8, 4]", "int64 [2, 8]")
        ),
        "h2d int32 [8732] ssd/default_boxes.py",
    ]


def test_a_validation_step_moves_pictures_and_truths_in_a_flag_per_attempt_and_detections_out(steps, attempts):
    assert len(attempts) >= 5
    reads = 0
    made = [f"h2d float32 [] {LOGGER}/result.py", f"h2d int64 [] {LOGGER}/result.py"] * 2
    for found in steps[4:8]:
        found = [words for words in found if words not in made] if found is steps[4] else found
        count = len(found) - len(VALIDATED) - len(DETECTIONS)
        reads += count
        assert found == [*VALIDATED, *["d2h bool [2] ssd/postprocess.py"] * count, *DETECTIONS]
    assert 4 <= reads < len(attempts)


def test_a_run_resumed_on_an_mlu_ends_as_one_that_never_stopped(on_cpu, on_mlu, sample):
    run(*arguments(sample, on_mlu, "mlu", "--devices", "1", "--max_epochs", "2", "--ckpt_path", "last"))
    assert ranks(on_mlu)[0]["global_step"] == 8
    ours, theirs = (checkpoint(run_dir) for run_dir in (on_mlu, on_cpu))
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]


def test_a_run_in_float16_is_near_32_bit_and_killed_within_an_epoch_goes_on_to_the_bit(on_cpu, sample, out):
    flags = ("--devices", "1", "--precision", "16-mixed", "--deterministic", "true", "--save_every_n_steps", "1")
    flags += ("--trainer.limit_val_batches", "0", "--trainer.limit_train_batches", "3")
    straight, resumed = out / "straight", out / "resumed"
    keep = "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave"
    trainer = run(*arguments(sample, straight, "mlu", *flags, keep))
    assert_near_32_bit(trainer, straight, on_cpu, 3)
    killed = straight / "checkpoints" / "kept_2_step.ckpt"
    run(*arguments(sample, resumed, "mlu", *flags, "--ckpt_path", str(killed)))
    assert "scale" in whole_state(straight)["MixedPrecision"] and "mlu_rng_states" in whole_state(straight)
    assert_equal(whole_state(resumed), whole_state(straight))


def test_evaluate_on_an_mlu_prints_the_cpus_numbers(on_mlu, sample, capsys):
    def numbers(*device):
        ckpt = ("--ckpt_path", str(on_mlu / "checkpoints" / "epoch000.ckpt"), "--data_root", str(sample))
        return evaluate([*ckpt, "--batch_size", "2", "--num_workers", "0", *device])

    cpu = numbers("--accelerator", "cpu")
    assert numbers("--accelerator", "mlu", "--devices", "1") == pytest.approx(cpu, abs=1e-4)


def test_predictions_on_an_mlu_are_the_cpus_and_lie_on_the_cpu(on_mlu, sample):
    def predictions(**flags):
        module = load_module(on_mlu / "checkpoints" / "epoch000.ckpt")
        data = COCODataModule(str(sample), batch_size=4, num_workers=0)
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
        trainer = pl.Trainer(**resolve_trainer_flags(**flags), **quiet, limit_predict_batches=1)
        return [image for batch in trainer.predict(module, data) for image in batch]

    mlu, cpu = predictions(accelerator="mlu", devices=1), predictions(accelerator="cpu")
    assert len(mlu) == 4
    for ours, theirs in zip(mlu, cpu, strict=True):
        assert ours["image_id"] == theirs["image_id"]
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-6)
        # The CPU rounds its softmax otherwise, so detections of nearly one score may change places.
        first, second = (torch.cat((one["boxes"], 1e4 * one["labels"].unsqueeze(1)), dim=1) for one in (ours, theirs))
        distance = torch.cdist(first, second, p=torch.inf)
        assert distance.amin(0).max() < 1e-2 and distance.amin(1).max() < 1e-2, "pixels"


def test_bfloat16_trains_and_validates_near_32_bit(on_cpu, sample, tmp_path):
    few = ("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--precision", "bf16-mixed")
    trainer = run(*arguments(sample, tmp_path, "mlu", "--devices", "1", *few))
    assert_near_32_bit(trainer, tmp_path, on_cpu, 2)


def assert_near_32_bit(trainer, run_dir, on_cpu, steps):
    (rank,) = ranks(run_dir)
    assert rank["precision"] == "MLUMixedPrecision" and rank["global_step"] == steps
    (step, loss), *_ = logged(run_dir, "train/loss_step")
    (same_step, exact), *_ = logged(on_cpu, "train/loss_step")
    assert step == same_step and loss == pytest.approx(exact, rel=0.02) and loss != exact
    assert {value.dtype for value in trainer.lightning_module.parameters()} == {torch.float32}


def test_averaged_weights_accumulation_and_clipping_equal_the_cpus_and_device_statistics_are_logged(sample, tmp_path):
    for accelerator, more in (("cpu", []), ("mlu", ["DeviceStatsMonitor"])):
        config = tmp_path / f"{accelerator}.yaml"
        names = ["EMAWeightAveraging", *more]
        config.write_text(
            "trainer:\n  accumulate_grad_batches: 2\n  gradient_clip_val: 1.0\n  callbacks:"
            + "".join(f"\n    - class_path: pytorch_lightning.callbacks.{name}" for name in names)
        )
        few = ("--devices", "1", "--trainer.limit_val_batches", "1")
        run("--config", str(config), *arguments(sample, tmp_path / accelerator, accelerator, *few))
    mlu, cpu = (checkpoint(tmp_path / accelerator) for accelerator in ("mlu", "cpu"))
    assert mlu["global_step"] == 2
    for weights in ("state_dict", "current_model_state"):  # the averaged ones, and those that were trained
        for key, value in cpu[weights].items():
            assert torch.equal(mlu[weights][key], value), key
    column = "DeviceStatsMonitor.on_train_batch_end/allocated_bytes.all.current"
    parameters = sum(value.numel() for value in mlu["state_dict"].values())
    assert logged(tmp_path / "mlu", column)[0][1] > 4 * parameters > 2_000_000, "bytes of the parameters"
