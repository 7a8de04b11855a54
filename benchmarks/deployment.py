"""Images per second of a detector in each engine, beside eager PyTorch in float32, on the CPU.

    python benchmarks/deployment.py [--models resnet18 CKPT ...] [--threads 1] [--batch 1 8] [--repeats 5] [--json PATH]

A row is the network with its post-processing on uint8 pictures, or, "from files", all from JPEG files on. Engines take
turns round by round, so that a busy machine slows them alike; the ratio is the median of the rounds'. A model is a
checkpoint, or a backbone with random weights and 80 classes, which finds hardly a box. int8 is calibrated with pictures
of the built-in sample's kind, enough for times; what it costs in mAP says export.py --int8 --data_root.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from side_by_side import Row, median_ratio, report, rounds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coco.augment import normalise
from coco.sample import write_sample
from deployment import onnx, openvino
from deployment.engine import Engine, open_exported, run_detector
from deployment.graph import RawGraph
from deployment.proof import synthetic_pictures
from prediction import Detector
from prediction.devices import fast_precision
from prediction.exported import ExportedDetector, about_of
from ssd_module import SSDModule, load_module

EAGER = "torch float32"
CPU_HAS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def exported(module: SSDModule, directory: Path) -> dict[str, Engine]:
    """The module in every engine, by name."""
    raw, about = RawGraph(module.model), about_of(module, "detections")
    onnx.export(raw, about, directory / "a.onnx")
    openvino.export(raw, about, directory / "a.xml")
    openvino.export(raw, replace(about, numbers="int8"), directory / "b.xml", synthetic_pictures(32, seed=1))
    engines = {
        "ONNX Runtime float32": open_exported(directory / "a.onnx"),
        "OpenVINO float32": open_exported(directory / "a.xml"),
        "OpenVINO int8": open_exported(directory / "b.xml"),
    }
    if fast_precision("cpu") == "bf16-mixed":
        engines["OpenVINO bfloat16"] = open_exported(directory / "a.xml", bf16=True)
        engines["OpenVINO int8, rest bfloat16"] = open_exported(directory / "b.xml", bf16=True)
    return engines


def eager(module: SSDModule, bf16: bool) -> Callable[[torch.Tensor], object]:
    def run(images: torch.Tensor) -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return module.detections(module(normalise(images)), module.hparams.score_threshold)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], help="checkpoints or backbones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    print(f"{args.threads} thread(s); the CPU has {', '.join(name for name in CPU_HAS if name in flags) or '?'}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        write_sample(directory, train_images=8, val_images=1)
        paths = sorted((directory / "train2017").glob("*.jpg"))
        pictures = torch.from_numpy(np.stack(synthetic_pictures(max(args.batch)))).permute(0, 3, 1, 2).contiguous()
        for model in args.models:
            torch.manual_seed(0)
            module = (load_module(model) if Path(model).is_file() else SSDModule(model, 80)).eval()
            rows += rows_of(model, module, directory, pictures, paths, args.batch, args.repeats)
    report(rows, args.json)


def rows_of(model, module, directory, pictures, paths, batches, repeats) -> list[Row]:
    engines = exported(module, directory)
    bf16 = fast_precision("cpu") == "bf16-mixed"
    by_torch = {EAGER: eager(module, False), **({"torch bfloat16": eager(module, True)} if bf16 else {})}
    detectors = {
        EAGER: Detector(module, "cpu"),
        **{n: Detector(ExportedDetector(e), "cpu") for n, e in engines.items()},
    }
    name, rows = Path(model).stem if not Path(model).is_file() else module.hparams.backbone, []
    for batch in batches:
        images, files = pictures[:batch], list(itertools.islice(itertools.cycle(paths), batch))
        networks = {n: (lambda run=run: run(images)) for n, run in by_torch.items()}  # noqa: B023 - called in this turn
        networks |= {n: (lambda e=e: run_detector(e, images)) for n, e in engines.items()}  # noqa: B023
        whole = {n: (lambda d=d: d(files, batch)) for n, d in detectors.items()}  # noqa: B023
        for calls, what in ((networks, ""), (whole, ", from files")):
            times = rounds(calls, repeats)
            rates = {n: batch / statistics.median(values) for n, values in times.items()}
            for n in times.keys() - {EAGER}:
                ratio = median_ratio(times, n, EAGER)
                rows.append(Row(f"{name}, batch {batch}{what}: {n}", rates[n], rates[EAGER], "img/s", ratio))
    return sorted(rows, key=lambda row: (row.name.partition(":")[0], row.ratio))


if __name__ == "__main__":
    main()
