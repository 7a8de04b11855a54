"""Pictures of detections: each has a name of its own, in the directory and in TensorBoard."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from coco.annotations import CocoAnnotations
from tests.coco.test_findings import change, write
from training.pictures import ClassPrecision, DetectionPictures, TensorBoardPictures

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
