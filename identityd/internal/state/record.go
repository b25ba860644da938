package state

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// State is where the machine stands.
type State string

// The states, in their order.
const (
	Fresh              State = "fresh"
	OperatorRegistered State = "operator_registered"
	OwnerRegistered    State = "owner_registered"
	WorkloadConfigured State = "workload_configured"
	WorkloadExposed    State = "workload_exposed"
)

// order is the state's place in the line, -1 for what is none.
func (s State) order() int {
	switch s {
	case Fresh:
		return 0
	case OperatorRegistered:
		return 1
	case OwnerRegistered:
		return 2
	case WorkloadConfigured:
		return 3
	case WorkloadExposed:
		return 4
	default:
		return -1
	}
}

// Kind is what a step does.
type Kind string

// The steps that act on the world outside.
const (
	RegisterOwner Kind = "register_owner"
	Configure     Kind = "configure"
	Expose        Kind = "expose"
)

// Step is a transition under way.
type Step struct {
	Kind  Kind      `json:"kind"`
	Begun uint64    `json:"begun"` // the counter under which its intent was written
	Since time.Time `json:"since"`
	Boot  string    `json:"boot"` // another than the present one: the VM ended while it was under way

	Owner    *Party    `json:"owner,omitempty"`    // RegisterOwner
	Workload *Workload `json:"workload,omitempty"` // Configure
	Body     api.Hex   `json:"body,omitempty"`     // SHA-256 of a signed body of the older form
}

// Party is an operator or owner, and the instance key that it signed.
type Party struct {
	Pubkey            api.Hex `json:"pubkey"`
	InstanceSignature api.Hex `json:"instance_signature"`
	IdentitySignature api.Hex `json:"identity_signature"`
	Instance          api.Hex `json:"instance"`
}

// Registration is the party as the registry takes it.
func (p *Party) Registration() *api.Party {
	return &api.Party{Pubkey: p.Pubkey, InstanceSignature: p.InstanceSignature, IdentitySignature: p.IdentitySignature}
}

// Workload is what shall run.
type Workload struct {
	Image string `json:"image"` // as the owner wrote it
	// Digest is what the image was resolved to, "sha256:" and 64 hexadecimal
	// digits; empty until then.
	Digest      string   `json:"digest,omitempty"`
	PersistDirs []string `json:"persist_dirs,omitempty"`
	Port        uint16   `json:"port"`
}

// SSH is what happened to the way in; zero times mean that it did not.
type SSH struct {
	Opened         time.Time `json:"opened,omitzero"`
	ListenerClosed time.Time `json:"listener_closed,omitzero"`
	SessionsEnded  time.Time `json:"sessions_ended,omitzero"`
}

// closing reports whether the door is shut or being shut for good.
func (s SSH) closing() bool { return !s.ListenerClosed.IsZero() || !s.SessionsEnded.IsZero() }

// Link shows that the identity that began with another key goes on with this one.
type Link struct {
	At time.Time `json:"at"`
	// Signature is Ed25519 by the origin's key over
	//
	//	"telemark-identity-link-v1\0" | u32 32 | new instance key | u32 8 | u64 counter
	//
	// with the counter that the state had when the VM was started.
	Signature api.Hex `json:"signature"`
	Counter   uint64  `json:"counter"`
}

// record is the state file's content. Pointers and slices in it are never
// written through: a change makes new ones.
type record struct {
	Counter  uint64  `json:"counter"`
	State    State   `json:"state"`
	Boot     string  `json:"boot"`     // in which it was written
	Origin   api.Hex `json:"origin"`   // the instance key that the identity began with
	Instance api.Hex `json:"instance"` // the instance key of that boot
	Link     *Link   `json:"link,omitempty"`

	Operator *Party    `json:"operator,omitempty"`
	Expected api.Hex   `json:"expected_owner,omitempty"` // the only key that may become owner
	Bound    bool      `json:"bound,omitempty"`          // it came with the token
	Owner    *Party    `json:"owner,omitempty"`
	Workload *Workload `json:"workload,omitempty"`
	SSH      SSH       `json:"ssh"`
	Step     *Step     `json:"step,omitempty"`

	Accepted []api.Hex `json:"accepted,omitempty"` // SHA-256 of signed bodies, older form
	Retry    api.Hex   `json:"retry,omitempty"`    // the one whose step was undone and may be sent again
	Owed     uint64    `json:"owed,omitempty"`     // the counter of the last thing that the registry should hear of

	// Kept is the counter of the identity that the volume held for certain when the
	// last step was finished: a volume with an older one was set back by itself.
	Kept uint64 `json:"kept,omitempty"`
	// For each witness that has not spoken since a reboot: the counter that the
	// disk came with then. Linking raises the counter, so that later reboots keep
	// the first one's: a disk that was set back must not climb to what was seen.
	UnheardRegistry uint64 `json:"unheard_registry,omitempty"`
	UnheardOwner    uint64 `json:"unheard_owner,omitempty"`
}

