import sys
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import ExifTags, Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.decoding import ImageError
from coco.tiles import Tiling
from datamodule import COCODataModule
from prediction import Detector
from prediction.detector import labels_of, open_picture
from ssd_module import load_module
from training.published_saving import save_reference_checkpoint

NAMES = {2: "disc", 3: "square", 7: "triangle", 40: "cross"}
# How a picture is stored under each EXIF orientation: what a viewer does to it, undone.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, 3),
}


@pytest.fixture(scope="module")
def detector(random_detector):
    return Detector(random_detector, "cpu", score_threshold=0.05)


@pytest.fixture(scope="module")
def paths(sample):
    return sorted((sample / "val2017").glob("*.jpg"))[:5]


def same(found, expected):
    assert len(found) == len(expected) > 0
    assert np.allclose(found.boxes, expected.boxes, atol=1e-3) and np.allclose(found.scores, expected.scores, atol=1e-6)
    assert (found.labels == expected.labels).all() and found.size == expected.size
    return True


@pytest.mark.parametrize("tiles", [None, 200])
def test_predictions_are_those_of_the_trainer_on_the_same_pictures(random_detector, sample, tiles):
    detector = Detector(random_detector, "cpu", score_threshold=0.05, tiles=tiles)
    data = COCODataModule(str(sample), batch_size=4, num_workers=0, tiles=tiles, val_limit=3 if tiles else None)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    expected = [each for batch in trainer.predict(load_module(random_detector), data) for each in batch]
    files = [data.val_directory / data.val_annotations.file_name(i) for i in range(len(expected))]
    for found, trainers in zip(detector(files, batch_size=4), expected, strict=True):
        assert torch.equal(torch.from_numpy(found.boxes), trainers["boxes"])
        assert torch.equal(torch.from_numpy(found.scores), trainers["scores"])
        assert torch.equal(torch.from_numpy(found.labels), trainers["labels"])


def test_paths_images_and_arrays_give_the_same_in_any_batch_size(detector, paths):
    with Image.open(paths[2]) as image:
        array = np.asarray(image.convert("RGB"))
        mixed = [str(paths[0]), paths[1], image, array]
        found = detector(iter(mixed), batch_size=3)
    for each, expected in zip(found, detector([paths[0], paths[1], paths[2], paths[2]], batch_size=1), strict=True):
        same(each, expected)


def test_one_picture_gives_a_list_of_one_and_none_gives_none(detector, paths):
    assert [len(detector(one)) for one in (paths[0], str(paths[0]), np.zeros((9, 9), np.uint8))] == [1, 1, 1]
    assert detector([]) == []


def test_detections_know_their_classes_and_the_pictures_size(detector, paths):
    (found,) = detector(paths[0])
    with Image.open(paths[0]) as picture:
        assert found.size == picture.size
    assert [NAMES[i] for i in found.category_ids] == list(found.class_names)
    assert [list(NAMES)[label - 1] for label in found.labels] == list(found.category_ids)
    assert found.boxes.dtype == found.scores.dtype == np.float32 and (np.diff(found.scores) <= 0).all()


def test_tiles_find_what_lies_in_them_too_and_are_by_default_those_of_the_run(random_detector, detector, paths, caplog):
    module = load_module(random_detector)
    module.tiling = Tiling(200, 0.3)
    with caplog.at_level("INFO"):
        tiled, whole = (
            Detector(module, "cpu", score_threshold=0.05),
            Detector(module, "cpu", score_threshold=0.05, tiles=0),
        )
    assert "as the checkpoint's run: tiles 200, tile_overlap 0.3" in caplog.text
    same(whole(paths[0])[0], detector(paths[0])[0])
    own = Detector(random_detector, "cpu", score_threshold=0.05, tiles=200, tile_overlap=0.3)
    (found,) = tiled(paths[0], batch_size=4)
    assert same(found, own(paths[0], batch_size=100)[0]) and found.scores.mean() > detector(paths[0])[0].scores.mean()
    for settings, message in (
        ({"tiles": 5}, "--tiles 5: "),
        ({"tile_overlap": 0.1}, "--tile_overlap 0.1: of no tiles"),
    ):
        with pytest.raises(MisconfigurationException, match=message):
            Detector(module, "cpu", **settings)


