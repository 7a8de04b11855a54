"""Fine-tuning: which weights are taken over, how it is said, and that a run resumes without its source."""

import pytest
import torch

from checkpoints.files import CheckpointError
from command_line.fit import train
from ssd_module import SSDModule, load_module
from tests.command_line.test_fit import arguments
from tests.test_ssd_module import save
from training.finetune import take_over
from training.published_saving import save_reference_checkpoint


def module(*names, **hparams):
    return SSDModule("thin", len(names), class_names=names, **hparams)


@torch.no_grad()
def outputs(ssd):
    return ssd.eval()(torch.randn(2, 3, 300, 300, generator=torch.Generator().manual_seed(0)))


def test_offsets_and_the_logits_of_classes_of_the_same_name_are_those_of_the_source():
    source, target = module("cat", "dog", "horse"), module("horse", "robot", category_ids=[4, 9])
    fresh = target.model.logit_heads[0].weight.detach().clone()
    said = take_over(source, target)
    assert said == (
        "kept backbone, extra blocks, offset heads; class heads re-made for 2 classes (were 3): "
        "the background's rows kept, 1 known by name kept (horse), 1 new (robot)"
    )
    (old_offsets, old_logits), (offsets, logits) = outputs(source), outputs(target)
    torch.testing.assert_close(offsets, old_offsets)
    torch.testing.assert_close(logits[..., 0], old_logits[..., 0])
    torch.testing.assert_close(logits[..., 1], old_logits[..., 3])
    robot = slice(2, None, 3)  # rows of label 2 in [boxes, background + 2 classes]
    assert torch.equal(target.model.logit_heads[0].weight[robot], fresh[robot]), "a new class starts at random"


def test_with_the_same_classes_the_whole_model_is_taken_over():
    source, target = module("cat", "dog"), module("cat", "dog")
    assert take_over(source, target).endswith("offset heads and class heads (the same 2 classes)")
    for key, value in source.model.state_dict().items():
        assert torch.equal(target.model.state_dict()[key], value), key


def test_a_checkpoint_of_the_published_recipe_is_a_source_too(tmp_path):
    source, target = module("cat", "dog"), module("dog")
    save_reference_checkpoint(source, tmp_path / "published.pt")
    take_over(load_module(tmp_path / "published.pt"), target)
    torch.testing.assert_close(outputs(target)[1][..., 1], outputs(source)[1][..., 2])


def test_a_run_starts_from_the_source_and_resumes_after_it_is_gone(sample, tmp_path, capsys):
    source, path = module("disc", "kettle"), tmp_path / "source.ckpt"
    with torch.no_grad():
        source.model.offset_heads[0].bias += 7  # to be told from a fresh start
    save(path, source)
    # Backbone weights are not fetched: this file does not exist.
    flags = ["--model.backbone_weights", "gone.pth", "--finetune_from", str(path), "--trainer.limit_train_batches", "2"]
    flags += ["--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"]
    train(arguments(sample, tmp_path / "run", *flags, "--max_epochs", "1"))
    out = capsys.readouterr().out
    assert f"fine-tuning from {path}: kept backbone, extra blocks, offset heads; class heads re-made for 4 cl" in out
    assert "1 known by name kept (disc), 3 new (square, triangle, cross)" in out
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    tuned = load_module(last)
    assert tuned.hparams.finetune_from == str(path)
    torch.testing.assert_close(tuned.model.offset_heads[0].bias, source.model.offset_heads[0].bias, atol=1, rtol=0)
    path.unlink()
    trainer = train(arguments(sample, tmp_path / "run", *flags, "--max_epochs", "2", "--ckpt_path", "last"))
    assert trainer.global_step == 4
    assert "fine-tuning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "source.ckpt: no such checkpoint file"),
        ("resnet18", r"^--finetune_from .*source.ckpt: its backbone is resnet18, this run's thin"),
        (b"torn", "source.ckpt: (refused|not a readable)"),
    ],
)
def test_a_source_that_does_not_fit_is_refused_before_training(sample, tmp_path, content, message):
    path = tmp_path / "source.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        save_reference_checkpoint(SSDModule(content, 3), path)
    with pytest.raises(CheckpointError, match=message):
        train(arguments(sample, tmp_path / "run", "--finetune_from", str(path)))
    assert not (tmp_path / "run").exists()
