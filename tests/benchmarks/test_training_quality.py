"""The study of training quality: which runs it makes, what it keeps of them, what its table says."""

import json

import pytest
import yaml

from benchmarks import training_quality
from benchmarks.training_quality import Run, expected, main, settings_of, table
from tests.conftest import PROJECT

RUN = Run("demo", "clip5", "bf16-mixed", 3)


@pytest.fixture
def study():
    return yaml.safe_load(training_quality.VARIANTS.read_text())


def row(seed, mean_ap, **more):
    return {**RUN._replace(seed=seed)._asdict(), "mAP": mean_ap, "processor_minutes": 4.0, "cpu": "this", **more}


def test_a_variant_is_laid_over_what_every_row_shares(study):
    settings = settings_of(RUN, study)
    assert settings["seed_everything"] == 3 and settings["trainer"]["precision"] == "bf16-mixed"
    assert settings["trainer"]["gradient_clip_val"] == 5 and settings["trainer"]["max_epochs"] == 10
    assert settings["model"]["backbone"] == "resnet18" and settings["data"]["batch_size"] == 8


def test_no_variant_changes_what_is_fixed_or_how_long_a_run_trains(study):
    for variant in study["variants"]:
        for data, epochs in (("demo", 10), ("bccd", 16)):
            settings = settings_of(Run(data, variant, "32-true", 0), study)
            assert settings["trainer"]["max_epochs"] == epochs
            assert (settings["model"]["backbone"], settings["model"].get("backbone_weights")) == ("resnet18", None)
            assert settings["data"]["batch_size"] == 8


def test_a_run_that_has_a_row_is_not_repeated_and_one_that_died_is_a_row(tmp_path, monkeypatch, capsys):
    (tmp_path / "annotations").mkdir()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row(0, 0.5)) + "\n")
    trained = []

    def train(run, study, data_root, runs):
        trained.append(run.seed)
        return row(run.seed, None, died="status 1: out of memory")

    monkeypatch.setattr(training_quality, "train", train)
    command = ["clip5", "--data", f"demo={tmp_path}", "--seeds", "0", "1", "--rows", str(rows)]
    main(command)
    main(command)
    assert trained == [1]
    assert "| 0 1 (1 died) | 0.500 |" in capsys.readouterr().out


def test_what_is_kept_of_a_run_is_its_last_validation_or_how_it_died(tmp_path):
    (tmp_path / "output.txt").write_text("epoch 3\nerror: the loss is nan\n")
    assert "the loss is nan" in training_quality._measured(tmp_path, 1)["died"]
    logs = tmp_path / "logs/csv/version_0"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("step,val/mAP,val/mAP_50\n1,,\n9,0.25,0.5\n10,,\n")
    assert training_quality._measured(tmp_path, 0) == {"mAP": 0.25, "mAP_50": 0.5}


def test_the_table_tells_mean_deviation_and_least_of_each_machine_apart():
    lines = list(table([row(0, 0.4), row(1, 0.5), row(0, 0.1, cpu="another")]))
    assert "| demo | clip5 | bf16-mixed | 0 1 | 0.450 | 0.071 | 0.400 | 4.0 | this |" in lines
    assert "| demo | clip5 | bf16-mixed | 0 | 0.100 | - | 0.100 | 4.0 | another |" in lines


def test_unknown_names_are_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["clip6", "--data", "demo=nowhere"])
    assert "variant clip6: expected some of recipe, clip5" in capsys.readouterr().err


NOT_OF_QUALITY = {  # where, how often it is looked at, how it is fed
    "trainer": ("precision", "log_every_n_steps", "check_val_every_n_epoch", "num_sanity_val_steps"),
    "data": ("data_root", "num_workers"),
}


def test_a_shipped_configuration_is_the_variant_whose_rows_stand_for_it(study):
    assert study["configs"], "none would pass"
    for config, of in study["configs"].items():
        shipped = yaml.safe_load((PROJECT / config).read_text())
        measured = settings_of(Run(*of.split(), "auto", 0), study)
        for part in ("trainer", "model", "data"):
            kept = {k: v for k, v in shipped[part].items() if k not in NOT_OF_QUALITY.get(part, ())}
            assert kept.items() <= measured[part].items(), config
            own = set(measured[part]) - set(study["fixed"][part]) - set(NOT_OF_QUALITY.get(part, ()))
            unused = {"milestones"} if measured["model"].get("schedule") == "cosine" else set()
            assert own - unused <= set(kept), config


def test_the_head_of_a_shipped_configuration_says_what_the_rows_say(study):
    rows = training_quality.read_rows(training_quality.ROWS)
    for config in study["configs"]:
        head = (PROJECT / config).read_text().replace("\n# ", " ")
        spread = expected(config, study, rows).partition(": ")[2]
        assert spread in head, f"{config}: write there: {spread}"


def test_the_configuration_for_small_data_is_that_of_the_measured_ones():
    small, *measured = (
        yaml.safe_load((PROJECT / f"configs/{name}.yaml").read_text()) for name in ("small_data", "demo", "bccd")
    )
    for config in measured:
        assert config["model"] == small["model"]
        assert config["trainer"]["gradient_clip_val"] == small["trainer"]["gradient_clip_val"]
        assert config["data"]["batch_size"] == small["data"]["batch_size"]


def test_the_better_one_for_small_data_differs_by_what_was_measured(study):
    small, plus = (
        yaml.safe_load((PROJECT / f"configs/{name}.yaml").read_text()) for name in ("small_data", "small_data_plus")
    )
    assert plus == {**small, "data": {**small["data"], **study["variants"]["crop50"]["everywhere"]["data"]}}


def test_what_a_configuration_is_expected_to_give_is_told_of_unseen_seeds(study):
    study = {**study, "configs": {"configs/demo.yaml": "demo clip5"}}
    rows = [row(0, 0.9), row(10, 0.4), row(11, 0.5), row(12, None), row(13, 0.6, precision="32-true")]
    told = expected("configs/demo.yaml", study, rows)
    assert "mAP 0.500 on average, 0.400 to 0.600 (seeds 10 11 13, 32-true and bf16-mixed)" in told
    assert expected("configs/demo.yaml", study, []) == "configs/demo.yaml: not measured yet"
