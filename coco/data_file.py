"""A data set's own file: `--data_root my.yaml`, in place of a directory, says where its parts lie and what to take of
them. Paths are relative to `root`, and that to the file; everything may be left out.

    root: .
    train: {images: pictures, annotations: labels/train.json}
    val: {images: pictures, annotations: labels/val.json}
    names: {1: red cell}                              # by category id, in place of the annotations' own
    merge_classes: {white cell: [WBC, lymphocyte]}    # and classes, single_class, upright, val_share, val_seed
"""

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coco.selection import Selection, SelectionError
from coco.splits import DataError, Splits, how_to_convert
from coco.yaml_files import YamlError, read_mapping

# What COCODataModule takes of a data set, by its defaults: COCO 2017's places below the root, and all that is there.
PLACES = {
    "train_images": "train2017",
    "val_images": "val2017",
    "train_annotations": "annotations/instances_train2017.json",
    "val_annotations": "annotations/instances_val2017.json",
}
CHOICES: dict[str, Any] = {
    **{"classes": None, "merge_classes": None, "single_class": False},
    **{"val_share": None, "val_seed": 0, "upright": False, "names": None},
}
DEFAULTS = {**PLACES, **CHOICES}


def splits_of(settings: Mapping[str, Any]) -> Splits:
    """The data set that settings of `COCODataModule` name; of others than `DEFAULTS` and data_root nothing is read.

    Raises:
        DataError: a data file that is none, or a choice that cannot be read.
    """
    own = {"data_root": settings.get("data_root") or ".", **settings_of_file(settings)}
    whole = {**DEFAULTS, **own, **given_settings(settings)}
    root = Path(whole["data_root"])
    try:
        selection = Selection.of(**{name: whole[name] for name in CHOICES})
    except SelectionError as error:
        raise DataError(str(error)) from None
    directories, files = (
        {split: root / whole[f"{split}_{what}"] for split in ("train", "val")} for what in ("images", "annotations")
    )
    return Splits(root, directories, files, selection)


def settings_of_file(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the data file that is their data_root says, by the names of the settings; nothing of a directory. Of a file
    `data_root` is the root.

    Where the settings name other validation data, no part of the training data is for that.

    Raises:
        DataError: naming the file and what is wrong in it.
    """
    path = Path(settings.get("data_root") or ".")
    if path.suffix not in (".yaml", ".yml") or path.is_dir():
        return {}
    try:
        content = read_mapping(path)
    except YamlError as error:
        raise DataError(str(error)) from None
    if is_ultralytics(content):
        raise DataError(how_to_convert(path, "yolo"))
    _check(path, content)
    root = path.parent / Path(content.pop("root", ".")).expanduser()
    found: dict[str, Any] = {"data_root": os.path.abspath(root)}
    for split in ("train", "val"):
        for what, where in content.pop(split, {}).items():
            found[f"{split}_{what}"] = os.path.abspath(root / Path(where).expanduser())
    if "val_annotations" in given_settings(settings):
        content = {key: value for key, value in content.items() if key not in ("val_share", "val_seed")}
    return {**found, **content}


def is_ultralytics(content: Mapping[Any, Any]) -> bool:
    """Whether a data.yaml is of YOLO's form: its parts are directories or lists of pictures alone."""
    return "nc" in content or any(isinstance(content.get(split), (str, list)) for split in ("train", "val"))


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not what they are by default."""
    return {
        name: settings[name] for name, default in DEFAULTS.items() if settings.get(name) not in (None, {}, [], default)
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_mapping(value: Any, of: Callable[[Any], bool], to: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(of(key) and to(held) for key, held in value.items())


IN_QUOTES = "names in quotes where YAML takes them for something else"
PART = ("images", "annotations")
# Key -> whether a value can be its, and what it should be.
FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "root": (_is_text, "a directory"),
    **dict.fromkeys(
        ("train", "val"), (lambda it: _is_mapping(it, _is_text, _is_text), "{images: DIR, annotations: FILE}")
    ),
    "names": (lambda it: _is_mapping(it, _is_whole, _is_text), f"{{CATEGORY_ID: NAME, ...}}, {IN_QUOTES}"),
    "classes": (_are_texts, f"[NAME, ...], {IN_QUOTES}"),
    "merge_classes": (lambda it: _is_mapping(it, _is_text, _are_texts), f"{{NEW: [OLD, OLD], ...}}, {IN_QUOTES}"),
    **dict.fromkeys(("single_class", "upright"), (lambda it: isinstance(it, bool), "true or false")),
    "val_share": (lambda it: isinstance(it, float) and 0 < it < 1, "a share above 0 and below 1"),
    "val_seed": (lambda it: _is_whole(it) and it >= 0, "a whole number from 0 on"),
}


def _check(path: Path, content: Mapping[Any, Any]) -> None:
    for key, value in content.items():
        _check_key(path, key, FORMS)
        fits, expected = FORMS[key]
        if not fits(value):
            raise DataError(f"{path}: {key}: expected {expected}, found {value!r}")
        for name in value if key in ("train", "val") else ():
            _check_key(path, name, PART, f"{key}: ")
    if "val" in content and "val_share" in content:
        raise DataError(f"{path}: has val and val_share: a validation part, or a share of train for it, not both")


def _check_key(path: Path, key: Any, known: Mapping[str, Any] | tuple[str, ...], within: str = "") -> None:
    if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        told = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise DataError(f"{path}: {within}no key is called {key!a}; {told}")
