// Package client is how operators and owners talk to an instance of identityd:
// it asks the instance who it is, has the quote verified under a fresh nonce,
// holds it against what is remembered, and only then signs and sends.
//
// Over https the connection is not believed because of its certificate, but
// because the attestation, which came over it, names its key; from then on no
// other key is spoken to. With Options.Roots the certificate is checked by an
// authority instead, for instances behind a proxy: then the proxy sees what is
// sent. Over plain HTTP everybody on the way sees it, and cannot change it.
//
// Private keys, memory and collateral are the caller's: see crypto.Signer,
// Memory and Quotes. What an instance refuses is a *Refusal, why it is not
// believed a *Doubt.
package client

import "fmt"

// Reason says why an instance is not believed.
type Reason string

// The reasons.
const (
	AnswerMalformed     Reason = "answer_malformed"     // it cannot be read
	InstanceMismatch    Reason = "instance_mismatch"    // the attestation is of another instance key than was told, or than was asked for
	QuoteRefused        Reason = "quote_refused"        // it is not of a VM that policy accepts
	QuoteMismatch       Reason = "quote_mismatch"       // it was made for another nonce or statement
	StatementInvalid    Reason = "statement_invalid"    // it contradicts itself, or the quote's registers
	TLSKeyMismatch      Reason = "tls_key_mismatch"     // the connection ends elsewhere
	StateRollback       Reason = "state_rollback"       // its counter is lower than one that was seen
	MeasurementsChanged Reason = "measurements_changed" // it is another VM image than at first
	StorageRefused      Reason = "storage_refused"      // what it asks the volume's key with does not fit
	ChannelOpen         Reason = "channel_open"         // others would read a secret on the way
	SignerInvalid       Reason = "signer_invalid"       // not an Ed25519 key, or it failed
)

// Doubt is why an instance is not believed. Nothing was signed or sent then.
type Doubt struct {
	Reason Reason
	Detail string
	Err    error
}

func (d *Doubt) Error() string {
	s := string(d.Reason)
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	if d.Err != nil {
		s += ": " + d.Err.Error()
	}
	return s
}

func (d *Doubt) Unwrap() error { return d.Err }

// Is reports whether target is a doubt for the same reason, so that errors.Is(err,
// &Doubt{Reason: r}) asks for a reason.
func (d *Doubt) Is(target error) bool {
	t, ok := target.(*Doubt)
	return ok && t.Reason == d.Reason && t.Detail == "" && t.Err == nil
}

func doubt(r Reason, format string, args ...any) *Doubt {
	return &Doubt{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Refusal is what the instance answers in place of success. Its words are the
// instance's: bounded and printable, and otherwise not believed.
type Refusal struct {
	Status     int
	Reason     string // one of identityd's, like counter_mismatch
	Detail     string
	Help       string
	RetryAfter int // seconds; 0: nothing was said
}

func (r *Refusal) Error() string {
	if r.Detail == "" {
		return r.Reason
	}
	return r.Reason + ": " + r.Detail
}

// Is reports whether target is a refusal for the same reason, so that
// errors.Is(err, &Refusal{Reason: r}) asks for a reason.
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t.Reason == r.Reason && t.Status == 0
}
