// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// MaxName is the length of the longest name in bytes (RFC 1123 subdomain).
const MaxName = 253

var (
	subdomain     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	subdomainCase = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$`)
	labelKeyName  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

// CheckName reports what is wrong with a name in lower case.
func CheckName(path, name string) []Finding {
	return checkName(path, name, subdomain, "lower-case letters, digits, \"-\" and \".\", beginning and ending with a letter or digit")
}

// CheckNodeName reports what is wrong with a node name: as CheckName, but
// upper case is allowed, as NODENAME keeps it.
func CheckNodeName(path, name string) []Finding {
	return checkName(path, name, subdomainCase, "letters, digits, \"-\" and \".\", beginning and ending with a letter or digit")
}

func checkName(path, name string, form *regexp.Regexp, want string) []Finding {
	switch {
	case name == "":
		return []Finding{{Path: path, Want: "a name", Hint: "Every object needs a name in metadata.name."}}
	case len(name) > MaxName:
		return []Finding{{Path: path, Value: name[:32] + "…", Want: "at most 253 characters"}}
	case !form.MatchString(name):
		return []Finding{{Path: path, Value: name, Want: want}}
	}
	return nil
}

// CheckLabels reports label keys and values that no selector could name.
func CheckLabels(path string, labels map[string]string) []Finding {
	var found []Finding
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		value := labels[key]
		prefix, name, slashed := strings.Cut(key, "/")
		if !slashed {
			prefix, name = "", key
		}
		if len(name) > 63 || !labelKeyName.MatchString(name) || slashed && (len(prefix) > MaxName || !subdomain.MatchString(prefix)) {
			found = append(found, Finding{Path: path, Value: key, Want: "label keys like example.com/zone: an optional DNS name and \"/\", then up to 63 letters, digits, \"-\", \"_\" and \".\""})
		}
		if value != "" && (len(value) > 63 || !labelKeyName.MatchString(value)) {
			found = append(found, Finding{Path: path + "." + key, Value: value, Want: "up to 63 letters, digits, \"-\", \"_\" and \".\""})
		}
	}
	return found
}
