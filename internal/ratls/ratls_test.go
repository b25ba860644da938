package ratls_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/ratls"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var (
	now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	lab = tdxlab.New("ratls")
)

// verifier verifies against the lab's root, without collateral.
func verifier(quote []byte) (*ratls.Quoted, error) {
	if _, err := tdx.Authenticate(quote, tdx.Options{Roots: lab.Roots()}, now); err != nil {
		return nil, err
	}
	data, err := tdx.ReportData(quote)
	if err != nil {
		return nil, err
	}
	rtmr3, err := tdx.RTMR3(quote)
	return &ratls.Quoted{ReportData: data, RTMR3: rtmr3}, err
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// template is of a fresh instance.
func template(t testing.TB, key *ecdsa.PrivateKey) *ratls.Template {
	hash, err := ratls.KeyHash(&key.PublicKey)
	require.NoError(t, err)
	s := &statement.Statement{
		Version: 1, Instance: bytes.Repeat([]byte{1}, 32), Origin: bytes.Repeat([]byte{1}, 32), Boot: "boot-1",
		State: statement.Fresh, Counter: 1, TLSKey: hash, Log: statement.Log{Register: statement.RTMR3, Base: make([]byte, 48)},
	}
	raw, err := s.Encode()
	require.NoError(t, err)
	return &ratls.Template{
		Key: key, Statement: raw, Quote: lab.Quote(statement.AttestData(nil, raw)), Lifetime: time.Hour,
		Names: []string{"vm.example"}, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	}
}

func made(t testing.TB, tpl *ratls.Template) *x509.Certificate {
	der, err := ratls.Make(tpl, now)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func TestCertificateProvesItsInstance(t *testing.T) {
	cert := made(t, template(t, newKey(t)))
	r, err := ratls.Verify(cert, verifier, now)
	require.NoError(t, err)
	require.Equal(t, statement.Fresh, r.Facts.State)
	require.Equal(t, statement.ByRegister, r.Facts.Evidence)
	require.Equal(t, bytes.Repeat([]byte{1}, 32), []byte(r.Statement.Instance))
	require.Equal(t, now.Add(-5*time.Minute), r.Since)
	require.False(t, cert.IsCA)
	require.NoError(t, cert.VerifyHostname("vm.example"))
	require.NoError(t, cert.VerifyHostname("127.0.0.1"))
}

// raw makes a certificate of any form around an extension's value.
func raw(t testing.TB, key any, public any, value []byte, edits ...func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: ratls.OID, Value: value}},
	}
	for _, edit := range edits {
		edit(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func valueOf(t testing.TB, cert *x509.Certificate) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal(ratls.OID) {
			return e.Value
		}
	}
	require.Fail(t, "no extension")
	return nil
}

func TestForgedCertificatesAreRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	good := template(t, key)
	value := valueOf(t, made(t, good))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	foreign := func(v []byte) *x509.Certificate { return raw(t, other, &other.PublicKey, v) }
	wrapped := func(quote, said []byte) []byte {
		v, err := ratls.Wrap(quote, said)
		require.NoError(t, err)
		return v
	}
	for name, c := range map[string]struct {
		cert *x509.Certificate
		at   time.Time
		want ratls.Reason
	}{
		"ordinary":                  {raw(t, key, &key.PublicKey, value, func(c *x509.Certificate) { c.ExtraExtensions = nil }), now, ratls.NoEvidence},
		"empty extension":           {raw(t, key, &key.PublicKey, nil), now, ratls.NoEvidence},
		"another's evidence":        {foreign(value), now, ratls.OtherKey},
		"quote of another moment":   {raw(t, key, &key.PublicKey, wrapped(lab.Quote([64]byte{1}), good.Statement)), now, ratls.OtherReport},
		"quote for a nonce":         {raw(t, key, &key.PublicKey, wrapped(lab.Quote(statement.AttestData([]byte("nonce"), good.Statement)), good.Statement)), now, ratls.OtherReport},
		"expired":                   {made(t, good), now.Add(time.Hour), ratls.Expired},
		"not yet":                   {made(t, good), now.Add(-time.Hour), ratls.Expired},
		"valid for a year":          {raw(t, key, &key.PublicKey, value, func(c *x509.Certificate) { c.NotAfter = now.AddDate(1, 0, 0) }), now, ratls.Malformed},
		"authority":                 {raw(t, key, &key.PublicKey, value, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), now, ratls.Malformed},
		"critical extension":        {raw(t, key, &key.PublicKey, value, func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = true }), now, ratls.Malformed},
		"RSA":                       {raw(t, rsaKey, &rsaKey.PublicKey, value), now, ratls.Malformed},
		"P-384":                     {raw(t, p384, &p384.PublicKey, value), now, ratls.Malformed},
		"signed by another":         {raw(t, other, &key.PublicKey, value), now, ratls.BadSignature},
		"statement malformed":       {raw(t, key, &key.PublicKey, wrapped(good.Quote, append([]byte(" "), good.Statement...))), now, ratls.Malformed},
		"evidence with more behind": {raw(t, key, &key.PublicKey, append(bytes.Clone(value), 0)), now, ratls.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ratls.Verify(c.cert, verifier, c.at)
			var e *ratls.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.want, e.Reason)
			require.ErrorIs(t, err, &ratls.Error{Reason: c.want}, "without what caused it")
		})
	}
}

