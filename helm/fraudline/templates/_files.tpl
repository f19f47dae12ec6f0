{{/*
The files that a pod is given: its settings, its secrets, its certificates and keys. Each helper takes a dict of `root`,
`config` (the name of its ConfigMap), `of`: for which of kafka, store, model and dashboard the pod needs files, and
perhaps `login`: another account in Kafka than the processor's. A pod gets no secret that it has no use for.
*/}}

{{/* The secrets in use, each with the setting that reads it, as a YAML list. */}}
{{- define "fraudline.secrets" -}}
{{- $secrets := .root.Values.secrets }}
{{- $password := $secrets.saslPassword }}
{{- $oauth := $secrets.oauthClientSecret }}
{{- with .login }}
{{- if and .existingSecret (eq $.root.Values.config.kafka.sasl_mechanism "OAUTHBEARER") }}
{{- $oauth = . }}
{{- else if .existingSecret }}
{{- $password = . }}
{{- end }}
{{- end }}
{{- $named := dict "STORE__URL" $secrets.redisUrl "KAFKA__SASL_PASSWORD" $password "KAFKA__SASL_OAUTH_CLIENT_SECRET" $oauth "KAFKA__SSL_KEY_PASSWORD" $secrets.sslKeyPassword "DASHBOARD__TOKEN" $secrets.dashboardToken }}
{{- range $setting, $secret := $named }}
{{- if and $secret.existingSecret (has ($setting | splitList "__" | first | lower) $.of) }}
- setting: FRAUDLINE_{{ $setting }}_FILE
  file: {{ $setting | lower | replace "__" "-" | replace "_" "-" }}
  secret: {{ $secret.existingSecret | quote }}
  key: {{ $secret.key | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The directories of certificates and keys in use, each with the Secret or ConfigMap that holds it, as a YAML list. */}}
{{- define "fraudline.directories" -}}
{{- $values := .root.Values }}
{{- $kafka := dict "of" "kafka" "name" "kafka-tls" "secret" $values.secrets.kafkaTls.existingSecret }}
{{- $oauth := dict "of" "kafka" "name" "oauth-tls" "secret" $values.secrets.oauthTls.existingSecret }}
{{- $redis := dict "of" "store" "name" "redis-tls" "secret" $values.secrets.redisTls.existingSecret }}
{{- $keys := dict "of" "model" "name" "trusted-keys" "secret" $values.trustedKeys.existingSecret "configMap" $values.trustedKeys.existingConfigMap }}
{{- range list $kafka $oauth $redis $keys }}
{{- if and (has .of $.of) (or .secret .configMap) }}
- name: {{ .name }}
  secret: {{ .secret | quote }}
  configMap: {{ .configMap | default "" | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "fraudline.env" -}}
- name: FRAUDLINE_CONFIG
  value: /etc/fraudline/config/fraudline.toml
{{- range include "fraudline.secrets" . | fromYamlArray }}
- name: {{ .setting }}
  value: /etc/fraudline/secrets/{{ .file }}
{{- end }}
{{- end }}

{{/* What a processor's settings take from the environment, from a dict of `root` and `files`. */}}
{{- define "fraudline.processorEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
# The same for an ordinal for ever, so that a new pod fences what its predecessor left open.
- name: FRAUDLINE_KAFKA__TRANSACTIONAL_ID
  value: {{ printf "%s-$(POD_NAME)" .root.Values.config.kafka.group_id | quote }}
{{ include "fraudline.env" .files }}
{{- if eq .root.Values.config.model.device "cuda" }}
- name: CUPY_CACHE_DIR  # the home that it would take is not writable
  value: /tmp/cupy
{{- end }}
{{- end }}

{{/* Credentials of the model registry: libraries of object stores read them from the environment. */}}
{{- define "fraudline.envFrom" -}}
{{- with .Values.secrets.registry.existingSecret }}
envFrom:
  - secretRef:
      name: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "fraudline.mounts" -}}
- name: config
  mountPath: /etc/fraudline/config
  readOnly: true
{{- if include "fraudline.secrets" . | fromYamlArray }}
- name: secrets
  mountPath: /etc/fraudline/secrets
  readOnly: true
{{- end }}
{{- range include "fraudline.directories" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: /etc/fraudline/{{ .name }}
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{- define "fraudline.volumes" -}}
- name: config
  configMap:
    name: {{ .config }}
{{- with include "fraudline.secrets" . | fromYamlArray }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range . }}
      - secret:
          name: {{ .secret | quote }}
          items:
            - key: {{ .key | quote }}
              path: {{ .file }}
      {{- end }}
{{- end }}
{{- range include "fraudline.directories" . | fromYamlArray }}
- name: {{ .name }}
  {{- if .secret }}
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ .configMap | quote }}
  {{- end }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .root.Values.tmpSizeLimit | quote }}
{{- end }}
