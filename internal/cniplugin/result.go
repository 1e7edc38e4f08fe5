// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// The specification's objects, with the fields we fill. An address's version
// went with 1.0.0, an interface's mtu came with 1.1.0; apart from these the
// shapes are the same from 0.3.1 on.
type (
	result struct {
		CNIVersion string      `json:"cniVersion"`
		Interfaces []netIf     `json:"interfaces"`
		IPs        []ipConfig  `json:"ips"`
		Routes     []routeConf `json:"routes,omitempty"`
		DNS        struct{}    `json:"dns"`
	}
	netIf struct {
		Name    string `json:"name"`
		MAC     string `json:"mac,omitempty"`
		MTU     int    `json:"mtu,omitempty"`
		Sandbox string `json:"sandbox,omitempty"`
	}
	ipConfig struct {
		Version   string `json:"version,omitempty"`
		Address   string `json:"address"`
		Interface int    `json:"interface"`
	}
	routeConf struct {
		Dst string `json:"dst"`
		GW  string `json:"gw,omitempty"`
	}
	failure struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details,omitempty"`
	}
	versionInfo struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
)

// resultJSON is ADD's answer: the host's end, then the pod's, to which every
// address belongs. It names no gateway: 169.254.1.1 is nobody's address. What
// plugins before made stands in front of it.
func resultJSON(version string, req cniwire.AddRequest, r cniwire.AddResult, before chained) ([]byte, error) {
	out := result{CNIVersion: version, Interfaces: []netIf{
		{Name: r.HostIf, MAC: r.HostMAC, MTU: r.MTU},
		{Name: req.IfName, MAC: r.MAC, MTU: r.MTU, Sandbox: req.NetNSPath},
	}}
	if version != latest {
		out.Interfaces[0].MTU, out.Interfaces[1].MTU = 0, 0
	}
	for _, a := range r.Addresses {
		out.IPs = append(out.IPs, ipConfig{Version: ipVersion(version, a), Address: a.String(), Interface: before.interfaces() + 1})
	}
	for _, route := range r.Routes {
		conf := routeConf{Dst: route.Dst.String()}
		if route.Via.IsValid() {
			conf.GW = route.Via.String()
		}
		out.Routes = append(out.Routes, conf)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fault.New(fault.Internal, "print the result: %w", err)
	}
	if before == nil {
		return text, nil
	}
	return before.with(text)
}

// ipVersion is "4" or "6" in results of a version that has it, else "".
func ipVersion(version string, a netip.Prefix) string {
	switch {
	case !strings.HasPrefix(version, "0."):
		return ""
	case a.Addr().Is4():
		return "4"
	}
	return "6"
}

// errorJSON is how every error reaches the runtime: its text as msg, its hint
// as details.
func errorJSON(version string, err error) []byte {
	text, merr := json.Marshal(failure{CNIVersion: version, Code: cniwire.CodeOf(err), Msg: err.Error(), Details: fault.HintOf(err)})
	if merr != nil {
		return []byte(`{"cniVersion":"` + latest + `","code":999,"msg":"the error cannot be printed"}`)
	}
	return text
}

// versionJSON is VERSION's answer. It echoes the input's version where it is
// one of ours.
func versionJSON(stdin []byte) []byte {
	var in conf
	info := versionInfo{CNIVersion: latest, SupportedVersions: versions}
	if json.Unmarshal(stdin, &in) == nil && slices.Contains(versions, in.CNIVersion) {
		info.CNIVersion = in.CNIVersion
	}
	text, err := json.Marshal(info)
	if err != nil {
		return errorJSON(latest, err)
	}
	return text
}

// kindName is what JSON calls the kind of value that a field wants.
func kindName(wrong *json.UnmarshalTypeError) string {
	switch wrong.Type.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}
