package unlock

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha512"
	"encoding/binary"
)

const (
	transcriptTag = "telemark-storage-unlock-v1\x00"

	nonceSize  = 32
	tlsSize    = 32
	volumeSize = 16
	maxHPKE    = 2048
	maxState   = 64
)

// Transcript is what a VM asks for a key with, all of it. Its bytes are the
// info of HPKE, and their hash is the report data of the VM's quote:
//
//	T = "telemark-storage-unlock-v1" 00 | P(owner nonce) | P(owner) | P(hpke) | P(tls) | P(volume) | P(state) | P(counter)
//
//	P(x) = u32 length of x | x, big endian
//	hpke = u16 KEM | u16 KDF | u16 AEAD | public key, as RFC 9180 numbers and serialises them
//	counter = u64
type Transcript struct {
	OwnerNonce [nonceSize]byte   // the owner's tool's, so that the quote is fresh
	Owner      ed25519.PublicKey // who may answer
	HPKE       []byte            // algorithms and ephemeral key, as drawn above
	TLS        []byte            // SHA-256 of the SubjectPublicKeyInfo that the VM serves TLS with; empty without TLS
	Volume     [volumeSize]byte
	State      string // the VM's, lower-case letters and underscores
	Counter    uint64 // the VM's state counter
}

func part(b, p []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...)
}

// Bytes returns T.
func (t *Transcript) Bytes() []byte {
	b := []byte(transcriptTag)
	for _, p := range [][]byte{t.OwnerNonce[:], t.Owner, t.HPKE, t.TLS, t.Volume[:], []byte(t.State), binary.BigEndian.AppendUint64(nil, t.Counter)} {
		b = part(b, p)
	}
	return b
}

// ReportData is what the quote has to carry: SHA-512(T).
func (t *Transcript) ReportData() [64]byte { return sha512.Sum512(t.Bytes()) }

// cut takes one part off b.
func cut(b []byte, shortest, longest int) (p, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, refuse(Malformed, "ends in a length")
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	switch {
	case uint64(n) > uint64(len(b)):
		return nil, nil, refuse(Malformed, "a part of %d bytes where %d are left", n, len(b))
	case int(n) < shortest || int(n) > longest:
		return nil, nil, refuse(Malformed, "a part of %d bytes, not of %d to %d", n, shortest, longest)
	}
	return b[:n], b[n:], nil
}

// ParseTranscript reads the bytes of one transcript and nothing after it.
func ParseTranscript(b []byte) (*Transcript, error) {
	if len(b) < len(transcriptTag) || string(b[:len(transcriptTag)]) != transcriptTag {
		return nil, refuse(Malformed, "not a transcript of version 1")
	}
	bounds := [7][2]int{
		{nonceSize, nonceSize},
		{ed25519.PublicKeySize, ed25519.PublicKeySize},
		{6, maxHPKE},
		{0, tlsSize},
		{volumeSize, volumeSize},
		{1, maxState},
		{8, 8},
	}
	var parts [7][]byte
	rest := b[len(transcriptTag):]
	for i, bound := range bounds {
		var err error
		if parts[i], rest, err = cut(rest, bound[0], bound[1]); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		return nil, refuse(Malformed, "%d bytes follow the transcript", len(rest))
	}
	t := &Transcript{
		OwnerNonce: [nonceSize]byte(parts[0]), Owner: parts[1], HPKE: parts[2], TLS: parts[3],
		Volume: [volumeSize]byte(parts[4]), State: string(parts[5]), Counter: binary.BigEndian.Uint64(parts[6]),
	}
	return t, t.check()
}

// check demands what the layout cannot express.
func (t *Transcript) check() error {
	if len(t.Owner) != ed25519.PublicKeySize {
		return refuse(Malformed, "owner's key of %d bytes", len(t.Owner))
	}
	if len(t.TLS) != 0 && len(t.TLS) != tlsSize {
		return refuse(Malformed, "hash of the TLS key of %d bytes", len(t.TLS))
	}
	if len(t.State) == 0 || len(t.State) > maxState {
		return refuse(Malformed, "state of %d bytes", len(t.State))
	}
	for _, c := range []byte(t.State) {
		if (c < 'a' || c > 'z') && c != '_' {
			return refuse(Malformed, "state %.64q", t.State)
		}
	}
	_, err := t.publicKey()
	return err
}

func hpkePart(key hpke.PublicKey) []byte {
	b := binary.BigEndian.AppendUint16(nil, kem().ID())
	b = binary.BigEndian.AppendUint16(b, kdf().ID())
	b = binary.BigEndian.AppendUint16(b, aead().ID())
	return append(b, key.Bytes()...)
}

func (t *Transcript) publicKey() (hpke.PublicKey, error) {
	if len(t.HPKE) < 6 {
		return nil, refuse(Malformed, "HPKE key of %d bytes", len(t.HPKE))
	}
	id := func(i int) uint16 { return binary.BigEndian.Uint16(t.HPKE[2*i:]) }
	if id(0) != kem().ID() || id(1) != kdf().ID() || id(2) != aead().ID() {
		return nil, refuse(SuiteUnsupported, "KEM %04x, KDF %04x, AEAD %04x", id(0), id(1), id(2))
	}
	key, err := kem().NewPublicKey(t.HPKE[6:])
	if err != nil {
		return nil, refuse(Malformed, "HPKE key: %v", err)
	}
	return key, nil
}
