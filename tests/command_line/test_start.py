"""Stop signals from a command's first line on, lost output, and whole runs that a signal to the group stops."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from command_line.start import FIRST_RANK, typed_command
from tests.conftest import PROJECT

HEAD = (
    "import os, signal, sys, time\nfrom command_line.start import prepare, start\nfrom command_line.streams import *\n"
)


def python(code, *arguments, shell='"$@"', **options):
    """A process that runs the code, started by a shell's words."""
    command = ["sh", "-c", f"exec {shell}", "sh", sys.executable, "-c", HEAD + code, *arguments]
    alone = {name: value for name, value in os.environ.items() if name != FIRST_RANK}  # of another test's run
    options = {
        "env": alone,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": PROJECT,
        **options,
    }
    return subprocess.run(command, timeout=120, **options)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_before_training_ends_with_code_75_and_the_command_quoted_for_a_shell(name):
    done = python(f"prepare(['py thon', 'train.py', '$x'])\nos.kill(os.getpid(), signal.{name})\ntime.sleep(60)")
    assert done.returncode == 75 and not done.stderr
    assert f"stopped by {name} before there was anything new to save" in done.stdout
    assert shlex.split(done.stdout.splitlines()[-1]) == ["py thon", "train.py", "$x"]


def test_a_signal_that_nohup_has_ignored_stays_ignored():
    done = python("prepare()\nos.kill(os.getpid(), signal.SIGHUP)\ntime.sleep(1)\nprint('on')", shell='nohup "$@"')
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_a_first_rank_decides_for_the_ranks_that_it_has_started():
    """A rank alone would leave the others waiting for it; and the first one knows whether anything is saved."""
    code = (
        "import subprocess\n"
        "if 'LOCAL_RANK' in os.environ:\n"
        "    prepare(['x'])\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
        "prepare(['first'])\n"
        "from training.stop_signals import EarlyStop\n"
        "rank = subprocess.Popen(sys.orig_argv, env={**os.environ, 'LOCAL_RANK': '1'})\n"
        "EarlyStop.current.end_first.append(rank.kill)\nrank.wait()\ntime.sleep(60)"
    )
    done = python(code)
    assert done.returncode == 75 and done.stdout.splitlines()[1:] == ["first"]


@pytest.mark.skipif(os.name != "posix", reason="a process there is not told that its parent is gone")
@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_rank_does_not_outlive_the_first_one_that_started_it(end):
    """A first rank that cannot listen for the others (its port is in use) would leave them waiting for half an hour."""
    code = (
        "import subprocess\n"
        "if 'LOCAL_RANK' in os.environ:\n"
        "    prepare(['x'])\n    print('waits', flush=True)\n    time.sleep(600)\n"
        "environment = {**os.environ, 'LOCAL_RANK': '1', 'SSD_FIRST_RANK': str(os.getpid())}\n"
        "rank = subprocess.Popen(sys.orig_argv, env=environment, stdout=subprocess.PIPE)\n"
        f"print(rank.pid, rank.stdout.readline(), flush=True)\n{end}"
    )
    since = time.monotonic()
    done = python(code)  # returns when nobody holds its output any more
    rank = int(done.stdout.split()[0])
    while is_there(rank) and time.monotonic() < since + 100:
        time.sleep(0.1)
    assert "waits" in done.stdout and not is_there(rank)


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state.startswith("Z")


