package tpmattest_test

import (
	"crypto/rand"
	"crypto/x509"
	"testing"

	"github.com/google/go-eventlog/testdata"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

func BenchmarkMakeCredential(b *testing.B) {
	for _, name := range []string{"ek-rsa", "ek-p256", "ek-p384"} {
		b.Run(name, func(b *testing.B) {
			public := corpus(b, name)
			for b.Loop() {
				ek, err := tpmattest.ParseEK(public)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := tpmattest.MakeCredential(rand.Reader, ek, ek.Name, zero); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerifyCertify(b *testing.B) {
	a := &api.Attestation{Attest: corpus(b, "certify"), Signature: corpus(b, "certify-signature")}
	akPublic, keyPublic, q := corpus(b, "ak"), corpus(b, "key"), question("corpus")
	for b.Loop() {
		ak, err := tpmattest.ParseAK(akPublic)
		if err != nil {
			b.Fatal(err)
		}
		key, err := tpmattest.ParseKey(keyPublic)
		if err != nil {
			b.Fatal(err)
		}
		if err := tpmattest.VerifyCertify(a, ak, key, q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyEKCertificate(b *testing.B) {
	ek, err := tpmattest.ParseEK(corpus(b, "ek-p256"))
	if err != nil {
		b.Fatal(err)
	}
	root, err := x509.ParseCertificate(corpus(b, "root"))
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	leaf, issuing := corpus(b, "ek-certificate"), corpus(b, "issuing")
	for b.Loop() {
		if _, err := tpmattest.VerifyEKCertificate(leaf, ek, roots, nil, [][]byte{issuing}, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyEventLog(b *testing.B) {
	b.SetBytes(int64(len(testdata.Rhel8EventLog)))
	for b.Loop() {
		if err := tpmattest.VerifyEventLog(testdata.Rhel8EventLog, nil); err != nil {
			b.Fatal(err)
		}
	}
}
