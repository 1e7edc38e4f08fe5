// SPDX-License-Identifier: Apache-2.0

package message

import (
	"testing"

	"github.com/ocicat-net/ocicat/internal/speaker"
)

func asns(numbers ...speaker.ASN) []speaker.ASN { return numbers }

func sequence(numbers ...speaker.ASN) Segment { return Segment{Type: ASSequence, ASNs: numbers} }

func set(numbers ...speaker.ASN) Segment { return Segment{Type: ASSet, ASNs: numbers} }

func TestASPathMeasures(t *testing.T) {
	for _, c := range []struct {
		path     ASPath
		text     string
		length   int
		neighbor speaker.ASN
	}{
		{nil, "", 0, 0},
		{ASPath{sequence(1, 2, 3)}, "1 2 3", 3, 1},
		{ASPath{set(4, 5)}, "{4 5}", 1, 0},
		{ASPath{sequence(1, 70000), set(4, 5), sequence(6)}, "1 70000 {4 5} 6", 4, 1},
	} {
		if got := c.path.String(); got != c.text {
			t.Errorf("%v: text %q, want %q", c.path, got, c.text)
		}
		if got := c.path.Length(); got != c.length {
			t.Errorf("%v: length %d, want %d", c.path, got, c.length)
		}
		if got := c.path.Neighbor(); got != c.neighbor {
			t.Errorf("%v: neighbour %d, want %d", c.path, got, c.neighbor)
		}
		for _, as := range c.path.Flat() {
			if !c.path.Contains(as) || c.path.Contains(as+1000) {
				t.Errorf("%v: wrong about %d", c.path, as)
			}
		}
	}
}

func TestPrependLeavesThePathAlone(t *testing.T) {
	full := make([]speaker.ASN, maxSegment)
	for i := range full {
		full[i] = 9
	}
	for _, c := range []struct{ path, want ASPath }{
		{nil, ASPath{sequence(7)}},
		{ASPath{sequence(1)}, ASPath{sequence(7, 1)}},
		{ASPath{set(1)}, ASPath{sequence(7), set(1)}},
		{ASPath{sequence(full...)}, ASPath{sequence(7), sequence(full...)}},
	} {
		before := c.path.String()
		if got := c.path.Prepend(7); !got.Equal(c.want) {
			t.Errorf("%v before %v: %v", 7, c.path, got)
		}
		if c.path.String() != before {
			t.Errorf("Prepend changed %s to %v", before, c.path)
		}
	}
}

// The cases of RFC 6793 section 4.2.3: AS_PATH of a peer that knows two-byte
// numbers only, 23456 standing for the others, and what AS4_PATH knows.
func TestMergeOfAS4Path(t *testing.T) {
	for _, c := range []struct {
		name           string
		old, new, want ASPath
	}{
		{"none", ASPath{sequence(1, 2)}, nil, ASPath{sequence(1, 2)}},
		{"same length", ASPath{sequence(1, 23456)}, ASPath{sequence(1, 70000)}, ASPath{sequence(1, 70000)}},
		{"shorter", ASPath{sequence(5, 6, 23456)}, ASPath{sequence(70000)}, ASPath{sequence(5, 6), sequence(70000)}},
		{"longer is ignored", ASPath{sequence(1)}, ASPath{sequence(1, 70000)}, ASPath{sequence(1)}},
		{"a set counts one", ASPath{sequence(5), set(1, 2), sequence(23456)}, ASPath{sequence(70000)}, ASPath{sequence(5), set(1, 2), sequence(70000)}},
		{"a set is replaced whole", ASPath{sequence(5), set(1, 23456)}, ASPath{set(1, 70000)}, ASPath{sequence(5), set(1, 70000)}},
	} {
		if got := c.old.merge(c.new); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
