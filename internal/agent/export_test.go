// SPDX-License-Identifier: Apache-2.0

package agent

// Telling reports whether a kernel event would start a pass.
var Telling = (*Agent).telling

// ReplaceFilter puts another edge in the place of nftables, before Run.
func (a *Agent) ReplaceFilter(other func(nftables) nftables) { a.filter.nft = other(a.filter.nft) }

// Nftables is the edge that holds the packet filter.
type Nftables = nftables

// TouchCopy has the local copy of the datastore written again.
func (a *Agent) TouchCopy() { a.resources.wantCopy() }
