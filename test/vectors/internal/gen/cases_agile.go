package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// agileKey is a key of an algorithm of the second profile.
type agileKey struct {
	algorithm receipt.Algorithm
	public    crypto.PublicKey
	area      []byte // TPMT_PUBLIC
	sign      func(structure []byte) []byte
}

// newAgileAgent is newAgent with another key.
func newAgileAgent(name string, k *agileKey) *agent {
	a := newAgent(name)
	id := sha256.Sum256(k.area)
	a.agile, a.area, a.kid = k, k.area, append([]byte{0x00, 0x0b}, id[:]...)
	a.fetch(t0)
	return a
}

func p384Key(name string) *agileKey {
	key := privateKey(elliptic.P384(), name)
	point := must(key.PublicKey.Bytes())
	return &agileKey{
		algorithm: receipt.ES384, public: &key.PublicKey,
		area: area(tpm2.TPMAlgECC, tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA384}),
			},
			CurveID: tpm2.TPMECCNistP384,
		}), tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:49]}, Y: tpm2.TPM2BECCParameter{Buffer: point[49:]},
		})),
		sign: func(structure []byte) []byte { return signP384(key, structure) },
	}
}

func signP384(key *ecdsa.PrivateKey, structure []byte) []byte {
	digest := sha512.Sum384(structure)
	var parts struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(must(key.Sign(nil, digest[:], crypto.SHA384)), &parts); err != nil {
		panic(err)
	}
	out := make([]byte, 96)
	parts.R.FillBytes(out[:48])
	parts.S.FillBytes(out[48:])
	return out
}

// rsaTestKey is known to everybody, as all keys of the vectors.
//
//go:embed rsa-test-key.pem
var rsaTestKey []byte

// rsaKey signs with a salt of so many bytes, which is made of the message.
func rsaKey(salt int) *agileKey {
	encoded, _ := pem.Decode(rsaTestKey)
	key := must(x509.ParsePKCS1PrivateKey(encoded.Bytes))
	return &agileKey{
		algorithm: receipt.PS256, public: &key.PublicKey,
		area: area(tpm2.TPMAlgRSA, tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSAPSS,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		}), tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})),
		sign: func(structure []byte) []byte {
			digest := sha256.Sum256(structure)
			random := bytes.NewReader(bytes.Repeat(digest[:], 8))
			return must(rsa.SignPSS(random, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: salt}))
		},
	}
}

func area(typ tpm2.TPMAlgID, parameters tpm2.TPMUPublicParms, unique tpm2.TPMUPublicID) []byte {
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type:    typ,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true,
		},
		Parameters: parameters,
		Unique:     unique,
	})
}

// agile are receipts of the profile receipt-v1-agile, for TPMs without P-256.
func agile(b *book) {
	const fips, longest = 32, 222 // bytes of salt
	for _, c := range []struct {
		name, about string
		key         *agileKey
	}{
		{"ok-es384", "Signed with ES384, in the profile receipt-v1-agile.", p384Key("edge-a")},
		{"ok-ps256", "Signed with PS256 and the longest salt, as most TPMs do.", rsaKey(longest)},
		{"ok-ps256-short-salt", "Signed with PS256 and a salt of 32 bytes, as RFC 8230 has it.", rsaKey(fips)},
	} {
		a := newAgileAgent("edge-a", c.key)
		b.add(c.name, c.about, block.Logs, a).step(arrival, good(a.one(sample(block.Logs, "edge-a"), 0)))
	}
	spoilt := func(name, about string, key *agileKey, why reason.Reason, change func(*agent, *page)) {
		a, n := newAgileAgent("edge-a", key), newAgent("edge-b")
		p := b.add(name, about, block.Logs, a, n)
		change(a, p)
		p.step(arrival, refused(a.one(sample(block.Logs, "edge-a"), 0).bytes(), why), good(n.one(sample(block.Logs, "edge-b"), 0)))
	}
	mangled := func(key *agileKey, change func([]byte) []byte) *agileKey {
		k := *key
		k.sign = func(structure []byte) []byte { return change(key.sign(structure)) }
		return &k
	}
	flipped := func(sig []byte) []byte {
		sig[len(sig)-1] ^= 1
		return sig
	}
	nothing := func(*agent, *page) {}
	spoilt("agile-es384-signature-bit", "A bit of an ES384 signature is turned over.", mangled(p384Key("edge-a"), flipped), reason.SignatureInvalid, nothing)
	spoilt("agile-ps256-signature-bit", "A bit of a PS256 signature is turned over.", mangled(rsaKey(longest), flipped), reason.SignatureInvalid, nothing)
	spoilt("agile-algorithm-mismatch", "The receipt says PS256, the key's record ES384.", rsaKey(longest), reason.AlgorithmMismatch, func(a *agent, p *page) {
		other := p384Key("edge-a")
		p.Keys[0].Algorithm, p.Keys[0].PublicKey, p.Keys[0].TPMPublic = "ES384", pemOf(other.public), nil
	})
	spoilt("agile-curve-mismatch", "The key's record says ES384, its public key is on P-256.", p384Key("edge-a"), reason.CurveMismatch, func(a *agent, p *page) {
		p.Keys[0].PublicKey, p.Keys[0].TPMPublic, p.UnusualKeys = pemOf(&a.key.PublicKey), nil, true
	})
	spoilt("agile-signature-of-64-bytes", "An ES384 receipt with a signature of ES256's length.",
		mangled(p384Key("edge-a"), func(sig []byte) []byte { return sig[:64] }), reason.ReceiptMalformed, nothing)
	spoilt("agile-signature-of-256-bytes", "An ES384 receipt with a signature of PS256's length.",
		mangled(p384Key("edge-a"), func(sig []byte) []byte { return append(sig, make([]byte, 160)...) }), reason.ReceiptMalformed, nothing)
	forged := forger(b, 0)
	forged("agile-es256", "ES256 has its own profile, and is not of receipt-v1-agile.", reason.AlgorithmUnknown,
		forgery{claims: putting(265, receipt.ProfileAgile)})
}
