"""CSVLog: what a run logs as one table, which a resumed run goes on with."""

import csv
import io
import math
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from typing_extensions import override

from coco.whole_files import renamed_when_whole, replacing
from training.log_place import ContinuedLogger, LogPlace

TABLE, HPARAMS = "metrics.csv", "hparams.yaml"


class CSVLog(ContinuedLogger):
    """Writes `metrics.csv` in `directory`, on the first process: a row for each record, at once, as what a kill loses
    here a resumed run does not log again. Columns as Lightning's CSVLogger: the metrics, `step`, and `time`, in seconds
    since 1970.

    Lightning's own begins a new table at every start, so that a resumed run's curve is in pieces that overlap, and
    while a column comes new a kill loses the whole table.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.directory = Path(directory)
        self._columns: list[str] = []  # of the table there is; none before this process has looked

    @property
    @override
    def name(self) -> str:
        return self.directory.parent.name

    @property
    @override
    def version(self) -> str:
        return self.directory.name

    @property
    @override
    def log_dir(self) -> str:
        return str(self.directory)

    @property
    def path(self) -> Path:
        return self.directory / TABLE

    @override
    @rank_zero_only
    def begin(self) -> None:
        """The table of an earlier start in this directory is set aside as `metrics_1.csv`, ..."""
        number = 1
        while (aside := self.directory / f"{self.path.stem}_{number}{self.path.suffix}").exists():
            number += 1
        if self.path.exists():
            self.path.rename(aside)
        self._columns = []

    @override
    @rank_zero_only
    def go_on(self, place: LogPlace) -> None:
        columns, rows = self._read()
        kept = [row for row in rows if place.is_before(int(row["step"]), float(row.get("time") or math.inf))]
        if columns:
            self._write(columns, kept)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        save_hparams(self.directory / HPARAMS, params)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        row = {**values, "step": step or 0, "time": round(time.time(), 3)}
        if not self._columns:
            self._columns = self._read()[0]
        if not row.keys() <= set(self._columns):
            columns, rows = self._read()
            self._write(sorted({*columns, *row}), [*rows, row])
            return
        line = io.StringIO()
        csv.DictWriter(line, self._columns).writerow(row)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The whole rows of the table, and its columns; a last line that is cut off is none."""
        if not self.path.exists():
            return [], []
        text = self.path.read_bytes().decode(errors="replace")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        columns = list(reader.fieldnames or [])
        return columns, [row for row in reader if _is_whole(row)]

    def _write(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        with replacing(self.path, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = list(columns)


def table_directory(directory: Path) -> Path:
    """Lightning's name of the first version; of a run that has several, from before it had one table, the last."""
    found = [path for path in directory.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return max(found, key=lambda path: int(path.name.removeprefix("version_")), default=directory / "version_0")


def save_hparams(path: Path, params: Mapping[str, Any] | Namespace) -> None:
    """Lightning's `hparams.yaml`, whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with renamed_when_whole(path, path.with_name(f".{path.name}.part")) as part:
        save_hparams_to_yaml(part, dict(params) if isinstance(params, Mapping) else params)


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """Whether the line has a value for each column, and a step."""
    return None not in row and None not in row.values() and str(row.get("step")).isdigit()
