"""`ssd300 benchmark`; the published recipe's benchmark modes, which use it, are in test_published.py."""

import json

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.benchmark import main

SMALL = ("--model.backbone", "thin", "--batch_size", "2", "--num_workers", "0", "--accelerator", "cpu")


def test_it_measures_the_steps_after_the_warm_up_of_the_sample_and_leaves_its_figures_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    main(["--mode", "training", "--warmup", "1", "--iterations", "3", "--json", "figures.json", *SMALL])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < figures["min_img/sec"] <= figures["med_img/sec"] <= figures["max_img/sec"]
    assert (figures["mode"], figures["backbone"], figures["batch_size"], figures["devices"]) == (
        "training",
        "thin",
        2,
        1,
    )
    assert f"avg_img/sec: {figures['avg_img/sec']:.2f}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_number_out_of_range_is_refused_by_its_flag():
    with pytest.raises(MisconfigurationException, match="--iterations 0"):
        main(["--iterations", "0"])
