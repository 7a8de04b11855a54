"""The arguments of export.py: a checkpoint out of this project, by format; a file appears only once it is proven."""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.compatibility import check_is_ours
from checkpoints.files import is_published, read_checkpoint, write_durably
from checkpoints.published import from_ours
from coco.dataset import EvaluationDataset
from command_line.shared import UsageError, with_home
from datamodule import COCODataModule
from deployment import onnx
from deployment.about import About
from deployment.engine import TorchEngine, open_exported
from deployment.graph import RawGraph
from deployment.proof import prove, synthetic_pictures
from prediction.exported import about_of
from ssd_module import load_module

SUFFIXES = {"onnx": ".onnx", "published": ".pt"}
PROVEN = 16  # pictures


def main(args: Sequence[str] | None = None) -> None:
    """Parses the arguments (those of the process by default), and writes the file.

    Raises:
        CheckpointError: a checkpoint that cannot be read, a file that cannot be written, packages that are missing, an
            export that does not detect what PyTorch does.
        MisconfigurationException: arguments that contradict one another; a checkpoint that has the format already.
    """
    flags = _parse(args)
    try:
        _published(flags) if flags.format == "published" else _exported(flags)
    except OSError as error:
        raise MisconfigurationException(f"--output {flags.output}: cannot be written ({error})") from None


def _published(flags: argparse.Namespace) -> None:
    checkpoint = read_checkpoint(flags.ckpt_path)
    if is_published(checkpoint):
        raise MisconfigurationException(f"--ckpt_path {flags.ckpt_path}: has the published format already")
    check_is_ours(checkpoint, flags.ckpt_path)
    published = from_ours(checkpoint)
    write_durably(published, flags.output)
    trained = f"epoch {published['epoch']}, with the optimiser's state" if "optimizer" in published else "weights alone"
    print(f"{flags.output}: {flags.ckpt_path} in the published format ({trained})")


def _exported(flags: argparse.Namespace) -> None:
    module = load_module(flags.ckpt_path)
    pictures, whose = _pictures(flags)
    digest = hashlib.sha256(flags.ckpt_path.read_bytes()).hexdigest()
    about = about_of(module, "raw" if flags.raw else "detections", flags.batch, digest)
    raw = RawGraph(module.model)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export", dir=flags.output.parent) as directory:
        unproven = Path(directory) / flags.output.name
        onnx.export(raw, about, unproven, flags.opset)
        proof = prove(open_exported(unproven), TorchEngine(raw, about_of(module, "raw")), pictures)
        proof.check(flags.output)
        os.replace(unproven, flags.output)
    print(f"{flags.output}: {flags.ckpt_path} as {flags.format}, {_outputs(about)}")
    print(f"proof beside PyTorch, on {whose}: {proof}")
    if not proof.detections:
        print("without detections this proves little: give --data_root, a data set that the model is for")


def _outputs(about: About) -> str:
    batch = "any number of pictures" if about.batch is None else f"{about.batch} picture(s)"
    what = "raw offsets and logits" if about.form == "raw" else f"detections scoring above {about.thresholds.score:g}"
    return f"{batch} a call, {what}"


def _pictures(flags: argparse.Namespace) -> tuple[list[np.ndarray], str]:
    """Pictures for the proof, uint8 [300, 300, 3], and whose they are."""
    if flags.data_root is None:
        return synthetic_pictures(PROVEN), "synthetic pictures, since there is no --data_root"
    data = COCODataModule(flags.data_root, num_workers=0)
    data.check(("val",))
    dataset = EvaluationDataset(data.val_annotations, data.val_directory)
    count = min(PROVEN, len(dataset))
    samples = (dataset[index] for index in range(count))
    return [sample["image"] for sample in samples if sample], f"the first {count} validation pictures"


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writes a checkpoint in another format.")
    add = parser.add_argument
    add("--ckpt_path", required=True, type=Path, metavar="FILE", help="a checkpoint of ours, or a published .pt file")
    formats = "onnx: one file of standard operators; published: the published recipe's .pt file"
    add("--format", required=True, choices=SUFFIXES, help=formats)
    add("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    add("--raw", action="store_true", help="offsets and logits of a fixed --batch, plain operators, no suppression")
    add("--batch", metavar="N", help="pictures a call: a number, or dynamic (default: dynamic; with --raw 1)")
    add("--opset", type=int, metavar="N", help="of ONNX's operators (default: what torch's exporter writes)")
    add("--data_root", metavar="DIR", help="a data set whose validation pictures the proof runs on")
    flags = parser.parse_args(with_home(sys.argv[1:] if args is None else args))
    _check(flags)
    flags.batch = _batch(flags)
    return flags


def _check(flags: argparse.Namespace) -> None:
    if flags.format == "published":
        if given := [f"--{name}" for name in ("raw", "batch", "opset", "data_root") if getattr(flags, name)]:
            raise UsageError(f"{given[0]}: not with --format published, which has the weights alone")
        return
    if flags.output.suffix != SUFFIXES[flags.format]:
        raise UsageError(f"--output {flags.output}: --format {flags.format} is written to {SUFFIXES[flags.format]}")


def _batch(flags: argparse.Namespace) -> int | None:
    text = flags.batch or ("1" if flags.raw else "dynamic")
    if text == "dynamic":
        if flags.raw:
            raise UsageError("--raw --batch dynamic: raw outputs are for engines of fixed shapes; give a number")
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch {text}: expected a number from 1 on, or dynamic")
    return int(text)
