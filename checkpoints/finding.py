"""Which checkpoint a run goes on from: what `--ckpt_path` means."""

import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from checkpoints.fetching import local_file
from checkpoints.files import CheckpointError, is_published, read_checkpoint, read_step
from checkpoints.finite import check_finite
from checkpoints.published import missing_for_training


def resume_path(ckpt_path: str | None, run_dir: Path | None) -> Path | None:
    """What `--ckpt_path` means: a path, or what is fetched (fetching.py); `last`, the newest readable checkpoint of the
    run directory; `auto`, the same, or None for a fresh start where there is none yet. None means None.

    The newest is that of the latest optimiser step; times change when files are copied. Of several of one step those
    that are there to resume from (last.ckpt, SLURM's) come first: another may have been saved after a validation whose
    numbers were not logged yet.

    Raises:
        CheckpointError: nothing there to resume from, with what was found instead.
    """
    if ckpt_path is None:
        return None
    if ckpt_path not in ("last", "auto"):
        path = local_file(ckpt_path)
        if not path.is_file():
            raise CheckpointError(f"--ckpt_path {ckpt_path}: no such file (or use `last` or `auto` with --run_dir)")
        checkpoint = read_checkpoint(path)
        if is_published(checkpoint) and (missing := missing_for_training(checkpoint)):
            raise CheckpointError(
                f"--ckpt_path {ckpt_path}: no training to go on with, it has no {', '.join(missing)}. Its weights can "
                f"be evaluated, and training can start from them: --finetune_from {ckpt_path}"
            )
        if not _can_go_on(checkpoint):
            weights = f"; training can start from its weights: --finetune_from {ckpt_path}"
            raise CheckpointError(
                f"--ckpt_path {ckpt_path}: no run to resume in it, neither of this project nor of the published recipe "
                f"(it has {', '.join(map(str, checkpoint))[:200]}){weights if 'state_dict' in checkpoint else ''}"
            )
        check_finite(checkpoint, ckpt_path)
        return path
    if run_dir is None:
        raise CheckpointError(f"--ckpt_path {ckpt_path} looks in a run directory: give it with --run_dir DIR")
    found = [*(run_dir / "checkpoints").glob("*.ckpt"), *run_dir.glob("hpc_ckpt_*.ckpt")]  # the latter by SLURM requeue
    for step, _, _, path in sorted(map(_age, found), reverse=True):
        try:
            checkpoint = read_checkpoint(path)
            check_finite(checkpoint, path)
            if _can_go_on(checkpoint):
                at = f", after optimiser step {step}" if step >= 0 else ""
                rank_zero_info(f"--ckpt_path {ckpt_path}: {path}{at}, is the newest of {len(found)}")
                return path
            reason = "holds no run to resume"
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{path}: ")
        rank_zero_warn(f"--ckpt_path {ckpt_path}: passing over {path} ({reason})")
    if ckpt_path == "auto" and not found:
        rank_zero_info(f"--ckpt_path auto: no checkpoint in {run_dir}, starting fresh")
        return None
    names = ", ".join(sorted(path.name for path in found)[:5])
    raise CheckpointError(
        f"--ckpt_path {ckpt_path}: no readable checkpoint in {run_dir / 'checkpoints'} "
        f"({f'found {names}' if found else 'there are none'}). Give the path of a checkpoint"
        + ("" if found else ", or use --ckpt_path auto to start fresh where there is none")
    )


def _age(path: Path) -> tuple[int, bool, int, Path]:
    """Greater for what to resume from rather; one that cannot be read comes first, to be told of."""
    try:
        step = read_step(path)
    except CheckpointError:
        step = sys.maxsize
    return step, path.name == "last.ckpt" or path.name.startswith("hpc_ckpt_"), path.stat().st_mtime_ns, path


def _can_go_on(checkpoint: dict[str, Any]) -> bool:
    ours = "state_dict" in checkpoint and "optimizer_states" in checkpoint
    return ours or (is_published(checkpoint) and not missing_for_training(checkpoint))
