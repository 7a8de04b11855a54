"""Which tool a data set is of, and the reader for it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from coco.foreign.cvat import read_cvat
from coco.foreign.parts import ConversionError, Part
from coco.foreign.tables import kind_of_csv, read_openimages, read_table
from coco.foreign.voc import read_voc, xml_folders
from coco.foreign.yolo import read_yolo, yaml_in

READERS: dict[str, Callable[[Path, Sequence[str] | None], tuple[list[Part], list[str]]]] = {
    "yolo": read_yolo,
    "voc": read_voc,
    "cvat": read_cvat,
    "openimages": read_openimages,
    "table": read_table,
}


def format_of(source: Path) -> str | None:
    """One of `READERS`, `coco`, or None; by names and first lines."""
    if source.is_file():
        kinds = {".yaml": "yolo", ".yml": "yolo", ".xml": "cvat", ".csv": None}
        return kinds.get(source.suffix) or (kind_of_csv(source) if source.suffix == ".csv" else None)
    if any(source.glob("annotations/instances_*.json")) or any(source.glob("*/_annotations.coco.json")):
        return "coco"
    if yaml_in(source) or (source / "labels").is_dir():
        return "yolo"
    if any(xml_folders(source)):
        return "voc"
    if (source / "annotations.xml").is_file():
        return "cvat"
    return next((kind for path in sorted(source.glob("*.csv")) if (kind := kind_of_csv(path))), None)


def read(source: Path, kind: str, names: Sequence[str] | None = None) -> tuple[list[Part], list[str]]:
    """The parts of a data set of one of `READERS`, and its class names in their order.

    Args:
        names: of the classes, for YOLO's folders without a yaml.

    Raises:
        ConversionError: no such data set, or a file of it that cannot be used.
    """
    parts, known = READERS[kind](source, names)
    if not parts or not any(part.images for part in parts):
        raise ConversionError(f"{source}: no pictures found with annotations of the kind {kind}")
    return parts, known or sorted({name for part in parts for boxes in part.boxes for name, *_ in boxes})
