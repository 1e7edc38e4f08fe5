// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"net/http"
	"net/url"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Impersonation is somebody as whom we act, where the API server lets us: who
// we are must have the right "impersonate". The zero value is nobody.
type Impersonation struct {
	// User is the name, as "anna" or "system:serviceaccount:shop:default".
	User string
	// UID, Groups and Extra are what else is known of the user.
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Given says whether we act as somebody else.
func (i Impersonation) Given() bool {
	return i.User != "" || i.UID != "" || len(i.Groups) > 0 || len(i.Extra) > 0
}

// validate refuses what the API server would: groups of nobody.
func (i Impersonation) validate() error {
	if i.Given() && i.User == "" {
		return fault.Hint(fault.New(fault.Invalid, "impersonation: groups, UID or extra without a user"), "Name the user with --as, or with as in KUBECONFIG.")
	}
	return nil
}

// set adds whom we act as to a request.
func (i Impersonation) set(header http.Header) {
	if i.User == "" {
		return
	}
	header.Set("Impersonate-User", i.User)
	if i.UID != "" {
		header.Set("Impersonate-Uid", i.UID)
	}
	for _, group := range i.Groups {
		header.Add("Impersonate-Group", group)
	}
	for key, values := range i.Extra {
		for _, value := range values {
			header.Add("Impersonate-Extra-"+url.PathEscape(key), value)
		}
	}
}

// parseProxy reads the URL of a proxy; "" is none.
func parseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	proxy, err := url.Parse(text)
	if err == nil && proxy.Host != "" {
		switch proxy.Scheme {
		case "http", "https", "socks5":
			return proxy, nil
		}
	}
	return nil, fault.Hint(fault.New(fault.Invalid, "proxy-url: not a URL of a proxy"), "Write http://, https:// or socks5:// and HOST:PORT.")
}
