// SPDX-License-Identifier: Apache-2.0

package agent

import "sync"

// locks are mutexes by name, kept while somebody holds or awaits them. The
// zero value is ready.
type locks[K comparable] struct {
	mu sync.Mutex
	of map[K]*lock
}

type lock struct {
	sync.Mutex
	users int // who hold or await it
}

// lock waits for key and returns what frees it.
func (l *locks[K]) lock(key K) (unlock func()) {
	l.mu.Lock()
	if l.of == nil {
		l.of = map[K]*lock{}
	}
	m := l.of[key]
	if m == nil {
		m = &lock{}
		l.of[key] = m
	}
	m.users++
	l.mu.Unlock()
	m.Lock()
	return func() {
		m.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(l.of, key)
		}
	}
}
