"""Each value of the chart: what it changes when it is given, and what stands there when it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest

from consumer import __version__
from tests.support.charts import SCHEMA, VALUES, Render, Rendered, at, leaves, together, tree
from tests.support.promtool import RULES

STATE: Final = "StatefulSet"
POD: Final = "StatefulSet:spec/template/spec"
MAIN: Final = f"{POD}/containers/0"
PAGE: Final = "rel-fraudline-alert-page"
PAGE_POD: Final = f"Deployment/{PAGE}:spec/template/spec"
INGRESS: Final = f"Ingress/{PAGE}"
JOB: Final = "Job/rel-fraudline-topics"
DOCTOR: Final = "Pod/rel-fraudline-doctor"
JOB_POD: Final = f"{JOB}:spec/template/spec"
JOB_ARGS: Final = f"{JOB_POD}/containers/0/args"
HPA: Final = "HorizontalPodAutoscaler:spec"
KEDA: Final = "ScaledObject:spec"
TRIGGER: Final = f"{KEDA}/triggers/0/metadata"
EGRESS: Final = "NetworkPolicy:spec/egress"
GRAFANA: Final = "rel-fraudline-dashboard"
ALERT, FIRST, SECOND = next(
    (f"PrometheusRule:spec/groups/{number}/rules/0", *(rule["alert"] for rule in group["rules"][:2]))
    for number, group in enumerate(RULES["groups"])
    if "alert" in group["rules"][0]
)
INIT: Final = f"{POD}/initContainers/0"
SECRETS: Final = f"{POD}/volumes/1/projected/sources"

LONG: Final = "sha256:" + "0" * 64
TOLERATION: Final = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
SPREAD: Final = [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]
AFFINITY: Final = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
        ]
    }
}
PEER: Final = [{"ipBlock": {"cidr": "10.1.2.0/24"}}]
DNS: Final = VALUES["networkPolicy"]["dns"]["to"]

PLAIN: Final[dict[str, Any]] = {}
SASL: Final = together(
    {"config": {"kafka": {"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN", "sasl_username": "u"}}},
    tree("secrets.saslPassword.existingSecret", "p"),
)
OAUTH: Final = {
    "config": {
        "kafka": {
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_url": "https://login.example/token",
            "sasl_oauth_client_id": "c",
        }
    },
    "secrets": {"oauthClientSecret": {"existingSecret": "p"}},
}
TLS: Final = tree("config.kafka.security_protocol", "ssl")
KEY: Final = tree("config.kafka", {"security_protocol": "ssl", "ssl_key_file": "/k", "ssl_certificate_file": "/c"})
IMAGE: Final = {"bundle": {"existingClaim": "", "image": {"repository": "b", "tag": "1"}}}
REGISTRY: Final = tree("config.model.registry", "s3://models")
ON_PAGE: Final = together(
    tree("secrets.dashboardToken.existingSecret", "t"),
    {"alertPage": {"enabled": True, "ingress": {"enabled": True, "host": "alerts.example"}}},
)
ON_JOB: Final = tree("topicsJob.enabled", True)
PAGE_LOGIN: Final = together(ON_PAGE, SASL, tree("alertPage.login", {"name": "n", "existingSecret": "s"}))
JOB_LOGIN: Final = together(ON_JOB, SASL, tree("topicsJob.login", {"name": "n", "existingSecret": "s"}))
ON_HPA: Final = {"autoscaling": {"type": "hpa", "maxReplicas": 8}}
ON_KEDA: Final = {"autoscaling": {"type": "keda", "maxReplicas": 8}}
ON_MONITOR: Final = tree("monitoring.serviceMonitor.enabled", True)
ON_RULES: Final = tree("monitoring.rules.enabled", True)
ON_GRAFANA: Final = tree("monitoring.grafanaDashboard.enabled", True)
ON_POLICY: Final = {
    "networkPolicy": {"enabled": True}
    | {name: {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]} for name in ("kafka", "redis", "registry", "oauth")}
}

ABSENT: Final = object()  # nothing stands there
DEFAULT: Final = object()  # the default does


@dataclass(frozen=True, slots=True)
class Pair:
    """`value` at `where`: `given` puts `there` (itself, if not said), and without it `else_` stands there."""

    value: str
    where: str
    given: Any
    there: Any = DEFAULT
    else_: Any = DEFAULT
    base: Any = None


def probes(of: str, container: str, base: Any) -> list[Pair]:
    return [
        Pair(f"{of}.{probe}.{field}", f"{container}/{probe}Probe/{field}", 7, base=base)
        for probe in ("startup", "liveness", "readiness")
        for field in ("periodSeconds", "timeoutSeconds", "failureThreshold")
    ]


def scheduling(of: str, pod: str, base: Any) -> list[Pair]:
    given = {"nodeSelector": {"disk": "ssd"}, "tolerations": TOLERATION}
    return [Pair(f"{of}{name}", f"{pod}/{name}", value, base=base) for name, value in given.items()]


PAIRS: Final = [
    Pair("nameOverride", f"{STATE}/rel-other:metadata/labels/app.kubernetes.io~name", "other"),
    Pair("fullnameOverride", f"{STATE}/other:spec/serviceName", "other"),
    Pair("replicaCount", f"{STATE}:spec/replicas", 5),
    Pair("image.registry", f"{MAIN}/image", "r:5000", f"r:5000/fraudline:{__version__}", f"fraudline:{__version__}"),
    Pair("image.repository", f"{MAIN}/image", "a/b", f"a/b:{__version__}", f"fraudline:{__version__}"),
    Pair("image.tag", f"{MAIN}/image", "9", "fraudline:9", f"fraudline:{__version__}"),
    Pair("image.digest", f"{MAIN}/image", LONG, f"fraudline@{LONG}", f"fraudline:{__version__}"),
    Pair("image.pullPolicy", f"{MAIN}/imagePullPolicy", "Always"),
    Pair("image.pullSecrets", f"{POD}/imagePullSecrets", [{"name": "s"}]),
    Pair("secrets.redisUrl.existingSecret", f"{SECRETS}/0/secret/name", "other", else_="fraudline-redis"),
    Pair("secrets.redisUrl.key", f"{SECRETS}/0/secret/items/0/key", "other"),
    Pair("secrets.saslPassword.existingSecret", f"{SECRETS}/0/secret/name", "other", else_="p", base=SASL),
    Pair("secrets.saslPassword.key", f"{SECRETS}/0/secret/items/0/key", "other", base=SASL),
    Pair("secrets.oauthClientSecret.existingSecret", f"{SECRETS}/0/secret/name", "other", else_="p", base=OAUTH),
    Pair("secrets.oauthClientSecret.key", f"{SECRETS}/0/secret/items/0/key", "other", base=OAUTH),
    Pair("secrets.sslKeyPassword.existingSecret", f"{SECRETS}/0/secret/name", "k", else_="fraudline-redis", base=KEY),
    Pair("secrets.sslKeyPassword.key", f"{SECRETS}/0/secret/items/0/key", "other",
         base=together(KEY, tree("secrets.sslKeyPassword.existingSecret", "k"))),
    Pair("secrets.dashboardToken.existingSecret", f"{PAGE_POD}/volumes/1/projected/sources/0/secret/name", "other",
         else_="t", base=ON_PAGE),
    Pair("secrets.dashboardToken.key", f"{PAGE_POD}/volumes/1/projected/sources/0/secret/items/0/key", "other",
         base=ON_PAGE),
    Pair("secrets.kafkaTls.existingSecret", f"{POD}/volumes/2/secret/secretName", "k", base=TLS),
    Pair("secrets.oauthTls.existingSecret", f"{POD}/volumes/2/secret/secretName", "k", base=OAUTH),
    Pair("secrets.redisTls.existingSecret", f"{POD}/volumes/2/secret/secretName", "k"),
    Pair("secrets.registry.existingSecret", f"{MAIN}/envFrom", "r", [{"secretRef": {"name": "r"}}], base=REGISTRY),
    Pair("trustedKeys.existingConfigMap", f"{POD}/volumes/2/configMap/name", "k"),
    Pair("trustedKeys.existingSecret", f"{POD}/volumes/2/secret/secretName", "k"),
    Pair("bundle.existingClaim", f"{POD}/volumes/3/persistentVolumeClaim/claimName", "b", else_="fraudline-bundle"),
    Pair("bundle.subPath", f"{MAIN}/volumeMounts/3/subPath", "2025-06-01"),
    Pair("bundle.image.registry", f"{INIT}/image", "r", "r/b:1", "b:1", base=IMAGE),
    Pair("bundle.image.repository", f"{INIT}/image", "c", "c:1", "b:1", base=IMAGE),
    Pair("bundle.image.tag", f"{INIT}/image", "2", "b:2", "b:1", base=IMAGE),
    Pair("bundle.image.digest", f"{INIT}/image", LONG, f"b@{LONG}", "b:1", base=IMAGE),
    Pair("bundle.image.pullPolicy", f"{INIT}/imagePullPolicy", "Never", base=IMAGE),
    Pair("bundle.image.path", f"{INIT}/command/2", "/m", "/m/.", "/bundle/.", base=IMAGE),
    Pair("resources.requests", f"{MAIN}/resources/requests", {"cpu": "3", "memory": "1Gi"}),
    Pair("resources.limits", f"{MAIN}/resources/limits", {"memory": "2Gi"}),
    Pair("tmpSizeLimit", f"{POD}/volumes/2/emptyDir/sizeLimit", "1Gi"),
    *probes("probes", MAIN, None),
    Pair("runAs.user", f"{POD}/securityContext/runAsUser", 1234),
    Pair("runAs.user", f"{POD}/securityContext/runAsUser", None, ABSENT),
    Pair("runAs.group", f"{POD}/securityContext/fsGroup", 1234),
    Pair("runAs.group", f"{POD}/securityContext/runAsGroup", None, ABSENT),
    Pair("minReadySeconds", f"{STATE}:spec/minReadySeconds", 60),
    Pair("updateStrategy.type", f"{STATE}:spec/updateStrategy/type", "OnDelete"),
    Pair("updateStrategy.type", f"{STATE}:spec/updateStrategy/rollingUpdate", "OnDelete", ABSENT, {"partition": 0}),
    Pair("updateStrategy.partition", f"{STATE}:spec/updateStrategy/rollingUpdate/partition", 2),
    Pair("podDisruptionBudget.enabled", "PodDisruptionBudget:kind", False, ABSENT, "PodDisruptionBudget"),
    Pair("podDisruptionBudget.maxUnavailable", "PodDisruptionBudget:spec/maxUnavailable", "30%"),
    Pair("autoscaling.type", f"{HPA}/maxReplicas", "hpa", 8, ABSENT, base=tree("autoscaling.maxReplicas", 8)),
    Pair("autoscaling.type", f"{KEDA}/maxReplicaCount", "keda", 8, ABSENT, base=tree("autoscaling.maxReplicas", 8)),
    Pair("autoscaling.type", f"{STATE}:spec/replicas", "hpa", ABSENT, 1, base=tree("autoscaling.maxReplicas", 8)),
    Pair("autoscaling.type", f"{STATE}:spec/replicas", "keda", ABSENT, 1, base=tree("autoscaling.maxReplicas", 8)),
    Pair("autoscaling.type", "ScaledObject:kind", "hpa", ABSENT, "ScaledObject", base=ON_KEDA),
    Pair("autoscaling.type", "HorizontalPodAutoscaler:kind", "keda", ABSENT, "HorizontalPodAutoscaler", base=ON_HPA),
    Pair("autoscaling.minReplicas", f"{HPA}/minReplicas", 3, base=ON_HPA),
    Pair("autoscaling.minReplicas", f"{KEDA}/minReplicaCount", 3, base=ON_KEDA),
    Pair("autoscaling.maxReplicas", f"{HPA}/maxReplicas", 9, else_=8, base=ON_HPA),
    Pair("autoscaling.maxReplicas", f"{KEDA}/maxReplicaCount", 9, else_=8, base=ON_KEDA),
    *(
        Pair(f"autoscaling.{way}.{name}", f"{behavior}/{way}/{place}", 99, base=base)
        for way in ("scaleUp", "scaleDown")
        for name, place in (
            ("stabilizationWindowSeconds", "stabilizationWindowSeconds"),
            ("periodSeconds", "policies/0/periodSeconds"),
        )
        for behavior, base in (
            (f"{HPA}/behavior", ON_HPA),
            (f"{KEDA}/advanced/horizontalPodAutoscalerConfig/behavior", ON_KEDA),
        )
    ),
    Pair("autoscaling.hpa.targetCPUUtilizationPercentage", f"{HPA}/metrics/0/resource/target/averageUtilization", 50,
         base=ON_HPA),
    Pair("autoscaling.keda.lagThreshold", f"{TRIGGER}/lagThreshold", 9, "9", "2000", base=ON_KEDA),
    Pair("autoscaling.keda.lagThreshold", f"{TRIGGER}/lagThreshold", 2_000_000, "2000000", "2000", base=ON_KEDA),
    Pair("autoscaling.keda.pollingInterval", f"{KEDA}/pollingInterval", 60, base=ON_KEDA),
    Pair("autoscaling.keda.kafkaVersion", f"{TRIGGER}/version", "3.6.0", base=ON_KEDA),
    Pair("serviceAccount.create", "ServiceAccount:kind", False, ABSENT, "ServiceAccount"),
    Pair("serviceAccount.create", f"{POD}/serviceAccountName", False, "default", "rel-fraudline"),
    Pair("serviceAccount.create", f"{PAGE_POD}/serviceAccountName", False, "default", PAGE, base=ON_PAGE),
    Pair("serviceAccount.name", f"{POD}/serviceAccountName", "mine", else_="rel-fraudline"),
    Pair("serviceAccount.annotations", "ServiceAccount:metadata/annotations", {"role": "a"}),
    Pair("podLabels", f"{STATE}:spec/template/metadata/labels/team", {"team": "risk"}, "risk"),
    Pair("podAnnotations", f"{STATE}:spec/template/metadata/annotations/team", {"team": "risk"}, "risk"),
    Pair("podLabels", f"{DOCTOR}:metadata/labels/team", {"team": "risk"}, "risk"),
    Pair("podAnnotations", f"{DOCTOR}:metadata/annotations/team", {"team": "risk"}, "risk"),
    Pair("priorityClassName", f"{POD}/priorityClassName", "high"),
    Pair("runtimeClassName", f"{POD}/runtimeClassName", "nvidia"),
    *scheduling("", POD, None),
    Pair("affinity", f"{POD}/affinity", AFFINITY),
    Pair("topologySpreadConstraints", f"{POD}/topologySpreadConstraints/0/topologyKey", SPREAD, "rack",
         "topology.kubernetes.io/zone"),
    Pair("topologySpreadConstraints", f"{POD}/topologySpreadConstraints", [], ABSENT, base=tree(
        "topologySpreadConstraints", SPREAD[:0]), else_=ABSENT),
    Pair("alertPage.enabled", f"Deployment/{PAGE}:kind", True, "Deployment", ABSENT,
         base=tree("secrets.dashboardToken.existingSecret", "t")),
    Pair("alertPage.replicas", f"Deployment/{PAGE}:spec/replicas", 3, base=ON_PAGE),
    Pair("alertPage.login.name", f"ConfigMap/{PAGE}:data/fraudline.toml", "page", 'sasl_username = "page"',
         'sasl_username = "n"', base=PAGE_LOGIN),
    Pair("alertPage.login.existingSecret", f"{PAGE_POD}/volumes/1/projected/sources/1/secret/name", "other", else_="s",
         base=PAGE_LOGIN),
    Pair("alertPage.login.key", f"{PAGE_POD}/volumes/1/projected/sources/1/secret/items/0/key", "other",
         base=PAGE_LOGIN),
    Pair("alertPage.service.type", f"Service/{PAGE}:spec/type", "LoadBalancer", base=ON_PAGE),
    Pair("alertPage.service.port", f"Service/{PAGE}:spec/ports/0/port", 8080, base=ON_PAGE),
    Pair("alertPage.service.annotations", f"Service/{PAGE}:metadata/annotations", {"a": "b"}, base=ON_PAGE),
    Pair("alertPage.ingress.enabled", f"{INGRESS}:kind", False, ABSENT, "Ingress", base=ON_PAGE),
    Pair("alertPage.ingress.className", f"{INGRESS}:spec/ingressClassName", "nginx", base=ON_PAGE),
    Pair("alertPage.ingress.annotations", f"{INGRESS}:metadata/annotations", {"a": "b"}, base=ON_PAGE),
    Pair("alertPage.ingress.host", f"{INGRESS}:spec/rules/0/host", "a.b", else_="alerts.example", base=ON_PAGE),
    Pair("alertPage.ingress.tls.existingSecret", f"{INGRESS}:spec/tls", "c",
         [{"hosts": ["alerts.example"], "secretName": "c"}], base=ON_PAGE),
    Pair("alertPage.resources.requests", f"{PAGE_POD}/containers/0/resources/requests", {"cpu": "3", "memory": "256Mi"},
         base=ON_PAGE),
    Pair("alertPage.resources.limits", f"{PAGE_POD}/containers/0/resources/limits", {"memory": "1Gi"}, base=ON_PAGE),
    *probes("alertPage.probes", f"{PAGE_POD}/containers/0", ON_PAGE),
    Pair("alertPage.podDisruptionBudget.enabled", f"PodDisruptionBudget/{PAGE}:kind", False, ABSENT,
         "PodDisruptionBudget", base=ON_PAGE),
    Pair("alertPage.podDisruptionBudget.maxUnavailable", f"PodDisruptionBudget/{PAGE}:spec/maxUnavailable", 2,
         base=ON_PAGE),
    Pair("alertPage.podLabels", f"Deployment/{PAGE}:spec/template/metadata/labels/a", {"a": "b"}, "b", base=ON_PAGE),
    Pair("alertPage.podAnnotations", f"Deployment/{PAGE}:spec/template/metadata/annotations/a", {"a": "b"}, "b",
         base=ON_PAGE),
    Pair("alertPage.priorityClassName", f"{PAGE_POD}/priorityClassName", "low", base=ON_PAGE),
    *scheduling("alertPage.", PAGE_POD, ON_PAGE),
    Pair("alertPage.affinity", f"{PAGE_POD}/affinity", AFFINITY, base=ON_PAGE),
    Pair("alertPage.topologySpreadConstraints", f"{PAGE_POD}/topologySpreadConstraints/0/topologyKey", SPREAD, "rack",
         "topology.kubernetes.io/zone", base=ON_PAGE),
    Pair("topicsJob.enabled", f"{JOB}:kind", True, "Job", ABSENT),
    Pair("topicsJob.partitions", JOB_ARGS, 12, "--partitions=12", ABSENT, base=ON_JOB),
    Pair("topicsJob.replicationFactor", JOB_ARGS, 3, "--replication-factor=3", ABSENT, base=ON_JOB),
    Pair("topicsJob.retentionDays", JOB_ARGS, 60.5, "--retention-days=60.5", ABSENT, base=ON_JOB),
    Pair("topicsJob.outageDays", JOB_ARGS, 1.5, "--outage-days=1.5", "--outage-days=7", base=ON_JOB),
    Pair("topicsJob.overrides", JOB_ARGS, ["alerts.partitions=1"], "--set=alerts.partitions=1", ABSENT, base=ON_JOB),
    Pair("topicsJob.login.name", "ConfigMap/rel-fraudline-topics:data/fraudline.toml", "admin",
         'sasl_username = "admin"', 'sasl_username = "n"', base=JOB_LOGIN),
    Pair("topicsJob.login.existingSecret", f"{JOB_POD}/volumes/1/projected/sources/0/secret/name", "other", else_="s",
         base=JOB_LOGIN),
    Pair("topicsJob.login.key", f"{JOB_POD}/volumes/1/projected/sources/0/secret/items/0/key", "other", base=JOB_LOGIN),
    Pair("topicsJob.serviceAccountName", f"{JOB_POD}/serviceAccountName", "mine", base=ON_JOB),
    Pair("topicsJob.backoffLimit", f"{JOB}:spec/backoffLimit", 9, base=ON_JOB),
    Pair("topicsJob.activeDeadlineSeconds", f"{JOB}:spec/activeDeadlineSeconds", 99, base=ON_JOB),
    Pair("topicsJob.resources.requests", f"{JOB_POD}/containers/0/resources/requests", {"cpu": "3", "memory": "256Mi"},
         base=ON_JOB),
    Pair("topicsJob.resources.limits", f"{JOB_POD}/containers/0/resources/limits", {"memory": "1Gi"}, base=ON_JOB),
    Pair("topicsJob.podLabels", f"{JOB}:spec/template/metadata/labels/a", {"a": "b"}, "b", base=ON_JOB),
    Pair("topicsJob.podAnnotations", f"{JOB}:spec/template/metadata/annotations", {"a": "b"}, base=ON_JOB),
    *scheduling("topicsJob.", JOB_POD, ON_JOB),
    Pair("monitoring.serviceMonitor.enabled", "ServiceMonitor:kind", True, "ServiceMonitor", ABSENT),
    Pair("monitoring.serviceMonitor.interval", "ServiceMonitor:spec/endpoints/0/interval", "1m", base=ON_MONITOR),
    Pair("monitoring.serviceMonitor.scrapeTimeout", "ServiceMonitor:spec/endpoints/0/scrapeTimeout", "3s",
         base=ON_MONITOR),
    Pair("monitoring.serviceMonitor.labels", "ServiceMonitor:metadata/labels/release", {"release": "p"}, "p",
         base=ON_MONITOR),
    Pair("monitoring.rules.enabled", "PrometheusRule:kind", True, "PrometheusRule", ABSENT),
    Pair("monitoring.rules.labels", "PrometheusRule:metadata/labels/release", {"release": "p"}, "p", base=ON_RULES),
    Pair("monitoring.rules.alertLabels", f"{ALERT}/labels/team", {"team": "risk"}, "risk", base=ON_RULES),
    Pair("monitoring.rules.runbookUrl", f"{ALERT}/annotations/runbook_url", "https://wiki.example/ops",
         f"https://wiki.example/ops#{FIRST.lower()}", f"docs/operations.md#{FIRST.lower()}", base=ON_RULES),
    Pair("monitoring.rules.disabled", f"{ALERT}/alert", [FIRST], SECOND, FIRST, base=ON_RULES),
    Pair("monitoring.grafanaDashboard.enabled", f"ConfigMap/{GRAFANA}:kind", True, "ConfigMap", ABSENT),
    Pair("monitoring.grafanaDashboard.labels", f"ConfigMap/{GRAFANA}:metadata/labels/found", {"found": "here"}, "here",
         ABSENT, base=ON_GRAFANA),
    Pair("monitoring.grafanaDashboard.annotations", f"ConfigMap/{GRAFANA}:metadata/annotations", {"folder": "a"},
         base=ON_GRAFANA),
    Pair("networkPolicy.enabled", "NetworkPolicy:kind", False, ABSENT, "NetworkPolicy", base=ON_POLICY),
    Pair("networkPolicy.dns.to", f"{EGRESS}/0/to", PEER, else_=DNS, base=ON_POLICY),
    Pair("networkPolicy.dns.ports", f"{EGRESS}/0/ports/1", [5353], {"port": 5353, "protocol": "UDP"},
         {"port": 53, "protocol": "UDP"}, base=ON_POLICY),
    Pair("networkPolicy.kafka.to", f"{EGRESS}/1/to/0/ipBlock/cidr", PEER, "10.1.2.0/24", "0.0.0.0/0", base=ON_POLICY),
    Pair("networkPolicy.kafka.ports", f"{EGRESS}/1/ports/0/port", [19092], 19092, 9092, base=ON_POLICY),
    Pair("networkPolicy.oauth.to", f"{EGRESS}/2/to/0/ipBlock/cidr", PEER, "10.1.2.0/24", "0.0.0.0/0",
         base=together(ON_POLICY, OAUTH)),
    Pair("networkPolicy.oauth.ports", f"{EGRESS}/2/ports/0/port", [8443], 8443, 443, base=together(ON_POLICY, OAUTH)),
    Pair("networkPolicy.redis.to", f"{EGRESS}/2/to/0/ipBlock/cidr", PEER, "10.1.2.0/24", "0.0.0.0/0", base=ON_POLICY),
    Pair("networkPolicy.redis.ports", f"{EGRESS}/2/ports/0/port", [6380], 6380, 6379, base=ON_POLICY),
    Pair("networkPolicy.registry.to", f"{EGRESS}/3/to/0/ipBlock/cidr", PEER, "10.1.2.0/24", "0.0.0.0/0",
         base=together(ON_POLICY, REGISTRY)),
    Pair("networkPolicy.registry.ports", f"{EGRESS}/3/ports/0/port", [9000], 9000, 443,
         base=together(ON_POLICY, REGISTRY)),
    Pair("networkPolicy.metrics.from", "NetworkPolicy:spec/ingress/0/from", PEER, base=ON_POLICY),
    Pair("networkPolicy.metrics.from", f"NetworkPolicy/{PAGE}:spec/ingress/0/from/1", PEER, PEER[0], ABSENT,
         base=together(ON_POLICY, ON_PAGE, tree("networkPolicy.alertPage.from", [{"podSelector": {}}]))),
    Pair("networkPolicy.alertPage.from", f"NetworkPolicy/{PAGE}:spec/ingress/0/from", PEER,
         base=together(ON_POLICY, ON_PAGE, tree("alertPage.ingress", {"enabled": False, "host": ""}))),
    Pair("networkPolicy.extraEgress", f"{EGRESS}/3/ports/0/port", [{"to": PEER, "ports": [{"port": 4317}]}], 4317,
         ABSENT, base=ON_POLICY),
    Pair("networkPolicy.extraIngress", "NetworkPolicy:spec/ingress/0/ports/0/port",
         [{"from": PEER, "ports": [{"port": 9999}]}], 9999, ABSENT, base=ON_POLICY),
]  # fmt: skip


def look(rendered: Rendered, where: str, wanted: object) -> object:
    """What stands at `Kind/name:path`. In a text or a list of words, `wanted` itself when it is part of it."""
    head, _, path = where.partition(":")
    kind, _, name = head.partition("/")
    document = rendered.all(kind).get(name or "rel-fraudline")
    found = at(document, path) if document is not None else None
    if isinstance(wanted, str) and isinstance(found, list):
        return wanted if wanted in found else ABSENT
    if isinstance(wanted, str) and isinstance(found, str) and "\n" in found:
        return wanted if wanted in found.splitlines() else ABSENT
    return ABSENT if found is None else found


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.value)
def test_a_value_is_set_when_given_and_left_out_when_not(pair: Pair, render: Render) -> None:
    base = pair.base or PLAIN
    there = pair.given if pair.there is DEFAULT else pair.there
    default = at(VALUES, pair.value)
    else_ = (ABSENT if default in ("", [], {}) else default) if pair.else_ is DEFAULT else pair.else_
    gone = there if else_ is ABSENT else else_
    assert look(render(together(base, tree(pair.value, pair.given))), pair.where, there) == there
    assert look(render(base), pair.where, gone) == else_


def test_no_value_of_the_chart_goes_without_a_pair() -> None:
    told = {pair.value for pair in PAIRS}
    rest = {name for name, _ in leaves(SCHEMA) if not name.startswith("config.")}  # those arrive: tests/test_chart.py
    assert rest - told == set(), "give each a row above"
    assert told - rest == set()
