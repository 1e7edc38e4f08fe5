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
	return hinted(fault.New(kind, "%s: %w", what, cause(ctx, err)), err)
}

// writeFault classifies the error of a write: unless etcd refused it, or it
// never left, it is ambiguous.
func writeFault(ctx context.Context, what string, err error, s *sent) error {
	kind, refused := classify(err)
	if refused || !s.Load() {
		return hinted(fault.New(kind, "%s: %w", what, cause(ctx, err)), err)
	}
	return fault.New(kind, "%s: %w", what, fmt.Errorf("%w: %w", store.ErrAmbiguous, cause(ctx, err)))
}

// classify says what kind of failure an error of the client is, and whether
// it means that etcd has surely not carried the request out.
func classify(err error) (kind fault.Kind, refused bool) {
	switch code(err) {
	case codes.InvalidArgument:
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
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Hint(err, "etcd wants credentials this program does not have")
	}
	return err
}

// cause is the end of the caller's context where that is the reason, else the
// message of a gRPC error without its layers of wrapping.
func cause(ctx context.Context, err error) error {
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	text := rpctypes.ErrorDesc(err)
	const dialing = "Error while dialing: "
	if at := strings.LastIndex(text, dialing); at >= 0 {
		text = strings.TrimRight(text[at+len(dialing):], `"`)
	}
	return errors.New(text)
}
