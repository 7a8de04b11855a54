"""Each device half of a step on a stand-in MLU: the CPU's results, and no copy between host and device on the way."""

import pytest
import torch
from torch_mlu.testing import record_transfers

from coco.augment import normalise
from datamodule import COCODataModule
from ssd.default_boxes import ssd300_default_boxes
from ssd.loss import MultiBoxLoss
from ssd.matching import match
from ssd.postprocess import detect

DEFAULT_BOXES = ssd300_default_boxes()


@pytest.fixture(scope="module")
def batch(sample):
    """A training batch as the loader gives it."""
    return next(iter(COCODataModule(str(sample), batch_size=4, num_workers=0).train_dataloader()))


@pytest.fixture(scope="module")
def output():
    """offsets [2, A, 4] and logits [2, A, 5], spread like a trained model's."""
    torch.manual_seed(0)
    return torch.randn(2, len(DEFAULT_BOXES), 4), torch.randn(2, len(DEFAULT_BOXES), 5)


def on_mlu(function, *args):
    """The function's results from copies of the arguments on the device, and its transfers.

    Called twice: constants that belong on the device are sent there once in a process.
    """
    args = [arg.to("mlu") if isinstance(arg, torch.Tensor) else arg for arg in args]
    function(*args)
    with record_transfers() as transfers:
        results = function(*args)
    return [result.cpu() for result in results], transfers


@pytest.mark.parametrize("stage", ["train", "val"])
def test_colour_and_normalisation(batch, stage):
    def run(images, colour):
        return (normalise(images, colour if stage == "train" else None),)

    (images,), transfers = on_mlu(run, batch["images"], batch["colour"])
    assert torch.equal(images, *run(batch["images"], batch["colour"]))
    assert transfers == []


def test_matching(batch):
    arguments = (batch["boxes"], batch["labels"], DEFAULT_BOXES)
    results, transfers = on_mlu(match, *arguments)
    for ours, theirs in zip(results, match(*arguments), strict=True):
        assert torch.equal(ours, theirs)
    assert transfers == []


def test_loss_and_its_gradient(batch, output):
    def run(loss, offsets, logits, *targets):
        offsets, logits = (values[:, :].detach().requires_grad_() for values in (offsets, logits))
        parts = loss(offsets, logits, *targets)
        sum(parts).backward()
        return *parts, offsets.grad, logits.grad

    targets = match(batch["boxes"][:2], batch["labels"][:2], DEFAULT_BOXES)
    theirs = run(MultiBoxLoss(), *output, *targets)
    results, transfers = on_mlu(run, MultiBoxLoss().to("mlu"), *output, *targets)
    for ours, their in zip(results[:2], theirs[:2], strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-6, atol=0)  # the CPU's sums run in another order
    for ours, their in zip(results[2:], theirs[2:], strict=True):
        assert torch.equal(ours, their)
    assert transfers == []


@pytest.mark.parametrize("use_kernel", [True, False])
def test_detection_by_either_of_the_cpus_forms(output, use_kernel):
    (boxes, scores, labels), transfers = on_mlu(detect, *output, DEFAULT_BOXES)
    expected = detect(*output, DEFAULT_BOXES, use_kernel=use_kernel)
    assert (expected[2] > 0).all(), "200 detections each"
    # The CPU may take its softmax over fewer boxes, which rounds otherwise.
    torch.testing.assert_close(boxes, expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-6)
    assert torch.equal(labels, expected[2])
    assert {(found.direction, found.dtype, found.shape) for found in transfers} == {("d2h", "bool", (2,))}


def test_the_operator_that_needs_float64_is_refused(output):
    with pytest.raises(ValueError, match="use_kernel=True on an MLU"):
        on_mlu(lambda *arguments: detect(*arguments, use_kernel=True), *output, DEFAULT_BOXES)
