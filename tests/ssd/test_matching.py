import pytest
import torch

from ssd.boxes import box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from ssd.default_boxes import ssd300_default_boxes
from ssd.matching import match, match_in_fixed_shapes

DEFAULTS = torch.tensor(
    [[0.25, 0.25, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]
)


def test_matching_agrees_exactly_with_the_published_recipe(golden, reference_order):
    figures = golden("matching.npz")
    boxes, labels = torch.from_numpy(figures["gt_boxes_xyxy"]), torch.from_numpy(figures["gt_labels"])
    matched_boxes, matched_labels = match(boxes, labels, ssd300_default_boxes())
    assert torch.equal(matched_labels[:, reference_order], torch.from_numpy(figures["matched_labels"]).long())
    assert torch.equal(matched_boxes[:, reference_order], torch.from_numpy(figures["matched_boxes_cxcywh"]))


def plain_match(boxes, labels, default_boxes, threshold=0.5):
    """One image, with loops: boxes [G, 4], labels [G] without padding."""
    matched_boxes, matched_labels = default_boxes.clone(), torch.zeros(len(default_boxes), dtype=torch.int64)
    iou = box_iou(boxes, cxcywh_to_xyxy(default_boxes))
    for index in range(len(default_boxes)):
        truth = iou[:, index].argmax()
        if iou[truth, index] > threshold:
            matched_boxes[index], matched_labels[index] = xyxy_to_cxcywh(boxes[truth]), labels[truth]
    for truth in range(len(boxes)):
        index = iou[truth].argmax()
        matched_boxes[index], matched_labels[index] = xyxy_to_cxcywh(boxes[truth]), labels[truth]
    return matched_boxes, matched_labels


def test_a_batch_equals_a_plain_loop_over_its_images():
    generator = torch.Generator().manual_seed(0)
    default_boxes = xyxy_to_cxcywh(random_boxes(300, generator))
    boxes, labels = torch.zeros(4, 8, 4), torch.zeros(4, 8, dtype=torch.int64)
    for image, count in enumerate((8, 3, 1, 0)):
        boxes[image, :count] = random_boxes(count, generator)
        labels[image, :count] = torch.randint(1, 6, (count,), generator=generator)
    matched_boxes, matched_labels = match(boxes, labels, default_boxes)
    for image, count in enumerate((8, 3, 1)):
        expected_boxes, expected_labels = plain_match(boxes[image, :count], labels[image, :count], default_boxes)
        assert torch.equal(matched_labels[image], expected_labels)
        torch.testing.assert_close(matched_boxes[image], expected_boxes)
    assert matched_labels[3].sum() == 0


def drawn_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes as data have them and as they should not: tiny, without area, larger than the image or beside it, default
    boxes themselves, several of the same, on round coordinates (ties), with padding in between."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    images, count = 1 + seed % 8, 1 + seed % 11
    kind = torch.randint(9, (images, count), generator=generator)
    centre, size = drawn(images, count, 2), drawn(images, count, 2)
    size *= torch.tensor([1, 0.3, 0.1, 0.02, 1e-3, 1e-5, 2, 0.3, 0])[kind].unsqueeze(-1)
    size[..., 1] *= torch.where(drawn(images, count) < 0.1, 0.02, 1.0)
    boxes = torch.cat((centre - size / 2, centre + size / 2), dim=-1)
    if seed % 3:
        boxes = boxes.clamp(0, 1)
    if seed % 5 == 0:
        boxes = (boxes * 30).round() / 30
    defaults = cxcywh_to_xyxy(ssd300_default_boxes())
    own = defaults[torch.randint(len(defaults), (images, count), generator=generator)]
    boxes = torch.where((kind == 7).unsqueeze(-1), own, boxes)
    other = torch.randint(count, (images, count, 1), generator=generator).expand(-1, -1, 4)
    boxes = torch.where(drawn(images, count, 1) < 0.15, boxes.gather(1, other), boxes)
    labels = torch.randint(1, 81, (images, count), generator=generator)
    return boxes, labels * (drawn(images, count) < 0.8)


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.05, 0.0])
def test_the_form_for_accelerators_gives_the_same_bits(threshold):
    default_boxes = ssd300_default_boxes()
    for seed in range(40):
        boxes, labels = drawn_batch(seed)
        on_cpu = match(boxes, labels, default_boxes, threshold)
        fixed = match_in_fixed_shapes(boxes, labels, cxcywh_to_xyxy(default_boxes), threshold)
        assert all(torch.equal(a, b) for a, b in zip(on_cpu, fixed, strict=True)), seed


def test_images_without_ground_truths_are_all_background_on_any_device():
    default_boxes = ssd300_default_boxes()
    boxes, labels = torch.rand(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
    for count in (3, 0):
        on_cpu = match(boxes[:, :count], labels[:, :count], default_boxes)
        fixed = match_in_fixed_shapes(boxes[:, :count], labels[:, :count], cxcywh_to_xyxy(default_boxes), 0.5)
        assert all(torch.equal(a, b) for a, b in zip(on_cpu, fixed, strict=True))
        assert on_cpu[1].shape == (2, 8732) and on_cpu[1].sum() == 0


def test_default_boxes_of_another_kind_are_matched_as_they_lie():
    """As many as SSD300 has, one of them moved."""
    moved = ssd300_default_boxes()
    moved[5000] = torch.tensor([0.9, 0.1, 0.05, 0.03])
    _, labels = match(cxcywh_to_xyxy(moved[5000]).view(1, 1, 4), torch.tensor([[7]]), moved)
    assert labels[0, 5000] == 7


def test_every_ground_truth_gets_a_default_box_however_small_their_iou():
    tiny = torch.tensor([[[0.70, 0.70, 0.71, 0.71]]])
    _, labels = match(tiny, torch.tensor([[7]]), DEFAULTS)
    assert labels.tolist() == [[0, 0, 0, 7]]


def test_the_later_ground_truth_wins_the_default_box_that_both_want():
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.1, 0.1, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    matched_boxes, labels = match(boxes, torch.tensor([[1, 2, 0]]), DEFAULTS)
    assert labels.tolist() == [[2, 0, 0, 0]]
    torch.testing.assert_close(matched_boxes[0, 0], torch.tensor([0.3, 0.3, 0.4, 0.4]))


def test_iou_must_exceed_the_threshold():
    half = torch.tensor(
        [[[0.0, 0.0, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0]]]
    )  # IoU 0.5 with the first default box, 1 with the last
    for threshold, count in ((0.5, 1), (0.49, 1)):
        _, labels = match(half, torch.tensor([[0, 3]]), DEFAULTS, iou_threshold=threshold)
        assert (labels > 0).sum() == count
    both = torch.tensor([[[0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 0.5, 0.5]]])
    _, labels = match(both, torch.tensor([[1, 2]]), DEFAULTS)
    assert labels.tolist() == [[2, 0, 0, 0]]


def test_an_image_without_ground_truths_is_all_background():
    matched_boxes, labels = match(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), DEFAULTS)
    assert labels.shape == (2, 4) and labels.sum() == 0
    assert torch.equal(matched_boxes[0], DEFAULTS)


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    low, high = torch.rand(2, count, 2, generator=generator).sort(dim=0).values
    return torch.cat((low, high + 0.05), dim=1)
