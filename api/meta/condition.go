// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"slices"
	"time"
)

// The states of a condition.
const (
	ConditionTrue  = "True"
	ConditionFalse = "False"
)

// Condition is one thing that holds of an object or does not, as
// metav1.Condition of Kubernetes.
type Condition struct {
	// Type is what holds or does not, as Ready.
	Type string `json:"type"`
	// Status is True or False.
	Status string `json:"status"`
	// Reason is why, in a word: a code of docs/troubleshooting.md where
	// something is wrong.
	Reason string `json:"reason"`
	// Message is the same for people.
	Message string `json:"message"`
	// LastTransitionTime is when the status became what it is, in UTC and the
	// form of RFC 3339.
	LastTransitionTime string `json:"lastTransitionTime,omitempty"`
	// ObservedGeneration is the generation of the object it was judged by;
	// 0 where the store counts none.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// WithCondition puts a condition in the place of the one of its type and leaves
// those of others. A condition whose status stays keeps its time; else it is
// now. It says whether there is anything to write.
func WithCondition(old []Condition, wanted Condition, now time.Time) (conditions []Condition, is Condition, differs bool) {
	wanted.LastTransitionTime = now.UTC().Format(time.RFC3339)
	at := slices.IndexFunc(old, func(c Condition) bool { return c.Type == wanted.Type })
	if at < 0 {
		return append(slices.Clone(old), wanted), wanted, true
	}
	if old[at].Status == wanted.Status && old[at].LastTransitionTime != "" {
		wanted.LastTransitionTime = old[at].LastTransitionTime
	}
	conditions = slices.Clone(old)
	conditions[at] = wanted
	return conditions, wanted, old[at] != wanted
}
