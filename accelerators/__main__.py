"""What Lightning will use on this machine, and what to do if that is no MLU.

python -m accelerators
python -m accelerators --selftest [--accelerator mlu] [--devices 2] [--quick]
"""

import argparse
import sys

from . import backend
from .facts import facts
from .selftest import command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m accelerators", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--selftest", action="store_true", help="test a device; all flags below are for this")
    command.add_flags(parser)
    flags = parser.parse_args()
    if flags.selftest:
        sys.exit(command.selftest(flags, command.GENERIC))
    for name, value in facts().items():
        print(f"{name + ':':<22} {value}")
    reason = backend.unavailable_reason()
    if reason is None:
        print('\nNext: Trainer(**accelerators.resolve_trainer_flags(accelerator="mlu", devices=1)), as in README.md')
    else:
        print(f"\nNo MLU can be used here.\n{reason}")


if __name__ == "__main__":
    main()
