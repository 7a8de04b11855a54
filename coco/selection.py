"""Which part of a data set a run is about: some classes, several as one, some training images for validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coco.annotation_checks import AnnotationError
from coco.annotations import CocoAnnotations
from coco.names import look_alikes, shown, told_apart
from coco.splitting import validation_images

ANY_CLASS = "object"  # the one class where all count as one


class SelectionError(AnnotationError):
    """A choice that cannot be read, or that leaves nothing; the message names its flag."""


@dataclass(frozen=True)
class Selection:
    """What to take of a data set; by default all of it. Plain values, as a checkpoint keeps them.

    classes: names of those to take, after merging; None is all. merge: new name -> names of the classes that it stands
    for, which keeps the least of their category ids. single_class: all that is taken is one class, `ANY_CLASS` of id 1.
    val_share: of the images of the training part, by `splitting.validation_images`; None, there is a validation part.
    val_seed: of that choice. upright: boxes were drawn on pictures turned as their EXIF orientation says.
    names: category id, as text -> its name, in place of the annotations' own; they come before all else.
    """

    classes: list[str] | None = None
    merge: dict[str, list[str]] = field(default_factory=dict)
    single_class: bool = False
    val_share: float | None = None
    val_seed: int = 0
    upright: bool = False
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        classes: str | Sequence[str] | None = None,
        merge_classes: str | Mapping[str, Sequence[str]] | None = None,
        single_class: bool = False,
        val_share: float | None = None,
        val_seed: int = 0,
        upright: bool = False,
        names: Mapping[Any, str] | None = None,
    ) -> "Selection":
        """Of settings as typed: `person,car`, `vehicle=car+truck,pet=cat+dog`, or lists and mappings of a YAML.

        Raises:
            SelectionError: naming the flag.
        """
        if isinstance(classes, str):
            classes = [name.strip() for name in classes.split(",")]
        if isinstance(merge_classes, str):
            pairs = [pair.partition("=") for pair in merge_classes.split(",")]
            if wrong := [name for name, equals, _ in pairs if not equals]:
                raise SelectionError(
                    f"--data.merge_classes {wrong[0]}: expected NEW=OLD+OLD, such as vehicle=car+truck"
                )
            merge_classes = {name.strip(): [old.strip() for old in olds.split("+")] for name, _, olds in pairs}
        new = {str(name): [str(old) for old in old_names] for name, old_names in (merge_classes or {}).items()}
        merged = [old for old_names in new.values() for old in old_names]
        if twice := {old for old in merged if merged.count(old) > 1}:
            raise SelectionError(f"--data.merge_classes: {shown(min(twice))} is in it twice")
        if val_share is not None and not 0 < val_share < 1:
            raise SelectionError(f"--data.val_share {val_share}: expected a share above 0 and below 1")
        chosen = [str(name) for name in classes] if classes else None
        own = {str(category_id): str(name) for category_id, name in (names or {}).items()}
        return cls(chosen, new, single_class, val_share, val_seed, upright, own)

    @property
    def changes_classes(self) -> bool:
        return bool(self.classes or self.merge or self.single_class or self.names)

    def take(self, annotations: CocoAnnotations, split: str) -> CocoAnnotations:
        """What is chosen of the annotations of a split, "train" or "val".

        Raises:
            AnnotationError, SelectionError: a choice that they do not have.
        """
        chosen = self.of_classes(self.part(annotations, split))
        return chosen.of_upright_pictures() if self.upright else chosen

    def part(self, annotations: CocoAnnotations, split: str) -> CocoAnnotations:
        """The images of a split, "train" or "val", where both are parts of the same file."""
        if self.val_share is None:
            return annotations
        ids = annotations.image_ids.tolist()
        share, seed = self.val_share, self.val_seed
        in_val = validation_images(ids, annotations.first, annotations.labels, share, seed)
        if in_val.all() or not in_val.any():
            raise SelectionError(
                f"--data.val_share {share}: of the {len(ids)} images of {annotations.path} one part stays empty"
            )
        return annotations.of_images(np.flatnonzero(in_val if split == "val" else ~in_val))

    def of_classes(self, annotations: CocoAnnotations) -> CocoAnnotations:
        """The annotations with the chosen classes.

        Raises:
            AnnotationError: a name that is no class of theirs.
        """
        if not self.changes_classes:
            return annotations
        ids_there = [str(category_id) for category_id in annotations.category_ids]
        self._check_known(annotations, "--data.names", list(self.names), ids_there)
        pairs = zip(ids_there, annotations.class_names, strict=True)
        names = [self.names.get(category_id, name) for category_id, name in pairs]
        name_of = {old: new for new, old_names in self.merge.items() for old in old_names}
        self._check_known(annotations, "--data.merge_classes", list(name_of), names)
        names = [name_of.get(name, name) for name in names]
        self._check_known(annotations, "--data.classes", self.classes or [], names)
        ids: dict[str, int] = {}  # of what is taken, in the order of the ids, which ascend
        for name, category_id in zip(names, annotations.category_ids, strict=True):
            if self.classes is None or name in self.classes:
                ids.setdefault(name, category_id)
        label = dict.fromkeys(ids, 1) if self.single_class else {name: i for i, name in enumerate(ids, start=1)}
        new = np.array([0, *(label.get(name, 0) for name in names)], np.int64)
        if self.single_class:
            return annotations.relabelled(new, [ANY_CLASS], [1])
        return annotations.relabelled(new, list(ids), list(ids.values()))

    @staticmethod
    def _check_known(annotations: CocoAnnotations, flag: str, wanted: Sequence[str], known: Sequence[str]) -> None:
        if unknown := [name for name in wanted if name not in known]:
            raise AnnotationError(
                f"{flag}: {', '.join(map(shown, unknown[:5]))}: no class of {annotations.path}, which has "
                f"{', '.join(map(shown, known[:10]))}{' ...' if len(known) > 10 else ''}"
                f"{told_apart(look_alikes(unknown, known))}"
            )


WHOLE = Selection()
