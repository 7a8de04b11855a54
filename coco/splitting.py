"""A validation part of a data set that has none: which images, by a seed and their ids, stratified by class.

The choice does not depend on the order of the images, on the machine or on the process.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


def validation_images(
    names: Sequence[str | int], first: np.ndarray, labels: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """bool [N], which images are for validation: about `share` of them, and of the objects of every class.

    Classes are served from the rarest on, so that a class of two objects is in both parts if it can be; then images
    without objects. Images of one name stay together: give a group's name to keep it whole.

    Args:
        names: of the N images, or of the groups they belong to.
        first: int64 [N + 1]; the objects of image i are rows first[i]:first[i + 1] of `labels`.
        labels: int64 [M], 1..C.
        share: above 0 and below 1.
    """
    unique, group = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    order = np.argsort([_number(name, seed) for name in unique], kind="stable")  # a random one
    rank = np.empty(len(unique), np.int64)
    rank[order] = np.arange(len(unique))
    images = np.bincount(group)
    of_object = np.repeat(group, np.diff(first))

    chosen = np.full(len(unique), -1)  # 0 train, 1 validation
    counts = np.bincount(labels)
    for label in sorted(np.flatnonzero(counts), key=lambda label: (counts[label], label)):
        objects = np.bincount(of_object[labels == label], minlength=len(unique))
        room = round(share * images.sum()) - images[chosen == 1].sum()
        _fill(chosen, objects, rank, max(1, round(share * counts[label])), images, room)
    empty = images * (chosen < 0)
    _fill(chosen, empty, rank, round(share * empty.sum()), images, len(group))
    return chosen[group] == 1


def _fill(
    chosen: np.ndarray, weights: np.ndarray, rank: np.ndarray, wanted: int, images: np.ndarray, room: int
) -> None:
    """Decides for the undecided groups with a weight: for validation, in random order, while their sum comes nearer to
    what is wanted and there is room for their images. The first always has room, the last is left for training."""
    found = weights[chosen == 1].sum()
    undecided = np.flatnonzero((chosen < 0) & (weights > 0))
    undecided = undecided[np.argsort(rank[undecided])]
    trained = bool((weights[chosen == 0] > 0).any())
    for place, one in enumerate(undecided):
        left = trained or place < len(undecided) - 1
        nearer = 0 < weights[one] <= 2 * (wanted - found) and (found == 0 or images[one] <= room)
        chosen[one] = takes = int(left and nearer)
        found += weights[one] * takes
        room -= images[one] * takes
        trained |= not takes


def _number(name: str, seed: int) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
