"""Images per second from JPEG file to detections: ours, torchvision's ssd300_vgg16 and, by path, the published recipe.

    python benchmarks/inference.py [--ckpt_path FILE] [--images DIR] [--reference DIR] [--device cpu|cuda] [--json PATH]

One process, no loader workers: decoding, resizing, normalising, network and NMS all count, for every side. Weights are
random unless a checkpoint of ours is given, so the peers hardly have a box to suppress; benchmarks/postprocess.py
measures that part at trained-like and dense scores. torchvision's network is VGG-16, the recipe's is ours.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from recipe import load_model, load_utils
from side_by_side import larger_is_better, report, seconds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coco.augment import normalise
from coco.decoding import decode
from coco.sample import write_sample
from ssd.postprocess import detect
from ssd_module import SSDModule, load_module

Run = Callable[[list[Path]], object]


def our_batches(module: SSDModule, device: str, precision: torch.dtype | None, compile: bool) -> Run:
    """SSD300-ResNet50 with batch normalisation folded, channels-last."""
    module = module.to(device).optimise_for_inference(compile)

    def run(paths: list[Path]) -> object:
        pictures = [decode(path).resize((300, 300), Image.Resampling.BILINEAR) for path in paths]
        images = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast(device, precision, enabled=precision is not None):
            offsets, logits = module(normalise(images.to(device)))
            return [part.cpu() for part in detect(offsets, logits, module.default_boxes)]

    return run


def torchvision_batches(device: str) -> Run:
    """torchvision's own inference path: its reader, its transform inside the model, its post-processing."""
    model = (
        torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=81).eval().to(device)
    )

    def run(paths: list[Path]) -> object:
        pictures = [torchvision.io.read_image(str(path), torchvision.io.ImageReadMode.RGB) for path in paths]
        with torch.inference_mode():
            return [
                {key: value.cpu() for key, value in found.items()}
                for found in model([picture.to(device).float() / 255 for picture in pictures])
            ]

    return run


def reference_batches(directory: Path, device: str) -> Run:
    """The published recipe's model, validation transform and decoder."""
    utils, model = load_utils(directory), load_model(directory)
    model = model.SSD300(backbone=model.ResNet("resnet50")).eval().to(device)
    boxes = utils.dboxes300_coco()
    encoder, transform = utils.Encoder(boxes), utils.SSDTransformer(boxes, (300, 300), val=True)

    def run(paths: list[Path]) -> object:
        no_boxes, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        pictures = [transform(Image.open(path).convert("RGB"), None, no_boxes, no_labels)[0] for path in paths]
        with torch.no_grad():
            offsets, logits = model(torch.stack(pictures).to(device))
            return encoder.decode_batch(offsets.float(), logits.float(), 0.5, 200)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, help="a checkpoint of ours instead of random weights")
    parser.add_argument("--images", type=Path, help="a directory of JPEG files; by default the built-in sample's")
    parser.add_argument("--reference", type=Path, help="checkout of the published recipe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of ours, in mixed precision"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.manual_seed(0)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[args.precision]
    module = load_module(args.ckpt_path) if args.ckpt_path else SSDModule("resnet50", 80)
    ours = our_batches(module, args.device, dtype, args.compile)
    peers = {"torchvision ssd300_vgg16": torchvision_batches(args.device)}
    if args.reference:
        peers["published recipe"] = reference_batches(args.reference, args.device)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        if args.images is None:
            write_sample(directory, train_images=32, val_images=1)
        files = sorted((args.images or Path(directory) / "train2017").glob("*.jpg"))
        for batch in args.batch:
            paths = list(itertools.islice(itertools.cycle(files), batch))
            calls = {name: (lambda run=run: run(paths)) for name, run in {"ours": ours, **peers}.items()}  # noqa: B023
            rates = {name: batch / value for name, value in seconds(calls, args.repeats).items()}
            for name in peers:
                label = f"batch {batch}, {args.device}, ours {args.precision}: {name} (fp32)"
                rows.append(larger_is_better(label, rates["ours"], rates[name], "img/s"))
    report(rows, args.json)


if __name__ == "__main__":
    main()
