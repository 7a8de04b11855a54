"""What a checkpoint is called: a local file, the name of a published one, or an https:// address.

What is fetched lies in torch.hub's cache. Its size and SHA-256 are recorded beside it the first time that it is seen
there, and held against it each time it is used: that tells of a damaged or exchanged file, not of whether the first one
was what its maker published.
"""

import hashlib
import json
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints.download import DownloadError, check_address, download, sha256, shown
from checkpoints.files import CheckpointError
from coco.whole_files import alone, write_text

# The checkpoint that the published recipe's torch.hub entry loads: ResNet-50, COCO 2017 (github.com/NVIDIA/
# DeepLearningExamples, PyTorch/Detection/SSD/ssd/entrypoints.py).
NAMES = {
    "nvidia_ssd300_coco": "https://api.ngc.nvidia.com/v2/models/nvidia/ssd_pyt_ckpt_amp/versions/20.06.0/files/"
    "nvidia_ssdpyt_amp_200703.pt",
}
FETCHED = f"or what is fetched: {', '.join(NAMES)}, or an https:// address"  # for the help of flags
WAIT_SECONDS = 3600.0  # for another process of this machine that fetches the same file


def local_file(name: str | Path) -> Path:
    """The file that is meant by a path, a name in `NAMES` or an https:// address, which is fetched if need be.

    A file of that name in the current directory comes before the published one, and a line says so.

    Raises:
        CheckpointError: it cannot be fetched, or is not the one of the first time.
    """
    address = re.sub(r"^(https?):/+", r"\1://", str(name))  # of which a Path has one slash
    if address in NAMES:
        if Path(name).is_file():
            rank_zero_info(f"{name}: the local file of that name, not the published checkpoint ({NAMES[address]})")
            return Path(name)
        path = in_hub_cache(Path(urlsplit(NAMES[address]).path).name)
        address = NAMES[address]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", address):
        try:
            check_address(address)
        except DownloadError as error:
            raise CheckpointError(str(error)) from None
        # Two addresses may end in the same name.
        own = re.sub(r"[^A-Za-z0-9._-]", "_", Path(urlsplit(address).path).name)[-100:]
        path = in_hub_cache(f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{own}")
    else:
        return Path(name)
    try:
        fetch(address, path)
    except OSError as error:
        raise CheckpointError(
            f"{shown(str(name))}: could not be fetched from {shown(address)} ({error}). Where there is no network, "
            f"fetch that file elsewhere and place it at {path}, or give the path of a copy"
        ) from None
    return path


def fetch(address: str, path: Path, sha256_starts: str = "") -> None:
    """Returns when `path` is there: placed by hand, or fetched, by one process of the machine while others wait.

    Raises:
        CheckpointError: not the file that is on record. OSError: it cannot be fetched, or written.
    """
    if not path.is_file():
        with alone(path, WAIT_SECONDS):
            if not path.is_file():
                print(f"fetching {shown(address)} to {path}", file=sys.stderr)
                download(address, path, sha256_starts)
    status = path.stat()
    found = {"bytes": status.st_size, "sha256": _sha256(path, status.st_size, status.st_mtime_ns)}
    record = path.with_name(f"{path.name}.json")
    if not record.exists():
        with suppress(OSError):  # a cache that is the system's
            write_text(record, json.dumps({"address": shown(address), **found}, indent=1) + "\n")
        return
    try:
        known = json.loads(record.read_text("utf-8"))
        first = {key: known[key] for key in found}
    except (OSError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{record}: cannot be read; delete it, and {path} is put on record anew") from None
    if first != found:
        raise CheckpointError(
            f"{path}: not the file that was here first: {found['bytes']} bytes, SHA-256 {found['sha256']}; on record "
            f"are {first['bytes']}, {first['sha256']}. Delete it to fetch it again; where it was changed on purpose, "
            f"delete {record}"
        )


def in_hub_cache(name: str) -> Path:
    """Where torch.hub would keep a file of weights of this name."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Once a process, as long as the file stays as it is."""
    return sha256(path)
