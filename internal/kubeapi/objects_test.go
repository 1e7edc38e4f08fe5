// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
)

var pods = Source{Kind: "Pod", Path: "/api/v1/pods", Query: map[string][]string{"fieldSelector": {"spec.nodeName=n"}}}

func pod(name string, version int) string {
	return fmt.Sprintf(`{"metadata":{"namespace":"d","name":%q,"resourceVersion":"%d"}}`, name, version)
}

// TestListInPages: pages become one sorted list, and a list whose version is
// forgotten on its way begins anew.
func TestListInPages(t *testing.T) {
	forgotten := false
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case q.Get("fieldSelector") != "spec.nodeName=n" || q.Get("limit") == "":
			refuse(w, 400, "BadRequest", r.URL.String(), "")
		case q.Get("continue") == "":
			fmt.Fprintf(w, `{"metadata":{"resourceVersion":"9","continue":"c"},"items":[%s,{"metadata":{}}]}`, pod("b", 4))
		case !forgotten:
			forgotten = true
			refuse(w, 410, "Expired", "the provided continue parameter is too old", "")
		default:
			fmt.Fprintf(w, `{"metadata":{"resourceVersion":"9"},"items":[%s,%s]}`, pod("a", 3), pod("other", 5))
		}
	}))
	entries, rev, err := c.List(t.Context(), pods, "")
	if err != nil || rev != 9 || len(entries) != 3 || entries[0].Key != (store.Key{Kind: "Pod", Name: "d/a"}) || entries[1].Revision != 4 || !forgotten {
		t.Errorf("listed %v at %d, %v", entries, rev, err)
	}
	if entries, _, err = c.List(t.Context(), pods, "d/o"); err != nil || len(entries) != 1 {
		t.Errorf("with a prefix: %v, %v", entries, err)
	}
}

// script answers watches one after the other; each gets what it asks for.
type script struct {
	t     *testing.T
	mu    sync.Mutex
	turns []turn
}

// turn is one answer to a watch that must go on from a version.
type turn struct {
	from   string
	frames []string
	hold   time.Duration // the stream stays open for that time
	code   int           // an answer instead of a stream
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if len(s.turns) == 0 {
		s.mu.Unlock()
		<-r.Context().Done()
		return
	}
	now := s.turns[0]
	s.turns = s.turns[1:]
	s.mu.Unlock()
	q := r.URL.Query()
	if q.Get("resourceVersion") != now.from || q.Get("watch") == "" || q.Get("allowWatchBookmarks") != "true" || q.Get("timeoutSeconds") == "" {
		s.t.Errorf("asked for %s, want a watch from %s", r.URL, now.from)
	}
	if now.code != 0 {
		refuse(w, now.code, "", "no", "")
		return
	}
	for _, f := range now.frames {
		fmt.Fprintln(w, f)
	}
	w.(http.Flusher).Flush()
	select {
	case <-time.After(now.hold):
	case <-r.Context().Done():
	}
}

func frameOf(kind, object string) string { return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object) }

// TestWatch: events in order; a stream that ends by its time is taken up again
// after the last thing told, bookmarks too; an error ends the watch.
func TestWatch(t *testing.T) {
	s := &script{t: t, turns: []turn{
		{from: "5", hold: minStream, frames: []string{
			frameOf("ADDED", pod("a", 6)), frameOf("MODIFIED", pod("a", 7)), frameOf("BOOKMARK", `{"metadata":{"resourceVersion":"20"}}`),
		}},
		{from: "20", frames: []string{
			frameOf("DELETED", pod("a", 21)), frameOf("ERROR", `{"kind":"Status","code":410}`), frameOf("ADDED", pod("never", 22)),
		}},
	}}
	c := client(t, serve(t, s.ServeHTTP))
	events, err := c.Watch(t.Context(), pods, "", 5)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for ev := range events {
		got = append(got, fmt.Sprintf("%s %d %v %v", ev.Entry.Key.Name, ev.Entry.Revision, ev.Deleted, len(ev.Entry.Value) > 0))
	}
	if want := "[d/a 6 false true d/a 7 false true d/a 21 true false]"; fmt.Sprint(got) != want {
		t.Errorf("events %v, want %s", got, want)
	}
}

// TestWatchEnds: a forgotten version closes the channel, a refusal is an error,
// a stream that ends at once is not taken up again and again.
func TestWatchEnds(t *testing.T) {
	closes := func(answer turn) error {
		c := client(t, serve(t, (&script{t: t, turns: []turn{answer}}).ServeHTTP))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		events, err := c.Watch(ctx, pods, "", 5)
		if err != nil {
			return err
		}
		for range events {
		}
		if ctx.Err() != nil {
			t.Errorf("%+v: the watch goes on", answer)
		}
		return nil
	}
	for _, turn := range []turn{
		{from: "5", code: 410}, {from: "5"}, {from: "5", frames: []string{"nonsense"}}, {from: "5", frames: []string{frameOf("ADDED", `{"metadata":{}}`)}},
	} {
		if err := closes(turn); err != nil {
			t.Errorf("%+v: %v, want the channel closed", turn, err)
		}
	}
	if err := closes(turn{from: "5", code: 403}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("refused: %v", err)
	}
}

// TestMarkedInWatch: what Decode says does not exist is a deletion.
func TestMarkedInWatch(t *testing.T) {
	s := &script{t: t, turns: []turn{{from: "5", hold: time.Minute, frames: []string{frameOf("MODIFIED", pod("a", 6))}}}}
	source := pods
	source.Decode = func(object []byte) (store.Entry, error) {
		e, err := Plain("Pod", object)
		if err != nil {
			return e, err
		}
		return e, fault.New(fault.NotFound, "marked")
	}
	events, err := client(t, serve(t, s.ServeHTTP)).Watch(t.Context(), source, "", 5)
	if err != nil {
		t.Fatal(err)
	}
	if ev := <-events; !ev.Deleted || ev.Entry.Revision != 6 || ev.Entry.Value != nil {
		t.Errorf("got %+v, want a deletion", ev)
	}
}

func TestFollow(t *testing.T) {
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprintf(w, `{"metadata":{"resourceVersion":"5"},"items":[%s]}`, pod("a", 3))
			return
		}
		fmt.Fprintln(w, frameOf("ADDED", pod("b", 6)))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	updates := make(chan store.Update)
	go c.Follow(ctx, pods, func(u store.Update) {
		select {
		case updates <- u:
		case <-ctx.Done():
		}
	})
	if u := <-updates; !u.Full || len(u.Entries) != 1 || u.Entries[0].Key.Name != "d/a" {
		t.Errorf("first %+v, want the whole set", u)
	}
	if u := <-updates; u.Full || len(u.Entries) != 1 || u.Entries[0].Key.Name != "d/b" {
		t.Errorf("then %+v, want a change", u)
	}
}

func TestPlain(t *testing.T) {
	e, err := Plain("Node", []byte(`{"metadata":{"name":"n","resourceVersion":"7"}}`))
	if err != nil || e.Key.Name != "n" || e.Revision != 7 {
		t.Errorf("%+v, %v", e, err)
	}
	for _, object := range []string{`x`, `{}`, `{"metadata":{"name":"n","resourceVersion":"-1"}}`} {
		if e, err := Plain("Node", []byte(object)); err == nil {
			t.Errorf("%s: read as %+v", object, e)
		}
	}
}
