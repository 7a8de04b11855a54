"""Data sets of other tools, made by hotcoco's exporters of the sample or by hand, and what becomes of them."""

import json
import os
import shutil
import warnings

import hotcoco
import numpy as np
import pytest
import yaml
from PIL import Image

from coco.annotations import CocoAnnotations
from coco.convert import convert, main
from coco.foreign.formats import format_of, read
from coco.foreign.parts import ConversionError
from coco.splits import DataError
from datamodule import COCODataModule

NAMES = ["disc", "square", "triangle", "cross"]


def export_yolo(sample, target):
    """As Ultralytics' own export lies."""
    for split in ("train", "val"):
        (target / "images").mkdir(parents=True, exist_ok=True)
        os.symlink(sample / f"{split}2017", target / "images" / split)
        exported = hotcoco.COCO(str(sample / f"annotations/instances_{split}2017.json"))
        exported.to_yolo(str(target / "labels" / split))
    (target / "data.yaml").write_text(
        yaml.safe_dump({"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))})
    )
    return target


def export_voc(sample, target):
    """As Roboflow's: a folder for each split, xml and pictures in one."""
    for split, name in (("train", "train"), ("val", "valid")):
        hotcoco.COCO(str(sample / f"annotations/instances_{split}2017.json")).to_voc(str(target / "of" / name))
        shutil.copytree(target / "of" / name / "Annotations", target / name)
        for picture in (sample / f"{split}2017").iterdir():
            os.symlink(picture, target / name / picture.name)
    shutil.rmtree(target / "of")
    return target


def boxes_by_name(annotations, crowds=False):
    """{file name: sorted (class, x, y, w, h)}, to a tenth of a pixel."""
    return {
        annotations.file_name(i): sorted(
            (annotations.class_names[annotations.labels[row] - 1], *np.round(annotations.bboxes[row], 1).tolist())
            for row in range(annotations.first[i], annotations.first[i + 1])
            if crowds or not annotations.iscrowd[row]
        )
        for i in range(len(annotations))
    }


def load(root, split):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return CocoAnnotations.load(root / f"annotations/instances_{split}2017.json")


@pytest.mark.parametrize(("export", "kind", "tolerance"), [(export_yolo, "yolo", 0.11), (export_voc, "voc", 1.01)])
def test_what_another_tool_has_comes_back_with_the_same_boxes(export, kind, tolerance, sample, tmp_path):
    source = export(sample, tmp_path / "source")
    assert format_of(source) == kind
    lines = convert(source, tmp_path / "made", kind)
    for split, pictures in (("train", 24), ("val", 10)):
        made, original = boxes_by_name(load(tmp_path / "made", split)), boxes_by_name(load(sample, split))
        assert made.keys() == original.keys() and len(made) == pictures
        for name, boxes in original.items():
            assert len(made[name]) == len(boxes)
            for ours, its in zip(made[name], boxes, strict=True):
                assert ours[0] == its[0] and np.abs(np.subtract(ours[1:], its[1:])).max() <= tolerance
        assert any(line.startswith(f"{split}: {pictures} pictures") for line in lines)
    COCODataModule(str(tmp_path / "made")).check()


def test_cvat_has_no_splits_and_gets_a_validation_part_that_depends_on_the_seed_alone(sample, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    hotcoco.COCO(str(sample / "annotations/instances_train2017.json")).to_cvat(str(tmp_path / "source/annotations.xml"))
    shutil.copytree(sample / "train2017", tmp_path / "source" / "images")
    with pytest.raises(SystemExit, match=r"has no validation part; --val_share 0.2 makes one"):
        main([str(tmp_path / "source"), str(tmp_path / "made")])
    for name, seed in (("made", "0"), ("again", "0"), ("other", "1")):
        main([str(tmp_path / "source"), str(tmp_path / name), "--val_share", "0.25", "--seed", seed])
    assert "next: python -m coco.check" in capsys.readouterr().out
    made, again, other = (boxes_by_name(load(tmp_path / name, "val")) for name in ("made", "again", "other"))
    assert made == again and made.keys() != other.keys() and 4 <= len(made) <= 8
    train = boxes_by_name(load(tmp_path / "made", "train"))
    assert not train.keys() & made.keys() and len(train) + len(made) == 24
    original = boxes_by_name(load(sample, "train"), crowds=True)  # of which CVAT knows nothing
    assert {**train, **made} == original
    assert {name for boxes in made.values() for name, *_ in boxes} == set(NAMES), "every class is in it"


def test_open_images_gives_shares_of_a_picture_ids_without_endings_and_groups(tmp_path):
    for split, name in (("train", "a"), ("validation", "b")):
        (tmp_path / "oi" / split).mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(tmp_path / "oi" / split / f"{name}.jpg")
        (tmp_path / "oi" / f"{split}-annotations-bbox.csv").write_text(
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
            f"{name},x,/m/01,1,0.1,0.5,0.2,0.6,0\n{name},x,/m/02,1,0,1,0,1,1\n"
        )
    (tmp_path / "oi" / "class-descriptions-boxable.csv").write_text("/m/01,Beer\n/m/02,Cup\n")
    assert format_of(tmp_path / "oi") == "openimages"
    lines = convert(tmp_path / "oi", tmp_path / "made", "openimages")
    made = load(tmp_path / "made", "val")
    assert made.class_names == ("Beer", "Cup") and made.file_name(0) == "b.jpg"
    np.testing.assert_allclose(made.bboxes, [[20, 20, 80, 40], [0, 0, 200, 100]])
    assert made.iscrowd.tolist() == [False, True]
    assert "val: 1 boxes around a group became crowds: neither trained on nor counted" in lines


def table(tmp_path, rows):
    (tmp_path / "t" / "train").mkdir(parents=True)
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (100, 50)).save(tmp_path / "t" / "train" / name)
    (tmp_path / "t" / "boxes.csv").write_text("split,picture,class,left,top,right,bottom\n" + rows)
    return tmp_path / "t"


def test_a_table_of_boxes(tmp_path):
    source = table(tmp_path, "train,a.jpg,cat,10,10,30,40\nval,b.png,,,,,\ntrain,a.jpg,dog,0,0,5,5\n")
    convert(source, tmp_path / "made", format_of(source))
    assert boxes_by_name(load(tmp_path / "made", "train")) == {"a.jpg": [("cat", 10, 10, 20, 30), ("dog", 0, 0, 5, 5)]}
    assert boxes_by_name(load(tmp_path / "made", "val")) == {"b.png": []}


def test_outlines_pictures_without_labels_and_pictures_of_one_name_are_said_and_kept(tmp_path):
    for place, label in (("images/train/1/a.jpg", "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6"), ("images/train/2/a.jpg", None)):
        (tmp_path / "y" / place).parent.mkdir(parents=True)
        Image.new("RGB", (100, 50)).save(tmp_path / "y" / place)
        if label:
            file = tmp_path / "y" / place.replace("images", "labels").replace(".jpg", ".txt")
            file.parent.mkdir(parents=True)
            file.write_text(label)
    (tmp_path / "y" / "images" / "val").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "y" / "images" / "val" / "b.webp")
    (tmp_path / "y" / "classes.txt").write_text("cat\n")
    lines = convert(tmp_path / "y", tmp_path / "made", format_of(tmp_path / "y"))
    assert "train: 1 outlines became the boxes around them" in lines
    assert "train: 1 pictures have no label file: taken as pictures without objects" in lines
    made = load(tmp_path / "made", "train")
    assert [made.file_name(i) for i in range(2)] == ["images/train/1/a.jpg", "images/train/2/a.jpg"]
    np.testing.assert_allclose(made.bboxes, [[10, 10, 40, 20]])
    assert Image.open(tmp_path / "made/train2017/images/train/2/a.jpg").size == (100, 50)


def test_voc_with_lists_of_its_splits_and_difficult_objects(sample, tmp_path):
    source = tmp_path / "voc"
    hotcoco.COCO(str(sample / "annotations/instances_train2017.json")).to_voc(str(source))
    shutil.copytree(sample / "train2017", source / "JPEGImages")
    names = sorted(path.stem for path in (source / "Annotations").glob("*.xml"))
    (source / "ImageSets/Main").mkdir(parents=True)
    (source / "ImageSets/Main/train.txt").write_text("\n".join(names[:15]))
    (source / "ImageSets/Main/val.txt").write_text("\n".join(names[15:20]))
    file = source / "Annotations" / f"{names[0]}.xml"
    difficult = file.read_text().replace("<difficult>0</difficult>", "<difficult>1</difficult>")
    assert difficult != file.read_text()
    file.write_text(difficult)
    lines = convert(source, tmp_path / "made", "voc", copy=True)
    assert (len(load(tmp_path / "made", "train")), len(load(tmp_path / "made", "val"))) == (15, 5)
    assert any("pictures are in no list of" in line and "4 pictures" in line for line in lines)
    assert any("marked difficult became crowds" in line for line in lines)
    assert not (tmp_path / "made/train2017" / f"{names[0]}.jpg").is_symlink()


@pytest.mark.parametrize("kind", ["voc", "cvat"])
def test_references_in_xml_are_the_characters_they_stand_for(tmp_path, kind):
    (tmp_path / "of").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "of" / "a & b.jpg")
    name, size, corners = "salt &amp; &#60;pepper&gt;", 'width="40" height="30"', 'xtl="1" ytl="1" xbr="9" ybr="9"'
    content = {
        "voc": "<annotation><filename>a &amp; b.jpg</filename><size><width>40</width><height>30</height></size>"
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>",
        "cvat": f"<annotations><meta><task><labels><label><name>{name}</name></label></labels></task></meta>"
        f'<image id="0" name="a &amp; b.jpg" {size}><box label="{name}" {corners} occluded="0"></box></image>'
        "</annotations>",
    }[kind]
    (tmp_path / "of" / "annotations.xml").write_text(content)
    (part,), names = read(tmp_path / "of", kind)
    assert names == ["salt & <pepper>"] == [name for name, *_ in part.boxes[0]]
    assert part.images[0][0].name == "a & b.jpg"


