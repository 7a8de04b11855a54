import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.boxes import box_iou, cxcywh_to_xyxy, decode_offsets, encode_offsets, xyxy_to_cxcywh
from ssd.default_boxes import ssd300_default_boxes
from ssd.postprocess import detect, detect_bounded

FORMS = pytest.mark.parametrize("use_kernel", [True, False], ids=["kernel", "tensors"])


@FORMS
@pytest.mark.parametrize("name", ["postprocess_sparse.npz", "postprocess_dense.npz"])
def test_detections_agree_with_the_published_recipe(golden, reference_order, name, use_kernel):
    figures = golden(name)
    rows = torch.from_numpy(figures["input_rows"]).long()
    batch = sum(key.startswith("labels_") for key in figures)
    offsets, logits = torch.zeros(batch, 8732, 4), torch.zeros(batch, 8732, 81)
    logits[..., 0] = 30  # a sure background
    where = (rows[:, 0], reference_order[rows[:, 1]])
    offsets[where] = torch.from_numpy(figures["input_offsets"])
    logits[where] = torch.from_numpy(figures["input_logits"])
    boxes, scores, labels = detect(
        offsets,
        logits,
        ssd300_default_boxes(),
        float(figures["score_threshold"]),
        float(figures["iou_threshold"]),
        int(figures["max_candidates_per_class"]),
        int(figures["max_detections"]),
        use_kernel=use_kernel,
    )
    for image in range(batch):
        expected_boxes = torch.from_numpy(figures[f"boxes_xyxy_{image}"])
        expected_scores = torch.from_numpy(figures[f"scores_{image}"])
        expected_labels = torch.from_numpy(figures[f"labels_{image}"]).long()
        found = labels[image] > 0
        assert int(found.sum()) == len(expected_labels)
        same = (
            (labels[image, found, None] == expected_labels)
            & ((scores[image, found, None] - expected_scores).abs() <= 1e-5)
            & ((boxes[image, found, None] - expected_boxes).abs().amax(dim=-1) <= 1e-4)
        )
        assert same.any(dim=0).all() and same.any(dim=1).all()


def plain_detect(offsets, logits, default_boxes, score_threshold=0.05, iou_threshold=0.5, per_class=200, most=200):
    """Greedy NMS as the paper words it, for one image, with loops."""
    boxes = cxcywh_to_xyxy(decode_offsets(offsets, default_boxes))
    scores = logits.softmax(dim=-1)
    iou = box_iou(boxes, boxes).tolist()
    found = []
    for label in range(1, logits.shape[-1]):
        order = scores[:, label].argsort(descending=True, stable=True)
        order = [i for i in order.tolist() if scores[i, label] > score_threshold][:per_class]
        kept = []
        for index in order:
            if all(iou[other][index] < iou_threshold for other in kept):
                kept.append(index)
        found += [(scores[index, label].item(), label, *boxes[index].tolist()) for index in kept]
    return sorted(found, reverse=True)[:most]


def assert_equal_to_plain(offsets, logits, default_boxes, use_kernel, **options):
    boxes, scores, labels = detect(offsets, logits, default_boxes, use_kernel=use_kernel, **options)
    names = {"candidates_per_class": "per_class", "max_detections": "most"}
    options = {names.get(key, key): value for key, value in options.items()}
    for image in range(len(offsets)):
        expected = plain_detect(offsets[image], logits[image], default_boxes, **options)
        count = int((labels[image] > 0).sum())
        columns = (scores[image, :count], labels[image, :count], boxes[image, :count])
        found = sorted(
            ((s, label, *b) for s, label, b in zip(*(c.tolist() for c in columns), strict=True)), reverse=True
        )
        assert count == len(expected)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=1e-5)
        assert (scores[image].diff() <= 0).all(), "descending scores"
        assert (scores[image, count:] == 0).all() and (boxes[image, count:] == 0).all()


