{{/* Volumes, mounts and containers of Headgate's pods, whoever's Deployment they stand in. */}}

{{/* Secrets and ConfigMaps are mounted as folders, never by subPath: only so do they change in a running pod. */}}
{{- define "headgate.volumes" -}}
- name: headgate-config
  configMap: {name: {{ include "headgate.configMap" . }}}
# The run folder itself is made by Headgate inside, for its user alone.
- name: headgate-run
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.runDir.sizeLimit }}}
- name: headgate-tmp
  emptyDir: {sizeLimit: {{ .Values.tmp.sizeLimit }}}
{{- with .Values.providerKeys }}
- name: headgate-keys
  projected:
    defaultMode: {{ include "headgate.secretMode" $ }}
    sources:
      {{- range $name, $from := . }}
      - secret: {name: {{ $from.existingSecret }}, items: [{key: {{ $from.key | quote }}, path: {{ $name | quote }}}]}
      {{- end }}
{{- end }}
{{- if .Values.store.tls.existingSecret }}
- name: headgate-store
  secret: {secretName: {{ .Values.store.tls.existingSecret }}, defaultMode: {{ include "headgate.secretMode" . }}}
{{- end }}
{{- with include "headgate.tlsSecret" . }}
- name: headgate-tls
  secret: {secretName: {{ . }}, defaultMode: {{ include "headgate.secretMode" $ }}}
{{- end }}
{{- if .Values.grpcTls.enabled }}
- name: headgate-grpc
  secret: {secretName: {{ include "headgate.grpcTlsSecret" . }}, defaultMode: {{ include "headgate.secretMode" . }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ include "headgate.tpl" (dict "root" $ "value" .) }}
{{- end }}
{{- end -}}

{{/* In a pod of ours its group may read; in others' pods there is no such group. */}}
{{- define "headgate.secretMode" -}}
{{- ternary "0444" "0440" (eq .Values.mode "sidecar") -}}
{{- end -}}

{{- define "headgate.mounts" -}}
- {name: headgate-config, mountPath: /etc/headgate, readOnly: true}
{{- if .Values.providerKeys }}
- {name: headgate-keys, mountPath: /etc/headgate-keys, readOnly: true}
{{- end }}
{{- if .Values.store.tls.existingSecret }}
- {name: headgate-store, mountPath: /etc/headgate-store, readOnly: true}
{{- end }}
{{- if .Values.grpcTls.enabled }}
- {name: headgate-grpc, mountPath: /etc/headgate-grpc, readOnly: true}
{{- end }}
{{- include "headgate.sharedMounts" . }}
{{- end -}}

{{/* What Envoy needs, too. */}}
{{- define "headgate.sharedMounts" }}
- {name: headgate-run, mountPath: /run}
- {name: headgate-tmp, mountPath: /tmp}
{{- if include "headgate.tlsSecret" . }}
- {name: headgate-tls, mountPath: /etc/headgate-tls, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ include "headgate.tpl" (dict "root" $ "value" .) }}
{{- end }}
{{- end -}}

{{/* What all of Headgate's own containers have in common. */}}
{{- define "headgate.container" -}}
image: {{ include "headgate.image" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- $security := deepCopy .Values.securityContext }}
  {{- if eq .Values.mode "sidecar" }}
  {{- $security = merge $security (pick .Values.podSecurityContext "runAsUser" "runAsGroup" "seccompProfile") }}
  {{- end }}
  {{- toYaml $security | nindent 2 }}
