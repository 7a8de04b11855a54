import pytest

from coco.damaged import DamagedImages, TooManyDamagedImages


def test_every_damaged_image_is_reported_once_and_counted_once():
    damaged = DamagedImages(limit=0.01)
    with pytest.warns(UserWarning, match=r"a\.jpg: cut off\. Training uses another image in its place"):
        damaged.add({"a.jpg": "a.jpg: cut off"}, total=200)
    damaged.add({"a.jpg": "a.jpg: cut off"}, total=200)
    damaged.add({}, total=200)
    assert damaged.found == {"a.jpg": "a.jpg: cut off"}


def test_more_than_the_limit_is_an_error_that_names_files_and_what_to_do():
    damaged = DamagedImages(limit=0.01)
    with pytest.warns(UserWarning):
        damaged.add({"a.jpg": "a.jpg: cut off", "b.jpg": "b.jpg: no image"}, total=200)
    with pytest.warns(UserWarning), pytest.raises(TooManyDamagedImages) as error:
        damaged.add({"c.jpg": "c.jpg: no image"}, total=200)
    for part in ("3 of 200", "--data.damaged_limit 0.01", "a.jpg: cut off", "c.jpg: no image", "raise the limit"):
        assert part in str(error.value)
