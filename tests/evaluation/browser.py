"""A page in headless Chromium, driven over its debugging pipe: no driver or library is needed beside the browser."""

import fcntl
import json
import os
import select
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
WAIT = 60  # s


class Browser:
    """A page of its own, by default without a network; what it complains of and asks for is kept.

    Attributes:
        errors: what went to the console as an error or was thrown. requests: addresses asked for.
    """

    def __init__(self, profile: Path, offline: bool = True) -> None:
        (read, their_end), (their_start, write) = os.pipe(), os.pipe()
        # As root, and in containers, there is no sandbox to have.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=lambda: _place(their_start, their_end),
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_start)
        os.close(their_end)
        self._read, self._write, self._number, self._left = read, write, 0, b""
        self._session: dict[str, str] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        nothing = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        if offline:
            self.call("Network.emulateNetworkConditions", offline=True, **nothing)

    def open(self, page: Path | str, width: int, height: int = 900) -> None:
        """Waits until it is loaded."""
        self.errors, self.requests, before = [], [], self._loaded
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while self._loaded == before:
            self._take()

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Of the whole page, as PNG."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def complaints(self, own: str = "file:") -> list[str]:
        """What is wrong with the page that is open: errors, requests of a network but for the page's own address,
        content wider than the window."""
        wide = self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        outside = [f"asked for {url}" for url in self.requests if not url.startswith((own, "data:", "blob:"))]
        return [*self.errors, *outside, *([f"{wide} px wider than the window"] if wide > 0 else [])]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT)
        os.close(self._read)
        os.close(self._write)

    def _take(self) -> dict[str, Any]:
        """The next message; events are taken note of."""
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], WAIT)
            part = os.read(self._read, 1 << 16) if ready else b""
            assert part, f"Chromium says nothing (exit status {self._process.poll()})"
            self._left += part
        text, _, self._left = self._left.partition(b"\0")
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        return message


def _place(start: int, end: int) -> None:
    """Makes the pipe's ends 3 and 4, where Chromium reads commands and writes answers."""
    start, end = (fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (start, end))
    os.dup2(start, 3)
    os.dup2(end, 4)