def random_case(anchors: int, classes: int, batch: int = 2, seed: int = 0, sharpness: float = 1.5):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(anchors, 2, generator=generator)
    default_boxes = torch.cat((centres, torch.rand(anchors, 2, generator=generator) * 0.3 + 0.05), dim=1)
    offsets = torch.randn(batch, anchors, 4, generator=generator) * 0.3
    return offsets, torch.randn(batch, anchors, classes + 1, generator=generator) * sharpness, default_boxes


@FORMS
@pytest.mark.parametrize(("anchors", "classes"), [(50, 3), (300, 20), (400, 1)])
def test_detections_are_those_of_plain_greedy_nms(anchors, classes, use_kernel):
    assert_equal_to_plain(*random_case(anchors, classes), use_kernel)


@FORMS
def test_the_prefix_grows_until_the_detections_are_certain(use_kernel):
    # 900 near-copies of one box lead the score order, so few of the first prefix survive.
    offsets, logits, default_boxes = random_case(1500, 2, seed=1, sharpness=0.5)
    default_boxes[:900] = torch.tensor([0.5, 0.5, 0.4, 0.4])
    offsets[:, :900] *= 0.05
    logits[:, :900, 1] += 3
    assert_equal_to_plain(offsets, logits, default_boxes, use_kernel, candidates_per_class=1500, max_detections=100)


@FORMS
def test_a_long_chain_of_suppressions_is_resolved(use_kernel):
    # Each box overlaps its neighbours only: alternate ones survive, decided one after the other.
    count = 120
    default_boxes = torch.tensor([[0.004 * i + 0.1, 0.5, 0.0128, 0.4] for i in range(count)])
    logits = torch.zeros(1, count, 2)
    logits[0, :, 1] = torch.linspace(4, 1, count)
    assert_equal_to_plain(torch.zeros(1, count, 4), logits, default_boxes, use_kernel)


@FORMS
def test_equality_with_the_threshold_suppresses(use_kernel):
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.25, 0.125, 0.5, 0.25]])  # IoU exactly 0.5
    logits = torch.tensor([[[0.0, 5.0], [0.0, 4.0]]])
    _, _, labels = detect(torch.zeros(1, 2, 4), logits, boxes, use_kernel=use_kernel)
    assert (labels > 0).sum() == 1
    _, _, labels = detect(torch.zeros(1, 2, 4), logits, boxes, iou_threshold=0.51, use_kernel=use_kernel)
    assert (labels > 0).sum() == 2


@pytest.mark.parametrize("size", [40.0, 1e30], ids=["huge", "infinite"])
def test_one_huge_or_infinite_box_changes_nothing_for_the_others(size):
    offsets, logits, default_boxes = random_case(300, 5)
    logits[0, 7] = torch.tensor([-9.0, -9, -9, 5, -9, -9])
    _, usual, _ = detect(offsets, logits, default_boxes)
    offsets[0, 7, 2] = size / 0.2  # the width is multiplied by e^40, or overflows
    kernel = detect(offsets, logits, default_boxes, use_kernel=True)
    tensors = detect(offsets, logits, default_boxes, use_kernel=False)
    assert torch.equal(kernel[1], tensors[1]) and torch.equal(kernel[2], tensors[2])
    assert torch.equal(kernel[1][1], usual[1]), "the other image is as before"


@FORMS
def test_only_the_best_candidates_of_a_class_take_part(use_kernel):
    offsets, logits, default_boxes = random_case(200, 2, seed=3)
    assert_equal_to_plain(offsets, logits, default_boxes, use_kernel, candidates_per_class=5)


