{{/*
What the schema can't say: values that depend on each other. Each of these would otherwise be a pod that does not start.
*/}}
{{- define "fraudline.validate" -}}
{{- include "fraudline.validate.required" . -}}
{{- include "fraudline.validate.kafka" . -}}
{{- include "fraudline.validate.store" . -}}
{{- include "fraudline.validate.signature" . -}}
{{- include "fraudline.validate.limits" . -}}
{{- include "fraudline.validate.alertPage" . -}}
{{- include "fraudline.validate.logins" . -}}
{{- include "fraudline.validate.topicsJob" . -}}
{{- include "fraudline.validate.gpu" . -}}
{{- include "fraudline.validate.autoscaling" . -}}
{{- include "fraudline.validate.monitoring" . -}}
{{- include "fraudline.validate.networkPolicy" . -}}
{{- end }}

{{- define "fraudline.validate.required" -}}
{{- if regexMatch "^[0-9]" (include "fraudline.fullname" .) }}
{{- fail (printf "%s begins with a digit, which the name of a Service may not: set fullnameOverride." (include "fraudline.fullname" .)) }}
{{- end }}
{{- if not .Values.config.kafka.brokers }}
{{- fail "config.kafka.brokers is empty: name the bootstrap servers, for example kafka:9092." }}
{{- end }}
{{- if not .Values.secrets.redisUrl.existingSecret }}
{{- fail "secrets.redisUrl.existingSecret is empty: name a Secret that holds the Redis URL." }}
{{- end }}
{{- $claim := .Values.bundle.existingClaim }}
{{- $image := .Values.bundle.image }}
{{- if and $claim $image.repository }}
{{- fail "bundle.existingClaim and bundle.image.repository are both set: keep one of them." }}
{{- end }}
{{- if not (or $claim $image.repository .Values.config.model.registry) }}
{{- fail "The model bundle is missing: set bundle.existingClaim, bundle.image.repository or config.model.registry." }}
{{- end }}
{{- if and $image.repository (not (or $image.tag $image.digest)) }}
{{- fail "bundle.image.repository needs bundle.image.tag or bundle.image.digest." }}
{{- end }}
{{- if and .Values.config.challenger.enabled (not .Values.config.model.registry) }}
{{- fail "config.challenger.enabled needs config.model.registry, where the challenger is promoted." }}
{{- end }}
{{- if and .Values.secrets.registry.existingSecret (not .Values.config.model.registry) }}
{{- fail "secrets.registry.existingSecret is set without config.model.registry." }}
{{- end }}
{{- if and .Values.bundle.subPath (not $claim) }}
{{- fail "bundle.subPath belongs to bundle.existingClaim: with an image, set bundle.image.path." }}
{{- end }}
{{- end }}

