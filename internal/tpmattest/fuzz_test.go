package tpmattest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-eventlog/testdata"
	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

// corpus reads a file of testdata/evidence, which holds what a TPM said once.
func corpus(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "evidence", name))
	require.NoError(t, err)
	b, err := hex.DecodeString(string(bytes.TrimSpace(content)))
	require.NoError(t, err)
	return b
}

// known fails for errors that are no refusals for a reason.
func known(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		reason := api.ReasonOf(err)
		require.True(t, reason.Known() && reason != api.Internal, "%v", err)
	}
}

// FuzzPublic: what is accepted is what go-tpm reads too, with the same Name,
// and it has one encoding.
func FuzzPublic(f *testing.F) {
	for _, name := range []string{"ek-rsa", "ek-p256", "ek-p384", "ak", "key"} {
		f.Add(corpus(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ek, err := tpmattest.ParseEK(b)
		known(t, err)
		ak, akErr := tpmattest.ParseAK(b)
		known(t, akErr)
		key, keyErr := tpmattest.ParseKey(b)
		known(t, keyErr)
		if err != nil && akErr != nil && keyErr != nil {
			return
		}
		p, parseErr := tpm2.Unmarshal[tpm2.TPMTPublic](b)
		require.NoError(t, parseErr)
		require.Equal(t, b, tpm2.Marshal(*p))
		name := goName(t, b)
		accepted := 0
		if err == nil {
			accepted++
			require.Equal(t, name, ek.Name)
			_, err := tpmattest.MakeCredential(bytes.NewReader(make([]byte, 1<<10)), ek, name, zero)
			known(t, err)
		}
		if akErr == nil {
			accepted++
			require.Equal(t, name, ak.Name)
		}
		if keyErr == nil {
			accepted++
			require.Equal(t, name, key.Name)
		}
		require.Equal(t, 1, accepted, "one key of two kinds")
	})
}

// FuzzEKCertificate: nothing but what the authority signed is taken, whatever is
// changed in it. (Of an ECDSA signature there are two that are good.)
func FuzzEKCertificate(f *testing.F) {
	ek, err := tpmattest.ParseEK(corpus(f, "ek-p256"))
	require.NoError(f, err)
	root, err := x509.ParseCertificate(corpus(f, "root"))
	require.NoError(f, err)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	leaf, issuing := corpus(f, "ek-certificate"), corpus(f, "issuing")
	f.Add(leaf, issuing)
	f.Add(issuing, leaf)
	f.Add(corpus(f, "swtpm-certificate"), corpus(f, "root"))
	_, err = tpmattest.VerifyEKCertificate(leaf, ek, roots, nil, [][]byte{issuing}, now)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, der, extra []byte) {
		_, err := tpmattest.VerifyEKCertificate(der, ek, roots, nil, [][]byte{extra}, now)
		known(t, err)
		if bytes.Equal(der, leaf) && bytes.Equal(extra, issuing) {
			require.NoError(t, err)
		}
		if err == nil {
			require.Equal(t, signed(t, leaf), signed(t, der))
			require.Equal(t, signed(t, issuing), signed(t, extra))
		}
		if cert, err := x509.ParseCertificate(der); err == nil {
			_, err := tpmattest.ModelOf(cert)
			known(t, err)
		}
	})
}

// signed returns what an authority signed of a certificate.
func signed(t *testing.T, der []byte) []byte {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert.RawTBSCertificate
}

// FuzzCertify: of everything that is made from a good certification, only that
// one is taken; but for the signature, which ECDSA lets anybody change.
func FuzzCertify(f *testing.F) {
	ak, err := tpmattest.ParseAK(corpus(f, "ak"))
	require.NoError(f, err)
	key, err := tpmattest.ParseKey(corpus(f, "key"))
	require.NoError(f, err)
	attest := corpus(f, "certify")
	f.Add(attest, corpus(f, "certify-signature"))
	f.Add(corpus(f, "quote"), corpus(f, "quote-signature"))
	f.Fuzz(func(t *testing.T, b, signature []byte) {
		err := tpmattest.VerifyCertify(&api.Attestation{Attest: b, Signature: signature}, ak, key, question("corpus"))
		known(t, err)
		if err == nil {
			require.Equal(t, attest, b)
		}
	})
}

// FuzzQuote is FuzzCertify for quotes, and for their values.
func FuzzQuote(f *testing.F) {
	ak, err := tpmattest.ParseAK(corpus(f, "ak"))
	require.NoError(f, err)
	quote := corpus(f, "quote")
	f.Add(quote, corpus(f, "quote-signature"), zero, zero)
	f.Add(corpus(f, "certify"), corpus(f, "certify-signature"), zero, zero)
	f.Fuzz(func(t *testing.T, b, signature, first, second []byte) {
		q := &api.PCRQuote{Attestation: api.Attestation{Attest: b, Signature: signature}, PCRs: map[uint][]byte{0: first, 7: second}}
		err := tpmattest.VerifyQuote(q, ak, question("corpus"), []uint{0, 7})
		known(t, err)
		if err == nil {
			require.Equal(t, quote, b)
			require.Equal(t, [][]byte{zero, zero}, [][]byte{first, second})
		}
	})
}

// FuzzEventLog: an accepted log replays to one value.
func FuzzEventLog(f *testing.F) {
	f.Add(append(logHeader(11, 32), logEvent(7, evAction, question("a"), "data")...), extended(zero, question("a")))
	f.Add(append(logHeader(4, 20, 11, 32), logEvent(0, evNoAction, zero, "StartupLocality\x00\x03")...), zero)
	f.Add(testdata.Rhel8EventLog[:2048], zero)
	f.Fuzz(func(t *testing.T, log, value []byte) {
		err := tpmattest.VerifyEventLog(log, map[uint][]byte{7: value})
		known(t, err)
		if err != nil {
			return
		}
		require.Len(t, value, 32)
		other := patched(value, 0, ^value[0])
		refusedFor(t, api.EventLogMismatch, tpmattest.VerifyEventLog(log, map[uint][]byte{7: other}))
	})
}

// An empty folder would make the targets above find little.
func TestCorporaAreThere(t *testing.T) {
	for _, target := range []string{"FuzzPublic", "FuzzEKCertificate", "FuzzCertify", "FuzzQuote", "FuzzEventLog"} {
		files, err := os.ReadDir(filepath.Join("testdata", "fuzz", target))
		require.NoError(t, err)
		require.NotEmpty(t, files, target)
	}
}
