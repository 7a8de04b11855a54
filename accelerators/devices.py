"""What `devices=` may say for MLUs, and the ordinals it means. Plain data in, plain data out."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException

FORMS = 'a count (8 or "8"), all of them ("auto", -1 or "-1"), or ordinals ("0,2", "1," or [0, 2])'


def parse_devices(devices: Any, seen: int) -> list[int]:
    """The ordinals that `devices` means on a machine where `seen` MLUs are visible.

    A bare number is a count, a string with a comma or a list holds ordinals, as in Lightning for GPUs.
    """
    if isinstance(devices, str):
        devices = _parse_string(devices)
    if isinstance(devices, bool) or not isinstance(devices, (int, Sequence)) or isinstance(devices, bytes):
        raise _error(devices, f"expected {FORMS}")
    if isinstance(devices, int):
        return _first(devices, seen)
    return _chosen(devices, seen)


def _parse_string(text: str) -> int | list[int]:
    text = text.strip()
    if text == "auto":
        return -1
    try:
        if "," in text:
            return [int(part) for part in text.split(",") if part.strip()]
        return int(text)
    except ValueError:
        raise _error(text, f"expected {FORMS}") from None


def _first(count: int, seen: int) -> list[int]:
    if count == -1:
        count = seen
        if seen == 0:
            raise _error(-1, "all MLUs were asked for, but none is visible")
    if count == 0:
        raise _error(0, 'at least one MLU is needed; write accelerator="cpu" to run without')
    if count < 0:
        raise _error(count, f"a count is positive, or -1 for all {seen}")
    if count > seen:
        raise _error(count, f"{count} MLUs were asked for, but {seen} {_are(seen)} visible")
    return list(range(count))


def _chosen(ordinals: Sequence[Any], seen: int) -> list[int]:
    try:
        chosen = [int(ordinal) for ordinal in ordinals if not isinstance(ordinal, (bool, float))]
    except (TypeError, ValueError):
        chosen = []
    if len(chosen) != len(ordinals) or not chosen:
        raise _error(ordinals, f"expected {FORMS}")
    if len(set(chosen)) != len(chosen):
        raise _error(ordinals, f"each MLU once, but {sorted({o for o in chosen if chosen.count(o) > 1})} came twice")
    beyond = [ordinal for ordinal in chosen if not 0 <= ordinal < seen]
    if beyond:
        raise _error(ordinals, f"there is no MLU {beyond}: {seen} {_are(seen)} visible, ordinals 0 to {seen - 1}")
    return chosen


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _error(devices: Any, why: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"devices={devices!r} with accelerator='mlu': {why}. `python -m accelerators` lists the MLUs; "
        "MLU_VISIBLE_DEVICES chooses which of them a process sees."
    )
