"""SSD300's default boxes as what they are, 30 grids (a map's cells, in one of its shapes), and what follows from it.

The overlap of a box with the default boxes of a grid falls with the distance of their centres, in x and in y. So the
best of a grid is that of the nearest cell, and those that reach an IoU lie in a window of cells around the box: of 8732
default boxes a few dozen need looking at.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ssd.boxes import cxcywh_to_xyxy, paired_iou
from ssd.default_boxes import BOXES_PER_CELL, FEATURE_SIZES, IMAGE_SIZE, STEPS, ssd300_default_boxes

# Bounds are computed in another way than IoU; boxes this near to them count as within, by far more than rounding moves.
RELATIVE_MARGIN, ABSOLUTE_MARGIN = 1e-4, 1e-6
SURE_IOU = 1e-9  # below, rounding might decide which default boxes overlap a box at all


class Grids(NamedTuple):
    """The grids, [S] or [S, 2] each, and all of their default boxes.

    The default box of a grid at (row, column) is number first + (row * side + column) * stride.
    """

    first: Tensor  # int64
    stride: Tensor  # int64, default boxes in a cell
    side: Tensor  # int64, cells
    step: Tensor  # float32, between two cells' centres
    end: Tensor  # float32, the last cell's centre: of 10 x 10 cells 1.0, clamped, 4 pixels before its place
    size: Tensor  # float32 [S, 2], width and height of the boxes
    default_boxes: Tensor  # float32 [A, 4] cxcywh
    default_xyxy: Tensor  # float32 [A, 4]


@functools.cache
def grids() -> Grids:
    """Those of SSD300, on the CPU."""
    rows, start = [], 0
    for cells, boxes, pixels in zip(FEATURE_SIZES, BOXES_PER_CELL, STEPS, strict=True):
        rows += [(number, boxes, cells, pixels) for number in range(start, start + boxes)]
        start += cells * cells * boxes
    first, stride, side, pixels_apart = torch.tensor(rows, device="cpu").unbind(1)
    default_boxes = ssd300_default_boxes()
    end = default_boxes[first + (side * side - 1) * stride, 0]
    return Grids(
        first=first,
        stride=stride,
        side=side,
        step=pixels_apart / IMAGE_SIZE,
        end=end,
        size=default_boxes[first, 2:],
        default_boxes=default_boxes,
        default_xyxy=cxcywh_to_xyxy(default_boxes),
    )


def best_iou(boxes: Tensor) -> Tensor:
    """The IoU of each box with the default box of SSD300 that fits it best: float32 [N, 4] xyxy -> [N], on the CPU.

    In parts: a whole data set's boxes (860,000 in COCO) take seconds and little memory.
    """
    return torch.cat([_nearest_iou(part).amax(dim=1) for part in boxes.split(4096)])


def candidates(boxes: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Every pair of a box and a default box of SSD300 whose IoU exceeds the threshold or is the box's highest (all of
    equals), and some others.

    Args:
        boxes: float32 [N, 4] xyxy, on the CPU.

    Returns:
        int64 [E] each: box, ascending, and default box.
    """
    grid = grids()
    needed = _nearest_iou(boxes).amax(dim=1, keepdim=True).clamp_(max=iou_threshold)  # [N, 1]
    size = (boxes[:, 2:] - boxes[:, :2]).unsqueeze(1)  # [N, 1, 2]
    bounded = (needed > SURE_IOU) & (size > 0).all(dim=-1)  # [N, 1]; the others are compared with every default box
    needed = needed * (1 - RELATIVE_MARGIN)
    areas = size.prod(dim=-1) + grid.size.prod(dim=-1)  # [N, S]
    covered = torch.minimum(size, grid.size)  # [N, S, 2], of a box with the same centre
    # IoU = I / (areas - I), so what I must be. It needs so much overlap along x where y's is full, and the reverse.
    intersection = needed / (1 + needed) * areas  # [N, S]
    of_box, of_grid = ((covered.prod(dim=-1) >= intersection) | ~bounded).nonzero(as_tuple=True)  # [K] each

    overlap = intersection[of_box, of_grid, None] / covered[of_box, of_grid].flip(-1)  # [K, 2]
    reach = (size[of_box, 0] + grid.size[of_grid]) / 2 - overlap + ABSOLUTE_MARGIN
    centre = (boxes[of_box, :2] + boxes[of_box, 2:]) / 2
    step, last = grid.step[of_grid, None], grid.side[of_grid, None] - 1
    low = torch.ceil((centre - reach) / step - 0.5)
    high = torch.where(centre + reach < grid.end[of_grid, None], torch.floor((centre + reach) / step - 0.5), last)
    whole = ~bounded[of_box]  # [K, 1]
    low = torch.where(whole, 0, low.clamp(min=0)).long()  # [K, 2], column and row
    count = (torch.where(whole, last, high).long() - low + 1).clamp_(min=0)

    cells = count.prod(dim=1)  # [K]
    pair = torch.arange(len(cells)).repeat_interleave(cells)  # [E]
    within = torch.arange(len(pair)) - (cells.cumsum(0) - cells)[pair]
    column = low[pair, 0] + within % count[pair, 0]
    row = low[pair, 1] + within // count[pair, 0]
    of_grid = of_grid[pair]
    return of_box[pair], grid.first[of_grid] + (row * grid.side[of_grid] + column) * grid.stride[of_grid]


def _nearest_iou(boxes: Tensor) -> Tensor:
    """[N, 4] xyxy -> [N, S], the IoU with the nearest cell's default box of each grid, which is the highest there."""
    grid = grids()
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    last = grid.side - 1
    begins = (grid.end + (last - 0.5) * grid.step) / 2  # [S], where the last cell is the nearest
    cell = torch.floor(centre / grid.step[:, None]).clamp_(min=0)  # [N, S, 2], column and row
    cell = torch.where(centre < begins[:, None], cell, last[:, None]).long()
    index = grid.first + (cell[..., 1] * grid.side + cell[..., 0]) * grid.stride
    return paired_iou(boxes.unsqueeze(1), grid.default_xyxy[index])
