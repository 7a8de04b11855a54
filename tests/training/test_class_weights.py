"""Weights of the classes in the loss, by name or by how rare they are."""

import numpy as np
import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tests.training.test_resuming import run
from training.class_weights import class_weights

NAMES = ("RBC", "WBC", "none")


def test_balanced_weights_are_inverse_to_the_objects_and_one_in_the_mean_over_them():
    objects = np.array([300, 100, 0])
    background, *weights = class_weights("balanced", NAMES, objects)
    assert background == 1 and weights == pytest.approx([2 / 3, 2, 1])
    assert (objects * weights).sum() == pytest.approx(400)


def test_classes_that_are_not_named_weigh_one():
    assert class_weights({"WBC": 2}, NAMES, np.ones(3)) == [1, 1, 2, 1]


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(MisconfigurationException, match=r"class_weights: there is no class WCB; expected .*WBC"):
        class_weights({"WCB": 2}, NAMES, np.ones(3))


@pytest.mark.parametrize("setting", ["even", "{disc: 0}", "{disc: much}"])
def test_what_is_no_weight_is_refused_before_anything_runs(small, tmp_path, setting):
    with pytest.raises((MisconfigurationException, ValueError), match=r"class_weights"):
        run(small, tmp_path / "run", "--model.class_weights", setting)


def test_a_run_weighs_its_classes_and_says_so(small, tmp_path, capsys):
    few = ("--max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "0")
    trainer = run(small, tmp_path / "run", *few, "--model.class_weights", "{disc: 0.5}")
    assert trainer.lightning_module.loss.class_weights.tolist() == [1, 0.5, 1, 1, 1]
    assert "class weights: disc 0.5, square 1, triangle 1, cross 1" in capsys.readouterr().out
    assert "loss.class_weights" not in trainer.lightning_module.state_dict()
