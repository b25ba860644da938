package tpmsignprocessor

import (
	"errors"

	"go.opentelemetry.io/collector/consumer/consumererror"
)

// permanent says whether sending the same data again can never help. A fan-out
// joins the errors of its branches: as long as one of them is worth a retry,
// all are, since what comes twice is recognised by the verifier and what is
// missing is not.
func permanent(err error) bool {
	if !consumererror.IsPermanent(err) {
		return false
	}
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return true
	}
	branches := joined.Unwrap()
	some, all := false, true
	for _, branch := range branches {
		if consumererror.IsPermanent(branch) {
			some = true
		}
		all = all && permanent(branch)
	}
	// Without a permanent branch the mark stands around the joined error.
	return all || !some
}
