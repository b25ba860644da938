package tpm

import (
	"context"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/tpm/private"
	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// The errors that callers tell apart, beside the response codes of the TPM
// ([tpm2.TPMRC]), which are found with errors.As.
var (
	// ErrGone: the TPM cannot be reached, or went away in the middle of a command.
	ErrGone = errors.New("the TPM is not reachable")
	// ErrTimeout: the TPM did not answer in time.
	ErrTimeout = wire.ErrTimeout
	// ErrMalformed: what came is no answer of a TPM to what was asked, or its HMAC is wrong.
	ErrMalformed = wire.ErrMalformed
	// ErrClosed: the Device or Key was closed.
	ErrClosed = errors.New("the TPM was closed")
	// ErrWrongTPM: the key in the directory was made by another TPM, or by
	// this one before it was cleared.
	ErrWrongTPM = errors.New("the key belongs to another TPM, or the TPM was cleared since; use the TPM that made it, or another directory for a new key, which has to be enrolled")
	// ErrOtherAlgorithm: the directory holds a key of another algorithm than asked for.
	ErrOtherAlgorithm = errors.New("a key does not change its algorithm; say the key's own (key::algorithm of the tpm extension), or take another directory for a new key, which has to be enrolled")
	// ErrHandleTaken: a persistent handle or NV index holds what is not ours. It is left alone.
	ErrHandleTaken = errors.New("the TPM holds something else there, which is left alone; choose another one")
	// ErrNothingThere: a persistent handle holds no key.
	ErrNothingThere = errors.New("nothing is there")
	// ErrOtherHandle: the key was adopted at another persistent handle than asked for.
	ErrOtherHandle = errors.New("an adopted key stays at its handle; ask for that one, or for none")
	// ErrKeyDamaged: the files of a key's directory are incomplete or do not fit together.
	ErrKeyDamaged = errors.New("the key's directory is damaged")
	// ErrBadSignature: the TPM returned a signature that its public key does not verify.
	ErrBadSignature = errors.New("the TPM returned a wrong signature")
	// ErrInUse: another process, or another Device or Key, owns the directory.
	ErrInUse = private.ErrInUse
	// ErrSWTPMMissing: swtpm is to be started and is not installed.
	ErrSWTPMMissing = swtpm.ErrMissing
)

// Class says what to do about an error.
type Class int

// The classes. The zero Class is that of a nil error.
const (
	OK        Class = iota
	Transient       // nothing is wrong; try again after a while
	Gone            // the TPM is away or was restarted; the next call reconnects
	Lockout         // dictionary attack lockout; try again after the TPM's recovery time
	Permanent       // trying again gives the same answer, until somebody repairs something
)

// String returns the class as it stands in logs.
func (c Class) String() string {
	switch c {
	case OK:
		return "ok"
	case Transient:
		return "transient"
	case Gone:
		return "gone"
	case Lockout:
		return "lockout"
	case Permanent:
		return "permanent"
	default:
		return "unknown"
	}
}

// Classify puts err into its class. What is not known is permanent: it has to
// be looked at.
func Classify(err error) Class {
	if err == nil {
		return OK
	}
	for _, permanent := range []error{ErrClosed, ErrWrongTPM, ErrHandleTaken, ErrKeyDamaged, ErrInUse, ErrSWTPMMissing} {
		if errors.Is(err, permanent) {
			return Permanent
		}
	}
	var rc tpm2.TPMRC
	switch {
	case errors.As(err, &rc):
		return classifyCode(rc)
	case errors.Is(err, ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Transient
	case errors.Is(err, ErrGone), errors.Is(err, ErrMalformed), errors.Is(err, ErrBadSignature):
		return Gone
	default:
		return Permanent
	}
}

// classifyCode sorts response codes (part 2, section 6.6.3).
func classifyCode(rc tpm2.TPMRC) Class {
	switch rc = canonical(rc); rc {
	case tpm2.TPMRCLockout:
		return Lockout
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCCanceled,
		tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable, tpm2.TPMRCUpgrade,
		tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory,
		tpm2.TPMRCSessionHandles, tpm2.TPMRCObjectHandles, tpm2.TPMRCContextGap:
		return Transient
	case tpm2.TPMRCInitialize, tpm2.TPMRCReboot, tpm2.TPMRCFailure, tpm2.TPMRCHandle:
		return Gone
	default:
		if rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceS6 {
			return Gone // objects and sessions that a reset took away
		}
		return Permanent
	}
}

// canonical strips what a response code says of where it came from: the layer
// of software in the high half, and in format 1 the number of the handle,
// session or parameter (part 2, figure 25).
func canonical(rc tpm2.TPMRC) tpm2.TPMRC {
	const format1, within = 1 << 7, 0x0BF
	rc &= 0xFFF
	if rc&format1 != 0 {
		rc &= within
	}
	return rc
}

// isCode says whether err is the TPM's answer of this code.
func isCode(err error, codes ...tpm2.TPMRC) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return false
	}
	for _, code := range codes {
		if canonical(rc) == code {
			return true
		}
	}
	return false
}
