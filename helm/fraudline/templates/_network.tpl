{{/* Rules of a network policy. */}}

{{/* Who may connect, as a YAML list: `from` to the port named `port`, and what is `extra`. */}}
{{- define "fraudline.ingress" -}}
{{- with .from }}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    - port: {{ $.port }}
      protocol: TCP
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- if not (or .from .extra) -}}
[]
{{- end }}
{{- end }}

{{/* Whom a pod may reach, as a YAML list, from a dict of `root` and `to`: which of dns, kafka, oauth, redis and registry. */}}
{{- define "fraudline.egress" -}}
{{- $values := .root.Values }}
{{- $policy := $values.networkPolicy }}
{{- range $name := .to }}
{{- if include "fraudline.reaches" (dict "root" $.root "name" $name) }}
{{- $peers := get $policy $name }}
- to:
    {{- toYaml $peers.to | nindent 4 }}
  ports:
    {{- $known := has $name (list "kafka" "oauth") | ternary (printf "fraudline.ports.%s" $name) "fraudline.ports.none" }}
    {{- range $peers.ports | default (include $known $.root | fromYamlArray) }}
    - port: {{ . }}
      protocol: TCP
    {{- if eq $name "dns" }}
    - port: {{ . }}
      protocol: UDP
    {{- end }}
    {{- end }}
{{- end }}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Not empty when there is something of that `name` to reach. */}}
{{- define "fraudline.reaches" -}}
{{- $config := .root.Values.config }}
{{- if eq .name "oauth" }}{{ $config.kafka.sasl_oauth_token_url }}
{{- else if eq .name "registry" }}{{ contains "://" $config.model.registry | ternary "yes" "" }}
{{- else }}yes{{ end }}
{{- end }}

{{- define "fraudline.ports.none" -}}
[]
{{- end }}

{{/* The ports of the brokers, as a YAML list; a broker without one has Kafka's. */}}
{{- define "fraudline.ports.kafka" -}}
{{- $ports := list }}
{{- range splitList "," .Values.config.kafka.brokers }}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default "9092" | int) }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{/* The port of the token endpoint, as a YAML list. */}}
{{- define "fraudline.ports.oauth" -}}
{{- $url := urlParse .Values.config.kafka.sasl_oauth_token_url }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "https" | ternary "443" "80") }}
{{- list (int $port) | toJson }}
{{- end }}
