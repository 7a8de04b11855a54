import os
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image

from coco import decoding
from coco.annotations import CocoAnnotations
from coco.dataset import TrainingDataset
from coco.decoding import DamagedImageError, ImageError, decode, decode_crop, decode_upright, decoder_name

simplejpeg = pytest.importorskip("simplejpeg")


def scene(width=640, height=480) -> np.ndarray:
    """A picture with edges, gradients and noise, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    waves = [128 + 100 * np.sin(rows / a) * np.cos(columns / b) for a, b in ((9, 31), (17, 5), (40, 12))]
    return (np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


def both(path, crop=None):
    with Image.open(path) as picture:
        size = picture.size
    fast, plain = (decode_crop(path, 300, size, crop, decoder=decoder).astype(int) for decoder in ("auto", "pillow"))
    assert fast.shape == plain.shape == (300, 300, 3)
    return fast, plain


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    picture.save(path)
    decoded = np.asarray(decode(path))
    assert decoded.shape == (16, 16, 3)
    if mode != "1":
        assert np.abs(decoded[..., 0].astype(int) - grey).max() <= 1


ODD_FILES = {
    "baseline": lambda path: Image.fromarray(scene()).save(path),
    "progressive": lambda path: Image.fromarray(scene()).save(path, progressive=True),
    "4:4:4": lambda path: Image.fromarray(scene()).save(path, subsampling=0),
    "4:2:2": lambda path: Image.fromarray(scene()).save(path, subsampling=1),
    "RGB without conversion": lambda path: Image.fromarray(scene()).save(path, keep_rgb=True),
    "grey": lambda path: Image.fromarray(scene()).convert("L").save(path),
    "CMYK": lambda path: Image.fromarray(scene()).convert("CMYK").save(path, "jpeg"),
    "odd size": lambda path: Image.fromarray(scene(333, 251)).save(path),
    "one pixel": lambda path: Image.fromarray(scene(1, 1)).save(path),
    "long and thin": lambda path: Image.fromarray(scene(900, 3)).save(path),
    "restart markers": lambda path: Image.fromarray(scene()).save(path, restart_marker_rows=1),
    "rotated by EXIF": lambda path: Image.fromarray(scene()).save(path, exif=_rotated()),
    "two frames": lambda path: Image.fromarray(scene()).save(
        path, "mpo", save_all=True, append_images=[Image.new("RGB", (640, 480))]
    ),
    "PNG named jpg": lambda path: Image.fromarray(scene()).save(path, "png"),
    "palette": lambda path: Image.fromarray(scene()).convert("P").save(path, "png"),
    "16-bit grey": lambda path: Image.fromarray(scene()[..., 0].astype(np.uint16) * 257).save(path, "png"),
    "transparent": lambda path: Image.fromarray(scene()).convert("RGBA").save(path, "png"),
    "WebP": lambda path: Image.fromarray(scene()).save(path, "webp"),
}


def _rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("kind", ODD_FILES)
def test_the_fast_path_is_pillows_but_for_rounding_on_every_odd_format(tmp_path, kind):
    path = tmp_path / "odd.jpg"
    ODD_FILES[kind](path)
    fast, plain = both(path)
    assert np.abs(fast - plain).max() <= 1
    assert np.abs(fast - plain).mean() <= 0.1
    if kind == "rotated by EXIF":
        assert np.abs(plain - np.asarray(Image.fromarray(scene()).resize((300, 300)), int)).mean() < 10, "not turned"


@pytest.mark.parametrize(
    "crop", [(0, 0, 640, 480), (100, 50, 500, 470), (0, 0, 299, 301), (639, 479, 640, 480), (3, 7, 20, 400)]
)
def test_crops_are_pillows_but_for_rounding(tmp_path, crop):
    path = tmp_path / "picture.jpg"
    Image.fromarray(scene()).save(path)
    fast, plain = both(path, crop)
    assert np.abs(fast - plain).max() <= 1 and np.abs(fast - plain).mean() <= 0.2


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
def test_a_flip_mirrors_the_resized_picture(tmp_path, decoder):
    path = tmp_path / "picture.jpg"
    Image.fromarray(scene()).save(path)
    plain, flipped = (decode_crop(path, 300, (640, 480), flip=flip, decoder=decoder) for flip in (False, True))
    assert np.array_equal(flipped, plain[:, ::-1])


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
def test_no_pixel_from_outside_the_crop_comes_in(tmp_path, decoder):
    pixels = np.full((480, 640, 3), 255, np.uint8)
    pixels[96:384, 96:544] = 0
    path = tmp_path / "picture.jpg"
    Image.fromarray(pixels).save(path, quality=100, subsampling=0)
    assert decode_crop(path, 300, (640, 480), (96, 96, 544, 384), decoder=decoder).max() <= 2


def test_real_training_pictures_agree_within_the_stated_error(shared_data):
    data = shared_data("coco_cc_mini")
    annotations = CocoAnnotations.load(data / "annotations" / "instances_train2017.json")
    fast, plain = (TrainingDataset(annotations, data / "train2017", 0, decoder=name) for name in ("auto", "pillow"))
    differences = []
    for key in [(epoch, index) for epoch in range(5) for index in annotations.trainable.tolist()]:
        differences.append(np.abs(fast[key]["image"].astype(int) - plain[key]["image"]))
    assert np.max(differences) <= 1 and np.mean(differences) <= 0.1


def test_common_jpegs_are_decoded_by_simplejpeg(tmp_path, monkeypatch):
    path = tmp_path / "picture.jpg"
    Image.fromarray(scene()).save(path)
    monkeypatch.setattr(decoding, "to_rgb", None)  # Pillow's path would fail
    decode_crop(path, 300, (640, 480))


def outcome(path, decoder):
    try:
        return decode_crop(path, 300, (160, 120), decoder=decoder)
    except DamagedImageError as error:
        return str(error)


def test_both_decoders_accept_the_same_damaged_files(tmp_path):
    path = tmp_path / "damaged.jpg"
    Image.fromarray(scene(160, 120)).save(path, quality=90)
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for case in range(120):
        content = bytearray(whole)
        place = int(draw.integers(len(content)))
        if case % 4 == 0:
            content = content[:place]
        elif case % 4 == 1:
            content[place] ^= 1 << int(draw.integers(8))
        elif case % 4 == 2:
            content[int(draw.integers(600))] = int(draw.integers(256))  # in the header
        else:
            del content[place : place + int(draw.integers(1, 100))]
        path.write_bytes(content)
        fast, plain = outcome(path, "auto"), outcome(path, "pillow")
        if isinstance(plain, str):
            assert fast == plain
            refused += 1
        else:
            assert np.abs(fast.astype(int) - plain).max() <= 1
    assert 30 < refused < 90


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not an image"), (b"hello", "not an image"), (b"\xff\xd8\xff\xe0", "cannot be decoded|not an image")],
    ids=["zero bytes", "text", "a start only"],
)
def test_a_file_that_is_no_picture_is_named(tmp_path, content, reason, decoder):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DamagedImageError, match=f"broken.jpg: ({reason})"):
        decode_crop(path, 300, (640, 480), decoder=decoder)


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
@pytest.mark.parametrize("missing", [2, 1000, 20000], ids=["the end marker", "the last rows", "nearly all"])
def test_a_picture_cut_off_is_named(tmp_path, missing, decoder):
    path = tmp_path / "cut.jpg"
    Image.fromarray(scene()).save(path)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DamagedImageError, match=r"cut.jpg: cannot be decoded \(image file is truncated"):
        decode_crop(path, 300, (640, 480), decoder=decoder)


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, decoder):
    path = tmp_path / "bomb.jpg"
    Image.new("L", (16, 16)).save(path)
    content = path.read_bytes()
    frame = content.index(b"\xff\xc0")
    path.write_bytes(content[: frame + 5] + (20_000).to_bytes(2, "big") * 2 + content[frame + 9 :])
    monkeypatch.setattr(decoding, "to_rgb", None)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(DamagedImageError, match=r"bomb.jpg: cannot be decoded .*decompression bomb"):
        decode_crop(path, 300, (20_000, 20_000), decoder=decoder)


def test_another_size_than_annotated_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "other.jpg"
    Image.fromarray(scene(160, 120)).save(path)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(DamagedImageError, match=r"other.jpg: 160x120 pixels, but 640x480 in its annotation"):
        decode_crop(path, 300, (640, 480))


def test_what_is_wrong_with_the_disk_is_not_called_damage(tmp_path, monkeypatch):
    (tmp_path / "torn.jpg").write_bytes(b"")

    def unreadable(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(decoding.Path, "read_bytes", unreadable)
    for name, reason in (("gone.jpg", "no such image file"), ("torn.jpg", "cannot be read .Input/output")):
        with pytest.raises(ImageError, match=f"{name}: {reason}") as error:
            decode_crop(tmp_path / name, 300, (640, 480))
        assert not isinstance(error.value, DamagedImageError)


def test_the_decoder_in_use_has_a_name_with_a_version(monkeypatch):
    assert decoder_name() == decoder_name("simplejpeg") == f"simplejpeg {simplejpeg.__version__}"
    assert decoder_name("pillow") == f"Pillow {PIL.__version__}"
    with pytest.raises(ImageError, match=r"--data.decoder turbo: expected one of auto"):
        decoder_name("turbo")
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert decoder_name() == f"Pillow {PIL.__version__}"
    with pytest.raises(ImageError, match="pip install simplejpeg"):
        decoder_name("simplejpeg")


def test_without_simplejpeg_auto_is_pillows_path(tmp_path, monkeypatch):
    path = tmp_path / "picture.jpg"
    Image.fromarray(scene()).save(path)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert np.array_equal(*both(path))


def test_a_picture_that_a_program_would_have_to_draw_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "drawn.jpg"  # PostScript: Pillow would hand it to Ghostscript
    Image.new("RGB", (20, 20)).save(path, "EPS")
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ImageError, match=r"drawn.jpg: not an image file in one of the formats BMP, GIF, JPEG"):
        decode(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_directory_is_no_picture_and_is_not_waited_for(tmp_path, make):
    make(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=r"x.jpg: no such image file"):
        decode(tmp_path / "x.jpg")


def test_a_file_name_too_long_for_any_file_is_a_missing_picture(tmp_path):
    with pytest.raises(ImageError, match="no such image file"):
        decode(tmp_path / ("x" * 300 + ".jpg"))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    pieces = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def test_a_png_that_is_broken_behind_its_pixels_is_refused_for_prediction_as_for_training(tmp_path):
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    too_much = b"a\0\0" + zlib.compress(bytes(2**21))
    rows = zlib.compress((b"\0" + bytes(range(8))) * 8)
    (tmp_path / "x.png").write_bytes(png((b"IHDR", header), (b"IDAT", rows), (b"zTXt", too_much), (b"IEND", b"")))
    for read in (decode, decode_upright):
        with pytest.raises(DamagedImageError, match=r"x\.png: cannot be decoded"):
            read(tmp_path / "x.png")


def test_a_dark_png_of_16_bits_a_channel_is_refused_for_prediction_as_for_training(tmp_path):
    header, rows = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0), zlib.compress(bytes(8 * (1 + 6 * 8)))
    (tmp_path / "x.png").write_bytes(png((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")))
    for read in (decode, decode_upright):
        with pytest.raises(DamagedImageError, match="the upper ones are unused"):
            read(tmp_path / "x.png")


TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE"}
TURNS[8] = "ROTATE_270"  # the way from upright to stored


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_stored_turned_is_upright_where_that_is_asked_for(orientation, decoder, tmp_path):
    """Against the same picture stored upright: crop, place, flip and size are the upright picture's."""
    upright = Image.fromarray(scene())
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(Image.Transpose[TURNS[orientation]])
    turned.save(tmp_path / "turned.png", exif=exif)
    how = ((100, 50, 400, 300), True, decoder, (20, 30, 220, 250))
    expected = decode_crop(tmp_path / "upright.png", 300, (640, 480), *how)
    assert np.array_equal(decode_crop(tmp_path / "turned.png", 300, (640, 480), *how, upright=True), expected)
    assert np.array_equal(np.asarray(decode(tmp_path / "turned.png", upright=True)), np.asarray(upright))
    if turned.size != upright.size:
        with pytest.raises(
            DamagedImageError,
            match=r"480x640 pixels, but 640x480 in its annotation, which is that of "
            r"the picture turned by its EXIF orientation; --data.upright true takes it so",
        ):
            decode_crop(tmp_path / "turned.png", 300, (640, 480), decoder=decoder)
        with pytest.raises(DamagedImageError, match=r"640x480 pixels when upright, but 480x640 .*--data.upright false"):
            decode_crop(tmp_path / "turned.png", 300, (480, 640), decoder=decoder, upright=True)
