// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
)

// ourPods finds the pods of agents and controllers.
const ourPods = "k8s-app in (ocicat-node,ocicat-controller)"

// Bounds of what a dump takes from the API server.
const (
	logLines  = 5000             // of one container, the newest
	logBytes  = 1 << 20          // of these, from the oldest on
	logTotal  = 256 << 20        // of all containers
	logTime   = 90 * time.Second // for all containers
	logAtOnce = 8
	maxEvents = 2000 // the newest
)

// dumpKubernetes adds what the API server knows of our pods: themselves, what
// their containers said, also before their last restart, and events.
func (g *globals) dumpKubernetes(ctx context.Context, d *dump) {
	where, err := g.withinReach()
	if err != nil || where.kube == nil {
		return // that there is no cluster was said before
	}
	agents, err := g.kubeAPI(ctx, where.kube)
	if err != nil {
		g.miss(d, "pods", err)
		return
	}
	pods, err := g.dumpPods(ctx, d, agents.client)
	if err != nil {
		g.miss(d, "pods", wantsRole(err, tracerGuest))
	}
	g.dumpLogs(ctx, d, agents.client, pods)
	g.dumpEvents(ctx, d, agents.client, pods)
}

// dumpPod is what we read of one of our pods.
type dumpPod struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Init  []dumpContainer `json:"initContainerStatuses"`
		Plain []dumpContainer `json:"containerStatuses"`
	} `json:"status"`
}

// dumpContainer is what we read of a container.
type dumpContainer struct {
	Name     string `json:"name"`
	Restarts int    `json:"restartCount"`
}

// dumpPods adds our pods as they are.
func (g *globals) dumpPods(ctx context.Context, d *dump, client *kubeapi.Client) ([]dumpPod, error) {
	source := kubeapi.Source{Kind: "pods of Ocicat", Path: "/api/v1/pods", Query: url.Values{"labelSelector": {ourPods}}}
	entries, _, err := client.List(ctx, source, "")
	if err != nil {
		return nil, err
	}
	var pods []dumpPod
	var objects []json.RawMessage
	for _, e := range entries {
		var pod dumpPod
		if err := json.Unmarshal(e.Value, &pod); err != nil {
			return nil, fault.New(fault.Internal, "read pod %s: %w", e.Key.Name, err)
		}
		if g.node == "" || g.node == pod.Spec.NodeName {
			pods, objects = append(pods, pod), append(objects, e.Value)
		}
	}
	d.addJSON("pods.json", objects)
	return pods, nil
}

// containerLog is what one container said, in its life or the one before.
type containerLog struct {
	pod       dumpPod
	container string
	previous  bool
}

// name is the file of the log in a dump.
func (l containerLog) name() string {
	name := l.container
	if l.previous {
		name += ".previous"
	}
	return path.Join("logs", l.pod.Metadata.Namespace, l.pod.Metadata.Name, name+".log")
}

// logsOf are the logs pods have. A container that never restarted has no
// previous one.
func logsOf(pods []dumpPod) []containerLog {
	var logs []containerLog
	for _, pod := range pods {
		for _, c := range slices.Concat(pod.Status.Init, pod.Status.Plain) {
			logs = append(logs, containerLog{pod, c.Name, false})
			if c.Restarts > 0 {
				logs = append(logs, containerLog{pod, c.Name, true})
			}
		}
	}
	return logs
}

// dumpLogs adds what the containers of pods said, within bounds of size and
// time.
func (g *globals) dumpLogs(ctx context.Context, d *dump, client *kubeapi.Client, pods []dumpPod) {
	ctx, cancel := context.WithTimeoutCause(ctx, logTime, fault.New(fault.Unavailable, "all logs together took longer than %v", logTime))
	defer cancel()
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		room    = logTotal
		places  = make(chan struct{}, logAtOnce)
	)
	for _, l := range logsOf(pods) {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			text, err := l.read(ctx, client)
			mu.Lock()
			if room -= len(text); err == nil && room < 0 {
				err = fault.New(fault.Unavailable, "all logs together are larger than %d MiB", logTotal>>20)
			}
			mu.Unlock()
			if err != nil {
				g.miss(d, l.name(), wantsRole(err, tracerGuest))
				return
			}
			note := ""
			if len(text) >= logBytes {
				note = fmt.Sprintf("cut: the first %d KiB of the last %d lines", logBytes>>10, logLines)
			}
			d.addNoted(l.name(), redactText(text), note)
		})
	}
	running.Wait()
}

