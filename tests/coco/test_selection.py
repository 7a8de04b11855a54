import pickle

import numpy as np
import pytest

from coco.annotations import AnnotationError, CocoAnnotations
from coco.selection import WHOLE, Selection, SelectionError


def select(classes=None, merge=None, single_class=False, val_share=None, val_seed=0, upright=False, names=None):
    return Selection.of(classes, merge, single_class, val_share, val_seed, upright, names)


@pytest.fixture
def annotations(sample):
    return CocoAnnotations.load(sample / "annotations/instances_train2017.json")


def boxes_of(annotations, name):
    """Rows (image id, x, y, w, h) of one class."""
    image_ids = np.repeat(annotations.image_ids, np.diff(annotations.first))
    of_class = annotations.labels == annotations.class_names.index(name) + 1
    return np.column_stack([image_ids, annotations.bboxes])[of_class].tolist()


def test_by_default_it_is_the_whole_data_set(annotations):
    assert select() == WHOLE and WHOLE.of_classes(annotations) is annotations
    assert WHOLE.part(annotations, "val") is annotations


def test_some_classes_keep_their_ids_boxes_and_all_images(annotations):
    chosen = select("cross, square").of_classes(annotations)
    assert chosen.class_names == ("square", "cross") and chosen.category_ids == (3, 40)
    for name in chosen.class_names:
        assert boxes_of(chosen, name) == boxes_of(annotations, name)
    assert chosen.image_ids.tolist() == annotations.image_ids.tolist()
    assert [chosen.file_name(i) for i in range(3)] == [annotations.file_name(i) for i in range(3)]
    boxes, labels = chosen.training_boxes(int(chosen.trainable[0]))
    assert len(boxes) == len(labels) > 0 and set(labels.tolist()) <= {1, 2}
    assert len(chosen.trainable) < len(annotations.trainable), "images without these classes are backgrounds now"
    assert chosen.digest != annotations.digest


def test_merged_classes_are_one_under_the_least_of_their_ids(annotations):
    chosen = select(merge="angular=triangle+square").of_classes(annotations)
    assert chosen.class_names == ("disc", "angular", "cross") and chosen.category_ids == (2, 3, 40)
    both = boxes_of(annotations, "triangle") + boxes_of(annotations, "square")
    assert sorted(boxes_of(chosen, "angular")) == sorted(both)
    only = select(classes=["angular"], merge={"angular": ["triangle", "square"]}).of_classes(annotations)
    assert only.class_names == ("angular",) and sorted(boxes_of(only, "angular")) == sorted(both)
    assert select(merge="x=a+b", names={3: "a", 7: "b"}).of_classes(annotations).class_names == ("disc", "x", "cross")
    one = select(single_class=True).of_classes(annotations)
    assert one.class_names == ("object",) and len(one.labels) == len(annotations.labels)


def test_a_share_of_the_images_is_for_validation_and_no_image_is_in_both_parts(annotations):
    selection = select(val_share=0.25)
    train, val = (selection.part(annotations, split) for split in ("train", "val"))
    assert sorted([*train.image_ids, *val.image_ids]) == annotations.image_ids.tolist()
    assert 4 <= len(val) <= 8 and train.class_names == val.class_names == annotations.class_names
    for part in (train, val):
        for name in part.class_names:
            ids = set(part.image_ids.tolist())
            assert boxes_of(part, name) == [row for row in boxes_of(annotations, name) if row[0] in ids]
        i = int(part.trainable[0])
        original = int(np.searchsorted(annotations.image_ids, part.image_ids[i]))
        assert part.file_name(i) == annotations.file_name(original)
        np.testing.assert_array_equal(part.training_boxes(i)[0], annotations.training_boxes(original)[0])
    assert val.image_ids.tolist() == select(val_share=0.25).part(annotations, "val").image_ids.tolist()
    assert val.image_ids.tolist() != select(val_share=0.25, val_seed=1).part(annotations, "val").image_ids.tolist()


def test_a_selection_reaches_the_workers(annotations):
    val = select("disc", val_share=0.25, upright=True).take(annotations, "val")
    again = pickle.loads(pickle.dumps(val))
    assert again.image_ids.tolist() == val.image_ids.tolist() and again.class_names == ("disc",) and again.upright
    whole = pickle.loads(pickle.dumps(select(upright=True).take(annotations, "train")))
    assert whole.upright and len(whole) == len(annotations)


WRONG = {
    "--data.classes: circle: no class of": {"classes": "circle"},
    "--data.merge_classes: van: no class of": {"merge": "vehicle=disc+van"},
    "--data.names: 9: no class of": {"names": {2: "circle", 9: "square"}},
    "--data.classes: disc: no class of": {"classes": "disc", "merge": "round=disc"},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_class_that_is_not_there_is_named_with_those_that_are(message, annotations):
    with pytest.raises(AnnotationError, match=rf"{message}.*which has .*(square|2, 3, 7, 40)"):
        select(**WRONG[message]).of_classes(annotations)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge": "vehicle"}, "--data.merge_classes vehicle: expected NEW=OLD"),
        ({"merge": "a=disc,b=disc"}, "'?disc'? is in it twice"),
        ({"val_share": 1.5}, "--data.val_share 1.5: expected a share"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(settings, message):
    with pytest.raises(SelectionError, match=message):
        select(**settings)


def test_a_share_that_leaves_a_part_empty_is_an_error_for_a_user(annotations):
    one = annotations.of_images(np.array([0]))
    with pytest.raises(AnnotationError, match=r"--data.val_share 0.1: of the 1 images of .* one part stays empty"):
        select(val_share=0.1).take(one, "train")
