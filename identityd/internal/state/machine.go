package state

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Options of Open.
type Options struct {
	Dir    Dir    // on a disk that nobody has to trust
	RunDir Dir    // in memory
	BootID string // of the kernel: /proc/sys/kernel/random/boot_id
	// Random fills its argument or fails; nil is the system's.
	Random func([]byte) error
}

// Machine is safe for concurrent use.
type Machine struct {
	dir, runDir Dir
	random      func([]byte) error
	key         ed25519.PrivateKey // of the instance in this boot; set by Open

	mu     sync.Mutex
	run    run
	rec    record // what is durable; unlinked: a claim
	found  []byte // unlinked: the file as it was read
	burned uint64 // the highest counter that a file may bear, written whole or not
	given  uint64 // the counter of the identity that was asked for last, 0 for none
}

// Open comes back to the last completed state. A file that was changed, is of
// another instance or was set back is refused with the reason, and so is one
// that is gone; nothing is written then.
func Open(o Options) (*Machine, error) {
	m := &Machine{dir: o.Dir, runDir: o.RunDir, random: o.Random}
	if m.random == nil {
		m.random = func(b []byte) error { _, err := rand.Read(b); return err }
	}
	if !plain(o.BootID, 64) {
		return nil, reason.Refuse(reason.Internal, "the boot id %.64q is malformed", o.BootID)
	}
	r, err := loadRun(o.RunDir, o.BootID)
	if err != nil {
		return nil, err
	}
	file, err := m.readState()
	if err != nil {
		return nil, err
	}
	if r == nil {
		err = m.firstOfBoot(o.BootID, file)
	} else {
		m.run, m.key = *r, ed25519.NewKeyFromSeed(r.Seed)
		err = m.again(file)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// readState returns nil when there is no file.
func (m *Machine) readState() ([]byte, error) {
	file, err := m.dir.ReadFile(stateFile, maxFile)
	switch {
	case err == nil:
		return file, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, errNotPlain), errors.Is(err, errTooLarge):
		return nil, reason.Because(reason.StateMalformed, err)
	default:
		return nil, reason.Because(reason.StateUnavailable, fmt.Errorf("read the state: %w", err))
	}
}

// firstOfBoot starts with a new instance key. What the disk says is a claim.
func (m *Machine) firstOfBoot(boot string, file []byte) error {
	m.run = run{Version: 1, Boot: boot, Seed: make([]byte, ed25519.SeedSize)}
	if err := m.random(m.run.Seed); err != nil {
		return reason.Because(reason.Internal, fmt.Errorf("make the instance key: %w", err))
	}
	m.key = ed25519.NewKeyFromSeed(m.run.Seed)
	if file != nil {
		claimed, err := claim(file)
		if err != nil {
			return err
		}
		if claimed.State.order() >= OwnerRegistered.order() {
			m.rec, m.found = *claimed, file
			return m.run.save(m.runDir)
		}
		// There is no volume that could hold the identity: nothing to go on with.
		// The file goes first, lest it be taken for a forged one of this boot.
		if err := errors.Join(m.dir.Remove(stateFile), m.dir.Sync()); err != nil {
			return reason.Because(reason.StateUnavailable, fmt.Errorf("remove the state of an earlier boot: %w", err))
		}
	}
	m.run.MACKey = make([]byte, keySize)
	if err := m.random(m.run.MACKey); err != nil {
		return reason.Because(reason.Internal, fmt.Errorf("make the MAC key: %w", err))
	}
	m.run.OriginSeed = m.run.Seed
	m.rec = m.fresh()
	return m.run.save(m.runDir)
}

func (m *Machine) fresh() record {
	return record{State: Fresh, Boot: m.run.Boot, Origin: m.public(), Instance: m.public()}
}

// again goes on after a restart of the service.
func (m *Machine) again(file []byte) error {
	if file == nil {
		if m.run.linked() && m.run.Counter == 0 {
			m.rec = m.fresh()
			return nil
		}
		return reason.Refuse(reason.StateMissing, "counter %d was written", m.run.Counter)
	}
	if !m.run.linked() {
		claimed, err := claim(file)
		if err != nil {
			return err
		}
		if claimed.State.order() < OwnerRegistered.order() {
			return reason.Refuse(reason.StateForged, "another state stood there when the VM was started")
		}
		m.rec, m.found = *claimed, file
		return nil
	}
	r, err := decode(file, m.run.MACKey)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(file)
	switch {
	case r.Counter < m.run.Counter:
		return reason.Refuse(reason.StateRollback, "its counter is %d, and %d was written", r.Counter, m.run.Counter)
	case r.Counter == m.run.Counter && !bytes.Equal(digest[:], m.run.Digest):
		return reason.Refuse(reason.StateRollback, "it is another one of counter %d", r.Counter)
	case !bytes.Equal(r.Instance, m.public()):
		if m.run.Counter != 0 {
			return reason.Refuse(reason.StateForged, "it is of another boot, or of another VM with this identity")
		}
		return m.halfLinked(r, file)
	}
	// One that is newer than the anchor was written just before a crash: nobody
	// else has the key.
	m.rec, m.burned = *r, r.Counter
	return nil
}

// halfLinked: the crash came between the run file and the state file of a link,
// which has to be made anew.
func (m *Machine) halfLinked(r *record, file []byte) error {
	m.run.MACKey, m.run.OriginSeed, m.run.Counter, m.run.Digest = nil, nil, 0, nil
	m.run.Registry, m.run.Tool = false, false
	m.rec, m.found = *r, file
	return m.run.save(m.runDir)
}

// write makes next durable under the next counter, and only then the machine's
// state. It reads from top to bottom:
//
//  1. secrets that the new state needs, into the run file (if edit is given)
//  2. the state file
//  3. the anchor, into the run file
//
// When it fails, the machine stands where it stood and may try again: the next
// attempt has a higher counter, so that what this one may have left loses. When
// it is killed, Open finds the old state or the new one.
func (m *Machine) write(next record, edit func(*run)) error {
	next.Counter = max(m.burned, m.rec.Counter) + 1
	next.Boot = m.run.Boot
	if err := next.validate(); err != nil {
		return reason.Because(reason.Internal, fmt.Errorf("the next state would not be valid: %w", err))
	}
	r := m.run
	if edit != nil {
		edit(&r)
		if err := r.save(m.runDir); err != nil {
			return err
		}
	}
	file, err := next.encode(r.MACKey)
	if err != nil {
		return reason.Because(reason.Internal, err)
	}
	m.burned = next.Counter
	if err := replace(m.dir, stateFile, file); err != nil {
		return reason.Because(reason.StateUnavailable, err)
	}
	digest := sha256.Sum256(file)
	r.Counter, r.Digest = next.Counter, digest[:]
	if err := r.save(m.runDir); err != nil {
		return err
	}
	m.run, m.rec, m.found = r, next, nil
	return nil
}

// Instance is the instance's public key in this boot.
func (m *Machine) Instance() ed25519.PublicKey { return ed25519.PublicKey(m.public()) }

func (m *Machine) public() api.Hex { return bytesOf(m.key.Public().(ed25519.PublicKey)) }

// Sign signs with the instance's key. The caller sees to it that what is signed
// says what it is for.
func (m *Machine) Sign(message []byte) []byte { return ed25519.Sign(m.key, message) }
