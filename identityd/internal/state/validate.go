package state

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// validate looks at what every state has to be, whoever wrote it.
func (r *record) validate() error {
	if r.Counter == 0 || r.Counter > MaxCounter || max(r.Owed, r.Kept) > r.Counter {
		return errors.New("counters are out of bounds")
	}
	if !plain(r.Boot, 64) || len(r.Origin) != ed25519.PublicKeySize || len(r.Instance) != ed25519.PublicKeySize {
		return errors.New("boot or instance is malformed")
	}
	if max(r.UnheardRegistry, r.UnheardOwner) >= r.Counter || r.Link == nil && max(r.UnheardRegistry, r.UnheardOwner) != 0 {
		return errors.New("what witnesses have not heard of is out of bounds")
	}
	if (r.Link == nil) != (string(r.Origin) == string(r.Instance)) {
		return errors.New("key and link do not fit")
	}
	if r.Link != nil && (len(r.Link.Signature) != ed25519.SignatureSize || r.Link.Counter >= r.Counter) {
		return errors.New("link is malformed")
	}
	if err := r.validateRoles(); err != nil {
		return err
	}
	if err := r.validateSSH(); err != nil {
		return err
	}
	return errors.Join(r.validateStep(), r.validateMemory())
}

func (r *record) validateRoles() error {
	at := r.State.order()
	if at < 0 {
		return errors.New("state is unknown")
	}
	if (r.Operator != nil) != (at >= OperatorRegistered.order()) ||
		(r.Owner != nil) != (at >= OwnerRegistered.order()) ||
		(r.Workload != nil) != (at >= WorkloadConfigured.order()) {
		return fmt.Errorf("state %s has too much or too little", r.State)
	}
	for _, p := range []*Party{r.Operator, r.Owner} {
		if p != nil && !p.valid() {
			return errors.New("a party is malformed")
		}
	}
	if n := len(r.Expected); n != 0 && n != ed25519.PublicKeySize || n != 0 && r.Operator == nil || r.Bound && n == 0 {
		return errors.New("expected owner is malformed")
	}
	if r.Owner != nil && string(r.Expected) != string(r.Owner.Pubkey) {
		return errors.New("the owner is not the expected one")
	}
	if r.Workload != nil && (!r.Workload.valid() || r.Workload.Digest == "") {
		return errors.New("workload is malformed")
	}
	return nil
}

func (r *record) validateSSH() error {
	exposing := r.Step != nil && r.Step.Kind == Expose
	switch {
	case r.State == WorkloadExposed && (r.SSH.ListenerClosed.IsZero() || r.SSH.SessionsEnded.IsZero()):
		return errors.New("exposed with SSH not closed")
	case r.State != WorkloadExposed && !exposing && r.SSH.closing():
		return errors.New("SSH closed and nothing exposed")
	case !r.SSH.Opened.IsZero() && r.State.order() < OwnerRegistered.order():
		return errors.New("SSH opened without an owner")
	}
	return nil
}

func (r *record) validateStep() error {
	s := r.Step
	if s == nil {
		return nil
	}
	if s.Begun == 0 || s.Begun > r.Counter || !plain(s.Boot, 64) {
		return errors.New("step is malformed")
	}
	if n := len(s.Body); n != 0 && n != sha256.Size {
		return errors.New("step's body is malformed")
	}
	ok := false
	switch s.Kind {
	case RegisterOwner:
		ok = r.State == OperatorRegistered && s.Owner != nil && s.Owner.valid() && s.Workload == nil &&
			string(r.Expected) == string(s.Owner.Pubkey)
	case Configure:
		ok = (r.State == OwnerRegistered || r.State == WorkloadConfigured) && s.Owner == nil && s.Workload != nil && s.Workload.valid()
	case Expose:
		ok = r.State == WorkloadConfigured && s.Owner == nil && s.Workload == nil
	default:
	}
	if !ok {
		return fmt.Errorf("step does not fit state %s", r.State)
	}
	return nil
}

func (r *record) validateMemory() error {
	if len(r.Accepted) > MaxRemembered {
		return errors.New("too many bodies are remembered")
	}
	seen := make(map[string]bool, len(r.Accepted))
	for _, d := range r.Accepted {
		if len(d) != sha256.Size || seen[string(d)] {
			return errors.New("remembered bodies are malformed")
		}
		seen[string(d)] = true
	}
	if len(r.Retry) != 0 && !seen[string(r.Retry)] {
		return errors.New("the body to be sent again is not remembered")
	}
	return nil
}

func (p *Party) valid() bool {
	return len(p.Pubkey) == ed25519.PublicKeySize && len(p.InstanceSignature) == ed25519.SignatureSize &&
		len(p.IdentitySignature) == ed25519.SignatureSize && len(p.Instance) == ed25519.PublicKeySize
}

// valid bounds what is kept; whether it can be run is for the workload to say.
func (w *Workload) valid() bool {
	if !plain(w.Image, 512) || w.Port == 0 || len(w.PersistDirs) > 32 || w.Digest != "" && !isDigest(w.Digest) {
		return false
	}
	for _, dir := range w.PersistDirs {
		if dir == "" || len(dir) > 256 || !utf8.ValidString(dir) {
			return false
		}
	}
	return true
}

// plain reports whether s is 1 to most visible ASCII characters.
func plain(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}

func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	_, err := hex.DecodeString(digits)
	return ok && err == nil && len(digits) == 2*sha256.Size && strings.ToLower(digits) == digits
}

// bytesOf makes a copy that nobody else writes to.
func bytesOf(b []byte) api.Hex { return append(api.Hex(nil), b...) }
