"""Serves a page on this machine: drop pictures or a video, see what a detector finds.

ssd300 demo runs/0001/checkpoints/best.ckpt
"""

import argparse
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.sample_pictures import draw_picture
from coco.whole_files import replacing
from command_line.quiet import quieten
from command_line.shared import with_home
from prediction.demo import require
from prediction.demo_page import launch, make_page
from prediction.detector import Detector
from prediction.devices import PRECISIONS

HERE, FIRST_PORT = "127.0.0.1", 7860
EXAMPLES, SEED = 6, 300


def main(args: Sequence[str] | None = None) -> None:
    """Serves until it is interrupted.

    Raises:
        MisconfigurationException: no checkpoint, device, package or port; CheckpointError: no usable checkpoint.
    """
    flags = _parse(args)
    require()
    quieten()
    checkpoint = flags.ckpt_path or _newest(Path("runs"))
    detector = Detector(checkpoint, flags.accelerator, flags.devices, flags.precision)
    with tempfile.TemporaryDirectory(prefix="ssd300_demo_") as directory:
        examples = _examples(Path(directory) / "examples")
        page = make_page(detector, str(checkpoint), examples, Path(directory))
        print(f"the page is at {launch(page, flags.host, flags.port)} until Ctrl-C", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close()


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ssd300 demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    which = "checkpoint of ours, a published .pt file, or an exported file (default: best.ckpt of the newest run)"
    add("ckpt_path", nargs="?", metavar="CKPT", help=which)
    add("--accelerator", default="auto", help="cpu, cuda, mlu, or auto: the best there is (default)")
    add("--devices", default="1", metavar="N", help="one device: 1, or an ordinal with a comma: 2,")
    add("--precision", choices=PRECISIONS, help="default: 32-true; auto: bf16-mixed where the device has it")
    add("--host", default=HERE, help="address to listen on (default: this machine alone; 0.0.0.0: its whole network)")
    add("--port", type=int, metavar="N", help=f"default: the first free one from {FIRST_PORT}")
    return parser.parse_args(None if args is None else with_home(args))


def _newest(runs: Path) -> Path:
    """The best checkpoint of the run that was trained last."""
    found = [path for path in runs.glob("*/checkpoints/best.ckpt") if path.is_file()]
    if not found:
        raise MisconfigurationException(
            f"no checkpoint is named, and there is none below {runs}/. Train one in minutes: `make demo`, or `ssd300 "
            "train --config demo --data_root data/sample`; or name one: `ssd300 demo CKPT`"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _examples(directory: Path) -> list[Path]:
    """Pictures of the built-in sample, of a seed that no training has seen."""
    paths = [directory / f"sample_{number}.jpg" for number in range(1, EXAMPLES + 1)]
    for number, path in enumerate(paths):
        with replacing(path, durable=False) as file:
            draw_picture(np.random.default_rng([SEED, number]))[0].save(file, format="JPEG", quality=90)
    return paths