def test_ctrl_c_ends_a_command_that_has_nothing_to_save_in_one_line_and_it_cleans_up(tmp_path):
    (tmp_path / "waits.py").write_text(
        "import os, signal, time\n"
        "def main(args):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(60)\n"
        "    finally:\n        print('cleaned up')\n"
    )
    done = python(f"sys.path.append({str(tmp_path)!r})\nstart('waits')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "stopped by SIGINT\n")


@pytest.mark.parametrize("door", ["evaluate.py", "predict.py", "export.py"])
def test_ctrl_c_while_a_command_starts_is_one_line_and_code_130(door, tmp_path):
    hook = "import os, signal, sys\nclass Sends:\n    def find_spec(self, name, *more):\n"
    hook += "        if name == 'torch':\n            os.kill(os.getpid(), signal.SIGINT)\n"
    hook += "sys.meta_path.insert(0, Sends())\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, door], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "stopped by SIGINT\n", "")


def test_output_that_nobody_takes_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = python("make_lasting()\nprint('x', flush=True)\nsay('last')", stdout=gone)
        assert (done.returncode, done.stderr) == (0, "last\n"), "what matters goes to the other one"
        assert python("make_lasting()\nsay('last')", shell='"$@" >&-').stderr == "last\n"
        assert python("make_lasting()\nprint('x')", stdout=gone, stderr=gone).returncode == 0


@pytest.mark.parametrize("closed", [1, 2])
def test_no_message_gets_into_a_file_that_has_the_number_of_a_closed_stream(closed, tmp_path):
    code = "make_lasting()\nfile = open(sys.argv[1], 'w')\nprint('a', flush=True)\nos.write(2, b'b')\nos.write(1, b'c')"
    done = python(code, str(tmp_path / "file"), shell=f'"$@" {closed}>&-')
    assert done.returncode == 0 and (tmp_path / "file").read_text() == ""
    assert (done.stdout, done.stderr) == (("", "b") if closed == 1 else ("a\nc", ""))


def test_the_typed_command_has_the_interpreter_and_torchrun_where_that_started_it(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "train.py", "--devices", "2"])
    monkeypatch.setattr(sys, "argv", ["train.py", "--devices", "2"])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert typed_command() == [sys.executable, "-X", "dev", "train.py", "--devices", "2"]
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    assert typed_command() == [*torchrun, "train.py", "--devices", "2"]


def train(sample, run_dir, hook, name, **options):
    """A run of train.py with two workers that sends its group the signal."""
    arguments = [
        *("--accelerator", "cpu", "--data_root", str(sample), "--run_dir", str(run_dir), "--num_workers", "2"),
        *("--batch_size", "2", "--model.backbone", "resnet18", "--trainer.num_sanity_val_steps", "0"),
        *("--trainer.callbacks+=tests.faults.places.SignalAt", f"--trainer.callbacks.hook={hook}"),
        f"--trainer.callbacks.name={name}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=PROJECT, env=environment, start_new_session=True, **options
    )


def test_sigterm_to_the_group_with_workers_saves_and_ends_with_code_75(sample, tmp_path):
    """As `timeout`, systemd and schedulers send it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = train(sample, tmp_path / "run", "on_train_batch_start", "SIGTERM", **pipes)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    command = shlex.split(out.splitlines()[-1])
    assert command[:2] == [sys.executable, "train.py"] and command[-2:] == ["--ckpt_path", "auto"]
    assert "Traceback" not in err and "died" not in err


def test_ctrl_c_through_tee_saves_and_ends_with_code_75(sample, tmp_path):
    """tee ends first, so every write of the progress bar and of the last message fails."""
    tee = subprocess.Popen(["tee", tmp_path / "log"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    process = train(sample, tmp_path / "run", "on_train_batch_start", "SIGINT", stdout=tee.stdin, stderr=tee.stdin)
    tee.stdin.close()
    while process.poll() is None and not (tmp_path / "run" / "signalled").exists():
        time.sleep(0.01)
    tee.send_signal(signal.SIGINT)
    assert process.wait(300) == 75
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("policy", [None, "active"])
def test_threads_that_wait_sleep_unless_the_user_wants_otherwise_and_torch_reads_it(policy):
    """It is read when torch is imported, so it must be there before."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    code = "import os, sys; from command_line.start import prepare; prepare(); early = 'torch' not in sys.modules"
    code += "; print(early, os.environ['OMP_WAIT_POLICY'])"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True).stdout
    assert said.split() == ["True", policy or "passive"]
