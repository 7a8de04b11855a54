"""A small file costs little: what a checkpoint would build is counted before torch unpacks any of it."""

import struct
import zipfile

import pytest
import torch

from checkpoints.files import CheckpointError, read_checkpoint

SINCE_2_5 = [b"bytes", {"x", 3}] if hasattr(torch.serialization, "safe_globals") else []
GIGABYTES = b"\x8a\x05" + struct.pack("<q", 3 * 2**30)[:5]


def named_twice(levels):
    """Pickle of a tuple of two of one before, so many times; the last is on the stack."""
    twice = (b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(levels))
    return b")q\x00" + b"0".join(twice)


def twice_in_lists(levels):
    """As `named_twice`, without the instruction that drops a value: all of them in one list."""
    return b"](" + named_twice(levels).replace(b"0h", b"h") + b"e"


BOMBS = {
    "bytes of any length": b"cbuiltins\nbytearray\n" + GIGABYTES + b"\x85R.",
    "a key that takes for ever to hash": twice_in_lists(60)[:-1] + b"e}h\x3cK\x01s.",
    "a value that is endless when walked over": b"}X\x01\x00\x00\x00a" + twice_in_lists(60) + b"s.",
    "a set of sets": b"cbuiltins\nset\n(" + b"cbuiltins\nset\n]\x85R" + b"t\x85R.",
    "a list in itself": b"]q\x00h\x00a.",
    "deep nesting": b"]" * 5000 + b"a" * 4999 + b".",
    "text copied again and again": b"X" + struct.pack("<I", 2**20) + b"x" * 2**20 + b"q\x00]("
    + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 2000 + b"e.",
    "a tensor larger than its storage": b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00" + GIGABYTES + b"\x85K\x00\x85\x89NtR.",
}  # fmt: skip


def write_zip(path, pickle, compression=zipfile.ZIP_STORED, storage=bytes(16)):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + pickle)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data/0", storage)


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path, bomb, legacy, monkeypatch):
    path = tmp_path / "bomb.ckpt"
    if legacy:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(
            path.read_bytes().replace(b"\x80\x02}q\x00.\x80\x02]", b"\x80\x02" + BOMBS[bomb] + b"\x80\x02]")
        )
        assert BOMBS[bomb] in path.read_bytes()
    else:
        write_zip(path, BOMBS[bomb])
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("given to torch"))
    with pytest.raises(CheckpointError, match=r"bomb\.ckpt"):
        read_checkpoint(path)


def test_compressed_parts_are_refused_unread(tmp_path):
    write_zip(tmp_path / "x.ckpt", b"}.", zipfile.ZIP_DEFLATED, bytes(2**24))
    with pytest.raises(CheckpointError, match=r"x\.ckpt: .*is compressed"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_parts_of_one_name_and_overlapping_parts_are_refused(tmp_path):
    write_zip(tmp_path / "twice.ckpt", b"}.")
    with zipfile.ZipFile(tmp_path / "twice.ckpt", "a") as file:
        file.writestr("archive/data/0", bytes(16))
    with pytest.raises(CheckpointError, match="there twice"):
        read_checkpoint(tmp_path / "twice.ckpt")
    with zipfile.ZipFile(tmp_path / "over.ckpt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/data/0", bytes(2**16))
        info = zipfile.ZipInfo("archive/data/1")
        info.file_size, info.compress_size, info.CRC = 2**16, 2**16, 0
        info.header_offset = file.getinfo("archive/data/0").header_offset
        file.filelist.append(info)
    with pytest.raises(CheckpointError, match="overlaps"):
        read_checkpoint(tmp_path / "over.ckpt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_checkpoints_are_made_of_is_read_as_it_was(tmp_path, legacy):
    weight = torch.arange(12.0).reshape(3, 4)
    layer = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    saved = {
        "state_dict": layer.state_dict(),
        "views": [weight, weight.t(), weight[1:, ::2], torch.nn.Parameter(weight)],
        "kinds": [torch.ones(2, dtype=kind) for kind in (torch.bfloat16, torch.half, torch.int64, torch.bool)],
        "empty": torch.empty(0, 4),
        "plain": {"a": (1, 2.5, None, True), "b": [2**80, -1], "c": SINCE_2_5, 5: torch.Size([1, 2])},
        "dtype": torch.float32,
        "optimizer": torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9).state_dict(),
    }
    torch.save(saved, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(tmp_path / "x.ckpt")
    assert read.keys() == saved.keys()
    for key in ("plain", "dtype", "optimizer"):
        assert read[key] == saved[key]
    for key in ("views", "kinds"):
        assert all(torch.equal(one, other) for one, other in zip(read[key], saved[key], strict=True))
    assert all(torch.equal(read["state_dict"][key], value) for key, value in layer.state_dict().items())
    assert read["state_dict"]._metadata == saved["state_dict"]._metadata and read["empty"].shape == (0, 4)


def test_a_legacy_file_may_not_claim_more_than_it_has(tmp_path):
    torch.save({"w": torch.zeros(200)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pt").read_bytes()
    claimed = content.replace(b"K\xc8", b"J\xff\xff\xff\x7f", 1)
    assert claimed != content
    (tmp_path / "x.pt").write_bytes(claimed)
    with pytest.raises(CheckpointError, match=r"x\.pt: refused.*storage"):
        read_checkpoint(tmp_path / "x.pt")
