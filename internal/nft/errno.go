// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// kindOf says what sort of failure the kernel's error number is. What we ask
// is always the same, so a kernel that does not understand it lacks a part:
// all of netfilter's netlink (EPROTONOSUPPORT), nf_tables (EINVAL for a read,
// EOPNOTSUPP for a transaction), the family inet (EAFNOSUPPORT), or an
// expression, which is ENOENT.
func kindOf(errno syscall.Errno) fault.Kind {
	switch errno {
	case unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT, unix.ENOSYS:
		return fault.Unsupported
	case unix.EINTR, unix.EAGAIN, unix.EBUSY:
		return fault.Unavailable
	case unix.ENOMEM, unix.ENOBUFS, unix.EMFILE, unix.ENFILE:
		return fault.Exhausted
	}
	return fault.Internal
}

// wrap classifies the error of a conversation with the kernel; nil stays nil.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	err = fault.New(kindOf(errno), "%s: %w", what, err)
	switch {
	case errno == unix.EPERM || errno == unix.EACCES:
		return fault.Hint(err, "The agent needs CAP_NET_ADMIN: run it as root.")
	case fault.Is(err, fault.Unsupported):
		return fault.Hint(err, "The kernel needs nf_tables with family inet, nft_fib_inet, nft_chain_nat and nft_masq: CONFIG_NF_TABLES_INET, CONFIG_NFT_FIB_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, and 5.2 or later.")
	}
	return err
}
