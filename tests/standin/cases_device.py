"""The stand-in fails where hardware fails and works where it works: one device, in the process itself.

Collected by tests/test_standin.py, which runs these files in a process of their own.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch_mlu
from torch.nn import functional as F

ON_ONE_DEVICE = "Expected all tensors to be on the same device"


@pytest.fixture
def on_mlu():
    return torch.arange(12.0).reshape(3, 4).to("mlu")


# ---- what must fail ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [
        lambda mlu, cpu: mlu + cpu,
        lambda mlu, cpu: cpu.add_(mlu),
        lambda mlu, cpu: mlu.mul_(cpu),
        lambda mlu, cpu: mlu @ cpu.T,
        lambda mlu, cpu: torch.cat([mlu, cpu]),
        lambda mlu, cpu: torch.stack([mlu[0, 0], cpu[0, 0]]),
        lambda mlu, cpu: torch.where(mlu > 0, mlu, cpu),
        lambda mlu, cpu: mlu.gather(1, torch.zeros(3, 1, dtype=torch.long)),
        lambda mlu, cpu: mlu.index_select(0, torch.tensor([0])),
        lambda mlu, cpu: F.linear(mlu, cpu),
        lambda mlu, cpu: F.cross_entropy(mlu, torch.zeros(3, dtype=torch.long)),
        lambda mlu, cpu: F.conv2d(mlu[None, None], torch.ones(1, 1, 2, 2)),
        lambda mlu, cpu: torch.add(mlu, mlu, out=torch.empty(3, 4)),
    ],
)
def test_cpu_and_mlu_operands_do_not_mix(on_mlu, operation):
    with pytest.raises(RuntimeError, match=ON_ONE_DEVICE):
        operation(on_mlu, torch.ones(3, 4))


@pytest.mark.parametrize("operation", [torch.add, lambda a, b: torch.mm(a, b.T), lambda a, b: torch.cat([a, b])])
def test_tensors_on_two_mlus_do_not_mix(on_mlu, operation):
    with pytest.raises(RuntimeError, match=f"{ON_ONE_DEVICE}.*mlu:0 and mlu:1"):
        operation(on_mlu, on_mlu.to("mlu:1"))


def test_an_mlu_index_into_a_cpu_tensor_is_refused():
    with pytest.raises(RuntimeError, match=ON_ONE_DEVICE):
        torch.ones(3)[torch.tensor([0], device="mlu")]


def test_what_cuda_takes_from_the_cpu_is_taken(on_mlu):
    number = torch.tensor(2.0)
    assert torch.equal((number * on_mlu).cpu(), 2 * on_mlu.cpu())
    assert torch.where(on_mlu > 5, on_mlu, number).device == on_mlu.device
    assert on_mlu.masked_fill(on_mlu > 5, number).max() == 5
    assert on_mlu[torch.tensor([0, 2])].shape == (2, 4)
    on_mlu[torch.tensor([1])] = 7.0
    assert on_mlu[1].unique().item() == 7


def test_numpy_raises_on_a_device_tensor(on_mlu):
    with pytest.raises(TypeError, match="can't convert mlu:0 device type tensor to numpy"):
        on_mlu.numpy()


@pytest.mark.parametrize("use", [lambda: torch.ones(1, device="mlu:2"), lambda: torch.mlu.set_device(2)])
def test_a_wrong_ordinal_names_the_devices_there_are(use):
    with pytest.raises(RuntimeError, match=r"ordinal 2: this process sees 2 MLU device\(s\), mlu:0 to mlu:1"):
        use()


def test_a_cpu_generator_does_not_draw_for_the_device():
    with pytest.raises(RuntimeError, match="Expected a 'mlu' device type for generator"):
        torch.rand(2, device="mlu", generator=torch.Generator())


# ---- tensors -------------------------------------------------------------------------------------


def test_its_names_say_that_it_is_a_stand_in():
    assert "stand-in" in torch.mlu.get_device_name()
    assert "stand-in" in torch.mlu.get_device_properties(0).name
    assert "standin" in torch_mlu.__version__


def test_tensors_and_modules_move_by_to_and_by_mlu():
    assert torch.ones(2).mlu().is_mlu
    assert torch.ones(2).to("mlu:1").device == torch.device("mlu", 1)
    assert torch.ones(2).mlu(1).cpu().device.type == "cpu"
    assert torch.nn.Linear(2, 2).mlu().weight.is_mlu
    with torch.mlu.device(1):
        assert torch.ones(2, device="mlu").device.index == 1
    assert torch.mlu.current_device() == 0


def test_views_stay_views(on_mlu):
    before = torch.mlu.memory_allocated()
    flat, transposed, tail = on_mlu.view(-1), on_mlu.t(), on_mlu[1:]
    assert torch.mlu.memory_allocated() == before
    for view in (flat, transposed, tail):
        assert view._is_view()
        assert view.untyped_storage().data_ptr() == on_mlu.data_ptr()
    flat[0], transposed[1, 0], tail[0, 0] = 100, 200, 300
    assert on_mlu[:2, :2].flatten().tolist() == [100, 200, 300, 5]


def test_views_of_inference_tensors_are_inference_tensors():
    with torch.inference_mode():
        view = torch.ones(2, 2, device="mlu").view(4).add_(1)
    assert view.is_inference()
    assert view.sum() == 8


def test_out_arguments_grow_and_in_place_operators_restride(on_mlu):
    out = torch.empty(0, device="mlu")
    torch.add(on_mlu, on_mlu, out=out)
    assert out.is_mlu
    assert torch.equal(out, on_mlu * 2)
    assert on_mlu.t_().shape == (4, 3)
    assert on_mlu[1, 2] == 9


def test_functional_losses_do_not_warn_of_resized_outputs(on_mlu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert F.mse_loss(on_mlu, on_mlu) == 0


def test_storage_can_be_set_resized_and_shared(on_mlu):
    assert torch.empty(0, device="mlu").set_(on_mlu).data_ptr() == on_mlu.data_ptr()
    assert torch.empty(0, device="mlu").set_(on_mlu.untyped_storage(), 1, (2,), (1,)).tolist() == [1, 2]
    assert torch.empty(2, device="mlu").set_().numel() == 0
    assert torch.empty(2, device="mlu").resize_(3, 3).shape == (3, 3)
    parameter = torch.nn.Parameter(torch.zeros(1, device="mlu"))
    parameter.data = on_mlu
    assert parameter.data_ptr() == on_mlu.data_ptr()


def test_conjugate_views_copy_as_their_values():
    value = torch.tensor([1 + 2j])
    assert value.to("mlu").conj().cpu().item() == 1 - 2j


def test_pickling_and_deepcopy_keep_the_device(on_mlu):
    for twin in (copy.deepcopy(on_mlu), pickle.loads(pickle.dumps(on_mlu))):
        assert twin.device == on_mlu.device
        assert torch.equal(twin, on_mlu)


def test_saved_tensors_load_back_to_any_device(on_mlu):
    saved = io.BytesIO()
    torch.save(on_mlu.to("mlu:1"), saved)
    for location, device in ((None, "mlu:1"), ("cpu", "cpu"), ("mlu:0", "mlu:0")):
        saved.seek(0)
        loaded = torch.load(saved, map_location=location, weights_only=True)
        assert loaded.device == torch.device(device)
        assert torch.equal(loaded.cpu(), on_mlu.cpu())


def test_channels_last_passes_through_a_convolution():
    convolution = torch.nn.Conv2d(3, 4, 3).to("mlu", memory_format=torch.channels_last)
    images = torch.rand(2, 3, 8, 8, device="mlu").to(memory_format=torch.channels_last).requires_grad_()
    out = convolution(images)
    out.sum().backward()
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert images.grad.is_contiguous(memory_format=torch.channels_last)


def test_torchvision_nms_runs_on_the_device():
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]], device="mlu")
    kept = nms(boxes, torch.tensor([0.5, 0.9, 0.1], device="mlu"), 0.5)
    assert kept.is_mlu
    assert kept.tolist() == [1, 2]


# ---- memory, streams, random numbers, switches ---------------------------------------------------


def test_memory_statistics_move_with_tensors():
    torch.mlu.reset_peak_memory_stats()
    before = torch.mlu.memory_allocated()
    tensor = torch.empty(1 << 20, device="mlu")
    result = tensor + 1  # memory that a kernel allocated counts as well
    assert torch.mlu.memory_allocated() == before + (8 << 20)
    assert torch.mlu.mem_get_info()[0] == torch.mlu.mem_get_info()[1] - torch.mlu.memory_allocated()
    del tensor, result
    assert torch.mlu.memory_allocated() == before
    assert torch.mlu.max_memory_allocated() == before + (8 << 20)
    assert torch.mlu.memory_stats()["allocated_bytes.all.current"] == before
    assert torch.mlu.memory_allocated(1) == 0


def test_pinned_memory_is_known_as_such():
    assert torch.ones(4).pin_memory().is_pinned()
    assert not torch.ones(4).is_pinned()
    loader = torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2, pin_memory=True)
    assert all(batch.is_pinned() and batch.to("mlu", non_blocking=True).is_mlu for batch in loader)


def test_streams_are_current_in_their_block_and_events_measure_time():
    stream, start, end = torch.mlu.Stream(), torch.mlu.Event(enable_timing=True), torch.mlu.Event(enable_timing=True)
    with torch.mlu.stream(stream):
        assert torch.mlu.current_stream() == stream
        start.record()
        torch.rand(200, 200, device="mlu").sum()
        end.record()
    assert torch.mlu.current_stream() == torch.mlu.default_stream() != stream
    torch.mlu.synchronize()
    assert start.elapsed_time(end) > 0


def test_random_numbers_come_from_the_devices_own_generator():
    torch.manual_seed(0)
    cpu_state = torch.get_rng_state()
    drawn = [torch.rand(8, device="mlu"), F.dropout(torch.ones(8, device="mlu")), torch.randperm(8, device="mlu")]
    drawn.append(torch.native_dropout(torch.ones(8, device="mlu"), 0.5, True)[0])  # takes no generator
    assert torch.equal(torch.get_rng_state(), cpu_state)
    assert not torch.equal(drawn[0].cpu(), torch.rand(8))
    torch.manual_seed(0)
    assert torch.equal(drawn[0], torch.rand(8, device="mlu"))


def test_the_random_state_of_each_device_can_be_kept_and_restored():
    states = torch.mlu.get_rng_state_all()
    first = [torch.randn(8, device=f"mlu:{index}") for index in range(2)]
    torch.mlu.set_rng_state_all(states)
    assert all(torch.equal(first[index], torch.randn(8, device=f"mlu:{index}")) for index in range(2))
    generator = torch.Generator("mlu").manual_seed(3)
    assert generator.initial_seed() == 3
    again = torch.Generator("mlu").manual_seed(3)
    assert torch.equal(torch.rand(4, device="mlu", generator=generator), torch.rand(4, device="mlu", generator=again))


def test_the_tf32_switches_exist():
    torch.backends.cnnl.allow_tf32 = False
    torch.backends.mlu.matmul.allow_tf32 = True
    assert not torch.backends.cnnl.allow_tf32
    assert torch.backends.mlu.matmul.allow_tf32


def test_pytorch_takes_it_for_the_accelerator():
    assert torch.accelerator.current_accelerator().type == "mlu"
    assert torch.accelerator.device_count() == torch.mlu.device_count() == 2
