"""The arguments of export.py: a checkpoint out of this project, by format; a file appears only once it is proven."""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints import safe_weights
from checkpoints.compatibility import check_is_ours, selection_of
from checkpoints.fetching import FETCHED, local_file
from checkpoints.files import CheckpointError, is_published, read_checkpoint, read_outline, write_durably
from checkpoints.operating_point import KEY, saved_form
from checkpoints.published import from_ours
from coco.dataset import EvaluationDataset
from command_line.shared import UsageError, with_home, with_selection_of
from datamodule import COCODataModule
from deployment import onnx, openvino, torch_export
from deployment.about import About
from deployment.engine import TorchEngine, open_exported
from deployment.graph import RawGraph
from deployment.magicmind_kit import write_kit
from deployment.proof import EXACT, HALVED, QUANTISED, prove, synthetic_pictures
from prediction.detector import open_picture, prepare
from prediction.exported import ExportedDetector, about_of
from prediction.inputs import find_inputs
from ssd_module import load_module
from training.detecting import DetectingModule

SUFFIXES = {
    **{"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2", "magicmind_kit": ""},
    **{"published": ".pt", "safetensors": ".safetensors"},
}
WEIGHTS = ("published", "safetensors")  # checkpoints, of the same weights
PROVEN = 16  # pictures
CALIBRATION = 100  # pictures
# Flag -> the formats that have it; those not named have all but `WEIGHTS`.
OF_FORMATS = {
    "opset": ("onnx",),
    "raw": ("onnx", "openvino"),  # a kit is raw
    "int8": ("openvino",),
    "fp16": ("openvino",),
    "calibrate": ("openvino", "magicmind_kit"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Parses the arguments (those of the process by default), and writes the file.

    Raises:
        CheckpointError: a checkpoint that cannot be read, a file that cannot be written, packages that are missing, an
            export that does not detect what PyTorch does.
        MisconfigurationException: arguments that contradict one another; a checkpoint that has the format already.
    """
    flags = _parse(args)
    flags.ckpt_path = local_file(flags.ckpt_path)
    try:
        {"published": _published, "safetensors": _safetensors}.get(flags.format, _exported)(flags)
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


def _safetensors(flags: argparse.Namespace) -> None:
    module = load_module(flags.ckpt_path)
    point, selection = module.operating_point, selection_of(read_outline(flags.ckpt_path))
    checkpoint = {
        **{"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)},
        **({KEY: saved_form(point)} if point else {}),
        **({"COCODataModule": {"selection": selection}} if selection else {}),
    }
    write_durably(checkpoint, flags.output, safe_weights.save)
    print(f"{flags.output}: the weights of {flags.ckpt_path} as safetensors")


def _exported(flags: argparse.Namespace) -> None:
    module = load_module(flags.ckpt_path).eval()
    data = _data(flags)
    calibration, names = _drawn(flags.calibrate) if flags.calibrate else ([], [])
    pictures, whose = _pictures(data, calibration)
    digest = hashlib.sha256(flags.ckpt_path.read_bytes()).hexdigest()
    numbers = "int8" if flags.int8 else "float16" if flags.fp16 else "float32"
    about = about_of(module, "raw" if flags.raw else "detections", flags.batch, digest, numbers)
    about = replace(about, selection=selection_of(read_outline(flags.ckpt_path)))
    raw = RawGraph(module.model)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export", dir=flags.output.parent) as directory:
        unproven = Path(directory) / flags.output.name
        opened = unproven
        if flags.format == "onnx":
            onnx.export(raw, about, unproven, flags.opset)
        elif flags.format == "openvino":
            openvino.export(raw, about, unproven, calibration)
        elif flags.format == "torch_export":
            torch_export.export(raw, about, unproven)
        else:
            write_kit(raw, about, unproven, calibration, names)
            opened = unproven / "model.onnx"
        bounds = {"int8": QUANTISED, "float16": HALVED, "float32": EXACT}[numbers]
        is_pt2 = flags.format == "torch_export"
        engine = torch_export.JustExported(unproven, about) if is_pt2 else open_exported(opened)
        reference = TorchEngine(raw, about_of(module, "raw"))
        proof = prove(engine, reference, pictures, bounds)
        print(f"proof beside PyTorch, on {whose}: {proof}")
        proof.check(flags.output)
        if not proof.detections:
            print("without detections this proves little: give --data_root, a data set that the model is for")
        if data is not None:
            _compare_precision(flags, module, ExportedDetector(engine), data)
        del engine  # which may hold its files
        for path in sorted(Path(directory).iterdir()):  # the .bin before the .xml
            os.replace(path, flags.output.with_name(path.name))
    print(f"{flags.output}: {flags.ckpt_path} as {flags.format}, {numbers}, {_outputs(about)}")


def _compare_precision(
    flags: argparse.Namespace, module: DetectingModule, exported: DetectingModule, data: COCODataModule
) -> None:
    """Prints both mAPs; raises CheckpointError where an int8 export loses more than `--accuracy_drop`."""
    quiet = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    trainer = pl.Trainer(accelerator="cpu", devices=1, **dict.fromkeys(quiet, False))
    for each in (module, exported):
        trainer.validate(each, data, verbose=False)
    ours, theirs = module.numbers["mAP"], exported.numbers["mAP"]
    images = data.val_limit or len(data.val_annotations)
    print(f"mAP on {images} images: PyTorch {ours:.4f}, exported {theirs:.4f}")
    if flags.int8 and ours - theirs > flags.accuracy_drop:
        raise CheckpointError(
            f"{flags.output}: int8 loses {ours - theirs:.4f} mAP, more than --accuracy_drop {flags.accuracy_drop:g}. "
            "Calibrate with more pictures of the kind that it will see, allow more, or leave --int8 out"
        )


def _outputs(about: About) -> str:
    batch = "any number of pictures" if about.batch is None else f"{about.batch} picture(s)"
    what = "raw offsets and logits" if about.form == "raw" else f"detections scoring above {about.thresholds.score:g}"
    return f"{batch} a call, {what}"


def _data(flags: argparse.Namespace) -> COCODataModule | None:
    if flags.data_root is None:
        return None
    chosen = with_selection_of(flags.ckpt_path, {"data_root": flags.data_root})
    data = COCODataModule(**chosen, num_workers=0, batch_size=8, val_limit=flags.limit)
    data.check(("val",))
    return data


def _pictures(data: COCODataModule | None, calibration: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Pictures for the proof, uint8 [300, 300, 3], and whose they are."""
    if data is not None:
        dataset = EvaluationDataset(data.val_annotations, data.val_directory)
        samples = (dataset[index] for index in range(min(PROVEN, len(dataset))))
        pictures = [sample["image"] for sample in samples if sample]
        return pictures, f"the first {len(pictures)} validation pictures"
    if calibration:
        pictures = calibration[:PROVEN]
        return pictures, f"{len(pictures)} of the calibration's pictures"
    return synthetic_pictures(PROVEN), "synthetic pictures, since there is no --data_root"


def _drawn(directory: Path) -> tuple[list[np.ndarray], list[str]]:
    """`CALIBRATION` pictures of a directory, drawn with a seed, uint8 [300, 300, 3]; and their files' names.

    Raises:
        MisconfigurationException: there are none. ImageError: one that cannot be read.
    """
    paths = [each.path for each in find_inputs([str(directory)], directory / "no output").inputs if not each.is_video]
    if not paths:
        raise MisconfigurationException(f"--calibrate {directory}: no pictures there")
    chosen = [paths[index] for index in sorted(np.random.default_rng(0).permutation(len(paths))[:CALIBRATION])]
    return [prepare(open_picture(path))["image"] for path in chosen], [str(path) for path in chosen]


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writes a checkpoint in another format.")
    add = parser.add_argument
    add("--ckpt_path", required=True, metavar="FILE", help=f"a checkpoint of ours, or a published .pt file; {FETCHED}")
    formats = (
        "onnx: one file of standard operators; openvino: .xml and .bin; torch_export: .pt2, raw; magicmind_kit: a "
        "directory; published: .pt; safetensors: weights that no reader can take for code"
    )
    add("--format", required=True, choices=SUFFIXES, help=formats)
    add("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    add("--raw", action="store_true", help="offsets and logits of a fixed --batch, plain operators, no suppression")
    add("--batch", metavar="N", help="pictures a call: a number, or dynamic (default: dynamic; with --raw 1)")
    add("--opset", type=int, metavar="N", help="of ONNX's operators (default: what torch's exporter writes)")
    add("--fp16", action="store_true", help="keep weights in 16 bits: half the file; openvino")
    add("--int8", action="store_true", help="quantise the network; needs --calibrate, and openvino")
    add("--calibrate", type=Path, metavar="DIR", help=f"pictures, of which {CALIBRATION} calibrate int8")
    drop = "most mAP that int8 may lose on --data_root, else there is no file (default: 0.005)"
    add("--accuracy_drop", type=float, default=0.005, metavar="D", help=drop)
    add(
        "--data_root",
        metavar="DIR",
        help="a data set, or its yaml: the proof runs on its validation pictures, and both mAPs are said",
    )
    add("--limit", type=int, metavar="N", help="its first N validation images only")
    flags = parser.parse_args(with_home(sys.argv[1:] if args is None else args))
    _check(flags)
    flags.batch = _batch(flags)
    flags.raw = flags.raw or flags.format == "torch_export"
    return flags


def _check(flags: argparse.Namespace) -> None:
    given = [
        name for name in ("raw", "batch", "opset", "fp16", "int8", "calibrate", "data_root") if getattr(flags, name)
    ]
    exported = tuple(SUFFIXES.keys() - {*WEIGHTS})
    for name in given:
        if flags.format not in (formats := OF_FORMATS.get(name, exported)):
            raise UsageError(f"--{name}: not with --format {flags.format}, but with {' or '.join(sorted(formats))}")
    kit = flags.format == "magicmind_kit"
    if kit and flags.output.exists():
        raise UsageError(f"--output {flags.output}: exists; a kit is written to a directory of its own")
    if not kit and flags.format != "published" and flags.output.suffix != SUFFIXES[flags.format]:
        raise UsageError(f"--output {flags.output}: --format {flags.format} is written to {SUFFIXES[flags.format]}")
    if (flags.int8 or kit) != (flags.calibrate is not None):
        flag = "--format magicmind_kit" if kit else "--int8"
        raise UsageError(f"{flag} and --calibrate DIR: one needs the other, pictures of the kind that it will see")
    if flags.fp16 and flags.int8:
        raise UsageError("--fp16 and --int8: one of them, int8 being the smaller")
    flags.raw = flags.raw or kit
    if flags.limit is not None and (flags.data_root is None or flags.limit < 1):
        raise UsageError(f"--limit {flags.limit}: a number of --data_root's validation images, from 1 on")


def _batch(flags: argparse.Namespace) -> int | None:
    text = flags.batch or ("1" if flags.raw else "dynamic")
    if text == "dynamic":
        if flags.raw:
            raise UsageError("--raw --batch dynamic: raw outputs are for engines of fixed shapes; give a number")
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch {text}: expected a number from 1 on, or dynamic")
    return int(text)
