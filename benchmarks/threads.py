"""Training on a CPU whose cores others use too: images per second by how threads wait for one another.

    python benchmarks/threads.py [--busy 1] [--rounds 5] [--json PATH]

Each way is a process of its own, in turn; --busy pins so many loops to cores of their own meanwhile (0: what waiting
costs on an idle machine). "ours" is what the doors set (command_line/start.py), the peers other ways. Linux only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import Row, median_ratio, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from command_line.start import THREADS

WAYS = {
    "ours": THREADS,
    "OpenMP's own: spinning": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BATCH = 8


def images_per_second(seconds: float) -> float:
    """Of whole training steps, ResNet-18, in what `--precision auto` is here."""
    import torch  # not before the environment of this process is known to be the way's

    from prediction.devices import fast_precision
    from ssd_module import SSDModule

    module = SSDModule("resnet18", 4).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-5)
    images, boxes = torch.randn(BATCH, 3, 300, 300), torch.tensor([[0.1, 0.1, 0.6, 0.7]]).expand(BATCH, 1, 4)
    labels = torch.ones(BATCH, 1, dtype=torch.int64)
    done, start = -1, 0.0
    while done < 1 or time.perf_counter() - start < seconds:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_precision("cpu") == "bf16-mixed"):
            loss = sum(module.loss_of_boxes(module.loss, *module(images), boxes, labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        start = start or time.perf_counter()  # after the first
        done += 1
    return BATCH * done / (time.perf_counter() - start)


def measured(way: dict[str, str], seconds: float) -> float:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--steps_for", str(seconds)]
    return float(subprocess.run(command, env={**clean, **way}, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, help="loops, each on a core of its own")
    parser.add_argument("--seconds", type=float, default=15.0, help="of steps, each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps_for", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps_for:
        print(images_per_second(args.steps_for))
        return
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, {args.busy} loops beside")
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.busy)]
    try:
        for core, loop in zip(sorted(os.sched_getaffinity(0), reverse=True), loops, strict=False):
            os.sched_setaffinity(loop.pid, {core})
        rates: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(args.rounds):
            for name, way in WAYS.items():
                rates[name].append(measured(way, args.seconds))
                print(f"{name}: {rates[name][-1]:.2f} images/s", flush=True)
    finally:
        for loop in loops:
            loop.kill()
    ours = statistics.median(rates["ours"])
    peers = [name for name in WAYS if name != "ours"]
    rows = [Row(n, ours, statistics.median(rates[n]), "img/s", median_ratio(rates, n, "ours")) for n in peers]
    report(rows, args.json)


if __name__ == "__main__":
    main()
