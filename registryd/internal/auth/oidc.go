package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/telemark-otel/telemark/internal/limit"
)

const (
	providerTimeout = 10 * time.Second
	providerBody    = 1 << 20
	discoverEvery   = 5 * time.Second
	remembered      = 1024
	rememberFor     = time.Minute
)

// provider verifies ID tokens. The provider need not be there when registryd
// starts; it is asked for its keys with the first token.
type provider struct {
	issuer, audience, claim string
	roles                   map[string]Role
	client                  *http.Client
	// known are tokens that were good, so that each request does not cost a
	// signature.
	known *lru.Cache[[sha256.Size]byte, known]

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	asked    time.Time // last discovery that failed
}

type known struct {
	id    Identity
	until time.Time
}

func newProvider(f *FileOIDC) *provider {
	p := &provider{
		issuer: f.Issuer, audience: f.Audience, claim: f.Claim, roles: map[string]Role{},
		client: &http.Client{Timeout: providerTimeout, Transport: bounded{
			http.DefaultTransport, limit.NewTable(limit.Rate{Events: 1, Per: time.Second, Burst: 10}, 1),
		}},
	}
	for value, roles := range f.Roles {
		p.roles[value], _ = parseRoles("", roles, false)
	}
	p.known, _ = lru.New[[sha256.Size]byte, known](remembered) // fails for sizes below 1 only
	return p
}

// bounded cuts what a provider may answer, and how often it is asked: a token
// with a signature that is none of its keys' has them read again. What is
// limited is asking and not trying, so that forged tokens do not use up what
// honest ones need: those are verified with the keys that were read last.
type bounded struct {
	http.RoundTripper
	asks *limit.Table
}

var errAsked = errors.New("the provider was asked too often")

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if ok, _ := b.asks.Allow("", 1, time.Now()); !ok {
		return nil, errAsked
	}
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, providerBody), resp.Body}
	}
	return resp, err
}

func (p *provider) identify(ctx context.Context, raw string, now time.Time) (Identity, error) {
	sum := sha256.Sum256([]byte(raw))
	if k, ok := p.known.Get(sum); ok && now.Before(k.until) {
		return k.id, nil
	}
	v, err := p.discover(now)
	if err != nil {
		return Identity{}, err
	}
	t, err := v.Verify(oidc.ClientContext(ctx, p.client), raw)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	if !now.Before(t.Expiry) {
		return Identity{}, ErrCredentials
	}
	roles, err := p.rolesOf(t)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	id := Identity{Name: fmt.Sprintf("oidc:%.128s", t.Subject), Roles: roles, Expires: t.Expiry}
	until := now.Add(rememberFor)
	if t.Expiry.Before(until) {
		until = t.Expiry
	}
	p.known.Add(sum, known{id, until})
	return id, nil
}

// discover reads the provider's configuration once, and tries again later when
// that failed.
func (p *provider) discover(now time.Time) (*oidc.IDTokenVerifier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verifier != nil {
		return p.verifier, nil
	}
	if !p.asked.IsZero() && now.Sub(p.asked) < discoverEvery {
		return nil, ErrProvider
	}
	// The context lives as long as the key set that is made with it.
	made, err := oidc.NewProvider(oidc.ClientContext(context.Background(), p.client), p.issuer)
	if err != nil {
		p.asked = now
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	p.verifier = made.Verifier(&oidc.Config{ClientID: p.audience})
	return p.verifier, nil
}

func (p *provider) rolesOf(t *oidc.IDToken) (Role, error) {
	// It stands in the audit log, and on the screens of those who read it.
	if t.Subject == "" || !utf8.ValidString(t.Subject) || strings.ContainsFunc(t.Subject, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return 0, errors.New("the token names no subject, or one that cannot be shown")
	}
	var claims map[string]any
	if err := t.Claims(&claims); err != nil {
		return 0, fmt.Errorf("read claims: %w", err)
	}
	var roles Role
	switch v := claims[p.claim].(type) {
	case string:
		roles = p.roles[v]
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok {
				roles |= p.roles[s]
			}
		}
	}
	return roles, nil
}