// The bounds of a state.
const (
	// MaxCounter is the highest counter: the largest that every JSON reader keeps.
	MaxCounter = 1<<53 - 1
	// MaxRemembered bounds the signed bodies of the older form that are remembered.
	MaxRemembered = 512

	maxFile = 256 << 10
	keySize = 32
)

var (
	magicFamily = []byte("telemark-state-v")
	magic       = []byte("telemark-state-v1\n")
)

// encode writes the state file:
//
//	"telemark-state-v1\n" | u32 length | JSON | MAC
//	MAC = HMAC-SHA-256(MAC key, "telemark-identityd-state-v1\0" | all before)   (32 bytes)
//
// big-endian, nothing after it. The JSON is the one spelling that this program
// writes.
func (r *record) encode(key []byte) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the state: %w", err)
	}
	out := append([]byte(nil), magic...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	out = append(out, body...)
	out = append(out, mac(key, out)...)
	if len(out) > maxFile {
		return nil, fmt.Errorf("encode the state: %w", errTooLarge)
	}
	return out, nil
}

func mac(key, content []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("telemark-identityd-state-v1\x00"))
	h.Write(content)
	return h.Sum(nil)
}

// split takes the file apart without believing any of it.
func split(file []byte) (body []byte, err error) {
	if !bytes.HasPrefix(file, magic) {
		if bytes.HasPrefix(file, magicFamily) {
			return nil, reason.Refuse(reason.StateNewer, "it begins with %.24q", file)
		}
		return nil, reason.Refuse(reason.StateMalformed, "it begins with %.24q", file)
	}
	rest := file[len(magic):]
	if len(rest) < 4+sha256.Size || len(file) > maxFile {
		return nil, reason.Refuse(reason.StateMalformed, "it has %d bytes", len(file))
	}
	if n := binary.BigEndian.Uint32(rest); uint64(n) != uint64(len(rest)-4-sha256.Size) {
		return nil, reason.Refuse(reason.StateMalformed, "its length does not fit")
	}
	return rest[4 : len(rest)-sha256.Size], nil
}

// authentic reports whether the file was written under the key.
func authentic(file, key []byte) bool {
	cut := len(file) - sha256.Size
	return len(key) == keySize && cut >= 0 && hmac.Equal(file[cut:], mac(key, file[:cut]))
}

// decode reads a file that was authenticated.
func decode(file, key []byte) (*record, error) {
	if _, err := split(file); err != nil {
		return nil, err
	}
	if !authentic(file, key) {
		return nil, reason.Refuse(reason.StateForged, "its MAC does not fit")
	}
	return claim(file)
}

// claim reads a file that anybody may have written.
func claim(file []byte) (*record, error) {
	body, err := split(file)
	if err != nil {
		return nil, err
	}
	var r record
	if err := strictjson.Unmarshal(body, &r); err != nil {
		return nil, reason.Because(reason.StateMalformed, err)
	}
	again, err := json.Marshal(&r)
	if err != nil {
		return nil, reason.Because(reason.StateMalformed, err)
	}
	if !bytes.Equal(again, body) {
		return nil, reason.Because(reason.StateMalformed, errors.New("it is not spelled as this program writes it"))
	}
	if err := r.validate(); err != nil {
		return nil, reason.Because(reason.StateMalformed, err)
	}
	return &r, nil
}
