"""The stand-in over several processes and under its environment variables.

Collected by tests/test_standin.py, which runs these files in a process of their own.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from tests.standin.run import STANDIN, run_snippet, standin_env

WORKER = Path(__file__).with_name("worker.py")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def rank_env(rank: int, port: int) -> dict[str, object]:
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _spawned(arguments: list, env: dict[str, str]) -> None:
    os.environ.update(env)
    sys.argv[1:] = map(str, arguments)
    runpy.run_path(str(WORKER), run_name="__main__")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What worker.py found. Rank 0 was started with Popen, rank 1 spawned by a process that uses MLUs itself."""
    port, files = free_port(), [tmp_path_factory.mktemp("ranks") / f"{rank}.json" for rank in range(2)]
    envs = [standin_env(**rank_env(rank, port), OMP_NUM_THREADS=1) for rank in range(2)]
    torch.mlu.init()
    first = subprocess.Popen([sys.executable, WORKER, files[0]], env=envs[0])
    second = torch.multiprocessing.get_context("spawn").Process(target=_spawned, args=([files[1]], envs[1]))
    second.start()
    second.join(timeout=240)
    assert [first.wait(timeout=240), second.exitcode] == [0, 0]
    return [json.loads(file.read_text()) for file in files]


def test_collectives_give_every_rank_the_right_tensors(ranks):
    for rank, found in enumerate(ranks):
        assert found["backend"] == "cncl"
        assert found["collectives"] == {
            "all_reduce": [3.0, 3.0], "all_reduce_max": [1.0],
            "broadcast": [2.0], "reduce": [3.0] if rank == 0 else None,
            "all_gather": [[0.0], [1.0]], "all_gather_into_tensor": [0.0, 1.0],
            "reduce_scatter": [2.0 * rank], "reduce_scatter_tensor": [2.0 * rank], "scatter": [5.0 + rank],
            "gather": [[0.0], [1.0]] if rank == 0 else None, "all_to_all_single": [float(rank), 10.0 + rank],
            "receive": [7.0], "asynchronous": [2.0], "future": [[2.0]],
        }  # fmt: skip


def test_collectives_of_python_objects_go_through_cncl(ranks):
    for found in ranks:
        assert found["objects"]["all_gather_object"] == [{"rank": 0}, {"rank": 1}]
        assert found["objects"]["broadcast_object_list"] == ["rank 1"]


def test_averaging_in_a_collective_raises(ranks):
    for found in ranks:
        assert "does not support ReduceOp.AVG" in found["errors"]["average"]
        assert "does not support ReduceOp.AVG" in found["errors"]["average reduce_scatter"]


def test_cpu_tensors_in_collectives_raise(ranks):
    for found in ranks:
        assert "No backend type associated with device type cpu" in found["errors"]["cpu tensor"]
        assert "dense MLU tensors only, got a tensor on cpu" in found["errors"]["cpu tensor, backend"]


@pytest.mark.parametrize(
    "form",
    ["plain", "find_unused_parameters", "static_graph", "gradient_as_bucket_view", "fp16_compress_hook", "sync_bn"],
)
def test_data_parallel_training_gives_both_ranks_the_same_weights(ranks, form):
    first, second = (found["ddp"][form] for found in ranks)
    assert first["moved"]
    assert first["weights"] == second["weights"]
    assert first["gradients are views"] == (form == "gradient_as_bucket_view")


def test_data_parallel_training_averages_the_gradients_of_the_ranks(ranks):
    assert ranks[0]["ddp equals one process"]


def test_synchronised_batch_norm_normalises_over_both_ranks(ranks):
    assert ranks[0]["sync_bn equals one process"]
    assert ranks[1]["sync_bn equals one process"]


# ---- forks ---------------------------------------------------------------------------------------

