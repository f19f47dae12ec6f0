"""The chart as tests see it: what `helm template` answers, and where things are in its values and schema."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "fraudline"
SCENARIOS = sorted(path.name for path in CHART.glob("ci/*-values.yaml"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
MOUNTS = "/etc/fraudline"
KUBERNETES = "1.34.0"  # what is rendered for, where a test says nothing else

QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Document = dict[str, Any]
Render = Callable[..., "Rendered"]


def find_helm() -> str | None:
    """Helm, on PATH or where `go install` puts it."""
    found = shutil.which("helm")
    if found is None and shutil.which("go"):
        done = subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True, check=False, timeout=60)
        found = shutil.which("helm", path=str(Path(done.stdout.strip()) / "bin"))
    return found


class Rendered:
    """What `helm template` answered: the documents, or why it refused."""

    def __init__(self, text: str, error: str) -> None:
        """`error` is empty when it did not refuse."""
        self.text, self.error, self.refused = text, error, bool(error)
        self.documents: list[Document] = list(yaml.load_all(text, QUICK)) if not error else []

    def all(self, kind: str) -> dict[str, Document]:
        """The documents of a kind, by their names."""
        assert not self.refused, self.error
        return {found["metadata"]["name"]: found for found in self.documents if found["kind"] == kind}

    def one(self, kind: str, name: str = "rel-fraudline") -> Document:
        return self.all(kind)[name]

    def pods(self) -> dict[str, Document]:
        """Every pod that the chart makes, by kind and name of what makes it: its labels and specification."""
        found = {}
        for document in self.documents:
            template = document if document["kind"] == "Pod" else at(document, "spec.template")
            if template is not None:
                found[f"{document['kind']}/{document['metadata']['name']}"] = template
        return found

    @property
    def pod(self) -> Document:
        """The processor's pod."""
        return self.pod_of("StatefulSet")

    def pod_of(self, kind: str, name: str = "rel-fraudline") -> Document:
        spec: Document = self.pods()[f"{kind}/{name}"]["spec"]
        return spec

    @property
    def container(self) -> Document:
        return only_container(self.pod)

    @property
    def env(self) -> dict[str, Document]:
        return environment(self.pod)

    def volume(self, name: str) -> Document | None:
        return named(self.pod["volumes"], name)

    def mount(self, name: str) -> Document | None:
        return named(self.container["volumeMounts"], name)


def only_container(pod: Document) -> Document:
    [container] = pod["containers"]
    assert isinstance(container, dict)
    return container


def environment(pod: Document) -> dict[str, Document]:
    """The variables of a pod's only container, by name, in their order."""
    return {variable["name"]: variable for variable in only_container(pod)["env"]}


def named(items: list[Document], name: str) -> Document | None:
    return next((item for item in items if item["name"] == name), None)


@cache
def _template(helm: str, scenario: str | None, kubernetes: str, changes: str) -> tuple[str, str]:
    files = ["--values", str(CHART / "ci" / scenario)] if scenario else []
    command = [helm, "template", "rel", str(CHART), "--namespace", "ns", "--kube-version", kubernetes, *files]
    done = subprocess.run(
        [*command, "--values", "-"], input=changes, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout, (done.stderr or "no reason given") if done.returncode else ""


def render(helm: str, changes: Mapping[str, Any] | None, scenario: str | None, kubernetes: str) -> Rendered:
    """`helm template` of a scenario with `changes` on top, run once for all tests that ask for the same."""
    return Rendered(*_template(helm, scenario, kubernetes, json.dumps(changes or {})))


def tree(dotted: str, value: object) -> dict[str, Any]:
    """`("a.b", 1)` as `{"a": {"b": 1}}`."""
    for name in reversed(dotted.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def together(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Trees as one; a later value wins."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            old = merged.get(name)
            merged[name] = together(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def at(document: Any, dotted: str) -> Any:
    """What stands at `a.b.c`, or `a/b/c~d` with slashes in names; None where nothing does. Numbers index lists."""
    names = [name.replace("~", "/") for name in dotted.split("/")] if "/" in dotted else dotted.split(".")
    for name in names:
        if isinstance(document, list):
            document = document[int(name)] if int(name) < len(document) else None
        else:
            document = document.get(name) if isinstance(document, dict) else None
    return document


def leaves(schema: Document, path: str = "") -> Iterator[tuple[str, Document]]:
    """Every value that a user may set: its dotted name and schema."""
    for name, child in schema["properties"].items():
        dotted = f"{path}.{name}".strip(".")
        if "properties" in child:
            yield from leaves(child, dotted)
        elif dotted != "global":
            yield dotted, child
