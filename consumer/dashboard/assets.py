"""The page's own files, read once from the package: there is no way from an address to any other file."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Assets:
    """Files by name, with tags by which a browser asks whether they are still the same."""

    def __init__(self) -> None:
        """Read them all."""
        folder = files("consumer.dashboard") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        refusal = '<p class="refusal" role="alert">That is not the token.</p>'
        self._files["refused.html"] = self._files["login.html"].replace(b"<!-- refused -->", refusal.encode())

    def response(self, name: str, request: Request, status: int = 200) -> Response:
        """A file, or that it has not changed."""
        content = self._files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if status == 200 and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, status, headers, media_type=TYPES[name.rpartition(".")[2]])
