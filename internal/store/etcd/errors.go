// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcdpath"
)

// sent notes whether a request has left: only then can a write whose answer
// is missing have happened.
type sent struct{ atomic.Bool }

type sentKey struct{}

func withSent(ctx context.Context) (context.Context, *sent) {
	s := new(sent)
	return context.WithValue(ctx, sentKey{}, s), s
}

// sentHandler sets the note of a request when gRPC hands its payload to the
// connection.
type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentHandler) HandleConn(context.Context, stats.ConnStats)                       {}

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutPayload); !ok {
		return
	}
	if note, ok := ctx.Value(sentKey{}).(*sent); ok {
		note.Store(true)
	}
}

// readFault classifies the error of a read.
func readFault(ctx context.Context, what string, err error) error {
	kind, _ := classify(err)
	return hinted(fault.New(kind, "%s: %w", what, denied(err, cause(ctx, err))), err)
}

// writeFault classifies the error of a write: unless etcd refused it, or it
// never left, it is ambiguous.
func writeFault(ctx context.Context, what string, err error, s *sent) error {
	kind, refused := classify(err)
	if refused || !s.Load() {
		return hinted(fault.New(kind, "%s: %w", what, denied(err, cause(ctx, err))), err)
	}
	return fault.New(kind, "%s: %w", what, fmt.Errorf("%w: %w", store.ErrAmbiguous, cause(ctx, err)))
}

// classify says what kind of failure an error of the client is, and whether
// it means that etcd has surely not carried the request out.
func classify(err error) (kind fault.Kind, refused bool) {
	switch code(err) {
	case codes.InvalidArgument:
		if errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty) {
			return fault.Unavailable, true
		}
		return fault.Invalid, true
	case codes.ResourceExhausted:
		if full(err) {
			return fault.Exhausted, true
		}
		return fault.Unavailable, true // too many requests at once
	case codes.Unimplemented:
		return fault.Unsupported, true
	case codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.OutOfRange:
		return fault.Unavailable, true
	}
	return fault.Unavailable, false
}

// code is the gRPC code of an error, which the client hides in some of them.
func code(err error) codes.Code {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code()
	}
	return status.Code(err)
}

func full(err error) bool {
	return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace)
}

func hinted(err, raw error) error {
	switch code(raw) {
	case codes.ResourceExhausted:
		if full(raw) {
			return fault.Hint(err, "compact and defragment etcd, then clear the alarm with \"etcdctl alarm disarm\"")
		}
	case codes.PermissionDenied:
		return fault.Hint(err, "grant the user of ETCD_USERNAME read and write of the prefix %s", etcdpath.Root)
	case codes.Unauthenticated:
		return fault.Hint(err, "correct ETCD_USERNAME and ETCD_PASSWORD_FILE")
	case codes.InvalidArgument:
		if errors.Is(rpctypes.Error(raw), rpctypes.ErrUserEmpty) {
			return fault.Hint(err, "etcd wants a user: set ETCD_USERNAME and ETCD_PASSWORD_FILE")
		}
	}
	if hint := handshakeHint(raw.Error()); hint != "" {
		return fault.Hint(err, "%s", hint)
	}
	return err
}

// denied adds store.ErrDenied to the message of an error that waiting does not
// end: one side does not accept the other.
func denied(raw, message error) error {
	refused := code(raw) == codes.PermissionDenied || code(raw) == codes.Unauthenticated ||
		errors.Is(rpctypes.Error(raw), rpctypes.ErrUserEmpty) || handshakeHint(raw.Error()) != ""
	if !refused {
		return message
	}
	return fmt.Errorf("%w: %w", store.ErrDenied, message)
}

// cause is the end of the caller's context where that is the reason, else the
// message of a gRPC error without its layers of wrapping.
func cause(ctx context.Context, err error) error {
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	text := rpctypes.ErrorDesc(err)
	for _, wrapping := range []string{"Error while dialing: ", "authentication handshake failed: ", "error reading server preface: "} {
		if at := strings.LastIndex(text, wrapping); at >= 0 {
			text = strings.TrimRight(text[at+len(wrapping):], `"`)
		}
	}
	return errors.New(text)
}
