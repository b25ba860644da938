package harness

import (
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Tap stands before the OTLP/HTTP receiver of a node, passes on what comes as
// it is and notes in which form it came. A receiver's own metrics tell HTTP from
// gRPC, but not JSON from protobuf.
type Tap struct {
	URL string

	server *http.Server

	mu   sync.Mutex
	seen map[string]map[Form]int // accepted requests, by signal
}

// Form is how the body of a request was written, in the words of its headers.
type Form struct{ ContentType, ContentEncoding string }

// NewTap listens on a free port of the loopback address and passes on to the
// URL next.
func NewTap(next string) (*Tap, error) {
	target, err := url.Parse(next)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &Tap{URL: "http://" + l.Addr().String(), seen: map[string]map[Form]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: t.note,
		Transport:      &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true},
	}
	t.server = &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	go func() { _ = t.server.Serve(l) }()
	return t, nil
}

func (t *Tap) note(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	signal := strings.TrimPrefix(resp.Request.URL.Path, "/v1/")
	header := resp.Request.Header
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[signal] == nil {
		t.seen[signal] = map[Form]int{}
	}
	t.seen[signal][Form{header.Get("Content-Type"), header.Get("Content-Encoding")}]++
	return nil
}

// Seen returns how many requests with a signal were accepted in each form.
func (t *Tap) Seen(signal string) map[Form]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.seen[signal])
}

// Close stops listening.
func (t *Tap) Close() { _ = t.server.Close() }
