package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// Quotes verifies quotes, and judges them by a policy
// (internal/tdx/collateral.Verifier does, and Unverified does not).
type Quotes interface {
	Verify(ctx context.Context, quote []byte, now time.Time) (*tdx.Verified, error)
}

// Options of New.
type Options struct {
	URL string // of the instance: http or https, host and port
	// Roots check the server's certificate. nil: the attestation vouches for the
	// connection.
	Roots  *x509.CertPool
	Quotes Quotes
	// Memory is what was seen before; nil for nothing.
	Memory Memory
	// Instance is the only instance key that is taken, from a registry perhaps;
	// empty takes any that attests itself.
	Instance ed25519.PublicKey
	// NewMeasurements takes other measurements than those at first, and remembers
	// them.
	NewMeasurements bool
	// Plaintext sends secrets over plain HTTP too.
	Plaintext bool
	// Legacy speaks the older form, to services without /v1/.
	Legacy bool
	Now    func() time.Time
	// Proxy says what is called through which proxy; by the environment when nil.
	Proxy func(*http.Request) (*url.URL, error)
}

// Channel is what a connection is worth.
type Channel string

// The channels.
const (
	Attested  Channel = "attested"  // TLS that ends in the instance
	Authority Channel = "authority" // TLS with somebody whom an authority vouches for
	Local     Channel = "local"     // plain HTTP that does not leave this machine
	Plain     Channel = "plain"     // plain HTTP
)

// Private reports whether nobody on the way reads what is sent.
func (c Channel) Private() bool { return c != Plain }

// Client speaks to one instance, of which it believes nothing. It is for one
// goroutine at a time.
type Client struct {
	o       Options
	base    string
	channel Channel
	http    *http.Client
}

// New returns a Client. It sends nothing yet.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%.128q is not the URL of an instance, like https://vm.example:3443", o.URL)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	c := &Client{o: o, base: strings.TrimRight(u.String(), "/"), channel: Plain}
	switch {
	case u.Scheme == "https" && o.Roots != nil:
		c.channel = Authority
	case u.Scheme == "https":
		c.channel = Attested
	case loopback(u.Hostname()):
		c.channel = Local
	}
	c.http = c.dialer(nil)
	return c, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Channel returns what connections are worth, once an attestation has come over
// one.
func (c *Client) Channel() Channel { return c.channel }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// dialer returns a client of HTTP. With pin, connections that do not end at this
// key are not used: SHA-256 of the SubjectPublicKeyInfo.
func (c *Client) dialer(pin []byte) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.o.Roots}
	if c.channel == Attested {
		config.InsecureSkipVerify = true // the attestation names the key; see the package comment
		config.ServerName = api.ServerName
		if pin != nil {
			config.VerifyConnection = func(s tls.ConnectionState) error {
				if key := keyOf(&s); !bytes.Equal(key, pin) {
					return doubt(TLSKeyMismatch, "the connection ends at the key %x, the instance has %x", key, pin)
				}
				return nil
			}
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: c.o.Proxy, TLSClientConfig: config,
			TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the server redirects, which no instance does: is this its address?")
		},
	}
}

// keyOf is SHA-256 of the SubjectPublicKeyInfo at the other end.
func keyOf(s *tls.ConnectionState) []byte {
	if s == nil || len(s.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
	return sum[:]
}

// answer is one that was a success.
type answer struct {
	status int
	key    []byte // of the connection
}

// call sends one request and reads the answer into a value.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, header http.Header, body []byte, into any) (*answer, error) {
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if header != nil {
		req.Header = header
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		// What was sent once is not sent again by itself: a step may have begun.
		req.GetBody = nil
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call the instance: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(resp.Body, api.MaxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the instance's answer: %w", err)
	case len(got) > api.MaxAnswer:
		return nil, doubt(AnswerMalformed, "%s answers with more than %d bytes", path, api.MaxAnswer)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted:
		return nil, refusal(resp, got)
	}
	if err := json.Unmarshal(got, into); err != nil {
		return nil, &Doubt{Reason: AnswerMalformed, Detail: path + " answers something that cannot be read: is this an instance of identityd?"}
	}
	return &answer{resp.StatusCode, keyOf(resp.TLS)}, nil
}

// refusal reads what the instance refused with. What is no refusal of an instance
// (a proxy's page) is not repeated.
func refusal(resp *http.Response, content []byte) error {
	var body api.Error
	if err := json.Unmarshal(content, &body); err != nil || body.Reason == "" {
		return fmt.Errorf("the server answered %d %s, without a reason: is this the address of an instance, and is it http or https?", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	reason := bounded(body.Reason, 64)
	return &Refusal{
		Status: resp.StatusCode, Reason: reason, RetryAfter: max(body.RetryAfter, 0),
		Detail: strings.TrimPrefix(bounded(body.Error, 1024), reason+": "), Help: bounded(body.Help, 1024),
	}
}

// bounded cuts what a server says, and takes out what could command a terminal.
func bounded(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Pubkey asks for the instance key.
func (c *Client) Pubkey(ctx context.Context) (ed25519.PublicKey, error) {
	var out api.Pubkey
	if _, err := c.call(ctx, http.MethodGet, api.PathPubkey, nil, nil, nil, &out); err != nil {
		return nil, err
	}
	if len(out.Pubkey) != ed25519.PublicKeySize {
		return nil, doubt(AnswerMalformed, "an instance key of %d bytes", len(out.Pubkey))
	}
	return ed25519.PublicKey(out.Pubkey), nil
}

// State asks how it stands. Nothing vouches for the answer.
func (c *Client) State(ctx context.Context) (*api.State, error) {
	var out api.State
	_, err := c.call(ctx, http.MethodGet, api.PathState, nil, nil, nil, &out)
	return &out, err
}
