// SPDX-License-Identifier: Apache-2.0

package storeopen

import (
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/internal/store/kube"
)

func TestOpen(t *testing.T) {
	environment := map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
	getenv := func(name string) string { return environment[name] }

	s, err := Open(Choice{Endpoints: []string{"http://127.0.0.1:1"}, Getenv: getenv})
	if _, isEtcd := s.(*etcd.Store); err != nil || !isEtcd {
		t.Errorf("with endpoints: %T, %v, want etcd", s, err)
	}
	if _, err := Open(Choice{Getenv: getenv}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("etcd without endpoints: %v, want invalid with a hint", err)
	}
	s, err = Open(Choice{Kubernetes: true, Getenv: getenv})
	if _, isKube := s.(*kube.Store); err != nil || !isKube {
		t.Errorf("in a pod: %T, %v, want Kubernetes", s, err)
	}
	clear(environment)
	if _, err := Open(Choice{Kubernetes: true, Getenv: getenv}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("outside a pod without KUBECONFIG: %v, want invalid with a hint", err)
	}
}
