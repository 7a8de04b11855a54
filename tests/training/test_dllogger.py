"""The log in the format of NVIDIA's dllogger."""

import json

from training.dllogger import DLLogger


def records(path):
    lines = path.read_text().splitlines()
    assert all(line.startswith("DLLL {") for line in lines)
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def written(path, **arguments):
    """What a short run leaves: a logged step, another, a validation, an epoch's end."""
    logger = DLLogger(path, **arguments)
    logger.log_hyperparams({"backbone": "resnet18"})
    logger.log_metrics({"train/loss_step": 7.5, "train/localisation": 2.0, "epoch": 3}, step=19)
    logger.log_metrics({"train/learning_rate": 0.1}, step=19)
    logger.log_metrics({"val/mAP": 0.25, "val/AR_1": 0.5, "val/loss": 7.0, "mAP": 0.25, "epoch": 3}, step=39)
    logger.log_metrics({"train/loss_epoch": 7.0, "train/epoch_seconds": 12.5, "epoch": 3}, step=39)
    logger.finalize("success")
    return records(path)


def test_the_records_are_those_of_the_published_recipe(tmp_path):
    metadata, *log = written(tmp_path / "new" / "log.json", parameters={"batch size": 4})
    assert (metadata["type"], metadata["metric"], metadata["metadata"]) == ("METADATA", "mAP", {"unit": None})
    assert [(record["step"], record["data"]) for record in log] == [
        ("PARAMETER", {"batch size": 4, "backbone": "resnet18"}),
        ([3, 19], {"loss": 7.5}),
        ([3], {"mAP": 0.25, "AR_1": 0.5}),
        ([3], {"time": 12.5}),
        ([], {"total time": 12.5}),
        ([], {"mAP": 0.25}),
    ]
    for record in log:
        assert record["type"] == "LOG" and record["datetime"]
        assert float(record["timestamp"]) > 0 and float(record["elapsedtime"]) >= 0


def test_a_run_that_goes_on_appends_and_a_new_one_begins_anew(tmp_path):
    count = len(written(tmp_path / "log.json"))
    assert len(written(tmp_path / "log.json", append=True)) == 2 * count
    assert len(written(tmp_path / "log.json")) == count


def test_an_unused_logger_writes_no_file(tmp_path):
    DLLogger(tmp_path / "log.json").finalize("success")
    assert not (tmp_path / "log.json").exists()
