"""Host transforms, drawn from counter-based random numbers: SSD crop, horizontal flip, colour-jitter factors.

Every draw comes from (seed, epoch, sample index) alone, so any number of workers, processes or restarts gives the same
pictures. Pixels are touched elsewhere: crop, resize, flip by dataset.py in a worker, colour by augment.py on the
device.
"""

from dataclasses import dataclass

import numpy as np

# The published recipe's crop: leave the picture whole, or demand this IoU of the crop with every box (None: no demand).
MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, None)
MAX_ASPECT = 2.0  # width / height of the crop, in units of the picture's


@dataclass(frozen=True)
class Augmentation:
    """What is done to training pictures at random. The defaults are the published recipe's; 0 turns a part off, and
    `crop_side` 1 the crop.

    Args:
        crop_side: the least width and height of SSD's random crop, in units of the picture's; up to 1.
        flip: the probability of mirroring, left to right.
        brightness, contrast, saturation: factors are uniform in 1 +- these.
        hue: turns, uniform in +- this.
    """

    crop_side: float = 0.3
    flip: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05


RECIPE = Augmentation()


@dataclass(frozen=True)
class Sample:
    """What to do with one training picture. crop: (left, top, right, bottom) in whole pixels."""

    crop: tuple[int, int, int, int]
    flip: bool
    boxes: np.ndarray  # float32 [G, 4] xyxy, normalised to the crop (and flipped)
    labels: np.ndarray  # int64 [G]
    colour: np.ndarray  # float32 [3, 6], see `colour_matrices`


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index))))


def draw_sample(
    rng: np.random.Generator,
    width: int,
    height: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    augmentation: Augmentation = RECIPE,
) -> Sample:
    """Draws the augmentation of a picture of width x height pixels with normalised xyxy boxes [G, 4]."""
    crop, boxes, labels = draw_crop(rng, width, height, boxes, labels, augmentation.crop_side)
    flip = bool(rng.random() < augmentation.flip)
    if flip:
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([1, 0, 1, 0], np.float32)
    return Sample(crop, flip, boxes, labels, colour_matrices(rng, augmentation))


def draw_crop(
    rng: np.random.Generator,
    width: int,
    height: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    least_side: float = RECIPE.crop_side,
) -> tuple[tuple[int, int, int, int], np.ndarray, np.ndarray]:
    """SSD's random crop (SSD paper, section 2.2, "Data augmentation"; ranges of the published recipe).

    Draws again until a crop fits its demand and holds the centre of a box; "leave it whole" (one draw in seven) always
    fits, so this ends. Boxes whose centre is inside stay, clipped. A picture without boxes may be cut anywhere. Returns
    the crop in pixels, boxes, labels.
    """
    whole = (0, 0, width, height)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while True:
        mode = rng.integers(len(MIN_IOUS) + 1)
        if mode == len(MIN_IOUS):
            return whole, boxes, labels
        crop_width, crop_height = rng.uniform(least_side, 1.0, size=2)
        left, top = rng.random(2) * (1 - crop_width, 1 - crop_height)
        if not 1 / MAX_ASPECT <= crop_width / crop_height <= MAX_ASPECT:
            continue
        # Whole pixels first, so boxes and picture are cut at the very same place.
        pixels = (
            int(left * width),
            int(top * height),
            int((left + crop_width) * width),
            int((top + crop_height) * height),
        )
        if pixels[2] <= pixels[0] or pixels[3] <= pixels[1]:
            continue
        crop = np.array(pixels, dtype=np.float32) / np.array([width, height, width, height], np.float32)
        minimum = MIN_IOUS[mode]
        if minimum is not None and not (_iou_with(crop, boxes) > minimum).all():
            continue
        inside = ((centres > crop[:2]) & (centres < crop[2:])).all(axis=1)
        if len(boxes) and not inside.any():
            continue
        kept = np.clip(boxes[inside], np.tile(crop[:2], 2), np.tile(crop[2:], 2))
        kept = (kept - np.tile(crop[:2], 2)) / np.tile(crop[2:] - crop[:2], 2)
        return pixels, np.clip(kept, 0, 1), labels[inside]


def colour_matrices(rng: np.random.Generator, augmentation: Augmentation = RECIPE) -> np.ndarray:
    """Draws a colour jitter as two 3x3 matrices side by side, float32 [3, 6] = (of the pixel | of the mean pixel).

    Brightness, saturation and hue are linear maps of a pixel; contrast blends it with the grey of the picture's mean.
    Their composition, in a random order as in torchvision's ColorJitter, is `A @ pixel + K @ mean`. Unlike there, hue
    turns in the YIQ plane, not in HSV, and values are clamped once at the end, not after every step.
    """
    ranges = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    brightness, contrast, saturation = (rng.uniform(1 - r, 1 + r) for r in ranges)
    hue = rng.uniform(-augmentation.hue, augmentation.hue)
    steps = {
        "brightness": brightness * np.eye(3),
        "saturation": saturation * np.eye(3) + (1 - saturation) * _GREY,
        "hue": _hue_rotation(hue),
    }
    pixel, mean = np.eye(3), np.zeros((3, 3))
    for name in rng.permutation(["brightness", "contrast", "saturation", "hue"]):
        if name == "contrast":
            # The mean of the picture so far is pixel @ mean + mean @ mean: the same linear map of the input's mean.
            mean = contrast * mean + (1 - contrast) * _GREY @ (pixel + mean)
            pixel = contrast * pixel
        else:
            pixel, mean = steps[name] @ pixel, steps[name] @ mean
    return np.concatenate((pixel, mean), axis=1).astype(np.float32)


_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as torchvision and Pillow convert to grey
_GREY = np.tile(_LUMA, (3, 1))
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)


def _hue_rotation(turns: float) -> np.ndarray:
    cosine, sine = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    return _RGB @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ _YIQ


def _iou_with(crop: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one xyxy box with each of [G, 4]."""
    overlap = np.clip(np.minimum(crop[2:], boxes[:, 2:]) - np.maximum(crop[:2], boxes[:, :2]), 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return overlap / ((crop[2:] - crop[:2]).prod() + areas - overlap)
