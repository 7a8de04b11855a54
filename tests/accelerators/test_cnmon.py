"""Device facts from cnmon. The outputs below are in the published form; nothing here has seen a card."""

import pytest

from accelerators.cnmon import CnmonReader, device_stats, parse_info, parse_table, physical_card

INFO = """
Card 0
    Product Name             : MLU370-X8
    Physical Memory Usage
        Total                : 23374 MiB
        Used                 : 1024 MiB
        Free                 : 22350 MiB
    Virtual Memory Usage
        Used                 : 7 MiB
    Temperature
        Board                : 32 C
        Chip                 : 41 C
    Power
        Usage                : 106 W
        Cap                  : 250 W
    Utilization
        MLU Average          : 87 %
        MLU 0-1              : 3 % 4 %
Card 1
    Utilization
        MLU Average          : N/A
    Power
        Usage                : 27.5 W
"""

TABLE = """
+------------------------------------------------------------------------------+
| CNMON v5.10.13                                               Driver v5.10.13 |
+-------------------------------+----------------------+-----------------------+
| Card  VF  Name       Firmware |               Bus-Id | Util        Ecc-Error |
| Fan   Temp      Pwr:Usage/Cap |         Memory-Usage | SR-IOV   Compute-Mode |
|===============================+======================+=======================|
| 0     /   MLU370-X8    v1.1.6 |         0000:39:00.0 | 12%               N/A |
|  0%   32C        106 W/ 250 W |    10 MiB/ 23374 MiB | N/A           Default |
+-------------------------------+----------------------+-----------------------+
| 1     /   MLU370-X8    v1.1.6 |         0000:3D:00.0 | N/A               N/A |
|  0%   39C         27 W/ 250 W |     0 MiB/ 23374 MiB | N/A           Default |
+-------------------------------+----------------------+-----------------------+
|  0      123   python train.py                                       20 MiB   |
"""


def test_info_sections_are_read_for_the_card_asked_for():
    assert parse_info(INFO, 0) == {
        "utilization (%)": 87,
        "memory.used (MiB)": 1024,
        "memory.total (MiB)": 23374,
        "temperature.board (C)": 32,
        "temperature.chip (C)": 41,
        "power.usage (W)": 106,
        "power.cap (W)": 250,
    }
    assert parse_info(INFO, 1) == {"power.usage (W)": 27.5}


def test_table_rows_are_read_for_the_card_asked_for():
    first = {"utilization (%)": 12, "memory.used (MiB)": 10, "memory.total (MiB)": 23374, "power.usage (W)": 106}
    assert parse_table(TABLE, 0) == {**first, "power.cap (W)": 250, "temperature.board (C)": 32}
    assert "utilization (%)" not in parse_table(TABLE, 1) and parse_table(TABLE, 1)["power.usage (W)"] == 27
    assert parse_table(TABLE, 2) == {}


@pytest.mark.parametrize("text", ["", "Permission denied", "Card\n:::\n|||\n", INFO[:40]])
def test_what_cannot_be_read_gives_nothing(text):
    assert parse_info(text, 0) == {} and parse_table(text, 0) == {}


@pytest.fixture
def cnmon(tmp_path, monkeypatch):
    def install(script: str):
        command = tmp_path / "cnmon"
        command.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n{script}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "calls"

    return install


def test_without_the_command_there_are_no_facts(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_stats(0) == {}


def test_the_table_stands_in_where_info_fails(cnmon):
    cnmon(f"[ -n \"$1\" ] && exit 1; cat <<'EOF'\n{TABLE}EOF")
    assert device_stats(0)["power.usage (W)"] == 106


def test_a_command_that_hangs_is_given_up_and_not_asked_again(cnmon):
    calls = cnmon("exec sleep 20")
    reader = CnmonReader(timeout=0.3)
    assert reader(0) == {} and reader(0) == {}
    assert len(calls.read_text().split()) == 2  # once for each form, the first time


def test_the_command_is_asked_once_in_an_interval(cnmon):
    calls = cnmon("printf 'Card 0\\n  Power\\n    Usage : 56 W\\n'")
    reader = CnmonReader(interval=60)
    assert reader(0) == reader(0) == {"power.usage (W)": 56}
    assert len(calls.read_text().split()) == 1


def test_the_visible_cards_are_counted_as_torch_mlu_counts_them(monkeypatch):
    for name in ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert physical_card(1) == 1
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "4,6")
    assert physical_card(1) == 6
    monkeypatch.setenv("CN_VISIBLE_DEVICES", "2,3")
    assert physical_card(1) == 3 and physical_card(5) == 5
