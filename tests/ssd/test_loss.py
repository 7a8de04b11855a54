import pytest
import torch
import torch.nn.functional as F

from ssd.boxes import encode_offsets
from ssd.default_boxes import ssd300_default_boxes
from ssd.loss import MultiBoxLoss
from ssd.matching import match


def test_loss_and_gradients_agree_with_the_published_recipe(golden, reference_order):
    figures, targets = golden("loss.npz"), golden("matching.npz")
    generator = torch.Generator().manual_seed(int(figures["seed"]))
    offsets = torch.randn(8, 4, 8732, generator=generator) * 0.5
    logits = torch.randn(8, 81, 8732, generator=generator)
    logits[:, 0] += 3
    ours = reference_order.argsort()
    offsets = offsets.transpose(1, 2)[:, ours].requires_grad_()
    logits = logits.transpose(1, 2)[:, ours].requires_grad_()
    boxes, labels = torch.from_numpy(targets["gt_boxes_xyxy"][:8]), torch.from_numpy(targets["gt_labels"][:8])
    matched = match(boxes, labels, ssd300_default_boxes())

    localisation, confidence = MultiBoxLoss()(offsets, logits, *matched)
    loss = localisation + confidence
    loss.backward()

    assert loss.item() == pytest.approx(float(figures["loss"]), rel=1e-5)
    assert offsets.grad.abs().sum().item() == pytest.approx(float(figures["grad_offsets_absum"]), rel=1e-5)
    assert logits.grad.abs().sum().item() == pytest.approx(float(figures["grad_logits_abssum"]), rel=1e-5)
    selected = (logits.grad.abs().sum(dim=-1) > 0).sum(dim=1)
    assert selected.tolist() == figures["selected_per_image"].tolist()
    images = [slice(i, i + 1) for i in range(8)]
    per_image = [sum(MultiBoxLoss()(offsets[i], logits[i], matched[0][i], matched[1][i])).item() for i in images]
    assert per_image == pytest.approx(figures["per_image"].tolist(), rel=1e-5)


def random_case(batch: int = 3, classes: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(batch, 8732, 4, generator=generator)
    logits = torch.randn(batch, 8732, classes + 1, generator=generator)
    labels = torch.zeros(batch, 8732, dtype=torch.int64)
    boxes = ssd300_default_boxes().expand(batch, -1, -1).clone()
    for image in range(batch):
        positive = torch.randperm(8732, generator=generator)[: 10 * image]  # the first image has none
        labels[image, positive] = torch.randint(1, classes + 1, (len(positive),), generator=generator)
        boxes[image, positive, :2] += 0.05
    return offsets, logits, boxes, labels


def test_the_batched_loss_equals_a_plain_loop_with_explicit_mining():
    offsets, logits, boxes, labels = random_case()
    defaults = ssd300_default_boxes()
    localisations, confidences = [], []
    for image in range(3):
        positive = labels[image] > 0
        count = int(positive.sum())
        distance = F.smooth_l1_loss(
            offsets[image][positive], encode_offsets(boxes[image], defaults)[positive], reduction="sum"
        )
        entropy = F.cross_entropy(logits[image], labels[image], reduction="none")
        negatives = entropy[~positive].sort(descending=True).values[: 3 * count]
        localisations.append(distance / max(count, 1))
        confidences.append((entropy[positive].sum() + negatives.sum()) / max(count, 1))
    localisation, confidence = MultiBoxLoss()(offsets, logits, boxes, labels)
    torch.testing.assert_close(localisation, torch.stack(localisations).mean())
    torch.testing.assert_close(confidence, torch.stack(confidences).mean())


def test_an_image_without_positives_adds_nothing_and_gets_no_gradient():
    offsets, logits, boxes, labels = random_case(batch=1)
    logits.requires_grad_()
    localisation, confidence = MultiBoxLoss()(offsets, logits, boxes, labels)
    (localisation + confidence).backward()
    assert localisation == 0 and confidence == 0 and logits.grad.abs().sum() == 0


def test_background_negatives_train_an_image_without_positives_and_no_other():
    offsets, logits, boxes, labels = random_case()  # the first image has none
    logits.requires_grad_()
    plain = MultiBoxLoss()(offsets, logits, boxes, labels)
    localisation, confidence = MultiBoxLoss(background_negatives=3)(offsets, logits, boxes, labels)
    hardest = F.cross_entropy(logits[0], labels[0], reduction="none").topk(3).values
    torch.testing.assert_close(confidence, plain[1] + hardest.sum() / 3)  # a mean over three images
    assert localisation == plain[0]


def test_class_weights_scale_the_cross_entropy_of_positives_and_leave_the_mining_alone():
    offsets, logits, boxes, labels = random_case(classes=5)
    loss, weights = MultiBoxLoss(), torch.tensor([1.0, 1, 1, 4, 1, 1])
    plain = loss(offsets, logits, boxes, labels)
    loss.class_weights = weights
    localisation, confidence = loss(offsets, logits, boxes, labels)
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    more = ((labels == 3) * entropy).sum(dim=1) * 3 / (labels > 0).sum(dim=1).clamp(min=1)
    torch.testing.assert_close(confidence, plain[1] + more.mean())
    assert localisation == plain[0]


@pytest.mark.parametrize("background_negatives", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_form_for_the_cpu_gives_the_loss_and_gradients_of_that_for_accelerators(
    background_negatives, weighted, dtype
):
    offsets, logits, boxes, labels = random_case(batch=4, classes=6)
    labels[1] = 0
    loss = MultiBoxLoss(background_negatives=background_negatives)
    loss.class_weights = torch.tensor([1.0, 1, 2, 1, 0.5, 1, 3]) if weighted else None
    found = []
    for form in (loss.of_rows, loss.in_fixed_shapes):
        inputs = [values.to(dtype).clone().requires_grad_() for values in (offsets, logits)]
        parts = form(*inputs, boxes, labels)
        assert [part.dtype for part in parts] == [torch.promote_types(dtype, torch.float32)] * 2
        sum(parts).backward()
        found.append([*parts, *(values.grad for values in inputs)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_a_batch_without_any_positive_has_a_loss_of_zero_that_can_be_trained_on():
    offsets, logits, boxes, labels = random_case()
    logits.requires_grad_()
    for form in (MultiBoxLoss().of_rows, MultiBoxLoss().in_fixed_shapes):
        total = sum(form(offsets, logits, boxes, torch.zeros_like(labels)))
        total.backward()
        assert total == 0 and logits.grad.abs().sum() == 0


def test_half_precision_outputs_are_summed_in_float32():
    offsets, logits, boxes, labels = random_case()
    low = MultiBoxLoss()(offsets.bfloat16(), logits.bfloat16(), boxes, labels)
    high = MultiBoxLoss()(offsets.bfloat16().float(), logits.bfloat16().float(), boxes, labels)
    assert low[0].dtype == torch.float32 and torch.equal(torch.stack(low), torch.stack(high))


def test_the_loss_of_a_float64_network_is_float64_and_default_boxes_stay_float32():
    loss = MultiBoxLoss().double()
    assert loss.default_boxes.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    offsets, logits = (torch.randn(1, 8732, n, generator=generator) for n in (4, 4))
    boxes = loss.default_boxes[None]
    labels = (torch.arange(8732) % 50 == 0).long()[None]
    exact = loss(offsets.double(), logits.double(), boxes, labels)
    assert all(part.dtype == torch.float64 for part in exact)
    for part, other in zip(exact, loss(offsets, logits, boxes, labels), strict=True):
        assert other.dtype == torch.float32 and float(other) == pytest.approx(float(part), rel=1e-5)
