"""Detector: a trained SSD300 as something to call on pictures; what predict.py is made of.

from prediction import Detector

detector = Detector("runs/0001/checkpoints/best.ckpt")
for found in detector(["street.jpg", Image.open("cat.png"), array]):
    print(found.class_names, found.scores, found.boxes)
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints.fetching import local_file
from coco.dataset import collate_evaluation
from coco.decoding import INPUT_SIZE, decode_upright, resize
from coco.tiles import Tiling, TilingError, tiling_from
from coco.views import see
from prediction.devices import check_score_threshold, device_flags, fast_precision
from prediction.exported import engine_for, open_detector, runs_in_bf16
from training.detecting import DetectingModule

DEFAULT_THRESHOLD = 0.3  # of a checkpoint without thresholds of its own

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, by descending score.

    boxes: float32 [n, 4] xyxy in pixels of the picture, not clipped to it (as in evaluation). scores: float32 [n].
    labels: int64 [n], 1..C. class_names, category_ids: n of the checkpoint's. size: width and height of the picture.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def to_supervision(self) -> Any:
        """As `supervision.Detections` (trackers, zones, annotators): class_id is the label less 1, the place of the
        class in the checkpoint; class_name and category_id are in `data`.

        Raises:
            ImportError: that package is not here.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(f"to_supervision: {error}; pip install supervision", name=error.name) from None
        more = {"class_name": np.array(self.class_names, str), "category_id": np.array(self.category_ids, np.int64)}
        return supervision.Detections(
            xyxy=self.boxes.reshape(-1, 4), confidence=self.scores, class_id=self.labels - 1, data=more
        )


