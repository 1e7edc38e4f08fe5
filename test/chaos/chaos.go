// SPDX-License-Identifier: Apache-2.0

// Package chaos keeps what the reliability tests measured. A test says which
// case of the catalogue it provokes and how; what it measured becomes a row of
// docs/reliability.md when the suite runs by "make chaos". The tests stand in
// the directories below this one, and wherever a package tests a case of the
// catalogue beside its code.
package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	// EnvDir names the directory records are written to; without it nothing is
	// written.
	EnvDir = "OCICAT_CHAOS_DIR"
	// EnvFull set to 1 asks for the full numbers instead of those that fit
	// into CI.
	EnvFull = "OCICAT_CHAOS_FULL"
	// EnvSeed gives the seed of random tests, for repeating a run.
	EnvSeed = "OCICAT_CHAOS_SEED"
)

// Full says whether the full numbers are asked for.
func Full() bool { return os.Getenv(EnvFull) == "1" }

// Scale is the number of rounds, operations or seconds a test goes for: the
// first in CI, the second by "make chaos".
func Scale(bounded, full int) int {
	if Full() {
		return full
	}
	return bounded
}

// Seed is what random tests begin with: of the environment, or a new one. A
// test shows it in what it measured.
func Seed(t testing.TB) uint64 {
	t.Helper()
	text := os.Getenv(EnvSeed)
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		t.Fatalf("%s: %q: expected a number", EnvSeed, text)
	}
	return seed
}

// Record is one row of the table: a case, provoked in one way.
type Record struct {
	// ID is the case's, of the catalogue.
	ID string `json:"id"`
	// Provoked says how, in a few words: "kill -9, peer BIRD 2".
	Provoked string `json:"provoked"`
	// Aim is what must be measured, "0 lost, 0 route events".
	Aim string `json:"aim"`
	// Measured are the measurements, in their order.
	Measured []string `json:"measured"`
	// Test and Package say where it is.
	Test    string `json:"test"`
	Package string `json:"package"`
	// Failed says that the test did.
	Failed bool `json:"failed"`
	// Full says with which numbers it ran.
	Full bool `json:"full"`

	mu sync.Mutex
}

// Begin starts the record of a case. It is written when the test ends, failed
// or not.
func Begin(t testing.TB, id, provoked, aim string) *Record {
	t.Helper()
	if _, known := Title(id); !known {
		t.Fatalf("case %q: not in the catalogue, test/chaos/catalogue.go", id)
	}
	r := &Record{ID: id, Provoked: provoked, Aim: aim, Test: t.Name(), Full: Full()}
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.Failed = t.Failed()
		if err := r.write(); err != nil {
			t.Errorf("write record of case %s: %v", id, err)
		}
	})
	return r
}

// Measuredf adds a measurement: "0 of 139,902 packets lost".
func (r *Record) Measuredf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Measured = append(r.Measured, fmt.Sprintf(format, args...))
}

// Twinf adds what the twin showed: the same test with the guard off, which
// proves that the meter sees the fault.
func (r *Record) Twinf(format string, args ...any) {
	r.Measuredf("twin: "+format, args...)
}

// write puts the record into the directory of records, if there is one.
func (r *Record) write() error {
	dir := os.Getenv(EnvDir)
	if dir == "" {
		return nil
	}
	wd, err := os.Getwd() // go test runs in the package's directory
	if err != nil {
		return err
	}
	r.Package = wd
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, r.ID+"-*.json")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}