@FORMS
def test_a_sure_background_gives_no_detections(use_kernel):
    logits = torch.zeros(2, 8732, 81)
    logits[..., 0] = 20
    boxes, scores, labels = detect(torch.zeros(2, 8732, 4), logits, ssd300_default_boxes(), use_kernel=use_kernel)
    assert boxes.shape == (2, 200, 4) and scores.sum() == 0 and labels.sum() == 0


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_forms_agree_on_tied_scores_and_lattice_boxes(data):
    count, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    cells = st.lists(st.integers(0, 6), min_size=2, max_size=2)
    corners = torch.tensor([data.draw(cells) for _ in range(count)]).float()
    sizes = torch.tensor([data.draw(cells) for _ in range(count)]).float() + 1
    default_boxes = xyxy_to_cxcywh(torch.cat((corners, corners + sizes), dim=1) / 16)
    levels = data.draw(st.lists(st.integers(0, 4), min_size=count * classes, max_size=count * classes))
    logits = torch.zeros(1, count, classes + 1)
    logits[0, :, 1:] = torch.tensor(levels).float().view(count, classes)
    offsets = torch.zeros(1, count, 4)
    kernel = detect(offsets, logits, default_boxes, use_kernel=True, max_detections=20)
    tensors = detect(offsets, logits, default_boxes, use_kernel=False, max_detections=20)
    for a, b in zip(kernel, tensors, strict=True):
        assert torch.equal(a, b)


def test_inputs_are_left_alone():
    offsets, logits, default_boxes = random_case(30, 3)
    copies = offsets.clone(), logits.clone()
    detect(offsets, logits, default_boxes)
    assert torch.equal(offsets, copies[0]) and torch.equal(logits, copies[1])


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(ValueError, match="iou_threshold=0"):
        detect(*random_case(3, 1), iou_threshold=0)


def test_a_perfect_prediction_returns_the_ground_truth():
    default_boxes = ssd300_default_boxes()
    truth = torch.tensor([0.2, 0.3, 0.5, 0.7])
    offsets = encode_offsets(xyxy_to_cxcywh(truth).expand(8732, 4), default_boxes)[None]
    logits = torch.zeros(1, 8732, 4)
    logits[..., 0] = 10
    logits[0, 100] = torch.tensor([0.0, 0, 12, 0])
    boxes, scores, labels = detect(offsets, logits, default_boxes)
    assert labels[0, 0] == 2 and labels[0, 1] == 0 and scores[0, 0] > 0.99
    torch.testing.assert_close(boxes[0, 0], truth, atol=1e-4, rtol=0)


def test_the_bounded_form_says_when_it_is_exact():
    case = random_case(300, 5)
    *bounded, exact = detect_bounded(*case)
    assert exact
    for ours, whole in zip(bounded, detect(*case, use_kernel=False), strict=True):
        torch.testing.assert_close(ours, whole)
    assert not detect_bounded(*case, prefix=20)[-1], "20 candidates are not all that count"
    chain = torch.tensor([[0.004 * i + 0.1, 0.5, 0.0128, 0.4] for i in range(120)])
    logits = torch.zeros(1, 120, 2)
    logits[0, :, 1] = torch.linspace(4, 1, 120)
    assert not detect_bounded(torch.zeros(1, 120, 4), logits, chain, rounds=4)[-1], "the chain is longer"
    assert detect_bounded(torch.zeros(1, 120, 4), logits, chain, rounds=130)[-1]


def test_the_bounded_form_is_exported_whole():
    class Detector(torch.nn.Module):
        def __init__(self, default_boxes):
            super().__init__()
            self.register_buffer("default_boxes", default_boxes)  # torch 2.4 exports no tensor of a closure

        def forward(self, offsets, logits):
            return detect_bounded(offsets, logits, self.default_boxes)

    offsets, logits, default_boxes = random_case(1200, 5)
    detector = Detector(default_boxes)
    program = torch.export.export(detector, (offsets, logits))
    for exported, eager in zip(program.module()(offsets, logits), detector(offsets, logits), strict=True):
        torch.testing.assert_close(exported, eager)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_scores_beyond_the_range_of_exp_are_right(scale):
    # Few default boxes pass by background alone in no case here, so every score goes through the shared normaliser.
    offsets, logits, default_boxes = random_case(1500, 3, sharpness=scale)
    _, scores, _ = detect(offsets, logits, default_boxes, max_detections=1)
    assert torch.allclose(scores[:, 0], logits.softmax(dim=-1)[..., 1:].amax(dim=(1, 2)))
