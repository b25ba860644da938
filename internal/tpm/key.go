package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// KeyOptions name a signing key.
type KeyOptions struct {
	// Dir holds the key's blobs, auth value and key.json. It is made with mode
	// 0700 when absent, and one Key may be open on it at a time.
	Dir string
	// Handle, when not 0, is a persistent handle of the owner (0x81000000 to
	// 0x817FFFFF), at which the key is kept in the TPM in addition to Dir.
	Handle uint32
	// Auth is the auth value of a key that has to be made: at most 32 bytes,
	// none of them zero. Empty is 32 random ones, and that is better: the TPM
	// does not count wrong guesses.
	Auth []byte
	// Name of the machine, for key.json. Empty keeps what stands there.
	Name string
	// Import, when not nil, is a key made by others that a new directory takes
	// over in place of a key of its own.
	Import *Import
}

// The persistent handles that belong to the owner (TCG Registry of Reserved
// TPM 2.0 Handles and Localities, section 2.3.1).
const (
	MinHandle uint32 = 0x81000000
	MaxHandle uint32 = 0x817FFFFF
)

func (o KeyOptions) validate() error {
	if o.Dir == "" {
		return errors.New("the directory of the signing key is not named")
	}
	if o.Handle != 0 && (o.Handle < MinHandle || o.Handle > MaxHandle) {
		return fmt.Errorf("persistent handle %#08x is not between %#08x and %#08x, the range of the owner", o.Handle, MinHandle, MaxHandle)
	}
	if o.Import != nil {
		if err := o.Import.validate(o.Handle); err != nil {
			return err
		}
	}
	return checkAuth("signing key's", o.Auth)
}

// Key is the signing key of one TPM. It serves any number of goroutines.
type Key struct {
	dev  *Device
	opts KeyOptions
	lock *private.Lock
	once sync.Once

	closed atomic.Bool
	rec    *record // not changed after OpenKey
	info   KeyInfo

	// The rest is of one connection, and owned by who holds the Device's slot.
	link      *link
	handle    tpm2.TPMHandle // 0: not loaded
	transient bool           // handle has to be flushed
	session   keptSession
	signed    bool  // the TPM has accepted the auth value
	rejected  error // what it said when it did not, of a key under dictionary attack protection
}

// OpenKey loads the signing key of a directory, or makes or imports one when
// the directory is new. It never replaces a key: [ErrWrongTPM], [ErrHandleTaken] and [ErrKeyDamaged] say
// what stands in the way.
func (d *Device) OpenKey(ctx context.Context, opts KeyOptions) (*Key, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if d.life.Err() != nil {
		return nil, ErrClosed
	}
	lock, err := private.LockDir(ctx, opts.Dir, lockFile, recordFile)
	if err != nil {
		return nil, err
	}
	k := &Key{dev: d, opts: opts, lock: lock}
	if _, err := ask(ctx, d, "opening the signing key in "+opts.Dir, k.open); err != nil {
		if ctx.Err() != nil {
			go k.Close() //nolint:errcheck // it waits for the TPM's command, the caller does not
		} else {
			_ = k.Close()
		}
		return nil, err
	}
	return k, nil
}

func (k *Key) open(l *link) (_ nothing, err error) {
	rec, err := readRecord(k.opts.Dir)
	switch {
	case err != nil || rec != nil:
	case k.opts.Import != nil:
		rec, err = k.importKey(l)
	default:
		rec, err = k.create(l)
	}
	if err != nil {
		return nothing{}, err
	}
	if rec.alg != l.opts.Algorithm {
		return nothing{}, otherAlgorithm(k.opts.Dir+" holds a key that signs", rec.alg, l.opts.Algorithm)
	}
	if from := rec.From; from != nil && from.Handle != 0 && k.opts.Handle != 0 && k.opts.Handle != from.Handle {
		return nothing{}, fmt.Errorf("the key was adopted at persistent handle %#08x, and is asked for at %#08x: %w", from.Handle, k.opts.Handle, ErrOtherHandle)
	}
	k.rec = rec
	if err := k.rename(); err != nil {
		return nothing{}, err
	}
	if k.info, err = rec.info(); err != nil {
		return nothing{}, err
	}
	return nothing{}, k.load(l)
}

