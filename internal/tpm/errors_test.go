package tpm

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want Class
	}{
		{nil, OK},
		{errors.New("unheard of"), Permanent},
		{ErrWrongTPM, Permanent},
		{ErrHandleTaken, Permanent},
		{ErrKeyDamaged, Permanent},
		{ErrClosed, Permanent},
		{ErrInUse, Permanent},
		{ErrSWTPMMissing, Permanent},
		{ErrGone, Gone},
		{ErrMalformed, Gone},
		{ErrBadSignature, Gone},
		{ErrTimeout, Transient},
		{context.Canceled, Transient},
		{context.DeadlineExceeded, Transient},
		{tpm2.TPMRCRetry, Transient},
		{tpm2.TPMRCObjectMemory, Transient},
		{tpm2.TPMRCSessionMemory, Transient},
		{tpm2.TPMRCContextGap, Transient},
		{tpm2.TPMRCNVRate, Transient},
		{tpm2.TPMRCInitialize, Gone},
		{tpm2.TPMRCReferenceH0, Gone},
		{tpm2.TPMRCReferenceH6, Gone},
		{tpm2.TPMRCReferenceS0, Gone},
		{tpm2.TPMRCReferenceS6, Gone},
		{tpm2.TPMRCHandle, Gone},
		{tpm2.TPMRCHandle | 0x100, Gone},          // the first handle
		{tpm2.TPMRCRetry | 0x000B0000, Transient}, // from the kernel's resource manager
		{tpm2.TPMRCLockout, Lockout},
		{tpm2.TPMRCAuthFail | 0x900, Permanent}, // the first session
		{tpm2.TPMRCValue | 0x2C0, Permanent},    // the second parameter
		{tpm2.TPMRCCommandCode, Permanent},
	} {
		require.Equal(t, c.want, Classify(c.err), "%v", c.err)
		if c.err != nil {
			require.Equal(t, c.want, Classify(fmt.Errorf("signing: %w", c.err)), "%v", c.err)
		}
	}
	// What is final stays so, whatever code the TPM gave with it.
	require.Equal(t, Permanent, Classify(fmt.Errorf("%w: %w", ErrHandleTaken, tpm2.TPMRCRetry)))
	require.Equal(t, "ok transient gone lockout permanent unknown",
		fmt.Sprintf("%s %s %s %s %s %s", OK, Transient, Gone, Lockout, Permanent, Class(99)))
}
