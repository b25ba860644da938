package e2e

import (
	"fmt"
	"maps"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/test/harness"
)

var protocols = []harness.Protocol{harness.GRPC, harness.HTTPProtobuf, harness.HTTPJSON}

// protocol counts the forms of OTLP round and round.
func protocol(i int) harness.Protocol { return protocols[i%len(protocols)] }

// written is how the forms of OTLP/HTTP are called in an exporter's
// configuration and in the header of what it sends.
var written = map[harness.Protocol]struct{ encoding, contentType string }{
	harness.HTTPProtobuf: {"proto", "application/x-protobuf"},
	harness.HTTPJSON:     {"json", "application/json"},
}

// hop is the way from one node to the next.
type hop struct {
	to        *harness.Node
	tap       *harness.Tap // before it, for what comes by HTTP
	protocols map[block.Signal]harness.Protocol
	gzip      bool
}

// hop makes the way to a node on which each signal goes by another protocol, the
// first of them by the first given.
func (f *fleet) hop(to *harness.Node, first int, gzip bool) *hop {
	f.Helper()
	tap, err := harness.NewTap(to.HTTP)
	require.NoError(f, err)
	f.Cleanup(tap.Close)
	h := &hop{to: to, tap: tap, protocols: map[block.Signal]harness.Protocol{}, gzip: gzip}
	for s, signal := range signals {
		h.protocols[signal] = protocol(first + s)
	}
	return h
}

// overlay configures the node that sends: an exporter for each signal, which
// keeps and repeats as the fleet's exporters do.
func (h *hop) overlay() string {
	compression := "none"
	if h.gzip {
		compression = "gzip"
	}
	exporters, pipelines := "exporters:\n", "service:\n  pipelines:\n"
	for _, signal := range signals {
		id, way := "otlp/"+signal.String(), fmt.Sprintf("endpoint: %q, tls: {insecure: true}", h.to.GRPC)
		if w, ok := written[h.protocols[signal]]; ok {
			id, way = "otlp_http/"+signal.String(), fmt.Sprintf("endpoint: %q, encoding: %s", h.tap.URL, w.encoding)
		}
		exporters += fmt.Sprintf("  %s: {%s, compression: %s, %s}\n", id, way, compression, harness.Queued)
		pipelines += fmt.Sprintf("    %s: {exporters: [%s]}\n", signal, id)
	}
	return exporters + pipelines
}

// forms are those in which the tap must have seen a signal: one, or none when it goes by gRPC.
func (h *hop) forms(signal block.Signal) (forms []harness.Form) {
	if w, ok := written[h.protocols[signal]]; ok {
		form := harness.Form{ContentType: w.contentType}
		if h.gzip {
			form.ContentEncoding = "gzip"
		}
		forms = append(forms, form)
	}
	return forms
}

// requireForms demands that hops to one node, each with so many items of each
// signal, were what they were made to be: by that node's own metrics, which tell
// gRPC from HTTP, and by what the taps saw, which tell the rest.
func (f *fleet) requireForms(items int, hops ...*hop) {
	f.Helper()
	to := hops[0].to
	for _, signal := range signals {
		want := map[string]int{"grpc": 0, "http": 0}
		for _, h := range hops {
			forms := h.forms(signal)
			require.Equal(f, forms, slices.Collect(maps.Keys(h.tap.Seen(signal.String()))), "%s to %s", signal, to.Name)
			if forms == nil {
				want["grpc"] += items
			} else {
				want["http"] += items
			}
		}
		for transport, n := range want {
			require.GreaterOrEqual(f, f.metric(to, received[signal], "transport", transport), n, "%s by %s to %s", signal, transport, to.Name)
		}
	}
}
