// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// login adds the user's token to every request. A token is asked for with the
// first request and whenever etcd knows the old one no more: after its
// restart, after minutes of silence, after users or roles were changed.
type login struct {
	credentials Credentials

	mu    sync.Mutex
	token string
}

// unary adds the token to a request. One refused for its token was surely not
// carried out, and is sent once more with a new one.
func (l *login) unary(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	if method == pb.Auth_Authenticate_FullMethodName {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	token, err := l.tokenFor(ctx, conn, "")
	if err != nil {
		return err
	}
	err = invoke(withToken(ctx, token), method, req, reply, conn, opts...)
	if !stale(err) {
		return err
	}
	if token, err = l.tokenFor(ctx, conn, token); err != nil {
		return err
	}
	return invoke(withToken(ctx, token), method, req, reply, conn, opts...)
}

// stream adds the token to a stream. A refused watch is opened again by its
// caller, and is preceded by a list, which renews the token.
func (l *login) stream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	token, err := l.tokenFor(ctx, conn, "")
	if err != nil {
		return nil, err
	}
	return open(withToken(ctx, token), desc, conn, method, opts...)
}

// tokenFor returns a token other than refused, asking for one where there is
// none. Requests that come meanwhile wait for the same answer.
func (l *login) tokenFor(ctx context.Context, conn *grpc.ClientConn, refused string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != "" && l.token != refused {
		return l.token, nil
	}
	l.token = ""
	password, err := l.credentials.password()
	if err != nil {
		return "", status.Error(codes.Unauthenticated, err.Error())
	}
	ctx, _ = withSent(ctx) // this is not the request whose fate the caller notes
	request := &pb.AuthenticateRequest{Name: l.credentials.Username, Password: password}
	reply := new(pb.AuthenticateResponse)
	err = conn.Invoke(ctx, pb.Auth_Authenticate_FullMethodName, request, reply)
	switch {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled):
		return "", nil // etcd wants no user
	case status.Code(err) == codes.InvalidArgument:
		return "", status.Errorf(codes.Unauthenticated, "etcd refuses user %q: %s", l.credentials.Username, rpctypes.ErrorDesc(err))
	case err != nil:
		return "", err
	}
	l.token = reply.Token
	return l.token, nil
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// stale says whether etcd refused a request only for its token.
func stale(err error) bool {
	known := rpctypes.Error(err)
	return errors.Is(known, rpctypes.ErrInvalidAuthToken) || errors.Is(known, rpctypes.ErrAuthOldRevision)
}
