// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// OwnAnnotations is the prefix of annotations that programs of this project
// write; they survive an apply that does not name them.
const OwnAnnotations = "ocicat.net/"

// NewUID is a random UUID (RFC 9562, version 4).
func NewUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Create fills what is decided when an object comes into being.
func Create(o Object, uid string, now time.Time) {
	m := o.ObjectMeta()
	m.UID, m.CreationTimestamp, m.Generation = uid, now.UTC().Truncate(time.Second), 0
}

// Replace prepares o to be written over stored: it keeps the identity, the
// annotations of our programs and the status programs reported.
func Replace(o, stored Object) {
	m, old := o.ObjectMeta(), stored.ObjectMeta()
	m.UID, m.CreationTimestamp, m.Generation = old.UID, old.CreationTimestamp, old.Generation
	for key, value := range old.Annotations {
		if _, given := m.Annotations[key]; given || !strings.HasPrefix(key, OwnAnnotations) {
			continue
		}
		if m.Annotations = maps.Clone(m.Annotations); m.Annotations == nil {
			m.Annotations = map[string]string{}
		}
		m.Annotations[key] = value
	}
	node, isNode := o.(*v3.Node)
	before, wasNode := stored.(*v3.Node)
	if isNode && wasNode && node.Status == nil {
		node.Status = before.Status
	}
}

// Equal says whether two stored values mean the same: the order of fields and
// white space do not count.
func Equal(a, b []byte) bool {
	return bytes.Equal(a, b) || reflect.DeepEqual(generic(a), generic(b))
}

func generic(value []byte) any {
	var v any
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return string(value)
	}
	return v
}

// Errors joins the findings that refuse an object, each as an Invalid or
// Unsupported error with its hint; nil if there are none. at makes the
// beginning of the line, such as file and line, of the finding's path.
func Errors(findings []meta.Finding, at func(meta.Finding) string) error {
	var errs []error
	for _, f := range findings {
		kind := fault.Invalid
		switch f.Level {
		case meta.Notice:
			continue
		case meta.Unsupported:
			kind = fault.Unsupported
		}
		err := fault.New(kind, "%s%s", at(f), f.Error())
		if f.Hint != "" {
			err = fault.Hint(err, "%s", f.Hint)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