FORKS = """
import os, sys, torch, torch_mlu

def in_a_fork(act):
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            print("fine", act())
        except RuntimeError as error:
            print(error)
        sys.stdout.flush()
        os._exit(0)
    os.wait()

torch.mlu.is_available()
in_a_fork(lambda: torch.ones(2, device="mlu").sum().item())
x = torch.ones(2, device="mlu")
for use in (lambda: x + 1, lambda: torch.ones(1, device="mlu"), x.cpu, lambda: torch.mlu.set_device(1)):
    in_a_fork(use)
in_a_fork(lambda: (torch.manual_seed(0), torch.ones(2).sum().item())[1])
"""


@pytest.fixture(scope="module")
def forks() -> dict[int, list[str]]:
    """What each forked child said, without (0) and with (1) CNDEV's check for devices."""
    return {check: run_snippet(FORKS, PYTORCH_CNDEV_BASED_MLU_CHECK=check).splitlines() for check in (0, 1)}


REFUSAL = "Cannot re-initialize MLU in forked subprocess"


def test_use_after_a_fork_raises(forks):
    for said in forks.values():
        assert [line.startswith(REFUSAL) for line in said[1:5]] == [True] * 4


def test_a_forked_child_may_work_on_the_cpu(forks):
    assert [said[5] for said in forks.values()] == ["fine 2.0"] * 2


def test_asking_for_devices_is_safe_before_a_fork_only_with_cndevs_check(forks):
    assert forks[1][0] == "fine 2.0"
    assert forks[0][0].startswith(REFUSAL)


# ---- environment variables and files -------------------------------------------------------------


def test_an_emulated_card_is_as_its_environment_says():
    out = run_snippet(
        """
import torch, torch_mlu, warnings
print(torch.mlu.device_count(), torch.mlu.get_device_properties(0).physical_index)
print(torch.mlu.get_device_capability(), torch.mlu.is_bf16_supported())
with warnings.catch_warnings(record=True) as caught, torch.autocast("mlu", dtype=torch.bfloat16):
    print(len(caught), torch.is_autocast_enabled("mlu"))
try:
    torch.zeros(1 << 21, device="mlu")
except RuntimeError as error:
    print(type(error).__name__, error)
keeps = torch.ones(1 << 18, device="mlu")
try:
    keeps + 1
except torch.OutOfMemoryError as error:
    print("a result,", error)
print(torch.mlu.memory_stats()["num_ooms"], torch.tensor([2**31 - 1, -(2**31)], device="mlu").tolist())
large = torch.tensor([2**31 - 1], device="mlu") + 1
print(large.item(), (large * 2 == 2**32).item(), large.gather(0, torch.tensor([0], device="mlu")).item())
for computes_in_int32 in (large.abs, large.max, lambda: large.clamp_(max=5), lambda: large.sort().values):
    try:
        computes_in_int32()
    except RuntimeError as error:
        print(error)
third = torch.tensor([1 / 3], dtype=torch.float64)
print(third.mlu().item() == third.float().item(), (third.mlu() + 1).item() == (third.float() + 1).item())
""",
        devices=4, MLU_VISIBLE_DEVICES="3,1", STANDIN_MLU_CAPABILITY="3.0", STANDIN_MLU_MEMORY_LIMIT=1_500_000,
        ENABLE_MLU_OVERFLOW_CHECK=1,
    ).splitlines()  # fmt: skip
    assert out[:3] == ["2 3", "(3, 0) False", "0 True"]  # torch_mlu lists bfloat16 whatever the card
    assert out[3].startswith("OutOfMemoryError MLU out of memory. Tried to allocate 8.00 MiB.")
    assert out[4].startswith("a result, MLU out of memory")
    assert out[5] == "2 [2147483647, -2147483648]"
    assert out[6] == f"{2**31} True {2**31}"
    assert out[7:11] == ["Overflow occurred! there is a tensor that does cast from int64 value to int32."] * 4
    assert out[11] == "True True"


