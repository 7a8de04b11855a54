import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from datamodule import COCODataModule
from ssd_module import load_module
from training.evaluated_data import evaluated_annotations


def a_trainer():
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", devices=1, **quiet)


def test_a_loader_alone_gives_the_same_numbers_as_its_data_module_and_so_does_test(sample, random_detector):
    data = COCODataModule(sample, num_workers=0, val_batch_size=4, val_limit=6)
    module = load_module(random_detector)
    a_trainer().validate(module, data, verbose=False)
    expected, found = module.numbers, module.metric.found_detections
    assert len(found.scores) > 0
    logged = {}
    for evaluate, given in (
        (a_trainer().validate, {"dataloaders": data.val_dataloader()}),
        (a_trainer().validate, {"dataloaders": [data.val_dataloader()]}),
        (a_trainer().test, {"dataloaders": data.val_dataloader()}),
        (a_trainer().test, {"datamodule": data}),
    ):
        module = load_module(random_detector)
        (logged,) = evaluate(module, verbose=False, **given)
        assert module.numbers == expected
        assert np.array_equal(module.metric.found_detections.boxes, found.boxes)
    assert logged["test/AR_100"] == pytest.approx(expected["AR_100"]) and "val/AR_100" not in logged


def test_predict_takes_a_loader_too(sample, random_detector):
    data = COCODataModule(sample, num_workers=0, val_limit=2)
    expected, found = (
        a_trainer().predict(load_module(random_detector), given)[0] for given in (data, data.predict_dataloader())
    )
    for a, b in zip(expected, found, strict=True):
        assert a["image_id"] == b["image_id"] and torch.equal(a["boxes"], b["boxes"])


def test_a_loader_of_something_else_is_refused_with_what_to_use(random_detector):
    images = [{"images": torch.zeros(3, 300, 300)}]
    with pytest.raises(MisconfigurationException, match=r"a DataLoader without annotations; use `COCODataModule\("):
        a_trainer().validate(load_module(random_detector), DataLoader(images), verbose=False)


def test_a_loader_for_several_processes_is_refused_since_each_would_evaluate_all_of_it(sample, monkeypatch):
    trainer = a_trainer()
    loader = COCODataModule(sample, num_workers=0).val_dataloader()
    monkeypatch.setattr(type(trainer), "val_dataloaders", loader)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(MisconfigurationException, match="each of 2 processes would evaluate all images"):
        evaluated_annotations(trainer)
