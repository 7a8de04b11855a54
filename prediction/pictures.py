"""Pictures that a prediction writes: drawn ones, and what is in each box."""

import re
from pathlib import Path
from typing import Any

from PIL import Image

from coco.whole_files import replacing
from prediction.detector import Detections

JPEG_SIDE = 65_500  # px, libjpeg's limit


def save_picture(picture: Image.Image, path: Path) -> None:
    """As PNG or JPEG, by the name. Beside the target, then renamed: never half a picture, nor written through a link.

    Raises:
        ValueError: larger than JPEG holds. OSError: the disk.
    """
    is_png = path.suffix.lower() == ".png"
    if not is_png and max(picture.size) > JPEG_SIDE:
        raise ValueError(f"{picture.width}x{picture.height} pixels, and JPEG holds {JPEG_SIDE} a side")
    how: dict[str, Any] = (
        {"format": "PNG", "compress_level": 3} if is_png else {"format": "JPEG", "quality": 92, "subsampling": 0}
    )
    with replacing(path, durable=False) as file:
        picture.save(file, **how)


def save_crops(picture: Image.Image, found: Detections, directory: Path, stem: str) -> None:
    """What is in each box, as `directory/<category id>_<class>/<stem>_<number>.jpg`; boxes are cut at the picture's
    border, and one of which no pixel is left is passed over.

    Raises:
        As `save_picture`.
    """
    width, height = picture.size
    for number, (box, name, category) in enumerate(
        zip(found.boxes.tolist(), found.class_names, found.category_ids, strict=True)
    ):
        x0, y0 = (max(0, round(side)) for side in box[:2])
        x1, y1 = min(width, round(box[2])), min(height, round(box[3]))
        if x0 < x1 and y0 < y1:
            safe = re.sub(r"[^\w -]+", "_", name)[:50].strip()
            path = directory / f"{category}_{safe}" / f"{stem}_{number}.jpg"
            save_picture(picture.crop((x0, y0, x1, y1)), path)
