package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/merkle"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// What all vectors have in common.
const (
	audience   = "https://collector.example"
	deployment = "vectors"
	maxDelay   = 24 * time.Hour
	skew       = 30 * time.Second
)

var (
	secret     = sum("nonce secret")
	storeEpoch = [4]byte{0x5e, 0x00, 0x00, 0x01}
	// t0 is when the nonces are issued, arrival when blocks arrive.
	t0      = time.Date(2026, time.November, 21, 12, 0, 0, 0, time.UTC)
	arrival = t0.Add(10 * time.Second)
)

// sum is a value that nobody chose.
func sum(of string) []byte {
	s := sha256.Sum256([]byte("telemark test vectors: " + of))
	return s[:]
}

// agent is a machine that signs. Its key is made of its name: it is a test key,
// known to everybody.
type agent struct {
	name string
	key  *ecdsa.PrivateKey
	area []byte // TPMT_PUBLIC
	kid  []byte
	// agile signs instead of key, with an algorithm of the second profile.
	agile *agileKey

	audience string
	nonce    []byte
	issued   time.Time // T
	iat      time.Time
	location *receipt.Location
	epoch    uint64
	seq      uint64 // of the last statement
	prev     block.Digest
	numbers  map[string]uint64

	ahead, behind int                 // other blocks in the group
	miscount      uint64              // what it signs as the number of items, when not 0
	change        func(*receipt.Leaf) // of what it puts into the tree
}

func privateKey(curve elliptic.Curve, name string) *ecdsa.PrivateKey {
	d := make([]byte, (curve.Params().BitSize+7)/8)
	copy(d[len(d)-32:], sum("private key of "+name))
	return must(ecdsa.ParseRawPrivateKey(curve, d))
}

func publicArea(k *ecdsa.PublicKey) []byte {
	point := must(k.Bytes())
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[33:65]},
		}),
	})
}

// newAgent returns a machine in its first epoch, with a nonce of t0.
func newAgent(name string) *agent {
	key := privateKey(elliptic.P256(), name)
	area := publicArea(&key.PublicKey)
	id := sha256.Sum256(area)
	a := &agent{
		name: name, key: key, area: area, kid: append([]byte{0x00, 0x0b}, id[:]...),
		audience: audience, iat: t0.Add(2 * time.Second), epoch: 1,
		numbers: map[string]uint64{}, ahead: 2, behind: 2,
	}
	a.fetch(t0)
	return a
}

// mint makes a nonce of the given secret, store epoch and audience.
func mint(secret []byte, epoch [4]byte, audience string, kid []byte, at time.Time, length int) []byte {
	a := must(nonce.NewAuthority(secret, epoch, audience))
	return must(a.Mint(kid, at, length, func(b []byte) error {
		copy(b, sum(fmt.Sprintf("random of %x %d", kid, at.UnixMilli())))
		return nil
	}))
}

func (a *agent) fetch(at time.Time) {
	a.nonce = mint(secret, storeEpoch, audience, a.kid, at, nonce.DefaultLen)
	a.issued = at
}

// forget makes the agent go on without nonces.
func (a *agent) forget() { a.nonce, a.issued = nil, time.Time{} }

func (a *agent) restart() {
	a.epoch++
	a.seq = 0
	a.numbers = map[string]uint64{}
}

// fork returns an agent with the same key and state, as a copied disk would.
func (a *agent) fork() *agent {
	f := *a
	f.numbers = maps.Clone(a.numbers)
	return &f
}

func pemOf(k crypto.PublicKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(k))}))
}

// entry is the agent's record in a key file.
func (a *agent) entry() keyfile.Entry {
	e := keyfile.Entry{
		KID: hex.EncodeToString(a.kid), Name: a.name, Algorithm: "ES256",
		PublicKey: pemOf(&a.key.PublicKey), TPMPublic: a.area,
	}
	if a.agile != nil {
		e.Algorithm, e.PublicKey = a.agile.algorithm.String(), pemOf(a.agile.public)
	}
	return e
}

func (a *agent) algorithm() receipt.Algorithm {
	if a.agile != nil {
		return a.agile.algorithm
	}
	return receipt.ES256
}

func (a *agent) signature(structure []byte) []byte {
	if a.agile != nil {
		return a.agile.sign(structure)
	}
	return sign(a.key, structure)
}

// sign makes r | s over the SHA-256 of a message, by RFC 6979.
func sign(key *ecdsa.PrivateKey, message []byte) []byte {
	h := sha256.Sum256(message)
	var parts struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(must(key.Sign(nil, h[:], crypto.SHA256)), &parts); err != nil {
		panic(err)
	}
	out := make([]byte, 64)
	parts.R.FillBytes(out[:32])
	parts.S.FillBytes(out[32:])
	return out
}

// unsigned is one block before it is signed.
type unsigned struct {
	batch      digest.Batch // of this block alone
	tolerances block.Tolerance
	stream     string
}

// signed is one block with its proof, and what a verifier is to find.
type signed struct {
	unsigned
	agent     agent // as it was
	prepared  digest.Prepared
	receipt   *receipt.Receipt
	encoded   []byte
	leaf      receipt.Leaf
	root      block.Digest
	statement block.Digest
}

func streamOf(s block.Signal) string { return "tpmsign/edge:" + s.String() }

// plan describes a group before it is signed.
type plan struct {
	items  []*signed
	tree   *merkle.Tree
	header *receipt.Statement
}

