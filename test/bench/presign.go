package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/receipt"
)

const audience = "telemark"

// softwareKey signs as a TPM would, at once.
type softwareKey struct {
	private *ecdsa.PrivateKey
	kid     []byte
}

func newSoftwareKey() (*softwareKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		return nil, err
	}
	name := sha256.Sum256(der)
	return &softwareKey{private: k, kid: append([]byte{0x00, 0x0b}, name[:]...)}, nil
}

// Sign implements group.Signer.
func (k *softwareKey) Sign(_ context.Context, sum []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum)
	if err != nil {
		return nil, err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig, nil
}

// writeKeys writes the key file of tpmverify.
func (k *softwareKey) writeKeys(file string) error {
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		return err
	}
	content, err := json.Marshal(keyfile.File{Keys: []keyfile.Entry{{
		KID: hex.EncodeToString(k.kid), Name: "edge-a", Algorithm: receipt.ES256.String(),
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}}})
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o600)
}

// presigner makes freshly signed blocks in this process: the digests, the group
// commit and the receipts are the real ones, only the key is not in a TPM.
type presigner struct {
	key       *softwareKey
	nonces    string // URL of the nonce server, "" signs without nonces
	committer *group.Committer

	mu      sync.Mutex
	nonce   []byte
	fetched time.Time
}

// renewAfter is how old a nonce gets, as with agents.
const renewAfter = 30 * time.Second

func newPresigner(key *softwareKey, nonces string, groupSize int) (*presigner, error) {
	p := &presigner{key: key, nonces: nonces}
	c, err := group.New(group.Config{
		Algorithm: receipt.ES256, KID: key.kid, Epoch: 1, MaxGroup: groupSize,
		Signer: key, Claims: p.claims, Backoff: func(int) time.Duration { return 100 * time.Millisecond },
	})
	p.committer = c
	return p, err
}

func (p *presigner) close(ctx context.Context) { _ = p.committer.Close(ctx) }

func (p *presigner) claims(ctx context.Context) (group.Claims, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nonces != "" && time.Since(p.fetched) > renewAfter {
		nonce, err := fetchNonce(ctx, p.nonces, p.key.kid)
		if err != nil {
			return group.Claims{}, err
		}
		p.nonce, p.fetched = nonce, time.Now()
	}
	return group.Claims{Audience: audience, Nonce: p.nonce, UEID: receipt.UEID(audience, p.key.kid), IssuedAt: time.Now()}, nil
}

func fetchNonce(ctx context.Context, server string, kid []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/nonce?kid="+hex.EncodeToString(kid), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking for a nonce: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for a nonce: %s: %s", resp.Status, body)
	}
	var answer struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	return hex.DecodeString(answer.Nonce)
}

// sign returns one receipt per leaf, by groups of the committer's size.
func (p *presigner) sign(leaves []group.Leaf) ([]group.Signed, error) {
	ticket, err := p.committer.Submit(leaves)
	if err != nil {
		return nil, err
	}
	return ticket.Result()
}

// template is a request of which signed copies are made.
type template struct {
	batch    digest.Batch
	prepared []digest.Prepared
}

func newTemplate(b digest.Batch) (*template, error) {
	t := &template{batch: b}
	for i := range b.Len() {
		p, err := b.At(i).Prepare(0)
		if err != nil {
			return nil, err
		}
		t.prepared = append(t.prepared, p)
	}
	return t, nil
}

func (t *template) leaves(stream string) []group.Leaf {
	leaves := make([]group.Leaf, len(t.prepared))
	for i, p := range t.prepared {
		leaves[i] = group.Leaf{Signal: t.batch.Signal(), Stream: stream, Items: uint64(p.Items), Digest: p.Digest}
	}
	return leaves
}

// frames returns n requests made of templates, each block with a receipt of its
// own.
func (p *presigner) frames(templates []*template, stream string, n int, zip bool) ([][]byte, error) {
	var leaves []group.Leaf
	for i := range n {
		leaves = append(leaves, templates[i%len(templates)].leaves(stream)...)
	}
	signed, err := p.sign(leaves)
	if err != nil {
		return nil, err
	}
	first := make([]int, n)
	for i := 1; i < n; i++ {
		first[i] = first[i-1] + templates[(i-1)%len(templates)].batch.Len()
	}
	out := make([][]byte, n)
	errs := make([]error, len(templates))
	work := make(chan int)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for k := range work { // a template is in one worker's hands
				for i := k; i < n && errs[k] == nil; i += len(templates) {
					out[i], errs[k] = templates[k].frame(signed[first[i]:], zip)
				}
			}
		})
	}
	for k := range templates {
		work <- k
	}
	close(work)
	workers.Wait()
	return out, errors.Join(errs...)
}

func (t *template) frame(signed []group.Signed, zip bool) ([]byte, error) {
	for i := range t.batch.Len() {
		b := t.batch.At(i)
		b.StripProof()
		b.Attach(digest.Proof{Receipt: signed[i].Receipt})
	}
	message, err := t.batch.Marshal()
	if err != nil {
		return nil, err
	}
	return frame(message, zip)
}

func streamOf(s block.Signal) string { return "tpmsign/bench:" + s.String() }
