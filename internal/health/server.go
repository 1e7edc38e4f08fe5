// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/httpd"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Probes are the questions.
type Probes struct {
	Alive func() error // nil, or why the process must be restarted
	Ready func() error // nil, or what it waits for
}

// NewServer returns a server that answers `GET /liveness` and `GET /readiness`
// at addr: 200, or 503 and the reason. changed is called when its Problems may
// say something else.
func NewServer(addr netip.AddrPort, probes Probes, log *slog.Logger, changed func()) *httpd.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /liveness", answer(probes.Alive))
	mux.HandleFunc("GET /readiness", answer(probes.Ready))
	return httpd.New(httpd.Config{Name: "health server", Addr: addr, Handler: mux, Code: problem.HealthAway, Log: log, Changed: changed})
}

func answer(question func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := question(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
