import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from ssd.boxes import box_iou, cxcywh_to_xyxy, decode_offsets, encode_offsets, xyxy_to_cxcywh
from ssd.default_boxes import ssd300_default_boxes


def random_xyxy(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.rand(2, count, 2, generator=generator).sort(dim=0).values
    return torch.cat((low, high + 0.01), dim=1)


def test_centre_and_corner_forms_are_inverse():
    boxes = random_xyxy(100)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_iou_equals_torchvisions():
    a, b = random_xyxy(40, seed=1), random_xyxy(30, seed=2)
    torch.testing.assert_close(box_iou(a, b), torchvision.ops.box_iou(a, b))


def test_iou_broadcasts_over_batches():
    a, b = random_xyxy(6).view(2, 3, 4), random_xyxy(5)
    torch.testing.assert_close(box_iou(a, b)[1], box_iou(a[1], b))


def test_iou_of_boxes_without_area_is_zero_and_not_nan():
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert box_iou(point, point).item() == 0


def test_iou_leaves_its_arguments_alone():
    a, b = random_xyxy(3), random_xyxy(4)
    copies = a.clone(), b.clone()
    box_iou(a, b)
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


def test_decoding_undoes_encoding():
    default_boxes = ssd300_default_boxes()
    boxes = xyxy_to_cxcywh(random_xyxy(8732))
    torch.testing.assert_close(
        decode_offsets(encode_offsets(boxes, default_boxes), default_boxes), boxes, atol=1e-5, rtol=1e-4
    )


def test_a_default_box_encodes_to_zero_offsets():
    default_boxes = ssd300_default_boxes()
    assert encode_offsets(default_boxes, default_boxes).abs().max() == 0


@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_offsets_are_scaled_by_the_recipes_variances(shift, growth):
    default = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    box = default + torch.tensor([[shift * 0.2, 0, 0, 0]])
    box[:, 3] *= torch.tensor(growth).exp()
    offsets = encode_offsets(box, default)
    torch.testing.assert_close(offsets, torch.tensor([[shift / 0.1, 0, 0, growth / 0.2]]), atol=1e-4, rtol=1e-4)