// rename takes over another name of the machine.
func (k *Key) rename() error {
	if name := k.opts.Name; name != "" && name != k.rec.Name {
		k.rec.Name = name
		return k.rec.write(k.opts.Dir)
	}
	return k.rec.writeInfo(k.opts.Dir)
}

// create makes a signing key and writes its record. Part 3, section 12.1,
// TPM2_Create.
func (k *Key) create(l *link) (*record, error) {
	if err := k.checkHandle(l, nil); err != nil { // before anything is made
		return nil, err
	}
	storage, err := l.storageRoot()
	if err != nil {
		return nil, fmt.Errorf("storage root key: %w", err)
	}
	defer l.flushQuietly(storage.handle)
	auth := slices.Clone(k.opts.Auth)
	if len(auth) == 0 {
		auth = newAuth()
	}
	s, err := l.startSession(storage, nil, encryptBoth)
	if err != nil {
		return nil, err
	}
	defer l.flushQuietly(s.Handle())
	template := l.opts.Algorithm.signingTemplate()
	rsp, err := exec(l, tpm2.Create{
		ParentHandle: storage.auth(s),
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth}}},
		InPublic:     tpm2.New2B(template),
	})
	if err != nil {
		return nil, err
	}
	made, err := l.checked(0, rsp.OutPublic.Bytes(), template)
	if err != nil {
		return nil, err
	}
	rec := &record{
		Version:       recordVersion,
		Public:        made.raw,
		Private:       rsp.OutPrivate.Buffer,
		Auth:          auth,
		StoragePublic: storage.raw,
		Name:          k.opts.Name,
	}
	if err := rec.derive(); err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	if k.closed.Load() { // the caller has left, and with it the directory's lock
		return nil, ErrClosed
	}
	return rec, rec.write(k.opts.Dir)
}

// checkHandle refuses a persistent handle at which something else is than own,
// which may be nil.
func (k *Key) checkHandle(l *link, own *object) error {
	if k.opts.Handle == 0 {
		return nil
	}
	found, err := l.persistent(k.opts.Handle)
	if err != nil || found == nil || own != nil && bytes.Equal(found.name.Buffer, own.name.Buffer) {
		return err
	}
	return fmt.Errorf("persistent handle %#08x: %w", k.opts.Handle, ErrHandleTaken)
}

// storageRoot makes the storage root key. The caller flushes it.
func (l *link) storageRoot() (*object, error) {
	return l.primary(tpm2.TPMRHOwner, suites[l.opts.Algorithm].storage)
}

// load makes the key and a session ready on this connection.
func (k *Key) load(l *link) error {
	if k.link != l { // what was loaded went with the other connection
		k.link, k.handle, k.session = l, 0, keptSession{}
	}
	if k.handle != 0 && k.session.fresh() {
		return nil
	}
	storage, err := l.storageRoot()
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	defer l.flushQuietly(storage.handle)
	if !bytes.Equal(storage.raw, k.rec.StoragePublic) {
		return ErrWrongTPM
	}
	if k.handle == 0 {
		if err := k.loadKey(l, storage); err != nil {
			return err
		}
	}
	k.session.end(l)
	s, err := l.startSession(storage, k.rec.Auth, encryptCommand)
	if err != nil {
		return err
	}
	k.session = keptSession{Session: s, begun: time.Now()}
	return nil
}

// keptAt is the persistent handle of the key, 0 for none.
func (k *Key) keptAt() uint32 {
	if from := k.rec.From; from != nil && from.Handle != 0 {
		return from.Handle
	}
	return k.opts.Handle
}

// loadKey finds the key at its persistent handle, or loads its blobs, and puts
// it at the handle if one is wanted.
func (k *Key) loadKey(l *link, storage *object) error {
	if handle := k.keptAt(); handle != 0 {
		found, err := l.persistent(handle)
		if err != nil {
			return err
		}
		if found != nil {
			if !bytes.Equal(found.name.Buffer, k.rec.key.name.Buffer) {
				return fmt.Errorf("persistent handle %#08x: %w", handle, ErrHandleTaken)
			}
			k.handle, k.transient = tpm2.TPMHandle(handle), false
			return nil
		}
	}
	if err := k.loadBlobs(l, storage); err != nil || k.opts.Handle == 0 {
		return err
	}
	return k.persist(l)
}

