"""A stream never lags: the latest frame is taken, those before it are dropped and counted; Ctrl-C is its good end."""

import json
import os
import queue
import signal
import threading
import time
from fractions import Fraction

import pytest
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import predict as command
from command_line.predict import predict
from prediction.detector import Detector
from prediction.stream import Frame, Latest, open_stream
from prediction.video import VideoReader
from tests.checkpoints.server import Server

FRAMES = 40


@pytest.fixture
def arguments(thin_detector, tmp_path):
    common = ["--ckpt_path", str(thin_detector), "--output", str(tmp_path / "out"), "--accelerator", "cpu"]
    return lambda *more: [*common, *map(str, more)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serves four seconds of video, as fast as they are asked for."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path = tmp_path_factory.mktemp("stream") / "clip.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.effect_noise((64, 48), 90).convert("RGB"))))
        container.mux(stream.encode())
    with Server(path.read_bytes()) as serving:
        serving.kind = "video/mp2t"
        yield serving


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_latest_item_is_taken_and_those_before_it_are_dropped():
    source: queue.Queue = queue.Queue()
    latest = Latest(iter(source.get, None))
    taken = iter(latest)
    for expected, items in ((3, (1, 2, 3)), (4, (4,)), (9, (5, 6, 7, 8, 9))):
        for item in items:
            source.put(item)
        wait_until(lambda: latest.read == items[-1])  # noqa: B023 - called at once
        assert next(taken) == expected
    source.put(10)
    source.put(None)
    assert list(taken) == [10] and (latest.read, latest.dropped) == (10, 6)


def test_what_breaks_the_source_is_raised_after_the_last_item_and_closing_ends_a_wait():
    def breaks():
        yield 1
        raise ValueError("broke")

    taken = iter(Latest(breaks()))
    assert next(taken) == 1
    with pytest.raises(ValueError, match="broke"):
        next(taken)
    endless = Latest(iter(queue.Queue().get, None))
    threading.Timer(0.05, endless.close).start()
    assert list(endless) == []


def test_a_slow_detector_sees_the_last_frame_of_a_fast_stream(server, arguments, tmp_path, monkeypatch, capsys):
    own = Detector.detect

    def slow(self, samples):
        time.sleep(0.3)
        return own(self, samples)

    monkeypatch.setattr(Detector, "detect", slow)
    assert predict(arguments("--stream", server.address("clip.ts?password=s3cret"), "--format", "coco,jsonl")) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    seen = [line["frame"] for line in lines]
    assert seen == sorted(set(seen)) and seen[-1] == FRAMES - 1 and len(seen) < FRAMES / 2
    told = capsys.readouterr().out.strip().splitlines()[-1]
    assert told.startswith(
        f"predicted {len(seen)} of {FRAMES} frames of {server.address('clip.ts')} ({FRAMES - len(seen)} dro"
    )
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert "s3cret" not in json.dumps([lines, images]) and images[0]["drawn"] == "stream.mp4"
    with VideoReader(tmp_path / "out" / "stream.mp4") as drawn:
        times = [float(at * drawn.time_base) for at, _ in drawn]
    assert times == pytest.approx([(frame - seen[0]) / 10 for frame in seen], abs=0.002), "each at its own time"


def test_each_so_many_th_frame_is_taken_with_rising_times(server):
    frames = list(open_stream(server.address("clip.ts"), every=10))
    assert [frame.number for frame in frames] == [0, 10, 20, 30]
    assert [frame.time - frames[0].time for frame in frames] == [0, 1, 2, 3] and frames[3].picture().size == (64, 48)


def test_a_stop_signal_is_a_streams_good_end_and_lines_come_as_it_goes(arguments, tmp_path, monkeypatch, capsys):
    pytest.importorskip("av", reason="PyAV is not installed")
    lines = tmp_path / "out" / "detections.jsonl"

    def endless(source, every):
        number = 0
        while True:
            yield Frame(number, Fraction(number, 100), lambda: Image.new("RGB", (64, 48)))
            number += 1
            time.sleep(0.01)
            if number > 3 and lines.exists() and lines.read_text().count("\n") > 2:
                os.kill(os.getpid(), signal.SIGINT)
                return

    monkeypatch.setattr(command, "open_stream", endless)
    before = signal.getsignal(signal.SIGINT)
    assert predict(arguments("--stream", "0", "--format", "coco,jsonl", "--draw", "false")) == 0
    assert signal.getsignal(signal.SIGINT) == before
    predicted = lines.read_text().count("\n")
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == predicted > 2
    assert f"predicted {predicted} of " in capsys.readouterr().out


def test_what_is_no_stream_is_an_error_without_its_password_and_nothing_is_written(arguments, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(MisconfigurationException, match=r"--stream http://127\.0\.0\.1:9/x: cannot be opened") as told:
        predict(arguments("--stream", "http://me:s3cret@127.0.0.1:9/x"))
    assert "s3cret" not in str(told.value) and not (tmp_path / "out").exists()
    with pytest.raises(MisconfigurationException, match="labels lie beside pictures, and --stream 0 is none"):
        predict(arguments("--stream", "0", "--format", "voc"))
    for inputs in (["--stream", "0", "picture.jpg"], []):
        with pytest.raises(SystemExit):
            predict(arguments(*inputs))
        assert "give one of INPUT, which are files, and --stream" in capsys.readouterr().err
