// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/peer"

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

// signs are the signs of life of etcd's members. Whatever comes over one watch
// is one for all that the same member serves, so that it is asked over one of
// them and not over each.
type signs struct {
	mu    sync.Mutex
	heard map[string]time.Time // by the member's address
	asked map[string]time.Time
}

func newSigns() *signs { return &signs{heard: map[string]time.Time{}, asked: map[string]time.Time{}} }

func (s *signs) note(member string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard[member] = time.Now()
}

// since is when a member was last heard, at least start.
func (s *signs) since(member string, start time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if heard := s.heard[member]; heard.After(start) {
		return heard
	}
	return start
}

// turn reports whether the caller should ask a member: nobody did just now.
func (s *signs) turn(member string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.asked[member]) < askAgain/2 {
		return false
	}
	s.asked[member] = time.Now()
	return true
}

// pulse receives from a watch's stream and ends the watch whose etcd gives no
// sign of life. It asks by a progress request, which etcd answers on the
// stream while all is well.
type pulse struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc // ends the stream
	signs  *signs
	member string
	timer  *time.Timer

	mu        sync.Mutex
	listening bool      // recv waits; a receiver that is busy is not etcd's silence
	since     time.Time // when it began to
}

// newPulse is the pulse of a stream over which something came already.
func newPulse(stream pb.Watch_WatchClient, cancel context.CancelFunc, s *signs) *pulse {
	p := &pulse{stream: stream, cancel: cancel, signs: s}
	if member, ok := peer.FromContext(stream.Context()); ok {
		p.member = member.Addr.String()
	}
	p.timer = time.AfterFunc(time.Hour, p.ask)
	p.timer.Stop()
	return p
}

// recv waits for the next answer and says for how long etcd was silent.
func (p *pulse) recv() (*pb.WatchResponse, time.Duration, error) {
	start := time.Now()
	p.mu.Lock()
	p.listening, p.since = true, start
	p.timer.Reset(askAfter)
	p.mu.Unlock()
	resp, err := p.stream.Recv()
	silence := time.Since(p.signs.since(p.member, start))
	if err == nil {
		p.signs.note(p.member)
	}
	p.mu.Lock()
	p.listening = false
	p.timer.Stop()
	p.mu.Unlock()
	return resp, silence, err
}

// ask asks for a sign of life, or ends the watch.
func (p *pulse) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	silence := time.Since(p.signs.since(p.member, p.since))
	switch {
	case !p.listening: // it answered meanwhile
	case silence < askAfter:
		p.timer.Reset(askAfter - silence)
	case silence >= giveUp:
		p.cancel()
	default:
		if p.signs.turn(p.member) {
			request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
			_ = p.stream.Send(request) // recv gets the error
		}
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
