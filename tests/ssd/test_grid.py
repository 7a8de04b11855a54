import torch

from ssd.boxes import box_iou, cxcywh_to_xyxy
from ssd.default_boxes import ssd300_default_boxes
from ssd.grid import best_iou, candidates
from tests.ssd.test_matching import drawn_batch


def test_the_best_iou_of_a_box_is_the_highest_with_any_default_box():
    boxes = torch.cat([drawn_batch(seed)[0].flatten(0, 1) for seed in range(40)])
    default_xyxy = cxcywh_to_xyxy(ssd300_default_boxes())
    torch.testing.assert_close(best_iou(boxes), box_iou(boxes, default_xyxy).amax(dim=1), rtol=1e-5, atol=1e-6)
    assert best_iou(boxes[:0]).shape == (0,)


def test_few_default_boxes_of_an_ordinary_box_need_looking_at():
    generator = torch.Generator().manual_seed(0)
    centre, size = torch.rand(2, 500, 2, generator=generator)
    size = 0.05 + 0.5 * size
    boxes = torch.cat((centre - size / 2, centre + size / 2), dim=1).clamp(0, 1)
    of_box, _ = candidates(boxes, 0.5)
    assert len(of_box) < 20 * len(boxes)
