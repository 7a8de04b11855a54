"""Device facts from cnmon. The outputs below are in the published form; nothing here has seen a card."""

import json

import pytest

from accelerators.cnmon import TRIES, CnmonReader, device_stats, parse_info, parse_json, parse_table, physical_card

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


def test_a_command_that_hangs_is_tried_again_and_then_given_up(cnmon):
    calls = cnmon("exec sleep 20")
    reader = CnmonReader(interval=0, timeout=0.2)
    for _ in range(TRIES + 2):
        assert reader(0) == {}
    assert len(calls.read_text().split()) == 3 * TRIES, "once for each form"


def test_a_command_that_failed_once_is_asked_again(cnmon, tmp_path):
    cnmon(f"[ -e {tmp_path}/later ] || exit 1; printf 'Card 0\\n  Power\\n    Usage : 56 W\\n'")
    reader = CnmonReader(interval=0)
    assert reader(0) == {}
    (tmp_path / "later").touch()
    assert reader(0) == {"power.usage (W)": 56}


# Written from the fields that a cluster manager reads; in a newer one numbers have their unit beside them.
JSON = {
    "CnmonInfo": [
        {
            "CardNum": 0,
            "PhysicalMemUsage": {"Total": 23374, "Used": 1024},
            "Temperature": {"Board": 32, "Chip": 41},
            "Utilization": {"MLUAverage": 87},
        },
        {"CardNum": "1", "PhysicalMemUsage": {"Used": "7 MiB"}, "Utilization": {"MLUAverage": "N/A"}},
    ]
}


def test_the_json_form_is_read_for_the_card_asked_for():
    expected = {
        **{"utilization (%)": 87, "memory.used (MiB)": 1024, "memory.total (MiB)": 23374},
        **{"temperature.board (C)": 32, "temperature.chip (C)": 41},
    }
    assert parse_json(json.dumps(JSON), 0) == expected
    assert parse_json(json.dumps(JSON), 1) == {"memory.used (MiB)": 7}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"CnmonInfo": [3]}', json.dumps(JSON)])
def test_a_card_that_the_json_form_does_not_have_gives_nothing(text):
    assert parse_json(text, 2) == {}


def test_the_json_form_stands_in_where_the_others_fail_and_leaves_no_file(cnmon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "form.json").write_text(json.dumps(JSON))
    cnmon(f'case "$*" in *-j) cp {tmp_path}/form.json cnmon_info.json;; esac')

    assert device_stats(0)["temperature.chip (C)"] == 41
    assert not (tmp_path / "cnmon_info.json").exists()


# The sections of `cnmon info` as older releases (v4.20) print them: no VF column, other indentation, more sections.
OLDER_INFO = """
==================Card 0===================
Card 0
 Product Name : MLU290-M5
 Driver : v4.20.9
 Physical Memory Usage
 Total : 32768 MiB
 Used : 12 MiB
 Temperature
 Board : 30 C
 Power
 Usage : 71 W
 Cap : 350 W
 Utilization
 MLU Average : 3 %
"""


def test_the_info_of_older_releases_is_read():
    stats = parse_info(OLDER_INFO, 0)
    assert stats["utilization (%)"] == 3 and stats["memory.total (MiB)"] == 32768 and stats["power.cap (W)"] == 350


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
    assert physical_card(1) == 3


@pytest.mark.parametrize("shown", ["", "2", "2,x,3", "2,2", "MLU-0abc,MLU-1def"])
def test_where_the_card_is_open_it_is_no_card_rather_than_anothers(monkeypatch, shown, cnmon):
    calls = cnmon(f"cat <<'EOF'\n{INFO}EOF")
    monkeypatch.setenv("CN_VISIBLE_DEVICES", shown)
    assert physical_card(1) is None and device_stats(1) == {}
    assert not calls.exists(), "cnmon is not asked"
