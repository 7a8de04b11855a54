"""Files that are whole or not there, also where the disk is full, the process is killed or two write the same."""

import errno
import os
import subprocess
import sys

import pytest

from checkpoints.files import CheckpointError
from coco import check
from coco import sample as generator
from coco.whole_files import replacing, write_text
from command_line.fit_cli import FitCLI
from tests.conftest import PROJECT

resource = pytest.importorskip("resource")


@pytest.fixture
def no_room():
    """A disk that takes the first 50 bytes of every file; what was written before stays."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def begin():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))

    yield begin
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("earlier", [{}, {"a.txt": b"earlier"}], ids=["nothing", "a file"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_a_file_that_cannot_be_written_leaves_the_earlier_one(tmp_path, earlier, error):
    for name, content in earlier.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(type(error)), replacing(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise error
    assert files(tmp_path) == earlier


def test_a_full_disk_leaves_the_earlier_file(tmp_path, no_room):
    write_text(tmp_path / "a.txt", "earlier")
    no_room()
    with pytest.raises(OSError) as full:
        write_text(tmp_path / "a.txt", "x" * 100)
    assert full.value.errno == errno.EFBIG and files(tmp_path) == {"a.txt": b"earlier"}


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    line = "with replacing(Path(sys.argv[1])) as file: file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    code = f"import os, sys; from pathlib import Path; from coco.whole_files import replacing\n{line}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], cwd=PROJECT)
    assert len(files(tmp_path)) == 1 and not (tmp_path / "a.txt").exists()
    write_text(tmp_path / "a.txt", "whole")
    assert files(tmp_path) == {"a.txt": b"whole"}


def test_of_two_writers_of_one_file_each_leaves_it_whole(tmp_path):
    code = (
        "import sys, pathlib; from coco.whole_files import write_text\n"
        "for _ in range(200): write_text(pathlib.Path(sys.argv[1]), sys.argv[2] * 10_000)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
    writers = [subprocess.Popen([*command, letter], cwd=PROJECT) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "a.txt").exists():
            seen.add((tmp_path / "a.txt").read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {"a" * 10_000, "b" * 10_000} and files(tmp_path).keys() == {"a.txt"}


def test_a_link_that_a_user_named_is_followed_and_any_other_replaced(tmp_path):
    (tmp_path / "real.txt").write_text("earlier")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new", follow=True)
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    write_text(tmp_path / "link.txt", "other")
    assert not (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_a_device_that_a_user_named_is_written_to_and_stays(tmp_path):
    reader = os.open(os.devnull, os.O_RDONLY)
    (tmp_path / "out").symlink_to(os.devnull)
    write_text(tmp_path / "out", "new", follow=True)
    assert (tmp_path / "out").is_char_device() and (tmp_path / "out").is_symlink()
    os.close(reader)


def test_a_full_disk_leaves_no_half_configuration(sample, tmp_path, no_room):
    flags = ("--accelerator", "cpu", "--data_root", str(sample), "--model.backbone", "resnet18")
    cli = FitCLI([*flags, "--run_dir", str(tmp_path / "run")])
    cli.make_run_directory()
    cli.save_config()
    before = files(tmp_path / "run")
    assert before.keys() == {"config.yaml", "run.json"}
    no_room()
    with pytest.raises(CheckpointError, match=r"--run_dir .*run: cannot be written \(File too large\)"):
        cli.save_config()
    assert files(tmp_path / "run") == before


def test_a_full_disk_leaves_no_half_report_of_a_data_set(sample, tmp_path, no_room, capsys):
    args = [str(sample), "--fast", "--output", str(tmp_path / "sheet.png"), "--json", str(tmp_path / "report.json")]
    check.main(args)
    before = files(tmp_path)
    assert before.keys() == {"sheet.png", "report.json"}
    no_room()
    with pytest.raises(SystemExit, match=r"coco.check: what was found cannot be written \(File too large\)"):
        check.main(args)
    assert files(tmp_path) == before


def test_a_full_disk_leaves_no_half_picture_of_the_sample(tmp_path, no_room):
    no_room()
    with pytest.raises(SystemExit, match="File too large"):
        generator.main([str(tmp_path / "sample"), "--train", "1", "--val", "1"])
    assert files(tmp_path) == {}
