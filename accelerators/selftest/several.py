"""The checks for several devices, and the script that each of their processes runs.

python -m accelerators.selftest.several ACCELERATOR DEVICES BATCH [LOST_RANK]
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from .checks import Check, Found, NotPossible, Setting, Wrong
from .tiny import Tiny, tiny_data, trainer, weights

MARK = "\x1f"  # begins a line in which a rank tells what it has
SAMPLES = 64
LOST_LIMIT = 240.0  # seconds, of which the group's timeout is 60


def same_weights(setting: Setting) -> Found:
    """All ranks end with the same weights, and with those of one device and the same global batch."""
    _needs_several(setting)
    batch = SAMPLES // setting.devices // 4
    many = _told(_run(setting, setting.devices, batch), setting.devices)
    if len({rank["digest"] for rank in many}) > 1:
        raise Wrong(f"after {many[0]['steps']} steps the ranks hold different weights", {"ranks": many})
    (one,) = _told(_run(setting, 1, batch * setting.devices), 1)
    ours, alone = (torch.tensor(rank["weights"]) for rank in (many[0], one))
    apart = float((ours - alone).abs().max() / alone.abs().max())
    if not apart <= 0.02:
        raise Wrong(f"{setting.devices} devices' weights differ from one's by {apart:.2g} of the largest")
    words = f"the same on {setting.devices} ranks after {many[0]['steps']} steps over {many[0]['group']}"
    return Found(f"{words}; from one device's by {apart:.2g}", {"relative": apart})


def lost_rank(setting: Setting) -> Found:
    """When one rank is killed, the others end."""
    _needs_several(setting)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        _start(setting, setting.devices, 2, setting.devices - 1, LOCAL_RANK=str(rank), MASTER_PORT=port)
        for rank in range(setting.devices)
    ]
    left = ranks[:-1]
    try:
        status = ranks[-1].wait(LOST_LIMIT)
        for process in left:
            process.wait(LOST_LIMIT)
    except subprocess.TimeoutExpired:
        raise Wrong(f"one of {setting.devices} ranks was killed: after {LOST_LIMIT:.0f} s others still wait") from None
    finally:
        for process in ranks:
            with suppress(ProcessLookupError):
                process.kill()
            print(process.communicate()[0][-2000:])
    if status != -signal.SIGKILL or any(process.returncode == 0 for process in left):
        codes = [process.returncode for process in ranks]
        raise Wrong(f"the last rank was to die at step 3, and the others to notice: the exit codes are {codes}")
    return Found(f"the others ended with exit code {left[0].returncode}")


def _needs_several(setting: Setting) -> None:
    if setting.devices < 2:
        raise NotPossible("needs --devices 2 or more")


def _run(setting: Setting, devices: int, batch: int) -> str:
    child = _start(setting, devices, batch)
    output = child.communicate()[0]
    print(output[-4000:])
    if child.returncode:
        raise Wrong(f"training on {devices} device(s) ended with exit code {child.returncode}")
    return output


def _start(setting: Setting, devices: int, batch: int, lost: int | None = None, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-m", __name__, setting.accelerator, str(devices), str(batch)]
    together = {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0"} if env else {}
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    return subprocess.Popen(
        [*command, *([] if lost is None else [str(lost)])], env={**os.environ, **together, **env}, **pipe
    )


def _told(output: str, ranks: int) -> list[dict[str, Any]]:
    # Ranks share the pipe: what one tells may be followed by another's on the same line.
    told = [json.JSONDecoder().raw_decode(part)[0] for part in output.split(MARK)[1:]]
    if len(told) != ranks:
        raise Wrong(f"{len(told)} of {ranks} ranks trained to the end")
    return sorted(told, key=lambda rank: rank["rank"])


class _Rank(Tiny):
    """Tells what it has when training ends; the lost one kills itself in its third step."""

    def __init__(self, lost: int | None) -> None:
        torch.manual_seed(0)
        super().__init__(batch_norm=False)
        self.lost = lost

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 2 and self.lost == self.global_rank:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)  # Adam would make much of a rounding

    def on_train_end(self) -> None:
        found = weights(self)
        rank = {
            "rank": self.global_rank,
            "digest": hashlib.sha256(found.numpy().tobytes()).hexdigest(),
            "steps": self.trainer.global_step,
            "group": torch.distributed.get_backend() if torch.distributed.is_initialized() else None,
            "weights": found[::20].tolist(),  # as many as a pipe takes in one piece
        }
        print(f"{MARK}{json.dumps(rank)}", flush=True)


def main() -> None:
    accelerator, devices, batch, *lost = sys.argv[1:]
    model = _Rank(int(lost[0]) if lost else None)
    run = trainer(accelerator, int(devices), use_distributed_sampler=True)
    run.fit(model, _in_order(tiny_data(SAMPLES, int(batch)), run))


def _in_order(loader: torch.utils.data.DataLoader, run: Any) -> torch.utils.data.DataLoader:
    """Lightning would shuffle."""
    if run.world_size == 1:
        return loader
    sampler: Any = torch.utils.data.DistributedSampler(loader.dataset, run.world_size, run.global_rank, shuffle=False)
    return torch.utils.data.DataLoader(loader.dataset, batch_size=loader.batch_size, sampler=sampler)


CHECKS = (
    Check("several devices, the same weights", same_weights, limit=600),
    Check("several devices, one lost", lost_rank, limit=600),
)

if __name__ == "__main__":
    main()
