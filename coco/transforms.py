"""Host transforms, drawn from counter-based random numbers: SSD's zoom out and crop, horizontal flip, colour-jitter
factors.

Every draw comes from (seed, epoch, sample index) alone, so any number of workers, processes or restarts gives the same
pictures. Pixels are touched elsewhere: crop, resize, flip by dataset.py in a worker, colour by augment.py on the
device.
"""

from dataclasses import dataclass

import numpy as np

from coco.annotations import MIN_SIDE
from coco.decoding import INPUT_SIZE

# The published recipe's crop: leave the picture whole, or demand this IoU of the crop with every box (None: no demand).
MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, None)
MAX_ASPECT = 2.0  # width / height of the crop, in units of the picture's


Box = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels


@dataclass(frozen=True)
class Augmentation:
    """What is done to training pictures at random. The defaults are the published recipe's; 0 turns a part off, and
    `crop_side` 1 the crop.

    Args:
        zoom_out: the greatest width and height of the canvas, in units of the picture's, on which one picture in two is
            put, so that its objects are smaller; SSD's is 4, and 1, as in the published recipe, turns it off.
        crop_side: the least width and height of SSD's random crop, in units of the picture's (the canvas's); up to 1.
        flip: the probability of mirroring, left to right.
        brightness, contrast, saturation: factors are uniform in 1 +- these.
        hue: turns, uniform in +- this.
    """

    zoom_out: float = 1.0
    crop_side: float = 0.3
    flip: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05


RECIPE = Augmentation()


@dataclass(frozen=True)
class Sample:
    """What to do with one training picture."""

    crop: Box  # of the picture's pixels
    place: Box  # of the network's pixels, where the crop goes; what is around it is grey
    flip: bool
    boxes: np.ndarray  # float32 [G, 4] xyxy, normalised to the network's picture (and flipped)
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
    place: Box = (0, 0, INPUT_SIZE, INPUT_SIZE)
    if augmentation.zoom_out > 1 and rng.random() < 0.5:
        crop, place, boxes, labels = _draw_zoomed(rng, width, height, boxes, labels, augmentation)
    else:
        crop, boxes, labels = draw_crop(rng, width, height, boxes, labels, augmentation.crop_side)
    flip = bool(rng.random() < augmentation.flip)
    if flip:
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([1, 0, 1, 0], np.float32)
        place = (INPUT_SIZE - place[2], place[1], INPUT_SIZE - place[0], place[3])
    return Sample(crop, place, flip, boxes, labels, colour_matrices(rng, augmentation))


def _draw_zoomed(
    rng: np.random.Generator,
    width: int,
    height: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    augmentation: Augmentation,
) -> tuple[Box, Box, np.ndarray, np.ndarray]:
    """SSD's expansion (SSD paper, section 3.6), then its crop: the picture somewhere on a canvas of its shape, and a
    part of that. Returns crop, place, boxes and labels as of a `Sample`."""
    side = rng.uniform(1, augmentation.zoom_out)
    size = np.array([width, height])
    canvas = (side * size).astype(int)
    corner = (rng.random(2) * (canvas - size + 1)).astype(int)  # of the picture on it
    boxes = ((boxes * np.tile(size, 2) + np.tile(corner, 2)) / np.tile(canvas, 2)).astype(np.float32)
    while True:
        part, kept, kept_labels = draw_crop(rng, int(canvas[0]), int(canvas[1]), boxes, labels, augmentation.crop_side)
        low, high = np.array(part[:2]), np.array(part[2:])
        first, last = np.maximum(low, corner), np.minimum(high, corner + size)
        if (first < last).all():  # of a picture without boxes there may be nothing in it
            break
    exact = np.stack([first - low, last - low]) / (high - low)
    # Whole pixels of the network's, so that picture and boxes are put at the very same place.
    place = np.clip((exact * INPUT_SIZE).round(), [[0], [1]], [[INPUT_SIZE - 1], [INPUT_SIZE]]).astype(int)
    place[1] = np.maximum(place[1], place[0] + 1)
    scale = (place[1] - place[0]) / INPUT_SIZE / (exact[1] - exact[0])
    kept = (kept - np.tile(exact[0], 2)) * np.tile(scale, 2) + np.tile(place[0] / INPUT_SIZE, 2)
    kept = np.clip(kept, 0, 1).astype(np.float32)
    sized = (kept[:, 2:] - kept[:, :2] >= MIN_SIDE).all(axis=1)
    crop = np.concatenate((first - corner, last - corner)).tolist()
    return tuple(crop), tuple(place.ravel().tolist()), kept[sized], kept_labels[sized]


def draw_crop(
    rng: np.random.Generator,
    width: int,
    height: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    least_side: float = RECIPE.crop_side,
) -> tuple[Box, np.ndarray, np.ndarray]:
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
