"""Whatever is wrong in an annotation file, it loads to something usable or is an `AnnotationError`."""

import contextlib
import json
import warnings

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coco.annotations import AnnotationError, CocoAnnotations
from tests.coco.conftest import CONTENT

MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.integers(0, 3),
        st.sampled_from(
            [
                b"",
                b'"',
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b":",
                b"-",
                b"0",
                b"1e999",
                b"NaN",
                b"-Infinity",
                b"null",
                b"true",
            ]
            + [
                b"\\",
                b"\\ud800",
                b"\xff",
                b"\0",
                b"..",
                b"/",
                b'"id": 1,',
                b'"bbox"',
                b"9" * 25,
                b"9" * 5000,
                b"[" * 2000,
            ]
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(mutations=MUTATIONS)
def test_any_damage_either_loads_or_is_an_annotation_error(path, mutations):
    data = json.dumps(CONTENT).encode()
    for place, length, replacement in mutations:
        place %= len(data)
        data = data[:place] + replacement + data[place + length :]
    path.write_bytes(data)
    with contextlib.suppress(AnnotationError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # dropped and clipped boxes
        loaded = CocoAnnotations.load(path, cache=False)
        for i in range(len(loaded)):
            loaded.file_name(i), loaded.training_boxes(i)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(value=ANYTHING, name=st.sampled_from(["images", "annotations", "categories"]), data=st.data())
def test_any_value_anywhere_either_loads_or_is_an_annotation_error(path, value, name, data):
    content = json.loads(json.dumps(CONTENT))
    target = data.draw(st.sampled_from([content, content[name], content[name][0]]))
    if target is content:
        target[name] = value
    else:
        target[data.draw(st.sampled_from([0, 1] if isinstance(target, list) else sorted(target)))] = value
    path.write_text(json.dumps(content))
    with contextlib.suppress(AnnotationError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loaded = CocoAnnotations.load(path, cache=False)
        for i in range(len(loaded)):
            boxes, labels = loaded.training_boxes(i)
            assert (boxes >= 0).all()
            assert (boxes <= 1).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert len(boxes) == len(labels)
            assert loaded.file_name(i)
