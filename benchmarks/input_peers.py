"""The peers of benchmarks/input_pipeline.py: the published recipe's pipeline by path, DALI, torchvision's decoder.

Each is a function that makes one batch of all training pictures: `() -> uint8 [N, 300, 300, 3]`, the recipe's None.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coco.annotations import CocoAnnotations
from coco.decoding import decode_crop, resize
from coco.transforms import draw_sample, generator

Pass = Callable[[], np.ndarray | None]


def reference_pipeline(utils: ModuleType, data: Path) -> Pass:
    """Everything its worker does: decode, crop, flip, resize, colour jitter, normalisation, matching."""
    transform = utils.SSDTransformer(utils.dboxes300_coco(), (300, 300), val=False)
    dataset = utils.COCODetection(
        str(data / "train2017"), str(data / "annotations" / "instances_train2017.json"), transform
    )
    random.seed(0)

    def run() -> None:
        torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])

    return run


def torchvision_pipeline(annotations: CocoAnnotations, data: Path) -> Pass:
    """torchvision's decoder and our resize, for the same crops."""

    def one(index: int) -> np.ndarray:
        path, drawn = _draw(annotations, data, index)
        encoded = torchvision.io.read_file(str(path))
        pixels = torchvision.io.decode_jpeg(encoded, torchvision.io.ImageReadMode.RGB).permute(1, 2, 0).numpy()
        left, top, right, bottom = drawn.crop
        return resize(pixels[top:bottom, left:right], (300, 300), drawn.flip)

    return lambda: np.stack([one(index) for index in annotations.trainable.tolist()])


def pixels_alone(annotations: CocoAnnotations, data: Path) -> Pass:
    """Ours, with the crops given ready."""
    drawn = [_draw(annotations, data, index) for index in annotations.trainable.tolist()]
    sizes = [
        (int(annotations.widths[index]), int(annotations.heights[index])) for index in annotations.trainable.tolist()
    ]
    return lambda: np.stack(
        [
            decode_crop(path, 300, size, sample.crop, sample.flip)
            for (path, sample), size in zip(drawn, sizes, strict=True)
        ]
    )


def dali_pipeline(annotations: CocoAnnotations, data: Path) -> Pass | None:
    """DALI on the CPU doing the same work: decode the crop, resize with antialiasing, flip. None where not installed.

    The crops are ours, given to it ready; one thread, beside Python's on the same core.
    """
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError:
        return None
    paths, drawn = zip(*(_draw(annotations, data, index) for index in annotations.trainable.tolist()), strict=True)
    crops = np.array([sample.crop for sample in drawn], np.float32)
    corners, sizes = list(crops[:, :2]), list(crops[:, 2:] - crops[:, :2])
    flips = [np.array(sample.flip, np.int32) for sample in drawn]

    @pipeline_def(batch_size=len(paths), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        encoded, _ = fn.readers.file(files=[str(path) for path in paths])
        corner, size, flip = fn.external_source(source=lambda: (corners, sizes, flips), num_outputs=3)
        pixels = fn.decoders.image_slice(
            encoded, corner, size, normalized_anchor=False, normalized_shape=False, axis_names="WH"
        )
        resized = fn.resize(pixels, resize_x=300, resize_y=300, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(resized, horizontal=flip)

    built = pipeline()
    built.build()

    def run() -> np.ndarray:
        (pictures,) = built.run()
        return np.asarray(pictures.as_tensor())

    return run


def per_image_colour(pictures: list) -> list[torch.Tensor]:
    """The recipe's colour jitter and normalisation, on Pillow pictures one by one."""
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    return [transform(picture) for picture in pictures]


def _draw(annotations: CocoAnnotations, data: Path, index: int):
    size = int(annotations.widths[index]), int(annotations.heights[index])
    drawn = draw_sample(generator(0, 0, index), *size, *annotations.training_boxes(index))
    return data / "train2017" / annotations.file_name(index), drawn
