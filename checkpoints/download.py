"""One file of an https:// address: it goes on where it broke off, is bounded, and has its name once it is whole."""

import hashlib
import http.client
import json
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from coco.whole_files import renamed_when_whole, write_text

LARGEST = 8 * 2**30  # bytes; more than any file that is taken here, and an end to a server that never stops
ATTEMPTS = 5  # connections in a row that bring nothing
FIRST_DELAY = 1.0  # s before the second of them, then twice as long each time
TIMEOUT = 30.0  # s without a byte
CHUNK = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP: another attempt may succeed
RANGE_REFUSED = 416


class DownloadError(OSError):
    """A file that did not come; the message says why."""


def download(address: str, path: Path, sha256_starts: str = "") -> None:
    """Fetches `address` to `path`; by one process at a time, see `coco.whole_files.alone`.

    What was fetched before the connection, or an earlier process, broke off is beside it (`.part`), and is gone on from
    if the server still has the same file (its ETag or date, RFC 9110 section 13.1.5).

    Args:
        sha256_starts: hex digits that the file's SHA-256 begins with, where they are known.

    Raises:
        DownloadError: no such address, a page in place of a file, another file than expected, or no connection.
            OSError: the disk.
    """
    check_address(address)
    part = path.with_name(f"{path.name}.part")
    failures, delay = 0, FIRST_DELAY
    while True:
        before = _size(part)
        try:
            _fetch_rest(address, part)
            break
        except DownloadError:
            raise
        except urllib.error.HTTPError as error:
            if error.code not in (*PASSING, RANGE_REFUSED):
                raise DownloadError(f"HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
            cause = getattr(error, "reason", None) or error
            reason = str(cause) or type(cause).__name__
            if isinstance(cause, (socket.gaierror, ssl.SSLCertVerificationError)):
                raise DownloadError(reason) from None
        failures, delay = (failures + 1, delay) if _size(part) <= before else (1, FIRST_DELAY)
        if failures == ATTEMPTS:
            raise DownloadError(f"{reason}; {ATTEMPTS} connections in a row brought nothing")
        time.sleep(delay)
        delay *= 2
    with renamed_when_whole(path, part):
        _check(part, sha256_starts)
    _note(part).unlink(missing_ok=True)


def check_address(address: str) -> None:
    """Raises DownloadError but for https://, and http:// of this machine itself."""
    try:
        parts = urlsplit(address)
        scheme, host = parts.scheme, parts.hostname
    except ValueError as error:
        raise DownloadError(f"{shown(address)}: no address ({error})") from None
    if "@" in parts.netloc:
        raise DownloadError(f"{shown(address)}: an address with a user or a password in it is not taken")
    if not host or not (scheme == "https" or (scheme == "http" and host in LOOPBACK)):
        raise DownloadError(
            f"{shown(address)}: expected an https:// address; what comes by another way can be changed underway"
        )


def shown(address: str) -> str:
    """An address for messages and records: without user, password and query, which may be secrets."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "(an address that cannot be read)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def sha256(path: Path) -> str:
    """Of a file, in hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects lead nowhere that could not be asked for."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{shown(req.full_url)} leads to {shown(newurl)}, which is no https:// address")
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch_rest(address: str, part: Path) -> None:
    """One connection; returns when `part` has all that the server says there is."""
    start, version = _size(part), _version(part)
    headers = {"User-Agent": "ssd300-lightning"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    opener = urllib.request.build_opener(_Redirects())
    try:
        answer = opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_REFUSED:
            if error.headers.get("Content-Range") == f"bytes */{start}":  # all of it came before
                return
            part.unlink(missing_ok=True)
        raise
    with answer:
        if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise DownloadError("what came is a page (text/html), not the file; is a login, or a proxy, in between?")
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if answer.status == 206 and not goes_on:
            raise ConnectionError("the server sent another part than it was asked for")
        start = start if goes_on else 0
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if (total or 0) > LARGEST:
            raise DownloadError(f"{total} bytes, more than the {LARGEST} that are taken")
        part.parent.mkdir(parents=True, exist_ok=True)
        if not goes_on:
            part.unlink(missing_ok=True)
            # A weak tag says only that the content means the same.
            tag = answer.headers.get("ETag", "")
            version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
            write_text(_note(part), json.dumps({"address": shown(address), "version": version}))
        done = start
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None, file=sys.stderr)
        with bar, open(part, "ab") as file:
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                if done > LARGEST:
                    raise DownloadError(f"more than the {LARGEST} bytes that are taken")
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and done != total:
        raise ConnectionError(f"the connection broke off after {done} of {total} bytes")


def _check(part: Path, sha256_starts: str) -> None:
    with open(part, "rb") as file:
        start = file.read(512).lstrip()
    if re.match(rb"<(!doctype|html)", start, re.IGNORECASE) or not start:
        raise DownloadError(f"what came is {'a page (HTML), not the file' if start else 'empty'}")
    if not (found := sha256(part)).startswith(sha256_starts):
        raise DownloadError(f"its SHA-256 is {found}, expected one that begins with {sha256_starts}")


def _note(part: Path) -> Path:
    """Beside an unfinished file: which one it is of."""
    return part.with_name(f"{part.name}.json")


def _version(part: Path) -> str:
    with suppress(OSError, ValueError, LookupError, TypeError):
        version = json.loads(_note(part).read_text("utf-8"))["version"]
        if isinstance(version, str) and version.isprintable():
            return version
    return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
