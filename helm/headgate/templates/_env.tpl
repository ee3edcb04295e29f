{{/* The environment: it wins over headgate.yaml. No variable of ours but settings may begin with HEADGATE_. */}}

{{/* Where everything listens, and what Envoy is told: nothing secret. */}}
{{- define "headgate.env" -}}
{{- $v := .Values -}}
- name: HEADGATE_RUN_DIR
  value: /run/headgate
- name: HEADGATE_ADMIN
  value: 127.0.0.1:10001
- name: HEADGATE_PROBES
  value: {{ printf "%s:10002" $v.bind | quote }}
{{- if eq $v.mode "gateway" }}
- name: HEADGATE_LISTEN
  value: {{ printf "%s:10000" $v.bind | quote }}
- name: HEADGATE_ENVOY__START
  value: "false"
- name: HEADGATE_ENVOY__STATS
  value: {{ printf "%s:9902" $v.bind | quote }}
- name: HEADGATE_ENVOY__CONCURRENCY
  value: {{ include "headgate.concurrency" . | quote }}
- name: HEADGATE_ENVOY__LOG_LEVEL
  value: {{ $v.envoy.logLevel }}
{{- if include "headgate.tlsSecret" . }}
- name: HEADGATE_TLS__CERT
  value: /etc/headgate-tls/tls.crt
- name: HEADGATE_TLS__KEY
  value: /etc/headgate-tls/tls.key
{{- end }}
{{- else }}
{{- $bind := ternary "127.0.0.1" $v.bind (eq $v.mode "sidecar") }}
- name: HEADGATE_SERVICES__EXTPROC
  value: {{ printf "%s:9001" $bind | quote }}
- name: HEADGATE_SERVICES__RATELIMIT
  value: {{ printf "%s:9002" $bind | quote }}
{{- if $v.grpcTls.enabled }}
- name: HEADGATE_SERVICES__TLS__CERT
  value: /etc/headgate-grpc/tls.crt
- name: HEADGATE_SERVICES__TLS__KEY
  value: /etc/headgate-grpc/tls.key
- name: HEADGATE_SERVICES__TLS__CLIENT_CA
  value: /etc/headgate-grpc/ca.crt
- name: HEADGATE_SERVICES__TLS__CA
  value: /etc/headgate-grpc/ca.crt
- name: HEADGATE_SERVICES__TLS__NAME
  value: {{ include "headgate.host" . }}
# What Envoy shows. Envoy is elsewhere: this only says so in what `headgate render` prints.
- name: HEADGATE_SERVICES__TLS__CLIENT_CERT
  value: /etc/headgate-grpc/tls.crt
- name: HEADGATE_SERVICES__TLS__CLIENT_KEY
  value: /etc/headgate-grpc/tls.key
{{- end }}
{{- if and (include "headgate.grpc" .) $v.maxConnectionAge }}
- name: HEADGATE_SERVICES__MAX_CONNECTION_AGE
  value: {{ int $v.maxConnectionAge | quote }}
{{- end }}
{{- end }}
- name: HEADGATE_WORKERS
  value: {{ include "headgate.workers" . | quote }}
{{- if eq $v.mode "envoy-gateway" }}
- name: HEADGATE_LIMITS__ENFORCE
  value: in_process
{{- end }}
- name: HEADGATE_LIMITS__ON_ERROR
  value: {{ ternary "allow" "deny" $v.failOpen.ratelimit }}
- name: HEADGATE_DRAIN_DELAY
  value: {{ int $v.drain.delay | quote }}
- name: HEADGATE_DRAIN_TIMEOUT
  value: {{ include "headgate.grace" . | quote }}
- name: HEADGATE_LOG__LEVEL
  value: {{ $v.log.level }}
- name: HEADGATE_LOG__FORMAT
  value: json
- name: HEADGATE_LOG__REQUESTS
  value: {{ $v.log.requests | quote }}
{{- end -}}

{{/* Where the counters are. Credentials come from Secrets only. */}}
{{- define "headgate.storeEnv" -}}
{{- $s := .Values.store -}}
{{- if .Values.devRedis.enabled }}
- name: HEADGATE_STORE
  value: redis://{{ include "headgate.named" (dict "root" . "suffix" "redis") }}:6379/0
{{- else if $s.existingSecret.name }}
- name: HEADGATE_STORE
  valueFrom:
    secretKeyRef: {name: {{ $s.existingSecret.name }}, key: {{ $s.existingSecret.key }}}
{{- else }}
{{- $credentials := "" }}
{{- $parameters := list }}
{{- if $s.auth.existingSecret }}
{{- $credentials = ":$(STORE_PASSWORD)@" }}
{{- if $s.auth.usernameKey }}
{{- $credentials = "$(STORE_USERNAME):$(STORE_PASSWORD)@" }}
- name: STORE_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ $s.auth.existingSecret }}, key: {{ $s.auth.usernameKey }}}
{{- end }}
- name: STORE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $s.auth.existingSecret }}, key: {{ $s.auth.passwordKey }}}
{{- if $s.auth.sentinelPasswordKey }}
{{- $parameters = append $parameters "sentinel_password=$(STORE_SENTINEL_PASSWORD)" }}
- name: STORE_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $s.auth.existingSecret }}, key: {{ $s.auth.sentinelPasswordKey }}}
{{- end }}
{{- end }}
{{- if $s.tls.existingSecret }}
{{- with $s.tls.caKey }}{{- $parameters = append $parameters (printf "ssl_ca_certs=/etc/headgate-store/%s" .) }}{{- end }}
{{- with $s.tls.certKey }}{{- $parameters = append $parameters (printf "ssl_certfile=/etc/headgate-store/%s" .) }}{{- end }}
{{- with $s.tls.keyKey }}{{- $parameters = append $parameters (printf "ssl_keyfile=/etc/headgate-store/%s" .) }}{{- end }}
{{- end }}
{{- $url := $s.url }}
{{- if $credentials }}
{{- $parts := splitn "://" 2 $url }}
{{- $url = printf "%s://%s%s" $parts._0 $credentials $parts._1 }}
{{- end }}
{{- if $parameters }}
{{- $url = printf "%s%s%s" $url (ternary "&" "?" (contains "?" $url)) (join "&" $parameters) }}
{{- end }}
- name: HEADGATE_STORE
  value: {{ $url | quote }}
{{- end }}
{{- end -}}
