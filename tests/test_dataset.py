import os

import numpy as np
import pytest
import torch
from PIL import Image

from coco.annotations import CocoAnnotations
from coco.dataset import (
    EvaluationDataset,
    ImageError,
    TrainingDataset,
    collate_evaluation,
    collate_training,
    decode,
)


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
    from coco.transforms import draw_sample, generator

    for index in training.annotations.trainable[:5].tolist():
        picture = Image.open(training.directory / training.annotations.file_name(index)).convert("RGB")
        drawn = draw_sample(generator(0, 0, index), *picture.size, *training.annotations.training_boxes(index))
        plain = picture.crop(drawn.crop).resize((300, 300), Image.Resampling.BILINEAR)
        if drawn.flip:
            plain = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(training[0, index]["image"], np.asarray(plain))


def test_an_evaluation_sample_is_the_whole_picture(evaluation):
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


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    picture.save(path)
    decoded = np.asarray(decode(path))
    assert decoded.shape == (16, 16, 3)
    if mode != "1":
        assert np.abs(decoded[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "not an image"), (b"hello", "not an image"), (None, "no such image")]
)
def test_a_file_that_is_no_picture_is_named(tmp_path, content, reason):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=f"broken.jpg: {reason}"):
        decode(path)


def test_a_picture_cut_off_is_named(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ImageError, match=r"cut.jpg: cannot be decoded"):
        decode(path)


def test_a_picture_that_a_program_would_have_to_draw_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "drawn.jpg"  # PostScript: Pillow would hand it to Ghostscript
    Image.new("RGB", (20, 20)).save(path, "EPS")
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ImageError, match=r"drawn.jpg: not an image file in one of the formats BMP, GIF, JPEG"):
        decode(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_directory_is_no_picture_and_is_not_waited_for(tmp_path, make):
    make(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=r"x.jpg: no such image file"):
        decode(tmp_path / "x.jpg")


def test_a_file_name_too_long_for_any_file_is_a_missing_picture(tmp_path):
    with pytest.raises(ImageError, match="no such image file"):
        decode(tmp_path / ("x" * 300 + ".jpg"))


@pytest.mark.parametrize("which", ["training", "evaluation"])
def test_a_picture_of_another_size_than_annotated_is_named(request, tmp_path, which):
    dataset = request.getfixturevalue(which)
    index = int(dataset.annotations.trainable[0])
    name = dataset.annotations.file_name(index)
    Image.new("RGB", (50, 60)).save(tmp_path / name)
    dataset.directory = tmp_path
    with pytest.raises(ImageError, match=f"{name}.*50x60"):
        dataset[(0, index) if which == "training" else index]