// loadBlobs loads the key under its parent.
func (k *Key) loadBlobs(l *link, storage *object) error {
	under := storage
	if from := k.rec.From; from != nil {
		if from.Handle != 0 {
			return fmt.Errorf("the key was adopted at persistent handle %#08x, and is no more there: %w", from.Handle, ErrNothingThere)
		}
		p, done, err := from.Parent.load(l)
		if err != nil {
			return err
		}
		defer done()
		under = p
	}
	rsp, err := l.loadUnder(under, k.rec.Public, k.rec.Private)
	if isCode(err, tpm2.TPMRCIntegrity, tpm2.TPMRCBinding, tpm2.TPMRCSize, tpm2.TPMRCInsufficient) {
		return fmt.Errorf("%w: the TPM does not accept the private area: %w", ErrKeyDamaged, err)
	}
	if err != nil {
		return err
	}
	k.handle, k.transient = rsp.ObjectHandle, true
	if !bytes.Equal(rsp.Name.Buffer, k.rec.key.name.Buffer) {
		return l.breakOff(fmt.Errorf("%w: the loaded key has another Name", ErrMalformed))
	}
	return nil
}

// persist moves the loaded key to its persistent handle. Part 3, section
// 28.5, TPM2_EvictControl.
func (k *Key) persist(l *link) error {
	_, err := exec(l, tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: authSession(l.opts.OwnerAuth)},
		ObjectHandle:     tpm2.NamedHandle{Handle: k.handle, Name: k.rec.key.name},
		PersistentHandle: tpm2.TPMHandle(k.opts.Handle),
	})
	l.flushQuietly(k.handle)
	k.handle = 0
	if err != nil {
		return fmt.Errorf("persistent handle %#08x: %w", k.opts.Handle, err)
	}
	k.handle, k.transient = tpm2.TPMHandle(k.opts.Handle), false
	return nil
}

// persistent returns what is at a persistent handle, nil when it is free. Its
// Name is computed, not taken from the answer. Part 3, section 12.4, TPM2_ReadPublic.
func (l *link) persistent(handle uint32) (*object, error) {
	rsp, err := exec(l, tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)})
	if isCode(err, tpm2.TPMRCHandle) {
		return nil, nil //nolint:nilnil // a free handle is no error
	}
	if err != nil {
		return nil, err
	}
	o, err := parseObject(rsp.OutPublic.Bytes())
	if err != nil {
		return nil, fmt.Errorf("persistent handle %#08x: %w: %w", handle, ErrHandleTaken, err)
	}
	return o, nil
}

// HandleInfo describes the signing key at a persistent handle. It is an error
// when there is none ([ErrNothingThere]), or what is there cannot sign telemetry ([ErrUnfit]).
func (d *Device) HandleInfo(ctx context.Context, handle uint32) (KeyInfo, error) {
	what := fmt.Sprintf("reading persistent handle %#08x", handle)
	return ask(ctx, d, what, func(l *link) (info KeyInfo, err error) {
		o, err := l.persistent(handle)
		if err != nil {
			return info, err
		}
		if o == nil {
			return info, ErrNothingThere
		}
		r := record{Public: o.raw}
		if err = r.parse(); err != nil {
			return info, err
		}
		return r.info()
	})
}

// KID returns the TPM Name of the key: 000b and 32 bytes.
func (k *Key) KID() []byte { return slices.Clone(k.rec.key.name.Buffer) }

// PublicKey returns the key that verifies what Sign returns: an
// *ecdsa.PublicKey or *rsa.PublicKey.
func (k *Key) PublicKey() crypto.PublicKey { return k.rec.pub }

// Algorithm returns what the key signs with.
func (k *Key) Algorithm() Algorithm { return k.rec.alg }

// Info returns what stands in key.json.
func (k *Key) Info() KeyInfo { return k.info }

// Close unloads the key and gives up its directory. It may be called twice,
// and after the Device was closed.
func (k *Key) Close() error {
	var err error
	k.once.Do(func() {
		k.closed.Store(true)
		k.dev.ifConnected(func(l *link) {
			if k.link == l {
				k.unload(l)
			}
		})
		err = k.lock.Unlock()
	})
	return err
}

func (k *Key) unload(l *link) {
	k.session.end(l)
	if k.handle != 0 && k.transient {
		l.flushQuietly(k.handle)
	}
	k.handle = 0
}
