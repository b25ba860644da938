package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	maxAnswer  = 4 << 20          // of one JSON document
	callTime   = 60 * time.Second // of one call that does not pull
	podmanHelp = "install podman, netavark, aardvark-dns and iptables (and runc or crun), then `systemctl enable --now podman.socket`"
)

// client speaks HTTP with Podman.
type client struct {
	http   *http.Client
	socket string
	prefix string // /v4.3.1/libpod, as negotiated
}

// statusError is an answer of Podman with a status of 400 or more.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("podman answered %d: %.300q", e.status, e.message)
}

func notFound(err error) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.status == http.StatusNotFound
}

// dial connects to the socket and agrees on the version.
func dial(ctx context.Context, socket string) (*client, error) {
	c := &client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableCompression:     true,
		MaxIdleConns:           4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}}}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman/_ping", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, &Error{PodmanTimeout, fmt.Sprintf("ask podman at %s", socket), err}
		}
		return nil, &Error{PodmanMissing, fmt.Sprintf("no podman at %s: %s", socket, podmanHelp), err}
	}
	defer func() { _ = resp.Body.Close() }()
	version := resp.Header.Get("Libpod-API-Version")
	if !supported(version) {
		return nil, refuse(PodmanUnsupported, "podman at %s speaks API %.32q; versions 4.3 to 5.x are known here", socket, version)
	}
	c.prefix = "/v" + version + "/libpod"
	return c, nil
}

// supported takes X.Y.Z from 4.3.0 to below 6.
func supported(version string) bool {
	parts := strings.Split(version, ".")
	if len(parts) != 3 {
		return false
	}
	var n [3]uint64
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, 16)
		if err != nil || part != strconv.FormatUint(v, 10) {
			return false
		}
		n[i] = v
	}
	return n[0] == 4 && n[1] >= 3 || n[0] == 5
}

// do sends a request. The caller closes the body of the answer.
func (c *client) do(ctx context.Context, method, path string, query url.Values, body any, header http.Header) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://podman"+c.prefix+path, content)
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = query.Encode()
	maps.Copy(req.Header, header)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(err)
	}
	return refused(resp)
}

// refused turns an answer of 400 or more into its error and closes it.
func refused(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var said struct {
		Message string `json:"message"`
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, &said) != nil {
		said.Message = string(b)
	}
	return nil, &statusError{resp.StatusCode, said.Message}
}

// failed gives an error of the transport its reason.
func (c *client) failed(err error) error {
	// The URL in front says nothing and may hold names.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{PodmanTimeout, "wait for podman", err}
	case errors.Is(err, context.Canceled):
		return err
	default:
		return &Error{PodmanMissing, fmt.Sprintf("reach podman at %s", c.socket), err}
	}
}

// call sends a request with the usual time limit and reads its whole answer
// into what answer points to, unless that is nil.
func (c *client) call(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := c.do(ctx, method, path, query, body, nil)
	if err != nil {
		return err
	}
	return c.answer(resp, path, answer)
}

// answer reads an answer to its end, into what answer points to unless that is
// nil, and closes it.
func (c *client) answer(resp *http.Response, path string, answer any) error {
	resp, err := refused(resp)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.failed(err)
	}
	if len(b) > maxAnswer {
		return refuse(PodmanFailed, "podman's answer to %s is longer than %d bytes", path, maxAnswer)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return &Error{PodmanFailed, "read podman's answer to " + path, err}
	}
	return nil
}

// hijack posts and takes over the connection for a stream in both directions.
func (c *client) hijack(ctx context.Context, path string, body any) (stream, error) {
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
	resp, err := c.do(ctx, http.MethodPost, path, nil, body, header)
	if err != nil {
		return nil, err
	}
	s, ok := resp.Body.(stream)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		_ = resp.Body.Close()
		return nil, refuse(PodmanFailed, "podman did not hand over the connection (status %d)", resp.StatusCode)
	}
	return s, nil
}

// stream is a connection whose writing side can be closed alone.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}