// read asks for the log; the kubelet of the pod's node answers.
func (l containerLog) read(ctx context.Context, client *kubeapi.Client) ([]byte, error) {
	namespace, pod := l.pod.Metadata.Namespace, l.pod.Metadata.Name
	query := url.Values{
		"container": {l.container}, "timestamps": {"true"},
		"tailLines": {strconv.Itoa(logLines)}, "limitBytes": {strconv.Itoa(logBytes)},
	}
	if l.previous {
		query.Set("previous", "true")
	}
	return client.Call(ctx, kubeapi.Request{
		What: fmt.Sprintf("read log of %s/%s", namespace, pod), Method: http.MethodGet,
		Path: fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/log", namespace, pod), Query: query, Accept: "*/*",
	})
}

// dumpEvent is what we read of an Event to choose it.
type dumpEvent struct {
	Metadata struct {
		UID     string `json:"uid"`
		Created string `json:"creationTimestamp"`
	} `json:"metadata"`
	Object struct {
		Name string `json:"name"`
	} `json:"involvedObject"`
	Component string `json:"reportingComponent"`
	Source    struct {
		Component string `json:"component"`
	} `json:"source"`
	Last string `json:"lastTimestamp"`

	raw json.RawMessage
}

// ours says whether the event is about one of our pods, or told by one.
func (e dumpEvent) ours() bool {
	return strings.HasPrefix(e.Object.Name, "ocicat-") || strings.HasPrefix(cmp.Or(e.Component, e.Source.Component), "ocicat")
}

// eventPlaces are where Events are that concern us: about nodes and pools in
// the namespace default, about our pods in theirs, about pods that got no
// network anywhere.
func eventPlaces(pods []dumpPod) []kubeapi.Source {
	places := []kubeapi.Source{
		{Kind: "Events", Path: "/api/v1/namespaces/default/events"},
		{Kind: "Events", Path: "/api/v1/events", Query: url.Values{"fieldSelector": {"reason=" + noSandbox}}},
	}
	seen := map[string]bool{"default": true}
	for _, pod := range pods {
		if namespace := pod.Metadata.Namespace; !seen[namespace] {
			seen[namespace] = true
			places = append(places, kubeapi.Source{Kind: "Events", Path: "/api/v1/namespaces/" + namespace + "/events"})
		}
	}
	return places
}

// noSandbox is the reason of the kubelet's Event about a pod that a CNI plugin
// refused.
const noSandbox = "FailedCreatePodSandBox"

// dumpEvents adds Events that concern us, the newest last.
func (g *globals) dumpEvents(ctx context.Context, d *dump, client *kubeapi.Client, pods []dumpPod) {
	events := map[string]dumpEvent{}
	for _, place := range eventPlaces(pods) {
		entries, _, err := client.List(ctx, place, "")
		if err != nil {
			g.miss(d, "events", wantsRole(err, tracerGuest))
			return
		}
		for _, entry := range entries {
			e := dumpEvent{raw: entry.Value}
			if err := json.Unmarshal(entry.Value, &e); err == nil && (place.Query.Has("fieldSelector") || e.ours()) {
				events[cmp.Or(e.Metadata.UID, entry.Key.Name)] = e
			}
		}
	}
	sorted := make([]dumpEvent, 0, len(events))
	for _, e := range events {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, func(a, b dumpEvent) int {
		return cmp.Or(cmp.Compare(cmp.Or(a.Last, a.Metadata.Created), cmp.Or(b.Last, b.Metadata.Created)), cmp.Compare(a.Metadata.UID, b.Metadata.UID))
	})
	note := ""
	if len(sorted) > maxEvents {
		note = fmt.Sprintf("cut: the newest %d of %d", maxEvents, len(sorted))
		sorted = sorted[len(sorted)-maxEvents:]
	}
	objects := make([]json.RawMessage, 0, len(sorted))
	for _, e := range sorted {
		objects = append(objects, e.raw)
	}
	data, err := redacted(objects)
	if err != nil {
		g.miss(d, "events", err)
		return
	}
	d.addNoted("events.json", data, note)
}
