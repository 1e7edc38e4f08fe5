// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

var (
	errClosed  = errors.New("the store is closed")
	errTimeout = errors.New("no answer in time")
	// errExpired is in the chain of an error when the server no longer knows
	// the version a list or watch goes on from.
	errExpired = errors.New("the version is forgotten")
	// errNoResource is in the chain of an error when the server does not know
	// the kind of object it was asked for.
	errNoResource = errors.New("the API server has no such resource")
	// errForbidden is in the chain of an error when the server knows who we are,
	// and does not let us.
	errForbidden = fmt.Errorf("%w: forbidden", store.ErrDenied)
)

// IsForbidden says whether err is the server's answer to somebody who lacks a
// right.
func IsForbidden(err error) bool { return errors.Is(err, errForbidden) }

// IsNoResource says whether err is the server's answer to a resource it does not
// have, or a version it does not serve.
func IsNoResource(err error) bool { return errors.Is(err, errNoResource) }

// reads are the methods that change nothing.
func (q Request) reads() bool { return q.Method == http.MethodGet }

// transportFault classifies an error without an answer. A write that may have
// reached the server is ambiguous.
func transportFault(ctx context.Context, q Request, err error, sent bool) error {
	raw := err
	if ended := context.Cause(ctx); ended != nil {
		err = ended
	}
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err // the rest of its text is the whole address
	}
	if sent && !q.reads() {
		err = fmt.Errorf("%w: %w", store.ErrAmbiguous, err)
	}
	hint := handshakeHint(raw.Error())
	if hint != "" {
		err = fmt.Errorf("%w: %w", store.ErrDenied, err)
	}
	err = fault.New(fault.Unavailable, "%s: %w", q.What, err)
	if hint != "" {
		return fault.Hint(err, "%s", hint)
	}
	return err
}

// handshakeHints are the remedies of failed handshakes by what their error
// says.
var handshakeHints = []struct{ words, hint string }{
	{"signed by unknown authority", "the API server's certificate comes from another authority: correct certificate-authority in KUBECONFIG, or the service account's ca.crt"},
	{"certificate is valid for", "use a name or address of the API server that its certificate holds"},
	{"doesn't contain any IP SANs", "use a name of the API server that its certificate holds"},
	{"certificate has expired or is not yet valid", "renew the API server's certificate, and compare the clocks of both machines"},
	{"remote error: tls", "the API server refuses our certificate: renew the one KUBECONFIG names"},
	{"server gave HTTP response to HTTPS client", "the API server speaks without TLS there: correct its address"},
	{"first record does not look like a TLS handshake", "the API server speaks without TLS there: correct its address"},
}

func handshakeHint(text string) string {
	for _, h := range handshakeHints {
		if strings.Contains(text, h.words) {
			return h.hint
		}
	}
	return ""
}

// status is what the API server says of a failed request.
type status struct {
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Details struct {
		Name   string `json:"name"`
		Kind   string `json:"kind"`
		Causes []struct {
			Reason string `json:"reason"`
		} `json:"causes"`
	} `json:"details"`
}

// statusFault classifies an answer that is not a success.
func statusFault(q Request, answer *http.Response, body []byte) error {
	var s status
	if json.Unmarshal(body, &s) != nil || s.Message == "" {
		s.Message = strings.TrimSpace(string(body[:min(len(body), 500)]))
	}
	if s.Message == "" {
		s.Message = answer.Status
	}
	message := errors.New(s.Message)
	plain := func(kind fault.Kind, err error) error { return fault.New(kind, "%s: %w", q.What, err) }
	switch answer.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return plain(fault.Invalid, message)
	case http.StatusUnauthorized:
		err := plain(fault.Unavailable, fmt.Errorf("%w: %w", store.ErrDenied, message))
		return fault.Hint(err, "the API server does not know who we are: renew the service account's token, or the credentials in KUBECONFIG")
	case http.StatusForbidden:
		err := plain(fault.Unavailable, fmt.Errorf("%w: %w", errForbidden, message))
		return fault.Hint(err, "apply the roles of deploy/ocicat.yaml, or give this account the right the message names")
	case http.StatusNotFound:
		return notFound(q, s, message)
	case http.StatusConflict:
		return plain(fault.Conflict, message)
	case http.StatusGone:
		return plain(fault.Unavailable, fmt.Errorf("%w: %w", errExpired, message))
	case http.StatusTooManyRequests:
		err := plain(fault.Unavailable, message)
		return fault.Hint(err, "the API server has too much to do; it wants us to come back after %v", retryAfter(answer))
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return plain(fault.Unsupported, message)
	}
	return serverFault(q, s, message)
}

// notFound tells a missing object from a missing kind.
func notFound(q Request, s status, message error) error {
	if s.Details.Name != "" {
		return fault.New(fault.NotFound, "%s: not found", q.What)
	}
	err := fault.New(fault.Unavailable, "%s: %w", q.What, fmt.Errorf("%w: %w", errNoResource, message))
	return fault.Hint(err, "apply the definitions: kubectl apply -f deploy/ocicat.yaml, or deploy/charts/ocicat/files/crds")
}

// serverFault classifies a failure inside the server: whether a write happened
// is unknown, but where an admission webhook failed before it.
func serverFault(q Request, s status, message error) error {
	if strings.Contains(s.Message, "failed calling webhook") {
		err := fault.New(fault.Unavailable, "%s: %w", q.What, message)
		return fault.Hint(err, "repair the admission webhook the message names, or have it leave out projectcalico.org and ocicat.net")
	}
	if !q.reads() {
		message = fmt.Errorf("%w: %w", store.ErrAmbiguous, message)
	}
	return fault.New(fault.Unavailable, "%s: %w", q.What, message)
}
