"""Annotations in several processes: one builds while others wait, and a pickle opens the cache again."""

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest

from coco import annotation_cache, annotations
from coco.annotation_cache import open_cache
from coco.annotations import AnnotationError, CocoAnnotations
from tests.coco.conftest import assert_same, builds, index_of, write
from tests.conftest import PROJECT


def _load_and_report(path, queue):
    calls, parse = [], annotations.parse

    def slow(*args):
        calls.append(1)
        time.sleep(0.5)  # long enough for the other to arrive
        return parse(*args)

    annotations.parse = slow
    loaded = CocoAnnotations.load(path)
    queue.put((len(calls), loaded.labels.tolist()))


def test_of_two_processes_that_start_at_once_one_builds_and_the_other_waits(path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_load_and_report, args=(path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    reports = sorted(queue.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert reports == [(0, [1, 2, 2, 1]), (1, [1, 2, 2, 1])]
    assert sorted(file.name for file in path.parent.iterdir()) == ["instances.json", "instances.json.index"]


def _wait_and_fail(path, ready):
    def fail(*args):
        ready.set()
        time.sleep(0.5)  # long enough for the other to arrive
        raise AnnotationError("the disk has gone")

    annotations.parse = fail
    CocoAnnotations.load(path)


def test_who_waited_for_a_build_that_failed_builds_itself(path, cache_home):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_wait_and_fail, args=(path, ready))
    process.start()
    assert ready.wait(20)
    assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]
    process.join()
    assert open_cache(index_of(path))
    assert sorted(file.name for file in path.parent.iterdir()) == ["instances.json", "instances.json.index"]
    assert not cache_home.exists()


def _build_and_hang(path, ready):
    annotations.parse = lambda *args: ready.set() or time.sleep(60)
    CocoAnnotations.load(path)


def test_a_killed_builder_leaves_the_way_free(path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_build_and_hang, args=(path, ready))
    process.start()
    assert ready.wait(20)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lock = path.with_name(path.name + ".index.lock")
    assert lock.exists()
    half = index_of(path) / "0123456789abcdef"
    half.mkdir(parents=True)
    (half / "labels.npy").write_bytes(b"half an array")
    assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]
    assert open_cache(index_of(path))
    assert not half.exists() and not lock.exists()


def test_a_builder_that_is_stuck_is_not_waited_for_beyond_the_limit(path, monkeypatch, cache_home):
    monkeypatch.setattr(annotation_cache, "WAIT_SECONDS", 0.1)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_build_and_hang, args=(path, ready))
    process.start()
    assert ready.wait(20)
    try:
        assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]
    finally:
        process.kill()
        process.join()
    assert len(list(cache_home.iterdir())) == 1


def test_a_pickle_holds_paths_only_and_opens_the_cache_again(path, content, monkeypatch):
    content["images"] += [{"id": 100 + i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(5000)]
    loaded = CocoAnnotations.load(write(path, content))
    parsed = builds(monkeypatch)
    pickled = pickle.dumps(loaded)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert_same(again, loaded)
    assert again.path == loaded.path == path
    assert not parsed


def test_a_pickle_opens_in_a_fresh_interpreter(path, tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps(CocoAnnotations.load(path)))
    program = "import pickle, sys; a = pickle.load(open(sys.argv[1], 'rb')); print(len(a), a.file_name(2), a.path)"
    command = [sys.executable, "-c", program, str(tmp_path / "pickle")]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3", "c.jpg", str(path)]


def test_a_pickle_whose_cache_is_gone_builds_it_again(path):
    loaded = CocoAnnotations.load(path)
    pickled = pickle.dumps(loaded)
    shutil.rmtree(index_of(path))
    assert_same(pickle.loads(pickled), loaded)
    assert index_of(path).exists()


def test_a_pickle_of_a_json_that_changed_is_an_error_not_other_data(path, content):
    pickled = pickle.dumps(CocoAnnotations.load(path))
    content["images"].pop(2)
    CocoAnnotations.load(write(path, content))
    with pytest.raises(AnnotationError, match="has changed since it was loaded"):
        pickle.loads(pickled)


def test_relative_paths_survive_a_change_of_directory(path, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    loaded = CocoAnnotations.load(path.name)
    pickled = pickle.dumps(loaded)
    monkeypatch.chdir(tmp_path)
    assert_same(pickle.loads(pickled), loaded)
    assert loaded.path == path