{{- define "fraudline.validate.kafka" -}}
{{- $kafka := .Values.config.kafka }}
{{- $protocol := $kafka.security_protocol }}
{{- $sasl := hasPrefix "sasl" $protocol }}
{{- $mechanism := $kafka.sasl_mechanism }}
{{- $password := dict "config.kafka.sasl_username" $kafka.sasl_username "secrets.saslPassword.existingSecret" .Values.secrets.saslPassword.existingSecret }}
{{- $oauth := dict "config.kafka.sasl_oauth_token_url" $kafka.sasl_oauth_token_url "config.kafka.sasl_oauth_client_id" $kafka.sasl_oauth_client_id "secrets.oauthClientSecret.existingSecret" .Values.secrets.oauthClientSecret.existingSecret }}
{{- $oauthToo := dict "config.kafka.sasl_oauth_scope" $kafka.sasl_oauth_scope "config.kafka.sasl_oauth_ca_file" $kafka.sasl_oauth_ca_file "secrets.oauthTls.existingSecret" .Values.secrets.oauthTls.existingSecret }}
{{- if and $sasl (not $mechanism) }}
{{- fail (printf "config.kafka.security_protocol is %s, which also needs config.kafka.sasl_mechanism." $protocol) }}
{{- end }}
{{- range $name, $value := eq $mechanism "OAUTHBEARER" | ternary $oauth $password }}
{{- if and $sasl (not $value) }}
{{- fail (printf "config.kafka.security_protocol is %s, which also needs %s, since config.kafka.sasl_mechanism is %s." $protocol $name $mechanism) }}
{{- end }}
{{- end }}
{{- range $name, $value := eq $mechanism "OAUTHBEARER" | ternary $password (merge (dict) $oauth $oauthToo) }}
{{- if and $sasl $value }}
{{- fail (printf "%s is set but config.kafka.sasl_mechanism is %s, which has no use for it: unset it." $name $mechanism) }}
{{- end }}
{{- end }}
{{- range $name, $value := merge (dict "config.kafka.sasl_mechanism" $mechanism) $password $oauth $oauthToo }}
{{- if and $value (not $sasl) }}
{{- fail (printf "%s is set but config.kafka.security_protocol is %s: use sasl_ssl, or unset it." $name $protocol) }}
{{- end }}
{{- end }}
{{- if hasPrefix "http:" $kafka.sasl_oauth_token_url }}
{{- fail "config.kafka.sasl_oauth_token_url begins with http://, which would send the client's secret in the clear: use https." }}
{{- end }}
{{- if and (hasPrefix "/etc/fraudline/oauth-tls/" $kafka.sasl_oauth_ca_file) (not .Values.secrets.oauthTls.existingSecret) }}
{{- fail "config.kafka.sasl_oauth_ca_file is in /etc/fraudline/oauth-tls, which needs secrets.oauthTls.existingSecret." }}
{{- end }}
{{- $tls := dict "secrets.sslKeyPassword.existingSecret" .Values.secrets.sslKeyPassword.existingSecret "secrets.kafkaTls.existingSecret" .Values.secrets.kafkaTls.existingSecret }}
{{- range $name := list "ssl_ca_file" "ssl_certificate_file" "ssl_key_file" }}
{{- $path := get $kafka $name }}
{{- $_ := set $tls (printf "config.kafka.%s" $name) $path }}
{{- if and (hasPrefix "/etc/fraudline/kafka-tls/" $path) (not $.Values.secrets.kafkaTls.existingSecret) }}
{{- fail (printf "config.kafka.%s is in /etc/fraudline/kafka-tls, which needs secrets.kafkaTls.existingSecret." $name) }}
{{- end }}
{{- end }}
{{- range $name, $value := $tls }}
{{- if and $value (not (hasSuffix "ssl" $protocol)) }}
{{- fail (printf "%s is set but config.kafka.security_protocol is %s: use one with ssl, or unset it." $name $protocol) }}
{{- end }}
{{- end }}
{{- if ne (empty $kafka.ssl_certificate_file) (empty $kafka.ssl_key_file) }}
{{- fail "config.kafka.ssl_certificate_file and config.kafka.ssl_key_file belong together: set both or neither." }}
{{- end }}
{{- if and .Values.secrets.sslKeyPassword.existingSecret (not $kafka.ssl_key_file) }}
{{- fail "secrets.sslKeyPassword.existingSecret is set without config.kafka.ssl_key_file." }}
{{- end }}
{{- end }}

{{- define "fraudline.validate.store" -}}
{{- $store := .Values.config.store }}
{{- if and $store.cluster (lt (int $store.shards) 3) }}
{{- fail "config.store.cluster needs config.store.shards of 3 or more: 16 are right for most." }}
{{- end }}
{{- range $name := list "tls_ca_file" "tls_certificate_file" "tls_key_file" }}
{{- if and (hasPrefix "/etc/fraudline/redis-tls/" (get $store $name)) (not $.Values.secrets.redisTls.existingSecret) }}
{{- fail (printf "config.store.%s is in /etc/fraudline/redis-tls, which needs secrets.redisTls.existingSecret." $name) }}
{{- end }}
{{- end }}
{{- if ne (empty $store.tls_certificate_file) (empty $store.tls_key_file) }}
{{- fail "config.store.tls_certificate_file and config.store.tls_key_file belong together: set both or neither." }}
{{- end }}
{{- end }}

{{- define "fraudline.validate.signature" -}}
{{- $keys := .Values.trustedKeys }}
{{- if and (eq .Values.config.model.signature "required") (not .Values.config.model.trusted_keys) }}
{{- fail "config.model.signature is required, which also needs config.model.trusted_keys: the public keys that may sign." }}
{{- end }}
{{- if and $keys.existingConfigMap $keys.existingSecret }}
{{- fail "trustedKeys.existingConfigMap and trustedKeys.existingSecret are both set: keep one of them." }}
{{- end }}
{{- range .Values.config.model.trusted_keys }}
{{- if and (hasPrefix "/etc/fraudline/trusted-keys/" .) (not (or $keys.existingConfigMap $keys.existingSecret)) }}
{{- fail (printf "config.model.trusted_keys names %s, which needs trustedKeys.existingConfigMap or trustedKeys.existingSecret." .) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "fraudline.validate.limits" -}}
{{- $kafka := .Values.config.kafka }}
{{- $processing := .Values.config.processing }}
{{- if lt (int $kafka.max_poll_interval_ms) (int $kafka.session_timeout_ms) }}
{{- fail "config.kafka.max_poll_interval_ms must be at least config.kafka.session_timeout_ms." }}
{{- end }}
{{- if ge (int $processing.linger_ms) (int $processing.budget_ms) }}
{{- fail "config.processing.linger_ms must be below config.processing.budget_ms: a batch may wait only inside the budget." }}
{{- end }}
{{- $topics := values .Values.config.topics }}
{{- if ne (len $topics) (len (uniq $topics)) }}
{{- fail "Two topics in config.topics have the same name: give each its own." }}
{{- end }}
{{- end }}
