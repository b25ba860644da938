package ekroots_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/ekroots"
)

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
}

func TestSelfSignedCertificatesAreRootsAndOthersAreNot(t *testing.T) {
	lab, dir := attesttest.NewAuthority(t), t.TempDir()
	write(t, dir, "vendor/root.der", lab.Root.Raw)
	write(t, dir, "vendor/bundle.pem", append(encode(lab.Intermediate), encode(lab.Root)...))
	write(t, dir, ".git/config", []byte("nothing"))
	set, err := ekroots.Load(dir)
	require.NoError(t, err)
	require.Equal(t, 1, set.NumRoots)
	require.Equal(t, 1, set.NumIntermediates)
	_, err = lab.Intermediate.Verify(x509.VerifyOptions{Roots: set.Roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	require.NoError(t, err)

	again, err := ekroots.Load(dir)
	require.NoError(t, err)
	require.True(t, set.Same(again))
	write(t, dir, "other.pem", encode(attesttest.NewAuthority(t).Root))
	again, err = ekroots.Load(dir)
	require.NoError(t, err)
	require.False(t, set.Same(again))
	require.Equal(t, 2, again.NumRoots)
}

func TestFilesThatAreNoCertificatesAreNamed(t *testing.T) {
	lab := attesttest.NewAuthority(t)
	for name, content := range map[string][]byte{
		"readme.txt": []byte("certificates"),
		"key.pem":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"broken.pem": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"cut.der":    lab.Root.Raw[:100],
	} {
		dir := t.TempDir()
		write(t, dir, "root.der", lab.Root.Raw)
		write(t, dir, name, content)
		_, err := ekroots.Load(dir)
		require.ErrorContains(t, err, name)
	}
	dir := t.TempDir()
	write(t, dir, "intermediate.der", lab.Intermediate.Raw)
	_, err := ekroots.Load(dir)
	require.ErrorContains(t, err, "no self-signed certificate")
	_, err = ekroots.Load(filepath.Join(dir, "none"))
	require.Error(t, err)
}

func TestWithoutADirectoryNothingIsTrusted(t *testing.T) {
	set, err := ekroots.Load("")
	require.NoError(t, err)
	require.Zero(t, set.NumRoots+set.NumIntermediates)
	_, err = attesttest.NewAuthority(t).Intermediate.Verify(x509.VerifyOptions{Roots: set.Roots})
	require.Error(t, err)
}
