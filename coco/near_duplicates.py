"""Pictures of two parts of a data set that look alike though their files differ: saved again, resized, brightened.

By imagehash's pHash, 64 signs of the lowest frequencies of the grey picture: small and pure Python, where imagededup
and fastdup bring frameworks of their own, and hotcoco looks at annotations alone. An extra, imported when asked for.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

MOST_BITS = 3  # of 64, that may differ: of a picture that was saved again or resized mostly none does
BANDS = MOST_BITS + 1  # of 16 bits; where so few bits differ, one band is the same


def hasher() -> Callable[[Image.Image], int] | None:
    """A picture, RGB -> 64 bits; None where imagehash is not installed."""
    try:
        from imagehash import phash
    except ImportError:
        return None
    return lambda picture: int(str(phash(picture)), 16)


def look_alike(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """int64 [N], for each hash the index of one of the others that differs in at most `MOST_BITS`, or -1.

    Args:
        hashes, others: uint64 [N], [M]. Time grows with N + M and with the pairs that have a band in common.
    """
    hashes, inverse = np.unique(hashes, return_inverse=True)
    others, index = np.unique(others, return_index=True)
    found = np.full(len(hashes), -1)
    for band in range(BANDS):
        ours, theirs = ((values >> np.uint64(16 * band)) & np.uint64(0xFFFF) for values in (hashes, others))
        order = np.argsort(theirs, kind="stable")
        begin, end = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
        row = np.repeat(np.arange(len(ours)), end - begin)  # of each pair with this band in common
        column = order[np.arange(len(row)) - np.repeat(np.cumsum(end - begin) - end, end - begin)]
        differ = (hashes[row] ^ others[column])[:, None].view(np.uint8)
        near = np.unpackbits(differ, axis=1).sum(1) <= MOST_BITS
        found[row[near]] = index[column[near]]
    return found[inverse]
