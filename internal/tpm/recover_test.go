package tpm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmproxy"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

const sign = uint32(tpm2.TPMCCSign)

func TestSigningResumesAfterTPMWasKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	d := openDevice(t, soft.Device(), Options{})
	k := openKey(t, d, KeyOptions{})
	for range 5 { // more often than failed authorisations are allowed
		requireSigns(t, k, k.PublicKey())
		soft.Kill()
		_, err := k.Sign(t.Context(), make([]byte, 32))
		require.ErrorIs(t, err, ErrGone)
		require.Equal(t, Gone, Classify(err))
		soft.Restart()
		requireSigns(t, k, k.PublicKey())
	}
	soft.Restart() // and when nobody noticed that it was away
	requireSigns(t, k, k.PublicKey())
}

func TestOwnedSoftwareTPMIsStartedAgainWhenItDies(t *testing.T) {
	t.Parallel()
	var seen events
	dir := tpmtest.Dir(t)
	d := openDevice(t, "swtpm:"+dir, Options{Report: seen.report})
	k := openKey(t, d, KeyOptions{})
	requireSigns(t, k, k.PublicKey())
	first := d.proc.PID()
	d.proc.Stop(0)
	requireSigns(t, k, k.PublicKey())
	require.NotEqual(t, first, d.proc.PID())
	require.Equal(t, 3, seen.count(), "lost, started again, connected again")
	n, err := d.Increment(t.Context(), 0)
	require.NoError(t, err)
	d.proc.Stop(0)
	m, err := d.Increment(t.Context(), 0)
	if err != nil { // the first command finds the connection dead
		require.Equal(t, Gone, Classify(err))
		m, err = d.Increment(t.Context(), 0)
	}
	require.NoError(t, err)
	require.Greater(t, m, n)
}

func TestOtherTPMAtTheSameAddressDoesNotSign(t *testing.T) {
	t.Parallel()
	right, wrong := tpmtest.Start(t), tpmtest.Start(t)
	first := tpmtest.Proxy(t, right.Device())
	d := openDevice(t, first.Device(), Options{})
	k := openKey(t, d, KeyOptions{})
	requireSigns(t, k, k.PublicKey())
	first.Set(tpmproxy.Fault{Action: tpmproxy.Drop, Times: 1})
	require.NoError(t, first.Redirect(wrong.Device()))
	_, err := k.Sign(t.Context(), make([]byte, 32))
	require.ErrorIs(t, err, ErrWrongTPM)
	first.Set(tpmproxy.Fault{Action: tpmproxy.Drop, Times: 1})
	require.NoError(t, first.Redirect(right.Device()))
	requireSigns(t, k, k.PublicKey())
}

func code(rc tpm2.TPMRC) tpmproxy.Fault {
	return tpmproxy.Fault{Action: tpmproxy.Code, Code: uint32(rc), Command: sign}
}

func TestCommandIsSentAgainWhenTheTPMAsksForIt(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), impatient)
	k := openKey(t, d, KeyOptions{})
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate} {
		f := code(rc)
		f.Times = 3
		proxy.Set(f)
		requireSigns(t, k, k.PublicKey())

		proxy.Set(code(rc)) // for ever
		_, err := k.Sign(t.Context(), make([]byte, 32))
		require.ErrorIs(t, err, rc)
		require.Equal(t, Transient, Classify(err))
		proxy.Set()
		requireSigns(t, k, k.PublicKey())
	}
	require.Equal(t, 1, proxy.Commands(uint32(tpm2.TPMCCLoad)), "nothing was loaded again")
}

func TestLostHandlesAreLoadedAgain(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), Options{})
	k := openKey(t, d, KeyOptions{})
	for _, rc := range []tpm2.TPMRC{
		tpm2.TPMRCInitialize, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceS0,
		tpm2.TPMRCHandle | 0x100, tpm2.TPMRCFailure,
		tpm2.TPMRCBadAuth | 0x900, tpm2.TPMRCAuthFail | 0x900,
	} {
		f := code(rc)
		f.Times = 1
		proxy.Set(f)
		requireSigns(t, k, k.PublicKey())
		objects, sessions := held(t, d)
		require.Equal(t, 1, objects, "%v", rc)
		require.Equal(t, 1, sessions, "%v", rc)
	}
}

func TestLockoutIsNamedAndSigningResumes(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), Options{})
	k := openKey(t, d, KeyOptions{})
	proxy.Set(code(tpm2.TPMRCLockout))
	_, err := k.Sign(t.Context(), make([]byte, 32))
	require.ErrorIs(t, err, tpm2.TPMRCLockout)
	require.Equal(t, Lockout, Classify(err))

	proxy.Set()
	requireSigns(t, k, k.PublicKey())
}

// Any local user can lock a TPM by authorising some key wrongly a few times.
func TestTPMThatSomebodyLockedStillSigns(t *testing.T) {
	t.Parallel()
	d, k := fixture(t)
	template := ES256.akTemplate()
	template.ObjectAttributes.NoDA = false
	_, err := ask(t.Context(), d, "locking the TPM", func(l *link) (nothing, error) {
		rsp, err := exec(l, tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(template),
			InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}}},
		})
		if err != nil {
			return nothing{}, err
		}
		defer l.flushQuietly(rsp.ObjectHandle)
		for range 10 {
			_, err = exec(l, tpm2.Quote{
				SignHandle: tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))},
				InScheme:   keyScheme,
			})
			if Classify(err) == Lockout {
				return nothing{}, nil
			}
		}
		return nothing{}, err
	})
	require.NoError(t, err)
	p, err := d.Properties(t.Context())
	require.NoError(t, err)
	require.True(t, p.InLockout)
	require.Equal(t, p.MaxAuthFail, p.LockoutCounter)

	requireSigns(t, k, k.PublicKey())
	_, err = k.Certify(t.Context(), nil)
	require.NoError(t, err)
	_, err = d.Increment(t.Context(), 0)
	require.NoError(t, err)
}

