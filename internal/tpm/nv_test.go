package tpm

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestCounterNeverGivesAValueTwice(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	var last uint64
	next := func(d *Device) {
		n, err := d.Increment(t.Context(), DefaultCounterIndex)
		require.NoError(t, err)
		require.Greater(t, n, last)
		last = n
	}
	d := openDevice(t, soft.Device(), Options{})
	for range 3 {
		next(d)
	}
	n, err := d.Increment(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, last+1, n, "0 is the default index")
	last = n
	require.NoError(t, d.Close())
	soft.Restart() // a power cut: nothing was shut down
	d = openDevice(t, soft.Device(), Options{})
	next(d)

	// Even when somebody deletes it.
	_, err = ask(t.Context(), d, "deleting", func(l *link) (*tpm2.NVUndefineSpaceResponse, error) {
		h, _, err := l.counter(DefaultCounterIndex)
		if err != nil {
			return nil, err
		}
		return exec(l, tpm2.NVUndefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    named(h),
		})
	})
	require.NoError(t, err)
	next(d)
}

func TestIndexOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := openDevice(t, tpmtest.New(t), Options{})
	define := func(index uint32, change func(*tpm2.TPMSNVPublic)) {
		public := counterTemplate(index)
		change(&public)
		_, err := ask(t.Context(), d, "defining", func(l *link) (*tpm2.NVDefineSpaceResponse, error) {
			return exec(l, tpm2.NVDefineSpace{
				AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				PublicInfo: tpm2.New2B(public),
			})
		})
		require.NoError(t, err)
	}
	define(0x01800001, func(p *tpm2.TPMSNVPublic) { p.AuthPolicy = tpm2.TPM2BDigest{} }) // a counter, but not ours
	define(0x01800002, func(p *tpm2.TPMSNVPublic) { p.Attributes.NT = tpm2.TPMNTOrdinary })
	define(0x01800003, func(p *tpm2.TPMSNVPublic) { p.Attributes.NoDA = false })
	for _, index := range []uint32{0x01800001, 0x01800002, 0x01800003} {
		_, err := d.Increment(t.Context(), index)
		require.ErrorIs(t, err, ErrHandleTaken, "%#x", index)
		require.Equal(t, Permanent, Classify(err))
	}
	for _, index := range []uint32{1, MinCounterIndex - 1, MaxCounterIndex + 1, ekCertificateRSA2048, 0x81000001} {
		_, err := d.Increment(t.Context(), index)
		require.ErrorContains(t, err, "range of the owner", "%#x", index)
	}
}
