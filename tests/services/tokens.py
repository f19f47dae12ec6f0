"""A token endpoint over TLS, as an OAuth server has one: it gives signed tokens for a client's id and secret."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

AUDIENCE = "kafka"
KEY_ID = "test-key"
LIFE_S = 300


class TokenServer:
    """Serves at `url` from construction to `close`. A client's name in the token is its id.

    Args:
        clients: the secret of each client id.
        authority: who issues the certificate of the endpoint.
        folder: where the public keys are put, as `jwks.json`.
    """

    def __init__(self, clients: dict[str, str], authority: trustme.CA, folder: Path) -> None:
        self.asked = 0
        self._clients = clients
        self._key = rsa.generate_private_key(65_537, 2_048)
        self.keys = folder / "jwks.json"
        self.keys.write_text(json.dumps({"keys": [self._public()]}))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def token(self, client: str) -> str:
        """A signed token for a client."""
        now = int(time.time())
        claims = {"sub": client, "aud": AUDIENCE, "iat": now, "exp": now + LIFE_S, "scope": "payments"}
        head = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}
        text = ".".join(_coded(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{_coded(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _public(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "kid": KEY_ID,
            "use": "sig",
            "alg": "RS256",
            "n": _coded(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
            "e": _coded(numbers.e.to_bytes(3, "big")),
        }

    def _answer(self, authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked += 1
        kind, _, code = authorization.partition(" ")
        client, _, secret = base64.b64decode(code).decode().partition(":")
        if kind != "Basic" or self._clients.get(client) != secret:
            # some servers quote what they were given
            return 401, {"error": "invalid_client", "error_description": f"{client} with {secret} is unknown"}
        return 200, {"access_token": self.token(client), "token_type": "Bearer", "expires_in": LIFE_S}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                status, document = outer._answer(self.headers["Authorization"] or "")
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ssl.SSLError:  # who does not trust us hangs up
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
