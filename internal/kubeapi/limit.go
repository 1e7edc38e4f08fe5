// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// limiter bounds how many requests a second we make, with a store of them for
// bursts, and holds all of them back when the server asks for it.
type limiter struct {
	rate  float64 // requests a second
	burst float64

	mu    sync.Mutex
	left  float64
	at    time.Time // when left was right
	until time.Time // no request before that
}

func newLimiter(rate float64, burst int) *limiter {
	return &limiter{rate: rate, burst: float64(burst), left: float64(burst)}
}

// wait takes one request, and waits until it may be made or ctx ends.
func (l *limiter) wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return sleep(ctx, l.take(time.Now()))
}

// take takes one request at now and says how long to wait before it.
func (l *limiter) take(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = min(l.burst, l.left+now.Sub(l.at).Seconds()*l.rate)
	l.at = now
	l.left--
	pause := max(0, l.until.Sub(now))
	if l.left < 0 {
		pause = max(pause, time.Duration(-l.left/l.rate*float64(time.Second)))
	}
	return pause
}

// pause holds all requests back for d and up to a quarter more, so that not all
// who were told the same come back at once. False says that ctx ends earlier.
func (l *limiter) pause(ctx context.Context, d time.Duration) bool {
	until := time.Now().Add(d + rand.N(d/4))
	l.mu.Lock()
	if until.After(l.until) {
		l.until = until
	}
	l.mu.Unlock()
	end, bounded := ctx.Deadline()
	return !bounded || until.Before(end)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Bounds of what a server's Retry-After means to us.
const (
	minPause = 100 * time.Millisecond
	maxPause = 30 * time.Second
)

// retryAfter is how long the server wants to be left alone.
func retryAfter(answer *http.Response) time.Duration {
	seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err != nil {
		return time.Second
	}
	return min(max(time.Duration(seconds)*time.Second, minPause), maxPause)
}

// tokenAge is how long a token from a file is used before the file is read
// again: the kubelet replaces it long before it expires.
const tokenAge = 30 * time.Second

// tokenSource gives the token that says who we are: one, that in a file, or
// that of a program.
type tokenSource struct {
	file    string
	program *Program

	mu   sync.Mutex
	text string
	read time.Time
}

// get is the token to use at now; "" for none.
func (s *tokenSource) get(now time.Time) (string, error) {
	if s.program != nil {
		given, err := s.program.get(now)
		return given.token, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == "" || now.Sub(s.read) < tokenAge {
		return s.text, nil
	}
	data, err := os.ReadFile(s.file)
	text := strings.TrimSpace(string(data))
	if err != nil || text == "" {
		if s.text != "" {
			return s.text, nil // the old one may still be good
		}
		if err == nil {
			err = fault.New(fault.Unavailable, "it is empty")
		}
		return "", fault.Hint(fault.New(fault.Unavailable, "read token %s: %w", s.file, err), "mount the service account's token there")
	}
	s.text, s.read = text, now
	return s.text, nil
}

// refused says that the server does not accept token, and whether there is
// another one to try.
func (s *tokenSource) refused(token string) bool {
	if s.program != nil {
		s.program.forget(token)
		next, err := s.get(time.Now())
		return err == nil && next != token
	}
	if s.file == "" {
		return false
	}
	s.mu.Lock()
	s.read = time.Time{}
	s.mu.Unlock()
	next, err := s.get(time.Now())
	return err == nil && next != token
}
