// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"go.yaml.in/yaml/v3"
)

// place is where a cluster's datastore is, and who said so.
type place struct {
	endpoints []string
	source    string // "--etcd", "ETCD_ENDPOINTS", a file, or "lab NAME"
	lab       string // the lab's name, "" outside labs
	kube      *kubePlace
}

// locate finds the datastore: flag, name of the program, environment, file,
// lab, and the Kubernetes cluster kubectl would take, in this order.
func (g *globals) locate() (place, error) {
	switch {
	case g.kubeconfig != "", g.kubeContext != "", g.kubeFlag() != "", g.Program == KubectlPlugin && g.etcd == "" && g.lab == "":
		return g.kubernetes()
	}
	if g.etcd != "" {
		return place{endpoints: split(g.etcd), source: "--etcd"}, nil
	}
	if g.lab != "" {
		return g.labPlace(g.lab)
	}
	switch kind := g.Getenv("DATASTORE_TYPE"); kind {
	case "", "etcdv3":
	case "kubernetes":
		return g.kubernetes()
	default:
		return place{}, fault.New(fault.Unsupported, "environment variable DATASTORE_TYPE %q: want etcdv3 or kubernetes", kind)
	}
	if endpoints := g.Getenv("ETCD_ENDPOINTS"); endpoints != "" {
		return place{endpoints: split(endpoints), source: "ETCD_ENDPOINTS"}, nil
	}
	endpoints, err := readConfigFile(g.ConfigFile)
	if err != nil {
		return place{}, err
	}
	if len(endpoints) > 0 {
		return place{endpoints: endpoints, source: g.ConfigFile}, nil
	}
	if len(g.labNames()) == 0 && g.hasKubernetes() {
		return g.kubernetes()
	}
	return g.onlyLab()
}

// onlyLab is the running lab when there is exactly one.
func (g *globals) onlyLab() (place, error) {
	names := g.labNames()
	switch len(names) {
	case 1:
		return g.labPlace(names[0])
	case 0:
		return place{}, fault.Hint(fault.New(fault.Unavailable, "find datastore: none is configured and there is no lab"),
			"Start one with \"sudo ocicat lab up\", or name it with --kubeconfig, --etcd, ETCD_ENDPOINTS or etcdEndpoints in %s.", g.ConfigFile)
	}
	return place{}, usageError{fault.Hint(fault.New(fault.Invalid, "find datastore: there are %d labs: %s", len(names), strings.Join(names, ", ")),
		"Choose one with --lab NAME.")}
}

// labNames lists the labs of this machine, sorted; none where they cannot be
// listed.
func (g *globals) labNames() []string {
	names, err := lab.Names(g.LabDir)
	if err != nil {
		return nil
	}
	return names
}

func (g *globals) labPlace(name string) (place, error) {
	state, err := g.labState(name)
	if err != nil {
		return place{}, err
	}
	if len(state.Endpoints) == 0 {
		return place{}, fault.Hint(fault.New(fault.Unavailable, "lab %s: its datastore was not started", name), "Finish it with \"sudo ocicat lab up\".")
	}
	return place{endpoints: state.Endpoints, source: "lab " + name, lab: name}, nil
}

func (g *globals) labState(name string) (*lab.State, error) {
	l, err := lab.New(lab.Config{Name: name, Root: g.LabDir})
	if err != nil {
		return nil, usageError{err}
	}
	state, err := l.State()
	if names := g.labNames(); fault.Is(err, fault.NotFound) && len(names) > 0 {
		return nil, fault.Hint(fault.New(fault.NotFound, "lab %s: does not exist", name), "There is %s.", strings.Join(names, ", "))
	}
	return state, err
}

// readConfigFile reads where the datastore is; a missing file says nothing.
func readConfigFile(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "read configuration: %w", err)
	}
	var file struct {
		EtcdEndpoints []string `yaml:"etcdEndpoints"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, fault.Hint(fault.New(fault.Invalid, "read %s: %w", path, err), "It should read: etcdEndpoints: [\"http://192.0.2.1:2379\"].")
	}
	return file.EtcdEndpoints, nil
}

// split cuts a list at commas and drops empty items.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