func TestQuoteIsVerifiedAndTheStatementJudged(t *testing.T) {
	key := newKey(t)
	tpl := template(t, key)
	refuse := errors.New("not our hardware")
	_, err := ratls.Verify(made(t, tpl), func([]byte) (*ratls.Quoted, error) { return nil, refuse }, now)
	require.ErrorIs(t, err, refuse)

	tpl.Quote = lab.Quote(statement.AttestData(nil, tpl.Statement), func(q *tdxlab.Quote) { q.RTMR[3][0] = 1 })
	_, err = ratls.Verify(made(t, tpl), verifier, now)
	require.ErrorIs(t, err, &statement.Error{Kind: statement.BadRegister})
	tpl.Quote = tdxlab.New("elsewhere").Quote(statement.AttestData(nil, tpl.Statement))
	_, err = ratls.Verify(made(t, tpl), verifier, now)
	require.ErrorContains(t, err, "verify the quote")
}

func TestOtherEncodingsOfEvidenceAreRefused(t *testing.T) {
	key := newKey(t)
	tpl := template(t, key)
	type rec = []any
	quote, said := rec{"application/vnd.telemark.tdx-quote", tpl.Quote, 4}, rec{"application/vnd.telemark.identity-statement+json", tpl.Statement, 4}
	const profile = "https://github.com/telemark-otel/telemark/ratls-v1"
	for name, body := range map[string]any{
		"profile missing":   map[string]any{"quote": quote, "statement": said},
		"another profile":   map[string]any{"quote": quote, "__cmwc_t": profile + "x", "statement": said},
		"another type":      map[string]any{"quote": rec{"application/eat+cwt", tpl.Quote, 4}, "__cmwc_t": profile, "statement": said},
		"another indicator": map[string]any{"quote": rec{quote[0], tpl.Quote, 8}, "__cmwc_t": profile, "statement": said},
		"no indicator":      map[string]any{"quote": quote[:2], "__cmwc_t": profile, "statement": said},
		"one more":          map[string]any{"quote": quote, "__cmwc_t": profile, "statement": said, "more": said},
		"one record":        quote,
		"tagged":            cbor.Tag{Number: 60001, Content: map[string]any{"quote": quote, "__cmwc_t": profile, "statement": said}},
		"deep":              strings.Repeat("\x81", 100),
		"no quote":          map[string]any{"quote": rec{quote[0], []byte{}, 4}, "__cmwc_t": profile, "statement": said},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := cbor.Marshal(body)
			require.NoError(t, err)
			v, err := asn1.Marshal(b)
			require.NoError(t, err)
			_, err = ratls.Extract(raw(t, key, &key.PublicKey, v), now)
			require.ErrorIs(t, err, &ratls.Error{Reason: ratls.Malformed})
			require.Less(t, len(err.Error()), 400)
		})
	}
	t.Run("too long", func(t *testing.T) {
		_, err := ratls.Extract(raw(t, key, &key.PublicKey, make([]byte, 128<<10)), now)
		require.ErrorIs(t, err, &ratls.Error{Reason: ratls.Malformed})
	})
}

