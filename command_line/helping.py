"""Help for people: the flags that are used daily on one screen, and what a mistyped one may have meant."""

import difflib
import re
import shutil
from argparse import Action
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ALL = "--help_all"
MOST_COLUMNS = 100
ABOUT = {  # of Lightning's flags, in a few words
    "config": "a YAML file, or the name of one in configs/; may be repeated",
    "accelerator": "cpu, cuda, mlu, ...",
    "devices": "how many, or which: 2 or 0,3",
    "strategy": "how devices work together",
    "num_nodes": "machines that train together",
    "precision": "auto, 32-true, bf16-mixed, 16-mixed, ...",
    "max_epochs": "epochs of the whole run",
    "deterministic": "true: the same bits in every run on a device",
    "seed": "of weights, order and augmentation",
    "data_root": "the data set: its directory, or its yaml",
    "ckpt_path": "a checkpoint: last and auto resume the run_dir's",
    "finetune_from": "a checkpoint whose weights to begin with",
    "print_config": "print the settings that would be used, and end",
    "class_agnostic": "true: all classes count as one",
    "run_dir": "directory of the run, by default runs/0001, ...",
    "save_every_minutes": "minutes between saves of last.ckpt",
    "save_every_n_steps": "steps between saves of last.ckpt",
    "stall_seconds": "report slow pictures after so long without any",
    "keep_epochs": "keep every K-th epoch's checkpoint too",
    "compile_training": "true: compile what a training step computes",
    "max_skipped_steps": "steps without finite gradients to leave out",
    "best_by": "the number of best.ckpt: mAP, val/loss, ...",
}
FIRST = ("data_root", "config", "ckpt_path", "accelerator", "devices")


def wants_help(args: Sequence[str]) -> bool:
    return any(arg in ("-h", "--help") for arg in args)


def with_whole_help(args: Sequence[str]) -> list[str]:
    """The arguments, with the parser's own word for all of the help."""
    return ["--help" if arg == ALL else arg for arg in args]


def short_help(prog: str, actions: Iterable[Action], short_flags: Mapping[str, str], defaults: Any) -> str:
    """The short flags and those of the command itself, a line each, as wide as the terminal.

    Args:
        actions: of the parser. short_flags: short -> long. defaults: of the parser, by long name.
    """
    by_name = {action.dest: action for action in actions}
    own = [name for name in by_name if "." not in name and name not in ("help", "config", "trainer", "model", "data")]
    names = {**{name: name for name in own if name not in short_flags.values()}, **short_flags, "config": "config"}
    order = sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    width = min(shutil.get_terminal_size((80, 24)).columns, MOST_COLUMNS)
    lines = [f"usage: {prog} [--config FILE] [--FLAG VALUE ...]", ""]
    for name in order:
        if names[name] not in by_name and name != "config":
            continue
        about = ABOUT.get(name) or _first_sentence(by_name[names[name]].help or "")
        default = defaults.get(names[name])
        told = f" [{default}]" if default not in (None, False) and name != "config" else ""
        lines.append(_cut(f"  --{name:<18} {about}", width - len(told)) + told)
    return "\n".join([*lines, "", f"Every flag, of Lightning's Trainer, too: {prog} {ALL}"])


def meant(told: str, flags: Iterable[str], short_flags: Mapping[str, str]) -> str:
    """What to add to a message about unrecognised arguments: the flag that is nearest to the first of them."""
    found = re.search(r"[Uu]nrecognized arguments: (--[\w.-]+)", told)
    if found is None:
        return ""
    wrong, known = found[1], [*flags, *(f"--{name}" for name in short_flags)]
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.7)
    if not near:  # a flag without the group that it is of, or of another
        last = wrong.removeprefix("--").rpartition(".")[2]
        by_last = {flag.rpartition(".")[2].removeprefix("--"): flag for flag in known}
        near = [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1, cutoff=0.8)]
    return f". Did you mean {near[0]}?" if near else f". {ALL} lists every flag"


def _first_sentence(text: str) -> str:
    text = " ".join(text.split())
    return re.split(r"(?<=[a-z0-9)])[.;:] ", text)[0].rstrip(".")


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."
