from types import SimpleNamespace

import pytest
import torch
from torch.torch_version import TorchVersion

from coco.annotations import AnnotationError
from coco.decoding import ImageError
from coco.splits import DataError, check_same_classes
from coco.transforms import Augmentation
from datamodule import COCODataModule, fit_stages
from tests.conftest import edit
from training.resuming import Position


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


@pytest.mark.parametrize(("count", "context", "tiles"), [(1, "fork", None), (2, "fork", 200), (2, "spawn", 200)])
def test_any_number_of_workers_gives_the_same_batches(sample, count, context, tiles):
    def batches(workers):
        data = COCODataModule(str(sample), batch_size=4, num_workers=workers, tiles=tiles)
        loader = data.train_dataloader()
        if workers:
            loader.multiprocessing_context = context
        loader.sampler.set_epoch(3)
        return list(loader)

    for alone, parallel in zip(batches(0), batches(count), strict=True):
        for key in ("images", "boxes", "labels", "colour"):
            assert torch.equal(alone[key], parallel[key])


def test_the_augmentation_asked_for_is_that_of_the_batches(sample):
    off = {"zoom_out": 1.0, "crop_side": 1.0, "flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    off["hue"] = 0.0
    data = module(sample, augmentation=Augmentation(**off))
    loader = data.train_dataloader()
    (batch, *_), again = list(loader), next(iter(loader))
    loader.sampler.set_epoch(3)
    later = {i: image for b in loader for i, image in zip(b["image_ids"].tolist(), b["images"], strict=True)}
    for image_id, image in zip(batch["image_ids"].tolist(), batch["images"], strict=True):
        assert torch.equal(image, later[image_id]), "nothing is random any more"
    assert torch.equal(batch["images"], again["images"])
    assert data.samples_from()["augmentation.flip"] == 0.0, "a resumed run is held to it"
    with pytest.raises(DataError, match=r"--data.augmentation.flip 1.5: expected a number from 0 to 1"):
        module(sample, augmentation=Augmentation(flip=1.5))


@pytest.mark.parametrize("tiles", [None, 200])
def test_two_processes_see_together_what_one_sees(sample, tiles):
    data = module(sample, tiles=tiles)
    data._replicas = lambda: (2, 1)
    second = [batch["image_ids"].tolist() for batch in data.train_dataloader()]
    data.batch_size = 8
    data._replicas = lambda: (1, 0)
    assert second == [batch["image_ids"].tolist()[4:] for batch in data.train_dataloader()]


def test_with_tiles_an_epoch_has_those_with_a_box_and_a_batch_of_evaluation_is_bounded_by_its_views(sample):
    whole, tiled = module(sample), module(sample, tiles=150, val_batch_size=40)
    assert tiled.num_train_images == whole.num_train_images < tiled.num_train_samples
    assert sum(len(batch["images"]) for batch in tiled.train_dataloader()) == tiled.num_train_samples // 4 * 4
    with_backgrounds = module(sample, tiles=150, train_backgrounds=True)
    assert with_backgrounds.num_train_samples > tiled.num_train_samples
    batches = list(tiled.val_dataloader())
    assert sum(len(batch["image_ids"]) for batch in batches) == 10 and 1 < len(batches) < 10
    assert all(len(batch["images"]) <= 40 for batch in batches)
    assert tiled.samples_from()["tiles"] == 150 and whole.samples_from()["tiles"] is None
    assert tiled.evaluated_on()["tiles"] == 150 and "tiles" not in whole.evaluated_on()


def test_images_without_boxes_are_left_out_of_training_but_evaluated(data):
    path = data / "annotations" / "instances_train2017.json"
    edit(path, lambda content: content.update(annotations=content["annotations"][:1]))
    assert len(module(data).train_annotations.trainable) == 1
    edit(data / "annotations" / "instances_val2017.json", lambda content: content.update(annotations=[]))
    assert sum(len(batch["image_ids"]) for batch in module(data).val_dataloader()) == 10


def test_with_train_backgrounds_pictures_without_annotations_are_trained_on_and_no_other_sample_changes(data):
    without, with_them = module(data), module(data, train_backgrounds=True)
    assert (without.num_train_images, with_them.num_train_images) == (23, 24)
    (background,) = with_them.train_annotations.backgrounds.tolist()
    image_id = with_them.train_annotations.image_ids[background]
    batches = epoch_of(with_them, 0)
    rows = [pair for batch in batches for pair in zip(batch["image_ids"].tolist(), batch["labels"], strict=True)]
    (labels,) = [labels for found, labels in rows if found == image_id]
    assert not labels.any()
    first, second = (loaded.train_dataloader().dataset for loaded in (without, with_them))
    for key in [(0, index) for index in without.train_annotations.trainable.tolist()[:4]]:
        assert (first[key]["image"] == second[key]["image"]).all()
    assert without.samples_from() != with_them.samples_from(), "a resumed run does not change them unasked"


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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"damaged_limit": 2}, "--data.damaged_limit 2"), ({"decoder": "turbo"}, "--data.decoder turbo")],
)
def test_options_of_the_pictures_are_checked(sample, options, message):
    with pytest.raises((DataError, ImageError), match=message):
        module(sample, **options)


def test_the_plain_decoder_can_be_forced(sample):
    data = module(sample, decoder="pillow")
    assert data.decoder_name.startswith("Pillow")
    assert data.train_dataloader().dataset.dataset.decoder == data.val_dataloader().dataset.decoder == "pillow"


