{{/* What values.schema.json cannot see: values that contradict each other. Each message names the value and the mend. */}}
{{- define "headgate.check" -}}
{{- $v := .Values -}}
{{- $grpc := include "headgate.grpc" . -}}
{{- $elsewhere := dict
  "listen" "it is always port 10000, and `service.port` outside"
  "admin" "it is always 127.0.0.1:10001"
  "probes" "it is always port 10002"
  "run_dir" "it is always /run/headgate"
  "services" "see `grpcTls` and `maxConnectionAge`"
  "workers" "set `workers` of the chart"
  "store" "set `store.url` or `store.existingSecret` of the chart"
  "tls" "set `tls.existingSecret` of the chart"
  "drain_timeout" "set `drain.timeout` of the chart"
  "drain_delay" "set `drain.delay` of the chart"
  "log" "set `log` of the chart"
  "envoy" "set `envoy` of the chart"
-}}
{{- range $key, $mend := $elsewhere -}}
{{- if hasKey $v.config $key -}}
{{- fail (printf "config.%s: is the chart's to say: %s" $key $mend) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (default (dict) $v.config.limits) "on_error" -}}
{{- fail "config.limits.on_error: is the chart's to say: set `failOpen.ratelimit` (true: allow, false: deny)" -}}
{{- end -}}
{{- if and (eq $v.mode "envoy-gateway") (eq (default "in_process" (default (dict) $v.config.limits).enforce) "envoy") -}}
{{- fail "config.limits.enforce: Envoy Gateway asks no other rate-limit service than its own: leave it out, ext_proc decides then" -}}
{{- end -}}
{{- range $name, $provider := (default (dict) $v.config.providers) -}}
{{- if kindIs "map" $provider -}}
{{- range $key := concat (list (default "" $provider.api_key)) (default (list) $provider.api_keys) -}}
{{- if and $key (not (regexMatch "^\\$\\{" (toString $key))) -}}
{{- fail (printf "config.providers.%s: a provider's key must not stand in a ConfigMap: name its Secret below `providerKeys`, and write ${file:/etc/headgate-keys/NAME}" $name) -}}
{{- end -}}
{{- if hasPrefix "${file:/etc/headgate-keys/" (toString $key) -}}
{{- $file := trimSuffix "}" (trimPrefix "${file:/etc/headgate-keys/" (toString $key)) -}}
{{- if not (hasKey $v.providerKeys $file) -}}
{{- fail (printf "config.providers.%s: there is no `providerKeys.%s`: add {existingSecret: SECRET, key: KEY}" $name $file) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.config $v.existingConfigMap -}}
{{- fail "existingConfigMap: `config` is set, too: keep one of them" -}}
{{- end -}}
{{- if and (not $v.config) (not $v.existingConfigMap) (not $v.demo.enabled) -}}
{{- fail "config: is empty: write headgate.yaml below it, or set `demo.enabled`" -}}
{{- end -}}
{{- if include "headgate.demo" . -}}
{{- if or $v.providerKeys (include "headgate.several" .) $v.tls.existingSecret $v.tls.certManager.enabled $v.grpcTls.enabled -}}
{{- fail "config: is empty, so this would be the demonstration, whose key everybody knows: write headgate.yaml below `config`" -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.egress.enabled (not $v.networkPolicy.enabled) -}}
{{- fail "networkPolicy.egress.enabled: has no effect without a policy: set `networkPolicy.enabled`, too" -}}
{{- end -}}
{{- range $one := $v.extraEnv -}}
{{- if has $one.name (list "HEADGATE_LISTEN" "HEADGATE_ADMIN" "HEADGATE_PROBES" "HEADGATE_RUN_DIR" "HEADGATE_WORKERS" "HEADGATE_STORE" "HEADGATE_DRAIN_DELAY" "HEADGATE_DRAIN_TIMEOUT" "HEADGATE_ENVOY__START" "HEADGATE_ENVOY__STATS" "HEADGATE_SERVICES__EXTPROC" "HEADGATE_SERVICES__RATELIMIT" "HEADGATE_LIMITS__ON_ERROR") -}}
{{- fail (printf "extraEnv: %s is the chart's to say: see the value of that name in values.yaml" $one.name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.service.nodePort (not (has $v.service.type (list "NodePort" "LoadBalancer"))) -}}
{{- fail "service.nodePort: has no effect with this type: set `service.type` to NodePort or LoadBalancer" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "keda.enabled: `autoscaling.enabled` is set, too: only one can scale a Deployment" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas: is more than maxReplicas" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.targetCPU) (not $v.autoscaling.targetMemory) (not $v.autoscaling.metrics) -}}
{{- fail "autoscaling: scales by nothing: set `targetCPU`, `targetMemory` or `metrics`" -}}
{{- end -}}
{{- if and $v.keda.enabled (not $v.keda.triggers) -}}
{{- fail "keda.triggers: is empty: add at least one" -}}
{{- end -}}
{{- if and $v.keda.enabled (gt (int $v.keda.minReplicas) (int $v.keda.maxReplicas)) -}}
{{- fail "keda.minReplicas: is more than maxReplicas" -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor.enabled $v.monitoring.podMonitor.enabled -}}
{{- fail "monitoring.podMonitor.enabled: `serviceMonitor` is enabled, too: everything would be counted twice" -}}
{{- end -}}
{{- $stores := list -}}
{{- if not (hasPrefix "memory://" $v.store.url) -}}{{- $stores = append $stores "store.url" -}}{{- end -}}
{{- if $v.store.existingSecret.name -}}{{- $stores = append $stores "store.existingSecret" -}}{{- end -}}
{{- if $v.devRedis.enabled -}}{{- $stores = append $stores "devRedis" -}}{{- end -}}
{{- if gt (len $stores) 1 -}}
{{- fail (printf "store: %s are set: keep one of them" (join " and " $stores)) -}}
{{- end -}}
{{- if and (or $v.store.auth.existingSecret $v.store.tls.existingSecret) (or (include "headgate.embedded" .) $v.devRedis.enabled $v.store.existingSecret.name) -}}
{{- if or $v.store.auth.existingSecret (not $v.store.existingSecret.name) -}}
{{- fail "store.auth and store.tls: go with a Redis in `store.url`" -}}
{{- end -}}
{{- end -}}
{{- if and $v.store.tls.existingSecret (not $v.store.existingSecret.name) (not (hasPrefix "rediss" $v.store.url)) -}}
{{- fail "store.tls: `store.url` does not speak TLS: write rediss://" -}}
{{- end -}}
{{- if and $v.store.tls.certKey (not $v.store.tls.keyKey) -}}
{{- fail "store.tls.keyKey: is missing beside `certKey`" -}}
{{- end -}}
{{- if and (include "headgate.several" .) (include "headgate.embedded" .) (not $v.store.perReplica) (ne $v.mode "sidecar") -}}
{{- fail "store.url: with memory:// every replica counts for itself: set a Redis, or `store.perReplica: true`" -}}
{{- end -}}
{{- if and $v.workers (ne $v.mode "gateway") (gt (int $v.workers) 1) -}}
{{- fail (printf "workers: in mode %s a pod has one, behind one port: set `replicas`" $v.mode) -}}
{{- end -}}
{{- if and $v.workers (gt (mul (int $v.workers) 1000) (int (add (include "headgate.requestedCpu" $v.resources | int) 999))) -}}
{{- fail (printf "workers: %d decide on a core each: request as many CPUs (resources.requests.cpu)" (int $v.workers)) -}}
{{- end -}}
{{- if and (include "headgate.tlsSecret" .) (ne $v.mode "gateway") -}}
{{- fail (printf "tls: there is no listener in mode %s" $v.mode) -}}
{{- end -}}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled -}}
{{- fail "tls.existingSecret: `tls.certManager` is enabled, too: keep one of them" -}}
{{- end -}}
{{- if $v.tls.certManager.enabled -}}
{{- if or (not $v.tls.certManager.issuerRef.name) (not $v.tls.certManager.dnsNames) -}}
{{- fail "tls.certManager: needs `issuerRef.name` and `dnsNames`" -}}
{{- end -}}
{{- end -}}
{{- if and $v.grpcTls.enabled (not $grpc) -}}
{{- fail (printf "grpcTls: in mode %s the services are not on the network" $v.mode) -}}
{{- end -}}
{{- if and $v.grpcTls.enabled (not (include "headgate.grpcTlsSecret" .)) -}}
{{- fail "grpcTls.existingSecret: is missing: name a Secret with tls.crt, tls.key and ca.crt, or enable `grpcTls.certManager`" -}}
{{- end -}}
{{- if and $v.grpcTls.existingSecret $v.grpcTls.certManager.enabled -}}
{{- fail "grpcTls.existingSecret: `grpcTls.certManager` is enabled, too: keep one of them" -}}
{{- end -}}
{{- if and $v.grpcTls.certManager.enabled (not $v.grpcTls.certManager.issuerRef.name) -}}
{{- fail "grpcTls.certManager.issuerRef.name: is missing" -}}
{{- end -}}
{{- if and $v.objects (not (has $v.mode (list "istio" "envoy-gateway"))) -}}
{{- fail (printf "objects: mode %s attaches nothing: set `mode: istio` or `mode: envoy-gateway`, or use `extraObjects`" $v.mode) -}}
{{- end -}}
{{- if and $v.service.headless (not $grpc) -}}
{{- fail "service.headless: is for the modes with the gRPC services" -}}
{{- end -}}
{{- if and $v.envoy.stock.enabled (eq $v.mode "gateway") (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) -}}
{{- fail "envoy.stock: its preStop (sleep) is off by default before Kubernetes 1.30: use the Envoy of Headgate's image" -}}
{{- end -}}
{{- if gt (include "headgate.stockPreStop" . | int) (include "headgate.preStop" . | int) -}}
{{- fail "envoy.stock.preStopSleep: is longer than the pod may take: raise `drain.timeout`" -}}
{{- end -}}
{{- end -}}
