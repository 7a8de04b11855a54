"""The compiled half of the stand-in, as `_C`."""

from . import build

_C = build.load()
