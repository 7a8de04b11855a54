"""Pascal VOC: one xml file a picture, of LabelImg and Roboflow too."""

from collections.abc import Sequence
from pathlib import Path

import hotcoco

from coco.foreign.parts import SPLITS, WHOLE, Part, add, by_hotcoco, finder


def read_voc(source: Path, names: Sequence[str] | None) -> tuple[list[Part], list[str]]:
    """One folder of xml files for each split, or `ImageSets/Main`, which lists the pictures of each."""
    parts = []
    for folder in xml_folders(source):
        dataset = by_hotcoco(hotcoco.COCO.from_voc, folder)
        find = finder(source, [folder, folder.parent / "JPEGImages", folder.parent / "images"])
        for image in dataset["images"]:
            image["file_name"] = find(image["file_name"], folder)
        split = SPLITS.get(folder.name.lower(), SPLITS.get(folder.parent.name.lower(), WHOLE))
        part = add(Part(split), dataset)
        if crowds := sum(crowd for boxes in part.boxes for *_, crowd in boxes):
            part.notes.append(f"{crowds} objects marked difficult became crowds: neither trained on nor counted")
        parts += _listed_parts(part, folder.parent / "ImageSets" / "Main")
    return parts, []


def _listed_parts(part: Part, lists: Path) -> list[Part]:
    if part.split != WHOLE or not (lists / "train.txt").is_file():
        return [part]
    of = {}
    for split in ("train", "val", "test"):
        if (lists / f"{split}.txt").is_file():
            of.update(dict.fromkeys((lists / f"{split}.txt").read_text("utf-8").split(), split))
    found = {split: Part(split) for split in ("train", "val", "test") if split in of.values()}
    left_out = 0
    for image, boxes in zip(part.images, part.boxes, strict=True):
        listed = of.get(image[0].stem)
        left_out += listed is None
        if listed is not None:
            found[listed].images.append(image)
            found[listed].boxes.append(boxes)
    found["train"].notes += part.notes
    if left_out:
        found["train"].notes.append(f"{left_out} pictures are in no list of {lists}: left out")
    return list(found.values())


def xml_folders(source: Path) -> list[Path]:
    """Folders of VOC's xml files, which the first line but one tells from CVAT's."""
    candidates = (source / "Annotations", source, *sorted(path for path in source.glob("*/") if path.is_dir()))
    candidates = (*candidates, *sorted(source.glob("*/Annotations/")))
    return [folder for folder in dict.fromkeys(candidates) if any(map(_is_voc, list(folder.glob("*.xml"))[:3]))]


def _is_voc(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"<annotation>" in file.read(4096)
