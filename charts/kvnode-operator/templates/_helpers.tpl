{{- define "kvnode.name" -}}
{{- if contains "kvnode-operator" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-kvnode-operator" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{/* The NetworkPolicies of the clusters admit the operator by its name label. */}}
{{- define "kvnode.selector" -}}
app.kubernetes.io/name: kvnode-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kvnode.labels" -}}
{{ include "kvnode.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "kvnode.account" -}}
{{- .Values.serviceAccount.name | default (include "kvnode.name" .) -}}
{{- end }}

{{/* What the operator does in the namespaces of the clusters. Verbs as it uses them, no wildcard, no Secret. */}}
{{- define "kvnode.clusterRules" -}}
- apiGroups: [kvnode.dev]
  resources: [kvclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [kvnode.dev]
  resources: [kvclusters/status]
  verbs: [patch]
- apiGroups: [kvnode.dev]
  resources: [kvclusters/finalizers, kvbackups/finalizers]
  verbs: [update]
- apiGroups: [kvnode.dev]
  resources: [kvbackups]
  verbs: [get, list, watch, create, patch]
- apiGroups: [kvnode.dev]
  resources: [kvbackups/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
# Certificates of clusters with spec.tls, passwords of those with spec.auth: by name, never listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# What clusters with spec.tls.mode CertManager ask cert-manager for.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods, persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# Other sizes of a server without a restart.
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
