package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

func TestWitnessThatIsNotTheRegistryIsNotBelieved(t *testing.T) {
	origin := bytes.Repeat([]byte{7}, 32)
	signer, err := answer.NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	require.NoError(t, err)
	stranger, err := answer.NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)))
	require.NoError(t, err)
	verifier, err := answer.NewVerifier(signer.Public())
	require.NoError(t, err)

	by, status := signer, http.StatusOK
	edit := func(*answer.Identity) {}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nonce, err := base64.RawURLEncoding.DecodeString(r.URL.Query().Get("nonce"))
		if err != nil || r.URL.Path != "/v1/identities/"+strings.Repeat("07", 32) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		i := &answer.Identity{
			Head:   answer.Head{Store: "store", Nonce: nonce, Revision: 1, IssuedAt: time.Now(), NotAfter: time.Now().Add(time.Minute)},
			Origin: origin, Instance: bytes.Repeat([]byte{8}, 32), Counter: 41, Verified: true,
		}
		edit(i)
		signed, err := by.Sign(answer.KindIdentity, i)
		if err != nil {
			status = http.StatusInternalServerError
		}
		w.WriteHeader(status)
		_, _ = w.Write(signed)
	}))
	defer s.Close()
	ask := func() (uint64, error) {
		return askWitness(t.Context(), s.Client(), s.URL+"/", verifier, origin)
	}
	n, err := ask()
	require.NoError(t, err)
	require.EqualValues(t, 41, n)

	for name, change := range map[string]func(*answer.Identity){
		"nonce": func(i *answer.Identity) { i.Nonce = make([]byte, 32) },
		"other": func(i *answer.Identity) { i.Origin = bytes.Repeat([]byte{9}, 32) },
		"old": func(i *answer.Identity) {
			i.IssuedAt, i.NotAfter = i.IssuedAt.Add(-time.Hour), i.NotAfter.Add(-time.Hour)
		},
	} {
		edit = change
		_, err = ask()
		require.Error(t, err, name)
	}
	edit = func(*answer.Identity) {}
	by = stranger
	_, err = ask()
	require.ErrorIs(t, err, answer.ErrUnknownKey)
	by, status = signer, http.StatusServiceUnavailable
	_, err = ask()
	require.ErrorContains(t, err, "503")
}
