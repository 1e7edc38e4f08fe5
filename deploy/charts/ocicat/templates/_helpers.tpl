{{- define "ocicat.labels" -}}
app.kubernetes.io/name: ocicat
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "ocicat.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}
{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Numbers in values are floats, which print as 4.2e+09. */ -}}
{{- define "ocicat.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- /* What the policies for agents have in common, up to their variables. */ -}}
{{- define "ocicat.policy" -}}
failurePolicy: Fail
matchConditions:
- name: agent
  expression: request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:ocicat-node'
variables:
- name: node
  expression: request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('no node in the token')
{{- end }}

{{- define "ocicat.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ index . 1 }}
  labels: {{- include "ocicat.labels" (index . 0) | nindent 4 }}
spec:
  policyName: {{ index . 1 }}
  validationActions: [Deny]
{{- end }}
