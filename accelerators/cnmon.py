"""Utilisation, memory, temperature and power of an MLU, as the `cnmon` command reports them.

Written from published outputs and from what other monitoring tools read, never run on hardware:
- `cnmon info -c N -e -m -p -u`: a `Card N` line, then indented sections of `name : value unit` lines. Read here:
  Utilization (`MLU Average : 0 %`), Physical Memory Usage (`Total`, `Used`, in MiB), Temperature (`Board`, `Chip`, in
  C) and Power (`Usage`, `Cap`, in W).
- the table of plain `cnmon` (CNMON v5.10): two rows a card, `| 0 / MLU370-X8 v1.1.6 | 0000:39:00.0 | 0% N/A |` and
  `| 0% 32C 106 W/ 250 W | 0 MiB/ 23374 MiB | N/A Default |`. Used when the first form gives nothing.
- `cnmon info -e -m -u -j`, which writes cnmon_info.json where it is started: of all cards the same sections as objects
  (`CnmonInfo[].CardNum`, `PhysicalMemUsage`, `Temperature.Chip`, `Utilization.MLUAverage`). Used last.
Whatever cannot be read is left out; without the command, or where it is not certain which card a process has, the
answer is `{}`.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .backend import VISIBLE_DEVICES

# (section, name) in `cnmon info` -> the key in our statistics
INFO_FIELDS = {
    ("utilization", "mlu average"): "utilization (%)",
    ("physical memory usage", "used"): "memory.used (MiB)",
    ("physical memory usage", "total"): "memory.total (MiB)",
    ("temperature", "board"): "temperature.board (C)",
    ("temperature", "chip"): "temperature.chip (C)",
    ("power", "usage"): "power.usage (W)",
    ("power", "cap"): "power.cap (W)",
}
TABLE_HEAD = re.compile(r"^\|\s*(?P<card>\d+)\s+[^|]*\|[^|]*\|\s*(?:(?P<utilization>[\d.]+)\s*%)?")
TABLE_BODY = {
    "temperature.board (C)": re.compile(r"\s([\d.]+)\s*C\b"),
    "power.usage (W)": re.compile(r"([\d.]+)\s*W\s*/"),
    "power.cap (W)": re.compile(r"/\s*([\d.]+)\s*W\b"),
    "memory.used (MiB)": re.compile(r"([\d.]+)\s*MiB\s*/"),
    "memory.total (MiB)": re.compile(r"/\s*([\d.]+)\s*MiB\b"),
}

JSON_FIELDS = {
    ("Utilization", "MLUAverage"): "utilization (%)",
    ("PhysicalMemUsage", "Used"): "memory.used (MiB)",
    ("PhysicalMemUsage", "Total"): "memory.total (MiB)",
    ("Temperature", "Board"): "temperature.board (C)",
    ("Temperature", "Chip"): "temperature.chip (C)",
    ("Power", "Usage"): "power.usage (W)",
    ("Power", "Cap"): "power.cap (W)",
}
TRIES = 3  # in a row without an answer, after which the command is left alone


class CnmonReader:
    """Asks cnmon for one card, at most once in `interval` seconds (a process start is slow beside a training step).

    Between two questions the last answer is given again. A cnmon that is missing is not asked again, nor is one that
    has failed or hung `TRIES` times in a row.
    """

    def __init__(self, interval: float = 30.0, timeout: float = 5.0) -> None:
        self.interval = interval
        self.timeout = timeout
        self._answers: dict[int, tuple[float, dict[str, float]]] = {}
        self._failures = 0

    def __call__(self, ordinal: int) -> dict[str, float]:
        """The statistics of the process's MLU `ordinal`; `{}` if there are none."""
        asked, stats = self._answers.get(ordinal, (-self.interval, {}))
        now = time.monotonic()
        if self._failures == TRIES or now - asked < self.interval:
            return dict(stats)
        stats = device_stats(ordinal, self.timeout)
        self._failures = 0 if stats else TRIES if shutil.which("cnmon") is None else self._failures + 1
        self._answers[ordinal] = (now, stats)
        return dict(stats)


def device_stats(ordinal: int, timeout: float = 5.0) -> dict[str, float]:
    """What cnmon says of the process's MLU `ordinal`; `{}` without the command, in time, or in a form that is known."""
    card = physical_card(ordinal)
    if card is None or shutil.which("cnmon") is None:
        return {}
    info = _run(["cnmon", "info", "-c", str(card), "-e", "-m", "-p", "-u"], timeout)
    return parse_info(info, card) or parse_table(_run(["cnmon"], timeout), card) or _from_json(card, timeout)


def parse_info(text: str, card: int) -> dict[str, float]:
    """Read the sections of `cnmon info`; lines of other cards are passed over."""
    stats: dict[str, float] = {}
    section, wanted = "", True
    for line in text.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if match := re.fullmatch(r"card\s*:?\s*(\d+)", line.strip(), re.IGNORECASE):
            wanted = int(match[1]) == card
        elif not colon:
            section = name.lower()
        elif wanted and (key := INFO_FIELDS.get((section, name.lower()))) and (number := _number(value)) is not None:
            stats.setdefault(key, number)
    return stats


def parse_table(text: str, card: int) -> dict[str, float]:
    """Read a card's two rows in the table of plain `cnmon`."""
    lines = text.splitlines()
    for head, body in itertools.pairwise(lines):
        match = TABLE_HEAD.match(head)
        if match is None or int(match["card"]) != card or "MiB" not in body:
            continue
        found = {key: pattern.search(body) for key, pattern in TABLE_BODY.items()}
        stats = {key: float(hit[1]) for key, hit in found.items() if hit}
        if match["utilization"]:
            stats["utilization (%)"] = float(match["utilization"])
        return stats
    return {}


def parse_json(text: str, card: int) -> dict[str, float]:
    """Read a card's object in cnmon_info.json."""
    try:
        cards = json.loads(text)["CnmonInfo"]
        (found,) = [each for each in cards if _number(each["CardNum"]) == card]
        values = {key: _number(found.get(section, {}).get(name)) for (section, name), key in JSON_FIELDS.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {key: value for key, value in values.items() if value is not None}


def physical_card(ordinal: int) -> int | None:
    """The card behind a process's ordinal: cnmon counts all cards, a process the visible ones.

    Read as torch_mlu reads the variables: the first that is set counts, an empty one too (no card), numbers up to the
    first word that is none, and no card at all if one is named twice. None where that leaves the card open; a list of
    UUIDs does, since cnmon is asked by number.
    """
    shown = next((os.environ[name] for name in VISIBLE_DEVICES if name in os.environ), None)
    if shown is None:
        return ordinal
    cards = [int(word) for word in itertools.takewhile(str.isdecimal, (part.strip() for part in shown.split(",")))]
    known = ordinal < len(cards) and len(set(cards)) == len(cards)
    return cards[ordinal] if known else None


def _from_json(card: int, timeout: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        _run(["cnmon", "info", "-e", "-m", "-u", "-j"], timeout, directory)
        try:
            return parse_json((Path(directory) / "cnmon_info.json").read_text(), card)
        except (OSError, UnicodeDecodeError):
            return {}


def _run(command: list[str], timeout: float, directory: str | None = None) -> str:
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "timeout": timeout, "check": True}
    try:
        return subprocess.run(command, cwd=directory, **options).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""


def _number(value: Any) -> float | None:
    """Of `87 %`, `87` or 87; None of `N/A`."""
    match = re.match(r"-?\d+(\.\d+)?", str(value).strip())
    return float(match[0]) if match else None
