"""Where a step of a run can be looked at: the command that runs it again."""

from pathlib import Path

import pytorch_lightning as pl


def advice(trainer: pl.Trainer | None, step: int) -> str:
    """The end of a message on a step that went wrong; nothing where the run keeps no configuration to replay."""
    run_dir = Path(trainer.default_root_dir if trainer else "")
    if trainer is None or not (run_dir / "config.yaml").is_file():
        return ""
    return f". To see which layer or part of the loss it is: ssd300 replay {run_dir} --step {step}"
