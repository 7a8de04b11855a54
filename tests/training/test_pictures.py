"""Pictures of detections: each has a name of its own, in the directory and in TensorBoard."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from coco.annotations import CocoAnnotations
from coco.augment import normalise
from tests.coco.test_findings import change, write
from training.pictures import ClassPrecision, DetectionPictures, TensorBoardPictures, TrainBatch

NAMES = ("d0/000.jpg", "d1/000.jpg", "d1/000.png", "d1/000_2.jpg", "d0/A.png", "d0/a.png")


def validated(tmp_path, callback, **trainer):
    """Lets the callback see one batch of all pictures, twice, as in two epochs."""
    path = write(tmp_path / "val.json", images=len(NAMES))
    change(path, lambda c: [image.update(file_name=name) for image, name in zip(c["images"], NAMES, strict=True)])
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (96, 80)).save(tmp_path / name)
    data = SimpleNamespace(val_annotations=CocoAnnotations.load(path), val_directory=tmp_path)
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, global_step=1, datamodule=data, **trainer)
    count = len(NAMES)
    outputs = torch.zeros(count, 2, 4), torch.zeros(count, 2), torch.zeros(count, 2, dtype=torch.int64)
    module = SimpleNamespace(class_names=("red", "blue"), category_ids=(1, 2))
    for _ in range(2):
        callback.on_validation_epoch_start(trainer, module)
        callback.on_validation_batch_end(trainer, module, outputs, {"image_ids": np.arange(1, count + 1)}, 0)


def test_pictures_of_one_name_in_several_folders_all_stay(tmp_path):
    validated(tmp_path, DetectionPictures(tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000.png", "000_2.png", "000_2_4.png", "000_3.png", "A.png", "a_6.png"]


def test_tensorboard_has_a_tag_for_each_the_same_in_every_epoch(tmp_path, monkeypatch):
    tags = []
    writer = SimpleNamespace(add_image=lambda tag, *args, **kwargs: tags.append(tag))
    monkeypatch.setattr("training.pictures.tensorboard", lambda trainer: SimpleNamespace(experiment=writer))
    validated(tmp_path, TensorBoardPictures(count=9))
    assert len(set(tags)) == len(NAMES) and tags[:6] == tags[6:]


def test_classes_of_one_name_keep_their_AP_apart(monkeypatch):
    scalars = {}
    writer = SimpleNamespace(add_scalar=lambda tag, value, step: scalars.update({tag: value}))
    monkeypatch.setattr("training.pictures.tensorboard", lambda trainer: SimpleNamespace(experiment=writer))
    rows = [{"name": "red", "category_id": i, "ground_truths": 1, "AP": i / 10} for i in (3, 5)]
    trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, global_step=1)
    ClassPrecision().on_validation_end(trainer, SimpleNamespace(metric=SimpleNamespace(per_class=lambda: rows)))
    assert scalars == {"class_AP/red": 0.3, "class_AP/red_5": 0.5}


def trained_on(tmp_path, ckpt_path=None):
    """The sheet of a batch of two grey pictures, the second with a box from 0.25 to 0.75."""
    images = torch.full((2, 3, 300, 300), 100, dtype=torch.uint8)
    boxes, labels = torch.zeros(2, 8, 4), torch.zeros(2, 8, dtype=torch.int64)
    boxes[1, 0], labels[1, 0] = torch.tensor([0.25, 0.25, 0.75, 0.75]), 2
    batch = {"images": normalise(images), "boxes": boxes, "labels": labels, "image_ids": np.array([4, 7])}
    trainer = SimpleNamespace(is_global_zero=True, ckpt_path=ckpt_path, datamodule=None, loggers=[])
    module = SimpleNamespace(class_names=("red", "blue"), category_ids=(1, 2))
    callback = TrainBatch(tmp_path)
    callback.on_train_batch_start(trainer, module, batch, 0)
    return callback, trainer, module, batch


def test_the_first_batch_is_drawn_as_the_network_gets_it_with_its_boxes(tmp_path):
    callback, *rest = trained_on(tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "train_batch.png").convert("RGB")).astype(int)
    assert (sheet[100, 50] == 100).all(), "the colours before normalisation"
    coloured = np.abs(sheet[..., 0] - sheet[..., 2]) > 60
    rows, columns = np.nonzero(coloured)
    assert columns.min() >= 384, "the first picture has no box"
    assert np.ptp(columns) >= 0.45 * 376 and np.ptp(rows) >= 0.45 * 376
    (tmp_path / "train_batch.png").unlink()
    callback.on_train_batch_start(*rest, 1)
    assert not (tmp_path / "train_batch.png").exists(), "once a run"


def test_a_resumed_run_keeps_the_sheet_of_its_beginning_or_makes_one(tmp_path):
    (tmp_path / "train_batch.png").write_text("the first one")
    trained_on(tmp_path, "last.ckpt")
    assert (tmp_path / "train_batch.png").read_text() == "the first one"
    trained_on(tmp_path / "elsewhere", "last.ckpt")
    assert (tmp_path / "elsewhere" / "train_batch.png").exists()
