package policy

import (
	"fmt"

	"github.com/telemark-otel/telemark/internal/reason"
)

// Evidence says how well it is known that a key lives in a TPM. The zero value
// is the weakest, so that whoever forgets to say claims nothing.
type Evidence int

// The degrees.
const (
	// Unproven means that a join token alone vouches for the machine.
	Unproven Evidence = iota
	// Vouched means that an operator gave the endorsement key's hash, or wrote
	// the key down himself.
	Vouched
	// Chain means that an endorsement certificate leads to a pinned root.
	Chain
)

// String returns the word that stands in key files and registries.
func (e Evidence) String() string {
	switch e {
	case Unproven:
		return "unproven_tpm"
	case Vouched:
		return "vouched"
	case Chain:
		return "chain"
	default:
		return fmt.Sprintf("evidence(%d)", int(e))
	}
}

// Genuine reports whether the TPM is known to be one.
func (e Evidence) Genuine() bool { return e == Vouched || e == Chain }

// Verdict is the word for a block of such a key that passed every check.
func (e Evidence) Verdict() string {
	if e.Genuine() {
		return reason.Verified
	}
	return string(reason.UnprovenTPM)
}

// ParseEvidence reads a degree.
func ParseEvidence(s string) (Evidence, error) {
	switch s {
	case "unproven_tpm":
		return Unproven, nil
	case "vouched":
		return Vouched, nil
	case "chain":
		return Chain, nil
	default:
		return Unproven, fmt.Errorf("evidence %.64q is not known, take chain, vouched or unproven_tpm", s)
	}
}

// ParseRequireEvidence reads what may be demanded of the evidence: genuine, or
// any.
func ParseRequireEvidence(s string) (genuine bool, err error) {
	switch s {
	case "genuine":
		return true, nil
	case "any":
		return false, nil
	default:
		return true, fmt.Errorf("evidence %.64q cannot be required, take genuine or any", s)
	}
}
