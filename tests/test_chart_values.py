"""The chart's values, each set when given and left out when not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from consumer import __version__
from tests.support.charts import MOUNTS, Document, Render, Rendered, at, only_container, tree

GRACE_MARGIN_MS = 10_000
LONG = "sha256:" + "0" * 64
TOLERATION = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
AFFINITY = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
        ]
    }
}


def only(documents: Mapping[str, Document]) -> Document:
    [document] = documents.values()
    return document


@pytest.mark.parametrize(
    ("value", "given", "where", "expected", "otherwise"),
    [
        ("replicaCount", 5, "spec.replicas", 5, 1),
        ("image.registry", "r.example:5000", "image", f"r.example:5000/fraudline:{__version__}", None),
        ("image.tag", "9", "image", "fraudline:9", f"fraudline:{__version__}"),
        ("image.digest", LONG, "image", f"fraudline@{LONG}", None),
        ("image.pullPolicy", "Always", "imagePullPolicy", "Always", "IfNotPresent"),
        ("image.pullSecrets", [{"name": "s"}], "pod.imagePullSecrets", [{"name": "s"}], None),
        ("nodeSelector", {"gpu": "true"}, "pod.nodeSelector", {"gpu": "true"}, None),
        ("tolerations", [TOLERATION], "pod.tolerations", [TOLERATION], None),
        ("affinity", AFFINITY, "pod.affinity", AFFINITY, None),
        ("priorityClassName", "high", "pod.priorityClassName", "high", None),
        ("resources.limits.memory", "2Gi", "resources.limits.memory", "2Gi", "1Gi"),
        ("runAs.user", 1234, "pod.securityContext.runAsUser", 1234, 65532),
        ("runAs.user", None, "pod.securityContext.runAsUser", None, 65532),
        ("runAs.group", None, "pod.securityContext.fsGroup", None, 65532),
        ("serviceAccount.name", "mine", "pod.serviceAccountName", "mine", "rel-fraudline"),
        ("serviceAccount.create", False, "pod.serviceAccountName", "default", "rel-fraudline"),
        ("config.telemetry.port", 9999, "ports", [{"name": "metrics", "containerPort": 9999}], None),
        ("probes.startup.failureThreshold", 9, "startupProbe.failureThreshold", 9, 60),
        ("fullnameOverride", "other", "spec.serviceName", "other", "rel-fraudline"),
        ("podLabels", {"team": "risk"}, "template.metadata.labels.team", "risk", None),
        ("podAnnotations", {"team": "risk"}, "template.metadata.annotations.team", "risk", None),
    ],
)
def test_a_value_is_set_when_given_and_left_out_when_not(
    value: str, given: object, where: str, expected: object, otherwise: object, render: Render
) -> None:
    def look(rendered: Rendered) -> object:
        spec = only(rendered.all("StatefulSet"))["spec"]
        roots = {"spec": spec, "template": spec["template"], "pod": spec["template"]["spec"]}
        root, _, rest = where.partition(".")
        return at(roots[root], rest) if root in roots else at(only_container(roots["pod"]), where)

    assert look(render(tree(value, given))) == expected
    if otherwise is not None:
        assert look(render()) == otherwise
    else:
        assert look(render()) != expected


def test_objects_and_volumes_come_and_go_with_their_values(render: Render) -> None:
    plain, full = render(), render(scenario="sasl-tls-values.yaml")
    assert "initContainers" not in plain.pod
    assert (plain.volume("bundle") or {})["persistentVolumeClaim"] == {
        "claimName": "fraudline-bundle",
        "readOnly": True,
    }
    [init] = full.pod["initContainers"]
    assert init["image"] == "registry.example/payments/fraud-bundle:2025-06-01"
    assert init["command"] == ["cp", "-R", "/bundle/.", "/copied/"]
    assert (full.volume("bundle") or {})["emptyDir"] == {}
    assert plain.volume("kafka-tls") is None
    assert plain.mount("kafka-tls") is None
    assert (full.mount("kafka-tls") or {})["mountPath"] == f"{MOUNTS}/kafka-tls"
    oauth = render(scenario="oauth-values.yaml")
    assert (oauth.volume("oauth-tls") or {})["secret"]["secretName"] == "login-ca"
    assert (oauth.mount("oauth-tls") or {})["mountPath"] == f"{MOUNTS}/oauth-tls"
    assert (oauth.volume("trusted-keys") or {})["configMap"]["name"] == "fraudline-signers"
    assert (oauth.mount("trusted-keys") or {})["mountPath"] == f"{MOUNTS}/trusted-keys"
    assert plain.volume("oauth-tls") is plain.mount("oauth-tls") is None
    assert plain.volume("trusted-keys") is plain.mount("trusted-keys") is None
    held = {"existingConfigMap": "", "existingSecret": "signers"}
    secret = render({"trustedKeys": held}, scenario="oauth-values.yaml").volume("trusted-keys") or {}
    assert secret["secret"]["secretName"] == "signers"
    assert plain.volume("redis-tls") is None
    assert plain.mount("redis-tls") is None
    cluster = render(scenario="redis-cluster-values.yaml")
    assert (cluster.mount("redis-tls") or {})["mountPath"] == f"{MOUNTS}/redis-tls"
    assert (cluster.volume("redis-tls") or {})["secret"]["secretName"] == "fraudline-redis-tls"
    assert {name for name in plain.env if name.endswith("_FILE")} == {"FRAUDLINE_STORE__URL_FILE"}
    assert len([name for name in full.env if name.endswith("_FILE")]) == 3
    registry = render(tree("bundle.existingClaim", "") | tree("config.model.registry", "s3://models"))
    assert registry.volume("bundle") is None
    assert registry.mount("bundle") is None
    assert "initContainers" not in registry.pod
    subpath = render(scenario="redis-outage-pause-values.yaml").mount("bundle") or {}
    assert subpath["subPath"] == "2025-06-01"
    assert "subPath" not in (plain.mount("bundle") or {})
    kinds = {document["kind"] for document in render(tree("serviceAccount.create", False)).documents}
    assert kinds == {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget"}


@pytest.mark.parametrize("drain_ms", [100, 20_000, 20_001, 600_000])
def test_the_grace_period_is_longer_than_the_drain(drain_ms: int, render: Render) -> None:
    grace_s = render(tree("config.processing.drain_deadline_ms", drain_ms)).pod["terminationGracePeriodSeconds"]
    assert drain_ms + GRACE_MARGIN_MS <= grace_s * 1_000 < drain_ms + GRACE_MARGIN_MS + 1_000


def test_a_changed_setting_rolls_the_pods_and_a_changed_replica_count_does_not(render: Render) -> None:
    def template(changes: Mapping[str, Any] | None = None) -> object:
        return render(changes).one("StatefulSet")["spec"]["template"]

    assert template() == template(tree("replicaCount", 4))
    assert template() != template(tree("config.processing.max_batch", 4))