// gather numbers blocks and builds the tree of their group.
func (a *agent) gather(blocks ...unsigned) *plan {
	p := &plan{}
	leaves := fillers(a, "ahead", a.ahead)
	for _, u := range blocks {
		if u.stream == "" {
			u.stream = streamOf(u.batch.Signal())
		}
		u.batch = copyOf(u.batch)
		s := &signed{unsigned: u}
		s.prepared = must(u.batch.At(0).PrepareHeartbeat(u.tolerances))
		a.numbers[u.stream]++
		s.leaf = receipt.Leaf{
			Signal: u.batch.Signal(), Tolerances: u.tolerances, Stream: u.stream,
			BlockNo: a.numbers[u.stream], Items: uint64(s.prepared.Items), Digest: s.prepared.Digest,
		}
		if a.miscount > 0 {
			s.leaf.Items = a.miscount
		}
		if u.tolerances.Has(block.Enrich) {
			keys := receipt.KeyListDigest(s.prepared.Keys)
			s.leaf.Keys = &keys
		}
		leaf := s.leaf
		if a.change != nil {
			a.change(&leaf)
		}
		leaves = append(leaves, leaf.Hash())
		p.items = append(p.items, s)
	}
	leaves = append(leaves, fillers(a, "behind", a.behind)...)
	p.tree = merkle.Build(leaves)
	a.seq++
	p.header = &receipt.Statement{
		Algorithm: a.algorithm(), KID: a.kid, Audience: a.audience, IssuedAt: a.iat.Unix(), Nonce: a.nonce,
		UEID: receipt.UEID(deployment, a.kid), Location: a.location,
		Epoch: a.epoch, Seq: a.seq, Size: p.tree.Size(), Prev: a.prev,
	}
	return p
}

// fillers are leaves of blocks that go another way.
func fillers(a *agent, where string, n int) []block.Digest {
	out := make([]block.Digest, n)
	for i := range out {
		b := binary.BigEndian.AppendUint64([]byte(a.name+where), a.epoch<<32|a.seq<<20|uint64(i))
		out[i] = sha256.Sum256(b)
	}
	return out
}

// sign signs blocks in one group, in order.
func (a *agent) sign(blocks ...unsigned) []*signed {
	p := a.gather(blocks...)
	a.finish(p, must(p.header.EncodeProtected()))
	for _, s := range p.items {
		s.encoded = must(s.receipt.Encode())
		s.attach(s.encoded, s.prepared.Manifest)
	}
	return p.items
}

// finish signs a group under protected header bytes, whatever is in them.
func (a *agent) finish(p *plan, protected []byte) {
	structure := receipt.SigStructure(protected, p.tree.Root())
	signature := a.signature(structure)
	was := *a
	a.prev = receipt.StatementHash(structure)
	for i, s := range p.items {
		index := uint64(a.ahead + i)
		s.agent, s.root, s.statement = was, p.tree.Root(), a.prev
		s.receipt = &receipt.Receipt{
			Protected: protected, Statement: p.header, Signature: signature,
			TreeSize: p.tree.Size(), LeafIndex: index, Path: must(p.tree.Path(index)),
			Stream: s.stream, BlockNo: s.leaf.BlockNo, Items: s.leaf.Items, Digest: s.leaf.Digest, Keys: s.prepared.Keys,
		}
	}
}

// one signs a block in a group of its own.
func (a *agent) one(batch digest.Batch, tolerances block.Tolerance) *signed {
	return a.sign(unsigned{batch: batch, tolerances: tolerances})[0]
}

func (s *signed) attach(receipt, manifest []byte) {
	b := s.batch.At(0)
	b.StripProof()
	b.Attach(digest.Proof{Receipt: receipt, Manifest: manifest})
}

// with returns the block with another receipt and manifest on it.
func (s *signed) with(receipt, manifest []byte) []byte {
	c := *s
	c.batch = copyOf(s.batch)
	c.attach(receipt, manifest)
	return c.bytes()
}

// bytes are those of the ResourceX message.
func (s *signed) bytes() []byte { return blockBytes(s.batch) }

func blockBytes(b digest.Batch) []byte { return fields(must(b.Marshal()))[0].body }

func copyOf(b digest.Batch) digest.Batch {
	out := digest.NewBatch(b.Signal())
	b.At(0).CopyTo(out)
	return out
}

// verified is what is said of the block when all is well.
func (s *signed) verified() vector.Block {
	st := s.receipt.Statement
	leaf := s.leaf.Hash()
	items := int(s.receipt.Items)
	c := &vector.Claims{
		KID: st.KID, Name: s.agent.name, UEID: st.UEID, Epoch: st.Epoch, Seq: st.Seq, Size: st.Size, Prev: st.Prev[:],
		Stream: s.receipt.Stream, Block: s.receipt.BlockNo, IssuedAt: st.IssuedAt, Freshness: "live",
	}
	if len(st.Nonce) == 0 {
		c.Freshness = "sequence"
	} else {
		c.NonceTime = &vector.Time{Time: s.agent.issued}
	}
	if l := st.Location; l != nil {
		c.Location = &vector.Location{
			Latitude: l.Latitude, Longitude: l.Longitude, Altitude: l.Altitude, Accuracy: l.Accuracy,
			Timestamp: l.Timestamp, Age: l.Age, Source: l.Source,
		}
	}
	return vector.Block{
		Verdict: "verified", Digest: s.receipt.Digest[:], Leaf: leaf[:], Root: s.root[:], Statement: s.statement[:],
		Items: &vector.Items{Signed: items, Arrived: items, Accepted: items}, Claims: c,
	}
}
