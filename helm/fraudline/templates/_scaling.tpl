{{/* Up soon, down slowly: each change moves partitions, and a pod that comes back too early was stopped in vain. */}}
{{- define "fraudline.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleUp.stabilizationWindowSeconds }}
  policies:
    - type: Percent
      value: 100
      periodSeconds: {{ .Values.autoscaling.scaleUp.periodSeconds }}
    - type: Pods
      value: 1
      periodSeconds: {{ .Values.autoscaling.scaleUp.periodSeconds }}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDown.stabilizationWindowSeconds }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: {{ .Values.autoscaling.scaleDown.periodSeconds }}
{{- end }}

{{/*
How KEDA reaches Kafka, with the names of its Kafka scaler, as a YAML list of parameters: each is a `value` or a key of
a Secret. It logs in as the processor does.
*/}}
{{- define "fraudline.scaler.parameters" -}}
{{- $kafka := .Values.config.kafka }}
{{- $secrets := .Values.secrets }}
{{- if eq $kafka.sasl_mechanism "OAUTHBEARER" }}
- {parameter: username, value: {{ $kafka.sasl_oauth_client_id | quote }}}
- {parameter: password, secret: {{ $secrets.oauthClientSecret.existingSecret | quote }}, key: {{ $secrets.oauthClientSecret.key | quote }}}
- {parameter: oauthTokenEndpointUri, value: {{ $kafka.sasl_oauth_token_url | quote }}}
{{- with $kafka.sasl_oauth_scope }}
- {parameter: scopes, value: {{ . | replace " " "," | quote }}}
{{- end }}
{{- else if $kafka.sasl_mechanism }}
- {parameter: username, value: {{ $kafka.sasl_username | quote }}}
- {parameter: password, secret: {{ $secrets.saslPassword.existingSecret | quote }}, key: {{ $secrets.saslPassword.key | quote }}}
{{- end }}
{{- range $parameter, $path := dict "ca" $kafka.ssl_ca_file "cert" $kafka.ssl_certificate_file "key" $kafka.ssl_key_file }}
{{- with $path }}
- {parameter: {{ $parameter }}, secret: {{ $secrets.kafkaTls.existingSecret | quote }}, key: {{ trimPrefix "/etc/fraudline/kafka-tls/" . | quote }}}
{{- end }}
{{- end }}
{{- with $secrets.sslKeyPassword.existingSecret }}
- {parameter: keyPassword, secret: {{ . | quote }}, key: {{ $secrets.sslKeyPassword.key | quote }}}
{{- end }}
{{- end }}
