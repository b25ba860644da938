package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ErrNoParent says that nothing that is known loads the blobs of a key.
var ErrNoParent = errors.New("the key belongs under another parent, to another TPM, or to this one before it was cleared; " +
	"a parent at a persistent handle has to be named, and one that was made in a way of its own has to be made again and kept at a handle (tpm2_evictcontrol)")

// primaryParent is a primary key that keys of earlier deployments stand under.
// It is made again from the hierarchy's seed each time.
type primaryParent struct {
	name      string // in records; never changed
	hierarchy tpm2.TPMHandle
	template  tpm2.TPMTPublic
}

// primaryParents in the order in which they are tried; RSA keys are last, since a
// chip makes them in seconds.
//
//	srk    TCG's template of the storage root key, whose unique is zeros
//	bare   the same attributes, with an empty unique: tpm2_createprimary -a …|noda, tpm2-tss-engine
//	tools  tpm2_createprimary without -a: not noda, and an empty unique
var primaryParents = []primaryParent{
	{"owner/srk-p256", tpm2.TPMRHOwner, tpm2.ECCSRKTemplate},
	{"owner/bare-p256", tpm2.TPMRHOwner, bare(tpm2.ECCSRKTemplate, true)},
	{"owner/tools-p256", tpm2.TPMRHOwner, bare(tpm2.ECCSRKTemplate, false)},
	{"endorsement/tools-p256", tpm2.TPMRHEndorsement, bare(tpm2.ECCSRKTemplate, false)},
	{"owner/srk-rsa2048", tpm2.TPMRHOwner, tpm2.RSASRKTemplate},
	{"owner/bare-rsa2048", tpm2.TPMRHOwner, bare(tpm2.RSASRKTemplate, true)},
	{"owner/tools-rsa2048", tpm2.TPMRHOwner, bare(tpm2.RSASRKTemplate, false)},
	{"endorsement/tools-rsa2048", tpm2.TPMRHEndorsement, bare(tpm2.RSASRKTemplate, false)},
}

