package identitytest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	registry "github.com/telemark-otel/telemark/internal/registry/api"
)

// Digest is what every image resolves to.
const Digest = "sha256:3b9a5f3b9a5f3b9a5f3b9a5f3b9a5f3b9a5f3b9a5f3b9a5f3b9a5f3b9a5f3b9a"

// role verifies the signature over the raw instance key.
func (i *Instance) role(key, signature []byte) *fault {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, public(i.key), signature) {
		return &fault{403, "signature_invalid", "the instance key is not signed"}
	}
	return nil
}

func (i *Instance) registerOperator(raw []byte, _ *http.Request) *fault {
	var o api.Operator
	if json.Unmarshal(raw, &o) != nil || i.state != statement.Fresh {
		return &fault{409, "operator_registered", "the state is " + i.state}
	}
	if f := i.role(o.Pubkey, o.Signature); f != nil {
		return f
	}
	i.state, i.operator, i.expected = statement.OperatorRegistered, o.Pubkey, o.OwnerPubkey
	return nil
}

func (i *Instance) renew(raw []byte, _ *http.Request) *fault {
	var o api.Renewal
	if json.Unmarshal(raw, &o) != nil || !bytes.Equal(o.Pubkey, i.operator) || i.locked {
		return &fault{409, "operator_registered", "only its operator can sign it anew"}
	}
	return i.role(o.Pubkey, o.Signature)
}

func (i *Instance) registerOwner(raw []byte, r *http.Request) *fault {
	var o api.Owner
	switch {
	case json.Unmarshal(raw, &o) != nil || i.state != statement.OperatorRegistered:
		return &fault{409, "owner_registered", "the state is " + i.state}
	case r.Header.Get(api.HeaderToken) != Token:
		return &fault{403, "token_invalid", "it is another one"}
	case i.expected != nil && !bytes.Equal(i.expected, o.Pubkey):
		return &fault{403, "owner_not_expected", "another key is expected"}
	}
	if f := i.role(o.Pubkey, o.Signature); f != nil {
		return f
	}
	if i.Source == "owner" && r.URL.Path == api.PathRegisterOwner {
		key, err := i.asks.Open(o.SealedKey, ed25519.PublicKey(o.Pubkey), i.current(), time.Now())
		if err != nil {
			return &fault{409, "sealed_key_missing", err.Error()}
		}
		i.secret = key
	}
	i.state, i.owner = statement.OwnerRegistered, o.Pubkey
	return nil
}

func (i *Instance) configure(raw []byte, _ *http.Request) *fault {
	var c api.Configure
	if json.Unmarshal(raw, &c) != nil || i.locked || !bytes.Equal(c.InstancePubkey, public(i.key)) || c.PersistDirs == nil {
		return &fault{400, "bad_request", "body"}
	}
	if i.state != statement.OwnerRegistered && i.state != statement.WorkloadConfigured {
		return &fault{409, "workload_exposed", "the state is " + i.state}
	}
	i.workload = &statement.Workload{Image: *c.Image, Digest: Digest, Port: uint16(*c.Port)}
	i.events = append(i.events, statement.Event{Name: statement.Image, Data: statement.ImageData(*c.Image, Digest)})
	if i.state == statement.OwnerRegistered {
		i.ssh.Opened = time.Now().UTC().Truncate(time.Second)
		i.events = append(i.events, statement.Event{Name: statement.SSHOpen, Data: hex.EncodeToString(public(i.key))})
	}
	i.state = statement.WorkloadConfigured
	return nil
}

func (i *Instance) expose(raw []byte, _ *http.Request) *fault {
	var e api.Expose
	switch {
	case json.Unmarshal(raw, &e) != nil || e.Image == nil || !bytes.Equal(e.InstancePubkey, public(i.key)):
		return &fault{400, "bad_request", "body"}
	case i.state != statement.WorkloadConfigured:
		return &fault{409, "workload_missing", "the state is " + i.state}
	case *e.Image != i.workload.Image:
		return &fault{409, "image_mismatch", "another image is configured"}
	}
	now := time.Now().UTC().Truncate(time.Second)
	i.ssh.ListenerClosed, i.ssh.SessionsEnded = now, now
	i.events = append(i.events, statement.Event{Name: statement.SSHClosed, Data: statement.ImageData(i.workload.Image, Digest)})
	i.state = statement.WorkloadExposed
	return nil
}

func (i *Instance) unlock(raw []byte, _ *http.Request) *fault {
	var u api.Unlock
	if json.Unmarshal(raw, &u) != nil || u.LastCounter == nil {
		return &fault{400, "bad_request", "body"}
	}
	if !i.locked {
		return &fault{409, "state_linked", "it is unlocked"}
	}
	if f := i.role(i.owner, u.Signature); f != nil {
		return f
	}
	key, err := i.asks.Open(u.SealedKey, i.owner, i.current(), time.Now())
	switch {
	case err != nil:
		return &fault{403, "sealed_key_missing", err.Error()}
	case !bytes.Equal(key, i.secret):
		return &fault{403, "key_wrong", "the volume does not open"}
	case *u.LastCounter > i.counter:
		return &fault{503, "state_rollback", "the disk was set back"}
	}
	i.locked = false
	i.link = &statement.Link{
		At: time.Now().UTC().Truncate(time.Second), Counter: i.counter,
		Signature: registry.Hex(ed25519.Sign(i.origin, statement.LinkMessage(registry.Hex(public(i.key)), i.counter))),
	}
	if i.workload != nil {
		i.events = append(i.events, statement.Event{Name: statement.Image, Data: statement.ImageData(i.workload.Image, Digest)})
		switch i.state {
		case statement.WorkloadConfigured:
			i.events = append(i.events, statement.Event{Name: statement.SSHOpen, Data: hex.EncodeToString(public(i.key))})
		case statement.WorkloadExposed:
			i.events = append(i.events, statement.Event{Name: statement.SSHClosed, Data: statement.ImageData(i.workload.Image, Digest)})
		}
	}
	return nil
}
