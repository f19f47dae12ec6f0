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

{{- define "fraudline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fraudline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: processor
{{- end }}

{{- define "fraudline.labels" -}}
{{ include "fraudline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
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

{{- define "fraudline.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* One probe, from a dict of `path` and `probe` (the values). */}}
{{- define "fraudline.probe" -}}
httpGet:
  path: {{ .path }}
  port: metrics
periodSeconds: {{ .probe.periodSeconds }}
timeoutSeconds: {{ .probe.timeoutSeconds }}
failureThreshold: {{ .probe.failureThreshold }}
{{- end }}
