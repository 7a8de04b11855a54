"""Pictures as files, of every mode, depth and orientation that Pillow writes, and what is seen of them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from coco.annotations import CocoAnnotations
from coco.decoding import DamagedImageError, decode, decode_crop, decode_upright
from coco.picture_files import open_pictures
from tests.conftest import edit

GREY = np.add.outer(np.arange(40) * 4, np.arange(64)).astype(np.uint8)  # 0..219
DEEP = {
    "16 bits": (np.uint16, 257),
    "14 bits in 16": (np.uint16, 64),
    "12 bits in 16": (np.uint16, 16),
    "8 bits in 16": (np.uint16, 1),
    "12 bits in 32": (np.int32, 16),
    "31 bits": (np.int32, 2**23),
    "float to 1": (np.float32, 1 / 255),
    "float to 255": (np.float32, 1),
    "float to 65535": (np.float32, 257),
    "float to 0.01": (np.float32, 1 / 25500),
    "float to 1e30": (np.float32, 1e28),
}


def stored(path: Path, array: np.ndarray, **kwargs) -> Path:
    Image.fromarray(array).save(path, **kwargs)
    return path


def grey(path: Path) -> np.ndarray:
    pixels = np.asarray(decode(path)).astype(int)
    assert pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("kind", DEEP)
def test_one_deep_channel_is_shown_by_its_range(tmp_path, kind):
    dtype, scale = DEEP[kind]
    seen = grey(stored(tmp_path / "a.tiff", (GREY * np.float64(scale)).astype(dtype)))
    assert np.corrcoef(seen.ravel(), GREY.ravel())[0, 1] > 0.999
    assert 200 <= seen.max() <= 255, "neither black nor dark"
    if "1e30" not in kind and "0.01" not in kind and "31 bits" not in kind:
        assert np.abs(seen - GREY).max() <= 1, "as the same picture with 8 bits"


def test_values_below_zero_are_shown_from_the_least_to_the_greatest(tmp_path):
    for dtype in (np.int32, np.float32):
        seen = grey(stored(tmp_path / "a.tiff", GREY.astype(dtype) * 3 - 300))
        assert seen.min() == 0 and seen.max() == 255 and np.corrcoef(seen.ravel(), GREY.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.jp2", "a.tiff"])
def test_16_bit_grey_is_the_same_in_every_format(tmp_path, name):
    assert np.abs(grey(stored(tmp_path / name, GREY.astype(np.uint16) * 257)) - GREY).max() <= 1


def test_unsigned_32_bits_are_not_read_as_signed(tmp_path):
    path = stored(tmp_path / "a.tiff", (GREY.astype(np.int64) * 2**24).astype(np.uint32).view(np.int32))
    content = path.read_bytes()
    signed = struct.pack("<HHIH", 339, 3, 1, 2)  # tag SampleFormat
    assert signed in content
    path.write_bytes(content.replace(signed, struct.pack("<HHIH", 339, 3, 1, 1)))
    assert np.corrcoef(grey(path).ravel(), GREY.ravel())[0, 1] > 0.999


def test_what_is_no_number_or_no_data_is_black_and_does_not_hide_the_rest(tmp_path):
    values = GREY.astype(np.float32) / 255
    values[:10], values[10:12], values[12:14] = -9999, np.nan, np.inf
    tags = ImageFileDirectory_v2()
    tags[42113] = "-9999"
    seen = grey(stored(tmp_path / "a.tiff", values, tiffinfo=tags))
    assert (seen[:14] == 0).all() and np.abs(seen[14:] - GREY[14:]).max() <= 1
    path = stored(tmp_path / "b.tiff", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(DamagedImageError, match=r"b\.tiff: cannot be decoded \(none of its pixels is a number"):
        decode(path)


def test_16_bit_grey_whose_zero_is_white_is_not_inverted(tmp_path):
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    path = stored(tmp_path / "a.tiff", 65535 - GREY.astype(np.uint16) * 257)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0)))
    assert np.abs(grey(path) - GREY).max() <= 1


def colour_16_bits(path: Path, pixels: np.ndarray) -> Path:
    """16 bits a channel, [H, W, 3], which Pillow does not write: a PPM, PNG or TIFF."""
    (height, width), samples = pixels.shape[:2], pixels.astype(">u2")
    if path.suffix == ".ppm":
        path.write_bytes(b"P6 %d %d 65535\n" % (width, height) + samples.tobytes())
    elif path.suffix == ".png":
        rows = b"".join(b"\0" + row.tobytes() for row in samples)
        head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        crcs = (struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks)
        whole = (
            struct.pack(">I", len(content)) + kind + content + crc
            for (kind, content), crc in zip(chunks, crcs, strict=True)
        )
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))
    else:
        data, ends = samples.tobytes(), 8 + 2 + 9 * 12 + 4
        tags = ((256, width), (257, height), (258, ends), (259, 1), (262, 2), (273, ends + 6))
        tags += ((277, 3), (278, height), (279, len(data)))
        entries = b"".join(
            struct.pack(">HHI", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1) + struct.pack(">I", value)
            for tag, value in tags
        )
        depths = struct.pack(">3H", 16, 16, 16)
        path.write_bytes(b"MM\0*\0\0\0\x08" + struct.pack(">H", 9) + entries + bytes(4) + depths + data)
    return path


@pytest.mark.parametrize("name", ["a.ppm", "a.png", "a.tiff"])
def test_16_bit_colour_is_shown_or_refused_where_it_would_be_black(tmp_path, name):
    pixels = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1).astype(np.uint16)
    seen = np.asarray(decode(colour_16_bits(tmp_path / name, pixels * 257))).astype(int)
    assert np.abs(seen - pixels).max() <= 1
    for scale in (16, 1):
        with pytest.raises(DamagedImageError, match=rf"{name}: .*16 bits a channel .* black"):
            decode(colour_16_bits(tmp_path / name, pixels * scale))
    seen = np.asarray(decode(colour_16_bits(tmp_path / name, pixels * 64))).astype(int)
    assert np.abs(seen - pixels // 4).max() <= 1, "14 bits: a quarter of the light, as docs/custom_data.md says"


HELD = {
    ".png": "1 L LA P RGB RGBA",
    ".tiff": "1 L LA P PA RGB RGBA RGBX CMYK YCbCr LAB",
    ".jpg": "L RGB CMYK YCbCr",
    ".webp": "L LA P RGB RGBA",
    ".gif": "1 L LA P RGB RGBA",
    ".bmp": "1 L P RGB RGBA",
    ".jp2": "L LA RGB RGBA CMYK YCbCr",
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix in HELD for mode in HELD[suffix].split()])
def test_every_mode_that_a_format_holds_keeps_its_brightness(tmp_path, suffix, mode):
    rgb = Image.fromarray(np.stack([GREY, GREY[::-1], GREY], axis=-1))
    if mode == "LAB":
        from PIL import ImageCms

        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        picture = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    else:
        picture = rgb.convert(mode) if mode != "PA" else rgb.convert("P").convert("PA")
    path = tmp_path / f"a{suffix}"
    picture.save(path)
    if (suffix, mode) == (".tiff", "YCbCr") and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read what it writes of this")
    for pixels in (np.asarray(decode(path)), decode_crop(path, 300, picture.size)):
        assert abs(pixels.mean() - GREY.mean()) < 12


def test_a_drawing_that_is_in_the_transparency_alone_is_seen(tmp_path):
    for colour, ground in ((0, 255), (255, 0)):
        rgba = np.full((40, 64, 4), colour, np.uint8)
        rgba[..., 3] = GREY
        seen = grey(stored(tmp_path / "a.png", rgba))
        assert seen[0, 0] == ground and np.abs(seen - ground).max() == GREY.max()


def test_colours_under_transparency_stay_and_nothing_is_warned_of(tmp_path, recwarn):
    rgba = np.dstack([GREY, GREY, GREY, GREY[::-1]])
    assert np.array_equal(grey(stored(tmp_path / "a.png", rgba)), GREY)
    Image.fromarray(GREY).convert("P").save(tmp_path / "b.png", transparency=bytes(range(256)))
    assert np.array_equal(grey(tmp_path / "b.png"), GREY)
    assert not recwarn.list


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_pixels_are_as_stored_whatever_orientation_a_file_names_and_upright_once(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.zeros((80, 96, 3), np.uint8)
    pixels[5:25, 5:35] = (255, 0, 0)
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 100}}.get(suffix, {})
    path = stored(tmp_path / f"a{suffix}", pixels, exif=exif, **lossless)
    assert decode(path).size == (96, 80)
    for seen in (np.asarray(decode(path).resize((300, 300))), decode_crop(path, 300, (96, 80))):
        y, x = np.argwhere(seen[..., 0] > 128).mean(axis=0)
        assert abs(x * 96 / 300 - 20) < 0.5 and abs(y * 80 / 300 - 15) < 0.5
    upright, _ = decode_upright(path)
    y, x = np.argwhere(np.asarray(upright)[..., 0] > 128).mean(axis=0)
    width, height = (96, 80) if orientation < 5 else (80, 96)
    assert upright.size == (width, height)
    assert (x < width / 2) == (orientation in (1, 4, 5, 8)) and (y < height / 2) == (orientation in (1, 2, 5, 6))


def test_a_compressed_tiff_of_16_bits_that_lies_on_its_side_is_as_stored(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = stored(tmp_path / "a.tiff", GREY.astype(np.uint16) * 257, exif=exif, compression="tiff_lzw")
    assert np.abs(grey(path) - GREY).max() <= 1
    assert np.abs(np.asarray(decode_upright(path)[0])[..., 0] - np.rot90(GREY, -1).astype(int)).max() <= 1


def test_the_check_and_training_want_a_tiffs_size_as_stored(data):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = data / "annotations" / "instances_val2017.json"
    name = CocoAnnotations.load(file, cache=False).file_name(0)
    with Image.open(data / "val2017" / name) as picture:
        size = picture.size
        picture.save(data / "val2017" / f"{name}.tiff", exif=exif)

    def with_sides(width, height):
        row = {"file_name": f"{name}.tiff", "width": width, "height": height}
        edit(file, lambda content: [image.update(row) for image in content["images"] if image["id"] == 1])
        faults = open_pictures(CocoAnnotations.load(file, cache=False), data / "val2017", lambda *_: None).faults
        return faults

    edit(file, lambda content: content["images"].sort(key=lambda image: image["file_name"] != name))
    edit(file, lambda content: content["images"][0].update(id=1))
    assert with_sides(*size) == [] and "in the annotations" in with_sides(*size[::-1])[0]
    with pytest.raises(DamagedImageError, match="pixels as stored, but"):
        decode_crop(data / "val2017" / f"{name}.tiff", 300, size[::-1])


@pytest.mark.parametrize("suffix", [".gif", ".tiff", ".webp", ".png", ".mpo"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path, suffix):
    frames = [Image.fromarray(np.full((30, 40, 3), level, np.uint8)) for level in (250, 10, 20)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    picture, more = decode_upright(tmp_path / f"a{suffix}")
    assert more and np.asarray(picture).mean() > 240
    frames[0].save(tmp_path / f"b{suffix}")
    assert not decode_upright(tmp_path / f"b{suffix}")[1]
