"""A model card holds what the run measured, says what it did not, and stays a page whatever classes are called."""

from types import SimpleNamespace

import pytest
import torch

from datamodule import COCODataModule
from evaluation.tables import MEANING
from ssd_module import SSDModule
from tests.conftest import edit
from training.model_card import write_model_card


@pytest.fixture
def cli(data, tmp_path):
    """What a command line has after a fit of which no validation was made."""
    odd = "disc | `x`\n# <b>"
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}2017.json"
        edit(path, lambda content: content["categories"][0].update(name=odd))
    module = COCODataModule(str(data), batch_size=4, num_workers=0)
    trainer = SimpleNamespace(
        **{"current_epoch": 1, "max_epochs": 3, "global_step": 5, "world_size": 2, "accumulate_grad_batches": 1},
        **{"enable_validation": False, "precision": "32-true", "checkpoint_callbacks": []},
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    model = SSDModule("thin", 4, module.class_names, module.category_ids)
    return SimpleNamespace(trainer=trainer, datamodule=module, model=model, run_dir=tmp_path)


def test_an_unfinished_run_without_a_validation_claims_no_number(cli, tmp_path):
    write_model_card(tmp_path / "card.md", cli, whole=False)
    card = (tmp_path / "card.md").read_text()
    assert "**stopped before its end**" in card and "1 epochs of 3, 5 optimiser steps" in card
    assert "None: this run has measured no mAP." in card and "validation |" not in card
    assert "| batch | 8 images (2 device(s) x 4 x 1 accumulated) |" in card
    assert cli.datamodule.train_annotations.digest[:16] in card


def test_class_names_do_not_change_the_page(cli, tmp_path):
    write_model_card(tmp_path / "card.md", cli, whole=True)
    lines = (tmp_path / "card.md").read_text().splitlines()
    assert r"Finds boxes of: disc \| \`x\`\\n\# \<b\>, square, triangle, cross." in lines
    assert [line for line in lines if line.startswith("#")] == [
        *("# SSD300 v1.1, thin, 4 classes", "## Data", "## Recipe", "## Numbers", "## Limits", "## Use")
    ]


def test_numbers_are_those_of_the_last_validation(cli, tmp_path):
    cli.model.numbers = {**dict.fromkeys(MEANING, 0.125), "mAP_small": -1.0}
    cli.trainer.enable_validation = True
    write_model_card(tmp_path / "card.md", cli, whole=True)
    card = (tmp_path / "card.md").read_text()
    assert "| mAP | 0.1250 |" in card and "| mAP\\_small | - |" in card
    assert f"| validation | {cli.datamodule.val_annotations.path} | 10 |".replace("_", "\\_") in card