@pytest.mark.parametrize(("version", "device"), [("2.4.1", "mlu"), ("2.5.0", "")])
def test_batches_are_pinned_for_the_device_that_will_take_them(sample, monkeypatch, version, device):
    data = module(sample)
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=SimpleNamespace(type="mlu")), world_size=1, global_rank=0
    )
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    loader = data.train_dataloader()
    assert loader.pin_memory and loader.pin_memory_device == device
    data.trainer.strategy.root_device.type = "cpu"
    assert not data.train_dataloader().pin_memory


def epoch_of(datamodule, epoch):
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_damaged_images_are_counted_when_training_reaches_them_and_stay_on_the_host(data):
    datamodule = module(data, damaged_limit=1.0)
    index = int(datamodule.train_annotations.trainable[0])
    name = datamodule.train_annotations.file_name(index)
    (data / "train2017" / name).write_bytes(b"")
    loaded = [batch for epoch in range(2) for batch in epoch_of(datamodule, epoch)]
    assert not datamodule.damaged_images, "loaded is not yet trained on"
    with pytest.warns(UserWarning, match=f"{name}: not an image file"):
        trained = [datamodule.on_before_batch_transfer(batch, 0) for batch in loaded]
    assert not any("damaged" in batch for batch in trained)
    assert list(datamodule.damaged_images) == [name]


def test_a_checkpoint_holds_the_damaged_images_of_all_processes(sample, monkeypatch):
    fitting = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=2, accumulate_grad_batches=1)
    first, second = module(sample), module(sample)
    for data, name in ((first, "a.jpg"), (second, "b.jpg")):
        data.trainer = fitting
        saved = {"position": {}, "samples_from": data.samples_from(), "damaged_images": {name: f"{name}: cut off"}}
        data.load_state_dict(saved)
    monkeypatch.setattr("datamodule.position", lambda *_: Position())

    def gather(into, own):
        into[:] = [first.damaged_images, own]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    state = second.state_dict()
    assert sorted(state["damaged_images"]) == sorted(second.damaged_images) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": -1}, "--data.num_workers -1: expected a whole number, at least 0"),
        ({"val_batch_size": 0}, "--data.val_batch_size 0: expected a whole number, at least 1"),
        ({"seed": -1}, "--data.seed -1: expected a whole number from 0 to 4"),
        ({"damaged_limit": float("nan")}, "--data.damaged_limit nan"),
        ({"val_limit": -3}, "--limit -3"),
        ({"tiles": 20}, "--data.tiles 20: expected a whole number of pixels, at least 32"),
        ({"tiles": 600, "tile_overlap": 1.0}, "--data.tile_overlap 1.0: "),
        ({"tile_min_area": 0.3}, "--data.tile_min_area 0.3: of no tiles"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(sample, options, message):
    with pytest.raises(DataError, match=message):
        COCODataModule(str(sample), **options)


def test_a_file_of_the_same_letters_and_other_bytes_is_told_apart(data):
    (data / "train2017" / "000000000001.jpg").rename(data / "train2017" / "cafe\u0301.jpg")
    path = data / "annotations" / "instances_train2017.json"
    edit(path, lambda content: content["images"][0].update(file_name="caf\u00e9.jpg"))
    with pytest.raises(DataError, match=r"1 of the 24 .*'caf\\xe9.jpg' is not 'cafe\\u0301.jpg' \(Unicode form NFC"):
        module(data).check()


def test_a_class_of_the_same_letters_and_other_bytes_is_told_apart(data):
    for split, name in (("train", "caf\u00e9"), ("val", "cafe\u0301")):
        path = data / "annotations" / f"instances_{split}2017.json"
        edit(path, lambda content, name=name: content["categories"][0].update(name=name))
    with pytest.raises(DataError, match=r"'caf\\xe9' is not 'cafe\\u0301' \(Unicode form NFC against NFD\)"):
        module(data).check()


def test_data_that_cannot_be_evaluated_as_meant_stops_a_fit_that_validates_and_no_other(data):
    edit(data / "annotations" / "instances_val2017.json", lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
    checked = module(data)
    with pytest.raises(DataError, match=r"instances_val2017.json: every box \(\d+\) is a crowd"):
        checked.setup("fit")
    checked.trainer = SimpleNamespace(limit_val_batches=0, world_size=1, global_rank=0)
    checked.setup("fit")
    (data / "annotations" / "instances_val2017.json").unlink()
    module(data).check(fit_stages(0))
    with pytest.raises(DataError, match="no data set at"):
        module(data).check(fit_stages(1.0))


def test_pictures_without_annotations_can_be_predicted(data):
    edit(data / "annotations" / "instances_val2017.json", lambda c: c.update(annotations=[]))
    module(data).setup("predict")
    with pytest.raises(DataError, match="nothing to evaluate against"):
        module(data).setup("validate")


def test_oddities_are_a_line_each_of_the_first_process_alone(data, capsys):
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}2017.json"
        edit(path, lambda content: content["categories"].append({"id": 50, "name": "star"}))
    checked = module(data)
    checked.setup("fit")
    lines = [line for line in capsys.readouterr().err.splitlines() if "classes have no box" in line]
    assert lines == [f"warning: {split}: 1 of 5 classes have no box: star" for split in ("train", "val")]
    checked.trainer = SimpleNamespace(limit_val_batches=1.0, world_size=2, global_rank=1)
    checked.setup("fit")
    assert capsys.readouterr().err == ""
