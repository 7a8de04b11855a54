"""Does this device train and evaluate SSD as the CPU does? A table, and a zip with the results to send.

Needs no data. The exit code is 0 if no check failed. docs/selftest.md says what is checked, and has tables.
"""

import argparse
import sys
from collections.abc import Sequence

from accelerators.selftest import command
from command_line.shared import with_home
from ssd.model import FEATURE_CHANNELS

MODULES = (*command.GENERIC, "command_line.selftest_checks", "command_line.selftest_runs")


def main(args: Sequence[str] | None = None) -> int:
    """Parses the arguments (those of the process by default); the exit code."""
    parser = argparse.ArgumentParser(prog="ssd300 selftest", description=(__doc__ or "").partition("\n")[0])
    command.add_flags(parser)
    parser.add_argument("--backbone", choices=FEATURE_CHANNELS, help="of the network (resnet50; resnet18 with --quick)")
    flags = parser.parse_args(with_home(sys.argv[1:] if args is None else args))
    backbone = flags.backbone or ("resnet18" if flags.quick else "resnet50")
    return command.selftest(flags, MODULES, {"backbone": backbone})
