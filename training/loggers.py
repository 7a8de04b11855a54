"""`--log_to`: loggers by name, beside a run's own; what they write to files is in the run directory."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from training.dllogger import DLLogger

PACKAGES = {"dllogger": None, "mlflow": "mlflow", "wandb": "wandb"}
PROJECT = "ssd300"  # of runs whose environment names no other


def check_log_to(names: Sequence[str]) -> None:
    """Raises MisconfigurationException for an unknown logger, and for one whose package is not here."""
    for name in names:
        if name not in PACKAGES:
            raise MisconfigurationException(
                f"--log_to {name}: expected one of {', '.join(PACKAGES)}. Any other Lightning logger: --trainer.logger"
            )
        package = PACKAGES[name]
        if package and not _is_installed(package):
            raise MisconfigurationException(
                f"--log_to {name}: the package {package} is not here. Install it with: pip install {package}"
            )


def further_loggers(names: Sequence[str], run_dir: Path) -> list[Logger]:
    """Each name's logger, once. W&B and MLflow heed their own environment variables."""
    logs = run_dir / "logs"
    found: list[Logger] = []
    for name in dict.fromkeys(names):
        if name == "dllogger":
            found.append(DLLogger(logs / "dllogger.json"))
        elif name == "wandb":
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            found.append(WandbLogger(run_dir.name, str(logs), project=project))
        else:
            # MLflow's own default; its plain files are no longer maintained.
            place = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{logs / 'mlflow.db'}")
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found.append(MLFlowLogger(experiment, run_dir.name, place))
    return found


def _is_installed(package: str) -> bool:
    """A folder of that name, as W&B makes one, is no package."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None
