"""scripts/download_dataset.sh against a server on this machine that fails in the ways servers do."""

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("bash", "curl", "unzip", "md5sum")), reason="needs curl and unzip"
)

PORTABLE_TOOLS = ("awk", "bash", "cat", "comm", "curl", "cut", "grep", "ls", "mkdir", "mv", "rm", "sleep", "sort")
PORTABLE_TOOLS += ("tail", "touch", "tr", "unzip", "wc")  # without options of GNU's, but for curl's own


def archive(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return content.getvalue()


PICTURES = {f"val2017/{i}.jpg": os.urandom(5000) for i in range(20)}
FILES = {"zips/val2017.zip": archive(PICTURES), "annotations/a.zip": archive({"annotations/instances.json": b"{}"})}


class Server(ThreadingHTTPServer):
    """Serves FILES. `faults`: for each request in turn what goes wrong; nothing once they are used up."""

    def __init__(self, faults=(), ranges=True, served=None):
        self.faults, self.ranges, self.served = list(faults), ranges, served or FILES
        self.sent = 0  # bytes of endless answers
        self.requests = []  # (path, first byte)
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and server.ranges else 0
        server.requests.append((path, start))
        fault = server.faults.pop(0) if server.faults else None
        data = b"another file" if fault == "wrong file" else server.served.get(path)
        if isinstance(fault, int) or data is None or (wanted and start >= len(data)):
            self.send_error(fault if isinstance(fault, int) else 404 if data is None else 416)
            return
        if fault in ("redirect to a file", "redirect for ever"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/hosts" if fault == "redirect to a file" else self.path)
            self.end_headers()
            return
        if fault == "endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(50):
                    server.sent += self.wfile.write(bytes(2**20))
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + 40_000] if fault == "break off" else data[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(request):
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for made in servers:
        made.shutdown()
        made.server_close()


def download(directory, server, sizes=1, **environment):
    archives = [f"{path} {hashlib.md5(data).hexdigest()} {sizes}" for path, data in FILES.items()]
    settings = {
        "COCO_MIRROR": f"http://127.0.0.1:{server.server_port}",
        "COCO_ARCHIVES": "\n".join(archives),
        "COCO_RETRY_DELAY": "0",
        "COCO_ATTEMPTS": "4",
        **environment,
    }
    script = PROJECT / "scripts" / "download_dataset.sh"
    return subprocess.run(
        ["bash", str(script), str(directory)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_is_whole(directory):
    for name, data in {**PICTURES, "annotations/instances.json": b"{}"}.items():
        assert (directory / name).read_bytes() == data, name
    assert not list(directory.glob("*.part"))


def test_everything_is_downloaded_checked_and_unpacked_and_a_second_start_asks_nothing(server, tmp_path):
    directory, whole = tmp_path / "with a space" / "coco", server()
    done = download(directory, whole)
    assert done.returncode == 0, done.stderr
    assert_is_whole(directory)
    for path in directory.glob("*.zip"):
        path.unlink()
    again = download(directory, whole)
    assert again.returncode == 0 and "val2017.zip: unpacked before" in again.stdout
    assert len(whole.requests) == 2


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    bad = server(["break off", 500, "break off"])
    done = download(tmp_path, bad)
    assert done.returncode == 0, done.stderr
    assert_is_whole(tmp_path)
    assert [start for path, start in bad.requests if "val" in path] == [0, 40_000, 40_000, 80_000]
    assert "attempt 2 of 4" in done.stderr and "HTTP 500" in done.stderr


def test_an_interrupted_download_goes_on_when_started_again(server, tmp_path):
    first = download(tmp_path, server(["break off"]), COCO_ATTEMPTS="1")
    assert first.returncode == 1 and "start this again to go on" in first.stderr
    second = server()
    assert download(tmp_path, second).returncode == 0
    assert second.requests[0] == ("zips/val2017.zip", 40_000)
    assert_is_whole(tmp_path)


def test_a_part_that_is_all_of_it_is_used(server, tmp_path):
    (tmp_path / "val2017.zip.part").write_bytes(FILES["zips/val2017.zip"])
    assert download(tmp_path, server()).returncode == 0
    assert_is_whole(tmp_path)


def test_a_server_that_cannot_send_parts_sends_it_again(server, tmp_path):
    done = download(tmp_path, server(["break off"], ranges=False))
    assert done.returncode == 0, done.stderr
    assert_is_whole(tmp_path)


def test_a_missing_file_stops_at_once_and_names_the_address_and_the_mirror_variable(server, tmp_path):
    empty = server([404])
    done = download(tmp_path, empty)
    assert done.returncode == 1 and len(empty.requests) == 1
    assert "zips/val2017.zip: the server answers 404. Try another mirror: COCO_MIRROR=URL" in done.stderr


def test_a_wrong_file_is_fetched_once_more_and_then_refused(server, tmp_path):
    done = download(tmp_path, server(["wrong file"]))
    assert done.returncode == 0 and "not the file it should be" in done.stderr
    assert_is_whole(tmp_path)
    other = tmp_path / "other"
    done = download(other, server(["wrong file"] * 9))
    assert done.returncode == 1 and "twice not the file it should be" in done.stderr
    assert not (other / "val2017").exists()


def test_a_server_that_sends_without_end_is_left(server, tmp_path):
    mirror = server(["endless"])
    done = download(tmp_path / "coco", mirror)
    assert done.returncode == 1 and "more than the 2 MB that it may have" in done.stderr
    assert not list((tmp_path / "coco").iterdir()) and len(mirror.requests) == 1
    assert mirror.sent < 40 * 2**20


@pytest.mark.parametrize("fault", ["redirect to a file", "redirect for ever"])
def test_redirects_lead_to_http_alone_and_not_in_circles(server, tmp_path, fault):
    mirror = server([fault] * 50)
    done = download(tmp_path / "coco", mirror)
    assert done.returncode == 1 and "neither http nor https, or too often" in done.stderr
    assert not list((tmp_path / "coco").iterdir()) and len(mirror.requests) <= 6


def test_a_damaged_archive_that_is_there_is_fetched_anew(server, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(FILES["zips/val2017.zip"][:-100])
    assert download(tmp_path, server()).returncode == 0
    assert_is_whole(tmp_path)


def test_unpacking_goes_on_after_an_interruption_and_mends_a_file_cut_short(server, tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "0.jpg").write_bytes(PICTURES["val2017/0.jpg"])
    (tmp_path / "val2017" / "1.jpg").write_bytes(PICTURES["val2017/1.jpg"][:100])
    done = download(tmp_path, server())
    assert done.returncode == 0 and "val2017.zip: unpacking 19 files" in done.stdout
    assert_is_whole(tmp_path)


@pytest.fixture
def bsd_tools(tmp_path):
    """A directory of tools as macOS has them: no md5sum, and df, du, find and xargs refuse what only GNU's know."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in PORTABLE_TOOLS:
        (directory / name).symlink_to(shutil.which(name))
    gnu = {"df": "--*", "du": "--?*", "find": "-printf", "xargs": "--*"}
    for name, refused in gnu.items():
        text = (
            f"""for word; do case $word in {refused}) echo "{name}: illegal option $word" >&2; exit 64;; esac; done"""
        )
        if name == "xargs":  # whose operands are options of other tools
            text = f"""case $1 in {refused}) echo "{name}: illegal option $1" >&2; exit 64;; esac"""
        (directory / name).write_text(f"""#!/bin/sh\n{text}\nexec {shutil.which(name)} "$@"\n""")
    (directory / "md5").write_text(f"""#!/bin/sh\nsum=$({shutil.which("md5sum")})\necho "${{sum%% *}}"\n""")
    for path in directory.iterdir():
        if not path.is_symlink():
            path.chmod(0o755)
    return directory


def test_it_downloads_resumes_and_unpacks_with_the_tools_of_macos(server, tmp_path, bsd_tools):
    directory = tmp_path / "co co"
    (directory / "val2017").mkdir(parents=True)
    (directory / "val2017" / "0.jpg").write_bytes(PICTURES["val2017/0.jpg"])
    (directory / "val2017" / "1.jpg").write_bytes(PICTURES["val2017/1.jpg"][:100])
    done = download(directory, server(["wrong file", "break off"]), PATH=str(bsd_tools))
    assert done.returncode == 0, done.stderr
    assert "val2017.zip: unpacking 19 files" in done.stdout and "not the file it should be" in done.stderr
    assert "illegal" not in done.stderr and "not found" not in done.stderr
    assert_is_whole(directory)


def test_an_archive_that_would_write_outside_is_not_unpacked(server, tmp_path):
    evil = archive({"../evil.txt": b"x"})
    line = f"zips/evil.zip {hashlib.md5(evil).hexdigest()} 1"
    done = download(tmp_path / "coco", server(served={"zips/evil.zip": evil}), COCO_ARCHIVES=line)
    assert done.returncode == 1 and "entries that would leave" in done.stderr
    assert not (tmp_path / "evil.txt").exists()


def test_too_little_space_is_said_before_anything_is_fetched(server, tmp_path):
    idle = server()
    done = download(tmp_path, idle, sizes=10**9)
    assert done.returncode == 1 and re.search(r"has \d+ MB free, \d+ MB are needed", done.stderr)
    assert not idle.requests


def test_of_the_space_needed_only_what_is_there_of_the_archives_is_taken_off(server, tmp_path):
    def needed():
        return int(re.search(r"(\d+) MB are needed", download(tmp_path, idle, sizes=10**9).stderr)[1])

    idle = server()
    whole = needed()
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "unrelated.bin").write_bytes(bytes(20_000_000))
    (tmp_path / "unrelated.zip").write_bytes(bytes(20_000_000))
    assert needed() == whole
    (tmp_path / "val2017.zip.part").write_bytes(bytes(5_000_000))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_bytes(bytes(3_000_000))
    assert whole - 10 <= needed() <= whole - 8, "in MB, rounded up for each of the two"
    (tmp_path / ".val2017.zip.unpacked").touch()
    assert needed() <= whole / 2


def test_without_a_directory_it_says_how_it_is_used():
    done = subprocess.run(["bash", "scripts/download_dataset.sh"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2 and "download_dataset.sh DIR" in done.stderr


def test_by_default_it_fetches_coco_2017():
    text = (PROJECT / "scripts" / "download_dataset.sh").read_text()
    for name, md5 in {
        "zips/train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
        "zips/val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
        "annotations/annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
    }.items():
        assert re.search(rf"^{name} +{md5} \d+$", text, re.MULTILINE), name
