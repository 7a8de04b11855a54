"""Runs checks one after the other in a process of their own: one that dies or hangs fails, and the next ones go on.

python -m accelerators.selftest.running SETTING SKIP MODULE ...   (the process of the checks, which `run` starts)
"""

import importlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

import torch

from .. import backend
from .checks import FAILED, NOT_POSSIBLE, PASSED, Check, NotPossible, Result, Setting, Wrong

MARK = "\x1e"  # begins a line of the child that is for the parent; all else is the log
START_LIMIT = 300.0  # seconds, for imports
# torch_mlu's words for an operator without a kernel, which a process says once of each.
FALLS_BACK = re.compile(r"The operator '([^']+)' (?:is not currently supported|fails) on the \w+ backend and will fall")


def run(setting: Setting, modules: Sequence[str], tell: Callable[[Result], None]) -> list[Result]:
    """The results of all `CHECKS` of the modules, in order; `tell` gets each as it comes."""
    results: list[Result] = []
    while True:
        names = _child(setting, modules, results, tell)
        if len(results) >= len(names):
            return results


def _child(setting: Setting, modules: Sequence[str], results: list[Result], tell: Callable[[Result], None]) -> list:
    """Runs what is left until all is done, or one check has taken the process with it; the names of all checks."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(setting)), str(len(results)), *modules]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    assert child.stdout is not None
    checks: list[list[Any]] = []
    log: list[str] = []
    limits, began = [START_LIMIT], time.monotonic()  # the last one counts
    try:
        for line in _lines(child.stdout, limits):
            if line is None:
                raise TimeoutError(f"it hung: nothing for {limits[-1]:.0f} s")
            if not line.startswith(MARK):
                log.append(line)
                continue
            word, content = line.removeprefix(MARK).split(" ", 1)
            if word == "checks":
                checks = json.loads(content)
            elif word == "begin":
                limits.append(checks[len(results)][1])
                began, log = time.monotonic(), []
            else:
                results.append(with_fallbacks(Result(**json.loads(content), log="".join(log))))
                tell(results[-1])
        if not checks:
            sys.exit(f"the selftest did not start:\n{''.join(log)[-4000:]}")
        status = child.wait()
        if len(results) < len(checks):
            raise ChildProcessError(f"its process ended with {_status(status)}")
    except (TimeoutError, ChildProcessError) as error:
        if not checks:
            sys.exit(f"the selftest did not start within {START_LIMIT:.0f} s:\n{''.join(log)[-4000:]}")
        name, seconds = checks[len(results)][0], time.monotonic() - began
        results.append(Result(name, FAILED, str(error), {}, seconds, "".join(log)))
        tell(results[-1])
    finally:
        _end(child)
    return checks


def with_fallbacks(result: Result) -> Result:
    """The same, with the operators that its log says the CPU has computed in place of the device."""
    if fell := sorted({*FALLS_BACK.findall(result.log)}):
        result.figures["computed on the CPU"] = fell
        result.words += f"; computed on the CPU: {', '.join(fell)}"
    return result


def _lines(stream: IO[str], limits: Sequence[float]) -> Iterator[str | None]:
    """The lines of a stream; None where the next one took longer than the last of the limits."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=limits[-1])
        except queue.Empty:
            yield None
            return
        if line is None:
            return
        yield line


def _end(child: subprocess.Popen) -> None:
    """Whatever it has started goes with it."""
    with suppress(ProcessLookupError, PermissionError, AttributeError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main() -> None:
    setting = Setting(**json.loads(sys.argv[1]))
    listed = [check for name in sys.argv[3:] for check in getattr(importlib.import_module(name), "CHECKS", ())]
    checks = [check for check in listed if check.quick or not setting.quick]
    if setting.accelerator == "mlu":
        backend.require()
    _say("checks", [(check.name, check.limit) for check in checks])
    for check in checks[int(sys.argv[2]) :]:
        _say("begin", check.name)
        _say("end", asdict(result_of(check, setting)))
    sys.stdout.flush()


def result_of(check: Check, setting: Setting) -> Result:
    began = time.monotonic()
    torch.manual_seed(0)
    try:
        found = check.function(setting)
        result = Result(check.name, PASSED, found.words, dict(found.figures))
    except NotPossible as error:
        result = Result(check.name, NOT_POSSIBLE, str(error))
    except Wrong as error:
        result = Result(check.name, FAILED, str(error), error.figures)
    except Exception as error:
        traceback.print_exc()
        result = Result(check.name, FAILED, f"{type(error).__name__}: {str(error).strip()[:300]}")
    result.seconds = time.monotonic() - began
    return result


def _say(word: str, content: Any) -> None:
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key != "log"}
    sys.stderr.flush()
    print(f"\n{MARK}{word} {json.dumps(content)}", flush=True)


if __name__ == "__main__":
    main()