class Detector:
    """Detects objects in pictures, on any device, exactly as `trainer.predict` does.

    Args:
        checkpoint: a checkpoint of ours, a `.pt` file of the published recipe, or an exported file: the path, or what
            is fetched, `nvidia_ssd300_coco` or an https:// address (`checkpoints.fetching.local_file`); or an
            SSDModule, which moves to the device and into evaluation mode.
        accelerator, devices, precision: Lightning's; one device (`1`, or an ordinal such as "2,").
        score_threshold: detections that score above it are returned, at most the checkpoint's max_detections a picture.
            By default those of the checkpoint, per class (`evaluate.py --save_thresholds`), which is said, or 0.3.
        classes: only these, by name or by category id; all of them by default.
        tiles: also look at tiles of this many pixels a side, `tile_overlap` of which (0.2) neighbours have in common
            (`coco.tiles`, docs/tiles.md); 0: at the whole picture alone. By default as the checkpoint's run did.
        engine: what computes: `torch`, or on the CPU `onnx` or `openvino`, to which a checkpoint is converted first; by
            default that of an exported file, torch for a checkpoint.

    Raises:
        CheckpointError: no usable checkpoint.
        MisconfigurationException: no such device, more than one, an unknown class, no score, no size of tiles.
    """

    def __init__(
        self,
        checkpoint: str | Path | DetectingModule,
        accelerator: str = "auto",
        devices: int | str | list[int] = 1,
        precision: str | None = None,
        score_threshold: float | None = None,
        classes: Sequence[str | int] | None = None,
        engine: str = "auto",
        tiles: int | None = None,
        tile_overlap: float | None = None,
    ) -> None:
        if score_threshold is not None:
            check_score_threshold(score_threshold)
        tiling = checked_tiling(tiles, tile_overlap)
        is_auto, precision = precision == "auto", fast_precision(accelerator) if precision == "auto" else precision
        asked = (accelerator, precision, is_auto, engine)
        if not isinstance(checkpoint, DetectingModule):
            checkpoint = local_file(checkpoint)
        if not isinstance(checkpoint, DetectingModule) and engine_for(checkpoint, engine) != "torch":
            runs_in_bf16(checkpoint, *asked)
            accelerator, precision = "cpu", None
        strategy = _one_device(accelerator, devices, precision)
        module = checkpoint if isinstance(checkpoint, DetectingModule) else open_detector(checkpoint, *asked)
        if module.operating_point and score_threshold is None:
            rank_zero_info(f"score thresholds of the checkpoint: {module.operating_point}")
        self.tiling = module.tiling if tiles is None else tiling
        if tiles is None and self.tiling is not None:
            rank_zero_info(f"as the checkpoint's run: tiles {self.tiling.size}, tile_overlap {self.tiling.overlap}")
        self._choose(module, score_threshold, classes)
        self.device = strategy.root_device
        strategy.setup_environment()
        self.module = strategy.precision_plugin.convert_module(module.to(self.device)).eval()
        self._autocast = strategy.precision_plugin.predict_step_context

    def __call__(self, pictures: Picture | Iterable[Picture], batch_size: int = 8) -> list[Detections]:
        """The detections of one picture or of many, in their order; always a list.

        Args:
            pictures: paths (turned upright where EXIF says so), PIL images, or uint8 arrays in RGB [H, W, 3] or grey
                [H, W]. Any iterable will do; no more than `batch_size` pictures are held at a time.
            batch_size: pictures, or tiles of one, at a time on the device.

        Raises:
            ImageError: a file that cannot be read. TypeError, ValueError: not a picture.
        """
        several: Any = pictures
        one = isinstance(pictures, str | Path | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4)
        return [
            found
            for some in batches([pictures] if one else several, self.pictures_at_once(batch_size))
            for found in self.detect([prepare(open_picture(picture), self.tiling) for picture in some], batch_size)
        ]

    def pictures_at_once(self, batch_size: int) -> int:
        """How many pictures make a batch; with tiles each is one."""
        return batch_size if self.tiling is None else 1

    def choosing(self, score_threshold: float | None = None, classes: Sequence[str | int] | None = None) -> "Detector":
        """The same network with another threshold and other classes, as of the class; nothing is loaded again."""
        other = copy(self)
        other._choose(self.module, score_threshold, classes)
        return other

    def _choose(
        self, module: DetectingModule, score_threshold: float | None, classes: Sequence[str | int] | None
    ) -> None:
        point = module.operating_point if score_threshold is None else None
        default = DEFAULT_THRESHOLD if score_threshold is None else score_threshold
        # float32 [C], of detections by label
        self.thresholds = np.array(point.thresholds if point else [default] * len(module.class_names), np.float32)
        self.labels = labels_of(classes, module.class_names, module.category_ids)

    def detect(self, samples: Sequence[dict[str, Any]], batch_size: int = 8) -> list[Detections]:
        """The detections of pictures that went through `prepare`, as one batch, of tiles `batch_size` at a time."""
        batch = collate_evaluation([{**sample, "image_id": i} for i, sample in enumerate(samples)], batch_size)
        with torch.inference_mode(), self._autocast():
            batch["images"] = batch["images"].to(self.device)
            found = self.module.predict(batch, float(self.thresholds.min()))
        return [self._named(each, sample["size"]) for each, sample in zip(found, samples, strict=True)]

    def _named(self, found: dict[str, Any], size: tuple[int, int]) -> Detections:
        boxes, scores, labels = (found[key].numpy() for key in ("boxes", "scores", "labels"))
        wanted = scores > self.thresholds[labels - 1]
        if self.labels is not None:
            wanted &= np.isin(labels, self.labels)
        boxes, scores, labels = boxes[wanted], scores[wanted], labels[wanted]
        names, ids = self.module.class_names, self.module.category_ids
        return Detections(
            boxes, scores, labels, tuple(names[i - 1] for i in labels), tuple(ids[i - 1] for i in labels), size
        )


def open_picture(picture: Picture) -> Image.Image:
    """An RGB picture. A file is turned upright where its EXIF orientation says so; images and arrays stay as they are.

    Raises:
        ImageError: a file that cannot be read. TypeError, ValueError: not a picture.
    """
    if isinstance(picture, str | Path):
        return decode_upright(Path(picture))[0]
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"a PIL image of mode {picture.mode}: expected 8 bits a channel, or the path of its file")
        # Of grey multiplied by its transparency Pillow makes nothing else.
        return (picture.convert("LA") if picture.mode == "La" else picture).convert("RGB")
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"expected a path, a PIL image or a numpy array, got {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or 0 in picture.shape or picture.ndim < 2:
        raise ValueError(
            f"an array of {picture.dtype} {list(picture.shape)}: expected uint8 in RGB [H, W, 3] or grey [H, W]"
        )
    return Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")


