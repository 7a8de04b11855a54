"""The directory of a run: which one a new run gets."""

import os
from pathlib import Path

from pytorch_lightning.plugins.environments import SLURMEnvironment

from checkpoints.files import CheckpointError


def claim_run_directory(run_dir: Path | None, resumes: bool) -> Path:
    """The run's directory. Processes that Lightning starts for further devices inherit the first one's choice."""
    if os.environ.get("LOCAL_RANK", "0") != "0" and "SSD_RUN_DIR" in os.environ:
        return Path(os.environ["SSD_RUN_DIR"])
    in_slurm = SLURMEnvironment.detect()
    if run_dir is None and in_slurm:
        run_dir = Path("runs") / f"slurm_{os.environ['SLURM_JOB_ID']}"  # the same when the job is requeued
    if run_dir is None:
        numbers = [int(path.name) for path in Path("runs").glob("[0-9]*") if path.name.isdigit()]
        run_dir = Path("runs") / f"{max(numbers, default=0) + 1:04d}"
    elif not resumes and any((run_dir / "checkpoints").glob("*.ckpt")):  # not what a kill left unfinished
        requeued = in_slurm and any(run_dir.glob("hpc_ckpt_*.ckpt"))  # from which Lightning goes on
        if not requeued:
            raise CheckpointError(
                f"--run_dir {run_dir} already holds checkpoints. Resume it with --ckpt_path last, or name another one"
            )
    os.environ["SSD_RUN_DIR"] = str(run_dir)
    return run_dir