def test_groups_stay_together(sample, tmp_path):
    source = tmp_path / "y"
    for place in ("images", "labels"):
        (source / place).mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (20, 20)).save(source / "images" / f"clip{i // 3}_{i}.png")
        (source / "labels" / f"clip{i // 3}_{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (source / "classes.txt").write_text("cat")
    convert(source, tmp_path / "made", "yolo", val_share=0.25, group_by=r"clip(\d+)_")
    val = {name[:5] for name in boxes_by_name(load(tmp_path / "made", "val"))}
    train = {name[:5] for name in boxes_by_name(load(tmp_path / "made", "train"))}
    assert len(val) == 1 and len(train) == 3 and not val & train
    with pytest.raises(ConversionError, match=r"--group_by \(: `folder`, or a regular expression, which this is not"):
        convert(source, tmp_path / "none", "yolo", val_share=0.25, group_by="(")
    with pytest.raises(ConversionError, match=r"--group_by film: finds nothing in images/clip0_0.png"):
        convert(source, tmp_path / "none", "yolo", val_share=0.25, group_by="film")


HOSTILE = {
    "a label outside the classes": ("0 0.5 0.5 0.5 0.5\n9 0.5 0.5 0.5 0.5", r"a.txt"),
    "a word for a number": ("0 0.5 x 0.5 0.5", r"a.txt.*line 1"),
    "a number too few": ("0 0.5 0.5 0.5", r"a.txt.*line 1"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_broken_label_file_is_named_and_nothing_is_written(case, tmp_path):
    content, message = HOSTILE[case]
    for place in ("images/train", "labels/train"):
        (tmp_path / "y" / place).mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "y/images/train/a.png")
    (tmp_path / "y/labels/train/a.txt").write_text(content)
    (tmp_path / "y/classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "y", tmp_path / "made", "yolo", val_share=0.5)
    assert not (tmp_path / "made").exists()


def test_errors_say_what_is_wrong_and_what_to_do(sample, tmp_path):
    with pytest.raises(SystemExit, match=r"is COCO format already"):
        main([str(sample), str(tmp_path / "made")])
    with pytest.raises(SystemExit, match=r"no such file or directory"):
        main([str(tmp_path / "nowhere"), str(tmp_path / "made")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"of no tool that is known here"):
        main([str(tmp_path / "empty"), str(tmp_path / "made")])
    source = table(tmp_path, "train,a.jpg,cat,10,10,x,40\n")
    with pytest.raises(ConversionError, match=r"boxes.csv, line 2: left, top, right, bottom: expected four numbers"):
        convert(source, tmp_path / "made", "table", val_share=0.5)
    (source / "boxes.csv").write_text("split,picture,class,left,top,right,bottom\ntrain,c.jpg,cat,1,1,3,4\n")
    with pytest.raises(ConversionError, match=r"'?c.jpg'?: no such picture below"):
        convert(source, tmp_path / "made", "table", val_share=0.5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConversionError, match=r"is there already, and nothing is written over"):
        convert(source, tmp_path / "full", "table")


def test_an_xml_with_entities_has_none_of_them_resolved(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "c.xml").write_text(
        f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><annotations><meta><task>'
        "<labels><label><name>&x;</name></label></labels></task></meta></annotations>"
    )
    with pytest.raises(ConversionError, match=r"no pictures found"):
        convert(tmp_path / "c.xml", tmp_path / "made", "cvat", val_share=0.5)


def test_a_data_root_of_another_tool_is_answered_with_the_command(sample, tmp_path):
    source = export_yolo(sample, tmp_path / "birds")
    for given in (source, source / "data.yaml"):
        with pytest.raises(DataError, match=rf"of the kind yolo.*\n.*coco.convert {given} {tmp_path}/.*_coco"):
            COCODataModule(str(given)).check()


def test_the_json_is_plain_coco(sample, tmp_path):
    convert(export_yolo(sample, tmp_path / "source"), tmp_path / "made", "yolo")
    content = json.loads((tmp_path / "made/annotations/instances_val2017.json").read_text())
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    assert set(content["annotations"][0]) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}


def test_pictures_that_a_list_names_by_a_way_around_stay_in_the_target(tmp_path):
    for place in ("one/images", "two/images"):
        (tmp_path / "y" / place).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "y" / place / "a.png")
    (tmp_path / "y/lists").mkdir()
    (tmp_path / "y/lists/train.txt").write_text("../one/images/a.png\n../two/images/a.png\n")
    (tmp_path / "y/data.yaml").write_text("names: [cat]\ntrain: lists/train.txt\nval: one/images\n")
    convert(tmp_path / "y", tmp_path / "made", "yolo")
    train = load(tmp_path / "made", "train")
    assert [train.file_name(i) for i in range(2)] == ["one/images/a.png", "two/images/a.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "y"]


def test_a_list_that_is_no_utf_8_is_said_in_a_line(tmp_path):
    for place in ("images", "labels"):
        (tmp_path / "y" / place).mkdir(parents=True)
    (tmp_path / "y/classes.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(SystemExit, match="no text in UTF-8"):
        main([str(tmp_path / "y"), str(tmp_path / "made"), "--val_share", "0.5"])
