// Package signtest signs blocks for tests as an agent does, with a key in
// memory instead of a TPM, so that verifying code can be tested against real
// receipts and against what an attacker makes of them. It is for tests only.
package signtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/merkle"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// Audience is the audience of machines and authorities made here.
const Audience = "test.example"

// Machine is an agent. Its fields may be changed between groups.
type Machine struct {
	Name     string
	Key      *ecdsa.PrivateKey
	KID      []byte
	Audience string
	Epoch    uint64
	Seq      uint64 // of the last group
	Prev     block.Digest
	IssuedAt time.Time
	Nonce    []byte
	Location *receipt.Location

	// Statement and Receipt, when set, change what is signed and what is sent.
	Statement func(*receipt.Statement)
	Receipt   func(*receipt.Receipt)

	numbers map[string]uint64
}

// NewMachine returns a machine in its first epoch, without a nonce.
func NewMachine(t testing.TB, name string, now time.Time) *Machine {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	sum := sha256.Sum256(point)
	return &Machine{
		Name:     name,
		Key:      key,
		KID:      append([]byte{0x00, 0x0b}, sum[:]...),
		Audience: Audience,
		Epoch:    1,
		IssuedAt: now,
		numbers:  map[string]uint64{},
	}
}

// Authority returns an authority of nonces; store is part of its store epoch.
func Authority(t testing.TB, secret, store byte) *nonce.Authority {
	t.Helper()
	long := make([]byte, 32)
	long[0] = secret
	a, err := nonce.NewAuthority(long, [4]byte{store, 1, 2, 3}, Audience)
	require.NoError(t, err)
	return a
}

// Fetch gives the machine a nonce issued at now.
func (m *Machine) Fetch(t testing.TB, a *nonce.Authority, now time.Time) {
	t.Helper()
	n, err := a.Mint(m.KID, now, nonce.DefaultLen, func(b []byte) error {
		_, err := rand.Read(b)
		return err
	})
	require.NoError(t, err)
	m.Nonce, m.IssuedAt = n, now
}

// Restart begins a new epoch.
func (m *Machine) Restart() {
	m.Epoch++
	m.Seq = 0
	m.numbers = map[string]uint64{}
}

// Fork returns a machine that goes on from the same state under the same key,
// as a copied disk would.
func (m *Machine) Fork() *Machine {
	f := *m
	f.numbers = maps.Clone(m.numbers)
	return &f
}

// Sign signs all blocks of the batches in one group, numbers them in the stream
// and attaches the proofs.
func (m *Machine) Sign(t testing.TB, stream string, tolerances block.Tolerance, batches ...digest.Batch) {
	t.Helper()
	var (
		blocks   []digest.Block
		prepared []digest.Prepared
		receipts []*receipt.Receipt
		leaves   []block.Digest
	)
	for _, batch := range batches {
		for i := range batch.Len() {
			b := batch.At(i)
			p, err := b.PrepareHeartbeat(tolerances)
			require.NoError(t, err)
			require.NotZero(t, p.Items)
			m.numbers[stream]++
			r := &receipt.Receipt{Stream: stream, BlockNo: m.numbers[stream], Items: uint64(p.Items), Digest: p.Digest, Keys: p.Keys}
			leaf := receipt.Leaf{Signal: b.Signal(), Tolerances: tolerances, Stream: stream, BlockNo: r.BlockNo, Items: r.Items, Digest: p.Digest}
			if tolerances.Has(block.Enrich) {
				keys := receipt.KeyListDigest(p.Keys)
				leaf.Keys = &keys
			}
			blocks, prepared = append(blocks, b), append(prepared, p)
			receipts, leaves = append(receipts, r), append(leaves, leaf.Hash())
		}
	}
	tree := merkle.Build(leaves)
	statement, protected, signature := m.sign(t, tree)
	for i, r := range receipts {
		path, err := tree.Path(uint64(i))
		require.NoError(t, err)
		r.Protected, r.Statement, r.Signature = protected, statement, signature
		r.TreeSize, r.LeafIndex, r.Path = tree.Size(), uint64(i), path
		if m.Receipt != nil {
			m.Receipt(r)
		}
		encoded, err := r.Encode()
		require.NoError(t, err)
		blocks[i].Attach(digest.Proof{Receipt: encoded, Manifest: prepared[i].Manifest})
	}
}

func (m *Machine) sign(t testing.TB, tree *merkle.Tree) (*receipt.Statement, []byte, []byte) {
	t.Helper()
	m.Seq++
	s := &receipt.Statement{
		Algorithm: receipt.ES256,
		KID:       m.KID,
		Audience:  m.Audience,
		IssuedAt:  m.IssuedAt.Unix(),
		Nonce:     m.Nonce,
		UEID:      receipt.UEID("test", m.KID),
		Location:  m.Location,
		Epoch:     m.Epoch,
		Seq:       m.Seq,
		Size:      tree.Size(),
		Prev:      m.Prev,
	}
	if m.Statement != nil {
		m.Statement(s)
	}
	protected, err := s.EncodeProtected()
	require.NoError(t, err)
	sigStructure := receipt.SigStructure(protected, tree.Root())
	sum := sha256.Sum256(sigStructure)
	r, sig, err := ecdsa.Sign(rand.Reader, m.Key, sum[:])
	require.NoError(t, err)
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	sig.FillBytes(signature[32:])
	m.Prev = receipt.StatementHash(sigStructure)
	return s, protected, signature
}
