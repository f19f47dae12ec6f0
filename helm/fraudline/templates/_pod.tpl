{{/* What every pod of the chart has: no token, no rights, and the place where it runs. */}}

{{- define "fraudline.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAs.user }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.runAs.group }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fraudline.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The head of a pod's specification, from a dict of `root` and `serviceAccountName`. */}}
{{- define "fraudline.pod" -}}
serviceAccountName: {{ .serviceAccountName | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "fraudline.podSecurityContext" .root | nindent 2 }}
{{- end }}

{{/* Where a pod may run, from a dict of `values` (those that have these names) and `selector` (labels of its kind). */}}
{{- define "fraudline.scheduling" -}}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $own := dict "matchLabels" ($.selector | fromYaml) }}
  {{- range . }}
  - {{- toYaml (merge (dict) . (dict "labelSelector" (.labelSelector | default $own))) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "fraudline.container" -}}
image: {{ include "fraudline.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "fraudline.containerSecurityContext" . | nindent 2 }}
{{- end }}

{{/* The three probes, from a dict of `probes` (the values) and `port` (its name). */}}
{{- define "fraudline.probes" -}}
{{- $paths := dict "startup" "/livez" "liveness" "/livez" "readiness" "/readyz" }}
{{- range $name := list "startup" "liveness" "readiness" }}
{{- $probe := get $.probes $name }}
{{ $name }}Probe:
  httpGet:
    path: {{ get $paths $name }}
    port: {{ $.port }}
  periodSeconds: {{ $probe.periodSeconds }}
  timeoutSeconds: {{ $probe.timeoutSeconds }}
  failureThreshold: {{ $probe.failureThreshold }}
{{- end }}
{{- end }}

{{/* Resources with all but the GPU: for a container beside the one that computes. */}}
{{- define "fraudline.resourcesWithoutGpu" -}}
{{- range $kind := list "requests" "limits" }}
{{ $kind }}:
  {{- range $name, $quantity := get $.Values.resources $kind }}
  {{- if not (hasPrefix "nvidia.com/" $name) }}
  {{ $name }}: {{ $quantity | quote }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The bundle: an init container that copies it out of its image, where it is mounted, and the volume. */}}
{{- define "fraudline.bundle.initContainers" -}}
{{- if .Values.bundle.image.repository }}
initContainers:
  - name: bundle
    image: {{ include "fraudline.image" (dict "image" .Values.bundle.image "tag" "") | quote }}
    imagePullPolicy: {{ .Values.bundle.image.pullPolicy }}
    command: [cp, -R, {{ printf "%s/." (trimSuffix "/" .Values.bundle.image.path) | quote }}, /copied/]
    securityContext:
      {{- include "fraudline.containerSecurityContext" . | nindent 6 }}
    resources:
      {{- include "fraudline.resourcesWithoutGpu" . | nindent 6 }}
    volumeMounts:
      - name: bundle
        mountPath: /copied
{{- end }}
{{- end }}

{{- define "fraudline.bundle.mount" -}}
{{- if or .Values.bundle.existingClaim .Values.bundle.image.repository }}
- name: bundle
  mountPath: {{ .Values.config.model.bundle | quote }}
  {{- with .Values.bundle.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "fraudline.bundle.volume" -}}
{{- if .Values.bundle.existingClaim }}
- name: bundle
  persistentVolumeClaim:
    claimName: {{ .Values.bundle.existingClaim | quote }}
    readOnly: true
{{- else if .Values.bundle.image.repository }}
- name: bundle
  emptyDir: {}
{{- end }}
{{- end }}

{{/* A budget of disruptions, from a dict of `root` and `budget`. A pod that is not ready never holds up a node's drain. */}}
{{- define "fraudline.disruption" -}}
maxUnavailable: {{ .budget.maxUnavailable }}
{{- if semverCompare ">=1.27-0" .root.Capabilities.KubeVersion.Version }}
unhealthyPodEvictionPolicy: AlwaysAllow
{{- end }}
{{- end }}
