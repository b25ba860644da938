package storage

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"sync"
)

// Kind is a kind of Source, as the volume's header and the configuration name
// it.
type Kind string

// The kinds.
const (
	OwnerKey  Kind = "owner"
	VaultKey  Kind = "vault"
	LegacyKey Kind = "legacy"
)

// Source is where a volume's key comes from. Keys that it returns are the
// caller's, who wipes them. Calls may take as long as ctx lets them.
type Source interface {
	Kind() Kind
	// Create returns the key of a volume to be made, and what Release will need
	// of it. That is written to the host's disk.
	Create(ctx context.Context, id ID) (key *Key, sealed []byte, err error)
	// Release returns the key of a volume that exists. sealed comes from the
	// host's disk; nothing has vouched for it yet.
	Release(ctx context.Context, id ID, sealed []byte) (*Key, error)
	// Warning is what an operator has to be told, or "".
	Warning() string
}

type owner struct {
	mu  sync.Mutex
	key *Key
}

// Owner is the source of one key that the volume's owner sent. It gives the key
// away once.
func Owner(key *Key) Source { return &owner{key: key} }

func (*owner) Kind() Kind      { return OwnerKey }
func (*owner) Warning() string { return "" }

func (o *owner) Create(ctx context.Context, id ID) (*Key, []byte, error) {
	k, err := o.Release(ctx, id, nil)
	return k, nil, err
}

func (o *owner) Release(context.Context, ID, []byte) (*Key, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.key
	o.key = nil
	if k == nil || k.b == nil {
		return nil, refuse(KeyInvalid, "the owner's key was used already")
	}
	return k, nil
}

type legacy struct {
	owner ed25519.PublicKey
	ppid  []byte
}

// Legacy derives the key as deployments of the first generation did:
//
//	key = SHA-256(owner's public key | PPID)
//
// It is worthless against whoever reads the disk. The owner's public key is
// public, and the PPID stands in plain in the certificate of every quote that
// the machine makes: the host, of all people, has both, and this line is all
// it takes to decrypt the volume. It exists so that such a deployment can move
// on, and nothing selects it but its own option.
func Legacy(ownerKey ed25519.PublicKey, ppid []byte) (Source, error) {
	if len(ownerKey) != ed25519.PublicKeySize || len(ppid) == 0 {
		return nil, refuse(KeyInvalid, "owner's key of %d bytes, PPID of %d", len(ownerKey), len(ppid))
	}
	return &legacy{owner: ownerKey, ppid: ppid}, nil
}

func (*legacy) Kind() Kind { return LegacyKey }

func (*legacy) Warning() string {
	return "the storage key is derived from the owner's public key and the PPID, which are both public: whoever reads the disk can decrypt it; use the key source owner or vault"
}

func (l *legacy) Create(ctx context.Context, id ID) (*Key, []byte, error) {
	k, err := l.Release(ctx, id, nil)
	return k, nil, err
}

func (l *legacy) Release(context.Context, ID, []byte) (*Key, error) {
	sum := sha256.Sum256(append(append([]byte(nil), l.owner...), l.ppid...))
	return NewKey(sum[:])
}
