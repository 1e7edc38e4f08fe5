// SPDX-License-Identifier: Apache-2.0

package ipam

// difference is one place where the Client deliberately does otherwise than
// the recording: the result, the error or one stored object of a step.
type difference struct {
	file   string
	step   int
	what   string // result, error, operation, or the object's short key
	reason reason
}

// reason is why the Client does otherwise; docs/compatibility.md prints it.
type reason string

const (
	countGiven    reason = "A handle counts the addresses a block gave, not those that were asked for: Calico counts six for a block of four, and a handle without addresses stays behind."
	forgetHandle  reason = "Releasing by handle forgets the handle, also where its counts are too high: what counted too much was left by a crash or by the fault above."
	fence         reason = "Releasing by handle writes every block the handle names, also one that holds nothing for it: an assignment still under way then fails instead of landing without a handle."
	borrowAtLimit reason = "A node at its limit of blocks borrows, where affinity is not strict: Calico answers with an error although addresses are free."
	staleClaim    reason = "Giving up a claim to a block that belongs to nobody leaves the block alone: Calico writes it once more."
	orphansCount  reason = "Blocks outside all pools are counted: Calico shows them with a capacity and use of 0."
	restSequence  reason = "An address that rests has the sequence number of its release, also when it was released by its handle: Calico keeps that of its assignment then."
	windowsNodes  reason = "Linux nodes alone: blocks of which a Windows node keeps addresses for itself are read, kept and given up as Calico does, and never made."
	loadBalancers reason = "No addresses for LoadBalancer services: their blocks and claims are left to whoever gives them."
	upgradeHost   reason = "UpgradeHost converts objects of Calico 2: there is no such operation."
)

var differences = []difference{
	{"b-fill-borrow", 15, "handle/h-h", countGiven},
	{"b-max-blocks", 7, "handle/m-d", countGiven},
	{"b-multi-block", 4, "handle/x-1", countGiven},
	{"b-multi-block", 8, "handle/x-1", forgetHandle},
	{"b-multi-block", 10, "handle/x-4", countGiven},
	{"b-no-auto-blocks", 8, "handle/n-c", countGiven},
	{"b-strict", 8, "handle/s-a", countGiven},
	{"b-strict", 10, "handle/s-c", countGiven},
	{"c-handle-overcount", 4, "handle/big", countGiven},
	{"c-handle-overcount", 6, "handle/big", forgetHandle},
	{"c-handle-overcount", 8, "handle/big2", countGiven},
	{"c-handles", 20, "block/192.168.99.152-29", fence},
	{"c-handles", 20, "handle/ghost", forgetHandle},
	{"d-affinities", 17, "handle/af-2", countGiven},
	{"d-affinities", 20, "handle/af-2", forgetHandle},
	{"d-node-gone", 4, "handle/ng-1", countGiven},
	{"d-node-gone", 9, "handle/ng-4", countGiven},
	{"d-node-gone", 10, "handle/ng-1", forgetHandle},
	{"d-node-gone", 14, "operation", upgradeHost},
	{"d-pending", 9, "handle/pe-2", countGiven},
	{"d-pending", 25, "block/10.77.3.12-30", staleClaim},
	{"d-reclaim", 12, "handle/re-3", countGiven},
	{"d-reclaim", 17, "handle/re-3", forgetHandle},
	{"e-pools", 17, "handle/o-9", countGiven},
	{"e-pools", 33, "result", orphansCount},
	{"e-reservations", 7, "handle/r-2", countGiven},
	{"f-static", 18, "handle/i-11", countGiven},
	{"g-cooldown", 20, "block/192.168.99.0-30", restSequence},
	{"g-cooldown", 22, "block/192.168.99.0-30", restSequence},
	{"h-loadbalancer", 3, "operation", loadBalancers},
	{"h-loadbalancer", 5, "operation", loadBalancers},
	{"h-windows", 5, "operation", windowsNodes},
	{"h-windows", 6, "operation", windowsNodes},
	{"h-windows", 7, "operation", windowsNodes},
	{"h-windows", 8, "operation", windowsNodes},
	{"h-windows", 9, "operation", windowsNodes},
	{"h-windows", 11, "handle/w-2", forgetHandle},
	{"h-windows", 14, "operation", windowsNodes},
	{"walk-01", 16, "handle/h10", countGiven},
	{"walk-01", 20, "handle/h6", countGiven},
	{"walk-01", 26, "handle/h6", forgetHandle},
	{"walk-02", 33, "handle/h11", countGiven},
	{"walk-02", 35, "handle/h10", countGiven},
	{"walk-03", 9, "handle/h3", countGiven},
	{"walk-03", 10, "block/10.217.234.4-30", borrowAtLimit},
	{"walk-03", 10, "error", borrowAtLimit},
	{"walk-03", 10, "handle/h10", borrowAtLimit},
	{"walk-03", 10, "result", borrowAtLimit},
	{"walk-03", 20, "handle/h3", forgetHandle},
	{"walk-03", 22, "block/10.217.234.0-30", fence},
	{"walk-03", 22, "handle/h3", forgetHandle},
	{"walk-03", 31, "block/10.217.234.0-30", fence},
	{"walk-03", 31, "handle/h3", forgetHandle},
	{"walk-03", 32, "handle/h8", countGiven},
	{"walk-06", 12, "handle/h6", countGiven},
	{"walk-06", 21, "block/10.156.150.8-30", borrowAtLimit},
	{"walk-06", 21, "error", borrowAtLimit},
	{"walk-06", 21, "handle/h10", borrowAtLimit},
	{"walk-06", 21, "result", borrowAtLimit},
	{"walk-07", 14, "handle/h3", countGiven},
	{"walk-07", 24, "handle/h2", countGiven},
	{"walk-07", 32, "handle/h11", countGiven},
	{"walk-08", 12, "handle/h11", countGiven},
	{"walk-08", 19, "handle/h5", countGiven},
	{"walk-09", 25, "handle/h5", countGiven},
	{"walk-09", 29, "handle/h10", countGiven},
	{"walk-09", 33, "handle/h6", countGiven},
	{"walk-11", 20, "handle/h9", countGiven},
	{"walk-11", 25, "handle/h2", countGiven},
	{"walk-11", 28, "block/10.32.71.8-30", borrowAtLimit},
	{"walk-11", 28, "error", borrowAtLimit},
	{"walk-11", 28, "handle/h3", borrowAtLimit},
	{"walk-11", 28, "result", borrowAtLimit},
	{"walk-11", 32, "block/10.32.71.8-30", borrowAtLimit},
	{"walk-11", 32, "error", borrowAtLimit},
	{"walk-11", 32, "handle/h4", borrowAtLimit},
	{"walk-11", 32, "result", borrowAtLimit},
	{"walk-11", 35, "handle/h9", countGiven},
	{"walk-12", 26, "handle/h5", countGiven},
	{"walk-12", 34, "handle/h8", countGiven},
	{"walk-14", 23, "handle/h11", countGiven},
	{"walk-14", 25, "handle/h0", countGiven},
	{"walk-14", 27, "handle/h1", countGiven},
	{"walk-15", 11, "handle/h9", countGiven},
	{"walk-15", 12, "handle/h3", countGiven},
	{"walk-15", 34, "block/10.10.17.0-30", borrowAtLimit},
	{"walk-15", 34, "block/10.10.17.12-30", borrowAtLimit},
	{"walk-15", 34, "error", borrowAtLimit},
	{"walk-15", 34, "handle/h6", borrowAtLimit},
	{"walk-15", 34, "result", borrowAtLimit},
	{"walk-16", 18, "handle/h11", countGiven},
}
