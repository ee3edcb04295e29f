{{/* What follows from the values: "true" or empty, or a number. */}}

{{/* The modes whose pods are the two gRPC services. */}}
{{- define "headgate.grpc" -}}
{{- if has .Values.mode (list "policy" "istio" "envoy-gateway") -}}true{{- end -}}
{{- end -}}

{{/* The same in every mode: it selects, and what selects can never change. So a release may change its mode. */}}
{{- define "headgate.component" -}}
headgate
{{- end -}}

{{/* Whether ext_proc decides the limits: then there is no rate-limit service. Envoy Gateway asks only its own. */}}
{{- define "headgate.inProcess" -}}
{{- $limits := default (dict) .Values.config.limits -}}
{{- if or (eq .Values.mode "envoy-gateway") (eq (default "envoy" $limits.enforce) "in_process") -}}true{{- end -}}
{{- end -}}

{{/* Whether there surely is one. */}}
{{- define "headgate.ratelimitServed" -}}
{{- if not (or (include "headgate.inProcess" .) .Values.existingConfigMap) -}}true{{- end -}}
{{- end -}}

{{- define "headgate.demo" -}}
{{- if and .Values.demo.enabled (not .Values.config) (not .Values.existingConfigMap) -}}true{{- end -}}
{{- end -}}

{{- define "headgate.configMap" -}}
{{- default (include "headgate.fullname" .) .Values.existingConfigMap -}}
{{- end -}}

{{- define "headgate.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- include "headgate.named" (dict "root" . "suffix" "tls") -}}
{{- else -}}
{{- .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "headgate.grpcTlsSecret" -}}
{{- if .Values.grpcTls.certManager.enabled -}}
{{- include "headgate.named" (dict "root" . "suffix" "grpc") -}}
{{- else -}}
{{- .Values.grpcTls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The services' name in the cluster's DNS. */}}
{{- define "headgate.host" -}}
{{- printf "%s.%s.svc" (include "headgate.fullname" .) (include "headgate.namespace" .) -}}
{{- end -}}

{{/* Thousandths of a CPU: "1500m", "1.5", 2. */}}
{{- define "headgate.milliCpu" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text -}}
{{- trimSuffix "m" $text | int -}}
{{- else -}}
{{- mulf ($text | float64) 1000.0 | int -}}
{{- end -}}
{{- end -}}

{{- define "headgate.requestedCpu" -}}
{{- $requests := default (dict) .requests -}}
{{- include "headgate.milliCpu" (default "1" $requests.cpu) -}}
{{- end -}}

{{/* Processes that decide: one per whole CPU that is requested. */}}
{{- define "headgate.workers" -}}
{{- if ne .Values.mode "gateway" -}}
1
{{- else if .Values.workers -}}
{{- int .Values.workers -}}
{{- else -}}
{{- max 1 (div (include "headgate.requestedCpu" .Values.resources | int) 1000) -}}
{{- end -}}
{{- end -}}

{{/* Envoy's worker threads: one per CPU that is requested, rounded up. Envoy itself would count the node's. */}}
{{- define "headgate.concurrency" -}}
{{- if .Values.envoy.concurrency -}}
{{- int .Values.envoy.concurrency -}}
{{- else -}}
{{- max 1 (div (add (include "headgate.requestedCpu" .Values.envoy.resources | int) 999) 1000) -}}
{{- end -}}
{{- end -}}

{{/* How a pod ends: preStop, then what the services may still take, then Kubernetes' patience. Each ends before the next. */}}
{{- define "headgate.preStop" -}}
{{- add (int .Values.drain.delay) (int .Values.drain.timeout) -}}
{{- end -}}
{{- define "headgate.stockPreStop" -}}
{{- default (include "headgate.preStop" . | int) (int .Values.envoy.stock.preStopSleep) -}}
{{- end -}}
{{- define "headgate.grace" -}}
{{- add (include "headgate.preStop" . | int) 5 -}}
{{- end -}}
{{- define "headgate.terminationGrace" -}}
{{- add (include "headgate.preStop" . | int) 30 -}}
{{- end -}}

{{/* Whether something may run more than one pod. */}}
{{- define "headgate.several" -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.maxReplicas) 1 -}}true{{- end -}}
{{- else if .Values.keda.enabled -}}
{{- if gt (int .Values.keda.maxReplicas) 1 -}}true{{- end -}}
{{- else if gt (int .Values.replicas) 1 -}}
true
{{- end -}}
{{- end -}}

{{/* Whether each pod counts for itself. */}}
{{- define "headgate.embedded" -}}
{{- if and (hasPrefix "memory://" .Values.store.url) (not .Values.store.existingSecret.name) (not .Values.devRedis.enabled) -}}true{{- end -}}
{{- end -}}

{{- define "headgate.servicePort" -}}
{{- default (ternary 443 80 (ne (include "headgate.tlsSecret" .) "")) (int .Values.service.port) -}}
{{- end -}}

{{/* headgate.yaml. */}}
{{- define "headgate.yaml" -}}
{{- if include "headgate.demo" . -}}
# DEMONSTRATION ONLY: a fake provider that makes up its answers, and a key that everybody knows (sk-headgate-demo).
# It opens nothing but this fake provider. Write your own below `config:`.
providers:
  fake: {dialect: openai, base_url: "http://{{ include "headgate.named" (dict "root" . "suffix" "fake-provider") }}:9101/v1"}
models:
  demo: {provider: fake}
  demo-split:
    - {provider: fake, model: demo-large, weight: 80}
    - {provider: fake, model: demo-small, weight: 20}
keys:
  - {name: demo, sha256: "{{ sha256sum "sk-headgate-demo" }}", models: ["*"], limits: {requests: 60/min, tokens: 100000/min}}
{{- else -}}
{{- toYaml .Values.config -}}
{{- end -}}
{{- end -}}
