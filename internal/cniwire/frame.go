// SPDX-License-Identifier: Apache-2.0

package cniwire

import (
	"encoding/binary"
	"encoding/json"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// headerLen is the length of a frame's header in bytes.
const headerLen = 4

// Encode makes the frame of a request. It is meant to leave in one send, with
// the namespace's descriptor attached.
func (r Request) Encode() ([]byte, error) { return encode(r) }

// Encode makes the frame of an answer.
func (a Answer) Encode() ([]byte, error) { return encode(a) }

func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return nil, fault.New(fault.Invalid, "encode frame: %d bytes, at most %d are possible", len(body), MaxFrame)
	}
	frame := make([]byte, headerLen, headerLen+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	return append(frame, body...), nil
}

// Need says how many bytes the frame at the start of buf has in all, header
// included, or how many to read before that can be told. A length out of
// bounds is Invalid.
func Need(buf []byte) (int, error) {
	if len(buf) < headerLen {
		return headerLen, nil
	}
	n := binary.BigEndian.Uint32(buf)
	if n == 0 || n > MaxFrame {
		return 0, fault.New(fault.Invalid, "frame announces %d bytes, want 1 to %d", n, MaxFrame)
	}
	return headerLen + int(n), nil
}

// DecodeRequest reads the frame that frame holds whole and checks the request
// in it. Every error is Invalid or, for another version, Unsupported.
func DecodeRequest(frame []byte) (Request, error) {
	var r Request
	if err := decode(frame, &r); err != nil {
		return Request{}, err
	}
	return r, r.Validate()
}

// DecodeAnswer reads the frame that frame holds whole. An answer that is not
// one is Internal: the agent is ours.
func DecodeAnswer(frame []byte) (Answer, error) {
	var a Answer
	if err := decode(frame, &a); err != nil {
		return Answer{}, fault.New(fault.Internal, "answer of the agent: %v", err)
	}
	if a.V != Version {
		return Answer{}, fault.Hint(fault.New(fault.Unsupported, "the agent speaks protocol version %d, the plugin version %d", a.V, Version),
			"Install ocicat-cni and ocicatd of the same release on this node.")
	}
	return a, nil
}

func decode(frame []byte, v any) error {
	need, err := Need(frame)
	if err != nil {
		return err
	}
	if len(frame) != need || need == headerLen {
		return fault.New(fault.Invalid, "frame has %d bytes, want %d", len(frame), need)
	}
	if err := json.Unmarshal(frame[headerLen:], v); err != nil {
		return fault.New(fault.Invalid, "decode frame: %w", err)
	}
	return nil
}
