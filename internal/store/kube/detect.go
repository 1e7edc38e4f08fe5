// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
)

// profile is where the kinds are held: as New was told, else as the server
// says when it is asked for the first time.
func (s *Store) profile(ctx context.Context) (shape.Profile, error) {
	if p := s.chosen.Load(); p != nil {
		return *p, nil
	}
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return shape.Profile{}, fault.New(fault.Unavailable, "look for Calico's resources: %w", context.Cause(ctx))
	}
	if p := s.chosen.Load(); p != nil {
		return *p, nil
	}
	p, err := s.detect(ctx)
	if err != nil {
		return shape.Profile{}, err
	}
	s.log.Info("found Calico's resources", "group", p.Name)
	s.chosen.Store(&p)
	return p, nil
}

// detect chooses the profile whose definitions exist, of two the one with
// objects, of two empty ones V3. Two with objects are Invalid: a pool of the
// one would be given out again by the other.
func (s *Store) detect(ctx context.Context) (shape.Profile, error) {
	var found, used []shape.Profile
	for _, p := range []shape.Profile{shape.V3(), shape.V1()} {
		exists, err := s.serves(ctx, p)
		if err != nil {
			return p, err
		}
		if exists {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		err := fault.New(fault.Unavailable, "the API server has neither %s nor %s", shape.V3().Name, shape.V1().Name)
		return shape.Profile{}, fault.Hint(err, "apply the definitions: kubectl apply -f deploy/ocicat.yaml")
	case 1:
		return found[0], nil
	}
	for _, p := range found {
		holds, err := s.holds(ctx, p)
		if err != nil {
			return p, err
		}
		if holds {
			used = append(used, p)
		}
	}
	switch len(used) {
	case 0:
		return shape.V3(), nil
	case 1:
		return used[0], nil
	}
	err := fault.New(fault.Invalid, "both %s and %s hold pools or blocks", shape.V3().Name, shape.V1().Name)
	return shape.Profile{}, fault.Hint(err, "wait until Calico's migration has ended, or say with CALICO_API_GROUP which one counts")
}

// serves says whether the server has the definitions of a profile. Calico's own
// API server offers pools as v3 too, but not the objects of IPAM.
func (s *Store) serves(ctx context.Context, p shape.Profile) (bool, error) {
	what := "look for " + p.Name
	data, err := s.client.Call(ctx, kubeapi.Request{What: what, Method: http.MethodGet, Path: "/apis/" + p.Name})
	if kubeapi.IsNoResource(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var list struct {
		Resources []struct {
			Name string `json:"name"`
		} `json:"resources"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return false, fault.New(fault.Internal, "%s: %w", what, err)
	}
	has := map[string]bool{}
	for _, r := range list.Resources {
		has[r.Name] = true
	}
	for _, kind := range []store.Kind{store.IPPool, store.Block, store.Affinity, store.Handle} {
		if r, _ := p.Resource(kind); !has[r.Plural] {
			return false, nil
		}
	}
	return true, nil
}

// holds says whether pools or blocks are stored in a profile.
func (s *Store) holds(ctx context.Context, p shape.Profile) (bool, error) {
	for _, kind := range []store.Kind{store.IPPool, store.Block} {
		r, _ := p.Resource(kind)
		q := kubeapi.Request{What: "look for " + p.Name, Method: http.MethodGet, Path: r.Path(), Query: url.Values{"limit": {"1"}}}
		data, err := s.client.Call(ctx, q)
		if err != nil {
			return false, err
		}
		var list struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return false, fault.New(fault.Internal, "%s: %w", q.What, err)
		}
		if len(list.Items) > 0 {
			return true, nil
		}
	}
	return false, nil
}
