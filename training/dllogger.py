"""DLLogger: a Lightning logger that writes the published recipe's log, one `DLLL {...}` line of JSON per record.

    trainer:
      logger:
        class_path: training.dllogger.DLLogger
        init_args: {path: log.json}

Records (`step` tells which): "PARAMETER", the settings; [epoch, iteration], `loss`; [epoch], `mAP` and COCO's other
numbers after a validation, `time` of an epoch's training in seconds; [], the summary: `total time`, last `mAP`. The
format is that of NVIDIA's dllogger, JSONStreamBackend.
"""

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from coco.whole_files import write_text
from training.log_place import ContinuedLogger, LogPlace

START = "DLLL "


class DLLogger(ContinuedLogger):
    """Writes to `path` on the first process, each record at once.

    Args:
        path: the file; its directory is made.
        append: goes on with a file that is there instead of writing it anew. On resume it always goes on.
        parameters: further entries of the PARAMETER record, beside the module's hyperparameters.
    """

    def __init__(self, path: str | Path, append: bool = False, parameters: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.append = append
        self.parameters = dict(parameters or {})
        self._start = datetime.now()
        self._file: TextIO | None = None
        self._summary: dict[str, float] = {}
        self._seconds = 0.0

    @property
    @override
    def name(self) -> str:
        return "dllogger"

    @property
    @override
    def version(self) -> str:
        return ""

    @override
    def begin(self) -> None:
        """The first record writes the file anew, or goes on with it."""

    @override
    @rank_zero_only
    def go_on(self, place: LogPlace) -> None:
        """Also leaves out earlier starts' summaries, and counts their epochs' time in this one's."""
        if self._file is not None:
            self._file.close()
            self._file = None
        kept = [record for record in _read(self.path) if _is_before(record, place)]
        self._seconds = sum(record["data"].get("time", 0.0) for record in kept if record["type"] == "LOG")
        write_text(self.path, "".join(f"{START}{json.dumps(record)}\n" for record in kept))
        self._file, self.append = open(self.path, "a", encoding="utf-8"), True  # noqa: SIM115

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        settings = vars(params) if isinstance(params, Namespace) else params
        self.log("PARAMETER", {**self.parameters, **settings})

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        epoch = int(metrics.get("epoch", 0))
        if "train/loss_step" in metrics:
            self.log((epoch, step), {"loss": metrics["train/loss_step"]})
        if "train/epoch_seconds" in metrics:
            self._seconds += metrics["train/epoch_seconds"]
            self.log((epoch,), {"time": metrics["train/epoch_seconds"]})
        # The recipe has no loss of the validation: its `loss` is that of a step.
        numbers = {key.removeprefix("val/"): value for key, value in metrics.items() if key.startswith("val/")}
        numbers.pop("loss", None)
        if "mAP" in numbers:
            self._summary = {"mAP": numbers["mAP"]}
            self.log((epoch,), numbers)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is None:
            return
        self.log((), {"total time": self._seconds})
        self.log((), self._summary)
        self._file.close()
        self._file, self.append = None, True

    @rank_zero_only
    def log(self, step: str | Sequence[int | None], data: Mapping[str, Any]) -> None:
        """Writes a record of your own."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.append:
                _cut_half_line(self.path)
            self._file = open(self.path, "a" if self.append else "w", encoding="utf-8")  # noqa: SIM115
            self._write("METADATA", metric="mAP", metadata={"unit": None})
        self._write("LOG", step=step, data=dict(data))

    def _write(self, kind: str, **content: Any) -> None:
        now = datetime.now()
        record = {
            "timestamp": str(now.timestamp()),
            "datetime": str(now.astimezone()),
            "elapsedtime": str((now - self._start).total_seconds()),
            "type": kind,
            **content,
        }
        assert self._file is not None  # opened above
        self._file.write(f"{START}{json.dumps(record, default=str)}\n")
        self._file.flush()


def _cut_half_line(path: Path) -> None:
    """What a kill left behind the last whole line goes."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def _read(path: Path) -> list[dict[str, Any]]:
    """The records of a file; lines that are none are left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line.removeprefix(START))
            float(record["timestamp"]), record["type"], record.get("data", {}).get("time")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        records.append(record)
    return records


def _is_before(record: dict[str, Any], place: LogPlace) -> bool:
    step, time = record.get("step"), float(record["timestamp"])
    if not isinstance(step, list):  # METADATA, PARAMETER
        return True
    if not step:  # a summary
        return False
    return place.epoch_is_before(step[0], time) if len(step) == 1 else place.is_before(step[1], time)
