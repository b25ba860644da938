package guest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/telemark-otel/telemark/internal/tdx"
)

// mockTimeout bounds one call of the server, whatever the caller's context says.
const mockTimeout = 10 * time.Second

// mock is a Guest that takes everything from a server that forges it.
type mock struct {
	base   *url.URL
	client *http.Client

	quotes, registers queue
}

func openMock(base string) (Guest, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("mock quotes: %.120q is no URL such as http://127.0.0.1:8081", base)
	}
	return &mock{base: u, quotes: newQueue(), registers: newQueue(), client: &http.Client{
		Timeout: mockTimeout,
		// No proxy of the environment, and no redirect: whoever is asked makes
		// the machine's quotes.
		Transport:     &http.Transport{Proxy: nil, MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, ResponseHeaderTimeout: mockTimeout},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// call returns the body of an answer with status 200.
func (m *mock) call(ctx context.Context, method, what string, limit int64, path ...string) ([]byte, error) {
	turn := m.quotes
	if path[0] == "rtmr3" {
		turn = m.registers
	}
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: another call is under way: %w", what, ctx.Err())
	}
	req, err := http.NewRequestWithContext(ctx, method, m.base.JoinPath(path...).String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case path[0] == "rtmr3" && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed):
		return nil, fmt.Errorf("%s: %w", what, ErrReadOnly)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: the server answers %d: %.100q", what, resp.StatusCode, body)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("%s: the answer has more than %d bytes", what, limit)
	}
	return body, nil
}

// Quote implements Guest.
func (m *mock) Quote(ctx context.Context, reportData [64]byte) ([]byte, error) {
	quote, err := m.call(ctx, http.MethodGet, "get a mock quote", tdx.MaxQuote, "attest", hex.EncodeToString(reportData[:]))
	if err != nil {
		return nil, err
	}
	if quote, err = checked(quote, reportData); err != nil {
		return nil, fmt.Errorf("get a mock quote: %w", err)
	}
	return quote, nil
}

// RTMR3 implements Guest.
func (m *mock) RTMR3(ctx context.Context) ([48]byte, error) {
	body, err := m.call(ctx, http.MethodGet, "read the mock RTMR3", 128, "rtmr3")
	if err != nil {
		return [48]byte{}, err
	}
	b, err := hex.DecodeString(string(bytes.TrimSpace(body)))
	if err != nil {
		return [48]byte{}, errors.New("read the mock RTMR3: the answer is not 96 hexadecimal digits")
	}
	return register(b)
}

// ExtendRTMR3 implements Guest.
func (m *mock) ExtendRTMR3(ctx context.Context, digest [48]byte) error {
	_, err := m.call(ctx, http.MethodPost, "extend the mock RTMR3", 128, "rtmr3", hex.EncodeToString(digest[:]))
	return err
}
