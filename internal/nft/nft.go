// SPDX-License-Identifier: Apache-2.0

// Package nft is the edge to nftables: it makes the kernel hold one table of
// ours as it is wanted, written whole in one transaction, and tells when
// somebody changes it. It decides nothing and touches no other table.
package nft

import (
	"bytes"
	"os"
	"reflect"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/host"
)

// Handle reaches the nftables of one network namespace. Its methods may be
// called from any goroutine.
type Handle struct{ netns *os.File }

// Open returns a Handle of the calling thread's network namespace.
func Open() (*Handle, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, wrap("open network namespace", err)
	}
	return &Handle{netns: f}, nil
}

// OpenAt returns a Handle of the network namespace netns, of which it keeps
// its own file.
func OpenAt(netns *os.File) (*Handle, error) {
	fd, err := unix.FcntlInt(netns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, wrap("open network namespace", err)
	}
	return &Handle{netns: os.NewFile(uintptr(fd), netns.Name())}, nil
}

// Close gives up the namespace. What was written stays.
func (h *Handle) Close() error { return h.netns.Close() }

// Apply makes the kernel hold want and reports whether it had to write. A
// table that is right is not written again. Any other is replaced in one
// transaction: no packet passes between the old and the new. A kernel that
// lacks what the table needs is Unsupported; nothing is changed then.
func (h *Handle) Apply(want host.Table) (bool, error) {
	chains, err := compile(want)
	if err != nil {
		return false, err
	}
	sets, err := compileSets(want.Sets)
	if err != nil {
		return false, err
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(h.netns.Fd())), nftables.AsLasting())
	if err != nil {
		return false, wrap("reach nftables", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	right, err := holds(conn, want.Name, sets, chains)
	if err != nil || right {
		return false, wrap("read table inet "+want.Name, err)
	}
	err = replace(conn, want.Name, sets, chains)
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return false, wrap("write table inet "+want.Name, err)
	}
	return true, nil
}

// chain is a chain with its rules in the kernel's terms.
type chain struct {
	nftables.Chain
	rules []nftables.Rule
}

// replace queues the transaction. The table is added before it is deleted,
// because deleting one that is not there would fail.
func replace(conn *nftables.Conn, name string, sets []set, chains []chain) error {
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	for i, s := range sets {
		if err := addSet(conn, table, uint32(i+1), s); err != nil {
			return err
		}
	}
	for _, c := range chains {
		added := c.Chain
		added.Table = table
		conn.AddChain(&added)
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: &added, Exprs: r.Exprs, UserData: r.UserData})
		}
	}
	return nil
}

// holds reports whether the kernel has the table with these sets, these chains,
// these rules in this order, and no others.
func holds(conn *nftables.Conn, name string, sets []set, want []chain) (bool, error) {
	table, err := find(conn, name)
	if err != nil || table == nil || table.Flags != 0 { // a flag: dormant, or owned by somebody
		return false, err
	}
	if same, err := holdsSets(conn, table, sets); err != nil || !same {
		return false, err
	}
	listed, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	seen := map[string]*nftables.Chain{}
	for _, c := range listed {
		if c.Table.Name == name {
			seen[c.Name] = c
		}
	}
	if len(seen) != len(want) {
		return false, nil
	}
	for _, c := range want {
		if seen[c.Name] == nil || !sameChain(c.Chain, *seen[c.Name]) {
			return false, nil
		}
		rules, err := conn.GetRules(table, seen[c.Name])
		if err != nil {
			return false, err
		}
		if !sameRules(c.rules, rules) {
			return false, nil
		}
	}
	return true, nil
}

func find(conn *nftables.Conn, name string) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	for _, t := range tables {
		if t.Name == name {
			return t, err
		}
	}
	return nil, err
}

func sameChain(want, seen nftables.Chain) bool {
	want.Table, seen.Table = nil, nil
	return reflect.DeepEqual(want, seen)
}

// sameRules compares the conditions in the kernel's terms. An expression that
// the library does not know is not seen by it.
func sameRules(want []nftables.Rule, seen []*nftables.Rule) bool {
	if len(want) != len(seen) {
		return false
	}
	for i, r := range want {
		if !reflect.DeepEqual(r.Exprs, seen[i].Exprs) || !bytes.Equal(r.UserData, seen[i].UserData) {
			return false
		}
	}
	return true
}
