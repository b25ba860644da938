package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// liar answers every command with the same parameters.
type liar struct{ answer []byte }

func (c liar) Exchange([]byte, time.Duration) ([]byte, error) { return c.answer, nil }
func (c liar) Close() error                                   { return nil }

// FuzzAnswer: whatever a TPM answers, commands end with a result or an error
// that has a class, and nothing panics.
func FuzzAnswer(f *testing.F) {
	f.Add(uint16(0x8001), uint32(0), []byte{})
	f.Add(uint16(0x8002), uint32(0), []byte{0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0})
	f.Add(uint16(0x8001), uint32(0x922), []byte{})
	f.Add(uint16(0x8002), uint32(0), []byte("\x00\x00\x00\x0b\x00\x18\x00\x0b\x00\x01r\x00\x02ss\x00\x00\x01\x00\x00")) // a signature
	f.Add(uint16(0x8002), uint32(0), bytes.Repeat([]byte{0xFF}, 100))
	f.Fuzz(func(t *testing.T, tag uint16, rc uint32, body []byte) {
		answer := binary.BigEndian.AppendUint16(nil, tag)
		answer = binary.BigEndian.AppendUint32(answer, uint32(wire.HeaderSize+len(body)))
		answer = append(binary.BigEndian.AppendUint32(answer, rc), body...)
		if len(answer) > wire.MaxSize {
			return
		}
		for _, use := range []func(*link) error{
			func(l *link) error { _, err := l.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate); return err },
			func(l *link) error { _, err := l.properties(tpm2.TPMPTFamilyIndicator, 64); return err },
			func(l *link) error { _, err := l.handles(tpm2.TPMHTTransient); return err },
			func(l *link) error { _, err := l.ekCertificate(ekCertificateRSA2048); return err },
			func(l *link) error { _, err := l.increment(DefaultCounterIndex); return err },
			func(l *link) error { _, err := l.persistent(MinHandle); return err },
			func(l *link) error { _, err := exec(l, tpm2.ReadClock{}); return err },
			func(l *link) error {
				rsp, err := exec(l, tpm2.Quote{
					SignHandle: tpm2.AuthHandle{Handle: 1, Name: tpm2.TPM2BName{Buffer: []byte{1}}, Auth: tpm2.PasswordAuth(nil)},
					InScheme:   keyScheme,
				})
				if err == nil {
					_, err = l.attestation(&object{}, rsp.Quoted.Bytes(), rsp.Signature, tpm2.TPMSTAttestQuote, nil)
				}
				return err
			},
			func(l *link) error {
				_, err := l.signDigest(suites[ES256], tpm2.AuthHandle{Handle: 1, Auth: tpm2.PasswordAuth(nil)}, make([]byte, 32))
				return err
			},
			func(l *link) error {
				s, err := l.startSession(&object{handle: 1, public: storageKeyForFuzz}, nil, encryptBoth)
				if err == nil {
					_, err = exec(l, tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: 1, Name: tpm2.TPM2BName{Buffer: []byte{1}}, Auth: s}})
				}
				return err
			},
		} {
			l := &link{conn: liar{answer}, opts: &Options{RetryFor: -1}, life: context.Background()}
			if err := use(l); err != nil {
				require.NotEqual(t, OK, Classify(err))
			}
		}
	})
}

// storageKeyForFuzz has a point on the curve, its generator.
var storageKeyForFuzz = func() tpm2.TPMTPublic {
	public := tpm2.ECCSRKTemplate
	x := []byte("\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96")
	y := []byte("\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5")
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
	})
	return public
}()

// FuzzPublicArea: what is accepted is exactly what is hashed into the Name.
func FuzzPublicArea(f *testing.F) {
	for _, a := range algorithms {
		f.Add(tpm2.Marshal(a.signingTemplate()))
		f.Add(tpm2.Marshal(a.akTemplate()))
	}
	f.Add(tpm2.Marshal(tpm2.RSAEKTemplate))
	f.Add(tpm2.Marshal(storageKeyForFuzz))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := parseObject(raw)
		if err != nil {
			return
		}
		require.Equal(t, raw, tpm2.Marshal(o.public))
		if r := (&record{Public: raw}); r.parse() == nil {
			require.Equal(t, o.name, r.key.name)
			require.NotNil(t, r.pub)
		}
	})
}

func TestSeedCorporaAreNotEmpty(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{
		"testdata/fuzz/FuzzAnswer", "testdata/fuzz/FuzzPublicArea", "testdata/fuzz/FuzzBlobs", "wire/testdata/fuzz/FuzzReadResponse",
	} {
		entries, err := os.ReadDir(filepath.FromSlash(dir))
		require.NoError(t, err)
		require.NotEmpty(t, entries, dir)
	}
}