// bare takes the unique out of a template.
func bare(template tpm2.TPMTPublic, noDA bool) tpm2.TPMTPublic {
	template.ObjectAttributes.NoDA = noDA
	if template.Type == tpm2.TPMAlgRSA {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	} else {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	return template
}

func primaryNamed(name string) (primaryParent, error) {
	for _, p := range primaryParents {
		if p.name == name {
			return p, nil
		}
	}
	return primaryParent{}, fmt.Errorf("parent %.64q is not known", name)
}

// parent is what an imported key is loaded under: one of primaryParents, or
// what is at a persistent handle. It is pinned by its public area.
type parent struct {
	Primary string `json:"primary,omitempty"` // the name of one of primaryParents
	Handle  uint32 `json:"handle,omitempty"`  // persistent
	Public  []byte `json:"public"`            // TPMT_PUBLIC
}

func (p *parent) check() error {
	if (p.Primary == "") == (p.Handle == 0) {
		return errors.New("the parent has to be a primary key or at a handle, one of both")
	}
	if p.Primary != "" {
		if _, err := primaryNamed(p.Primary); err != nil {
			return err
		}
	}
	o, err := parseObject(p.Public)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	return o.checkParent()
}

// checkParent refuses what blobs cannot be loaded under without a policy.
func (o *object) checkParent() error {
	if a := o.public.ObjectAttributes; !a.Restricted || !a.Decrypt || a.SignEncrypt {
		return errors.New("it is no parent of keys: restricted and decrypt have to be set, and sign not")
	}
	if !o.public.ObjectAttributes.UserWithAuth {
		return errors.New("this parent, as an endorsement key is, has a policy and is not supported (userWithAuth is not set)")
	}
	return nil
}

// load makes the parent ready. The caller calls done.
func (p *parent) load(l *link) (o *object, done func(), err error) {
	if p.Handle != 0 {
		o, err = l.persistentParent(p.Handle)
		done = func() {}
	} else {
		var made primaryParent
		if made, err = primaryNamed(p.Primary); err != nil {
			return nil, nil, err
		}
		if o, err = l.primary(made.hierarchy, made.template); err == nil {
			done = func() { l.flushQuietly(o.handle) }
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("parent of the key: %w", err)
	}
	if !bytes.Equal(o.raw, p.Public) {
		done()
		return nil, nil, fmt.Errorf("the key's parent is another one than at the import: %w", ErrWrongTPM)
	}
	return o, done, nil
}

func (l *link) persistentParent(handle uint32) (*object, error) {
	o, err := l.persistent(handle)
	if err != nil {
		return nil, err
	}
	if o == nil {
		return nil, fmt.Errorf("nothing is at persistent handle %#08x: %w", handle, ErrNoParent)
	}
	o.handle = tpm2.TPMHandle(handle)
	if err := o.checkParent(); err != nil {
		return nil, fmt.Errorf("persistent handle %#08x: %w: %w", handle, err, ErrNoParent)
	}
	return o, nil
}

// loadUnder loads blobs. Part 3, section 12.2, TPM2_Load.
func (l *link) loadUnder(parent *object, public, private []byte) (*tpm2.LoadResponse, error) {
	return exec(l, tpm2.Load{
		ParentHandle: parent.auth(tpm2.PasswordAuth(nil)),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](public),
	})
}

// notItsParent are the answers to blobs of another parent, or that were changed.
var notItsParent = []tpm2.TPMRC{
	tpm2.TPMRCIntegrity, tpm2.TPMRCBinding, tpm2.TPMRCSize, tpm2.TPMRCInsufficient,
	tpm2.TPMRCValue, tpm2.TPMRCAttributes, tpm2.TPMRCHash, tpm2.TPMRCKey, tpm2.TPMRCType,
}

// findParent loads blobs under the parent at a handle or, when there is none,
// under the first of primaryParents that takes them. The caller flushes what was loaded.
func (l *link) findParent(b *Blobs, handle uint32) (*parent, tpm2.TPMHandle, error) {
	if handle != 0 {
		o, err := l.persistentParent(handle)
		if err != nil {
			return nil, 0, err
		}
		loaded, err := l.tryParent(o, b)
		if isCode(err, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth) {
			return nil, 0, fmt.Errorf("the parent at persistent handle %#08x has an auth value, which is not supported; leave the handle out if the parent is a primary key, which is then made again without: %w", handle, err)
		}
		return &parent{Handle: handle, Public: o.raw}, loaded, err
	}
	var others []error // of parents that this TPM does not make
	for _, p := range primaryParents {
		o, err := l.primary(p.hierarchy, p.template)
		if err != nil {
			if Classify(err) != Permanent {
				return nil, 0, err
			}
			others = append(others, fmt.Errorf("%s: %w", p.name, err))
			continue
		}
		loaded, err := l.tryParent(o, b)
		l.flushQuietly(o.handle)
		if err == nil || !errors.Is(err, ErrNoParent) {
			return &parent{Primary: p.name, Public: o.raw}, loaded, err
		}
	}
	if len(others) > 0 {
		return nil, 0, fmt.Errorf("%w (not tried: %w)", ErrNoParent, errors.Join(others...))
	}
	return nil, 0, ErrNoParent
}

func (l *link) tryParent(o *object, b *Blobs) (tpm2.TPMHandle, error) {
	rsp, err := l.loadUnder(o, b.public.raw, b.private)
	if isCode(err, notItsParent...) {
		return 0, fmt.Errorf("%w: %w", ErrNoParent, err)
	}
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(rsp.Name.Buffer, b.public.name.Buffer) {
		return 0, l.breakOff(fmt.Errorf("%w: the loaded key has another Name", ErrMalformed))
	}
	return rsp.ObjectHandle, nil
}
