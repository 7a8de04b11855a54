"""A server of one file on this machine, which may break off, lie, or have changed its file."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `content` under every path, with ranges as S3 does.

    breaks: after so many bytes the next connections end. stated: a Content-Length that is not the content's. version:
    the ETag; None sends none. redirect: where every request is sent. asked: the Range of each request, "" without.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.kind, self.version, self.status = content, "application/octet-stream", '"1"', 200
        self.breaks: list[int] = []
        self.stated: int | None = None
        self.redirect: str | None = None
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def address(self, path: str = "weights.pt") -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/{path}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        start = 0
        if self.redirect or self.status != 200:
            request.send_response(302 if self.redirect else self.status)
            if self.redirect:
                request.send_header("Location", self.redirect)
            request.end_headers()
            return
        if wanted and request.headers.get("If-Range") == self.version:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start and start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Type", self.kind)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.version:
            request.send_header("ETag", self.version)
        length = len(self.content) - start if self.stated is None else self.stated
        request.send_header("Content-Length", str(length))
        request.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else len(self.content)
        request.wfile.write(self.content[start:end])
