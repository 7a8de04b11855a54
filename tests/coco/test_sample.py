"""The sample data set: seeded, valid COCO, varied as promised, and never half written."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from coco import sample
from coco.sample import main, write_sample
from coco.sample_painting import paint

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A sample of moderate size, about three seconds' work."""
    directory = tmp_path_factory.mktemp("sample")
    write_sample(directory, train_images=150, val_images=10)
    return directory


@pytest.fixture(scope="module")
def train(directory):
    return json_of(directory, "train2017")


def json_of(directory, part):
    return json.loads((directory / "annotations" / f"instances_{part}.json").read_text())


def hashes(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def objects_by_image(train):
    objects = {image["id"]: [] for image in train["images"]}
    for annotation in train["annotations"]:
        if not annotation["iscrowd"]:
            objects[annotation["image_id"]].append(annotation)
    return objects


def iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    return intersection / (a[2] * a[3] + b[2] * b[3] - intersection)


# ---- seeds ----


def test_same_seed_gives_identical_files(tmp_path):
    write_sample(tmp_path / "a", 4, 2, seed=5)
    write_sample(tmp_path / "b", 4, 2, seed=5)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_another_seed_gives_other_pictures(tmp_path):
    write_sample(tmp_path / "a", 3, 3, seed=0)
    write_sample(tmp_path / "b", 3, 3, seed=1)
    assert not set(hashes(tmp_path / "a").values()) & set(hashes(tmp_path / "b").values())


def test_val_shares_no_picture_with_train(directory):
    train = {image["file_name"]: image for image in json_of(directory, "train2017")["images"]}
    for image in json_of(directory, "val2017")["images"]:
        one, other = (directory / part / image["file_name"] for part in ("train2017", "val2017"))
        assert image["file_name"] in train and one.read_bytes() != other.read_bytes()


def test_smaller_sample_is_the_beginning_of_a_larger_one(directory, tmp_path):
    write_sample(tmp_path, train_images=3, val_images=2)
    small, large = hashes(tmp_path), hashes(directory)
    pictures = [name for name in small if name.endswith(".jpg")]
    assert len(pictures) == 5 and all(small[name] == large[name] for name in pictures)


# ---- valid COCO ----


def test_pycocotools_loads_both_parts(directory, capsys):
    for part, images in (("train2017", 150), ("val2017", 10)):
        coco = COCO(str(directory / "annotations" / f"instances_{part}.json"))
        assert len(coco.imgs) == images
        assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))


