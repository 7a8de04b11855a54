"""Post-processing of SSD300's output, ours beside torchvision's, `batched_nms` and, by path, the published recipe's.

    python benchmarks/postprocess.py [--reference DIR] [--json PATH]

Detections are compared before timing.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torchvision
from recipe import load_utils, reference_order
from side_by_side import report, seconds, smaller_is_better

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssd.boxes import box_iou, cxcywh_to_xyxy, decode_offsets
from ssd.default_boxes import ssd300_default_boxes
from ssd.postprocess import detect

SCORE, IOU, PER_CLASS, MOST = 0.05, 0.5, 200, 200


def trained_like(batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A dozen objects an image over a sure background: a few hundred candidates."""
    default_boxes = cxcywh_to_xyxy(ssd300_default_boxes())
    offsets = torch.randn(batch, 8732, 4, generator=generator) * 0.3
    logits = torch.randn(batch, 8732, 81, generator=generator)
    logits[..., 0] += 9
    for image in range(batch):
        low, size = torch.rand(12, 2, generator=generator) * 0.7, torch.rand(12, 2, generator=generator) * 0.3 + 0.05
        overlap = box_iou(torch.cat((low, low + size), dim=1), default_boxes)
        for truth, label in zip(overlap, torch.randint(1, 81, (12,), generator=generator), strict=True):
            logits[image, :, label] += 14 * truth
    return offsets, logits


def dense(batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random scores: thousands of candidates in every class."""
    offsets = torch.randn(batch, 8732, 4, generator=generator) * 0.3
    return offsets, torch.randn(batch, 8732, 81, generator=generator) * 2


def torchvision_ssd(offsets, logits, default_boxes):
    """torchvision.models.detection.SSD's own post-processing, at our thresholds."""
    owner = SimpleNamespace(
        box_coder=torchvision.models.detection._utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        score_thresh=SCORE,
        topk_candidates=PER_CLASS,
        nms_thresh=IOU,
        detections_per_img=MOST,
    )
    batch = len(offsets)
    return torchvision.models.detection.ssd.SSD.postprocess_detections(
        owner,
        {"bbox_regression": offsets, "cls_logits": logits},
        [cxcywh_to_xyxy(default_boxes)] * batch,
        [(1, 1)] * batch,
    )


def one_batched_nms(offsets, logits, default_boxes):
    """Every candidate of the batch in one call of torchvision's batched_nms, a group per image and class."""
    boxes = cxcywh_to_xyxy(decode_offsets(offsets, default_boxes))
    scores = logits.softmax(dim=-1)[..., 1:]
    image, anchor, label = (scores > SCORE).nonzero(as_tuple=True)
    score = scores[image, anchor, label]
    keep = torchvision.ops.batched_nms(boxes[image, anchor], score, image * scores.shape[-1] + label, IOU)
    return [keep[image[keep] == i][:MOST] for i in range(len(offsets))]


def reference_decoder(directory: Path):
    """The recipe's Encoder.decode_batch; it wants its own order of boxes and planes, prepared outside the timing."""
    utils = load_utils(directory)
    encoder, order = utils.Encoder(utils.dboxes300_coco()), reference_order(utils, ssd300_default_boxes())
    return lambda offsets, logits: encoder.decode_batch(
        offsets[:, order].transpose(1, 2).clone(), logits[:, order].transpose(1, 2), IOU, MOST
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the published recipe")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.manual_seed(0)
    default_boxes = ssd300_default_boxes()
    reference = reference_decoder(args.reference) if args.reference else None
    rows = []
    for kind, make in (("trained-like", trained_like), ("dense", dense)):
        offsets, logits = make(args.batch, torch.Generator().manual_seed(0))
        candidates = (logits.softmax(dim=-1)[..., 1:] > SCORE).sum().item() / args.batch
        print(f"{kind}: {candidates:.0f} candidates an image")
        calls = {
            "ours": lambda: detect(offsets, logits, default_boxes),  # noqa: B023 - called within this iteration
            "ours, plain tensors": lambda: detect(offsets, logits, default_boxes, use_kernel=False),  # noqa: B023
            "torchvision SSD": lambda: torchvision_ssd(offsets, logits, default_boxes),  # noqa: B023
            "one batched_nms": lambda: one_batched_nms(offsets, logits, default_boxes),  # noqa: B023
        }
        _check_same(calls["ours"](), calls["torchvision SSD"]())
        times = seconds(calls, args.repeats)
        if reference:
            _check_same_scores(calls["ours"](), reference(offsets, logits))
            times |= seconds({"published recipe": lambda: reference(offsets, logits)}, 1)  # noqa: B023
        ours = times.pop("ours")
        for name, value in times.items():
            rows.append(smaller_is_better(f"{kind}, {args.batch} images: {name}", 1e3 * ours, 1e3 * value, "ms"))
    report(rows, args.json)


def _check_same(ours, theirs) -> None:
    """torchvision clips boxes to the image, which moves few IoUs; at least 99 % of the detections must agree."""
    _, scores, labels = ours
    same = total = 0
    for image, found in enumerate(theirs):
        count = int((labels[image] > 0).sum())
        mine = {
            (round(s, 5), label)
            for s, label in zip(scores[image, :count].tolist(), labels[image].tolist(), strict=False)
        }
        same += len(
            mine
            & {
                (round(s, 5), label)
                for s, label in zip(found["scores"].tolist(), found["labels"].tolist(), strict=True)
            }
        )
        total += max(len(mine), 1)
    print(f"  detections shared with torchvision's (which clips boxes first): {same / total:.1%}")


def _check_same_scores(ours, theirs) -> None:
    for image, (_, labels, scores) in enumerate(theirs):
        found = ours[2][image] > 0
        expected = sorted(zip(scores.tolist(), labels.tolist(), strict=True), reverse=True)
        mine = sorted(zip(ours[1][image, found].tolist(), ours[2][image, found].tolist(), strict=True), reverse=True)
        if len(mine) != len(expected) or any(abs(a[0] - b[0]) > 1e-5 for a, b in zip(mine, expected, strict=True)):
            raise SystemExit(f"image {image}: other detections than the published recipe's")
    print("  the same detections as the published recipe's")


if __name__ == "__main__":
    main()
