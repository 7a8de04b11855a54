"""The files that come out of a prediction: COCO results, which image is which file, and a table for people."""

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from coco.names import cell
from coco.whole_files import replacing
from prediction.detector import Detections

TABLES = ("detections.json", "images.json", "detections.csv")


class ResultFiles:
    """Writes detections as they come: nothing is kept in memory. The files appear, whole, when they are closed.

    - detections.json: COCO results, one record a detection: image_id, category_id (the checkpoint's), bbox
      [x, y, width, height] in pixels, score.
    - images.json: which image_id is which file (and frame of a video): COCO annotations without any object, so that
      `COCO("images.json").loadRes("detections.json")` works.
    - detections.csv: the same for people: file, frame, class, score, x0, y0, x1, y1. Texts as coco.names.cell.

    Bytes of file names that are no UTF-8 are \\udc80 .. \\udcff in the JSON, which Python opens the file by, and so
    written out in the CSV.
    """

    def __init__(self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        how: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
        self.images = self.detections = 0
        with ExitStack() as stack:
            self._results, self._images, table = (
                stack.enter_context(replacing(directory / name, **how)) for name in TABLES
            )
            self._open = stack.pop_all()
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
        self._results.write("[")
        self._images.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [],\n"images": [')
        self._table = csv.writer(table)
        self._table.writerow(("file", "frame", "class", "score", "x0", "y0", "x1", "y1"))

    def __enter__(self) -> "ResultFiles":
        return self

    def __exit__(self, *_: object) -> None:
        with self._open:
            self._results.write("\n]\n")
            self._images.write("\n]}\n")

    def add(self, file: str, found: Detections, drawn: str | None = None, frame: int | None = None) -> None:
        """The detections of the next image; its id is the number of images before it.

        Args:
            drawn: what the drawn picture is called, if there is one. frame: of a video, from 0.
        """
        image = {"id": self.images, "file_name": file, "width": found.size[0], "height": found.size[1]}
        image |= {} if frame is None else {"frame": frame}
        image |= {} if drawn is None else {"drawn": drawn}
        self._images.write(("," if self.images else "") + "\n" + json.dumps(image))
        boxes = found.boxes.astype(float).round(2).tolist()  # a hundredth of a pixel
        scores = found.scores.astype(float).round(4).tolist()
        for box, score, name, category in zip(boxes, scores, found.class_names, found.category_ids, strict=True):
            x0, y0, x1, y1 = box
            bbox = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            record = {"image_id": self.images, "category_id": category, "bbox": bbox, "score": score}
            self._results.write(("," if self.detections else "") + "\n" + json.dumps(record))
            self._table.writerow(map(cell, (file, "" if frame is None else frame, name, score, *box)))
            self.detections += 1
        self.images += 1
