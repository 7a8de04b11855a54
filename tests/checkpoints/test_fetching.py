"""What is fetched comes whole, once, from where it may come from, and stays what it was."""

import hashlib
import json
import threading
import urllib.request

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints import download, fetching
from checkpoints.download import DownloadError
from checkpoints.fetching import fetch, local_file
from checkpoints.files import CheckpointError
from checkpoints.published_layout import to_reference_state
from command_line.compare import main as compare
from command_line.evaluate import evaluate
from command_line.fit import train
from prediction import Detector
from ssd_module import SSDModule, load_module
from tests.checkpoints.server import Server

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "FIRST_DELAY", 0.0)
    with Server(CONTENT) as serving:
        yield serving


def test_a_file_goes_on_where_the_connection_broke_off(server):
    server.breaks = [1000, 0, 5000]
    path = local_file(server.address())
    assert path.read_bytes() == CONTENT
    assert server.asked == ["", "bytes=1000-", "bytes=1000-", "bytes=6000-"]
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.json"], "nothing is left"
    assert json.loads(path.with_name(f"{path.name}.json").read_text()) == {
        "address": server.address(),
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }


def test_what_an_earlier_process_fetched_is_gone_on_from(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.breaks = [1000, 0]
    for done in (1000, 1000):
        with pytest.raises(DownloadError, match=f"broke off after {done} of {len(CONTENT)} bytes"):
            fetch(server.address(), tmp_path / "x.pt")
        assert not (tmp_path / "x.pt").exists()
    (tmp_path / "x.pt.part").write_bytes(CONTENT)  # killed before it got its name
    fetch(server.address(), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == CONTENT and server.asked[-1] == f"bytes={len(CONTENT)}-"


@pytest.mark.parametrize("version", ['"2"', None, 'W/"1"'])
def test_parts_of_two_files_are_not_put_together(server, tmp_path, version):
    server.breaks = [1000]
    if version != '"2"':
        server.version = version
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(download, "ATTEMPTS", 1)
        with pytest.raises(DownloadError, match="broke off"):
            fetch(server.address(), tmp_path / "x.pt")
    server.content, server.version = CONTENT[::-1], version
    fetch(server.address(), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == CONTENT[::-1]


def test_a_size_that_never_comes_is_an_error_and_no_file(server, tmp_path):
    server.stated, server.version = len(CONTENT) + 1, None
    with pytest.raises(DownloadError, match=r"5 connections in a row brought nothing"):
        fetch(server.address(), tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
    server.stated = download.LARGEST + 1
    with pytest.raises(DownloadError, match="more than the"):
        fetch(server.address(), tmp_path / "y.pt")


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_page_is_not_taken_for_weights(server, tmp_path, kind):
    server.content, server.kind = b"\n<!DOCTYPE html><title>Sign in</title>", kind
    with pytest.raises(DownloadError, match="what came is a page"):
        fetch(server.address(), tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_what_cannot_be_fetched_says_where_to_place_it(server, monkeypatch):
    monkeypatch.setitem(fetching.NAMES, "nvidia_ssd300_coco", server.address("files/ssd.pt"))
    server.status = 404
    with pytest.raises(
        CheckpointError,
        match=r"nvidia_ssd300_coco: could not be fetched from http.*ssd\.pt \(HTTP 404.* place it at (.*)/ssd",
    ):
        local_file("nvidia_ssd300_coco")
    placed = fetching.in_hub_cache("ssd.pt")
    placed.write_bytes(b"by hand")
    asked = len(server.asked)
    assert local_file("nvidia_ssd300_coco") == placed and len(server.asked) == asked
    placed.write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"ssd\.pt: not the file that was here first: 7 bytes"):
        local_file("nvidia_ssd300_coco")


def test_another_file_than_the_first_one_is_told_of_also_from_the_server(server):
    path = local_file(server.address())
    path.unlink()
    server.content = b"other"
    with pytest.raises(
        CheckpointError, match=r"Delete it to fetch it again; where it was changed on purpose, delete .*json"
    ):
        local_file(server.address())
    path.with_name(f"{path.name}.json").unlink()
    assert local_file(server.address()).read_bytes() == b"other"


@pytest.mark.parametrize(
    "address", ["http://example.org/x.pt", "ftp://example.org/x.pt", "file:///etc/passwd", "https://", "http://[x"]
)
def test_only_https_addresses_are_taken(address):
    with pytest.raises(CheckpointError, match=r"expected an https:// address|no address"):
        local_file(address)


def test_redirects_lead_to_no_other_kind_of_address(server, tmp_path):
    server.redirect = "http://example.org/x.pt"
    with pytest.raises(DownloadError, match=r"http://example\.org/x\.pt: expected an https"):
        fetch(server.address(), tmp_path / "x.pt")
    asked = urllib.request.Request("https://example.org/x.pt")
    with pytest.raises(DownloadError, match="is no https:// address"):
        download._Redirects().redirect_request(asked, None, 302, "Found", {}, server.address())


def test_secrets_in_an_address_are_neither_told_nor_kept(server):
    address, told = server.address("weights.pt?token=s3cret"), []
    server.status = 403
    for each in (address, address.replace("//", "//me:s3cret@")):
        with pytest.raises(CheckpointError, match=r"HTTP 403|a user or a password") as error:
            local_file(each)
        told.append(str(error.value))
    server.status = 200
    path = local_file(address)
    assert "s3cret" not in " ".join([*told, path.name, path.with_name(f"{path.name}.json").read_text()])


def test_one_of_several_processes_fetches(server):
    start, found = threading.Barrier(4), []

    def one() -> None:
        start.wait()
        found.append(local_file(server.address()))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4 and server.asked == [""]


@pytest.fixture
def published(server, monkeypatch, tmp_path):
    """The name of the published checkpoint means a file as a recipe's run on several devices with Apex saves it."""
    weights = to_reference_state(SSDModule("thin", 2).model.state_dict())
    state = {f"module.1.{key}": value for key, value in weights.items()}
    torch.save({"model": state, "epoch": 65, "iteration": 1, "optimizer": {"of": "apex"}}, tmp_path / "made.pt")
    server.content = (tmp_path / "made.pt").read_bytes()
    monkeypatch.setitem(fetching.NAMES, "nvidia_ssd300_coco", server.address("ssd.pt"))
    return "nvidia_ssd300_coco"


def test_the_published_checkpoint_is_taken_by_name(published, server, sample, tmp_path, monkeypatch, capsys):
    module = load_module(published)
    assert (module.hparams.backbone, module.hparams.num_classes) == ("thin", 2)
    by_address = Detector(server.address("ssd.pt"), accelerator="cpu").module
    for key, value in module.state_dict().items():
        assert torch.equal(by_address.state_dict()[key], value)
    with pytest.raises(CheckpointError, match="its backbone is thin, this run's resnet18"):
        flags = ["--model.backbone", "resnet18", "--finetune_from", published, "--accelerator", "cpu"]
        train(["--data_root", str(sample), *flags, "--trainer.fast_dev_run", "true"])
    with pytest.raises(
        MisconfigurationException, match=r"--save_thresholds: .*ssd\.pt is the copy of a published file"
    ):
        evaluate(["--ckpt_path", published, "--data_root", str(sample), "--save_thresholds", "true"])
    with pytest.raises(MisconfigurationException, match=r"^B: .*gone\.json is not there"):
        compare([published, str(tmp_path / "gone.json"), "--data_root", str(sample), "--accelerator", "cpu"])
    assert server.asked.count("") == 2, "once by name, once by address"


def test_a_local_file_comes_before_the_published_one_of_its_name(published, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / published).write_bytes(b"mine")
    assert local_file(published).read_bytes() == b"mine" and not server.asked