@pytest.mark.parametrize("enabled", [1, 0])
def test_an_operator_without_a_kernel_falls_back_with_a_warning_or_is_an_error(enabled):
    code = """
import torch, torch_mlu, warnings
values = torch.tensor([1.0, 2.0], device="mlu")
with warnings.catch_warnings(record=True) as caught:
    try:
        print(values.erf().device, values.erf().cpu().equal(values.cpu().erf()))
    except NotImplementedError as error:
        print(error)
    print(*(warning.message for warning in caught))
"""
    out = run_snippet(code, STANDIN_MLU_NO_KERNEL="erf", ENABLE_FALLBACK_TO_CPU=enabled).splitlines()
    if enabled:
        assert out[0] == "mlu:0 True"
        told = "The operator 'aten::erf' is not currently supported on the MLU backend and will fall back"
        assert out[1].startswith(told) and out[1].count("aten::erf") == 1
    else:
        assert out[0].startswith("The operator 'aten::erf' is not currently implemented for the MLU device")


def test_gradient_hooks_are_registered_by_the_packages_own_function():
    code = """
import torch, torch_mlu, torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel
own = torch_mlu._MLUC._c10d_mlu
assert dist._register_comm_hook is own._register_comm_hook
dist.init_process_group("cncl", store=dist.HashStore(), rank=0, world_size=1)
layer = torch.nn.Linear(3, 2).to("mlu")
wrapped = DistributedDataParallel(layer)
wrapped.register_comm_hook(None, fp16_compress_hook)
wrapped(torch.full((4, 3), 1 / 3, device="mlu")).sum().backward()
print(own.registered, layer.weight.grad.half().float().equal(layer.weight.grad))
"""
    assert run_snippet(code).splitlines() == ["['fp16_compress_hook'] True"]


AUTOLOAD = f"{STANDIN / 'autoload'}{os.pathsep}{STANDIN}"


def test_import_torch_alone_loads_it_where_it_has_an_entry_point():
    code = "import torch; print(torch.ones(2, device='mlu').sum().item(), torch.mlu.device_count())"
    assert run_snippet(code, PYTHONPATH=AUTOLOAD) == "2.0 2\n"
    known = "import torch; print(hasattr(torch, 'mlu'))"
    assert run_snippet(known, PYTHONPATH=AUTOLOAD, TORCH_DEVICE_BACKEND_AUTOLOAD=0) == "False\n"


def test_averages_are_reduced_where_the_newer_library_is_meant():
    code = """
import sys, torch, torch_mlu, torch.distributed as dist
store = dist.HashStore()
dist.init_process_group("cncl", store=store, rank=0, world_size=1)
value = torch.tensor([3.0], device="mlu")
dist.all_reduce(value, op=dist.ReduceOp.AVG)
print(value.item())
"""
    assert run_snippet(code, STANDIN_MLU_AVG=1) == "3.0\n"


def test_a_process_may_have_no_device():
    out = run_snippet(
        "import torch, torch_mlu\ntorch.manual_seed(0)\nprint(torch.mlu.is_available())\n"
        "try:\n    torch.ones(1, device='mlu')\nexcept RuntimeError as error:\n    print(error)\n",
        MLU_VISIBLE_DEVICES="",
    )
    assert out.startswith("False\nNo MLU devices are available")


def test_a_checkpoint_from_the_device_loads_where_torch_mlu_is_absent_if_mapped_to_the_cpu(tmp_path):
    torch.save({"weight": torch.arange(3.0, device="mlu")}, tmp_path / "saved.pt")
    load = (
        f"import torch\nfile = {str(tmp_path / 'saved.pt')!r}\n"
        "print(torch.load(file, map_location='cpu', weights_only=True)['weight'].tolist())\n"
        "try:\n    torch.load(file, weights_only=True)\nexcept RuntimeError as error:\n    print('without:', error)\n"
        "assert not hasattr(torch, 'mlu')\n"
    )
    out = run_snippet(load, PYTHONPATH=None)
    assert out.startswith("[0.0, 1.0, 2.0]\nwithout: ")
