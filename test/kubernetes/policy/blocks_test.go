// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/http"

	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

// put replaces the spec of a block, as an agent's write does.
func (w world) put(o object) apiserver.Answer {
	name := o["metadata"].(object)["name"].(string)
	return w.patch(blocks+"/"+name, "application/json-patch+json", []object{{"op": "add", "path": "/spec", "value": o["spec"]}})
}

// blocks are what an agent may do to blocks: claim, fill and let go its own,
// and take and free addresses of its node in any.
func (w world) blocks() {
	const cidr, path = "10.0.4.0/30", blocks + "/10-0-4-0-30"
	w.allowed("claim", w.n1.Try(http.MethodPost, blocks, "", w.block(cidr, "n1")))
	w.allowed("take", w.put(w.block(cidr, "n1", "n1", "n1")))
	w.allowed("free", w.put(w.block(cidr, "n1", "", "n1")))
	w.allowed("rest", w.put(w.block(cidr, "n1", "", "resting")))
	w.allowed("thaw", w.put(w.block(cidr, "n1")))
	w.allowed("let go", w.put(w.block(cidr, "")))
	w.allowed("claim again", w.put(w.block(cidr, "n1")))
	w.allowed("mark", w.patch(path, merge, object{"spec": object{"deleted": true}}))
	w.allowed("delete", w.n1.Try(http.MethodDelete, path, "", nil))

	w.refused("claim for another", "blocks of its own only", w.n1.Try(http.MethodPost, blocks, "", w.block(cidr, "n2")))
	w.refused("claim with another's address", "in which others hold addresses", w.n1.Try(http.MethodPost, blocks, "", w.block(cidr, "n1", "n2")))

	w.admin.Must(http.MethodPost, blocks, "", w.block(cidr, "n1", "n1", "n2"))
	const itsNode = "addresses of its own node only"
	w.refused("free another's in the own block", itsNode, w.put(w.block(cidr, "n1", "n1", "")))
	w.refused("give the own block away", "blocks of its own only", w.put(w.block(cidr, "n2", "n1", "n2")))
	w.refused("delete with another's address", "in which others hold addresses", w.n1.Try(http.MethodDelete, path, "", nil))
	w.refused("another CIDR", "neither a block's CIDR", w.patch(path, merge, object{"spec": object{"cidr": "10.0.8.0/30"}}))

	w.foreignBlock()
}

// foreignBlock is what an agent may do to a block of another node.
func (w world) foreignBlock() {
	const cidr, path = "10.0.5.0/30", blocks + "/10-0-5-0-30"
	const itsNode, itsOwn = "addresses of its own node only", "blocks of its own only"
	w.admin.Must(http.MethodPost, blocks, "", w.block(cidr, "n2", "n2", "", "resting"))
	w.allowed("borrow", w.put(w.block(cidr, "n2", "n2", "n1", "resting")))
	w.allowed("give back", w.put(w.block(cidr, "n2", "n2", "", "resting")))
	w.allowed("thaw", w.put(w.block(cidr, "n2", "n2")))
	w.refused("free its owner's", itsNode, w.put(w.block(cidr, "n2")))
	w.refused("take its owner's", itsNode, w.put(w.block(cidr, "n2", "n1")))
	w.refused("move its owner's", itsNode, w.put(w.block(cidr, "n2", "", "n2")))
	w.refused("take in another's name", itsNode, w.put(w.block(cidr, "n2", "n2", "n2")))
	w.refused("take in nobody's name", itsNode, w.put(w.block(cidr, "n2", "n2", "nobody")))
	w.refused("claim", itsOwn, w.put(w.block(cidr, "n1", "n2")))
	w.refused("let go", itsOwn, w.put(w.block(cidr, "", "n2")))
	w.refused("mark", itsOwn, w.patch(path, merge, object{"spec": object{"deleted": true}}))
	w.refused("the owner's sequence number", "what it says of other nodes' addresses", w.patch(path, merge, object{"spec": object{"sequenceNumberForAllocation": object{"0": 8}}}))

	const empty = "10.0.6.0/30"
	w.admin.Must(http.MethodPost, blocks, "", w.block(empty, "n2"))
	w.refused("delete an empty one", itsOwn, w.n1.Try(http.MethodDelete, blocks+"/10-0-6-0-30", "", nil))
	w.admin.Must(http.MethodPatch, blocks+"/10-0-6-0-30", merge, object{"spec": object{"affinity": nil}})
	w.admin.Must(http.MethodPatch, blocks+"/10-0-5-0-30", merge, object{"spec": object{"deleted": true}})
	w.refused("finish a deletion while others hold addresses", "in which others hold addresses", w.n1.Try(http.MethodDelete, path, "", nil))
	const marked = "10.0.7.0/30"
	w.admin.Must(http.MethodPost, blocks, "", w.block(marked, "n2"))
	w.admin.Must(http.MethodPatch, blocks+"/10-0-7-0-30", merge, object{"spec": object{"deleted": true}})
	w.allowed("finish another's deletion", w.n1.Try(http.MethodDelete, blocks+"/10-0-7-0-30", "", nil))
	w.allowed("claim what belongs to nobody", w.put(w.block(empty, "n1")))
}
