package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
)

// Ask is an instance's request for the key of its volume, with a quote that was
// verified.
type Ask struct {
	Transcript *unlock.Transcript

	i          *Instance
	reportData [64]byte
	nonce      [32]byte
	signer     crypto.Signer
}

// Ask has the instance ask for its volume's key. Its second quote has to be of the
// same VM as the attestation.
func (i *Instance) Ask(ctx context.Context, signer crypto.Signer) (*Ask, error) {
	owner, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return nil, doubt(SignerInvalid, "a %T, not an Ed25519 key", signer.Public())
	}
	if i.Statement == nil {
		return nil, doubt(StorageRefused, "a service of the older form cannot show who asks for the key")
	}
	a := &Ask{i: i, nonce: unlock.NewNonce(), signer: signer}
	raw, err := json.Marshal(&api.StorageRequest{Owner: api.Hex(owner), Nonce: a.nonce[:]})
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	var got api.StorageAsk
	if _, err := i.c.call(ctx, http.MethodPost, api.PathStorageRequest, nil, http.Header{}, raw, &got); err != nil {
		return nil, err
	}
	if a.Transcript, err = unlock.ParseTranscript(got.Transcript); err != nil {
		return nil, &Doubt{Reason: StorageRefused, Err: err}
	}
	quote, err := i.c.quote(ctx, got.Quote)
	if err != nil {
		return nil, err
	}
	if i.Verified() && (!measurementsOf(quote).equal(i.Measurements()) || !bytes.Equal(quote.PPID, i.Quote.PPID)) {
		return nil, doubt(StorageRefused, "the quote is of another VM than the attestation")
	}
	a.reportData = quote.ReportData
	return a, nil
}

// Volume names the volume that the key is of.
func (a *Ask) Volume() [16]byte { return a.Transcript.Volume }

// Seal wraps the volume's key for the instance that asked. known is what was seen
// of the identity that the volume belongs to.
func (a *Ask) Seal(key []byte, known Known) ([]byte, error) {
	if err := a.i.Continues(known); err != nil {
		return nil, err
	}
	volume, state := a.Transcript.Volume, a.i.Statement.State
	if a.i.Locked() {
		state = "" // it asks in the state that its disk claims
	}
	// The TLS key is the instance's own, whatever this connection is, and so
	// ties this quote to the instance that attested itself.
	sealed, err := unlock.Wrap(a.reportData, a.Transcript, unlock.Mine{
		Nonce: a.nonce, Signer: a.signer, TLS: a.i.Statement.TLSKey, Volume: &volume, State: state, Counter: known.Counter,
	}, key)
	if err != nil {
		return nil, &Doubt{Reason: StorageRefused, Err: err}
	}
	return sealed, nil
}

// Unlock gives a VM that was started anew the key that Seal wrapped. seen is the
// highest counter that was seen of the identity.
func (i *Instance) Unlock(ctx context.Context, a *Ask, sealed []byte, seen uint64) (*Done, error) {
	_, signature, err := i.role(a.signer)
	if err != nil {
		return nil, err
	}
	// A locked instance states no counter; the one that its disk claims, which
	// the request is signed for, stands in what it asked with.
	i.counter = a.Transcript.Counter
	return i.step(ctx, a.signer, api.PathUnlock, nil, &api.Unlock{
		InstancePubkey: api.Hex(i.Key), Signature: signature, SealedKey: sealed, LastCounter: &seen,
	})
}