func TestTPMThatDoesNotAnswerTimesOutAndIsReconnected(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), impatient)
	k := openKey(t, d, KeyOptions{})
	proxy.Set(tpmproxy.Fault{Action: tpmproxy.Hang, Times: 1})
	begun := time.Now()
	_, err := k.Sign(t.Context(), make([]byte, 32))
	require.ErrorIs(t, err, ErrTimeout)
	require.Equal(t, Transient, Classify(err))
	require.Less(t, time.Since(begun), 5*time.Second)
	requireSigns(t, k, k.PublicKey())
}

func TestCallerLeavesWhenItsContextEndsAndTheCommandGoesOn(t *testing.T) {
	t.Parallel()
	var seen events
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), Options{Report: seen.report})
	k := openKey(t, d, KeyOptions{})
	proxy.Set(tpmproxy.Fault{Delay: tpmproxy.Duration(2 * time.Second), Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := k.Sign(ctx, make([]byte, 32))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, Transient, Classify(err))
	require.Less(t, time.Since(begun), 1500*time.Millisecond)
	_, err = k.Sign(ctx, make([]byte, 32)) // one that never gets its turn
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireSigns(t, k, k.PublicKey())
	require.Zero(t, seen.count(), "no reconnect")
	require.Equal(t, 2, proxy.Commands(sign))
}

func TestCloseDoesNotWaitForATPMThatHangs(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), Options{})
	k := openKey(t, d, KeyOptions{})
	proxy.Set(tpmproxy.Fault{Action: tpmproxy.Hang})
	failed := make(chan error, 1)
	go func() {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		failed <- err
	}()
	require.Eventually(t, func() bool { return proxy.Struck() == 1 }, 5*time.Second, time.Millisecond)
	begun := time.Now()
	require.NoError(t, d.Close())
	require.Less(t, time.Since(begun), closePatience+2*time.Second)
	require.Error(t, <-failed)
}

func TestAnswersWithWrongBitsAreNeverBelieved(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t))
	d := openDevice(t, proxy.Device(), impatient)
	k := openKey(t, d, KeyOptions{})
	for _, action := range []tpmproxy.Action{
		tpmproxy.Garbage, tpmproxy.Oversize, tpmproxy.Truncate, tpmproxy.Flip, tpmproxy.Shorten,
		tpmproxy.Drop, tpmproxy.Lose,
	} {
		once := tpmproxy.Fault{Command: sign, Action: action, Times: 1}
		proxy.Set(once)
		requireSigns(t, k, k.PublicKey())

		always := tpmproxy.Fault{Command: sign, Action: action}
		proxy.Set(always)
		_, err := k.Sign(t.Context(), make([]byte, 32))
		require.Equal(t, Gone, Classify(err), "%s: %v", action, err)
		proxy.Set()
		requireSigns(t, k, k.PublicKey())
		objects, sessions := held(t, d)
		require.Equal(t, 1, objects)
		require.Equal(t, 1, sessions)
	}
}

// TestTroubleAtEveryCommand strikes each command of a whole life once with
// each kind of trouble. It may fail, and must then work when the trouble is over.
func TestTroubleAtEveryCommand(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	proxy := tpmtest.Proxy(t, soft.Device())
	life := func(ctx context.Context, dir string) error {
		d, err := Open(ctx, proxy.Device(), impatient)
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
		k, err := d.OpenKey(ctx, KeyOptions{Dir: dir})
		if err != nil {
			return err
		}
		defer func() { _ = k.Close() }()
		if sig, err := k.Sign(ctx, make([]byte, 32)); err != nil {
			return err
		} else if len(sig) != 64 {
			return fmt.Errorf("a signature of %d bytes", len(sig))
		}
		_, err1 := k.Certify(ctx, []byte("nonce"))
		_, err2 := d.Increment(ctx, 0)
		_, err3 := d.Properties(ctx)
		_, err4 := d.Clock(ctx)
		ek, err5 := d.EK(ctx, EKECCP256)
		ak, err6 := d.AK(ctx)
		if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
			return err
		}
		_, err = d.ActivateCredential(ctx, makeCredential(t, EKECCP256, ek, ak.Name, []byte("s")))
		return err
	}
	require.NoError(t, life(t.Context(), filepath.Join(t.TempDir(), "key")))
	commands := proxy.Commands(0)
	require.Greater(t, commands, 30)

	for _, action := range []tpmproxy.Action{
		tpmproxy.Garbage, tpmproxy.Oversize, tpmproxy.Truncate, tpmproxy.Shorten, tpmproxy.Flip, tpmproxy.Drop, tpmproxy.Lose,
	} {
		for i := range commands {
			dir := filepath.Join(t.TempDir(), "key")
			proxy.Set(tpmproxy.Fault{Action: action, Skip: i, Times: 1})
			err := life(t.Context(), dir)
			if err != nil && !errors.Is(err, ErrNotForUs) {
				require.NotEqual(t, OK, Classify(err))
			}
			proxy.Set()
			require.NoError(t, life(t.Context(), dir), "%s at %d", action, i)
		}
	}
}
