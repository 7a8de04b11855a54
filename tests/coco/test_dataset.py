import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from coco.annotations import CocoAnnotations
from coco.dataset import EvaluationDataset, TrainingDataset, collate_evaluation, collate_training
from coco.decoding import GREY, ImageError, resize
from coco.tiles import Tiling, TrainingTiles
from coco.transforms import Augmentation, draw_sample, generator


@pytest.fixture
def training(sample):
    annotations = CocoAnnotations.load(sample / "annotations" / "instances_train2017.json")
    return TrainingDataset(annotations, sample / "train2017", seed=0)


@pytest.fixture
def evaluation(sample):
    annotations = CocoAnnotations.load(sample / "annotations" / "instances_val2017.json")
    return EvaluationDataset(annotations, sample / "val2017")


def test_a_training_sample_is_a_300x300_picture_with_normalised_boxes(training):
    sample = training[0, int(training.annotations.trainable[0])]
    assert sample["image"].shape == (300, 300, 3) and sample["image"].dtype == np.uint8
    assert sample["boxes"].shape == (len(sample["labels"]), 4)
    assert sample["boxes"].min() >= 0 and sample["boxes"].max() <= 1
    assert sample["colour"].shape == (3, 6)


def test_the_same_key_gives_the_same_sample_and_another_epoch_another(training):
    index = int(training.annotations.trainable[0])
    a, b, other = training[3, index], training[3, index], training[4, index]
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert not np.array_equal(a["image"], other["image"])


def test_crop_resize_and_flip_are_pillows(training):
    training.decoder = "pillow"
    for index in training.annotations.trainable[:5].tolist():
        picture = Image.open(training.directory / training.annotations.file_name(index)).convert("RGB")
        drawn = draw_sample(generator(0, 0, index), *picture.size, *training.annotations.training_boxes(index))
        plain = picture.crop(drawn.crop).resize((300, 300), Image.Resampling.BILINEAR)
        if drawn.flip:
            plain = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(training[0, index]["image"], np.asarray(plain))


def test_a_zoomed_out_picture_lies_on_grey_where_its_boxes_say(training):
    training.decoder, training.augmentation = "pillow", Augmentation(zoom_out=4.0)
    seen = 0
    for index in training.annotations.trainable.tolist():
        picture = Image.open(training.directory / training.annotations.file_name(index)).convert("RGB")
        truths = training.annotations.training_boxes(index)
        drawn = draw_sample(generator(0, 0, index), *picture.size, *truths, training.augmentation)
        left, top, right, bottom = drawn.place
        plain = picture.crop(drawn.crop).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        if drawn.flip:
            plain = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas = Image.new("RGB", (300, 300), GREY)
        canvas.paste(plain, (left, top))
        sample = training[0, index]
        assert np.array_equal(sample["image"], np.asarray(canvas))
        assert np.array_equal(sample["boxes"], drawn.boxes)
        seen += drawn.place != (0, 0, 300, 300)
    assert seen > 3


def test_a_sample_of_tiles_is_one_cut_out_as_if_it_were_the_picture(training):
    off = Augmentation(crop_side=1.0, flip=0.0)
    training.decoder, training.augmentation = "pillow", off
    training.tiles = TrainingTiles(training.annotations, Tiling(150))
    assert len(training.tiles.trainable) > len(training.annotations.trainable)
    for number in training.tiles.trainable[::7].tolist():
        image, window = training.tiles.image(number), training.tiles.window(number)
        picture = Image.open(training.directory / training.annotations.file_name(image)).convert("RGB")
        sample = training[0, number]
        plain = picture.crop(window).resize((300, 300), Image.Resampling.BILINEAR)
        assert np.array_equal(sample["image"], np.asarray(plain))
        assert np.array_equal(sample["boxes"], training.tiles.training_boxes(number)[0]) and len(sample["boxes"])
        assert sample["image_id"] == training.annotations.image_ids[image]
        assert training.path(number).name == training.annotations.file_name(image)


def test_views_of_a_picture_are_the_whole_and_its_tiles_with_the_boxes_of_each(evaluation):
    whole, (boxes, _) = evaluation[0]["image"], evaluation.annotations.training_boxes(0)
    evaluation.tiling, evaluation.truths = Tiling(150), True
    sample, batch = evaluation[0], collate_evaluation([evaluation[0], evaluation[1], None], 3)
    views, width = batch["views"], sample["size"][0]
    assert views.counts.tolist() == [len(sample["windows"]), len(evaluation[1]["windows"])] and views.at_once == 3
    assert len(batch["images"]) == len(batch["boxes"]) == views.counts.sum() == len(views.windows)
    assert np.array_equal(sample["image"][0], whole) and sample["windows"][0].tolist() == [0, 0, *sample["size"]]
    assert np.array_equal(sample["truths"][0][0], boxes)
    pixels = np.asarray(Image.open(evaluation.directory / evaluation.annotations.file_name(0)).convert("RGB"))
    left, top, right, bottom = sample["windows"][-1].tolist()
    assert right == width and np.array_equal(sample["image"][-1], resize(pixels[top:bottom, left:right], (300, 300)))


