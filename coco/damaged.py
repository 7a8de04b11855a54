"""Damaged training images: reported once each, counted, and too many for training to go on."""

import warnings
from collections.abc import Mapping

from coco.decoding import ImageError

EXAMPLES = 5  # files named in the error


class TooManyDamagedImages(ImageError):
    """More training images are damaged than the limit allows; the message names files and what to do."""


class DamagedImages:
    """The distinct damaged training images met so far: `found` is {file name: what is wrong}, plain data to save.

    Args:
        limit: the share of all training images that may be damaged.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.found: dict[str, str] = {}

    def add(self, found: Mapping[str, str], total: int) -> None:
        """Warns of each image that is new; `total` is the number of training images.

        Raises:
            TooManyDamagedImages: more than `limit * total` by now.
        """
        for name, reason in found.items():
            if name not in self.found:
                self.found[name] = reason
                warnings.warn(f"{reason}. Training uses another image in its place", stacklevel=2)
        if len(self.found) > self.limit * total:
            examples = "\n".join(f"  {reason}" for reason in list(self.found.values())[:EXAMPLES])
            raise TooManyDamagedImages(
                f"{len(self.found)} of {total} training images are damaged, more than --data.damaged_limit "
                f"{self.limit:g} allows:\n{examples}\nMend or fetch them again, take them out of the annotations, or "
                "raise the limit"
            )
