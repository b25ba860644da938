package guest

import (
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/fakertmr"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var lab = tdxlab.New("guest")

// configfs imitates configfs-tsm, with quotes of the lab.
type configfs struct {
	configfsi.Client
	rtmrs *fakertmr.RtmrSubsystem // nil without
	block chan struct{}           // a quote is made when it is closed
	quote func(reportData [64]byte) []byte
	name  string
	made  atomic.Int32
}

func newConfigfs() *configfs {
	c := &configfs{name: "tdx_guest\n", quote: func(d [64]byte) []byte { return lab.Quote(d) }}
	reports := faketsm.ReportV7(0)
	make3 := reports.MakeEntry
	reports.MakeEntry = func() *faketsm.ReportEntry { c.made.Add(1); return make3() }
	reports.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		switch attr {
		case "outblob":
			if c.block != nil {
				<-c.block
			}
			if len(e.InAttrs["inblob"].Value) != 64 {
				return nil, syscall.EINVAL
			}
			return c.quote([64]byte(e.InAttrs["inblob"].Value)), nil
		default:
			return nil, os.ErrNotExist
		}
	}
	c.Client = &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": reports}}
	return c
}

// The library's imitation of registers goes by another directory.
func (c *configfs) ReadDir(dir string) ([]os.DirEntry, error) {
	if c.rtmrs != nil {
		return c.rtmrs.ReadDir(dir)
	}
	return c.Client.ReadDir(dir)
}

func (c *configfs) MkdirTemp(dir, pattern string) (string, error) {
	if strings.Contains(dir, "/rtmrs") {
		name, err := c.rtmrs.MkdirTemp(dir, pattern)
		if err == nil {
			// The kernel's register begins with zeros, the library's with nothing.
			err = c.rtmrs.WriteAttr(filepath.Join(c.rtmrs.Path, filepath.Base(name)), "index", []byte("3"), map[int]bool{})
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(c.rtmrs.Path, filepath.Base(name), "digest"), make([]byte, 48), 0o600)
		}
		return name, err
	}
	return c.Client.MkdirTemp(dir, pattern)
}

func (c *configfs) ReadFile(name string) ([]byte, error) {
	if strings.Contains(name, "/rtmrs/") {
		return c.rtmrs.ReadFile(name)
	}
	if filepath.Base(name) == "provider" {
		return []byte(c.name), nil // the library's imitation has none before a report
	}
	return c.Client.ReadFile(name)
}

func (c *configfs) WriteFile(name string, b []byte) error {
	if dir, attr := filepath.Split(name); attr == "digest" {
		// The library's imitation extends something else than what is written.
		path := filepath.Join(c.rtmrs.Path, filepath.Base(dir), attr)
		held, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		next := statement.Extend([48]byte(held), [48]byte(b))
		return os.WriteFile(path, next[:], 0o600)
	}
	if strings.Contains(name, "/rtmrs/") {
		return c.rtmrs.WriteFile(name, b)
	}
	return c.Client.WriteFile(name, b)
}

func (c *configfs) open(t *testing.T, measurement string) (Guest, error) {
	return openKernel(t.Context(), interfaces{
		tsm:         func() (configfsi.Client, error) { return c, nil },
		measurement: measurement, rtmrs: map[bool]string{true: t.TempDir(), false: "/nowhere"}[c.rtmrs != nil],
	})
}

func (c *configfs) started(t *testing.T, measurement string) Guest {
	t.Helper()
	g, err := c.open(t, measurement)
	require.NoError(t, err)
	return g
}

func TestQuoteOfTheKernel(t *testing.T) {
	c := newConfigfs()
	g := c.started(t, "/nowhere")
	quote, err := g.Quote(t.Context(), [64]byte{1})
	require.NoError(t, err)
	data, err := tdx.ReportData(quote)
	require.NoError(t, err)
	require.Equal(t, [64]byte{1}, data)
	ppid, err := PPID(quote)
	require.NoError(t, err)
	require.Len(t, ppid, 16)

	_, err = g.RTMR3(t.Context())
	require.ErrorIs(t, err, ErrReadOnly)
	require.ErrorIs(t, g.ExtendRTMR3(t.Context(), [48]byte{}), ErrReadOnly)
}

func TestMachineThatIsNoTDIsRefused(t *testing.T) {
	c := newConfigfs()
	c.name = "sev_guest\n"
	_, err := c.open(t, "/nowhere")
	require.ErrorIs(t, err, ErrNoTDX)
	_, err = openKernel(t.Context(), interfaces{tsm: func() (configfsi.Client, error) { return nil, fs.ErrNotExist }})
	require.ErrorIs(t, err, ErrNoTDX)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestQuoteOverSomethingElseIsRefused(t *testing.T) {
	for name, quote := range map[string]func([64]byte) []byte{
		"other report data": func([64]byte) []byte { return lab.Quote([64]byte{2}) },
		"too short":         func([64]byte) []byte { return []byte("quote") },
		"too long":          func(d [64]byte) []byte { return append(lab.Quote(d), make([]byte, tdx.MaxQuote)...) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfigfs()
			c.quote = quote
			_, err := c.started(t, "/nowhere").Quote(t.Context(), [64]byte{1})
			require.ErrorContains(t, err, "get a quote")
		})
	}
}

