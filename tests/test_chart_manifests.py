"""What the chart renders for each scenario, judged by Kubernetes', the operators' and Pod Security's own rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]  # it has none
import pytest
import yaml

from consumer.dashboard.guard import PUBLIC
from consumer.dashboard.server import DRAIN_S, START_S
from consumer.settings import KNOWN
from tests.support.charts import (
    CHART,
    KUBERNETES,
    SCENARIOS,
    Document,
    Render,
    Rendered,
    at,
    named,
    only_container,
    tree,
)

OLDEST = re.sub(r"[^\d.]", "", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"].partition("-")[0])
CUSTOM = re.compile(r"keda\.sh/|monitoring\.coreos\.com/")
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
RESTRICTED_VOLUMES |= {"persistentVolumeClaim"}

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


@each_scenario
def test_each_scenario_lints(scenario: str, helm: str) -> None:
    values = ["--values", str(CHART / "ci" / scenario), "--kube-version", KUBERNETES]
    command = [helm, "lint", "--strict", str(CHART), *values]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def judge(document: Document, kubernetes: str, custom: Mapping[tuple[str, str], Document]) -> None:
    """Raises jsonschema.ValidationError: the API server would refuse this, or drop a part of it."""
    if CUSTOM.match(document["apiVersion"]):
        jsonschema.validate(document, custom[document["apiVersion"], document["kind"]])
    else:
        kubernetes_validate.validate(document, kubernetes, strict=True)


@pytest.mark.parametrize("kubernetes", [OLDEST, KUBERNETES])
@each_scenario
def test_every_object_is_what_its_schema_says(
    scenario: str, kubernetes: str, render: Render, custom_resources: Mapping[tuple[str, str], Document]
) -> None:
    rendered = render(scenario=scenario, kubernetes=kubernetes)
    assert not rendered.refused, rendered.error
    for document in rendered.documents:
        judge(document, kubernetes, custom_resources)
        assert document["metadata"]["namespace"] == "ns"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("StatefulSet", "spec.template.spec.containers.0.securityContext.readOnlyRootFilesystems"),
        ("NetworkPolicy", "spec.egres"),
        ("PodDisruptionBudget", "spec.maxUnavailable.x"),
        ("ScaledObject", "spec.maxReplicas"),
        ("TriggerAuthentication", "spec.secretTargetRef.0.names"),
        ("ServiceMonitor", "spec.endpoints.0.intervall"),
    ],
)
def test_the_schemas_refuse_a_slip(
    kind: str, path: str, render: Render, custom_resources: Mapping[tuple[str, str], Document]
) -> None:
    document = render(scenario="everything-values.yaml").one(kind)
    *way, name = path.split(".")
    holder = at(document, ".".join(way))
    if isinstance(holder, dict):
        holder[name] = True
    else:
        at(document, ".".join(way[:-1]))[way[-1]] = {name: True}
    with pytest.raises(jsonschema.ValidationError):
        judge(document, KUBERNETES, custom_resources)


def test_kubernetes_older_than_what_the_chart_claims_is_refused(render: Render) -> None:
    major, minor, _ = OLDEST.split(".")
    refused = render(kubernetes=f"{major}.{int(minor) - 1}.0")
    assert f"requires kubeVersion: >={OLDEST}" in refused.error
    assert min(kubernetes_validate.utils.all_versions(), key=lambda each: int(each.split(".")[1])) == OLDEST


def containers(pod: Document) -> list[Document]:
    return [*pod["containers"], *pod.get("initContainers", [])]


@each_scenario
def test_every_pod_holds_to_the_restricted_pod_security_standard_and_more(scenario: str, render: Render) -> None:
    pods = render(scenario=scenario).pods()
    assert pods
    for name, template in pods.items():
        pod = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}} <= RESTRICTED_VOLUMES, name
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "sysctls" not in security
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", []))
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        mounts = {mount["name"]: mount.get("readOnly", False) for mount in only_container(pod)["volumeMounts"]}
        assert [mount for mount, fixed in mounts.items() if not fixed] == ["tmp"], name


def test_no_service_account_has_a_token(render: Render) -> None:
    accounts = render(scenario="everything-values.yaml").all("ServiceAccount")
    assert accounts.keys() == {"rel-fraudline", "rel-fraudline-alert-page"}
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


@each_scenario
def test_the_stateful_set_is_what_transactions_need(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    stateful_set, service = rendered.one("StatefulSet")["spec"], rendered.one("Service")
    assert stateful_set["podManagementPolicy"] == "Parallel"
    assert stateful_set["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert rendered.env["POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    names = list(rendered.env)
    assert names.index("POD_NAME") < names.index("FRAUDLINE_KAFKA__TRANSACTIONAL_ID")  # else it is not expanded


@each_scenario
def test_what_serves_is_probed_where_it_listens(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    for name, template in rendered.pods().items():
        container = only_container(template["spec"])
        if name.startswith(("Job", "Pod")):
            assert not {"startupProbe", "livenessProbe", "readinessProbe"} & container.keys()
            continue
        [port] = container["ports"]
        for probe, path in {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}.items():
            assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": port["name"]}


def test_the_alert_page_answers_probes_and_prometheus_without_proof_and_has_time_to_end(render: Render) -> None:
    rendered = render(scenario="everything-values.yaml")
    pod = rendered.pod_of("Deployment", "rel-fraudline-alert-page")
    asked = {only_container(pod)[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    asked |= {each["path"] for each in rendered.one("ServiceMonitor", "rel-fraudline-alert-page")["spec"]["endpoints"]}
    assert asked <= PUBLIC
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S + START_S


def subset(selector: Document, labels: Document) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


@each_scenario
def test_whatever_points_at_pods_finds_those_of_one_component(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    pods = rendered.pods()
    for document in rendered.documents:
        kind, spec = document["kind"], document.get("spec", {})
        selectors = {
            "Service": {"matchLabels": spec.get("selector")},
            "NetworkPolicy": spec.get("podSelector"),
            **{each: spec.get("selector") for each in ("PodDisruptionBudget", "StatefulSet", "Deployment")},
        }
        if selector := selectors.get(kind):
            found = [name for name, pod in pods.items() if subset(selector, pod["metadata"]["labels"])]
            assert len(found) == 1, f"{kind}/{document['metadata']['name']} finds {found}"
            assert subset(selector, document["metadata"]["labels"])
        if kind == "ServiceMonitor":
            services = rendered.all("Service").values()
            [service] = [each for each in services if subset(spec["selector"], each["metadata"]["labels"])]
            assert named(service["spec"]["ports"], spec["endpoints"][0]["port"])


@each_scenario
def test_ports_are_named_where_they_are_used(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    pods = rendered.pods().values()
    for document in (*rendered.all("Service").values(), *rendered.all("NetworkPolicy").values()):
        spec = document["spec"]
        selector = {"matchLabels": spec["selector"]} if "selector" in spec else spec["podSelector"]
        [pod] = [each for each in pods if subset(selector, each["metadata"]["labels"])]
        used = [port["targetPort"] for port in spec["ports"]] if document["kind"] == "Service" else [
            port["port"] for rule in spec["ingress"] for port in rule["ports"]
        ]  # fmt: skip
        assert {port for port in used if isinstance(port, str)} <= {
            port["name"] for port in only_container(pod["spec"]).get("ports", [])
        }


def references(pod: Document) -> Iterator[tuple[str, str]]:
    for volume in pod["volumes"]:
        yield from (("Secret", each["secret"]["name"]) for each in at(volume, "projected.sources") or [])
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for container in containers(pod):
        yield from (("Secret", each["secretRef"]["name"]) for each in container.get("envFrom", []))
    yield "ServiceAccount", pod["serviceAccountName"]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


@each_scenario
def test_what_a_pod_refers_to_is_made_by_the_chart_or_named_by_the_user(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    made = {(each["kind"], each["metadata"]["name"]) for each in rendered.documents}
    told = set(strings(yaml.safe_load((CHART / "ci" / scenario).read_text()))) | {"default"}
    for name, template in rendered.pods().items():
        for kind, target in references(template["spec"]):
            assert (
                (kind, target) in made or (kind != "ConfigMap" and target in told) or target == "fraudline-signers"
            ), name
    for kind in ("ScaledObject", "HorizontalPodAutoscaler"):
        for scaler in rendered.all(kind).values():
            assert (scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"]) in made
    for authentication in rendered.all("TriggerAuthentication").values():
        for parameter in authentication["spec"].get("configMapTargetRef", []):
            assert parameter["key"] in rendered.one("ConfigMap", parameter["name"])["data"]
        assert {each["name"] for each in authentication["spec"]["secretTargetRef"]} <= told


def test_a_hook_needs_nothing_that_comes_after_it(render: Render) -> None:
    rendered = render(scenario="everything-values.yaml")
    hooks = {
        (each["kind"], each["metadata"]["name"]): int(notes["helm.sh/hook-weight"])
        for each in rendered.documents
        if "pre-install" in (notes := each["metadata"].get("annotations", {})).get("helm.sh/hook", "")
    }
    job = ("Job", "rel-fraudline-topics")
    assert hooks.keys() == {job, ("ConfigMap", job[1]), ("NetworkPolicy", job[1])}
    assert all(weight < hooks[job] for hook, weight in hooks.items() if hook != job)
    ours = {
        reference for reference in references(rendered.pod_of(*job)) if reference[0] in {"ConfigMap", "ServiceAccount"}
    }
    assert ours == {("ConfigMap", job[1]), ("ServiceAccount", "default")}


def test_helm_sees_a_hook_fail_before_it_gives_up_itself_and_prints_why(render: Render) -> None:
    job = render(scenario="topics-job-values.yaml").one("Job", "rel-fraudline-topics")
    assert job["spec"]["activeDeadlineSeconds"] <= 300 - 60, "helm's own limit is five minutes"
    assert job["metadata"]["annotations"]["helm.sh/hook-output-log-policy"] == "hook-failed"


@each_scenario
def test_with_network_policies_every_pod_has_one_for_both_ways(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    policies = rendered.all("NetworkPolicy").values()
    told = yaml.safe_load((CHART / "ci" / scenario).read_text()).get("networkPolicy", {}).get("enabled", False)
    for name, pod in rendered.pods().items():
        ours = [each for each in policies if subset(each["spec"]["podSelector"], pod["metadata"]["labels"])]
        assert len(ours) == int(told), name
        for policy in ours:
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            assert all(rule["from"] for rule in policy["spec"]["ingress"])
            assert all(rule["to"] and rule["ports"] for rule in policy["spec"]["egress"])


@each_scenario
def test_no_secret_is_ever_in_what_is_rendered(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    assert not rendered.all("Secret")
    secrets = {name.partition(".")[2] for name, secret in KNOWN.secret.items() if secret}
    for config in rendered.all("ConfigMap").values():
        text = config["data"].get("fraudline.toml", "")
        assert not [name for name in secrets if re.search(rf"^{name}(_file)? =", text, re.MULTILINE)]
    for template in rendered.pods().values():
        names = [variable["name"] for variable in only_container(template["spec"])["env"]]
        assert all("_FILE" in name for name in names if re.search("PASSWORD|URL|SECRET|TOKEN", name))


def secrets_of(rendered: Rendered, kind: str, name: str) -> set[str]:
    return {target for reference, target in references(rendered.pod_of(kind, name)) if reference == "Secret"}


def test_a_pod_gets_no_secret_that_it_has_no_use_for(render: Render) -> None:
    rendered = render(tree("secrets.registry.existingSecret", "models"), scenario="everything-values.yaml")
    kafka = {"fraudline-kafka", "fraudline-kafka-tls", "login-ca"}
    assert secrets_of(rendered, "Deployment", "rel-fraudline-alert-page") == kafka | {"fraudline-page-oauth"}
    assert secrets_of(rendered, "Job", "rel-fraudline-topics") == kafka | {"fraudline-oauth"}
    own = {"fraudline-oauth", "fraudline-redis", "fraudline-redis-tls", "fraudline-signers", "models"}
    assert secrets_of(rendered, "StatefulSet", "rel-fraudline") == kafka | own
    page = render(scenario="alert-page-token-values.yaml")
    assert secrets_of(page, "Deployment", "rel-fraudline-alert-page") == {"fraudline-page"}
    assert secrets_of(page, "StatefulSet", "rel-fraudline") == {"fraudline-redis"}
