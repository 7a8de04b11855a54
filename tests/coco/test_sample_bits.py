"""The sample data set is the same to the bit whatever becomes of its code: measured mAPs were reached on it.

Pixels are compared rather than files, since a JPEG's bytes depend on who built Pillow. Pillow 10 fills polygons
otherwise; 11.3 to 13.0, and NumPy 1.26 to 2.4, give these pixels.
"""

import hashlib

import numpy as np
import PIL
import pytest
from PIL import Image

from coco.sample import write_sample

# (training pictures, validation pictures, seed) -> BLAKE2b of the json files, and of the pixels
BITS = {
    (6, 3, 0): ("f5a071fdd5ed63508ee0bbe3d8100853", "d301b6a27951ba8fde1bb220bb6ac5dd"),
    (3, 2, 5): ("0ef43360e436707b0f35c6e6aeaddc71", "ba1a7e210a012ce6498051f1434b2d0f"),
    (320, 80, 0): ("99d571474c782f0ec0be864c8485ec11", "958ca0405dfb566ee9925bb0cf6ef706"),  # the whole of it
}
DRAWS_OTHERWISE = tuple(map(int, PIL.__version__.split(".")[:2])) < (11, 3)


def bits(directory):
    """Hashes of all json files and of the pixels of all pictures, in the order of their names."""
    text, pixels = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".json":
            text.update(path.read_bytes())
        elif path.suffix == ".jpg":
            with Image.open(path) as picture:
                pixels.update(np.asarray(picture).tobytes())
    return text.hexdigest(), pixels.hexdigest()


@pytest.mark.parametrize(("parameters", "expected"), BITS.items(), ids=map(str, BITS))
def test_the_sample_is_the_same_to_the_bit(tmp_path, parameters, expected):
    write_sample(tmp_path, *parameters)
    text, pixels = bits(tmp_path)
    assert text == expected[0]
    if DRAWS_OTHERWISE:
        pytest.skip(f"Pillow {PIL.__version__} fills polygons differently: only the annotations were compared")
    assert pixels == expected[1]
