"""predict.py as its users run it: files in, drawn files and tables out, and what the last line says."""

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from PIL import ExifTags, Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.foreign.formats import read
from command_line.predict import predict
from evaluation.drawing import draw_detections
from prediction import Detector, pipeline
from prediction.detector import open_picture
from prediction.video import VideoReader, VideoWriter
from tests.conftest import PROJECT


@pytest.fixture
def arguments(random_detector, tmp_path):
    """The arguments for inputs; results go to `out`."""
    common = ["--ckpt_path", str(random_detector), "--output", str(tmp_path / "out"), "--num_workers", "2"]
    return lambda *inputs: [*(str(each) for each in inputs), *common, "--accelerator", "cpu", "--batch_size", "3"]


@pytest.fixture
def folder(sample, tmp_path):
    """Five good pictures, two of one name, and between them a broken one."""
    names = ["a/x.jpg", "b/x.jpg", "c.jpg", "d.png", "e.jpg"]
    for name, path in zip(names, sorted((sample / "val2017").glob("*.jpg")), strict=False):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.save(tmp_path / "in" / name)
    content = (tmp_path / "in" / "c.jpg").read_bytes()
    (tmp_path / "in" / "broken.jpg").write_bytes(content[: len(content) // 3])
    return tmp_path / "in"


def tables(directory):
    results, images = (json.loads((directory / f"{name}.json").read_text()) for name in ("detections", "images"))
    with open(directory / "detections.csv", newline="") as file:
        return results, images["images"], list(csv.DictReader(file))


def test_a_folder_gives_drawn_pictures_and_tables_of_what_the_detector_finds(
    folder, arguments, random_detector, tmp_path, capfd
):
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert predict(arguments(folder, "--score_threshold", "0.6")) == 3
    results, images, rows = tables(tmp_path / "out")
    assert [image["drawn"] for image in images] == ["a/x.jpg", "b/x.jpg", "c.jpg", "d.png", "e.jpg"]
    detector = Detector(random_detector, "cpu", score_threshold=0.6)
    for image in images:
        (found,) = detector(image["file_name"])
        own = [result for result in results if result["image_id"] == image["id"]]
        corners = found.boxes.copy()
        corners[:, 2:] -= corners[:, :2]
        assert np.allclose([each["bbox"] for each in own], corners, atol=0.02)
        assert np.allclose([each["score"] for each in own], found.scores, atol=1e-4)
        assert [each["category_id"] for each in own] == list(found.category_ids)
        assert [row["class"] for row in rows if row["file"] == image["file_name"]] == list(found.class_names)
        with Image.open(tmp_path / "out" / image["drawn"]) as drawn, Image.open(image["file_name"]) as original:
            assert drawn.size == original.size == (image["width"], image["height"])
            names = detector.module.class_names
            expected = draw_detections(original, found.boxes, found.labels, found.scores, names)
            assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).mean() < 3, "but for JPEG"
    printed = capfd.readouterr()
    broken = str(folder / "broken.jpg")
    assert f"warning: {broken}: cannot be decoded" in printed.err and "truncated" in printed.err
    last = printed.out.strip().splitlines()[-1]
    assert last.startswith(f"predicted 5 of 6 files, {len(results)} detections")
    assert last.endswith(f"1 could not be read: {broken}")
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a", "b", "c.jpg", "d.png", "e.jpg", "detections.json", "images.json", "detections.csv"
    }  # fmt: skip


def test_classes_and_tables_alone(folder, arguments, tmp_path, capsys):
    assert predict(arguments(folder / "c.jpg", folder / "d.png", "--classes", "disc,40", "--draw", "false")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "detections.csv", "detections.json", "images.json"
    ]  # fmt: skip
    results, images, _ = tables(tmp_path / "out")
    assert {each["category_id"] for each in results} <= {2, 40} and "drawn" not in images[0]
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("predicted 2 files, ")


def test_labels_and_crops_of_pictures_are_what_the_tables_have(folder, arguments, tmp_path):
    flags = ["--format", "coco,yolo", "--save_crops", "--draw", "false", "--score_threshold", "0.6"]
    assert predict(arguments(folder / "a", folder / "b", folder / "c.jpg", *flags)) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"detections.json", "images.json", "yolo", "crops"}
    (part,), names = read(out / "yolo", "yolo")
    assert names == ["disc", "square", "triangle", "cross"]
    assert sorted(path.name for path, *_ in part.images) == ["c.jpg", "x.jpg", "x_2.jpg"], "two of one name"
    results = json.loads((out / "detections.json").read_text())
    assert sum(map(len, part.boxes)) == len(results) > 3
    crops = list((out / "crops").rglob("*.jpg"))
    assert len(crops) == len(results)
    widest = max(results, key=lambda each: each["bbox"][2])
    with Image.open(max(crops, key=lambda path: Image.open(path).width)) as crop:
        assert abs(crop.width - widest["bbox"][2]) <= 2 + widest["bbox"][2] / 4, "cut at the picture's border"
    with pytest.raises(MisconfigurationException, match="lie where labels and crops are written"):
        predict(arguments(crops[0]))


