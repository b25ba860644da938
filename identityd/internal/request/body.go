package request

import (
	"strings"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/persist"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// Hex is bytes that stand in JSON as lower-case hexadecimal digits.
type Hex = api.Hex

type (
	// Operator is the body of POST /operator/register.
	Operator = api.Operator
	// Renewal is the body of POST /v1/operator/renew.
	Renewal = api.Renewal
	// Owner is the body of POST /owner/register.
	Owner = api.Owner
	// Configure is the body of POST /workload/configure.
	Configure = api.Configure
	// Credentials of a registry of images stand in it.
	Credentials = api.Credentials
	// Expose is the body of POST /workload/expose.
	Expose = api.Expose
	// Unlock is the body of POST /v1/storage/unlock.
	Unlock = api.Unlock
	// StorageRequest is the body of POST /v1/storage/request.
	StorageRequest = api.StorageRequest
)

const (
	maxSealed = unlock.MaxMessage // bytes of a wrapped key
	nonceSize = 32                // of a request for the volume's key
)

// read reads a body of a kind, and then finds members that are missing and values
// that are out of bounds.
func read[T any](raw []byte, check func(*T) error) (*T, error) {
	into := new(T)
	if err := strictjson.Unmarshal(raw, into); err != nil {
		// Its words are bounded and hold a member's name at most.
		return nil, reason.Refuse(reason.BadRequest, "%s", err)
	}
	if err := check(into); err != nil {
		return nil, err
	}
	return into, nil
}

func missing(member string) error {
	return reason.Refuse(reason.BadRequest, "member %q is missing", member)
}

func checkOperator(o *Operator) error {
	if o.Pubkey == nil || o.Signature == nil {
		return missing("pubkey or signature")
	}
	if o.OwnerPubkey != nil {
		return Key(o.OwnerPubkey)
	}
	return nil
}

func checkRenewal(r *Renewal) error {
	if r.Pubkey == nil || r.Signature == nil {
		return missing("pubkey or signature")
	}
	return nil
}

func checkOwner(o *Owner) error {
	if o.Pubkey == nil || o.Signature == nil {
		return missing("pubkey or signature")
	}
	return checkSealed(o.SealedKey)
}

// checkSealed bounds the wrapped key, whose form is package unlock's to read.
func checkSealed(key Hex) error {
	if len(key) > maxSealed {
		return reason.Refuse(reason.BadRequest, "sealed_key has %d bytes, more than %d", len(key), maxSealed)
	}
	return nil
}

func checkConfigure(c *Configure) error {
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

func checkExpose(e *Expose) error {
	switch {
	case e.InstancePubkey == nil:
		return missing("instance_pubkey")
	case e.Image == nil:
		return missing("image")
	}
	return checkImage(*e.Image)
}

func checkUnlock(u *Unlock) error {
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
	return checkSealed(u.SealedKey)
}

func checkStorageRequest(r *StorageRequest) error {
	switch {
	case r.Owner == nil:
		return missing("owner")
	case r.Nonce == nil:
		return missing("nonce")
	case len(r.Nonce) != nonceSize:
		return reason.Refuse(reason.BadRequest, "the nonce has %d bytes, not %d", len(r.Nonce), nonceSize)
	}
	return Key(r.Owner)
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
	if err := persist.Validate(dirs); err != nil {
		return reason.Refuse(reason.PersistDirsInvalid, "%s", err)
	}
	return nil
}
