"""Look the locked packages up among known vulnerabilities, and say how many could be looked up.

pip-audit calls a package that its service does not answer for "skipped", and ends well. Where no service can be
reached that would be every package, so it is counted here. Exit status 1: a vulnerability is known, or (with
REQUIRE_AUDIT=1) something could not be looked up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

LOCKS: Final = ("requirements.txt", "requirements-cuda.txt")
LIMIT_S: Final = 300
UNREACHED_S: Final = "10"


def look_up(lock: str, options: list[str]) -> list[dict[str, Any]] | None:
    """What pip-audit found of each package of a lock; None if it found no service to ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", UNREACHED_S, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, subprocess.TimeoutExpired):
        return None
    return found


def main(options: list[str]) -> int:
    """Audit every lock; options go to pip-audit."""
    known, asked, unanswered = 0, 0, 0
    for lock in LOCKS:
        found = look_up(lock, options)
        if found is None:
            print(f"{lock}: no service of known vulnerabilities answers from here", file=sys.stderr)
            unanswered += 1
            continue
        for package in found:
            asked += "vulns" in package
            unanswered += "vulns" not in package
            for flaw in package.get("vulns", ()):
                known += 1
                mend = ", ".join(flaw["fix_versions"]) or "no version yet"
                print(
                    f"{lock}: {package['name']} {package['version']}: {flaw['id']}, mended in {mend}", file=sys.stderr
                )
    print(f"audit: {asked} packages looked up, {known} known vulnerabilities, {unanswered} could not be looked up")
    return 1 if known or (unanswered and os.environ.get("REQUIRE_AUDIT") == "1") else 0


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main(sys.argv[1:]))
