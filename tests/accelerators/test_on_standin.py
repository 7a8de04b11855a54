"""accelerators/ on the stand-in device: one child pytest for one MLU, and a script on two, started in each way."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.standin.run import compile_standin, needs_standin, standin_env

CASES = Path(__file__).parent / "on_standin"
PROJECT = Path(__file__).parents[2]
pytestmark = needs_standin


@pytest.fixture(scope="module")
def device_checkpoint(tmp_path_factory) -> Path:
    """Runs all the cases for one MLU in one child; a checkpoint that one of them saved."""
    compile_standin()
    path = tmp_path_factory.mktemp("kept") / "mlu.ckpt"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(CASES)]
    child = start(command, KEEP_CHECKPOINT=path)
    output = finish(child)
    assert child.returncode == 0, output[-8000:]
    return path


@pytest.fixture(scope="module")
def popen(tmp_path_factory) -> list[dict]:
    """What the two ranks of the script saw, started by Lightning itself with devices=[1, 0]."""
    return facts(tmp_path_factory.mktemp("popen"), [sys.executable])


def test_every_case_for_one_mlu_passes(device_checkpoint):
    assert device_checkpoint.exists()


def test_row_load_from_checkpoint_an_mlu_checkpoint_opens_where_torch_mlu_is_absent(device_checkpoint, monkeypatch):
    monkeypatch.syspath_prepend(CASES)
    from toy import Toy

    assert "torch_mlu" not in sys.modules
    model = Toy.load_from_checkpoint(device_checkpoint, weights_only=True)
    assert model.device == torch.device("cpu")


def test_row_strategy_auto_with_two_devices_trains_the_same_weights_on_both(popen):
    assert [rank["device"] for rank in popen] == ["mlu:1", "mlu:0"]
    assert popen[0]["weights"] == popen[1]["weights"]


def test_row_sync_dist_logs_the_mean_over_the_ranks(popen):
    assert [rank["logged"] for rank in popen] == [1.5, 1.5]


def test_validation_and_prediction_are_shared_by_the_ranks(popen):
    assert popen[0]["validated"] == popen[1]["validated"] > 0
    assert [rank["predicted"] for rank in popen] == [2, 2]


def test_row_reduce_averages_without_the_average_operator(popen):
    for rank in popen:
        assert (rank["mean"], rank["average_operator"], rank["mean_of_integers"]) == (1.5, 1.5, 15)
        assert (rank["sum"], rank["largest"], rank["not_a_tensor"]) == (3, 2, "text")
        assert (rank["all"], rank["any"], rank["gathered"], rank["broadcast"]) == (False, True, [1, 2], {"from": 0})


def test_row_ddp_comm_hook_really_runs(popen):
    for rank in popen:
        assert rank["hook_calls"] >= 2 and rank["fp16_hook_calls"] >= 2 and rank["bf16_hook_runs"]


def test_row_process_group_is_cncl_and_is_destroyed_at_exit(popen):
    for rank in popen:
        assert rank["backend"] == "cncl" and rank["group_at_exit"] is False


def test_row_ddp_side_stream_gives_no_warning_of_streams(popen):
    text = "\n".join(warning for rank in popen for warning in rank["warnings"])
    assert "stream" not in text.lower()


def test_row_barrier_guesses_no_device(popen):
    text = "\n".join(warning for rank in popen for warning in rank["warnings"])
    assert "using the device under current context" not in text


def test_row_random_state_each_rank_saves_and_restores_its_own(popen):
    for rank in popen:
        assert rank["states_in_checkpoint"] == 2 and rank["states_differ"] and rank["own_state_restored"]


def test_fp16_with_accumulation_and_unused_parameters_agrees_on_both_ranks(popen):
    assert popen[0]["fp16_weights"] == popen[1]["fp16_weights"]
    assert popen[0]["fp16_dtype"] == "torch.float16"


def test_sync_batchnorm_shares_statistics_where_its_kernels_are(popen):
    assert popen[0]["own_statistics"] != popen[1]["own_statistics"]
    assert popen[0]["synced_statistics"] == popen[1]["synced_statistics"]


def test_row_training_epoch_loops_own_broadcast_of_int64_runs_over_cncl(popen):
    assert [rank["loop_broadcasts"] for rank in popen] == [["torch.int64"] * 2] * 2


def test_row_sigterm_handlers_collective_ends_every_rank(popen):
    assert [rank["sigterm"] for rank in popen] == ["SIGTERMException"] * 2


def test_row_spawned_processes_get_the_parents_random_state(tmp_path):
    ranks = facts(tmp_path, [sys.executable], "spawn")
    assert [rank["random_state"] for rank in ranks] == json.loads((tmp_path / "parent.json").read_text())
    assert ranks[0]["weights"] == ranks[1]["weights"]


@pytest.mark.slow  # tests/test_mlu.py has two such nodes train SSD each time
def test_two_nodes_of_one_mlu_each_train_together_under_torchrun(tmp_path, popen):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    torchrun += ["--master_addr", "127.0.0.1", "--master_port", port]
    script = [str(CASES / "two_mlus.py"), str(tmp_path), "nodes"]
    agents = [start([*torchrun, "--node_rank", str(node), *script]) for node in (0, 1)]
    outputs = [finish(agent) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(outputs)[-8000:]
    ranks = read(tmp_path)
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    assert ranks[0]["weights"] == ranks[1]["weights"] == popen[0]["weights"]


def with_a_lost_rank(**env: object) -> subprocess.Popen:
    """The rank that is left of two, after the other one died."""
    compile_standin()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "LOCAL_RANK": 0, **env}
    script = [sys.executable, str(CASES / "lost_rank.py")]
    left, dead = (start(script, NODE_RANK=node, **together) for node in (0, 1))
    finish(dead)
    assert dead.returncode == -signal.SIGKILL
    return left


def test_a_lost_rank_ends_the_others():
    left = with_a_lost_rank()
    output = finish(left)
    assert left.returncode == 134, output
    assert "Some CNCL operations have failed or timed out" in output


def test_what_the_environment_says_of_lost_ranks_stays():
    """Cncl's own default, 0, lets them wait for ever."""
    left = with_a_lost_rank(TORCH_CNCL_ASYNC_ERROR_HANDLING=0)
    with pytest.raises(subprocess.TimeoutExpired):
        left.wait(timeout=5)
    left.kill()
    assert "Some CNCL operations have failed or timed out" in left.communicate()[0]


