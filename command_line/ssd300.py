"""The command `ssd300`: every door of the project, from any directory.

ssd300 train --config demo --data_root data/sample
ssd300 evaluate --ckpt_path runs/0001/checkpoints/best.ckpt --data_root data/sample
"""

import runpy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from command_line.start import prepare, start

# Word -> the module of ours that has a `main`, and what it does.
COMMANDS = {
    "train": ("command_line.fit", "train, or resume a run"),
    "evaluate": ("command_line.evaluate", "COCO's numbers of a checkpoint or of detections, and a report"),
    "compare": ("command_line.compare", "whether one detector is better than another, or it is noise"),
    "benchmark": ("command_line.benchmark", "images per second of training or inference steps"),
    "predict": ("command_line.predict", "detect objects in pictures and videos"),
    "export": ("command_line.export", "write a checkpoint in another format"),
    "published": ("command_line.published", "the published recipe's main.py, with its flags"),
    "replay": ("command_line.replay", "one step of a run again, on two devices: where do they part?"),
    "check": ("coco.check", "look through a data set before training"),
    "convert": ("coco.convert", "make a COCO-format data set of YOLO, VOC, CVAT, Open Images or a table"),
    "sample": ("coco.sample", "write the built-in sample data set"),
    "info": ("checkpoints", "what a checkpoint is: network, classes, training, numbers"),
    "demo": ("command_line.demo", "a page on this machine: drop pictures, see boxes"),
    "devices": ("accelerators", "what Lightning will use on this machine"),
    "selftest": ("command_line.selftest", "whether a device trains and evaluates as the CPU does"),
}
# Run as `python -m` runs them: nothing imports them.
SCRIPTS = ("coco.check", "coco.convert", "coco.sample", "checkpoints", "accelerators")


def main() -> None:
    """Runs the command that the first argument names; imports no other."""
    word, *args = sys.argv[1:] or ["--help"]
    if word in ("--help", "-h", "help"):
        print(_help())
    elif word not in COMMANDS:
        sys.exit(f"ssd300 {word}: no such command. {_help()}")
    else:
        _command(word, args)()


def _command(word: str, args: Sequence[str]) -> Callable[[], object]:
    name = COMMANDS[word][0]
    if name in SCRIPTS:
        return partial(_run_script, name, args)
    return partial(start, name, args, [sys.argv[0], word, *args])


def _run_script(name: str, args: Sequence[str]) -> None:
    prepare()
    sys.argv = [f"ssd300 {name}", *args]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _help() -> str:
    commands = "\n".join(f"  {word:<10} {what}" for word, (_, what) in COMMANDS.items())
    configs = ", ".join(sorted(path.stem for path in (Path(__file__).parent.parent / "configs").glob("*.yaml")))
    return (
        f"usage: ssd300 COMMAND ...\n\n{commands}\n\n`ssd300 COMMAND --help` lists the flags of a command. "
        f"--config NAME takes one of: {configs}."
    )


if __name__ == "__main__":
    main()
