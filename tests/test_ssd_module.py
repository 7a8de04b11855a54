from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from checkpoints.files import CheckpointError
from coco.dataset import EvaluationDataset, collate_evaluation
from datamodule import COCODataModule
from ssd_module import SSDModule, load_module
from training.optimisation import make_optimizer
from training.published_saving import save_reference_checkpoint


def batch(seed: int = 0, size: int = 2):
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.rand(2, size, 3, 2, generator=generator).sort(dim=0).values
    return {
        "images": torch.randn(size, 3, 300, 300, generator=generator),
        "boxes": torch.cat((low, high + 0.1), dim=-1),
        "labels": torch.randint(1, 4, (size, 3), generator=generator),
    }


def rates_used(ssd, batch_size=8, **trainer) -> list[float]:
    """The learning rate of every optimiser step over epochs of 10 batches, with a toy network in place of SSD300."""
    rates = []
    ssd.model = torch.nn.Linear(1, 1)
    ssd.training_step = lambda batch, batch_idx: {"loss": (ssd.model.weight * 0).sum()}
    ssd.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", limit_val_batches=0, **quiet, **trainer)
    trainer.fit(ssd, DataLoader(torch.zeros(10 * batch_size, 1), batch_size=batch_size))
    return rates


def module(backbone="thin", **hparams):
    return SSDModule(backbone, 3, **hparams)


def test_the_rate_warms_up_linearly_from_zero_then_drops_at_the_milestones():
    rates = rates_used(module(learning_rate=0.4, warmup_steps=5, milestones=(2, 3)), max_epochs=4)
    assert rates[:6] == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])  # 0.4 x 8 / 32 images
    assert rates[19] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.01)
    assert rates[30] == pytest.approx(0.001)


def test_the_rate_scales_with_the_global_batch_and_counts_accumulated_steps():
    rates = rates_used(
        module(learning_rate=0.4, warmup_steps=0, milestones=(1,)), max_epochs=2, accumulate_grad_batches=2
    )
    assert len(rates) == 10, "five optimiser steps an epoch"
    assert rates[4] == pytest.approx(0.4 * 16 / 32)
    assert rates[5] == pytest.approx(0.04 * 16 / 32)


def test_a_cosine_ends_where_the_run_does():
    hparams = {"learning_rate": 0.4, "warmup_steps": 4, "schedule": "cosine"}
    by_epochs = rates_used(module(**hparams), max_epochs=2)
    by_steps = rates_used(module(**hparams), max_epochs=7, max_steps=20)
    assert by_epochs == by_steps and len(by_epochs) == 20
    assert by_epochs[4] == pytest.approx(0.1) and by_epochs[12] == pytest.approx(0.05)
    assert 0 < by_epochs[19] < 0.002
    with pytest.raises(MisconfigurationException, match=r"schedule cosine.*needs --max_epochs or --trainer.max_steps"):
        rates_used(module(**hparams), max_epochs=-1)


def test_adamw_has_the_recipes_groups_and_momentum():
    ssd = module(optimizer="adamw", momentum=0.8, weight_decay=0.05, learning_rate=0.4)
    data = SimpleNamespace(batch_size=8)
    trainer = SimpleNamespace(datamodule=data, world_size=1, accumulate_grad_batches=1)
    optimizer = make_optimizer(ssd.hparams, ssd.model, trainer)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999) and optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("wrong", [{"optimizer": "adam"}, {"schedule": "linear"}, {"background_prior": 1.0}])
def test_settings_of_training_that_mean_nothing_are_refused_with_their_flag(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"--model.{name} {value}: expected"):
        module(**wrong)


def test_a_training_step_reaches_every_parameter():
    ssd = module("resnet18")
    outputs = ssd.training_step(batch(), 0)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(float(outputs["localisation"] + outputs["confidence"]))
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in ssd.parameters())


def test_an_image_without_boxes_trains_on_its_hardest_negatives():
    ssd = module()
    empty = {**batch(), "boxes": torch.zeros(2, 8, 4), "labels": torch.zeros(2, 8, dtype=torch.int64)}
    loss = ssd.training_step(empty, 0)["loss"]
    loss.backward()
    with torch.no_grad():
        _, logits = ssd(empty["images"])
    hardest = (torch.logsumexp(logits, dim=-1) - logits[..., 0]).topk(3).values  # of the background's cross-entropy
    torch.testing.assert_close(loss, hardest.sum(dim=1).mean(), rtol=1e-4, atol=0)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in ssd.parameters())