def test_python_m_accelerators_lists_the_devices_and_what_auto_becomes():
    child = start([sys.executable, "-m", "accelerators"], MLU_VISIBLE_DEVICES="1,0")
    output = finish(child)
    assert child.returncode == 0, output
    for word in (
        "0.0+standin",
        "mlu:1",
        "GiB free",
        "bf16:",
        "registered",
        "MLU_VISIBLE_DEVICES=1,0",
        "MLUDDPStrategy",
        "a lost rank:",
        "TORCH_CNCL_ASYNC_ERROR_HANDLING=3",
        "matrix products no",
        "torch.compile:",
    ):
        assert word in output, output


def facts(out: Path, python: list[str], how: str = "popen") -> list[dict]:
    compile_standin()
    child = start([*python, str(CASES / "two_mlus.py"), str(out), how])
    output = finish(child)
    assert child.returncode == 0, output[-8000:]
    return read(out)


def read(out: Path) -> list[dict]:
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def start(command: list[str], **env: object) -> subprocess.Popen:
    wanted = standin_env(devices=2, OMP_NUM_THREADS=1, **env)
    wanted["PYTHONPATH"] = f"{wanted['PYTHONPATH']}:{PROJECT}"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=wanted, cwd=PROJECT, **pipe)


def finish(child: subprocess.Popen) -> str:
    try:
        return child.communicate(timeout=240)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        return "it did not end within 240 s\n" + child.communicate()[0]
