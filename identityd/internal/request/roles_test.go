package request

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

func roleBody(by byte, more string) string {
	return fmt.Sprintf(`{"pubkey":"%x","signature":"%x"%s}`, []byte(publicOf(by)), ed25519.Sign(keyOf(by), publicOf(instance)), more)
}

// registration is one of the older form, which no header signs.
func registration(body string) *Signed {
	return &Signed{Method: "POST", Path: "/operator/register", Body: []byte(body)}
}

func TestRolesNeedASignatureOverThisInstance(t *testing.T) {
	v, _ := verifier()
	v.Owner = nil
	o, auth, err := v.RegisterOperator(registration(roleBody(owner, fmt.Sprintf(`,"owner_pubkey":"%x"`, []byte(publicOf(stranger))))), false)
	require.NoError(t, err)
	require.Equal(t, []byte(publicOf(stranger)), []byte(o.OwnerPubkey))
	require.False(t, auth.V1)
	_, _, err = v.RegisterOwner(registration(roleBody(owner, "")), false)
	require.NoError(t, err)
	w, _, err := v.RegisterOwner(registration(roleBody(owner, `,"sealed_key":"0102"`)), false)
	require.NoError(t, err)
	require.Equal(t, Hex{1, 2}, w.SealedKey)

	_, _, err = v.RegisterOperator(registration(roleBody(instance, "")), false)
	refused(t, err, reason.PubkeyTaken)
	_, _, err = v.RegisterOperator(registration(roleBody(owner, `,"owner_pubkey":"`+strings.Repeat("00", 32)+`"`)), false)
	refused(t, err, reason.PubkeyLowOrder)
	_, _, err = v.RegisterOperator(registration(roleBody(owner, `,"owner_pubkey":""`)), false)
	refused(t, err, reason.PubkeyMalformed)
	_, _, err = v.RegisterOwner(registration(roleBody(owner, `,"sealed_key":"`+strings.Repeat("00", maxSealed+1)+`"`)), false)
	refused(t, err, reason.BadRequest)
	for _, body := range []string{``, `{}`, `null`, `{"pubkey":""}`, roleBody(owner, `,"x":1`)} {
		_, _, err = v.RegisterOperator(registration(body), false)
		refused(t, err, reason.BadRequest)
		_, _, err = v.RegisterOwner(registration(body), false)
		refused(t, err, reason.BadRequest)
		_, _, err = v.Renew(signedV1(owner, "/v1/operator/renew", 7, body))
		refused(t, err, reason.BadRequest)
	}
	for digits := range lowOrderPoints {
		_, _, err = v.RegisterOwner(registration(`{"pubkey":"`+digits+`","signature":"01`+strings.Repeat("00", 63)+`"}`), false)
		require.Contains(t, []reason.Reason{reason.PubkeyLowOrder, reason.PubkeyNonCanonical}, reason.Of(err))
	}

	v.Instance = publicOf(stranger)
	_, _, err = v.RegisterOperator(registration(roleBody(owner, "")), false)
	refused(t, err, reason.SignatureInvalid)
}

// What somebody signed to become operator of an instance says nothing of owner,
// renewal, or another time.
func TestRegistrationOfTheV1FormIsForOneCallAtOneTime(t *testing.T) {
	v, m := verifier()
	v.Owner = nil
	body := roleBody(owner, "")
	calls := map[string]func(*Signed) (Auth, error){
		"/v1/operator/register": func(r *Signed) (Auth, error) { _, a, err := v.RegisterOperator(r, true); return a, err },
		"/v1/owner/register":    func(r *Signed) (Auth, error) { _, a, err := v.RegisterOwner(r, true); return a, err },
		"/v1/operator/renew":    func(r *Signed) (Auth, error) { _, a, err := v.Renew(r); return a, err },
	}
	for path, call := range calls {
		r := signedV1(owner, path, 7, body)
		auth, err := call(r)
		require.NoError(t, err, path)
		require.Equal(t, Auth{V1: true, Counter: 7, Body: sha256.Sum256([]byte(body))}, auth)

		for other := range calls {
			if other != path {
				r := signedV1(owner, other, 7, body)
				r.Path = path
				_, err = call(r)
				refused(t, err, reason.SignatureInvalid)
			}
		}
		// By another key than the one that registers.
		_, err = call(signedV1(stranger, path, 7, body))
		refused(t, err, reason.SignatureInvalid)
		// Something was added on the way: the owner's key is signed here.
		r = signedV1(owner, path, 7, body)
		r.Body = []byte(roleBody(owner, " "))
		_, err = call(r)
		refused(t, err, reason.SignatureInvalid)
		r = signedV1(owner, path, 7, body)
		r.Signature = ""
		_, err = call(r)
		refused(t, err, reason.SignatureMissing)
		r = signedV1(owner, path, 7, body)
		r.Counter = ""
		_, err = call(r)
		refused(t, err, reason.CounterMalformed)
		// Sent again, after something happened.
		m.counter = 8
		_, err = call(signedV1(owner, path, 7, body))
		refused(t, err, reason.CounterMismatch)
		m.counter = 7
	}
}

func TestOlderRegistrationIsRefusedWhereTheV1FormIsRequired(t *testing.T) {
	v, _ := verifier()
	v.RequireV1 = true
	_, _, err := v.RegisterOperator(registration(roleBody(owner, "")), false)
	refused(t, err, reason.V1Required)
	_, _, err = v.RegisterOwner(registration(roleBody(owner, "")), false)
	refused(t, err, reason.V1Required)
	_, _, err = v.RegisterOwner(signedV1(owner, "/v1/owner/register", 7, roleBody(owner, "")), true)
	require.NoError(t, err)
}

func TestStorageRequestNamesAKeyAndANonce(t *testing.T) {
	whole := fmt.Sprintf(`{"owner":"%x","nonce":"%s"}`, []byte(publicOf(owner)), strings.Repeat("01", 32))
	r, err := AskStorage([]byte(whole))
	require.NoError(t, err)
	require.Equal(t, []byte(publicOf(owner)), []byte(r.Owner))
	for _, body := range []string{
		`{}`, strings.Replace(whole, "0101", "01", 1), strings.Replace(whole, "owner", "Owner", 1), whole + "{}",
		fmt.Sprintf(`{"owner":"%x"}`, []byte(publicOf(owner))), fmt.Sprintf(`{"nonce":"%s"}`, strings.Repeat("01", 32)),
	} {
		_, err = AskStorage([]byte(body))
		refused(t, err, reason.BadRequest)
	}
	for digits := range lowOrderPoints {
		_, err = AskStorage(fmt.Appendf(nil, `{"owner":"%s","nonce":"%s"}`, digits, strings.Repeat("01", 32)))
		require.Contains(t, []reason.Reason{reason.PubkeyLowOrder, reason.PubkeyNonCanonical}, reason.Of(err))
	}
}
