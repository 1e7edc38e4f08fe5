// SPDX-License-Identifier: Apache-2.0

// Package fault is the one error type of Ocicat: seven kinds that map one to
// one to CNI error codes, HTTP status and exit codes, and a hint that tells
// the reader what to do. It must not know any of its callers.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is; callers branch on it and on
// nothing else.
type Kind uint8

// The kinds. Internal is the zero value: an error nobody classified is ours.
const (
	Internal    Kind = iota // a defect or an unexpected answer of the system
	Invalid                 // the caller's input is wrong; retrying it cannot help
	NotFound                // the named thing does not exist
	Conflict                // somebody else holds or changed the named thing
	Exhausted               // nothing is left to give: addresses, blocks, descriptors
	Unsupported             // this kernel or this version cannot do it
	Unavailable             // a part we need does not answer now; retrying can help
)

var kinds = [...]struct {
	name string
	cni  uint
	http int
	exit int
}{
	Internal:    {"internal", 999, 500, 1},
	Invalid:     {"invalid", 7, 400, 3},
	NotFound:    {"not found", 113, 404, 4},
	Conflict:    {"conflict", 110, 409, 5},
	Exhausted:   {"exhausted", 111, 507, 6},
	Unsupported: {"unsupported", 112, 501, 7},
	Unavailable: {"unavailable", 11, 503, 8},
}

// String is the kind's name, one or two lower-case words.
func (k Kind) String() string { return kinds[k].name }

// CNICode is the error code of the CNI specification for k: 7 and 11 are the
// specification's own, 100 and above are plugin-specific. Its 3 is not for
// NotFound: it would tell the runtime that no DEL is needed.
func (k Kind) CNICode() uint { return kinds[k].cni }

// HTTPStatus is the status the admin API answers for k.
func (k Kind) HTTPStatus() int { return kinds[k].http }

// ExitCode is the exit code of the command line for k; docs/cli.md lists them.
func (k Kind) ExitCode() int { return kinds[k].exit }

// ParseKind is the inverse of String; an unknown name is Internal.
func ParseKind(s string) Kind {
	for k := range kinds {
		if kinds[k].name == s {
			return Kind(k)
		}
	}
	return Internal
}

// Error is a failure with its kind. Text reads as part of a path ("set route
// 10.0.0.0/26"), lower case and without a full stop; Hint is a sentence that
// tells what to do and may be empty; Err is the cause and may be nil.
type Error struct {
	Kind Kind
	Text string
	Hint string
	Err  error
}

// Error is Text and the cause, joined by a colon.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	}
	if text := e.Err.Error(); text != "" {
		return e.Text + ": " + text
	}
	return e.Text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error of kind k. A %w in format makes that argument the cause.
func New(k Kind, format string, args ...any) error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Kind: k, Text: wrapped.Error(), Err: silent(errors.Unwrap(wrapped))}
}

// Hint gives err a hint, keeping its kind. A hint nearer to the cause wins
// over one given later. Hint of nil is nil.
func Hint(err error, format string, args ...any) error {
	if err == nil || HintOf(err) != "" {
		return err
	}
	return &Error{Kind: KindOf(err), Hint: fmt.Sprintf(format, args...), Err: err}
}

// KindOf is the kind of the outermost classified error in err's chain.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is classified as k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// HintOf is the first hint found in err's chain, or "".
func HintOf(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// cause hides the text of an error that the text around it already holds.
type cause struct{ error }

func (c cause) Error() string { return "" }
func (c cause) Unwrap() error { return c.error }

func silent(err error) error {
	if err == nil {
		return nil
	}
	return cause{err}
}
