"""The 8732 default boxes of SSD300 (SSD paper, section 2.2; scales and steps of the published recipe).

Order: map by map, cell by cell (row-major), then box shape, so a channels-last head needs no transpose.
"""

import functools
import math

import torch
from torch import Tensor

IMAGE_SIZE = 300
FEATURE_SIZES = (38, 19, 10, 5, 3, 1)  # cells per side of each feature map
STEPS = (8, 16, 32, 64, 100, 300)  # pixels between cell centres
SCALES = (21, 45, 99, 153, 207, 261, 315)  # pixels; one more than maps, for the geometric mean with the next scale
ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
BOXES_PER_CELL = tuple(2 + 2 * len(ratios) for ratios in ASPECT_RATIOS)  # 4 6 6 6 4 4
NUM_DEFAULT_BOXES = sum(size * size * boxes for size, boxes in zip(FEATURE_SIZES, BOXES_PER_CELL, strict=True))  # 8732


def ssd300_default_boxes() -> Tensor:
    """float32 [8732, 4] cxcywh, normalised and clamped to [0, 1] (the xyxy form, made from it, is not clamped); on the
    CPU, whatever the default device: not every one has float64."""
    cpu = torch.device("cpu")
    maps = []
    for index, (size, step, ratios) in enumerate(zip(FEATURE_SIZES, STEPS, ASPECT_RATIOS, strict=True)):
        scale, next_scale = SCALES[index] / IMAGE_SIZE, SCALES[index + 1] / IMAGE_SIZE
        shapes = [(scale, scale), (math.sqrt(scale * next_scale),) * 2]
        for ratio in ratios:
            root = math.sqrt(ratio)
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        centres = (torch.arange(size, dtype=torch.float64, device=cpu) + 0.5) * step / IMAGE_SIZE
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        cells = torch.stack((columns, rows), dim=-1)[:, :, None, :].expand(-1, -1, len(shapes), -1)
        sizes = torch.tensor(shapes, dtype=torch.float64, device=cpu).expand(size, size, -1, -1)
        maps.append(torch.cat((cells, sizes), dim=-1).reshape(-1, 4))
    return torch.cat(maps).clamp_(0, 1).float()


@functools.cache
def tie_rank(num_boxes: int, device: torch.device) -> Tensor:
    """int32 [num_boxes]: who wins when default boxes have equal IoU with a ground truth, lowest first.

    The published recipe lists boxes shape by shape within a map and takes the first; a small ground truth inside
    several default boxes of one shape makes such ties common. Any other number of boxes ranks by position.
    """
    if num_boxes != NUM_DEFAULT_BOXES:
        return torch.arange(num_boxes, dtype=torch.int32, device=device)
    ranks, start = [], 0
    for size, shapes in zip(FEATURE_SIZES, BOXES_PER_CELL, strict=True):
        by_shape = torch.arange(start, start + size * size * shapes, dtype=torch.int32).view(shapes, size * size)
        ranks.append(by_shape.t().flatten())
        start += size * size * shapes
    return torch.cat(ranks).to(device)
