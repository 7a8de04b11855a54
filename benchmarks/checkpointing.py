"""What a checkpoint costs: seconds and bytes of a ResNet-50 run's, and the share of training that waits for it.

python benchmarks/checkpointing.py
python benchmarks/checkpointing.py --directory /data/runs --step_ms 100 --every_n_steps 100 --json cost.json

Ours (durable, in the background and not) beside Lightning's own TorchCheckpointIO. "wait" is the time until training
goes on; it is related to `every_n_steps` steps of `step_ms`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from checkpoints.durable_io import DurableCheckpointIO
from ssd.parameters import parameter_groups
from ssd_module import SSDModule


def main() -> None:
    args = parse_args()
    checkpoint = resnet50_checkpoint()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        peers = {
            "Lightning's TorchCheckpointIO": TorchCheckpointIO(),
            "durable, waiting": DurableCheckpointIO(background=False),
            "durable, in the background": DurableCheckpointIO(),
        }
        rows = []
        waits: dict[str, list[float]] = {name: [] for name in peers}
        totals: dict[str, list[float]] = {name: [] for name in peers}
        for round in range(args.rounds):
            for name, peer in peers.items():
                path = Path(directory) / f"{name.split()[-1]}.ckpt"
                start = time.perf_counter()
                peer.save_checkpoint(checkpoint, path)
                waits[name].append(time.perf_counter() - start)
                # What training would do meanwhile; the next save must not find this one still being written.
                peer.teardown()
                totals[name].append(time.perf_counter() - start)
            print(f"round {round + 1} of {args.rounds}", file=sys.stderr)
        size = path.stat().st_size
    interval = args.every_n_steps * args.step_ms / 1000
    for name in peers:
        wait = statistics.median(waits[name])
        rows.append(
            {"name": name, "wait_s": wait, "on_disk_s": statistics.median(totals[name]), "overhead": wait / interval}
        )
    print(f"ResNet-50 checkpoint: {size / 2**20:.0f} MiB; one every {interval:g} s of training; {args.directory}")
    print(f"| {'':30} | wait | until on disk | training waits |")
    print("|---|---|---|---|")
    for row in rows:
        print(f"| {row['name']:30} | {row['wait_s']:.3f} s | {row['on_disk_s']:.3f} s | {row['overhead']:.1%} |")
    if args.json:
        args.json.write_text(json.dumps({"bytes": size, "interval_s": interval, "rows": rows}, indent=1))


def resnet50_checkpoint() -> dict:
    """Weights and momentum of SSD300 with ResNet-50 and COCO's classes."""
    module = SSDModule(backbone="resnet50")
    optimizer = torch.optim.SGD(parameter_groups(module.model, 5e-4), lr=1e-3, momentum=0.9)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("."), help="on the file system to measure")
    parser.add_argument("--step_ms", type=float, default=100)
    parser.add_argument("--every_n_steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
