// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/problem"
)

func TestConditions(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	const at, before = "2026-02-03T04:05:06Z", "2026-01-01T00:00:00Z"
	up := v1.Session{Name: "n2", Peer: "192.168.0.12", State: "Established"}
	down := v1.Session{Name: "n3", Peer: "192.168.0.13", State: "Active"}
	is := func(status, reason, message string) meta.Condition {
		return meta.Condition{Status: status, Reason: reason, Message: message, LastTransitionTime: at}
	}
	// want are the four conditions without their types.
	want := func(conditions ...meta.Condition) []meta.Condition {
		for i, typ := range []string{"Ready", "SessionsEstablished", "PoolsUsable", "BlocksAvailable"} {
			conditions[i].Type = typ
		}
		return conditions
	}
	serving := is("True", "Serving", "the node can take pods")
	usable := is("True", "Usable", "every pool for this node can be used")
	held := is("True", "BlocksHeld", "1 held")
	for _, test := range []struct {
		name     string
		report   v1.NodeReport
		notReady error
		before   []meta.Condition
		want     []meta.Condition
	}{
		{
			"healthy", v1.NodeReport{Sessions: []v1.Session{up}, Blocks: []string{"10.0.0.0/26"}}, nil, nil,
			want(serving, is("True", "AllEstablished", "1 of 1 established"), usable, held),
		}, {
			"starting", v1.NodeReport{}, errors.New("the datastore has not answered yet"), nil,
			want(is("False", "Starting", "the datastore has not answered yet"), is("True", "NoPeers", "no peer is configured"), usable, is("True", "NoneHeld", "none held yet")),
		}, {
			"a session that is not up yet", v1.NodeReport{Sessions: []v1.Session{up, down}, Blocks: []string{"10.0.0.0/26"}}, nil, nil,
			want(serving, is("False", "Connecting", "1 of 2 established; not: n3 192.168.0.13"), usable, held),
		}, {
			"problems of each", v1.NodeReport{Sessions: []v1.Session{down}, Problems: []v1.Problem{
				{Code: string(problem.SessionDown)}, {Code: string(problem.PoolOverlap), Text: "a", Remedy: "B."}, {Code: string(problem.NoFreeAddress), Text: "c", Remedy: "D."},
				{Code: string(problem.NoPool), Text: "e", Remedy: "F."}, {Code: string(problem.MetricsAway), Text: "g"},
			}}, nil, nil,
			want(serving, is("False", "OC1001", "0 of 1 established; not: n3 192.168.0.13"),
				is("False", "OC2001", "OC2001: a. B. OC2005: e. F."), is("False", "OC2002", "OC2002: c. D.")),
		}, {
			"what stays keeps its time", v1.NodeReport{Sessions: []v1.Session{down}, Blocks: []string{"10.0.0.0/26"}}, nil,
			[]meta.Condition{{Type: "SessionsEstablished", Status: "True", LastTransitionTime: before}, {Type: "Ready", Status: "True", LastTransitionTime: before}},
			want(meta.Condition{Status: "True", Reason: "Serving", Message: "the node can take pods", LastTransitionTime: before},
				is("False", "Connecting", "0 of 1 established; not: n3 192.168.0.13"), usable, held),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, conditionsOf(test.report, test.notReady, test.before, now)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