// The kernel cannot be interrupted: the caller goes, whoever comes next waits for
// the call that still runs.
func TestKernelThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConfigfs()
		path := filepath.Join(t.TempDir(), "rtmr3:sha384")
		require.NoError(t, os.WriteFile(path, make([]byte, 48), 0o600))
		g := c.started(t, path)
		c.block = make(chan struct{})
		before := c.made.Load()
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			start := time.Now()
			_, err := g.Quote(ctx, [64]byte{1})
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 30*time.Second, time.Since(start))
		}
		require.Equal(t, before+1, c.made.Load(), "no second call while the first runs")
		_, err := g.RTMR3(t.Context())
		require.NoError(t, err, "the register does not wait")
		close(c.block)
		synctest.Wait()
		_, err = g.Quote(t.Context(), [64]byte{1})
		require.NoError(t, err)
	})
}

func TestMeasurementFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rtmr3:sha384")
	require.NoError(t, os.WriteFile(path, make([]byte, 48), 0o600))
	g := newConfigfs().started(t, path)
	got, err := g.RTMR3(t.Context())
	require.NoError(t, err)
	require.Equal(t, [48]byte{}, got)
	// A plain file keeps what is written: the 48 bytes at offset 0 that the kernel
	// would extend.
	require.NoError(t, g.ExtendRTMR3(t.Context(), [48]byte{7, 47: 9}))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	digest := [48]byte{7, 47: 9}
	require.Equal(t, digest[:], b)

	for _, size := range []int{0, 47, 49, 4096} {
		require.NoError(t, os.WriteFile(path, make([]byte, size), 0o600))
		_, err = g.RTMR3(t.Context())
		require.ErrorContains(t, err, "in place of 48")
	}
}

func TestMeasurementFileThatFailsIsNotTakenForNone(t *testing.T) {
	dir := t.TempDir() // opens, and cannot be written to
	_, err := newConfigfs().open(t, dir)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrReadOnly)
}

func TestRegistersOfConfigfs(t *testing.T) {
	c := newConfigfs()
	c.rtmrs = fakertmr.CreateRtmrSubsystem(t.TempDir())
	require.NoError(t, os.MkdirAll(c.rtmrs.Path, 0o700))
	g := c.started(t, "/nowhere")
	want := [48]byte{}
	for i := range byte(3) {
		got, err := g.RTMR3(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, g.ExtendRTMR3(t.Context(), [48]byte{i}))
		want = statement.Extend(want, [48]byte{i})
	}
	again := c.started(t, "/nowhere")
	got, err := again.RTMR3(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func mockOf(t *testing.T, s *tdxlab.Server, path string) Guest {
	t.Helper()
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	g, err := Open(t.Context(), Options{Mock: server.URL + path})
	require.NoError(t, err)
	return g
}

func TestMockQuotesAndRegister(t *testing.T) {
	for _, path := range []string{"", "/", "/td/one"} {
		g := mockOf(t, &tdxlab.Server{Lab: lab}, path)
		require.NoError(t, g.ExtendRTMR3(t.Context(), [48]byte{1}))
		require.NoError(t, g.ExtendRTMR3(t.Context(), [48]byte{2}))
		want := statement.Extend(statement.Extend([48]byte{}, [48]byte{1}), [48]byte{2})
		got, err := g.RTMR3(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, got)
		quote, err := g.Quote(t.Context(), [64]byte{1})
		require.NoError(t, err)
		in, err := tdx.RTMR3(quote)
		require.NoError(t, err)
		require.Equal(t, want, in)
		ppid, err := PPID(quote)
		require.NoError(t, err)
		require.Len(t, ppid, 16)
	}
}

func TestMockWithoutRegister(t *testing.T) {
	g := mockOf(t, &tdxlab.Server{Lab: lab, ReadOnly: true}, "")
	_, err := g.RTMR3(t.Context())
	require.ErrorIs(t, err, ErrReadOnly)
	require.ErrorIs(t, g.ExtendRTMR3(t.Context(), [48]byte{}), ErrReadOnly)
	_, err = g.Quote(t.Context(), [64]byte{})
	require.NoError(t, err)
}

func TestMockServerIsNotBelievedWithoutBounds(t *testing.T) {
	elsewhere := httptest.NewServer((&tdxlab.Server{Lab: lab}).Handler())
	defer elsewhere.Close()
	for name, h := range map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, _ *http.Request) { writeForever(w) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		},
		"error":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"other data":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(lab.Quote([64]byte{9})) },
		"short answer": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("00")) },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(h)
			defer server.Close()
			g, err := Open(t.Context(), Options{Mock: server.URL})
			require.NoError(t, err)
			_, err = g.Quote(t.Context(), [64]byte{})
			require.Error(t, err)
			require.Less(t, len(err.Error()), 600)
			_, err = g.RTMR3(t.Context())
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrReadOnly)
		})
	}
}

func TestMockServerThatHangsIsGivenUp(t *testing.T) {
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer server.Close()
	defer close(done)
	g, err := Open(t.Context(), Options{Mock: server.URL})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = g.Quote(ctx, [64]byte{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestMockThatIsNoURLIsRefused(t *testing.T) {
	for _, base := range []string{"127.0.0.1:8081", "ftp://host", "http://", "http://a:b@host", "http://host#x", "http://\x00"} {
		_, err := Open(t.Context(), Options{Mock: base})
		require.Error(t, err, base)
	}
}

func TestPPIDOfWhatIsNoQuote(t *testing.T) {
	_, err := PPID([]byte("quote"))
	require.Error(t, err)
	_, err = PPID(lab.Quote([64]byte{}, func(q *tdxlab.Quote) { q.InnerType = 3 }))
	require.ErrorContains(t, err, "ppid_encrypted")
}

func writeForever(w http.ResponseWriter) {
	for {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}
