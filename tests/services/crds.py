"""Custom resource definitions of the operators that the chart makes objects for, from their own sources by Go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.services.process import ServiceError

DEADLINE_S: Final = 300.0

Document = dict[str, Any]


class Source:
    """A Go module that holds definitions, with the checksum of what it has to be."""

    def __init__(self, module: str, checksum: str, folder: str, kinds: Mapping[str, str]) -> None:
        """`kinds` has the file of each kind, in `folder`."""
        self.module, self.checksum, self.folder, self.kinds = module, checksum, folder, dict(kinds)


SOURCES: Final = (
    Source(
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd",
        {
            "ServiceMonitor": "monitoring.coreos.com_servicemonitors.yaml",
            "PrometheusRule": "monitoring.coreos.com_prometheusrules.yaml",
        },
    ),
    Source(
        "github.com/kedacore/keda/v2@v2.16.1",
        "h1:LfYsxfSX8DjetLW8q9qnriImH936POrQJvE+caRoScI=",
        "config/crd/bases",
        {
            "ScaledObject": "keda.sh_scaledobjects.yaml",
            "TriggerAuthentication": "keda.sh_triggerauthentications.yaml",
        },
    ),
)


def missing() -> str | None:
    """Why the definitions can't be had here, in one sentence; None when they can."""
    return None if shutil.which("go") else "go was not found on PATH"


@cache
def schemas() -> Mapping[tuple[str, str], Document]:
    """The JSON schema of each kind, by (apiVersion, kind). A name that the definition does not have is refused.

    Raises:
        ServiceError: Go could not get a module, or it is not what it has to be.
    """
    found = {}
    for source in SOURCES:
        folder = _download(source) / source.folder
        for kind, name in source.kinds.items():
            definition = yaml.safe_load((folder / name).read_text())["spec"]
            for version in definition["versions"]:
                schema = _closed(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                found[f"{definition['group']}/{version['name']}", kind] = schema
    return found


def _download(source: Source) -> Path:
    """The module's folder, in Go's own cache."""
    command = ["go", "mod", "download", "-json", source.module]
    environment = os.environ | {"GO111MODULE": "on", "GOFLAGS": ""}
    place = Path(__file__).parent
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_S, env=environment, cwd=place
    )
    told = json.loads(done.stdout) if done.stdout.startswith("{") else {"Error": done.stderr[-1000:]}
    if "Error" in told:
        raise ServiceError(f"Go could not get {source.module}: {told['Error']}")
    if told["Sum"] != source.checksum:
        raise ServiceError(f"{source.module} is {told['Sum']}, not {source.checksum}.")
    return Path(told["Dir"])


def _closed(schema: Any) -> Any:
    """A structural schema as JSON Schema: unknown fields, which the API server would drop, are refused."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if isinstance(pattern := schema.get("pattern"), str) and pattern.startswith("^(?i)"):
        closed["pattern"] = f"(?i)^{pattern.removeprefix('^(?i)')}"  # as Python wants it
    properties = schema.get("properties")
    if isinstance(properties, dict) and "type" in schema and schema["type"] == "object":
        open_to_all = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if not open_to_all:
            closed["additionalProperties"] = False
    return closed
