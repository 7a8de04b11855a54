import json
import shutil

import pytest
import torch

from coco.annotations import AnnotationError
from datamodule import COCODataModule, DataError, check_same_classes


@pytest.fixture
def data(sample, tmp_path):
    """A copy of the sample data set that a test may damage."""
    return shutil.copytree(sample, tmp_path / "data")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def module(root, **options):
    return COCODataModule(str(root), batch_size=4, num_workers=0, **options)


def test_classes_come_from_the_annotations(sample):
    data = module(sample)
    assert data.class_names == ("disc", "square", "triangle", "cross")
    assert data.category_ids == (2, 3, 7, 40)


def test_batches_have_the_documented_shapes(sample):
    data = module(sample)
    data.setup("fit")
    raw = next(iter(data.train_dataloader()))
    assert raw["images"].dtype == torch.uint8, "uint8 travels to the device"
    batch = data.on_after_batch_transfer(raw, 0)
    assert batch["images"].shape == (4, 3, 300, 300) and batch["images"].dtype == torch.float32
    assert batch["boxes"].shape == (*batch["labels"].shape, 4)
    batches = list(data.val_dataloader())
    assert sum(len(batch["image_ids"]) for batch in batches) == 10


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_any_number_of_workers_gives_the_same_batches(sample, context):
    def batches(workers):
        data = COCODataModule(str(sample), batch_size=4, num_workers=workers)
        loader = data.train_dataloader()
        if workers:
            loader.multiprocessing_context = context
        loader.sampler.set_epoch(3)
        return list(loader)

    for alone, parallel in zip(batches(0), batches(2), strict=True):
        for key in ("images", "boxes", "labels", "colour"):
            assert torch.equal(alone[key], parallel[key])


def test_two_processes_see_together_what_one_sees(sample):
    data = module(sample)
    data._replicas = lambda: (2, 1)
    second = [batch["image_ids"].tolist() for batch in data.train_dataloader()]
    data.batch_size = 8
    data._replicas = lambda: (1, 0)
    assert second == [batch["image_ids"].tolist()[4:] for batch in data.train_dataloader()]


def test_images_without_boxes_are_left_out_of_training_but_evaluated(data):
    path = data / "annotations" / "instances_train2017.json"
    edit(path, lambda content: content.update(annotations=content["annotations"][:1]))
    assert len(module(data).train_annotations.trainable) == 1
    edit(data / "annotations" / "instances_val2017.json", lambda content: content.update(annotations=[]))
    assert sum(len(batch["image_ids"]) for batch in module(data).val_dataloader()) == 10


def test_without_data_the_error_gives_the_commands_for_the_sample_and_for_coco(tmp_path):
    with pytest.raises(DataError) as error:
        module(tmp_path / "nowhere").check()
    for part in (
        "nowhere/annotations/instances_train2017.json",
        "python -m coco.sample",
        "train.py --config",
        "download_dataset.sh",
    ):
        assert part in str(error.value)


def test_missing_image_files_are_counted_and_named(data):
    names = sorted(path.name for path in (data / "train2017").iterdir())
    for name in names[:5]:
        (data / "train2017" / name).unlink()
    with pytest.raises(DataError, match=rf"5 of the 24 images .*{names[0]}, {names[1]}, {names[2]}\."):
        module(data).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=99), "99"),
        (lambda c: c["annotations"][0].update(image_id=12345), "12345"),
        (lambda c: c["images"].append(c["images"][0]), "id"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "bbox|NaN"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, "x", 4]), "bbox"),
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "etc/passwd"),
    ],
    ids=["unknown category", "unknown image", "duplicate image id", "NaN box", "text in a box", "path out of the data"],
)
def test_bad_annotations_stop_before_training_and_name_what_is_wrong(data, change, message):
    path = data / "annotations" / "instances_train2017.json"
    edit(path, change)
    with pytest.raises(AnnotationError, match=rf"(?s)instances_train2017\.json.*({message})"):
        module(data).check()


def test_broken_json_stops_with_its_position(data):
    path = data / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(AnnotationError, match=r"instances_train2017\.json.*(line|byte|column|position|char)"):
        module(data).check()


def test_train_and_val_with_other_categories_are_refused(data):
    edit(data / "annotations" / "instances_val2017.json", lambda c: c["categories"][0].update(name="blob"))
    with pytest.raises(DataError, match=r"the classes of .*train.* are not those of .*val.*2 blob"):
        module(data).check()


def test_directory_names_are_options(data):
    (data / "train2017").rename(data / "pictures")
    (data / "annotations" / "instances_train2017.json").rename(data / "boxes.json")
    module(data, train_images="pictures", train_annotations="boxes.json").check()


def test_a_model_of_other_classes_is_refused_by_id_and_name(sample):
    annotations = module(sample).val_annotations
    check_same_classes(["disc", "square", "triangle", "cross"], [2, 3, 7, 40], annotations)
    with pytest.raises(DataError, match="1 disc"):
        check_same_classes(["disc", "square", "triangle", "cross"], [1, 3, 7, 40], annotations)
