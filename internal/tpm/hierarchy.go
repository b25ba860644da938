package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// signingTemplate is the public area that the signing key is made with (part
// 2, section 12.2.4). The scheme is fixed, so the key signs digests of one hash
// by one scheme and nothing else. See the package comment on NoDA.
func (a Algorithm) signingTemplate() tpm2.TPMTPublic {
	return suites[a].signing(tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		NoDA:                true,
		SignEncrypt:         true,
	})
}

// akSeed makes the AK's template another one than every other primary's of its
// kind.
var akSeed = sha256.Sum256([]byte("telemark-ak-v1\x00"))

// akTemplate is that of the attestation key. Being restricted, it signs nothing that
// looks like an attestation unless the TPM made it.
func (a Algorithm) akTemplate() tpm2.TPMTPublic {
	return suites[a].ak(tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		NoDA:                true,
		Restricted:          true,
		SignEncrypt:         true,
	}, akSeed[:])
}

// object is a loaded object whose public area was read and whose Name was computed from it.
type object struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
	raw    []byte // TPMT_PUBLIC
}

func (o *object) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: o.handle, Name: o.name, Auth: s}
}

// primary makes a primary object; the same template gives the same key each
// time. The caller flushes it. Part 3, section 24.1, TPM2_CreatePrimary.
func (l *link) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (*object, error) {
	auth := l.opts.OwnerAuth
	if hierarchy == tpm2.TPMRHEndorsement {
		auth = l.opts.EndorsementAuth
	}
	rsp, err := exec(l, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: authSession(auth)},
		InPublic:      tpm2.New2B(template),
	})
	if err != nil {
		return nil, err
	}
	o, err := l.checked(rsp.ObjectHandle, rsp.OutPublic.Bytes(), template)
	if err != nil {
		l.flushQuietly(rsp.ObjectHandle)
		return nil, err
	}
	return o, nil
}

// checked reads a public area that the TPM returned, and checks that it is what
// was asked for in all but the key itself.
func (l *link) checked(h tpm2.TPMHandle, raw []byte, template tpm2.TPMTPublic) (*object, error) {
	o, err := parseObject(raw)
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	o.handle = h
	if !o.madeBy(template) {
		return nil, l.breakOff(fmt.Errorf("%w: a key of another form than asked for", ErrMalformed))
	}
	return o, nil
}

// madeBy says whether the public area is that of the template in all but the
// key itself.
func (o *object) madeBy(template tpm2.TPMTPublic) bool {
	if o.public.Type != template.Type { // go-tpm panics over a union of another type
		return false
	}
	template.Unique = o.public.Unique
	return bytes.Equal(tpm2.Marshal(template), o.raw)
}

// parseObject reads a TPMT_PUBLIC, whole and nothing behind it, and computes
// its Name (part 1, section 16).
func parseObject(raw []byte) (o *object, err error) {
	defer func() { // go-tpm's reading of unions
		if p := recover(); p != nil {
			o, err = nil, fmt.Errorf("public area of %d bytes: %v", len(raw), p)
		}
	}()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil {
		return nil, fmt.Errorf("public area of %d bytes: %w", len(raw), err)
	}
	if !bytes.Equal(tpm2.Marshal(*public), raw) {
		return nil, fmt.Errorf("public area of %d bytes is not in the form that it is hashed in", len(raw))
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	return &object{name: *name, public: *public, raw: raw}, nil
}

// ecdsaKey returns the key of a public area on one of the curves.
func ecdsaKey(public *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	if public.Type != tpm2.TPMAlgECC {
		return nil, fmt.Errorf("key of type %v, want ECC", public.Type)
	}
	params, err := public.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	curve, ok := curves[params.CurveID]
	if !ok {
		return nil, fmt.Errorf("key on curve %v, want P-256 or P-384", params.CurveID)
	}
	point, err := public.Unique.ECC()
	if err != nil {
		return nil, err
	}
	// 04 | X | Y, each of the curve's size; the TPM may leave out leading zeros.
	size := (curve.Params().BitSize + 7) / 8
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return nil, fmt.Errorf("coordinates of %d and %d bytes, at most %d are possible", len(point.X.Buffer), len(point.Y.Buffer), size)
	}
	uncompressed := make([]byte, 1+2*size)
	uncompressed[0] = 4
	if err := padTo(uncompressed[1:1+size], point.X.Buffer); err != nil {
		return nil, err
	}
	if err := padTo(uncompressed[1+size:], point.Y.Buffer); err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(curve, uncompressed)
}

// padTo writes the big-endian number n to the end of dst, which is all zero.
func padTo(dst, n []byte) error {
	n = bytes.TrimLeft(n, "\x00")
	if len(n) > len(dst) {
		return fmt.Errorf("number of %d bytes, at most %d are possible", len(n), len(dst))
	}
	copy(dst[len(dst)-len(n):], n)
	return nil
}

const maxAuth = sha256.Size // the auth value may not be longer than the Name's digest

// checkAuth refuses auth values that go-tpm cannot use: it cuts the value at
// the first zero byte where the TPM only leaves out zero bytes at the end (part 1, section 19.6.5).
func checkAuth(what string, auth []byte) error {
	if len(auth) > maxAuth {
		return fmt.Errorf("%s auth value has %d bytes, at most %d are possible", what, len(auth), maxAuth)
	}
	if bytes.IndexByte(auth, 0) >= 0 {
		return fmt.Errorf("%s auth value holds a zero byte", what)
	}
	return nil
}

// newAuth returns a random auth value of 32 bytes, none of them zero (see checkAuth).
func newAuth() []byte {
	auth := make([]byte, 0, maxAuth)
	for len(auth) < maxAuth {
		var b [maxAuth]byte
		_, _ = rand.Read(b[:]) // never fails
		for _, c := range b {
			if c != 0 && len(auth) < maxAuth {
				auth = append(auth, c)
			}
		}
	}
	return auth
}

const sessionNonce = 32 // bytes, as long as the digest

// authSession authorises one use of an entity by its auth value, which is
// proven by an HMAC, not sent.
func authSession(auth []byte) tpm2.Session {
	if len(auth) == 0 {
		return tpm2.PasswordAuth(nil)
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, sessionNonce, tpm2.Auth(auth))
}
