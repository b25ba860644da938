package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// seen is an upstream that keeps and answers each request that it reads in the bytes
// it is sent, and keeps what it has of one that is cut off in its body. The proxy
// cuts one off when its client has gone, as every client here has once it has spoken.
func seen(t *testing.T) (address string, requests func() []string) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	var mu sync.Mutex
	var got []string
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					b, err := io.ReadAll(req.Body)
					end := ""
					if err != nil {
						end = " cut off"
					}
					mu.Lock()
					got = append(got, fmt.Sprintf("%s %s %q%s", req.Method, req.RequestURI, b, end))
					mu.Unlock()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}()
		}
	}()
	return ln.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// A request that two readers would cut differently is refused, or reaches the
// workload with one framing.
func TestRequestsAreNotSmuggled(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want []string // what the workload may have seen
	}{
		"both lengths, chunked": {
			"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
			[]string{`POST /a ""`, `POST /a "" cut off`, `GET /smuggled ""`}, // the client's own second request, as everybody reads it
		},
		"two lengths":             {"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"list of lengths":         {"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 5\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"signed length":           {"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", nil},
		"obscured coding":         {"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"two codings":             {"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"coding with a tab":       {"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"space before the colon":  {"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"chunked in HTTP/1.0":     {"POST /a HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", []string{`POST /a "0\r\n\r\n"`, `POST /a "" cut off`}},
		"chunk size too large":    {"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nx\r\n0\r\n\r\n", []string{`POST /a "" cut off`}},
		"length in the Upgrade":   {"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", []string{`GET /a ""`}},
		"another host in the URI": {"GET http://169.254.169.254/meta HTTP/1.1\r\nHost: x\r\n\r\n", []string{`GET /meta ""`}},
		"tunnel":                  {"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 10.0.0.1:22\r\n\r\n", nil},
		"trace":                   {"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		"two hosts":               {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", nil},
		"header in a header":      {"GET / HTTP/1.1\r\nHost: x\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			address, requests := seen(t)
			f := started(t, address)
			conn := f.dial(t)
			_, err := io.WriteString(conn, c.raw)
			require.NoError(t, err)
			require.NoError(t, conn.CloseWrite())
			_, _ = io.ReadAll(conn)
			for _, got := range requests() {
				require.Contains(t, c.want, got)
			}
		})
	}
}
