"""The splits of a data set, train and val: where they are, whether they are whole and agree, what is odd in them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from coco.annotations import CocoAnnotations
from coco.findings import Findings, findings, findings_of_both
from coco.foreign.formats import READERS, format_of
from coco.names import look_alikes, shown, told_apart
from coco.picture_files import files_alike, missing_pictures
from coco.selection import WHOLE, Selection

SPLITS = ("train", "val")


class DataError(ValueError):
    """The data set is not there or not whole; the message says what was looked for and what to do."""


class Splits:
    """The image directory and the annotation file of each split; annotations are read once, when asked for.

    Args:
        root: what messages call the data set.
        directories, files: of "train" and "val".
        selection: what to take of them.
    """

    def __init__(
        self, root: Path, directories: dict[str, Path], files: dict[str, Path], selection: Selection = WHOLE
    ) -> None:
        self.root, self.directories, self.files, self.selection = root, directories, files, selection
        if selection.val_share is not None:  # both are parts of one
            self.directories = dict.fromkeys(SPLITS, directories["train"])
            self.files = dict.fromkeys(SPLITS, files["train"])
        self._annotations: dict[str, CocoAnnotations] = {}
        self._found: dict[str, Findings] = {}

    def annotations(self, split: str) -> CocoAnnotations:
        """Raises DataError without such a file, AnnotationError for one that cannot be used."""
        if split not in self._annotations:
            if not self.files[split].is_file():
                raise DataError(_how_to_get_data(self.root, [str(self.files[split])]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # on boxes dropped and clipped: `oddities` says it
                loaded = CocoAnnotations.load(self.files[split])
            self._annotations[split] = self.selection.take(loaded, split)
        return self._annotations[split]

    def check(self, splits: Sequence[str] = SPLITS, boxes: bool = True) -> None:
        """Raises DataError or AnnotationError before any training if the splits are not whole and consistent, or could
        not train or be evaluated as meant (`boxes`: whether they are needed at all). No picture is opened."""
        places = [path for split in splits for path in (self.files[split], self.directories[split])]
        missing = [str(path) for path in places if not path.exists()]
        if missing:
            raise DataError(_how_to_get_data(self.root, missing))
        for split in splits:
            self._check_pictures(split)
            if boxes and (problems := self._findings(split).problems):
                raise DataError(problems[0])
        if len(splits) == 2:
            train, val = map(self.annotations, SPLITS)
            check_same_classes(train.class_names, train.category_ids, val, f"the classes of {train.path}")

    def oddities(self, splits: Sequence[str] = SPLITS) -> list[str]:
        """What is odd in the annotations but does not stop a run, a line each."""
        notes = [note for split in splits for note in self._findings(split).notes]
        if len(splits) == 2:
            train, val = map(self.annotations, SPLITS)
            notes += findings_of_both(train, val, [self.directories[split] for split in SPLITS]).notes
        return notes

    def _findings(self, split: str) -> Findings:
        if split not in self._found:
            self._found[split] = findings(self.annotations(split), split)
        return self._found[split]

    def _check_pictures(self, split: str) -> None:
        annotations, directory = self.annotations(split), self.directories[split]
        missing = missing_pictures(annotations, directory)
        if missing:
            raise DataError(
                f"{directory}: {len(missing)} of the {len(annotations)} images in {annotations.path} are missing, "
                f"first {', '.join(map(shown, missing[:3]))}. Check that the download is whole and the directory the "
                f"right one.{told_apart(files_alike(missing, directory))}"
            )


def check_same_classes(
    class_names: Sequence[str],
    category_ids: Sequence[int],
    annotations: CocoAnnotations,
    whose: str = "the checkpoint's classes",
) -> None:
    """Raises DataError unless these classes are those of an annotation file, by category id and name."""
    wanted = dict(zip(category_ids, class_names, strict=True))
    found = dict(zip(annotations.category_ids, annotations.class_names, strict=True))
    if wanted != found:
        differing = sorted(set(wanted.items()) ^ set(found.items()))
        raise DataError(
            f"{whose} ({len(wanted)}) are not those of {annotations.path} ({len(found)}); "
            f"not in both: {', '.join(f'{i} {shown(name)}' for i, name in differing[:5])}."
            f"{told_apart(look_alikes(class_names, annotations.class_names))}"
        )


def _how_to_get_data(data_root: Path, missing: Sequence[str]) -> str:
    kind = format_of(data_root) if data_root.exists() else None
    if kind in READERS:
        return how_to_convert(data_root, kind)
    return f"""no data set at {data_root}: looked for {", ".join(missing)}.
Either point --data_root at a data set in COCO 2017 layout, or try the built-in sample:
    python -m coco.sample data/sample
    python train.py --config configs/demo.yaml --data_root data/sample
or get COCO 2017 (about 20 GB to download, 45 GB with the unpacked files):
    bash scripts/download_dataset.sh data/coco"""


def how_to_convert(source: Path, kind: str) -> str:
    """The message on another tool's data set, of one of `READERS`."""
    made = source.parent / f"{source.stem if source.is_file() else source.name}_coco"
    return (
        f"{source}: a data set of the kind {kind}; --data_root takes COCO's. This makes one of it:\n"
        f"    python -m coco.convert {source} {made}"
    )
