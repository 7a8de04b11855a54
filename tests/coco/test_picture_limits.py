"""Pictures that would cost far more than their size are refused before they are decoded, whoever reads them."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from coco import decoding, picture_limits
from coco.decoding import DamagedImageError, decode, decode_crop, decode_upright
from coco.picture_limits import check_jpeg, count_scans

READERS = [
    decode,
    decode_upright,
    lambda path: decode_crop(path, 300, (640, 480)),
    lambda path: decode_crop(path, 300, (640, 480), decoder="pillow"),
]


def jpeg(progressive=True, size=(640, 480), **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", progressive=progressive, **options)
    return file.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    data = jpeg()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


@pytest.mark.parametrize("read", READERS, ids=["whole", "upright", "crop", "crop by Pillow"])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch, read):
    (tmp_path / "x.jpg").write_bytes(with_scans(200))
    monkeypatch.setattr(decoding, "to_rgb", lambda picture: pytest.fail("decoded"))
    monkeypatch.setattr(decoding, "_decode_jpeg", lambda *args: pytest.fail("decoded"))
    with pytest.raises(DamagedImageError, match=r"x\.jpg: cannot be decoded \(more than 100 scans.*640x480"):
        read(tmp_path / "x.jpg")


@pytest.mark.parametrize("filler", [b"\xff", b"\x00" * 50 + b"\xff\x00", b"\xff\xd0", b"\xff\x02\xff\xf0", b"\xff\x01"])
def test_scans_are_counted_whatever_stands_between_them(filler):
    data = with_scans(0)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert count_scans(data[:-2] + (filler + last) * 200 + data[-2:], 100) == 101


def test_real_pictures_are_read(tmp_path):
    assert count_scans(jpeg(), 100) == 10 and count_scans(jpeg(progressive=False), 100) == 1
    assert count_scans(jpeg(progressive=False, restart_marker_blocks=1), 100) == 1
    film = os.urandom(2**16) + b"\xff\xda" * 500
    thumbnails = b"\xff\xe5" + (30002).to_bytes(2, "big") + b"\xff\xda" * 15000
    data = jpeg()
    (tmp_path / "x.jpg").write_bytes(data[:2] + thumbnails + data[2:] + film)
    assert decode(tmp_path / "x.jpg").size == (640, 480), "neither what is behind a picture nor its metadata counts"


def test_large_pictures_may_have_fewer_scans():
    data = with_scans(50)
    check_jpeg(data, 4000, 3000)
    with pytest.raises(picture_limits.TooCostlyError, match="more than 12 scans"):
        check_jpeg(data, 16000, 10000)


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(2**31 + 1)
    monkeypatch.setattr(decoding.Path, "read_bytes", lambda path: pytest.fail("read"))
    with pytest.raises(DamagedImageError, match=r"x\.png: cannot be decoded \(2147483649 bytes"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("read", READERS, ids=["whole", "upright", "crop", "crop by Pillow"])
def test_a_small_file_does_not_become_a_hundred_megapixels(tmp_path, monkeypatch, read):
    monkeypatch.setattr(decoding, "to_rgb", lambda picture: pytest.fail("decoded"))
    data = bytearray(jpeg(progressive=False))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (10_000).to_bytes(2, "big") * 2  # claimed height and width
    (tmp_path / "x.jpg").write_bytes(data[:5000])
    with pytest.raises(DamagedImageError, match=r"x\.jpg: .*10000x10000 pixels in 5000 bytes; beyond 25 mega"):
        read(tmp_path / "x.jpg")
    picture_limits.check_pixels(5000, 5000, 5000)
    picture_limits.check_pixels(100_000, 10_000, 10_000)  # one colour alone, in a PNG, is three times as large
