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
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from typing_extensions import override


class DLLogger(Logger):
    """Writes to `path` on the first process, each record at once.

    Args:
        path: the file; its directory is made.
        append: goes on with a file that is there (a resumed run) instead of writing it anew.
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
        numbers = {key.removeprefix("val/"): value for key, value in metrics.items() if key.startswith("val/")}
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
        self._file.write(f"DLLL {json.dumps(record, default=str)}\n")
        self._file.flush()
