// SPDX-License-Identifier: Apache-2.0

// Package ipam proves address management: internal/ipam and internal/alloc
// themselves, called as programs call them, on datastores that this package
// controls. A deterministic simulator interleaves clients at every call of the
// datastore; a model explores every state that small programs of three clients
// can bring about; a race of many nodes runs on a real etcd that is killed again
// and again, and its history is checked for linearizability.
package ipam
