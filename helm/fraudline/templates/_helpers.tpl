{{/* The chart's name, as in labels. */}}
{{- define "fraudline.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{/* The name of every object. At most 52 characters: a StatefulSet's pods carry it in a label with a hash behind it. */}}
{{- define "fraudline.fullname" -}}
{{- $name := include "fraudline.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels by which a component's pods are found, from a dict of `root` and `component`. */}}
{{- define "fraudline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fraudline.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "fraudline.labels" -}}
{{ include "fraudline.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Name, namespace and labels of an object, from a dict of `root`, `component` and `name`. */}}
{{- define "fraudline.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fraudline.labels" . | nindent 2 }}
{{- end }}

{{- define "fraudline.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "fraudline.fullname" .) "default") -}}
{{- end }}

{{/* An image's reference, from a dict of `image` (the values) and `tag` (used when there is neither tag nor digest). */}}
{{- define "fraudline.image" -}}
{{- with .image.registry }}{{ . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .tag }}{{ end -}}
{{- end }}

{{/*
The settings of `sections` as TOML, from a dict of `root`, `sections` and perhaps `login`: another account in Kafka than
the processor's. A JSON string, number or boolean is one in TOML too. An empty string means: not set.
*/}}
{{- define "fraudline.toml" -}}
{{- $config := deepCopy .root.Values.config }}
{{- with .login }}
{{- if .name }}
{{- $_ := set $config.kafka (eq $config.kafka.sasl_mechanism "OAUTHBEARER" | ternary "sasl_oauth_client_id" "sasl_username") .name }}
{{- end }}
{{- end }}
{{- range $section := .sections }}
[{{ $section }}]
{{- range $name, $value := get $config $section }}
{{- if not (and (kindIs "string" $value) (empty $value)) }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}

{{/* The settings of a processor. */}}
{{- define "fraudline.toml.processor" -}}
{{- $sections := list "kafka" "topics" "store" "processing" "model" "challenger" "features" "telemetry" "audit" }}
{{- include "fraudline.toml" (dict "root" . "sections" $sections) -}}
{{- end }}

{{/* The settings of the alert page: nothing of the state and the model, since it reads topics only. */}}
{{- define "fraudline.toml.alertPage" -}}
{{- $sections := list "kafka" "topics" "processing" "telemetry" "dashboard" "audit" }}
{{- include "fraudline.toml" (dict "root" . "sections" $sections "login" .Values.alertPage.login) -}}
{{- end }}

{{- define "fraudline.alertPage.name" -}}
{{- printf "%s-alert-page" (include "fraudline.fullname" .) -}}
{{- end }}

{{/* An account of its own, when the chart makes any: the page has no use for rights that the processor's is given. */}}
{{- define "fraudline.alertPage.serviceAccountName" -}}
{{- .Values.serviceAccount.create | ternary (include "fraudline.alertPage.name" .) (include "fraudline.serviceAccountName" .) -}}
{{- end }}

{{/* The settings of the job that makes the topics: which ones, and how far back features look. */}}
{{- define "fraudline.toml.topicsJob" -}}
{{- $sections := list "kafka" "topics" "challenger" "features" "telemetry" "audit" }}
{{- include "fraudline.toml" (dict "root" . "sections" $sections "login" .Values.topicsJob.login) -}}
{{- end }}

{{- define "fraudline.topicsJob.name" -}}
{{- printf "%s-topics" (include "fraudline.fullname" .) -}}
{{- end }}

{{/* An object that is there before the release's own ones and for the job's time only, from its weight. */}}
{{- define "fraudline.topicsJob.hook" -}}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
