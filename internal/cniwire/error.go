// SPDX-License-Identifier: Apache-2.0

package cniwire

import (
	"errors"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Codes of the CNI specification that no fault.Kind stands for.
const (
	CodeVersion     = 1  // incompatible CNI version
	CodeField       = 2  // unsupported field in the network configuration
	CodeEnvironment = 4  // invalid environment variable
	CodeIO          = 5  // input or output failed
	CodeDecode      = 6  // content cannot be decoded
	CodeConfig      = 7  // invalid network configuration
	CodeTryAgain    = 11 // transient: the runtime should try again
	CodeUnavailable = 50 // STATUS: an ADD would not succeed
	CodeLimited     = 51 // STATUS: and existing pods may have limited connectivity
)

// Error is a failure as it travels to the plugin and on to the runtime.
type Error struct {
	Kind string `json:"kind"`           // fault.Kind's name
	Code uint   `json:"code"`           // of the CNI specification
	Text string `json:"text"`           // one line
	Hint string `json:"hint,omitempty"` // what to do
}

// Coded is an error that carries a code of the CNI specification more exact
// than its kind's.
type Coded struct {
	Code uint
	Err  error
}

// Error is the wrapped error's text.
func (e *Coded) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Coded) Unwrap() error { return e.Err }

// WithCode gives err a code of the CNI specification. WithCode of nil is nil.
func WithCode(code uint, err error) error {
	if err == nil {
		return nil
	}
	return &Coded{Code: code, Err: err}
}

// CodeOf is the code of the CNI specification for err: the outermost
// WithCode's, else that of its kind.
func CodeOf(err error) uint {
	var coded *Coded
	if errors.As(err, &coded) {
		return coded.Code
	}
	return fault.KindOf(err).CNICode()
}

// NewError makes err ready to travel. Its text is cut so that it always fits
// a frame.
func NewError(err error) *Error {
	return &Error{
		Kind: fault.KindOf(err).String(),
		Code: CodeOf(err),
		Text: clip(err.Error()),
		Hint: clip(fault.HintOf(err)),
	}
}

// Err is the error as its receiver handles it: kind, code, text and hint are
// those of the sender's.
func (e *Error) Err() error {
	err := error(&fault.Error{Kind: fault.ParseKind(e.Kind), Text: e.Text, Hint: e.Hint})
	return WithCode(e.Code, err)
}

// maxText bounds text and hint: JSON may spell one byte as six.
const maxText = 4 << 10

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return s[:maxText] + "…"
}
