"""The directory of a run: which one a new run gets, and that one process at a time works in it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.plugins.environments import SLURMEnvironment

from checkpoints.files import CheckpointError
from coco.whole_files import is_alive, write_text
from training.stop_signals import is_first_rank

LOCK, HOLDER = ".run.lock", ".run.holder.json"
# Seconds. The workers of a killed process hold its lock until they notice that it is gone: torch looks every 5 s.
PATIENCE = 12.0


def claim_run_directory(run_dir: Path | None, resumes: bool) -> Path:
    """The run's directory. Processes that Lightning starts for further devices inherit the first one's choice.

    Raises:
        CheckpointError: it holds the checkpoints of a run that is not to be resumed; runs/ cannot be written.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0" and "SSD_RUN_DIR" in os.environ:
        return Path(os.environ["SSD_RUN_DIR"])
    in_slurm = SLURMEnvironment.detect()
    if run_dir is None and in_slurm:
        run_dir = Path("runs") / f"slurm_{os.environ['SLURM_JOB_ID']}"  # the same when the job is requeued
    if run_dir is None:
        run_dir = _next_number(Path("runs"))
    elif not resumes and any((run_dir / "checkpoints").glob("*.ckpt")):  # not what a kill left unfinished
        requeued = in_slurm and any(run_dir.glob("hpc_ckpt_*.ckpt"))  # from which Lightning goes on
        if not requeued:
            raise CheckpointError(
                f"--run_dir {run_dir} already holds checkpoints. Resume it with --ckpt_path last, or name another one"
            )
    os.environ["SSD_RUN_DIR"] = str(run_dir)
    return run_dir


def give_back(run_dir: Path) -> None:
    """Takes away the directory of a start that was refused after it had claimed it, unless there is something in it."""
    with suppress(OSError):
        run_dir.rmdir()


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """While one process of a run works in its directory, the start of another run in it is refused.

    The system drops the lock when its holder dies, however it dies. On a network file system it holds as far as that
    supports `flock`: between machines NFS from version 4 on does, others may not. Only the first process of a run takes
    it; the others belong to it.

    Raises:
        CheckpointError: another process works in it; the message names the process. It cannot be written.
    """
    if not is_first_rank() or os.environ.get("NODE_RANK", "0") != "0":
        yield
        return
    lock = FileLock(run_dir / LOCK)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0 if _holder_lives(run_dir) else PATIENCE, poll_interval=0.2)
    except Timeout:
        raise CheckpointError(
            f"--run_dir {run_dir}: {_holder(run_dir)} works in it. Wait for it or stop it, or name another directory"
        ) from None
    except OSError as error:
        raise CheckpointError(f"--run_dir {run_dir}: cannot be written ({error.strerror})") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_text(run_dir / HOLDER, json.dumps(holder))
        yield
    finally:
        (run_dir / HOLDER).unlink(missing_ok=True)
        lock.release()


def _next_number(runs: Path) -> Path:
    """A new directory below `runs`; two processes that ask at the same moment get two."""
    while True:
        numbers = [int(path.name) for path in runs.glob("[0-9]*") if path.name.isdigit()]
        run_dir = runs / f"{max(numbers, default=0) + 1:04d}"
        try:
            run_dir.mkdir(parents=True)
            return run_dir
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(f"{run_dir}: cannot be made ({error.strerror}); name one with --run_dir") from None


def _read_holder(run_dir: Path) -> dict:
    try:
        found = json.loads((run_dir / HOLDER).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _holder(run_dir: Path) -> str:
    found = _read_holder(run_dir)
    if not found:
        return "another process"
    return f"process {found.get('pid')} on {found.get('host')}, since {found.get('since')},"


def _holder_lives(run_dir: Path) -> bool:
    """Whether the process that took the lock last is known to run; then there is nothing to wait for."""
    found = _read_holder(run_dir)
    return found.get("host") == socket.gethostname() and is_alive(str(found.get("pid")))
