"""What is installed is known: each locked package is looked up among known flaws, and stands in a bill of materials."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FLAW = {
    "id": "TEST-2026-1",
    "aliases": [],
    "summary": "made for a test",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "orjson"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.0"}]}],
        }
    ],
    "modified": "2026-01-01T00:00:00Z",
}


@contextmanager
def advisories(flawed: str | None) -> Iterator[str]:
    """A service of known flaws, as pip-audit asks OSV's: it knows one, of one package, or none."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = {"vulns": [FLAW]} if asked["package"]["name"] == flawed else {}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def audit(url: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/audit.py", "--vulnerability-service", "osv", "--osv-url", url]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=200
    )


def locked(lock: str) -> dict[str, str]:
    pins: dict[str, str] = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))
    return pins


@pytest.mark.slow
def test_a_known_flaw_of_a_locked_package_fails_the_audit() -> None:
    with advisories("orjson") as url:
        done = audit(url)
    assert done.returncode == 1
    assert (
        f"requirements.txt: orjson {locked('requirements.txt')['orjson']}: TEST-2026-1, mended in 999.0" in done.stderr
    )


@pytest.mark.slow
def test_an_audit_without_findings_says_how_many_packages_it_looked_up() -> None:
    with advisories(None) as url:
        done = audit(url, REQUIRE_AUDIT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.match(r"audit: (\d+) packages looked up, 0 known vulnerabilities, 0 could not", done.stdout)
    assert asked
    assert int(asked[1]) >= len(locked("requirements.txt"))


@pytest.mark.parametrize(("required", "status"), [("", 0), ("1", 1)])
def test_an_audit_that_reaches_nobody_says_so_and_fails_where_it_is_required(required: str, status: int) -> None:
    with advisories(None) as url:
        pass  # nobody listens there any more
    done = audit(url, REQUIRE_AUDIT=required)
    assert done.returncode == status
    assert "requirements.txt: no service of known vulnerabilities answers from here" in done.stderr
    assert "audit: 0 packages looked up" in done.stdout


def test_the_bill_of_materials_names_every_locked_package_with_its_digests(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    [recipe] = re.findall(r"\$\(BIN\)/python (-W ignore -m cyclonedx_py .*) -o dist/fraudline.cdx.json", makefile)
    out = tmp_path / "bill.json"
    subprocess.run([sys.executable, *recipe.split(), "-o", str(out)], cwd=ROOT, check=True, capture_output=True)
    bill: dict[str, Any] = json.loads(out.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "fraudline"
    assert {part["name"]: part["version"] for part in bill["components"]} == locked("requirements.txt")
    for part in bill["components"]:
        assert part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}"
        assert part["externalReferences"][0]["hashes"]
