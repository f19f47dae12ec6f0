"""Flink's Kafka connector, which PyPI does not have."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Final

VERSION: Final = "5.0.0-2.2"  # of the connector, for Flink 2.2
MAVEN_DEADLINE_S: Final = 900.0

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fraudline</groupId>
  <artifactId>flink-for-benches</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.flink</groupId>
      <artifactId>flink-sql-connector-kafka</artifactId>
      <version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


def jar() -> Path:
    """The connector with all it needs, one file, fetched by Maven once for this user. Raises SystemExit."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraudline" / f"flink-kafka-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    found = cache / f"flink-sql-connector-kafka-{VERSION}.jar"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            _fetch(cache)
    if not found.exists():
        message = f"Maven fetched something, but not {found.name}."
        raise SystemExit(message)
    return found


def _fetch(cache: Path) -> None:
    pom = cache / "pom.xml"
    pom.write_text(_POM)
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={cache}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAVEN_DEADLINE_S, check=False)
    if done.returncode:
        message = f"Maven could not fetch Flink's Kafka connector {VERSION}; it said:\n{done.stdout[-3000:]}"
        raise SystemExit(message)