def test_an_evaluation_sample_is_the_whole_picture(evaluation):
    evaluation.decoder = "pillow"
    sample = evaluation[0]
    picture = Image.open(evaluation.directory / evaluation.annotations.file_name(0))
    assert sample["size"] == picture.size
    assert np.array_equal(
        sample["image"], np.asarray(picture.convert("RGB").resize((300, 300), Image.Resampling.BILINEAR))
    )
    assert len(evaluation) == 10


def test_training_batches_are_padded_with_zeros(training):
    samples = [training[0, index] for index in training.annotations.trainable[:4].tolist()]
    batch = collate_training(samples)
    assert batch["images"].shape == (4, 3, 300, 300) and batch["images"].dtype == torch.uint8
    assert batch["boxes"].shape[1] % 8 == 0
    for i, sample in enumerate(samples):
        count = len(sample["labels"])
        assert np.array_equal(batch["boxes"][i, :count], sample["boxes"])
        assert batch["labels"][i, count:].sum() == 0 and batch["boxes"][i, count:].sum() == 0
    assert isinstance(batch["image_ids"], np.ndarray), "64-bit ids stay on the CPU"


def test_no_picture_collates_to_nothing(evaluation):
    assert collate_evaluation([evaluation[None]])["images"].shape == (0, 3, 300, 300)
    assert collate_evaluation([evaluation[0], None])["image_ids"].tolist() == [evaluation.annotations.image_ids[0]]


def damage(dataset, tmp_path, index, content=b"text named .jpg"):
    """A copy of the pictures in which one is damaged; returns its name."""
    dataset.directory = shutil.copytree(dataset.directory, tmp_path / "pictures")
    name = dataset.annotations.file_name(index)
    (dataset.directory / name).write_bytes(content)
    return name


def test_a_damaged_picture_is_replaced_by_another_always_the_same_and_named(training, tmp_path):
    bad, good = training.annotations.trainable[:2].tolist()
    name = damage(training, tmp_path, bad)
    sample, again, next_epoch = training[0, bad], training[0, bad], training[1, bad]
    assert list(sample["damaged"]) == [name] and "not an image file" in sample["damaged"][name]
    assert np.array_equal(sample["image"], again["image"]) and sample["image_id"] == again["image_id"]
    replacement = training.annotations.image_ids.tolist().index(sample["image_id"])
    assert replacement in training.annotations.trainable and replacement != bad
    assert sample["image_id"] != next_epoch["image_id"], "drawn anew for every epoch"
    assert training[0, good]["damaged"] == {}
    batch = collate_training([training[0, good], sample])
    assert batch["damaged"] == sample["damaged"]


def test_a_picture_of_another_size_than_annotated_counts_as_damaged(training, tmp_path):
    index = int(training.annotations.trainable[0])
    content = BytesIO()
    Image.new("RGB", (50, 60)).save(content, "jpeg")
    name = damage(training, tmp_path, index, content.getvalue())
    assert "50x60 pixels, but" in training[0, index]["damaged"][name]


def test_a_missing_picture_is_no_damage_but_an_error(training, tmp_path):
    index = int(training.annotations.trainable[0])
    name = training.annotations.file_name(index)
    training.directory = tmp_path
    with pytest.raises(ImageError, match=f"{name}: no such image file"):
        training[0, index]


def test_where_everything_is_damaged_training_stops_naming_a_file(training, tmp_path):
    for index in range(len(training.annotations)):
        (tmp_path / training.annotations.file_name(index)).write_bytes(b"<html>")
    training.directory = tmp_path
    with pytest.raises(ImageError, match=r"images drawn one after the other are damaged; the first: .*\.jpg"):
        training[0, int(training.annotations.trainable[0])]


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_stops_at_a_damaged_picture_with_its_name_and_no_traceback(evaluation, tmp_path, workers):
    name = damage(evaluation, tmp_path, 3)
    loader = torch.utils.data.DataLoader(evaluation, num_workers=workers, collate_fn=collate_evaluation)
    with pytest.raises(ImageError, match=f"{name}: not an image file") as error:
        list(loader)
    assert "Traceback" not in str(error.value)


def test_decoders_give_the_same_sample_but_for_rounding(training):
    index = int(training.annotations.trainable[0])
    fast = training[0, index]
    training.decoder = "pillow"
    plain = training[0, index]
    difference = np.abs(fast.pop("image").astype(int) - plain.pop("image"))
    assert difference.max() <= 1 and difference.mean() <= 0.1
    assert all(np.array_equal(fast[key], plain[key]) for key in plain)
