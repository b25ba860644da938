package tpm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Import names a key that was made by others, for a directory that is new.
// Exactly one of Blobs and Adopt is given.
type Import struct {
	// Blobs of the key.
	Blobs *Blobs
	// Parent, when not 0, is the persistent handle of the key that Blobs are
	// loaded under. Otherwise it is one that tpm2-tools make, or TCG's
	// storage root key, and is found.
	Parent uint32
	// Adopt the key at KeyOptions.Handle, of which there are no blobs: it
	// lives as long as it stays there.
	Adopt bool
	// Auth is the auth value of the key, at most 32 bytes, none of them zero. It may be empty.
	Auth []byte
}

// ErrWrongAuth says that the TPM does not accept the auth value of the signing key.
var ErrWrongAuth = errors.New("the auth value is not the key's")

func (i *Import) validate(handle uint32) error {
	if (i.Blobs != nil) == i.Adopt {
		return errors.New("an import needs either blobs or a key to adopt")
	}
	if i.Adopt && handle == 0 {
		return errors.New("a key is adopted at a persistent handle, and none is named")
	}
	if i.Parent != 0 && (i.Adopt || i.Parent>>24 != 0x81) {
		return fmt.Errorf("parent %#08x: blobs may have one, at a persistent handle (0x81000000 to 0x81FFFFFF)", i.Parent)
	}
	return checkAuth("imported key's", i.Auth)
}

// provenance is what a record of version 2 has more: how a key is found that
// was not made here. One of both is given.
type provenance struct {
	// Parent of the blobs.
	Parent *parent `json:"parent,omitempty"`
	// Handle is the persistent handle that the key was adopted at. There are no blobs.
	Handle uint32 `json:"handle,omitempty"`
}

func (p *provenance) check(private []byte) error {
	switch {
	case p.Parent != nil && p.Handle == 0:
		if len(private) == 0 {
			return errors.New("private area is missing")
		}
		return p.Parent.check()
	case p.Parent == nil && p.Handle >= MinHandle && p.Handle <= MaxHandle:
		if len(private) != 0 {
			return errors.New("an adopted key has no private area")
		}
		return nil
	default:
		return errors.New("it has to say the key's parent, or the persistent handle that it was adopted at")
	}
}

// importKey takes a key over that was made by others. Its record is written
// after it has signed, so that a wrong auth value leaves nothing behind.
func (k *Key) importKey(l *link) (_ *record, err error) {
	from := k.opts.Import
	storage, err := l.storageRoot()
	if err != nil {
		return nil, fmt.Errorf("storage root key: %w", err)
	}
	defer func() {
		l.flushQuietly(storage.handle)
		if err != nil {
			k.unload(l)
		}
	}()
	rec := &record{
		Version:       importedVersion,
		Auth:          slices.Clone(from.Auth),
		StoragePublic: storage.raw,
		Name:          k.opts.Name,
	}
	k.link, k.handle, k.session = l, 0, keptSession{}
	if from.Adopt {
		err = k.adopt(l, rec)
	} else {
		err = k.importBlobs(l, rec)
	}
	if err != nil {
		return nil, err
	}
	if err = rec.derive(); err != nil {
		return nil, err
	}
	if rec.alg != l.opts.Algorithm {
		return nil, otherAlgorithm("the imported key signs", rec.alg, l.opts.Algorithm)
	}
	s, err := l.startSession(storage, rec.Auth, encryptCommand)
	if err != nil {
		return nil, err
	}
	k.rec, k.session = rec, keptSession{Session: s, begun: time.Now()}
	if err = k.prove(l); err != nil {
		return nil, err
	}
	k.unload(l) // load does what else is wanted
	if k.closed.Load() {
		return nil, ErrClosed
	}
	return rec, rec.write(k.opts.Dir)
}

func (k *Key) importBlobs(l *link, rec *record) (err error) {
	b := k.opts.Import.Blobs
	if err := k.checkHandle(l, b.public); err != nil { // before anything is written
		return err
	}
	found, loaded, err := l.findParent(b, k.opts.Import.Parent)
	if err != nil {
		return fmt.Errorf("loading the blobs of the key: %w", err)
	}
	k.handle, k.transient = loaded, true
	rec.Public, rec.Private = b.public.raw, b.private
	rec.From = &provenance{Parent: found}
	return nil
}

func (k *Key) adopt(l *link, rec *record) error {
	handle := k.opts.Handle
	o, err := l.persistent(handle)
	if err != nil {
		return err
	}
	if o == nil {
		return fmt.Errorf("%w: nothing is at persistent handle %#08x", ErrNothingThere, handle)
	}
	if _, err := o.signsWith(); err != nil {
		return fmt.Errorf("persistent handle %#08x: %w", handle, err)
	}
	k.handle, k.transient = tpm2.TPMHandle(handle), false
	rec.Public = o.raw
	rec.From = &provenance{Handle: handle}
	return nil
}

// prove has the key sign once, so that its auth value is known to be right. A
// key under dictionary attack protection is asked a single time.
func (k *Key) prove(l *link) error {
	digest := make([]byte, suites[k.rec.alg].hash.Size())
	_, err := k.sign(l, digest)
	return err
}

func otherAlgorithm(who string, has, asked Algorithm) error {
	return fmt.Errorf("%s with %s, and %s is asked for: %w", who, has, asked, ErrOtherAlgorithm)
}
