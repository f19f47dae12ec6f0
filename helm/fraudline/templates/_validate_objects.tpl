{{/* What the objects around the processor need from each other. */}}

{{- define "fraudline.validate.alertPage" -}}
{{- $page := .Values.alertPage }}
{{- $dashboard := .Values.config.dashboard }}
{{- $token := .Values.secrets.dashboardToken.existingSecret }}
{{- if and (eq $dashboard.auth "proxy") (not $dashboard.trusted_proxies) }}
{{- fail "config.dashboard.auth is proxy, which also needs config.dashboard.trusted_proxies: whose header is believed." }}
{{- end }}
{{- if and $token (ne $dashboard.auth "token") }}
{{- fail (printf "secrets.dashboardToken.existingSecret is set but config.dashboard.auth is %s: use token, or unset it." $dashboard.auth) }}
{{- end }}
{{- if $page.enabled }}
{{- if and (eq $dashboard.auth "token") (not $token) }}
{{- fail "alertPage.enabled with config.dashboard.auth token needs secrets.dashboardToken.existingSecret." }}
{{- end }}
{{- if eq $dashboard.auth "none" }}
{{- fail "alertPage.enabled would show the alerts to anybody, since config.dashboard.auth is none: use token or proxy." }}
{{- end }}
{{- if and $page.ingress.enabled (not $page.ingress.host) }}
{{- fail "alertPage.ingress.enabled needs alertPage.ingress.host." }}
{{- end }}
{{- end }}
{{- if and $page.ingress.enabled (not $page.enabled) }}
{{- fail "alertPage.ingress.enabled needs alertPage.enabled." }}
{{- end }}
{{- end }}

{{/* An account of its own in Kafka needs both its name and its secret, and a mechanism that asks for them. */}}
{{- define "fraudline.validate.logins" -}}
{{- range $of := list "alertPage" "topicsJob" }}
{{- $login := (get $.Values $of).login }}
{{- if ne (empty $login.name) (empty $login.existingSecret) }}
{{- fail (printf "%s.login.name and %s.login.existingSecret belong together: set both or neither." $of $of) }}
{{- end }}
{{- if and $login.name (not $.Values.config.kafka.sasl_mechanism) }}
{{- fail (printf "%s.login.name is set but config.kafka.sasl_mechanism is not: nobody asks for it." $of) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Partitions that the job is told to make bound the number of processors that have work. */}}
{{- define "fraudline.validate.topicsJob" -}}
{{- $job := .Values.topicsJob }}
{{- $most := eq .Values.autoscaling.type "none" | ternary "replicaCount" "autoscaling.maxReplicas" }}
{{- $count := eq .Values.autoscaling.type "none" | ternary .Values.replicaCount .Values.autoscaling.maxReplicas }}
{{- if and $job.enabled $job.partitions (gt (int $count) (int $job.partitions)) }}
{{- fail (printf "%s is %d but topicsJob.partitions is %d: the rest would stay idle." $most (int $count) (int $job.partitions)) }}
{{- end }}
{{- end }}

{{/* A GPU that is not used is paid for, and a model that finds none does not start. */}}
{{- define "fraudline.validate.gpu" -}}
{{- $limits := list }}
{{- range $name, $quantity := .Values.resources.limits }}
{{- if and (hasPrefix "nvidia.com/" $name) (ne (toString $quantity) "0") }}
{{- $limits = append $limits $name }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.resources.requests }}
{{- if and (hasPrefix "nvidia.com/" $name) (not (has $name $limits)) }}
{{- fail (printf "resources.requests has %s, which Kubernetes takes in resources.limits only." $name) }}
{{- end }}
{{- end }}
{{- if and (eq .Values.config.model.device "cuda") (not $limits) }}
{{- fail "config.model.device is cuda, which also needs a GPU in resources.limits, for example nvidia.com/gpu: 1." }}
{{- end }}
{{- if and (ne .Values.config.model.device "cuda") $limits }}
{{- fail (printf "resources.limits has %s but config.model.device is %s: use cuda, or leave the GPU to others." (first $limits) .Values.config.model.device) }}
{{- end }}
{{- end }}

{{- define "fraudline.validate.autoscaling" -}}
{{- $scaling := .Values.autoscaling }}
{{- if ne $scaling.type "none" }}
{{- if not $scaling.maxReplicas }}
{{- fail (printf "autoscaling.type %s needs autoscaling.maxReplicas: the number of partitions of %s." $scaling.type .Values.config.topics.payments) }}
{{- end }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas must be at most autoscaling.maxReplicas." }}
{{- end }}
{{- if and (eq $scaling.type "hpa") (not .Values.resources.requests.cpu) }}
{{- fail "autoscaling.type hpa needs resources.requests.cpu, of which it measures the share." }}
{{- end }}
{{- end }}
{{- if eq $scaling.type "keda" }}
{{- range $name := list "ssl_ca_file" "ssl_certificate_file" "ssl_key_file" }}
{{- $path := get $.Values.config.kafka $name }}
{{- if and $path (not (hasPrefix "/etc/fraudline/kafka-tls/" $path)) }}
{{- fail (printf "autoscaling.type keda reads certificates from secrets.kafkaTls alone, but config.kafka.%s is %s." $name $path) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Prometheus' operator leaves out a monitor that takes longer than it has. */}}
{{- define "fraudline.validate.monitoring" -}}
{{- $monitor := .Values.monitoring.serviceMonitor }}
{{- if gt (include "fraudline.milliseconds" $monitor.scrapeTimeout | int64) (include "fraudline.milliseconds" $monitor.interval | int64) }}
{{- fail "monitoring.serviceMonitor.scrapeTimeout must be at most monitoring.serviceMonitor.interval." }}
{{- end }}
{{- end }}

{{- define "fraudline.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit) -}}
{{- end }}

{{- define "fraudline.validate.networkPolicy" -}}
{{- $policy := .Values.networkPolicy }}
{{- if $policy.enabled }}
{{- range $name := list "dns" "kafka" "oauth" "redis" "registry" }}
{{- if and (include "fraudline.reaches" (dict "root" $ "name" $name)) (not (get $policy $name).to) }}
{{- fail (printf "networkPolicy.enabled needs networkPolicy.%s.to: pods, namespaces or addresses that may be reached." $name) }}
{{- end }}
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.enabled (not $policy.metrics.from) }}
{{- fail "monitoring.serviceMonitor.enabled with networkPolicy.enabled needs networkPolicy.metrics.from: where Prometheus is." }}
{{- end }}
{{- if and .Values.alertPage.enabled (or .Values.alertPage.ingress.enabled (eq .Values.config.dashboard.auth "proxy")) (not $policy.alertPage.from) }}
{{- fail "alertPage.enabled with networkPolicy.enabled needs networkPolicy.alertPage.from: where the ingress or the proxy is." }}
{{- end }}
{{- end }}
{{- end }}
