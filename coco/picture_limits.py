"""What a picture may cost to decode, known before it is decoded; the same for whoever reads pictures.

A small file can ask for much: Pillow itself refuses too many pixels and too much compressed text, and of several frames
only the first is decoded. Left are files too large to be read at all; those of a few kilobytes whose header claims a
hundred megapixels, which take a gigabyte until their end is found missing, or are of one colour; and JPEGs: a
progressive one refines all of its pixels in every scan, and a scan takes ten bytes.
"""

import re

MAX_FILE_BYTES = 2**31  # twice Pillow's `Image.MAX_IMAGE_PIXELS` in RGBA with 16 bits take 1.4 GB
LARGE = 25_000_000  # pixels, up to which a file may be as small as it likes
MAX_PIXELS_PER_BYTE = 1000  # beyond that; large photographs have about 10, one colour of 24 bits in a PNG has 350
MAX_SCANS = 100  # real progressive JPEGs have about 10, and libtiff has the same limit
MAX_SCANNED_PIXELS = 2_000_000_000  # of all scans; the largest picture with 11 scans, or 20 megapixels with 100

_SOS = 0xDA
_EOI = 0xD9
# The end, and markers of segments. Others are passed over: stuffed and fill bytes, restarts, and what has no length.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xef\xfe])")


class TooCostlyError(ValueError):
    """Decoding would take far more than a picture of its size needs; the message says what."""


def check_file_size(size: int) -> None:
    """Raises TooCostlyError for a file too large to be read into memory."""
    if size > MAX_FILE_BYTES:
        raise TooCostlyError(f"{size} bytes, of which at most {MAX_FILE_BYTES} are read")


def check_pixels(size: int, width: int, height: int) -> None:
    """Raises TooCostlyError for a large picture in a file of so few bytes that it cannot have much in it."""
    if width * height > max(LARGE, MAX_PIXELS_PER_BYTE * size):
        raise TooCostlyError(
            f"{width}x{height} pixels in {size} bytes; beyond {LARGE // 10**6} megapixels at most "
            f"{MAX_PIXELS_PER_BYTE} pixels a byte are decoded"
        )


def check_jpeg(data: bytes, width: int, height: int) -> None:
    """Raises TooCostlyError for a JPEG with too many scans for its pixels."""
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, width * height))
    if count_scans(data, most) > most:
        raise TooCostlyError(f"more than {most} scans, of {width}x{height} pixels each; real pictures have about 10")


def count_scans(data: bytes, most: int) -> int:
    """Scans of the first picture in a JPEG file (ITU-T T.81, B.1 and B.2), as libjpeg finds them; at most most + 1.

    What is embedded in metadata (thumbnails), or comes behind the picture (a phone's film), does not count.
    """
    scans = at = 0
    while scans <= most and (marker := _MARKER.search(data, at)):
        at = marker.end()
        if marker[1][0] == _EOI:
            break
        scans += marker[1][0] == _SOS
        at += int.from_bytes(data[at : at + 2], "big")  # of the segment; a scan's pixels come after it
    return scans