def test_predictions_are_in_pixels_of_the_original_image():
    ssd = module(score_threshold=0.0).eval()
    predictions = ssd.predict_step(
        {"images": batch()["images"], "image_ids": np.array([7, 2**40]), "sizes": np.array([[640, 480], [100, 50]])}, 0
    )
    with torch.no_grad():
        boxes, _, _ = ssd._detect({"images": batch()["images"], "sizes": np.array([[1, 1], [1, 1]])})
    assert [prediction["image_id"] for prediction in predictions] == [7, 2**40]
    count = len(predictions[0]["labels"])
    expected = boxes[0, :count] * torch.tensor([640.0, 480, 640, 480])
    torch.testing.assert_close(predictions[0]["boxes"], expected, atol=1e-2, rtol=1e-4)


def test_class_names_must_fit_the_number_of_classes():
    with pytest.raises(ValueError, match="num_classes is 3, but there are 2 class_names"):
        SSDModule("resnet18", 3, class_names=["a", "b"])


def save(path, ssd, **changes):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(ssd)
    trainer.save_checkpoint(path, weights_only=True)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint.update(changes)
    torch.save(checkpoint, path)


def test_load_module_opens_both_formats_with_their_backbone_and_classes(tmp_path):
    ssd = module(class_names=["a", "b", "c"], category_ids=[2, 5, 9])
    save(tmp_path / "ours.ckpt", ssd)
    save_reference_checkpoint(ssd, tmp_path / "published.pt")
    ours, published = load_module(tmp_path / "ours.ckpt"), load_module(tmp_path / "published.pt")
    assert ours.category_ids == (2, 5, 9) and ours.class_names == published.class_names == ("a", "b", "c")
    for key, value in ssd.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value) and torch.equal(published.state_dict()[key], value)


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "refused|not a readable"),
        ({"state_dict": {}}, "neither a Lightning checkpoint"),
        ({"model": Evil()}, "refused.*Only plain-tensor checkpoints"),
        (None, "no such checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name_and_runs_no_code(tmp_path, capsys, content, message):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"(?s)x\.ckpt.*({message})"):
        load_module(path)
    assert "ran" not in capsys.readouterr().out


def test_a_checkpoint_cut_off_is_refused_by_name(tmp_path):
    save(tmp_path / "x.ckpt", module())
    whole = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"x\.ckpt.*(cut off|refused)"):
        load_module(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 10**9}, "logit_heads.0.weight: expected a tensor of"),
        ({"num_classes": 10**30}, "does not fit"),
        ({"backbone": "resnet152"}, "expected a tensor of"),
        ({"backbone": []}, "does not fit"),
        ({"class_names": [1, 2, 3]}, "class_names.*expected a list of texts"),
        ({"class_names": "abc"}, "class_names.*expected a list of texts"),
        ({"category_ids": [1, 1, 2]}, "category_ids.*each once"),
        ({"category_ids": [1, 2, float("inf")]}, "category_ids.*integers"),
        ({"milestones": 5}, "does not fit"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_with_the_weights_are_refused_before_anything_is_built(
    tmp_path, monkeypatch, settings, message
):
    ssd = module()
    content = {"state_dict": ssd.state_dict(), "hyper_parameters": {**ssd.hparams, **settings}}
    torch.save(content, tmp_path / "x.ckpt")
    if "tensor" in message:
        monkeypatch.setattr("ssd_module.SSDModule", lambda **kwargs: pytest.fail("built"))
    with pytest.raises(CheckpointError, match=rf"x\.ckpt: .*{message}"):
        load_module(tmp_path / "x.ckpt")


def test_resuming_with_other_classes_is_refused_with_both():
    ssd = module(class_names=["a", "b", "c"])
    with pytest.raises(CheckpointError, match=r"class_names = \['x', 'b', 'c'\], this run has \['a', 'b', 'c'\]"):
        ssd.on_load_checkpoint({"hyper_parameters": {"class_names": ["x", "b", "c"]}})


def test_the_module_optimised_for_inference_gives_the_same_detections():
    torch.manual_seed(0)  # rounding can tip a suppression whose overlap is just at the threshold
    plain = module("resnet18", score_threshold=0.2).eval()
    sizes = np.array([[640, 480], [100, 50]])
    images = {"images": batch()["images"], "sizes": sizes}
    with torch.no_grad():
        before = plain._detect(images)
        after = plain.optimise_for_inference()._detect(images)
    torch.testing.assert_close(before[1], after[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "--model.warmup_steps -1: expected a whole number, at least 0"),
        ({"warmup_steps": 1.5}, "--model.warmup_steps 1.5"),
        ({"learning_rate": 0.0}, "--model.learning_rate 0.0: expected a number above 0"),
        ({"learning_rate": float("nan")}, "--model.learning_rate nan"),
        ({"learning_rate": float("inf")}, "--model.learning_rate inf"),
        ({"momentum": 1.0}, "--model.momentum 1.0"),
        ({"weight_decay": -1e-4}, "--model.weight_decay -0.0001"),
        ({"gamma": 0}, "--model.gamma 0"),
        ({"gamma": 1.5}, "--model.gamma 1.5"),
        ({"milestones": [54, 43]}, r"--model.milestones \[54, 43\]: expected epochs.*ascending"),
        ({"milestones": [3, 3]}, r"--model.milestones \[3, 3\]"),
        ({"milestones": [-1]}, r"--model.milestones \[-1\]"),
        ({"score_threshold": 1.0}, "--model.score_threshold 1.0"),
        ({"iou_threshold": 0.0}, "--model.iou_threshold 0.0"),
        ({"max_detections": 0}, "--model.max_detections 0"),
        ({"max_detections": 10**9}, "--model.max_detections 1000000000"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_geometry_stays_float32_whatever_the_weights_are(dtype):
    ssd = module(score_threshold=0.0).eval()
    sizes = np.array([[640, 480], [100, 50]])
    with torch.no_grad():
        before = ssd._detect({"images": batch()["images"], "sizes": sizes})
        boxes = ssd.default_boxes.clone()
        ssd.to(dtype)
        offsets, _ = ssd(batch()["images"])
        after = ssd._detect({"images": batch()["images"], "sizes": sizes})
    assert offsets.dtype == dtype and torch.equal(ssd.default_boxes, boxes)
    assert ssd.default_boxes.dtype == after[0].dtype == after[1].dtype == torch.float32
    torch.testing.assert_close(after[1], before[1], atol=1e-6 if dtype == torch.float64 else 0.02, rtol=0)


def test_weights_of_few_digits_and_batches_of_one_image_are_refused_in_training_from_python_too(sample):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    ssd = SSDModule("thin", 4, ("disc", "square", "triangle", "cross"), (2, 3, 7, 40))
    for precision, size, message in ((None, 1, "--data.batch_size 1"), ("bf16-true", 2, "--precision bf16-true")):
        data = COCODataModule(str(sample), batch_size=size, num_workers=0)
        with pytest.raises(MisconfigurationException, match=message):
            pl.Trainer(accelerator="cpu", precision=precision, **quiet).fit(ssd.float(), data)


def test_the_validation_loss_is_the_mean_over_the_validation_images(sample, tmp_path):
    """Of 10 images in batches of 4, 4 and 2, against the loss of each image by itself."""
    data, ssd = (
        COCODataModule(str(sample), batch_size=4, num_workers=0),
        SSDModule("thin", 4, category_ids=[2, 3, 7, 40]),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=1,
        limit_train_batches=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
    )
    ssd.class_names = data.class_names
    trainer.fit(ssd, data)
    ssd.eval()
    losses = []
    for batch in data.val_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for i in range(len(batch["images"])):
            one = {key: batch[key][i : i + 1] for key in ("images", "boxes", "labels")}
            with torch.no_grad():
                losses.append(float(sum(ssd._losses(one, *ssd(one["images"])))))
    assert len(losses) == 10
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_loss_of_a_tiled_validation_is_the_mean_over_all_views_however_many_are_seen_at_once(sample, monkeypatch):
    torch.manual_seed(0)
    module = SSDModule("thin", 4).eval()
    data = COCODataModule(str(sample), tiles=200, num_workers=0)
    dataset = EvaluationDataset(data.val_annotations, data.val_directory, truths=True, tiling=data.tiling)
    samples = [dataset[0], dataset[1]]
    logged = []
    fitting = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    monkeypatch.setattr(SSDModule, "trainer", fitting)
    monkeypatch.setattr(module, "log", lambda name, value, **how: logged.append((name, value, how["batch_size"])))
    module.metric = SimpleNamespace(update=lambda *detections: None)
    with torch.no_grad():
        for at_once in (1000, 7):
            module.validation_step(collate_evaluation(samples, at_once), 0)
        views = {key: collate_evaluation(samples)[key] for key in ("images", "boxes", "labels")}
        one_by_one = [{key: value[i : i + 1] for key, value in views.items()} for i in range(len(views["images"]))]
        each = [module._losses(view, *module.outputs(view)) for view in one_by_one]
    expected = torch.stack([sum(parts) for parts in each]).mean()
    assert len(each) > 7
    for name, value, size in logged:
        assert name == "val/loss" and size == len(each)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
