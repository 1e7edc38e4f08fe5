// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/httpd"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// maxScrapes is how many may be answered at once; more are told to come later.
const maxScrapes = 4

// NewServer returns a server that answers `GET /metrics` at addr with what
// sources count. changed is called when its Problems may say something else.
func NewServer(addr netip.AddrPort, log *slog.Logger, changed func(), sources ...Source) *httpd.Server {
	slots := make(chan struct{}, maxScrapes)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
			return
		}
		var p Page
		for _, source := range sources {
			source.Collect(&p)
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if _, err := p.WriteTo(w); err != nil {
			log.Debug("page of metrics not whole", "error", err)
		}
	})
	return httpd.New(httpd.Config{Name: "metrics server", Addr: addr, Handler: mux, Code: problem.MetricsAway, Log: log, Changed: changed})
}
