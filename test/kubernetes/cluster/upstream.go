// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"regexp"
	"strconv"
	"time"
)

// Suite are tests of upstream's suite.
type Suite struct {
	// Focus and Skip are regular expressions of the tests' names; Skip may be "".
	Focus, Skip string
	// Tests is how many that are.
	Tests int
	// Limit is what they may take.
	Limit time.Duration
}

// The suites that the reference plugins with static routes pass in the lab.
var (
	// GranularChecks are pod to pod and node to pod, by UDP and HTTP.
	GranularChecks = Suite{Focus: `Networking Granular Checks.*Conformance`, Tests: 4, Limit: 8 * time.Minute}
	// Conformance is all that a conformant network must pass.
	Conformance = Suite{Focus: `sig-network.*Conformance`, Tests: 47, Limit: 40 * time.Minute}
	// Services are Granular Checks, HostPort, connection tracking, and services
	// of type ClusterIP and NodePort.
	Services = Suite{Focus: `Networking Granular Checks|HostPort|Conntrack should be able to preserve|Services.*(ClusterIP|NodePort).*Conformance`, Tests: 35, Limit: 75 * time.Minute}
)

// ran finds how many tests ran, passed and failed.
var ran = regexp.MustCompile(`(?s)Ran (\d+) of \d+ Specs.*?(\d+) Passed.*?(\d+) Failed`)

// Upstream runs a suite, which has to pass whole, and returns how long it
// took. The suite's images are in the lab.
func (c *Cluster) Upstream(s Suite) time.Duration {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), s.Limit)
	defer cancel()
	cmd := c.command(ctx, "e2e", s.Focus)
	cmd.Env = append(cmd.Env, "TIMEOUT="+s.Limit.String())
	if s.Skip != "" {
		cmd.Env = append(cmd.Env, "SKIP="+s.Skip)
	}
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	found := ran.FindStringSubmatch(string(out))
	if err != nil || found == nil {
		c.t.Fatalf("upstream's %s: %v\n%s", s.Focus, err, tail(string(out), 200))
	}
	want := strconv.Itoa(s.Tests)
	if found[1] != want || found[2] != want || found[3] != "0" {
		c.t.Errorf("upstream's %s: ran %s, passed %s, failed %s; want %s to pass", s.Focus, found[1], found[2], found[3], want)
	}
	return time.Since(begin)
}
