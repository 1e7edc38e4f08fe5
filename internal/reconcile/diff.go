// SPDX-License-Identifier: Apache-2.0

// Package reconcile brings what is seen to what is wanted: the difference of
// two sets, and a loop that runs passes when something hints that they
// differ, retries those that failed and looks again at intervals. It knows no
// network.
package reconcile

// Diff returns what has to be set so that seen becomes want, and the keys
// that have to go. A value that is already right is in neither.
func Diff[K comparable, V any](want, seen map[K]V, same func(want, seen V) bool) (set []V, del []K) {
	for key, value := range want {
		if present, ok := seen[key]; !ok || !same(value, present) {
			set = append(set, value)
		}
	}
	for key := range seen {
		if _, ok := want[key]; !ok {
			del = append(del, key)
		}
	}
	return set, del
}
