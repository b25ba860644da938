package workload

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// standIn answers on a socket instead of Podman.
func standIn(t *testing.T, version string, handler http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Libpod-API-Version", version)
		if r.URL.Path != "/_ping" {
			handler(w, r)
		}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func TestVersionsOfTheAPI(t *testing.T) {
	for version, ok := range map[string]bool{
		"4.3.0": true, "4.3.1": true, "4.9.4": true, "5.0.0": true, "5.8.2": true,
		"": false, "4.2.9": false, "3.4.4": false, "6.0.0": false, "4.3": false, "4.3.1-rc1": false, "04.3.1": false, "5.0.0/../x": false, "99999.0.0": false,
	} {
		require.Equal(t, ok, supported(version), version)
	}
	socket := standIn(t, "3.4.4", func(http.ResponseWriter, *http.Request) {})
	_, err := Open(t.Context(), Options{Socket: socket})
	require.Equal(t, PodmanUnsupported, ReasonOf(err))
}

func TestHostWithoutConfinementIsRefused(t *testing.T) {
	for _, info := range []string{
		`{}`, `{"host":{"security":{"seccompEnabled":false}}}`, `{"host":{"security":{"seccompEnabled":true,"rootless":true}}}`,
		`{"host":{"security":{"seccompEnabled":true,"seccompProfilePath":"/nonexistent"}}}`,
	} {
		socket := standIn(t, "5.0.0", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, info) })
		_, err := Open(t.Context(), Options{Socket: socket})
		require.Equal(t, HostUnsuitable, ReasonOf(err), info)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	socket := standIn(t, "5.0.0", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			<-r.Context().Done()
			return
		}
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte{' '}, 64<<10)); err != nil {
				return
			}
		}
	})
	c, err := dial(t.Context(), socket)
	require.NoError(t, err)
	var into map[string]any
	require.ErrorContains(t, c.call(t.Context(), http.MethodGet, "/endless", nil, nil, &into), "longer than")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Equal(t, PodmanTimeout, ReasonOf(c.call(ctx, http.MethodGet, "/slow", nil, nil, &into)))
	_, err = c.hijack(t.Context(), "/endless", nil)
	require.ErrorContains(t, err, "did not hand over")
}

func TestProgressOfAPull(t *testing.T) {
	said, err := readPull(strings.NewReader(`{"stream":"a"}` + "\n" + `{"id":"x"}` + "\n"))
	require.NoError(t, err)
	require.Empty(t, said)
	said, err = readPull(strings.NewReader(`{"stream":"a"}` + "\n"))
	require.NoError(t, err)
	require.NotEmpty(t, said, "an end without an image")
	said, err = readPull(strings.NewReader(`{"error":"bad"}` + "\n" + `{"id":"x"}` + "\n"))
	require.NoError(t, err)
	require.Equal(t, "bad", said)
	_, err = readPull(strings.NewReader("not JSON\n"))
	require.Error(t, err)
	_, err = readPull(strings.NewReader(strings.Repeat("x", maxPullLine+1)))
	require.Error(t, err)
}

func frame(stream byte, content string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(content))), content...)
}

func TestFrames(t *testing.T) {
	in := append(append(frame(1, "out"), frame(2, "err")...), frame(1, "more")...)
	var out, errs bytes.Buffer
	require.NoError(t, demux(&out, &errs, bytes.NewReader(in)))
	require.Equal(t, "outmore", out.String())
	require.Equal(t, "err", errs.String())
	for i := 1; i < 11; i++ {
		require.ErrorIs(t, demux(io.Discard, io.Discard, bytes.NewReader(in[:i])), io.ErrUnexpectedEOF, i)
	}
	require.ErrorIs(t, demux(io.Discard, io.Discard, bytes.NewReader(frame(3, "x"))), errFrame)
	require.ErrorIs(t, demux(io.Discard, io.Discard, strings.NewReader("\x01\x00\x01\x00\x00\x00\x00\x00")), errFrame)
	// 4 GiB are announced, and not allocated.
	require.ErrorIs(t, demux(io.Discard, io.Discard, strings.NewReader("\x01\x00\x00\x00\xff\xff\xff\xffx")), io.ErrUnexpectedEOF)
}

// Frames that are taken carry every byte but their headers.
func FuzzFrames(f *testing.F) {
	f.Add(append(frame(1, "out"), frame(2, "err")...))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out, errs bytes.Buffer
		err := demux(&out, &errs, bytes.NewReader(in))
		total := out.Len() + errs.Len()
		require.LessOrEqual(t, total, len(in))
		if err == nil {
			require.Zero(t, (len(in)-total)%frameHeader)
		}
	})
}

func TestTailKeepsTheEnd(t *testing.T) {
	last := &tail{max: 4}
	for _, s := range []string{"ab", "cd", "ef", "0123456789"} {
		n, err := io.WriteString(last, s)
		require.NoError(t, err)
		require.Len(t, s, n)
		require.LessOrEqual(t, last.buf.Len(), 4)
	}
	require.Equal(t, "6789", last.buf.String())
}