def test_a_rotated_photo_comes_out_upright_with_boxes_in_its_upright_pixels(folder, arguments, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(folder / "c.jpg") as picture:
        upright = picture.resize((400, 200))
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    assert predict(arguments(tmp_path / "photo.jpg", "--classes", "40", "--score_threshold", "0.8")) == 0
    _, (image,), _ = tables(tmp_path / "out")
    assert (image["width"], image["height"]) == (400, 200)
    with Image.open(tmp_path / "out" / "photo.jpg") as drawn:
        assert drawn.size == (400, 200) and not drawn.getexif()
    assert np.abs(np.asarray(open_picture(tmp_path / "out" / "photo.jpg"), int) - np.asarray(upright)).mean() < 25


def test_a_video_gives_a_video_of_as_many_frames_and_a_table_by_frame(folder, arguments, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed")
    rate = Fraction(30000, 1001)
    with Image.open(folder / "c.jpg") as picture, VideoWriter(tmp_path / "clip.mp4", (128, 96), rate, 1 / rate) as clip:
        for i in range(7):
            clip.write(i, picture.convert("RGB").resize((128, 96)).rotate(5 * i))
    (tmp_path / "broken.mp4").write_text("no video")
    inputs = [tmp_path / "clip.mp4", tmp_path / "broken.mp4", "--score_threshold", "0.4"]
    assert predict(arguments(*inputs)) == 3
    results, images, rows = tables(tmp_path / "out")
    assert [(image["id"], image["frame"]) for image in images] == [(i, i) for i in range(7)]
    assert {int(row["frame"]) for row in rows} == {each["image_id"] for each in results} == set(range(7))
    with VideoReader(tmp_path / "out" / "clip.mp4") as drawn:
        frames = list(drawn)
        assert drawn.rate == rate and drawn.error is None
    assert len(frames) == 7 and frames[0][1].size == (128, 96)
    assert [time * drawn.time_base for time, _ in frames] == [i / rate for i in range(7)]
    assert capsys.readouterr().out.strip().endswith(f"1 could not be read: {tmp_path / 'broken.mp4'}")


def test_of_a_video_each_so_many_th_frame_is_taken_at_its_own_time(arguments, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    with VideoWriter(tmp_path / "clip.mp4", (64, 48), Fraction(10), Fraction(1, 10)) as clip:
        for i in range(7):
            clip.write(i, Image.effect_noise((64, 48), 90).convert("RGB"))
    flags = ["--every", "3", "--save_crops", "--format", "jsonl", "--score_threshold", "0.9", "--classes", "40"]
    assert predict(arguments(tmp_path / "clip.mp4", *flags)) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 3, 6]
    with VideoReader(tmp_path / "out" / "clip.mp4") as drawn:
        assert [time * drawn.time_base for time, _ in drawn] == [0, Fraction(3, 10), Fraction(6, 10)]
    crops = {path.name[:11] for path in (tmp_path / "out" / "crops" / "40_cross").iterdir()}
    assert crops == {f"clip_{line['frame']:06d}" for line in lines if line["detections"]}


def test_a_video_that_breaks_off_keeps_its_frames_so_far(arguments, tmp_path, capsys):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(tmp_path / "clip.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.effect_noise((64, 48), 90).convert("RGB"))))
        container.mux(stream.encode())
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(content[: len(content) // 2])
    assert predict(arguments(tmp_path / "clip.avi", "--score_threshold", "0.9")) == 3
    _, images, _ = tables(tmp_path / "out")
    with VideoReader(tmp_path / "out" / "clip.mp4") as drawn:
        assert 5 < len(list(drawn)) == len(images) < 30
    assert capsys.readouterr().out.strip().endswith(f"1 broke off: {tmp_path / 'clip.avi'}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--score_threshold", "1.5"], "--score_threshold 1.5"),
        (["--batch_size", "0"], "--batch_size 0"),
        (["--tiles", "8"], "--tiles 8: expected a whole number of pixels"),
        (["--tile_overlap", "0.3"], "--tile_overlap 0.3: of no tiles"),
        (["--classes", "zebra"], "zebra.*disc"),
        (["none/*.jpg"], r"none/\*\.jpg: no picture or video"),
        (["--devices", "2"], "one device"),
        (["--output", str(PROJECT / "README.md")], "expected a directory"),
        (["--format", "coco,xml"], "--format xml: expected some of coco, csv, jsonl, yolo, voc"),
        (["--every", "0"], "--every 0: expected at least 1"),
        (["clip.mp4", "--format", "yolo"], r"--format yolo: labels lie beside pictures, and clip\.mp4 is none"),
    ],
)
def test_bad_arguments_are_errors_that_name_them_and_nothing_is_written(
    folder, arguments, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(MisconfigurationException, match=message):
        predict([*arguments(folder), *flags])
    assert not (tmp_path / "out").exists()


def test_the_process_ends_with_a_status_of_its_own_where_an_input_could_not_be_read(folder, arguments):
    command = [sys.executable, "predict.py", *arguments(folder / "broken.jpg")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 3 and "predicted 0 of 1 files" in done.stdout and "Traceback" not in done.stderr


def test_few_pictures_are_opened_ahead_however_many_there_are():
    opened = []
    with ThreadPoolExecutor(4) as pool:
        results = pipeline.in_order(pool, opened.append, range(10_000), ahead=5)
        for _ in range(20):
            next(results)
        pool.submit(int).result()
        assert len(opened) <= 26


def test_odd_files_do_not_end_the_run_and_the_last_line_counts_them(folder, arguments, tmp_path, capsys):
    good = (folder / "e.jpg").read_bytes()
    for name in (os.fsdecode(b"caf\xe9.jpg"), "图" * 83 + ".jpg", "a" * 251 + ".png", ".hidden.jpg"):
        (folder / name).write_bytes(good)
    frames = [Image.effect_noise((60, 40), 50).convert("RGB") for _ in range(3)]
    frames[0].save(folder / "z.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (70000, 4)).save(folder / "wide.jpg", "PNG")
    (folder / "gone.jpg").symlink_to("nowhere")
    assert predict(arguments(folder, "--score_threshold", "0.9")) == 3
    _, images, _ = tables(tmp_path / "out")
    drawn = {image["file_name"]: image.get("drawn") for image in images}
    assert len(images) == 10 and drawn.pop(str(folder / "wide.jpg")) is None
    assert all((tmp_path / "out" / name).is_file() for name in drawn.values())
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("predicted 10 of 11 files, ") and "2 left out (broken links: 1, hidden: 1)" in last
    assert f"only the first frame of 1: {folder / 'z.gif'}" in last
    assert last.endswith(f"1 could not be drawn: {folder / 'wide.jpg'}")


def test_a_drawn_file_that_cannot_be_written_is_reported_and_the_tables_go_on(folder, arguments, tmp_path, capsys):
    (tmp_path / "out" / "c.jpg").mkdir(parents=True)
    (tmp_path / "out" / "c.jpg" / "x").touch()
    assert predict(arguments(folder / "c.jpg", folder / "e.jpg")) == 3
    _, images, _ = tables(tmp_path / "out")
    assert [image.get("drawn") for image in images] == [None, "e.jpg"]
    assert capsys.readouterr().out.strip().endswith(f"1 could not be drawn: {folder / 'c.jpg'}")


def test_a_folder_that_cannot_be_read_is_reported(folder, arguments, monkeypatch, capsys):
    real = os.listdir

    def listdir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert predict(arguments(folder, "--draw", "false")) == 3
    printed = capsys.readouterr()
    assert f"warning: {folder / 'b'}: cannot be read (Permission denied)" in printed.err
    assert f"could not be read: {folder / 'b'}" in printed.out


def test_what_follows_a_double_dash_are_inputs(folder, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    (folder / "c.jpg").rename(folder / "-x.jpg")
    assert predict([*arguments("e.jpg"), "--draw", "false", "--", "-x.jpg", "d.png"]) == 0
    _, images, _ = tables(tmp_path / "out")
    assert [image["file_name"] for image in images] == ["-x.jpg", "d.png", "e.jpg"]
    for none in ([], ["--"]):
        with pytest.raises(SystemExit) as stopped:
            predict([*arguments(), *none])
        assert stopped.value.code == 2


def test_a_video_that_cannot_be_drawn_still_has_its_detections(arguments, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed")
    with VideoWriter(tmp_path / "clip.mp4", (64, 48), Fraction(10), Fraction(1, 10)) as clip:
        for i in range(3):
            clip.write(i, Image.effect_noise((64, 48), 90).convert("RGB"))
    (tmp_path / "out" / "clip.mp4" / "x").mkdir(parents=True)
    assert predict(arguments(tmp_path / "clip.mp4", "--score_threshold", "0.9")) == 3
    assert len(tables(tmp_path / "out")[1]) == 3
    assert capsys.readouterr().out.strip().endswith(f"1 could not be drawn: {tmp_path / 'clip.mp4'}")