@pytest.mark.parametrize("classes", [["disc", "triangle"], [2, 7], ["2", "triangle"]])
def test_classes_are_chosen_by_name_or_category_id(random_detector, detector, paths, classes):
    chosen = Detector(random_detector, "cpu", score_threshold=0.05, classes=classes)
    (some,), (all_of_them,) = chosen(paths[0]), detector(paths[0])
    expected = np.isin(all_of_them.labels, (1, 3))
    assert 0 < expected.sum() < len(all_of_them)
    assert np.array_equal(some.boxes, all_of_them.boxes[expected]) and set(some.category_ids) <= {2, 7}


@pytest.mark.extras
def test_detections_go_on_in_supervision(detector, paths):
    pytest.importorskip("supervision", reason="is not installed")
    (found,) = detector(paths[0])
    theirs = found.to_supervision()
    assert np.array_equal(theirs.xyxy, found.boxes) and np.array_equal(theirs.confidence, found.scores)
    assert [detector.module.class_names[i] for i in theirs.class_id] == list(found.class_names)
    assert theirs["class_name"].tolist() == list(found.class_names)
    parts = ("boxes", "scores", "labels", "class_names", "category_ids")
    assert len(replace(found, **{part: getattr(found, part)[:0] for part in parts}).to_supervision()) == 0