def prepare(picture: Image.Image, tiling: Tiling | None = None) -> dict[str, Any]:
    """The network's input of an RGB picture, as in evaluation: image uint8 [300, 300, 3], size (width, height); with a
    tiling also windows and shared of `coco.views.see`, and image uint8 [V, 300, 300, 3]."""
    pixels = np.asarray(picture)
    views = see(pixels, tiling) if tiling else {"image": resize(pixels, (INPUT_SIZE, INPUT_SIZE))}
    return {**views, "size": picture.size}


def checked_tiling(tiles: int | None, tile_overlap: float | None) -> Tiling | None:
    """`tiling_from`, whose errors become MisconfigurationExceptions."""
    try:
        return tiling_from(tiles, tile_overlap)
    except TilingError as error:
        raise MisconfigurationException(f"--{error}") from None


def labels_of(
    classes: Sequence[str | int] | None, class_names: Sequence[str], category_ids: Sequence[int]
) -> list[int] | None:
    """The labels (1..C), ascending, of classes given by name (all that have it) or category id; None means all.

    `name:X` and `id:X` say which is meant; an int is an id.

    Raises:
        MisconfigurationException: an unknown one, or the name of one class that is another's id; the message lists
            those there are.
    """
    if classes is None:
        return None
    there = ", ".join(f"{name} ({i})" for name, i in zip(class_names, category_ids, strict=True))
    if not classes:
        raise MisconfigurationException(
            f"--classes: none is named; the checkpoint's, by name or category id, are {there}"
        )
    wanted: set[int] = set()
    for key in classes:
        by_name, by_id = _meant(key, class_names, category_ids)
        if not by_name | by_id:
            raise MisconfigurationException(
                f"--classes {key}: the checkpoint's classes, by name or category id, are {there}"
            )
        if by_name and by_id and by_name != by_id:
            raise MisconfigurationException(
                f"--classes {key}: the name of one class and the category id of another; write name:{key} or id:{key}. "
                f"The checkpoint's classes, by name and category id, are {there}"
            )
        wanted |= by_name | by_id
    return sorted(wanted)


def _meant(key: str | int, class_names: Sequence[str], category_ids: Sequence[int]) -> tuple[set[int], set[int]]:
    """The labels that have `key` for a name, and for a category id."""
    text, kind = str(key), "id" if isinstance(key, int) else ""
    prefix, colon, rest = text.partition(":")
    if colon and prefix in ("name", "id") and text not in class_names:
        text, kind = rest, prefix
    names, ids = class_names if kind != "id" else (), map(str, category_ids) if kind != "name" else ()
    by_name, by_id = ({label for label, each in enumerate(all_, start=1) if each == text} for all_ in (names, ids))
    return by_name, by_id


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one perhaps shorter."""
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


def _one_device(accelerator: str, devices: int | str | list[int], precision: str | None) -> pl.strategies.Strategy:
    """Lightning's strategy for one device, which knows the device and the precision."""
    asked = {"accelerator": accelerator, "devices": devices, "precision": precision}
    flags = device_flags({**asked, "num_nodes": 1, "strategy": "auto", "plugins": None})
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    try:
        trainer = pl.Trainer(**flags, **dict.fromkeys(quiet, False))
    except (TypeError, ValueError) as error:  # Lightning's, for words that it does not know
        named = " ".join(f"--{name} {value}" for name, value in asked.items() if value is not None)
        raise MisconfigurationException(f"{named}: {error}") from None
    if trainer.num_devices != 1:
        raise MisconfigurationException(
            f"--devices {devices}: prediction runs on one device; give 1, or an ordinal with a comma such as '2,'"
        )
    return trainer.strategy
