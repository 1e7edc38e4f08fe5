// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Client asks a Server as one of its users.
type Client struct {
	server *Server
	token  string
	http   *http.Client
}

// Answer is what the server said.
type Answer struct {
	// Status is the status of HTTP, 0 where no answer came.
	Status int
	// Body is the answer, or why none came.
	Body []byte
}

// OK says whether the server did what was asked.
func (a Answer) OK() bool { return a.Status >= 200 && a.Status < 300 }

// Message is what a refusal says.
func (a Answer) Message() string {
	var status struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(a.Body, &status); err != nil || status.Message == "" {
		return string(a.Body)
	}
	return status.Message
}

// Into reads the answer.
func (a Answer) Into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("%v: %s", err, a.Body)
	}
}

// Try asks once. mime is the body's type, "" for JSON; body is nil for none,
// bytes as they are, or anything that becomes JSON.
func (c *Client) Try(method, path, mime string, body any) Answer {
	data, isText := body.([]byte)
	if body != nil && !isText {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return Answer{Body: []byte(err.Error())}
		}
	}
	request, err := http.NewRequest(method, c.server.URL+path, bytes.NewReader(data))
	if err != nil {
		return Answer{Body: []byte(err.Error())}
	}
	if mime == "" {
		mime = "application/json"
	}
	request.Header.Set("Content-Type", mime)
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{Body: []byte(err.Error())}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{Body: []byte(err.Error())}
	}
	return Answer{Status: response.StatusCode, Body: text}
}

// Must is Try of what has to work.
func (c *Client) Must(method, path, mime string, body any) Answer {
	c.server.t.Helper()
	answer := c.Try(method, path, mime, body)
	if !answer.OK() {
		c.server.t.Fatalf("%s %s: %d: %s", method, path, answer.Status, answer.Message())
	}
	return answer
}

// object is what Apply has to know of an object.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

// Apply applies each object of a manifest as kubectl apply --server-side does,
// and refuses fields the server does not know. It returns how often the server
// refused, with its words.
func (c *Client) Apply(manifest []byte) []string {
	c.server.t.Helper()
	var refused []string
	for _, text := range strings.Split("\n"+string(manifest), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			c.server.t.Fatalf("%v in:\n%s", err, text)
		}
		if o.Kind == "" {
			continue
		}
		answer := c.Try(http.MethodPatch, c.path(o)+"?fieldManager=kubectl&fieldValidation=Strict", "application/apply-patch+yaml", []byte(text))
		if !answer.OK() {
			refused = append(refused, fmt.Sprintf("%s %s: %s", o.Kind, o.Metadata.Name, answer.Message()))
		}
	}
	return refused
}

// path is where an object is, as the server itself says.
func (c *Client) path(o object) string {
	c.server.t.Helper()
	root := "/apis/" + o.APIVersion
	if !strings.Contains(o.APIVersion, "/") {
		root = "/api/" + o.APIVersion
	}
	var list struct {
		Resources []struct {
			Name       string `json:"name"`
			Kind       string `json:"kind"`
			Namespaced bool   `json:"namespaced"`
		} `json:"resources"`
	}
	c.Must(http.MethodGet, root, "", nil).Into(c.server.t, &list)
	for _, r := range list.Resources {
		if r.Kind != o.Kind || strings.Contains(r.Name, "/") {
			continue
		}
		if r.Namespaced {
			root += "/namespaces/" + o.Metadata.Namespace
		}
		return root + "/" + r.Name + "/" + o.Metadata.Name
	}
	c.server.t.Fatalf("the server has no %s %s", o.APIVersion, o.Kind)
	return ""
}