func TestMakeRefusesWhatDoesNotFit(t *testing.T) {
	key := newKey(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	for name, edit := range map[string]func(*ratls.Template){
		"another key":       func(c *ratls.Template) { c.Key = newKey(t) },
		"no key":            func(c *ratls.Template) { c.Key = nil },
		"P-384":             func(c *ratls.Template) { c.Key = p384 },
		"another statement": func(c *ratls.Template) { c.Quote = lab.Quote([64]byte{1}) },
		"no quote":          func(c *ratls.Template) { c.Quote = nil },
		"no statement":      func(c *ratls.Template) { c.Statement = nil },
		"for ever":          func(c *ratls.Template) { c.Lifetime = 100 * time.Hour },
		"no time":           func(c *ratls.Template) { c.Lifetime = 0 },
		"many names":        func(c *ratls.Template) { c.Names = make([]string, 17) },
	} {
		t.Run(name, func(t *testing.T) {
			tpl := template(t, key)
			edit(tpl)
			_, err := ratls.Make(tpl, now)
			require.Error(t, err)
		})
	}
}

// shake is one handshake over a pipe.
func shake(t *testing.T, server *tls.Config, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Server(a, server)
		if c.HandshakeContext(t.Context()) == nil {
			_, _ = c.Write([]byte{1})
		}
	}()
	c := tls.Client(b, client)
	err := c.HandshakeContext(t.Context())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	_ = b.Close()
	<-done
	return err
}

func TestClientConnectsToAttestedInstancesOnly(t *testing.T) {
	key := newKey(t)
	tpl := template(t, key)
	der, err := ratls.Make(tpl, now)
	require.NoError(t, err)
	clock := func() time.Time { return now }
	server := func(chain ...[]byte) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
	}
	require.NoError(t, shake(t, server(der), ratls.Client(verifier, nil, clock)))

	other := errors.New("another instance")
	err = shake(t, server(der), ratls.Client(verifier, func(r *ratls.Result) error {
		require.Equal(t, statement.Fresh, r.Facts.State)
		return other
	}, clock))
	require.ErrorIs(t, err, other)

	plain := raw(t, key, &key.PublicKey, nil, func(c *x509.Certificate) { c.ExtraExtensions = nil })
	require.ErrorIs(t, shake(t, server(plain.Raw), ratls.Client(verifier, nil, clock)), &ratls.Error{Reason: ratls.NoEvidence})
	require.ErrorIs(t, shake(t, server(der, plain.Raw), ratls.Client(verifier, nil, clock)), &ratls.Error{Reason: ratls.Malformed})

	old := server(der)
	old.MaxVersion = tls.VersionTLS12
	require.Error(t, shake(t, old, ratls.Client(verifier, nil, clock)))
}

// A resumed session verifies again: what was good then may be revoked now.
func TestResumedSessionIsVerifiedAgain(t *testing.T) {
	key := newKey(t)
	der, err := ratls.Make(template(t, key), now)
	require.NoError(t, err)
	server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	calls := 0
	var trouble error
	client := ratls.Client(func(q []byte) (*ratls.Quoted, error) {
		calls++
		if trouble != nil {
			return nil, trouble
		}
		return verifier(q)
	}, nil, func() time.Time { return now })
	client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(1), "x"
	require.NoError(t, shake(t, server, client))
	trouble = errors.New("revoked")
	require.ErrorIs(t, shake(t, server, client), trouble)
	require.Equal(t, 2, calls)
}

func FuzzExtract(f *testing.F) {
	seeds, err := filepath.Glob("testdata/evidence/*.der")
	require.NoError(f, err)
	require.NotEmpty(f, seeds)
	for _, seed := range seeds {
		b, err := os.ReadFile(seed)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		quote, said, err := ratls.Unwrap(value)
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		again, err := ratls.Wrap(quote, said)
		require.NoError(t, err)
		require.Equal(t, value, again)
	})
}
