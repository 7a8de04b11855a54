import os
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction.video import VideoError, VideoReader, VideoWriter, require

RATE = Fraction(30000, 1001)


def write(path, frames=20, size=(64, 48), rate=RATE):
    """Noise, so that the file has some length, with a red left half."""
    pytest.importorskip("av", reason="PyAV is not installed")
    rng = np.random.default_rng(0)
    with VideoWriter(path, size, rate, 1 / rate) as writer:
        for i in range(frames):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
            pixels[:, : size[0] // 2] = (255, 0, 0)
            writer.write(i, Image.fromarray(pixels))
    return path


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_frames_size_rate_and_times_survive_a_round_trip(tmp_path, size):
    with VideoReader(write(tmp_path / "new" / "clip.mp4", size=size)) as video:
        frames = list(video)
        assert (video.rate, video.length, video.error) == (RATE, 20, None)
        assert [time * video.time_base for time, _ in frames] == [i / RATE for i in range(20)]
    assert {picture.size for _, picture in frames} == {size}
    red = np.asarray(frames[7][1])[:, : size[0] // 2 - 2].reshape(-1, 3).mean(axis=0)
    assert red[0] > 200 and max(red[1:]) < 50
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.mp4"], "no temporary file stays"


def test_a_video_filmed_upright_is_read_upright(tmp_path):
    path = write(tmp_path / "clip.mp4", frames=2)
    content = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # a quarter to the right, as phones write
    head = content.index(b"tkhd")
    path.write_bytes(content[:head] + content[head:].replace(upright, turned, 1))
    with VideoReader(path) as video:
        picture = np.asarray(next(iter(video))[1])
    assert picture.shape == (64, 48, 3)
    assert picture[:28, :, 0].mean() > 200 and picture[36:, :, 1].mean() > 90, "what was left is on top"


def noise(path, frames=40):
    """A video written without our writer, which writes MP4 alone."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.effect_noise((64, 48), 90).convert("RGB"))))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".ts"])
def test_a_whole_video_of_another_format_is_read_to_its_end(tmp_path, suffix):
    with VideoReader(noise(tmp_path / f"clip{suffix}")) as video:
        times = [time * video.time_base for time, _ in video]
    assert video.error is None and len(times) == video.count == 40
    assert np.allclose(np.diff(times).astype(float), 0.1, atol=2e-3)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_video_that_breaks_off_gives_the_frames_so_far_and_says_so(tmp_path, suffix):
    path = noise(tmp_path / f"clip{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoReader(path) as video:
        count = len(list(video))
    assert 5 < count < 30 and video.error.startswith(f"{path}: broke off after {count} frames")


def test_what_is_no_video_is_an_error_that_names_the_file(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "text.mp4").write_text("text")
    for name in ("text.mp4", "none.mp4"):
        with pytest.raises(VideoError, match=name):
            VideoReader(tmp_path / name)


def test_without_pyav_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MisconfigurationException, match=r'pip install "av>='):
        require()


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile other.ts\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_list_of_other_files_or_addresses_is_no_video(tmp_path, kind):
    noise(tmp_path / "other.ts")
    (tmp_path / "clip.mp4").write_text(PLAYLISTS[kind])
    with pytest.raises(VideoError, match=r"clip\.mp4: cannot be opened as a video"):
        VideoReader(tmp_path / "clip.mp4")


@pytest.mark.parametrize("folder", ["http:/127.0.0.1:9", "concat:a|b", "file:x", "pipe:0"])
def test_a_file_is_a_file_whatever_its_name_looks_like(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    path = Path(folder, "clip.mp4")
    noise(tmp_path / "clip.mp4").rename(path)
    with VideoReader(path) as video:
        assert len(list(video)) == 40
    write(Path(folder, "out.mp4"), frames=2)
    assert Path(folder, "out.mp4").stat().st_size > 0


def test_a_pipe_is_not_waited_for(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match="no such video file"):
        VideoReader(tmp_path / "clip.mp4")


def test_a_video_is_not_written_through_a_link_nor_left_half_where_no_frame_came(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "clip.mp4").symlink_to(tmp_path / "mine")
    write(tmp_path / "clip.mp4", frames=2)
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "clip.mp4").is_symlink()
    with pytest.raises(VideoError, match=r"none\.mp4: cannot be written"):
        write(tmp_path / "none.mp4", frames=0)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "clip.mp4"}


def test_a_video_that_breaks_in_its_first_frame_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4", frames=3)

    def fail(frame):
        raise MemoryError("too large")

    monkeypatch.setattr("prediction.video.upright", fail)
    with VideoReader(path) as video:
        assert list(video) == [] and "too large" in video.error
