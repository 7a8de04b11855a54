"""`--compile_training`, by a backend that compiles in no time: the graphs are inductor's, the kernels eager's."""

import subprocess
import sys

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.augment import normalise
from ssd.loss import MultiBoxLoss, loss_of_boxes
from tests.command_line.test_fit import KNOWN
from tests.conftest import PROJECT
from tests.ssd.test_matching import drawn_batch
from tests.training.test_resuming import arguments, assert_goes_on_exactly, run, whole_state
from training.compiled import compiled_loss, compiled_normalise

EAGER = ("--compile_training", "aot_eager")
ENOUGH_KERNELS = 50


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)  # which runs leave on; it takes more kernels
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that counts its graphs, and runs them as they are."""

    graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def outputs(images, classes=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, 8732, size, generator=generator).requires_grad_() for size in (4, classes + 1)]


def test_one_graph_matches_and_takes_the_loss_of_any_number_of_ground_truths():
    backend, criterion = Counting(), MultiBoxLoss(background_negatives=3)
    compiled = compiled_loss(backend)
    boxes, labels = (part[:2] for part in drawn_batch(10))  # 11 of them
    labels = labels.clamp(max=4)
    for count in (11, 5, 2, 1, 0):
        both = []
        for loss in (compiled, loss_of_boxes):
            leaves = outputs(2)
            value = sum(loss(criterion, *leaves, boxes[:, :count], labels[:, :count]))
            both.append((value.detach(), *torch.autograd.grad(value, leaves)))
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert backend.graphs == 1


def test_one_graph_changes_colours_to_the_same_bits():
    backend = Counting()
    compiled = compiled_normalise(backend)
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colour = torch.rand(3, 3, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(compiled(images, colour), normalise(images, colour))
    assert torch.equal(compiled(images), normalise(images)) and backend.graphs == 1


def test_a_compiled_run_goes_on_to_the_bit_and_its_checkpoints_are_any_others(small, straight, tmp_path):
    """With a moving average; from the middle of an epoch."""
    average = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"
    keep = "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave"
    run(small, tmp_path / "straight", *EAGER, average, keep)
    kept = tmp_path / "straight" / "checkpoints" / "kept_2_step.ckpt"
    assert_goes_on_exactly(small, tmp_path / "straight", tmp_path / "again", kept, *EAGER, average)
    names = torch.load(straight / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"].keys()
    assert torch.load(kept, weights_only=True)["state_dict"].keys() == names


def test_nothing_compiled_waits_for_the_device():
    """No operator whose result, or its shape, the host would have to read."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    waits, operators = [], []

    def seen(graph, inputs):
        for node in graph.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload):
                operators.append(node.target)
                by_numbers = node.target is torch.ops.aten.index.Tensor and all(
                    index is None or index.meta["val"].dtype == torch.int64 for index in node.args[1]
                )
                if reads & {*node.target.tags} and not by_numbers:  # a boolean index has the host count
                    waits.append(node.target)
        return make_boxed_func(graph.forward)

    reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    backend, (boxes, labels) = aot_autograd(fw_compiler=seen), drawn_batch(10)
    images, colour = torch.zeros(2, 3, 40, 40, dtype=torch.uint8), torch.rand(2, 3, 6)
    compiled_normalise(backend)(images, colour)
    loss = compiled_loss(backend)(MultiBoxLoss(), *outputs(2, 80), boxes[:2], labels[:2])
    sum(loss).backward()
    assert len(operators) > 50 and not waits


@pytest.mark.slow
def test_two_compiled_processes_train_what_two_others_do(small, tmp_path):
    """DDP's reductions stand around the compiled network; sums are in another order."""
    two = ("--devices", "2", "--strategy", "ddp")
    for name, more in (("compiled", EAGER), ("plain", ())):
        command = [sys.executable, "train.py", *arguments(small, tmp_path / name, *two, *more, KNOWN)]
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    assert_close(whole_state(tmp_path / "compiled")["state_dict"], whole_state(tmp_path / "plain")["state_dict"])


@pytest.mark.slow
def test_a_run_goes_on_with_compilation_switched_on_or_off(small, straight, tmp_path):
    """Sums in another order, so that it is not to the bit."""
    kept = straight / "checkpoints" / "kept_5_step.ckpt"
    run(small, tmp_path / "on", "--ckpt_path", str(kept), *EAGER)
    assert_close(whole_state(tmp_path / "on")["state_dict"], whole_state(straight)["state_dict"])
    run(small, tmp_path / "off", *EAGER, "--trainer.max_steps", "5")
    run(small, tmp_path / "off", "--ckpt_path", "last")
    assert_close(whole_state(tmp_path / "off")["state_dict"], whole_state(straight)["state_dict"])


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_compiler_that_is_not_there_is_refused_before_anything_runs(small, tmp_path):
    with pytest.raises(MisconfigurationException, match="--compile_training fast: expected true, false or a backend"):
        run(small, tmp_path / "run", "--compile_training", "fast")


@pytest.mark.slow
def test_colours_matching_and_loss_are_few_kernels():
    """Forward and backward, generated and called, as inductor counts them: each is a launch on an accelerator."""
    import torch._inductor.metrics as metrics
    from torch._dynamo.utils import counters

    metrics.reset()
    counters.clear()
    boxes, labels = drawn_batch(10)
    images, colour = torch.zeros(len(boxes), 3, 300, 300, dtype=torch.uint8), torch.rand(len(boxes), 3, 6)
    compiled_normalise("inductor")(images, colour)
    sum(
        compiled_loss("inductor")(MultiBoxLoss(background_negatives=3), *outputs(len(boxes), 80), boxes, labels)
    ).backward()
    assert not counters["graph_break"]
    assert 0 < metrics.generated_kernel_count + counters["inductor"]["extern_calls"] <= ENOUGH_KERNELS
