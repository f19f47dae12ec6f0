"""What the chart renders for each scenario, as Kubernetes and the operators' own schemas judge it."""

from __future__ import annotations

import re
import subprocess

import pytest

from consumer.settings import KNOWN
from tests.support.charts import CHART, SCENARIOS, Render


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_lints(scenario: str, helm: str) -> None:
    command = [helm, "lint", "--strict", str(CHART), "--values", str(CHART / "ci" / scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_pod_is_confined_and_its_state_set_is_what_transactions_need(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    stateful_set, service, pod = rendered.one("StatefulSet")["spec"], rendered.one("Service"), rendered.pod
    assert stateful_set["podManagementPolicy"] == "Parallel"
    assert stateful_set["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == stateful_set["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= stateful_set["template"]["metadata"]["labels"].items()
    assert rendered.env["POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    names = list(rendered.env)
    assert names.index("POD_NAME") < names.index("FRAUDLINE_KAFKA__TRANSACTIONAL_ID")  # else it is not expanded
    assert pod["automountServiceAccountToken"] is False
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    for name, path in {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}.items():
        assert rendered.container[f"{name}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    read_only = {mount["name"]: mount.get("readOnly", False) for mount in rendered.container["volumeMounts"]}
    assert [name for name, fixed in read_only.items() if not fixed] == ["tmp"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_secret_is_ever_in_what_is_rendered(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    assert not [document for document in rendered.documents if document["kind"] == "Secret"]
    secrets = {name for name, secret in KNOWN.secret.items() if secret}
    config = rendered.one("ConfigMap")["data"]["fraudline.toml"]
    assert not [name for name in secrets if re.search(rf"^{name.partition('.')[2]}(_file)? =", config, re.MULTILINE)]
    assert all("_FILE" in name for name in rendered.env if re.search("PASSWORD|URL|SECRET|TOKEN", name))
