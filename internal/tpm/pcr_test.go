package tpm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

func TestQuotedValuesAreThoseThatTheQuoteCovers(t *testing.T) {
	t.Parallel()
	d, _ := fixture(t)
	event := sha256.Sum256([]byte("boot"))
	_, err := ask(t.Context(), d, "extending", func(l *link) (nothing, error) {
		_, err := exec(l, tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 7, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: event[:]}}},
		})
		return nothing{}, err
	})
	require.NoError(t, err)

	nonce := []byte("quote me")
	all := make([]uint, maxPCR+1) // more than a TPM reads at once
	for i := range all {
		all[i] = uint(maxPCR - i)
	}
	for _, pcrs := range [][]uint{all, {7}, {23, 0, 7, 7}} {
		q, err := d.QuotePCRs(t.Context(), nonce, pcrs)
		require.NoError(t, err)
		quoted, err := verifyAttestation(t, &q.Attestation, nonce).Attested.Quote()
		require.NoError(t, err)
		require.Equal(t, quoted.PCRDigest.Buffer, digestPCRs(q.PCRs))
		zero := make([]byte, sha256.Size)
		want := sha256.Sum256(append(zero, event[:]...))
		require.Equal(t, want[:], q.PCRs[7])
		for pcr, value := range q.PCRs {
			require.Contains(t, pcrs, pcr)
			if pcr < 7 {
				require.Equal(t, zero, value)
			}
		}
	}
	_, err = d.QuotePCRs(t.Context(), nonce, []uint{24})
	require.ErrorContains(t, err, "PCR 24")
	objects, sessions := held(t, d)
	require.Equal(t, 1, objects)
	require.Equal(t, 1, sessions)
}

func TestChosenEKIsOneThatTheManufacturerCertified(t *testing.T) {
	t.Parallel()
	without, _ := fixture(t)
	chosen, err := without.ChooseEK(t.Context())
	require.NoError(t, err)
	require.Equal(t, EKECCP256, chosen)

	with := openDevice(t, "swtpm:"+t.TempDir(), Options{})
	chosen, err = with.ChooseEK(t.Context())
	require.NoError(t, err)
	require.Equal(t, EKECCP384, chosen)
	ek, err := with.EK(t.Context(), chosen)
	require.NoError(t, err)
	public, err := ek.PublicKey()
	require.NoError(t, err)
	require.True(t, certificateKey(t, ek.Certificate).Equal(public), "the template is that which the certificate was made for")
}

func TestEKAlgorithmsAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for _, a := range []EKAlgorithm{EKRSA2048, EKECCP256, EKECCP384} {
		got, err := ParseEKAlgorithm(a.String())
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	_, err := ParseEKAlgorithm("dsa" + string(bytes.Repeat([]byte{'x'}, 1000)))
	require.ErrorContains(t, err, "rsa2048")
	require.Less(t, len(err.Error()), 200)
	require.Equal(t, "unknown", EKAlgorithm(0).String())
}

// certificateKey is the key that a certificate is for.
func certificateKey(t *testing.T, der []byte) interface{ Equal(x crypto.PublicKey) bool } {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	key, ok := certificate.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	require.True(t, ok)
	return key
}

func TestCertificateChainInNVIsReadAcrossIndices(t *testing.T) {
	t.Parallel()
	d, _ := fixture(t)
	none, err := d.EKCertificateChain(t.Context())
	require.NoError(t, err)
	require.Empty(t, none)

	first, second := append([]byte{0x30, 0x03}, "one"...), append([]byte{0x30, 0x82, 0x02, 0x00}, bytes.Repeat([]byte{7}, 512)...)
	content := slices.Concat(first, second, make([]byte, 20))
	for i, part := range [][]byte{content[:100], content[100:]} {
		define(t, d, uint32(ekChainFirst)+uint32(i), part)
	}
	chain, err := d.EKCertificateChain(t.Context())
	require.NoError(t, err)
	require.Equal(t, [][]byte{first, second}, chain)

	require.Len(t, splitDER(bytes.Repeat(first, 100)), maxChain, "what a TPM can make us read is bounded")
	require.Empty(t, splitDER([]byte{0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF}))
}

// define writes an NV index, as a manufacturer does.
func define(t *testing.T, d *Device, index uint32, content []byte) {
	t.Helper()
	_, err := ask(t.Context(), d, "defining", func(l *link) (nothing, error) {
		if _, err := exec(l, tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
				NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(content)),
				Attributes: tpm2.TPMANV{PPWrite: true, PlatformCreate: true, OwnerRead: true, AuthRead: true, NoDA: true},
			}),
		}); err != nil {
			return nothing{}, err
		}
		_, name, err := l.nvPublic(index)
		if err != nil {
			return nothing{}, err
		}
		_, err = exec(l, tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: content},
		})
		return nothing{}, err
	})
	require.NoError(t, err)
}
