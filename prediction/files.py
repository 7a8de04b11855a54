"""The files that come out of a prediction: COCO results, which image is which file, tables for people and programs."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from coco.names import cell
from coco.whole_files import growing, replacing
from prediction.detector import Detections
from prediction.label_files import VocFiles, YoloFiles

TABLES = ("detections.json", "images.json", "detections.csv", "detections.jsonl")
CROPS = "crops"
FOLDERS = ("yolo", "voc", CROPS)  # all of these names are below the output directory
DEFAULT_FORMATS = ("coco", "csv")
OF_PICTURES = ("yolo", "voc")  # labels, of files that have a picture


class Writer(Protocol):
    """Writes one format, image by image; its files appear, whole, when it is closed."""

    def add(self, image: dict[str, Any], found: Detections, stem: str) -> None:
        """image: as in images.json. stem: what files of its own are called, below their folder."""

    def close(self) -> None: ...


class ResultFiles:
    """Writes detections as they come, in the formats asked for: nothing is kept in memory.

    - coco: detections.json, COCO results, one record a detection: image_id, category_id (the checkpoint's), bbox
      [x, y, width, height] in pixels, score; and images.json: which image_id is which file (and frame of a video), COCO
      annotations without any object, so that `COCO("images.json").loadRes("detections.json")` works.
    - csv: detections.csv, the same for people: file, frame, class, score, x0, y0, x1, y1. Texts as coco.names.cell.
    - jsonl: detections.jsonl, a line an image: file, width, height, and its detections with class, category_id, score
      and box [x0, y0, x1, y1].
    - yolo, voc: see prediction.label_files.

    Args:
        live: detections.jsonl grows by lines, for those who follow it.

    Bytes of file names that are no UTF-8 are \\udc80 .. \\udcff in the JSON, which Python opens the file by, and so
    written out in the CSV.
    """

    def __init__(
        self,
        directory: Path,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        formats: Sequence[str] = DEFAULT_FORMATS,
        live: bool = False,
    ) -> None:
        self.images = self.detections = 0
        self._writers: list[Writer] = []
        with ExitStack() as stack:
            for name in dict.fromkeys(formats):
                writer = partial(_JsonLines, live=True) if live and name == "jsonl" else WRITERS[name]
                self._writers.append(writer(directory, class_names, category_ids))
                stack.callback(self._writers[-1].close)
            self._open = stack.pop_all()

    def __enter__(self) -> "ResultFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(
        self, file: str, found: Detections, drawn: str | None = None, frame: int | None = None, stem: str = ""
    ) -> None:
        """The detections of the next image; its id is the number of images before it.

        Args:
            drawn: what the drawn picture is called, if there is one. frame: of a video, from 0. stem: as in `Writer`.
        """
        image = {"id": self.images, "file_name": file, "width": found.size[0], "height": found.size[1]}
        image |= {} if frame is None else {"frame": frame}
        image |= {} if drawn is None else {"drawn": drawn}
        for writer in self._writers:
            writer.add(image, found, stem)
        self.images += 1
        self.detections += len(found)


class _Coco:
    def __init__(self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self._results, self._images = (_Text(directory / name) for name in TABLES[:2])
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
        self._results.file.write("[")
        self._images.file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [],\n"images": [')
        self._between = ["", ""]  # before the first

    def add(self, image: dict[str, Any], found: Detections, stem: str) -> None:
        self._images.file.write(f"{self._between[0]}\n{json.dumps(image)}")
        self._between[0] = ","
        for (x0, y0, x1, y1), score, _, category in _rounded(found):
            bbox = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            record = {"image_id": image["id"], "category_id": category, "bbox": bbox, "score": score}
            self._results.file.write(f"{self._between[1]}\n{json.dumps(record)}")
            self._between[1] = ","

    def close(self) -> None:
        with self._images.open, self._results.open:
            self._results.file.write("\n]\n")
            self._images.file.write("\n]}\n")


class _Csv:
    def __init__(self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self._table = _Text(directory / TABLES[2])
        self._rows = csv.writer(self._table.file)
        self._rows.writerow(("file", "frame", "class", "score", "x0", "y0", "x1", "y1"))

    def add(self, image: dict[str, Any], found: Detections, stem: str) -> None:
        for box, score, name, _ in _rounded(found):
            self._rows.writerow(map(cell, (image["file_name"], image.get("frame", ""), name, score, *box)))

    def close(self) -> None:
        self._table.open.close()


class _JsonLines:
    def __init__(
        self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int], live: bool = False
    ) -> None:
        self._lines = _Text(directory / TABLES[3], growing if live else replacing)

    def add(self, image: dict[str, Any], found: Detections, stem: str) -> None:
        rows = [
            {"class": name, "category_id": category, "score": score, "box": box}
            for box, score, name, category in _rounded(found)
        ]
        about: dict[str, Any] = {
            "file": image["file_name"],
            **{key: image[key] for key in ("frame", "width", "height") if key in image},
        }
        self._lines.file.write(json.dumps({**about, "detections": rows}) + "\n")

    def close(self) -> None:
        self._lines.open.close()


WRITERS: dict[str, Callable[[Path, Sequence[str], Sequence[int]], Writer]] = {
    **{"coco": _Coco, "csv": _Csv, "jsonl": _JsonLines},
    **{"yolo": YoloFiles, "voc": VocFiles},
}


class _Text:
    """An open text file, which appears when `open` is left; where it is a growing one, at once."""

    def __init__(self, path: Path, how: Callable[..., AbstractContextManager[IO]] = replacing) -> None:
        self.open = ExitStack()
        self.file = self.open.enter_context(how(path, newline="", encoding="utf-8", errors="backslashreplace"))


def _rounded(found: Detections) -> Iterator[tuple[list[float], float, str, int]]:
    """Box (to a hundredth of a pixel), score, class name and category id of each."""
    boxes = found.boxes.astype(float).round(2).tolist()
    scores = found.scores.astype(float).round(4).tolist()
    yield from zip(boxes, scores, found.class_names, found.category_ids, strict=True)
