"""The model of benchmarks/scaling.py: what it must say whatever the inputs, and that it fits the published speeds."""

import dataclasses
import json
import subprocess
import sys

import pytest

from benchmarks.scaling import (
    DEVICES,
    INTER_NODE,
    INTRA_NODE,
    PUBLISHED_8,
    TRAIN_IMAGES,
    Cluster,
    all_reduce_seconds,
    buckets,
    exposed_seconds,
    gradient_bytes,
    learning_rate_note,
    main,
    parameters,
    ring_factor,
    ring_seconds,
    scale,
    warmup_steps,
)
from ssd.model import SSD300
from tests.conftest import PROJECT

COUNTS = [2**i for i in range(11)]
A100 = Cluster(*DEVICES["a100_amp"], 128, INTRA_NODE["nvlink3"], INTER_NODE["100g"])


@pytest.fixture(scope="module")
def count() -> int:
    return parameters()


def test_the_parameters_are_those_of_the_real_model():
    assert parameters("resnet18", 20) == sum(p.numel() for p in SSD300("resnet18", 20).parameters())


def test_gradients_are_four_bytes_a_parameter_and_two_with_the_fp16_hook(count):
    assert gradient_bytes(count, fp16=False) == 4 * count
    assert gradient_bytes(count, fp16=True) == 2 * count
    compressed = dataclasses.replace(A100, fp16_gradients=True)
    for devices in COUNTS[1:]:
        assert scale(devices, compressed, count).bytes_sent == scale(devices, A100, count).bytes_sent / 2


def test_one_device_does_not_communicate(count):
    row = scale(1, A100, count)
    assert row.bytes_sent == row.all_reduce_seconds == row.exposed_seconds == 0
    assert row.efficiency == pytest.approx(1)


def test_a_ring_sends_two_n_minus_one_nths_of_the_bytes():
    assert [ring_factor(n) for n in (1, 2, 4)] == [0, 1, 1.5]
    link = INTRA_NODE["nvlink3"]
    assert ring_seconds(4e9, 4, link) == pytest.approx(1.5 * 4e9 / link.bandwidth + 6 * link.latency)


@pytest.mark.parametrize("hierarchical", [True, False])
def test_more_devices_communicate_longer(hierarchical):
    cluster = dataclasses.replace(A100, hierarchical=hierarchical)
    times = [all_reduce_seconds(1e8, n, cluster) for n in COUNTS]
    assert times == sorted(times)


def test_on_many_nodes_a_ring_per_level_waits_less_than_one_ring_through_all_devices():
    one_ring = dataclasses.replace(A100, hierarchical=False)
    assert all_reduce_seconds(1e6, 1024, A100) < all_reduce_seconds(1e6, 1024, one_ring)


def test_buckets_hold_all_bytes_and_the_first_is_small():
    assert buckets(60 * 2**20, 25 * 2**20) == [2**20, 25 * 2**20, 25 * 2**20, 9 * 2**20]
    assert buckets(1000, 25 * 2**20) == [1000]


def test_backward_hides_all_but_the_last_bucket_of_a_fast_network():
    assert exposed_seconds(backward=1.0, sizes=[1, 1], times=[0.1, 0.1]) == pytest.approx(0.1)
    assert exposed_seconds(backward=1.0, sizes=[1, 1], times=[2.0, 2.0]) == pytest.approx(3.5), "a slow network"


def test_a_host_with_few_cores_holds_the_devices_up(count):
    starved = scale(8, dataclasses.replace(A100, cores_per_device=1), count)
    assert starved.limit == "input" and starved.step_seconds == starved.input_seconds
    assert starved.efficiency < 0.5


def test_accumulation_communicates_once_for_several_batches(count):
    slow = dataclasses.replace(A100, inter_node=INTER_NODE["25gbe"], batch_size=8)
    once = scale(64, dataclasses.replace(slow, accumulate_grad_batches=4), count)
    assert once.exposed_seconds == scale(64, slow, count).exposed_seconds
    assert once.efficiency > scale(64, slow, count).efficiency
    assert once.global_batch == 64 * 8 * 4


def test_the_rate_is_linear_in_the_global_batch_and_the_published_warm_ups_are_kept(count):
    row = scale(8, A100, count)
    assert row.learning_rate == pytest.approx(2.6e-3 * 1024 / 32)
    assert [warmup_steps(batch) for batch in (32, 512, 1024)] == [300, 300, 1200]
    assert warmup_steps(4096) * 4096 == 1200 * 1024, "the same images beyond the largest published batch"


def test_batches_that_nobody_published_or_that_break_the_linear_rule_are_named(count):
    assert learning_rate_note(1024) == ""
    assert learning_rate_note(2048) == "batch never published"
    assert learning_rate_note(16384) == "linear rule known to break"
    assert scale(1024, A100, count).steps_per_epoch == 0
    assert learning_rate_note(TRAIN_IMAGES + 1) == "no step fits in an epoch"


@pytest.mark.parametrize("name", PUBLISHED_8)
def test_the_model_is_within_a_tenth_of_the_published_speed_of_eight_devices(name, count):
    batch_size, link, published = PUBLISHED_8[name]
    cluster = dataclasses.replace(
        A100, images_per_second=DEVICES[name][0], batch_size=batch_size, intra_node=INTRA_NODE[link]
    )
    assert scale(8, cluster, count).images_per_second == pytest.approx(published, rel=0.1)


def test_the_command_prints_one_row_a_device_count_and_writes_them_as_json(tmp_path):
    path = tmp_path / "rows.json"
    command = [sys.executable, "benchmarks/scaling.py", "--devices", "1", "16", "--json", path]
    out = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    rows = json.loads(path.read_text())
    assert [row["devices"] for row in rows] == [1, 16]
    assert "images/s" in out and f"{rows[1]['images_per_second']:.0f}" in out


def test_the_page_shows_the_table_that_the_command_prints(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/scaling.py"])
    main()
    out = capsys.readouterr().out
    assert "images/s" in out
    assert out in (PROJECT / "docs" / "scaling.md").read_text(), "run benchmarks/scaling.py and paste the table"
