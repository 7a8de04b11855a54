"""The whole project on MLUs, which are stand-ins here: one child pytest for one MLU, and scripts for several.

What the CPU makes of their checkpoints is asked in this process, which never sees torch_mlu.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from command_line.evaluate import evaluate
from datamodule import COCODataModule
from evaluation.metric import NUMBERS
from tests.command_line.test_fit import KNOWN, refusal
from tests.conftest import PROJECT
from tests.mlu_on_standin.witness import BATCH, arguments, checkpoint, logged, ranks
from tests.standin.run import compile_standin, needs_standin, standin_env

CASES = Path(__file__).parent / "mlu_on_standin"
# Lightning asks every step whether rank 0 got a SIGTERM: it sends a number, broadcasts it and reads it.
SIGTERM = [f"{way} int64 [1] pytorch_lightning/loops/training_epoch_loop.py" for way in ("h2d", "d2h")]
# And every step the ranks agree whether one of them was told to stop, or to save; the answer is read a step later.
AGREEMENT = ["d2h int32 [] training/ranks.py"]
WITHOUT_VALIDATION = ("--trainer.limit_val_batches", "0")


@pytest.fixture(scope="module")
def two(sample, tmp_path_factory) -> Path:
    """The run directory of `train.py --accelerator mlu --devices 2`, four steps of 2 x 2 pictures."""
    compile_standin()
    run_dir = tmp_path_factory.mktemp("two")
    more = ("--devices", "2", "--trainer.check_val_every_n_epoch", "1")
    output = together(start("train.py", "--config", "configs/demo_mlu.yaml", *arguments(sample, run_dir, "mlu", *more)))
    assert "2 x MLU stand-in" in output
    return run_dir


@needs_standin
def test_every_case_for_one_mlu_passes(sample, tmp_path):
    compile_standin()
    pytest_of_the_cases = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(CASES))
    together(start(*pytest_of_the_cases, SAMPLE=sample, OUT=tmp_path))


@needs_standin
def test_two_mlus_train_one_model(two):
    first, second = ranks(two, 2)
    assert [first["device"], second["device"]] == ["mlu:0", "mlu:1"]
    for rank in (first, second):
        assert (rank["world_size"], rank["strategy"], rank["backend"]) == (2, "MLUDDPStrategy", "cncl")
        assert rank["global_step"] == 4
    assert first["weights"] == second["weights"]


@needs_standin
def test_a_training_step_on_two_mlus_moves_the_batch_and_words_on_signals(two):
    for rank in ranks(two, 2):
        assert rank["steps"][2] == [*BATCH, *AGREEMENT, *SIGTERM]


@needs_standin
def test_a_checkpoint_of_two_mlus_evaluates_alike_on_them_and_on_a_cpu_without_torch_mlu(two, sample, tmp_path):
    common = ("--ckpt_path", str(two / "checkpoints" / "last.ckpt"), "--data_root", str(sample), "--num_workers", "0")
    json_path = tmp_path / "two.json"
    flags = ("--batch_size", "2", "--accelerator", "mlu", "--devices", "2", "--json", str(json_path), KNOWN)
    together(start("evaluate.py", *common, *flags))
    assert "torch_mlu" not in sys.modules
    one = evaluate([*common, "--batch_size", "2", "--accelerator", "cpu"])
    expected = pytest.approx({name: one[name] for name in NUMBERS}, abs=1e-4)
    assert json.loads(json_path.read_text()) == expected
    assert {name: logged(two, f"val/{name}")[-1][1] for name in NUMBERS} == expected


@needs_standin
@pytest.mark.slow
def test_two_mlus_train_with_the_largest_batch_that_one_holds_and_a_resumed_run_keeps_it(sample, tmp_path):
    common = arguments(sample, tmp_path, "mlu", "--devices", "2", "--batch_size", "auto", *WITHOUT_VALIDATION)
    output = together(start("train.py", *common, STANDIN_MLU_MEMORY_LIMIT=150_000_000))
    batch = re.search(r"^batch: 2 x (\d+), ", output, re.MULTILINE)[0]
    assert batch in ("batch: 2 x 8, ", "batch: 2 x 10, ") and output.count("looking for the largest batch") == 1
    first, second = ranks(tmp_path, 2)
    assert first["weights"] == second["weights"]
    again = together(start("train.py", *common, "--max_epochs", "2", "--ckpt_path", "last"))
    assert batch in again and "looking for" not in again


@needs_standin
def test_two_nodes_of_one_mlu_under_torchrun_train_as_two_mlus_of_one_node(two, sample, tmp_path):
    args = arguments(sample, tmp_path, "mlu", "--devices", "1", "--num_nodes", "2", *WITHOUT_VALIDATION)
    together(*torchrun(2, 1, args))
    found = ranks(tmp_path, 2)
    assert [(rank["node_rank"], rank["local_rank"], rank["device"]) for rank in found] == [
        (0, 0, "mlu:0"),
        (1, 0, "mlu:0"),
    ]
    assert {rank["environment"] for rank in found} == {"TorchElasticEnvironment"}
    assert {rank["weights"] for rank in found} == {ranks(two)[0]["weights"]}


@needs_standin
def test_two_nodes_of_one_mlu_under_slurm_train_as_two_mlus_of_one_node(two, sample, tmp_path):
    args = arguments(sample, tmp_path, "mlu", "--devices", "1", "--num_nodes", "2", *WITHOUT_VALIDATION)
    together(*slurm(args))
    found = ranks(tmp_path, 2)
    assert {(rank["environment"], rank["strategy"]) for rank in found} == {("SLURMEnvironment", "MLUDDPStrategy")}
    assert [(rank["node_rank"], rank["world_size"]) for rank in found] == [(0, 2), (1, 2)]
    assert {rank["weights"] for rank in found} == {ranks(two)[0]["weights"]}


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", [pytest.param("mlu", marks=needs_standin), "cpu"])
def test_two_nodes_of_two_processes_hold_the_same_weights(accelerator, sample, tmp_path):
    args = arguments(sample, tmp_path, accelerator, "--devices", "2", "--num_nodes", "2", *WITHOUT_VALIDATION)
    together(*torchrun(2, 2, args))
    found = ranks(tmp_path, 4)
    assert [(rank["node_rank"], rank["local_rank"], rank["world_size"]) for rank in found] == [
        (0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 4),
    ]  # fmt: skip
    assert {rank["backend"] for rank in found} == {"cncl" if accelerator == "mlu" else "gloo"}
    assert len({rank["weights"] for rank in found}) == 1


@pytest.mark.slow
@needs_standin
def test_eight_mlus_train_and_validate_and_four_go_on(sample, tmp_path):
    frozen = ("--batch_size", "1", "--model.freeze", "[norm]", "--trainer.limit_train_batches", "1.0")
    each_epoch = ("--trainer.check_val_every_n_epoch", "1")
    for devices, epochs, more in ((8, 1, ()), (4, 2, ("--ckpt_path", "last"))):
        flags = ("--devices", str(devices), "--max_epochs", str(epochs), *frozen, *each_epoch, *more)
        together(start("train.py", *arguments(sample, tmp_path, "mlu", *flags), STANDIN_MLU_DEVICES=8))
        found = ranks(tmp_path, devices)
        assert {rank["world_size"] for rank in found} == {devices}
        assert [rank["device"] for rank in found] == [f"mlu:{ordinal}" for ordinal in range(devices)]
        assert len({rank["weights"] for rank in found}) == 1
        assert len(logged(tmp_path, "val/mAP")) == epochs
    steps = COCODataModule(str(sample)).num_train_images // 4  # in an epoch, on four
    assert {rank["global_step"] for rank in found} == {2 * steps}


@pytest.mark.slow
@needs_standin
@pytest.mark.parametrize("kind", ["slow", "dies"])
@pytest.mark.parametrize("launched_by", ["lightning", "torchrun", "slurm"])
def test_a_rank_that_is_slow_is_waited_for_and_one_that_dies_ends_the_others(sample, tmp_path, launched_by, kind):
    trouble = ("--trainer.callbacks+", "tests.mlu_on_standin.trouble.Trouble", "--trainer.callbacks.kind", kind)
    args = ("--save_every_n_steps", "1", *WITHOUT_VALIDATION, *trouble)
    children = launched(launched_by, arguments(sample, tmp_path, "mlu", *args))
    if kind == "slow":
        together(*children)
        assert len({rank["weights"] for rank in ranks(tmp_path, 2)}) == 1
        return
    try:
        outputs = [child.communicate(timeout=300)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert all(child.returncode for child in children), outputs
    assert checkpoint(tmp_path)["global_step"] in (1, 2)  # to go on from


def launched(launched_by: str, args: list[str]) -> list[subprocess.Popen]:
    """Two ranks of train.py: of one node by Lightning, of two by torchrun or SLURM."""
    if launched_by == "lightning":
        return [start("train.py", *args, "--devices", "2")]
    args = [*args, "--devices", "1", "--num_nodes", "2"]
    return torchrun(2, 1, args) if launched_by == "torchrun" else slurm(args)


def test_without_torch_mlu_the_message_says_how_to_get_it_and_what_to_do_instead(tmp_path):
    told = refusal(["--accelerator", "mlu", "--run_dir", str(tmp_path / "run")])
    for part in ("torch_mlu (Cambricon's PyTorch backend) is not installed", "container", "--accelerator cpu"):
        assert part in told, told
    assert "cuda" in told.lower()
    assert not (tmp_path / "run").exists()


def start(*command: str, **env: object) -> subprocess.Popen:
    """A script of the project, or `-m module`, on a machine with two stand-in MLUs."""
    wanted = standin_env(devices=2, OMP_NUM_THREADS=1, **env)
    wanted["PYTHONPATH"] = f"{wanted['PYTHONPATH']}{os.pathsep}{PROJECT}"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], env=wanted, cwd=PROJECT, **pipe)


def torchrun(nodes: int, processes: int, args: Sequence[str]) -> list[subprocess.Popen]:
    """One agent for each "node" of this machine, each with its own processes of train.py."""
    agent = ["-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc_per_node", str(processes)]
    agent += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [start(*agent, "--node_rank", str(node), "train.py", *args) for node in range(nodes)]


def slurm(args: Sequence[str]) -> list[subprocess.Popen]:
    """The tasks of a job on two nodes, one each, as `srun` starts them."""
    job = {"SLURM_JOB_ID": 4242, "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 1, "SLURM_NNODES": 2}
    job |= {"SLURM_NODELIST": "localhost", "SLURM_LOCALID": 0, "MASTER_PORT": free_port()}
    return [start("train.py", *args, **job, SLURM_PROCID=node, SLURM_NODEID=node) for node in (0, 1)]


def together(*children: subprocess.Popen) -> str:
    """Waits for processes that need each other; returns what they printed, or fails with it if one of them failed."""
    try:
        outputs = [child.communicate(timeout=900)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    printed = "\n".join(outputs)
    assert [child.returncode for child in children] == [0] * len(children), printed[-8000:]
    return printed


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
