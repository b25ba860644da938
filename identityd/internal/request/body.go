package request

import (
	"encoding/json"
	"errors"
	"path"
	"strings"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// Hex is bytes that stand in JSON as lower-case hexadecimal digits.
type Hex []byte

const maxHex = 16 << 10 // digits; the longest is a wrapped key with room to grow

var errHex = errors.New("bytes are a string of lower-case hexadecimal digits")

// UnmarshalJSON implements json.Unmarshaler.
func (h *Hex) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return errHex
	}
	decoded, ok := lowerHex(*s, maxHex)
	if !ok {
		return errHex
	}
	*h = decoded
	return nil
}

// body is what a kind of request has to say of itself.
type body interface {
	// check finds members that are missing and values that are out of bounds.
	check() error
}

func decode(raw []byte, into body) error {
	if err := strictjson.Unmarshal(raw, into); err != nil {
		// Its words are bounded and hold a member's name at most.
		return reason.Refuse(reason.BadRequest, "%s", err)
	}
	return into.check()
}

func missing(member string) error {
	return reason.Refuse(reason.BadRequest, "member %q is missing", member)
}

// Operator is the body of POST /operator/register.
type Operator struct {
	Pubkey    Hex `json:"pubkey"`
	Signature Hex `json:"signature"` // over the raw instance key
	// OwnerPubkey names the only key that may become owner. It is optional and,
	// since nothing signs it, worth what the channel is worth: TLS only.
	OwnerPubkey Hex `json:"owner_pubkey,omitempty"`
}

func (o *Operator) check() error {
	if o.Pubkey == nil || o.Signature == nil {
		return missing("pubkey or signature")
	}
	if o.OwnerPubkey != nil {
		return Key(o.OwnerPubkey)
	}
	return nil
}

// Owner is the body of POST /owner/register.
type Owner struct {
	Pubkey    Hex `json:"pubkey"`
	Signature Hex `json:"signature"` // over the raw instance key
	// SealedKey is the volume's key, wrapped for this VM and signed by its owner in
	// a form of its own (package storage/unlock), which is not looked at here.
	// Optional.
	SealedKey Hex `json:"sealed_key,omitempty"`
}

func (o *Owner) check() error {
	if o.Pubkey == nil || o.Signature == nil {
		return missing("pubkey or signature")
	}
	return nil
}

// Configure is the body of POST /workload/configure. All members are required,
// but for Registry.
type Configure struct {
	InstancePubkey Hex      `json:"instance_pubkey"`
	Image          *string  `json:"image"`
	PersistDirs    []string `json:"persist_dirs"` // [] for none
	Port           *int64   `json:"port"`
	// Registry is how a private image is pulled. It is a secret.
	Registry *Credentials `json:"registry_credentials,omitempty"`
}

// Credentials of a registry of images, kept in memory only.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// String keeps them out of logs.
func (Credentials) String() string { return "[credentials]" }

// GoString keeps them out of logs.
func (Credentials) GoString() string { return "[credentials]" }

func (c *Configure) check() error {
	switch {
	case c.InstancePubkey == nil:
		return missing("instance_pubkey")
	case c.Image == nil:
		return missing("image")
	case c.PersistDirs == nil:
		return missing("persist_dirs")
	case c.Port == nil:
		return missing("port")
	case *c.Port < 1 || *c.Port > 65535:
		return reason.Refuse(reason.PortInvalid, "%d", *c.Port)
	case c.Registry != nil && (len(c.Registry.Username) > 1024 || len(c.Registry.Password) > 16<<10):
		return reason.Refuse(reason.BadRequest, "registry_credentials are too long")
	}
	if err := checkImage(*c.Image); err != nil {
		return err
	}
	return checkDirs(c.PersistDirs)
}

// Expose is the body of POST /workload/expose. Both members are required.
type Expose struct {
	InstancePubkey Hex     `json:"instance_pubkey"`
	Image          *string `json:"image"`
}

func (e *Expose) check() error {
	switch {
	case e.InstancePubkey == nil:
		return missing("instance_pubkey")
	case e.Image == nil:
		return missing("image")
	}
	return checkImage(*e.Image)
}

// Unlock is the body of POST /v1/storage/unlock, after a reboot.
type Unlock struct {
	InstancePubkey Hex `json:"instance_pubkey"`
	// Signature is the owner's over the raw new instance key, as at registration.
	Signature Hex `json:"signature"`
	SealedKey Hex `json:"sealed_key"`
	// LastCounter is the highest counter that the owner's tool saw, 0 for none.
	LastCounter *uint64 `json:"last_counter"`
}

func (u *Unlock) check() error {
	switch {
	case u.InstancePubkey == nil:
		return missing("instance_pubkey")
	case u.Signature == nil:
		return missing("signature")
	case u.SealedKey == nil:
		return missing("sealed_key")
	case u.LastCounter == nil:
		return missing("last_counter")
	}
	return nil
}

// checkImage bounds the name. What it names is for the workload to say.
func checkImage(image string) error {
	if image == "" || len(image) > 512 || strings.ContainsFunc(image, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return reason.Refuse(reason.ImageInvalid, "%.64q", image)
	}
	return nil
}

// checkDirs looks at the paths as words. That none leaves its place through a
// link is for the workload to see to, when it opens them.
func checkDirs(dirs []string) error {
	if len(dirs) > 32 {
		return reason.Refuse(reason.PersistDirsInvalid, "there are %d", len(dirs))
	}
	for i, dir := range dirs {
		if len(dir) > 256 || len(dir) < 2 || dir[0] != '/' || path.Clean(dir) != dir ||
			strings.ContainsFunc(dir, func(c rune) bool { return c < ' ' || c == 0x7f || c == ',' || c == ':' }) {
			return reason.Refuse(reason.PersistDirsInvalid, "%.64q", dir)
		}
		for _, taken := range []string{"/proc", "/sys", "/dev", "/run"} {
			if overlap(dir, taken) {
				return reason.Refuse(reason.PersistDirsInvalid, "%.64q lies in %s", dir, taken)
			}
		}
		for _, other := range dirs[:i] {
			if overlap(dir, other) || overlap(other, dir) {
				return reason.Refuse(reason.PersistDirsInvalid, "%.64q and %.64q", dir, other)
			}
		}
	}
	return nil
}

// overlap reports whether inner is outer or lies in it.
func overlap(inner, outer string) bool {
	return inner == outer || strings.HasPrefix(inner, outer+"/")
}
