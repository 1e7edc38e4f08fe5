// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/ocicat-net/ocicat/internal/store"
)

// Times of a watch over which nothing comes. A frozen etcd is noticed after
// giveUp, which leaves one that answers 5 s late in peace.
const (
	askAfter = 4 * time.Second         // of silence, until etcd is asked for a sign of life
	askAgain = 2 * time.Second         // until it is asked once more
	giveUp   = 9200 * time.Millisecond // of silence, until the watch ends
	mute     = 4 * time.Second         // of silence before a watch broke: its end is reported at once
)

// pulse receives from a watch's stream and ends the watch whose etcd gives no
// sign of life. It asks by a progress request, which etcd answers on the
// stream while all is well.
type pulse struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc // ends the stream
	timer  *time.Timer

	mu        sync.Mutex
	listening bool      // recv waits; a receiver that is busy is not etcd's silence
	since     time.Time // when it began to
}

func newPulse(stream pb.Watch_WatchClient, cancel context.CancelFunc) *pulse {
	p := &pulse{stream: stream, cancel: cancel}
	p.timer = time.AfterFunc(time.Hour, p.ask)
	p.timer.Stop()
	return p
}

// recv waits for the next answer and says for how long.
func (p *pulse) recv() (*pb.WatchResponse, time.Duration, error) {
	start := time.Now()
	p.mu.Lock()
	p.listening, p.since = true, start
	p.timer.Reset(askAfter)
	p.mu.Unlock()
	resp, err := p.stream.Recv()
	p.mu.Lock()
	p.listening = false
	p.timer.Stop()
	p.mu.Unlock()
	return resp, time.Since(start), err
}

// ask asks for a sign of life, or ends the watch.
func (p *pulse) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	silence := time.Since(p.since)
	switch {
	case !p.listening || silence < askAfter: // it answered meanwhile
	case silence >= giveUp:
		p.cancel()
	default:
		request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		_ = p.stream.Send(request) // recv gets the error
		p.timer.Reset(min(askAgain, giveUp-silence))
	}
}

// silences are the watches that ended for silence, until the list that follows
// each has told it.
type silences struct {
	mu sync.Mutex
	of map[scope]silence
}

type scope struct {
	kind   store.Kind
	prefix string
}

type silence struct {
	length time.Duration
	ended  time.Time
}

func (s *silences) note(kind store.Kind, prefix string, length time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[scope]silence{}
	}
	s.of[scope{kind, prefix}] = silence{length: length, ended: time.Now()}
}

// take returns how long a watch that just ended was silent, once; 0 for none.
func (s *silences) take(kind store.Kind, prefix string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, noted := s.of[scope{kind, prefix}]
	delete(s.of, scope{kind, prefix})
	if !noted || time.Since(last.ended) > askAfter {
		return 0
	}
	return last.length
}
