{{/*
What the operator may do where FineTuneJobs are. Written once: a ClusterRole when all namespaces
are served, else a Role in each of them. There is no `create` of pods (the Job controller makes
them), no Secret, no exec. What a job had made for it goes with the job, by its owner references, so
hardly anything is deleted from here; of FineTuneJobs those that are over and whose
policy.ttlSecondsAfterFinished says so (an admission policy holds the operator to that).
*/}}
{{- define "finetune-operator.rules.jobs" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
# Read, because a Job whose pods are refused says so nowhere else.
- apiGroups: [""]
  resources: [events]
  verbs: [get, list, create, patch]
{{- end -}}

{{/* What belongs to no namespace, and is only read. */}}
{{- define "finetune-operator.rules.cluster" -}}
- apiGroups: [finetune.dev]
  resources: [ratecards]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{- end -}}

{{/* In the operator's own namespace: who leads, and the records, which nobody deletes. */}}
{{- define "finetune-operator.rules.release" -}}
# RBAC can't name what is yet to be made.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [finetune-operator]
  verbs: [get, update]
- apiGroups: [finetune.dev]
  resources: [usagerecords]
  verbs: [get, list, watch, create, update]
{{- end -}}