def test_without_supervision_the_message_says_what_to_install(detector, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        detector(paths[0])[0].to_supervision()


def test_an_unknown_class_is_an_error_that_lists_those_there_are(random_detector):
    with pytest.raises(
        MisconfigurationException, match=r"zebra.*disc \(2\), square \(3\), triangle \(7\), cross \(40\)"
    ):
        Detector(random_detector, "cpu", classes=["disc", "zebra"])


def test_the_score_threshold_is_the_detectors_and_may_lie_below_the_checkpoints(random_detector, paths):
    module = load_module(random_detector)
    module.hparams.score_threshold = 0.7
    high, low = (Detector(module, "cpu", score_threshold=t)(paths[0])[0] for t in (0.75, 0.6))
    assert high.scores.min() > 0.75 > 0.7 > low.scores.min() > 0.6
    assert module.hparams.score_threshold == 0.7, "validation of the same module stays as it was"
    with pytest.raises(MisconfigurationException, match="score_threshold 1"):
        Detector(module, "cpu", score_threshold=1)


@pytest.mark.parametrize("orientation", STORED)
def test_files_are_turned_upright_as_exif_says(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for suffix in (".png", ".tiff"):  # Pillow turns the latter itself: not twice
        path = tmp_path / f"stored{suffix}"
        Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif)
        assert np.array_equal(open_picture(path), upright), suffix


def test_a_rotated_photo_has_the_detections_of_the_upright_one(detector, paths, tmp_path):
    upright, exif = open_picture(paths[0]), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    same(*detector([tmp_path / "photo.png", upright]))


def test_what_is_no_picture_is_refused_with_what_came(detector, tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        detector(tmp_path / "text.jpg")
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 in RGB"):
            detector([wrong])
    with pytest.raises(TypeError, match="got int"):
        detector([3])
    with pytest.raises(ValueError, match="8 bits"):
        detector(Image.new("I;16", (4, 4)))


def test_mixed_precision_computes_in_it(random_detector, detector, paths):
    (mixed,) = Detector(random_detector, "cpu", precision="bf16-mixed", score_threshold=0.05)(paths[0])
    (full,) = detector(paths[0])
    assert not np.array_equal(mixed.scores, full.scores) and np.allclose(mixed.scores[:20], full.scores[:20], atol=0.05)


def test_a_published_checkpoint_predicts_as_the_one_it_was_made_from(random_detector, detector, paths, tmp_path):
    save_reference_checkpoint(load_module(random_detector), tmp_path / "epoch_0.pt")
    (published,) = Detector(tmp_path / "epoch_0.pt", "cpu", score_threshold=0.05)(paths[0])
    (ours,) = detector(paths[0])
    same(published, ours)
    assert published.class_names == ours.class_names


def test_more_than_one_device_and_devices_that_are_not_there_are_refused(random_detector):
    with pytest.raises(MisconfigurationException, match="one device"):
        Detector(random_detector, "cpu", devices=2)
    for accelerator, devices in (("abacus", 1), ("cpu", "x")):
        with pytest.raises(MisconfigurationException, match=f"--accelerator {accelerator} --devices {devices}"):
            Detector(random_detector, accelerator, devices)
    if not torch.cuda.is_available():
        with pytest.raises(MisconfigurationException, match="no CUDA device"):
            Detector(random_detector, "cuda")


@pytest.mark.parametrize("precision", ["64-true", "16-true", "bf16-true", "16"])
def test_every_precision_finds_what_32_bits_find_but_for_rounding(detector, random_detector, paths, precision):
    other = Detector(random_detector, "cpu", precision=precision, score_threshold=0.05)
    (full,), (found,) = detector(paths[0]), other(paths[0])
    assert found.boxes.dtype == found.scores.dtype == np.float32 and len(found) > 20
    assert np.allclose(found.scores[:20], full.scores[:20], atol=1e-6 if precision == "64-true" else 0.05)
    assert torch.get_default_dtype() == torch.float32
    (again,) = detector(paths[0])
    assert same(again, full), "nothing of another precision is left behind"


@pytest.mark.parametrize(
    ("precision", "message"),
    [("transformer-engine", "--precision transformer-engine: .*linear layers"), ("half", "--precision half: ")],
)
def test_a_precision_that_is_none_is_refused_by_name(random_detector, precision, message):
    with pytest.raises(MisconfigurationException, match=message):
        Detector(random_detector, "cpu", precision=precision)


def test_classes_are_all_that_a_name_means_or_an_error_that_says_how_to_be_clear():
    assert labels_of(["red"], ("red", "blue", "red"), (1, 2, 3)) == [1, 3]
    assert labels_of(["1"], ("1", "2"), (1, 2)) == [1], "name and id of the same class"
    digits, ids = ("0", "1", "2"), (1, 2, 3)
    with pytest.raises(MisconfigurationException, match=r"--classes 1: .*name:1 or id:1\. .*0 \(1\), 1 \(2\)"):
        labels_of(["1"], digits, ids)
    assert labels_of(["name:1"], digits, ids) == [2] and labels_of(["id:1"], digits, ids) == [1]
    assert labels_of([1], digits, ids) == [1], "an int is an id"
    assert labels_of(["0", "3"], digits, ids) == [1, 3]
    assert labels_of(["id:1"], ("id:1", "x"), (5, 1)) == [1], "a class may be called so"


@pytest.mark.filterwarnings("error")
def test_prediction_warns_of_nothing(detector, paths):
    assert detector(paths[:2])


def test_deep_pictures_are_the_same_by_path_in_evaluation_and_refused_as_images(detector, tmp_path):
    grey = np.add.outer(np.arange(60) * 3, np.arange(60)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "b.tiff")
    same(*detector([tmp_path / "a.png", tmp_path / "b.tiff"]))
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "c.tiff")
    with pytest.raises(ImageError, match=r"c\.tiff: .*none of its pixels is a number"):
        detector(tmp_path / "c.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_images_of_every_mode_of_8_bits_are_taken(paths, mode):
    picture = Image.open(paths[0])
    by_way_of = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, mode)
    taken = open_picture(picture.convert(by_way_of).convert(mode))
    assert taken.mode == "RGB" and abs(np.asarray(taken).mean() - np.asarray(picture).mean()) < 20