env:
  {{- include "headgate.env" . | nindent 2 }}
  {{- include "headgate.storeEnv" . | trim | nindent 2 }}
  {{- with .Values.extraEnv }}
  {{- include "headgate.tpl" (dict "root" $ "value" .) | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- include "headgate.tpl" (dict "root" $ "value" .) | nindent 2 }}
{{- end }}
volumeMounts:
  {{- include "headgate.mounts" . | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

{{/* A configuration that cannot be used ends here: the new pod does not start, the old ones go on. */}}
{{- define "headgate.checkContainer" -}}
- name: headgate-check
  {{- if eq .Values.mode "gateway" }}
  command: [headgate, render, files, -c, /etc/headgate/headgate.yaml]
  {{- else }}
  command: [headgate, check, /etc/headgate/headgate.yaml]
  {{- end }}
  {{- include "headgate.container" . | nindent 2 }}
{{- end -}}

{{- define "headgate.headgateContainer" -}}
{{- $v := .Values -}}
- name: headgate
  {{- if eq $v.mode "gateway" }}
  command: [headgate, up, -c, /etc/headgate/headgate.yaml]
  {{- else }}
  command: [headgate, serve, -c, /etc/headgate/headgate.yaml]
  {{- end }}
  {{- if not (include "headgate.grpc" .) }}
  # A sidecar in Kubernetes' sense: up before Envoy, and told to stop only when Envoy has ended.
  restartPolicy: Always
  {{- end }}
  {{- include "headgate.container" . | nindent 2 }}
  ports:
    {{- if include "headgate.grpc" . }}
    - {name: grpc-extproc, containerPort: 9001}
    {{- if not (include "headgate.inProcess" .) }}
    - {name: grpc-ratelimit, containerPort: 9002}
    {{- end }}
    {{- end }}
    - {name: probes, containerPort: 10002}
  startupProbe:
    {{- if and (include "headgate.grpc" .) (not $v.grpcTls.enabled) (include "headgate.ratelimitServed" .) }}
    grpc: {port: 9002, service: envoy.service.ratelimit.v3.RateLimitService}
    {{- else }}
    httpGet: {path: /healthz, port: 10002}
    {{- end }}
    periodSeconds: 2
    failureThreshold: {{ int $v.probes.startupFailureThreshold }}
  readinessProbe:
    {{- if and (include "headgate.grpc" .) (not $v.grpcTls.enabled) }}
    grpc: {port: 9001, service: envoy.service.ext_proc.v3.ExternalProcessor}
    {{- else }}
    httpGet: {path: /readyz, port: 10002}
    {{- end }}
    periodSeconds: {{ int $v.probes.readinessPeriod }}
    timeoutSeconds: 2
    failureThreshold: 2
  # Only whether the process lives: never the store, never a provider.
  livenessProbe:
    httpGet: {path: /healthz, port: 10002}
    periodSeconds: {{ int $v.probes.livenessPeriod }}
    timeoutSeconds: 5
    failureThreshold: 3
{{- end -}}

{{- define "headgate.envoyContainer" -}}
{{- $v := .Values -}}
- name: envoy
  {{- if $v.envoy.stock.enabled }}
  image: {{ include "headgate.image" (dict "root" . "image" $v.envoy.stock) | quote }}
  command:
    - envoy
    - -c
    - /run/headgate/bootstrap.json
    - --concurrency
    - {{ include "headgate.concurrency" . | quote }}
    - --log-level
    - {{ $v.envoy.logLevel }}
    - --disable-hot-restart
  {{- else }}
  image: {{ include "headgate.image" (dict "root" . "image" $v.image "tag" .Chart.AppVersion) | quote }}
  command: [headgate, envoy]
  {{- end }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  securityContext:
    {{- toYaml $v.securityContext | nindent 4 }}
  env:
    {{- include "headgate.env" . | nindent 4 }}
  volumeMounts:
    {{- include "headgate.sharedMounts" . | trim | nindent 4 }}
  resources:
    {{- toYaml $v.envoy.resources | nindent 4 }}
  ports:
    - {name: {{ ternary "https" "http" (ne (include "headgate.tlsSecret" .) "") }}, containerPort: 10000}
    - {name: envoy-stats, containerPort: 9902}
  lifecycle:
    preStop:
      {{- if $v.envoy.stock.enabled }}
      # Nobody in this image can ask Envoy to drain: it just goes on while load balancers turn away.
      sleep: {seconds: {{ include "headgate.stockPreStop" . }}}
      {{- else }}
      # Returns when no request is open.
      exec: {command: [headgate, drain, --delay, {{ int $v.drain.delay | quote }}, --timeout, {{ include "headgate.preStop" . | quote }}]}
      {{- end }}
  startupProbe:
    httpGet: {path: /ready, port: 9902}
    periodSeconds: 2
    failureThreshold: {{ int $v.probes.startupFailureThreshold }}
  readinessProbe:
    httpGet: {path: /ready, port: 9902}
    periodSeconds: {{ int $v.probes.readinessPeriod }}
    timeoutSeconds: 2
    failureThreshold: 2
  livenessProbe:
    httpGet: {path: /healthz, port: 9902}
    periodSeconds: {{ int $v.probes.livenessPeriod }}
    timeoutSeconds: 5
    failureThreshold: 3
{{- end -}}
