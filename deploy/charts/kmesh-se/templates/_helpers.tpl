{{- define "kmesh-se.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "kmesh-se.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kmesh-se.serviceAccount" -}}
{{- default (include "kmesh-se.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "kmesh-se.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- /* What a selector may have: it must never change. */ -}}
{{- define "kmesh-se.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kmesh-se.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kmesh-se.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "kmesh-se.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "kmesh-se.controller" -}}
{{- printf "%s-controller" (include "kmesh-se.fullname" . | trunc 52 | trimSuffix "-") -}}
{{- end -}}

{{- define "kmesh-se.webhook" -}}
{{- printf "%s-webhook" (include "kmesh-se.fullname" . | trunc 52 | trimSuffix "-") -}}
{{- end -}}

{{- /* Of the whole cluster, so the namespace is part of it. */ -}}
{{- define "kmesh-se.webhookConfig" -}}
{{- printf "%s.%s" (include "kmesh-se.webhook" .) .Release.Namespace -}}
{{- end -}}

{{- define "kmesh-se.xds" -}}
{{- printf "%s-xds" (include "kmesh-se.controller" .) -}}
{{- end -}}

{{- /* No more than the agent needs: shown to be enough by running it with these alone. */ -}}
{{- define "kmesh-se.securityContext" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
capabilities:
  drop: [ALL]
  add: {{ concat (list "BPF" "NET_ADMIN" "PERFMON") .Values.extraCapabilities | toJson }}
seccompProfile:
  {{- toYaml .Values.seccompProfile | nindent 2 }}
{{- end -}}
