package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/test/harness"
)

// tunnel passes connections on, byte by byte, until it goes dark: then they stay
// open, and nothing moves in either direction.
type tunnel struct {
	URL string

	mu   sync.Mutex
	open chan struct{} // closed while bytes move
}

// tunnel makes a tunnel to the registry.
func (f *fleet) tunnel(to *harness.Registry) *tunnel {
	f.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f, err)
	t := &tunnel{URL: "http://" + l.Addr().String(), open: make(chan struct{})}
	close(t.open)
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(func() {
		cancel()
		_ = l.Close()
	})
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go t.carry(ctx, from, strings.TrimPrefix(to.URL, "http://"))
		}
	}()
	return t
}

func (t *tunnel) carry(ctx context.Context, from net.Conn, address string) {
	to, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		_ = from.Close()
		return
	}
	closeBoth := func() {
		_ = from.Close()
		_ = to.Close()
	}
	defer context.AfterFunc(ctx, closeBoth)()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			defer closeBoth()
			t.copy(ctx, way[1], way[0])
		})
	}
	both.Wait()
}

func (t *tunnel) copy(ctx context.Context, dst io.Writer, src io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
		t.mu.Lock()
		open := t.open
		t.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return
		}
		if n > 0 {
			if _, err := dst.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// dark stops the bytes, light lets them go on.
func (t *tunnel) dark() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = make(chan struct{})
}

func (t *tunnel) light() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.open)
}

// middleman is a proxy that reads what passes. It keeps every answer, and can
// answer with old ones instead of asking, or swallow answers.
type middleman struct {
	URL string

	target string

	mu      sync.Mutex
	kept    map[string][]*kept // by path, in their order
	old     bool               // answer with what was kept
	served  map[string]int     // old answers by path
	cut     []context.CancelFunc
	swallow map[string]func() // by path: called instead of passing the answer on
}

// kept is an answer; its body grows while it is passed on.
type kept struct {
	status int
	kind   string
	body   bytes.Buffer
}

func (f *fleet) middleman(to *harness.Registry) *middleman {
	m := &middleman{target: to.URL, kept: map[string][]*kept{}, served: map[string]int{}, swallow: map[string]func(){}}
	server := httptest.NewServer(m)
	f.Cleanup(func() {
		m.honest() // ends what hangs
		server.CloseClientConnections()
		server.Close()
	})
	m.URL = server.URL
	return m
}

// ServeHTTP implements http.Handler.
func (m *middleman) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	m.mu.Lock()
	m.cut = append(m.cut, cancel)
	var answer *kept
	if all := m.kept[r.URL.Path]; m.old && len(all) > 0 {
		answer = all[m.served[r.URL.Path]%len(all)]
		m.served[r.URL.Path]++
	}
	old := m.old
	m.mu.Unlock()
	switch {
	case answer != nil:
		m.repeat(ctx, w, answer)
	case old:
		http.Error(w, "nothing old is known", http.StatusBadGateway)
	default:
		m.pass(ctx, w, r)
	}
}

// repeat serves an old answer; a stream stays open behind it.
func (m *middleman) repeat(ctx context.Context, w http.ResponseWriter, answer *kept) {
	m.mu.Lock()
	body := bytes.Clone(answer.body.Bytes())
	m.mu.Unlock()
	w.Header().Set("Content-Type", answer.kind)
	w.WriteHeader(answer.status)
	_, _ = w.Write(body)
	_ = http.NewResponseController(w).Flush()
	if strings.HasPrefix(answer.kind, "text/event-stream") {
		<-ctx.Done()
	}
}

func (m *middleman) pass(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	out := r.Clone(ctx)
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host, _ = strings.Cut(m.target, "://")
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		http.Error(w, "out of reach", http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	m.mu.Lock()
	instead := m.swallow[r.URL.Path]
	answer := &kept{status: resp.StatusCode, kind: resp.Header.Get("Content-Type")}
	m.kept[r.URL.Path] = append(m.kept[r.URL.Path], answer)
	m.mu.Unlock()
	if instead != nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		instead()
		<-ctx.Done()
		return
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	control := http.NewResponseController(w)
	buffer := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buffer)
		m.mu.Lock()
		answer.body.Write(buffer[:n])
		m.mu.Unlock()
		if _, writeErr := w.Write(buffer[:n]); writeErr != nil || err != nil {
			return
		}
		_ = control.Flush()
	}
}

// replay answers with what was kept from now on, over new connections.
func (m *middleman) replay() { m.turn(true) }

// honest passes on again.
func (m *middleman) honest() { m.turn(false) }

func (m *middleman) turn(old bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.old = old
	for _, cut := range m.cut {
		cut()
	}
	m.cut = nil
}

// replayed is how many old answers were given.
func (m *middleman) replayed() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, served := range m.served {
		n += served
	}
	return n
}

// instead calls do with each answer to a path, and does not pass the answer on;
// nil passes it on.
func (m *middleman) instead(path string, do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.swallow[path] = do
	if do == nil {
		delete(m.swallow, path)
	}
}

// collectorBehind makes a collector of the fleet ask the registry elsewhere.
func collectorBehind(url string) string {
	return fmt.Sprintf("processors: {tpmverify: {keys: {registry: {endpoint: %q}}}}", url)
}

// agentBehind makes an agent enrol elsewhere.
func agentBehind(url string) string {
	return fmt.Sprintf("extensions: {tpm: {registry: {endpoint: %q}}}", url)
}
