"""`coco.check --advise`: what SSD300 can find in a data set, what to do, and a configuration to start with."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from coco import check
from coco.near_duplicates import look_alike
from command_line.fit_cli import FitCLI
from tests.conftest import edit


def advise(data, tmp_path, *flags):
    """Exit code and report."""
    output = ["--output", str(tmp_path / "sheet.png"), "--json", str(tmp_path / "r.json")]
    code = check.main([str(data), "--advise", *output, *flags])
    return code, json.loads((tmp_path / "r.json").read_text())


def far_away(data):
    """The sample with every picture 12 megapixels by its annotations, and objects of 20 pixels."""
    for split in ("train", "val"):

        def shrink(content):
            for image in content["images"]:
                image |= {"width": 4000, "height": 3000}
            for annotation in content["annotations"]:
                annotation["bbox"] = [*annotation["bbox"][:2], 20, 20]

        edit(data / "annotations" / f"instances_{split}2017.json", shrink)


def test_a_sound_data_set_is_within_reach_class_by_class(sample, tmp_path, capsys):
    code, report = advise(sample, tmp_path, "--fast")
    told = capsys.readouterr().out
    assert code == 0 and told.splitlines()[-1].endswith("fit for training, pictures not opened (--fast)")
    advice, figures = report["advice"], report["figures"]
    for row in advice["classes"]:
        both = [entry for split in figures.values() for entry in split["classes"] if entry["name"] == row["name"]]
        unmatched = sum(entry["unmatched"] for entry in both)
        assert row["within_reach"] == pytest.approx(1 - unmatched / row["boxes"])
    assert advice["boxes"] == sum(row["boxes"] for row in advice["classes"]) and advice["within_reach"] > 0.9
    assert "their sizes suit SSD300" in told and "23 pictures to train on are few" in told
    advised = told[told.index("within SSD300's reach") : told.index("contact sheet")]
    assert max(map(len, advised.splitlines())) <= 80


def test_what_is_hopeless_is_never_called_fit_for_training(data, tmp_path, capsys):
    far_away(data)
    code, report = advise(data, tmp_path, "--fast", "--write_config", str(tmp_path / "start.yaml"))
    told = capsys.readouterr().out
    assert code == 0 and report["advice"]["within_reach"] == 0 and report["advice"]["tiny"] == 1
    unwrapped = told.replace("\n  ", " ")
    assert "- Hopeless as it is: 0.0% of the boxes are within reach" in unwrapped
    assert "--data.tiles 300 brings 100.0% within reach; a picture is looked at 222 times" in unwrapped
    assert yaml.safe_load((tmp_path / "start.yaml").read_text())["data"]["tiles"] == 300
    boxes = report["advice"]["boxes"]
    last = f"{data}: nothing would stop a run, but {boxes} of {boxes} boxes are out of SSD300's reach"
    assert told.splitlines()[-1].startswith(last) and "fit for training" not in told


def test_boxes_that_can_hardly_be_meant_are_counted(data, tmp_path):
    def spoil(content):
        boxes = content["annotations"]
        boxes.append({**boxes[0], "id": 9001})
        boxes.append({**boxes[1], "id": 9002, "category_id": next(i for i in (2, 3) if i != boxes[1]["category_id"])})
        boxes.append({**boxes[2], "id": 9003, "bbox": [0.1, 0.1, 0.5, 0.5]})
        boxes.append({**boxes[2], "id": 9004, "bbox": [20, 20, 1, 60]})
        size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        extra = [{**box, "id": 9100 + box["id"], "bbox": [0, 0, *size[box["image_id"]]]} for box in boxes]
        of_picture = {box["image_id"]: box for box in extra}
        boxes.extend(of_picture.values())

    edit(data / "annotations/instances_train2017.json", spoil)
    lines = "\n".join(advise(data, tmp_path, "--fast")[1]["advice"]["lines"])
    for told in (
        "train: 1 boxes are there twice",
        "train: 1 boxes are those of another class, too",
        "boxes are as large as their picture",
        "train: 1 boxes lie within 0..1",
        "train: 1 boxes are at most 1 px wide or high",
    ):
        assert told in lines
    assert "val: " not in lines


def test_rare_classes_and_pictures_without_objects_are_told_with_what_to_do(data, tmp_path):
    def rare(content):
        crosses = [box for box in content["annotations"] if box["category_id"] == 40]
        content["annotations"] = [box for box in content["annotations"] if box["category_id"] == 2] * 3 + crosses[:1]

    edit(data / "annotations/instances_train2017.json", rare)
    lines = "\n".join(advise(data, tmp_path, "--fast")[1]["advice"]["lines"])
    assert "classes have fewer than 20 boxes to train on: square (0), triangle (0), cross (1)" in lines
    assert "times the boxes of cross" in lines and "--model.class_weights balanced" in lines
    assert "training pictures are without objects" in lines and "--data.train_backgrounds true" in lines


@pytest.mark.extras
def test_pictures_that_were_saved_again_are_found_in_both_splits(data, tmp_path):
    pytest.importorskip("imagehash", reason="pip install 'ssd300-lightning[check]'")
    source = data / "train2017" / "000000000001.jpg"
    target = data / "val2017" / "000000000001.jpg"
    Image.open(source).save(target, quality=60)
    size = dict(zip(("width", "height"), Image.open(source).size, strict=True))
    edit(data / "annotations/instances_val2017.json", lambda content: content["images"][0].update(size))
    lines = "\n".join(advise(data, tmp_path)[1]["advice"]["lines"])
    assert "1 validation pictures look like training ones" in lines and f"{source} ~ {target}" in lines


def test_hashes_that_differ_in_few_bits_are_found_and_no_others():
    draw = np.random.default_rng(0)
    others = draw.integers(0, 2**64, 500, np.uint64)
    bits = np.uint64(1) << draw.permuted(np.tile(np.arange(64, dtype=np.uint64), (4, 1)), axis=1)[:, :4]
    near, far = others[:4] ^ bits[:, :3].sum(1), others[:4] ^ bits.sum(1)
    assert look_alike(np.concatenate([near, far, others[9:10]]), others).tolist() == [0, 1, 2, 3, -1, -1, -1, -1, 9]
    assert look_alike(others[:0], others).tolist() == [] and look_alike(others[:1], others[:0]).tolist() == [-1]


def test_the_configuration_is_one_that_training_takes(data, tmp_path):
    config = tmp_path / "start.yaml"
    code, _ = advise(data, tmp_path, "--fast", "--write_config", str(config), "--classes", "disc,cross")
    assert code == 0
    cli = FitCLI(["--config", str(config), "--trainer.fast_dev_run", "1", "--accelerator", "cpu"])
    assert cli.datamodule.class_names == ("disc", "cross") and cli.datamodule.batch_size == 8
    assert cli.model.hparams.backbone == "resnet18" and str(cli.datamodule.data_root) == str(data)
    with pytest.raises(SystemExit):
        advise(data, tmp_path, "--write_config", str(config))


def test_a_data_set_with_problems_gets_no_advice(data, tmp_path):
    shutil.rmtree(data / "val2017")
    code, report = advise(data, tmp_path, "--fast", "--write_config", str(tmp_path / "start.yaml"))
    assert code == 1 and "advice" not in report and not (tmp_path / "start.yaml").exists()
