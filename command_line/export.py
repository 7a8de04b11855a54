"""The arguments of export.py: a checkpoint out of this project, by format."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.compatibility import check_is_ours
from checkpoints.files import is_published, read_checkpoint, write_durably
from checkpoints.published import from_ours
from command_line.shared import with_home

FORMATS = ("published",)


def main(args: Sequence[str] | None = None) -> None:
    """Parses the arguments (those of the process by default), and writes the file.

    Raises:
        CheckpointError: a checkpoint that cannot be read, a file that cannot be written.
        MisconfigurationException: a checkpoint that has the format already.
    """
    flags = _parser().parse_args(with_home(sys.argv[1:] if args is None else args))
    checkpoint = read_checkpoint(flags.ckpt_path)
    if is_published(checkpoint):
        raise MisconfigurationException(f"--ckpt_path {flags.ckpt_path}: has the published format already")
    check_is_ours(checkpoint, flags.ckpt_path)
    published = from_ours(checkpoint)
    write_durably(published, flags.output)
    trained = f"epoch {published['epoch']}, with the optimiser's state" if "optimizer" in published else "weights alone"
    print(f"{flags.output}: {flags.ckpt_path} in the published format ({trained})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Writes a checkpoint in another format.")
    add = parser.add_argument
    add("--ckpt_path", required=True, type=Path, metavar="FILE", help="a checkpoint of ours")
    add("--format", required=True, choices=FORMATS, help="published: the published recipe's .pt file")
    add("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    return parser
