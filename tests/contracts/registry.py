"""An image registry that can only be pulled from: each image is one layer, given as a tar.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


class Registry:
    """Serves on a free port of 127.0.0.1, which Docker speaks plain HTTP to; references start with ``host``.

    With ``stalling`` it announces layers and never sends them. ``asked`` is set once somebody wants one.
    """

    def __init__(self, images: Mapping[str, bytes], *, stalling: bool = False) -> None:
        self.asked = threading.Event()
        self._stalling = stalling
        self._over = threading.Event()
        self._content: dict[str, tuple[str, bytes]] = {"/v2/": ("application/json", b"{}")}
        for name, layer in images.items():
            self._add(name, layer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def give_up(self) -> None:
        """Break off what it stalls."""
        self._over.set()

    def _add(self, name: str, layer: bytes) -> None:
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(name, "application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
            "layers": [self._blob(name, _LAYER, layer)],
        }
        content = json.dumps(manifest).encode()
        for reference in ("latest", _digest(content)):
            self._content[f"/v2/{name}/manifests/{reference}"] = (_MANIFEST, content)

    def _blob(self, name: str, kind: str, content: bytes) -> dict[str, object]:
        self._content[f"/v2/{name}/blobs/{_digest(content)}"] = (kind, content)
        return {"mediaType": kind, "size": len(content), "digest": _digest(content)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        contents, asked, over, stalling = self._content, self.asked, self._over, self._stalling

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                kind, content = contents.get(self.path, ("application/json", b'{"errors": [{"code": "NOT_FOUND"}]}'))
                self.send_response(200 if self.path in contents else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Docker-Content-Digest", _digest(content))
                self.end_headers()
                if self.command == "GET":
                    if kind == _LAYER:
                        asked.set()
                        if stalling:
                            over.wait()
                            self.close_connection = True
                            return
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815 - the base class's name for it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
