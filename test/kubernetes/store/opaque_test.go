// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// opaque lets a store of typed objects keep any bytes: each value travels in a
// field of a valid object of its kind. Nodes, which the store cannot create,
// become Elections.
type opaque struct {
	store.Store
	writes atomic.Int64 // makes every value another one, as the suite takes for granted
}

// room is what pack adds to a large value at most, in bytes.
const room = 1024

func stand(kind store.Kind) store.Kind {
	if kind == store.Node {
		return store.Election
	}
	return kind
}

func (o *opaque) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	e, err := o.Store.Get(ctx, store.Key{Kind: stand(key.Kind), Name: key.Name})
	if err != nil {
		return e, err
	}
	return unpack(key.Kind, e)
}

func (o *opaque) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	entries, rev, err := o.Store.List(ctx, stand(kind), prefix)
	for i := range entries {
		if entries[i], err = unpack(kind, entries[i]); err != nil {
			return nil, 0, err
		}
	}
	return entries, rev, err
}

func (o *opaque) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	stored := store.Key{Kind: stand(key.Kind), Name: key.Name}
	if err := store.CheckPut(key, value); err != nil {
		return 0, err
	}
	return o.Store.Put(ctx, stored, pack(stored, value, o.writes.Add(1)), prev)
}

func (o *opaque) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	return o.Store.Delete(ctx, store.Key{Kind: stand(key.Kind), Name: key.Name}, prev)
}

func (o *opaque) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	events, err := o.Store.Watch(ctx, stand(kind), prefix, since)
	if err != nil {
		return nil, err
	}
	out := make(chan store.Event)
	go func() {
		defer close(out)
		for ev := range events {
			ev.Entry.Key.Kind = kind
			if !ev.Deleted {
				if ev.Entry, err = unpack(kind, ev.Entry); err != nil {
					return
				}
			}
			select {
			case out <- ev:
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}

// text carries any bytes as a text.
func text(value []byte) string {
	if utf8.Valid(value) && !strings.ContainsFunc(string(value), func(r rune) bool { return r < ' ' }) {
		return "t" + string(value)
	}
	return "b" + base64.StdEncoding.EncodeToString(value)
}

func bytesOf(text string) ([]byte, error) {
	if strings.HasPrefix(text, "b") {
		return base64.StdEncoding.DecodeString(text[1:])
	}
	return []byte(strings.TrimPrefix(text, "t")), nil
}

// versions are the versions of the resources with metadata.
var versions = map[store.Kind]string{
	store.IPPool: "projectcalico.org/v3", store.IPReservation: "projectcalico.org/v3", store.BGPConfiguration: "projectcalico.org/v3",
	store.BGPPeer: "projectcalico.org/v3", store.OcicatConfiguration: "ocicat.net/v1", store.NodeStatus: "ocicat.net/v1",
}

type fields = map[string]any

// pack is a valid value of the key's kind that carries value.
func pack(key store.Key, value []byte, write int64) []byte {
	payload := text(value)
	var v fields
	switch key.Kind {
	case store.Block:
		p, _ := names.ParseBlock(key.Name)
		v = fields{
			"cidr": p.String(), "affinity": nil, "allocations": make([]*int, 1<<(p.Addr().BitLen()-p.Bits())), "unallocated": nil,
			"attributes": []fields{{"handle_id": payload}}, "sequenceNumber": write, "deleted": false,
		}
	case store.Affinity:
		v = fields{"state": "confirmed", "deleted": false, "payload": payload, "write": write}
	case store.Handle:
		v = fields{"block": fields{"10.0.0.0/26": write}, "deleted": false, "payload": payload}
	case store.IPAMConfig:
		v = fields{"strict_affinity": true, "maxBlocksPerHost": len(value)}
	case store.Heartbeat, store.Election:
		v = fields{"counter": write, "payload": payload}
	default:
		v = fields{
			"apiVersion": versions[key.Kind], "kind": string(key.Kind),
			"metadata": fields{"name": key.Name, "annotations": fields{"write": strconv.FormatInt(write, 10)}}, "spec": spec(key.Kind), "status": fields{},
		}
		v["metadata"].(fields)["annotations"].(fields)["payload"] = payload
	}
	data, _ := json.Marshal(v)
	return data
}

// spec is a valid spec of a resource.
func spec(kind store.Kind) fields {
	switch kind {
	case store.IPPool:
		return fields{"cidr": "10.0.0.0/16"}
	case store.BGPPeer:
		return fields{"peerIP": "192.0.2.1", "asNumber": 64512}
	}
	return fields{}
}

// unpack is the entry that was packed.
func unpack(kind store.Kind, e store.Entry) (store.Entry, error) {
	var v struct {
		Payload    string
		Metadata   struct{ Annotations map[string]string }
		Attributes []struct {
			HandleID string `json:"handle_id"`
		}
		MaxBlocksPerHost int
	}
	if err := json.Unmarshal(e.Value, &v); err != nil {
		return e, fault.New(fault.Internal, "unpack %s: %w", e.Key, err)
	}
	if carried := v.Metadata.Annotations["payload"]; carried != "" {
		v.Payload = carried
	}
	for _, a := range v.Attributes {
		v.Payload = a.HandleID
	}
	if kind == store.IPAMConfig && v.MaxBlocksPerHost == len(kind) {
		v.Payload = text([]byte(kind)) // its schema has no room for another text
	}
	value, err := bytesOf(v.Payload)
	e.Key.Kind, e.Value = kind, value
	return e, err
}