def test_pictures_have_the_sizes_they_are_listed_with(directory, train):
    for image in train["images"]:
        with Image.open(directory / "train2017" / image["file_name"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (image["width"], image["height"]))


def test_every_box_lies_in_its_picture_and_has_a_size(train):
    sizes = {image["id"]: (image["width"], image["height"]) for image in train["images"]}
    for annotation in train["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert x >= 0 and y >= 0 and w >= 5 and h >= 5
        assert x + w <= width and y + h <= height  # exactly: no rounding error may stick out
        assert 0 < annotation["area"] <= w * h


def test_box_and_area_are_those_of_the_segmentation(directory, train, capsys):
    coco = COCO(str(directory / "annotations" / "instances_train2017.json"))
    for annotation in train["annotations"]:
        mask = coco.annToMask(annotation)
        ys, xs = np.nonzero(mask)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        x, y, w, h = annotation["bbox"]
        # pycocotools rasterises polygons to within a pixel or so; the run lengths of a crowd are exact.
        slack = 0 if annotation["iscrowd"] else 2.5
        assert np.abs(box - [x, y, x + w, y + h]).max() <= slack
        assert abs(mask.sum() - annotation["area"]) <= slack * (w + h) / 2


def test_categories_are_several_and_their_ids_have_gaps(train):
    ids = [category["id"] for category in train["categories"]]
    assert len(ids) >= 4 and ids != list(range(1, len(ids) + 1))
    assert {annotation["category_id"] for annotation in train["annotations"]} == set(ids)


# ---- variety ----


def test_sizes_span_a_factor_of_four_and_aspect_ratios_two(train):
    objects = list(itertools.chain(*objects_by_image(train).values()))
    longest = [max(annotation["bbox"][2:]) for annotation in objects]
    ratios = [annotation["bbox"][2] / annotation["bbox"][3] for annotation in objects]
    assert np.percentile(longest, 98) >= 4 * np.percentile(longest, 2)
    assert np.percentile(ratios, 95) >= 2 * np.percentile(ratios, 5)


def test_some_objects_overlap_but_none_by_much(train):
    pairs = [itertools.combinations(objects, 2) for objects in objects_by_image(train).values()]
    ious = np.array([iou(a["bbox"], b["bbox"]) for a, b in itertools.chain(*pairs)])
    assert (ious > 0.05).sum() >= 10
    assert ious.max() <= 0.4


def test_every_object_stays_visible(directory, train, capsys):
    coco = COCO(str(directory / "annotations" / "instances_train2017.json"))
    for objects in objects_by_image(train).values():
        masks = [coco.annToMask(annotation).astype(bool) for annotation in objects]  # in painting order
        for i, mask in enumerate(masks):
            covered = np.any([mask & later for later in masks[i + 1 :]], axis=0).sum() if masks[i + 1 :] else 0
            assert covered <= 0.4 * mask.sum()


def test_there_are_empty_pictures_crowds_and_pictures_of_many_sizes(train):
    annotated = {annotation["image_id"] for annotation in train["annotations"]}
    crowds = [annotation for annotation in train["annotations"] if annotation["iscrowd"]]
    assert 1 <= len(train["images"]) - len(annotated) <= 20
    assert 1 <= len(crowds) <= 20
    assert len({(image["width"], image["height"]) for image in train["images"]}) > 50
    assert max(map(len, objects_by_image(train).values())) <= 7


def test_colour_does_not_tell_the_class(directory, train):
    colours = {category["id"]: [] for category in train["categories"]}
    for image_id, objects in objects_by_image(train).items():
        picture = np.asarray(Image.open(directory / "train2017" / f"{image_id:012d}.jpg"), np.float64)
        for annotation in objects:
            x, y, w, h = annotation["bbox"]
            middle = picture[int(y + 0.4 * h) : int(y + 0.6 * h) + 1, int(x + 0.4 * w) : int(x + 0.6 * w) + 1]
            colours[annotation["category_id"]].append(middle.mean((0, 1)))
    everything = np.concatenate(list(colours.values()))
    for of_class in colours.values():
        error = everything.std(0) / np.sqrt(len(of_class))
        assert (np.abs(np.mean(of_class, 0) - everything.mean(0)) < 4 * error).all()


def test_objects_stand_out_from_what_they_are_painted_on():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        background = rng.uniform(0, 255, 3).astype(np.uint8)
        picture = Image.new("RGB", (60, 60), tuple(background.tolist()))
        paint(rng, picture, np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 50.0], [10.0, 50.0]]))
        painted = np.asarray(picture, np.float64)[15:45, 15:45]
        assert np.linalg.norm(painted - background, axis=-1).mean() > 60


# ---- runs ----


def test_command_writes_the_sample_and_does_nothing_the_second_time(tmp_path):
    command = [sys.executable, "-m", "coco.sample", str(tmp_path / "d"), "--train", "3", "--val", "2"]
    first = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "train2017: 3 images" in first.stdout and "val2017: 2 images" in first.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "already holds this sample" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")} == before


def test_foreign_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(SystemExit, match=r"something else .*thesis\.tex.*new or empty directory"):
        main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_sample_is_refused_with_the_difference(tmp_path):
    write_sample(tmp_path, 2, 1, seed=0)
    with pytest.raises(FileExistsError, match="seed 0 instead of 1"):
        write_sample(tmp_path, 2, 1, seed=1)


def test_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        write_sample(tmp_path / "file", 2, 1)


@pytest.mark.parametrize("arguments", [{"train_images": 0}, {"val_images": 0}, {"seed": -1}])
def test_impossible_parameters_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="expected train_images >= 1"):
        write_sample(tmp_path / "new", **{"train_images": 1, "val_images": 1, **arguments})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("pictures_before_the_stop", [0, 2, 4])
def test_interrupted_run_is_written_again(tmp_path, monkeypatch, pictures_before_the_stop):
    write_sample(tmp_path / "whole", 3, 2)
    real, calls = sample.draw_picture, itertools.count()

    def stop_in_the_middle(rng):
        if next(calls) == pictures_before_the_stop:
            raise KeyboardInterrupt
        return real(rng)

    monkeypatch.setattr(sample, "draw_picture", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "cut", 3, 2)
    monkeypatch.setattr(sample, "draw_picture", real)
    assert write_sample(tmp_path / "cut", 3, 2)["written"]
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")


def test_lost_picture_is_written_again(tmp_path):
    write_sample(tmp_path, 2, 2)
    before = hashes(tmp_path)
    (tmp_path / "val2017" / "000000000002.jpg").unlink()
    assert write_sample(tmp_path, 2, 2)["written"]
    assert hashes(tmp_path) == before
    assert not write_sample(tmp_path, 2, 2)["written"]
