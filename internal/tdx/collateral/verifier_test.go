package collateral_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var (
	lab    = tdxlab.New("internal/tdx/collateral")
	now    = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	report = [64]byte{7}
	good   = lab.Quote(report)
)

func requireReason(t *testing.T, want api.Reason, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, api.ReasonOf(err), "%v", err)
}

func verifier(t *testing.T, o collateral.Options) *collateral.Verifier {
	t.Helper()
	o.Roots = lab.Roots()
	v, err := collateral.New(o)
	require.NoError(t, err)
	t.Cleanup(v.Close)
	return v
}

// source answers with what it is told to, and counts.
type source struct {
	calls atomic.Int64
	get   func(ctx context.Context) (*tdx.Collateral, error)
}

func (s *source) Get(ctx context.Context, _, _ string) (*tdx.Collateral, error) {
	s.calls.Add(1)
	return s.get(ctx)
}

func documents(at time.Time, edits ...func(*tdxlab.Collateral)) *tdx.Collateral {
	c := tdx.Collateral(*lab.Collateral(at, edits...))
	return &c
}

func answers(at time.Time, edits ...func(*tdxlab.Collateral)) *source {
	return &source{get: func(context.Context) (*tdx.Collateral, error) { return documents(at, edits...), nil }}
}

var errAway = api.Refuse(api.CollateralUnavailable, "away")

func away(context.Context) (*tdx.Collateral, error) { return nil, errAway }

func TestVerifierOverTheService(t *testing.T) {
	server := httptest.NewServer((&tdxlab.Server{Lab: lab, Now: func() time.Time { return now }}).Handler())
	defer server.Close()
	for _, at := range []string{server.URL, server.URL + "/", server.URL + "/sgx/certification/v4/", server.URL + "/tdx/certification/v4"} {
		s, err := collateral.NewService(at, nil)
		require.NoError(t, err)
		v := verifier(t, collateral.Options{Source: s})
		for range 3 {
			got, err := v.Verify(t.Context(), good, now)
			require.NoError(t, err)
			require.Equal(t, report, got.ReportData)
			require.Equal(t, "default", got.Policy)
			require.Equal(t, "UpToDate", got.TCBStatus)
			require.Len(t, got.PPID, 16)
		}
		require.Equal(t, collateral.Stats{Fetches: 1, Sets: 1}, v.Stats())
	}
}

func TestPoliciesCanBeReplaced(t *testing.T) {
	v := verifier(t, collateral.Options{Source: answers(now)})
	p, err := tdx.ParsePolicies([]byte("policies:\n- {name: strict, tcb: {accept: [{status: OutOfDate}]}}\n"))
	require.NoError(t, err)
	v.SetPolicies(p)
	_, err = v.Verify(t.Context(), good, now)
	requireReason(t, api.TCBStatusNotAccepted, err)
}

// Whoever sends invented platforms must not make us ask Intel for them.
func TestForgedQuoteCausesNoFetch(t *testing.T) {
	s := answers(now)
	v := verifier(t, collateral.Options{Source: s})
	for _, q := range [][]byte{
		tdxlab.New("foreign").Quote(report),
		lab.Quote(report, func(q *tdxlab.Quote) { q.BadSignature = true }),
		lab.Quote(report, func(q *tdxlab.Quote) { q.TDAttributes[0] = 1 }),
		good[:100],
	} {
		_, err := v.Verify(t.Context(), q, now)
		require.Error(t, err)
	}
	require.Zero(t, s.calls.Load())
}

func TestEncryptedPPIDOverTheVerifier(t *testing.T) {
	q := lab.Quote(report, func(q *tdxlab.Quote) { q.InnerType = 2 })
	s := &source{get: away}
	_, err := verifier(t, collateral.Options{Source: s}).Verify(t.Context(), q, now)
	requireReason(t, api.PPIDEncrypted, err)
	got, err := verifier(t, collateral.Options{Source: s, AllowEncryptedPPID: true}).Verify(t.Context(), q, now)
	require.NoError(t, err)
	require.Nil(t, got.PPID)
	require.Equal(t, tdx.Unauthenticated, got.TCBStatus)
	require.Zero(t, s.calls.Load())
}

func TestManyFirstVerificationsFetchOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{get: func(context.Context) (*tdx.Collateral, error) {
			time.Sleep(time.Second)
			return documents(now), nil
		}}
		v := verifier(t, collateral.Options{Source: s})
		var group sync.WaitGroup
		var failed atomic.Int64
		for range 100 {
			group.Go(func() {
				if _, err := v.Verify(t.Context(), good, now); err != nil {
					failed.Add(1)
				}
			})
		}
		group.Wait()
		require.Zero(t, failed.Load())
		require.EqualValues(t, 1, s.calls.Load())
	})
}

func TestStaleCollateralIsServedWhileItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at atomic.Pointer[time.Time]
		at.Store(&now)
		s := &source{get: func(context.Context) (*tdx.Collateral, error) {
			time.Sleep(5 * time.Second)
			return documents(*at.Load()), nil
		}}
		v := verifier(t, collateral.Options{Source: s, Refresh: time.Hour})
		_, err := v.Verify(t.Context(), good, now)
		require.NoError(t, err)

		later := now.Add(2 * time.Hour)
		at.Store(&later)
		begin := time.Now()
		_, err = v.Verify(t.Context(), good, later)
		require.NoError(t, err)
		require.Zero(t, time.Since(begin), "nobody waits for the renewal")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 2, s.calls.Load())
		// Renewed: what would have expired with the first is still served.
		_, err = v.Verify(t.Context(), good, now.Add(29*24*time.Hour+time.Hour))
		require.NoError(t, err)
	})
}

func TestRenewalThatFailsKeepsWhatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := answers(now)
		v := verifier(t, collateral.Options{Source: s, Refresh: time.Hour, Negative: time.Minute})
		_, err := v.Verify(t.Context(), good, now)
		require.NoError(t, err)
		s.get = away
		for range 10 {
			_, err = v.Verify(t.Context(), good, now.Add(2*time.Hour))
			require.NoError(t, err)
			synctest.Wait()
		}
		require.EqualValues(t, 2, s.calls.Load(), "a failure is remembered")
		_, err = v.Verify(t.Context(), good, now.Add(2*time.Hour+time.Minute))
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 3, s.calls.Load())

		// Past its time it is not served, whatever the source says.
		_, err = v.Verify(t.Context(), good, now.Add(40*24*time.Hour))
		requireReason(t, api.CollateralExpired, err)
	})
}

func TestFailureIsRememberedForAWhile(t *testing.T) {
	s := &source{get: away}
	v := verifier(t, collateral.Options{Source: s, Negative: 30 * time.Second})
	for i := range 5 {
		_, err := v.Verify(t.Context(), good, now.Add(time.Duration(i)*time.Second))
		requireReason(t, api.CollateralUnavailable, err)
	}
	require.EqualValues(t, 1, s.calls.Load())
	s.get = answers(now).get
	_, err := v.Verify(t.Context(), good, now.Add(30*time.Second))
	require.NoError(t, err)
}

func TestExpiredCollateralIsRefused(t *testing.T) {
	v := verifier(t, collateral.Options{Source: answers(now.AddDate(0, -2, 0))})
	_, err := v.Verify(t.Context(), good, now)
	requireReason(t, api.CollateralExpired, err)
}

func TestCollateralOfAnotherPlatformIsRefused(t *testing.T) {
	v := verifier(t, collateral.Options{Source: answers(now, func(c *tdxlab.Collateral) { c.TCBInfo.FMSPC = "00906ed50000" })})
	_, err := v.Verify(t.Context(), good, now)
	requireReason(t, api.CollateralMismatch, err)
}

// Older collateral that is still within its time hides what was learnt since.
func TestRolledBackCollateralIsRefused(t *testing.T) {
	for name, back := range map[string]func(*tdxlab.Collateral){
		"tcbinfo":  func(c *tdxlab.Collateral) { c.TCBInfo.Number-- },
		"qe":       func(c *tdxlab.Collateral) { c.QEIdentity.Number-- },
		"pckcrl":   func(c *tdxlab.Collateral) { c.PCKCRL.Number-- },
		"root crl": func(c *tdxlab.Collateral) { c.RootCRL.Number-- },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := verifier(t, collateral.Options{Source: answers(now), Dir: dir})
			_, err := first.Verify(t.Context(), good, now)
			require.NoError(t, err)
			first.Close()

			// Over a restart, with the documents lost and the floors kept.
			for _, f := range []string{"tcbinfo-" + lab.FMSPC() + ".json"} {
				require.NoError(t, os.Remove(filepath.Join(dir, f)))
			}
			v := verifier(t, collateral.Options{Source: answers(now, back), Dir: dir})
			_, err = v.Verify(t.Context(), good, now)
			requireReason(t, api.CollateralRolledBack, err)
		})
	}
}

func TestRollbackInTheBackgroundKeepsTheNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := answers(now)
		v := verifier(t, collateral.Options{Source: s, Refresh: time.Hour})
		_, err := v.Verify(t.Context(), good, now)
		require.NoError(t, err)
		s.get = answers(now, func(c *tdxlab.Collateral) {
			c.TCBInfo.Number--
			c.TCBInfo.Levels[0].Status = "SWHardeningNeeded"
		}).get
		for range 3 {
			e, err := v.Evidence(t.Context(), good, now.Add(2*time.Hour))
			require.NoError(t, err)
			require.Equal(t, "UpToDate", e.TCBStatus)
			synctest.Wait()
		}
		require.EqualValues(t, 1, v.Stats().Failures)
	})
}

func TestRestartWithoutTheServiceVerifiesFromDisk(t *testing.T) {
	dir := t.TempDir()
	first := verifier(t, collateral.Options{Source: answers(now), Dir: dir})
	_, err := first.Verify(t.Context(), good, now)
	require.NoError(t, err)
	first.Close()

	s := &source{get: away}
	v := verifier(t, collateral.Options{Source: s, Dir: dir})
	_, err = v.Verify(t.Context(), good, now.Add(24*time.Hour))
	require.NoError(t, err)
	require.Zero(t, s.calls.Load())
	v.Close()

	// What expired on disk is not served.
	v = verifier(t, collateral.Options{Source: s, Dir: dir})
	_, err = v.Verify(t.Context(), good, now.AddDate(0, 2, 0))
	requireReason(t, api.CollateralExpired, err)
	require.EqualValues(t, 1, s.calls.Load())
}

func TestCollateralChangedOnDiskIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, lab.WriteBundle(dir, now, func(c *tdxlab.Collateral) { c.TCBInfo.ForeignKey = true }))
	s := answers(now)
	v := verifier(t, collateral.Options{Source: s, Dir: dir})
	_, err := v.Verify(t.Context(), good, now)
	require.NoError(t, err)
	require.EqualValues(t, 1, s.calls.Load())
}

func TestFloorsThatCannotBeKeptRefuse(t *testing.T) {
	v := verifier(t, collateral.Options{Source: answers(now), Floors: brokenFloors{}})
	_, err := v.Verify(t.Context(), good, now)
	requireReason(t, api.StoreUnavailable, err)
}

type brokenFloors struct{}

func (brokenFloors) Floor(context.Context, string) (uint64, error) { return 0, nil }
func (brokenFloors) Raise(context.Context, map[string]uint64) error {
	return errors.New("disk full")
}

func TestFloorsOnlyRise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "floors.json")
	f, err := collateral.OpenFloors(path)
	require.NoError(t, err)
	for _, floors := range []collateral.Floors{f, &collateral.MemoryFloors{}} {
		require.NoError(t, floors.Raise(t.Context(), map[string]uint64{"a": 5, "b": 1}))
		require.NoError(t, floors.Raise(t.Context(), map[string]uint64{"a": 4, "b": 2}))
		a, err := floors.Floor(t.Context(), "a")
		require.NoError(t, err)
		b, err := floors.Floor(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, []uint64{5, 2}, []uint64{a, b})
	}
	again, err := collateral.OpenFloors(path)
	require.NoError(t, err)
	a, err := again.Floor(t.Context(), "a")
	require.NoError(t, err)
	require.EqualValues(t, 5, a)

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = collateral.OpenFloors(path)
	require.ErrorContains(t, err, "delete the file")
}

func TestCallerThatGoesDoesNotEndTheFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{get: func(ctx context.Context) (*tdx.Collateral, error) {
			select {
			case <-time.After(3 * time.Second):
				return documents(now), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		v := verifier(t, collateral.Options{Source: s})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := v.Verify(ctx, good, now)
		requireReason(t, api.CollateralUnavailable, err)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		_, err = v.Verify(t.Context(), good, now)
		require.NoError(t, err)
		require.EqualValues(t, 1, s.calls.Load())
	})
}

func TestClosedVerifierFetchesNothing(t *testing.T) {
	s := answers(now)
	v := verifier(t, collateral.Options{Source: s})
	v.Close()
	v.Close()
	_, err := v.Verify(t.Context(), good, now)
	requireReason(t, api.CollateralUnavailable, err)
	require.Zero(t, s.calls.Load())
}

func TestKindsOfPlatformsAreBounded(t *testing.T) {
	labs := map[string]*tdxlab.Lab{}
	for i := range byte(5) {
		l := lab.With(func(p *tdxlab.Platform) { p.FMSPC[5] = i })
		labs[l.FMSPC()] = l
	}
	v := verifier(t, collateral.Options{Source: byFMSPC(labs), Sets: 2})
	for _, l := range labs {
		_, err := v.Verify(t.Context(), l.Quote(report), now)
		require.NoError(t, err)
		require.LessOrEqual(t, v.Stats().Sets, 2)
	}
}

type byFMSPC map[string]*tdxlab.Lab

func (b byFMSPC) Get(_ context.Context, fmspc, _ string) (*tdx.Collateral, error) {
	c := tdx.Collateral(*b[fmspc].Collateral(now))
	return &c, nil
}

func TestVerifierOverABundle(t *testing.T) {
	dir := t.TempDir()
	v := verifier(t, collateral.Options{Source: collateral.Bundle{Dir: filepath.Join(dir, "none")}})
	_, err := v.Verify(t.Context(), good, now)
	requireReason(t, api.CollateralUnavailable, err)

	require.NoError(t, lab.WriteBundle(dir, now))
	v = verifier(t, collateral.Options{Source: collateral.Bundle{Dir: dir}})
	_, err = v.Verify(t.Context(), good, now)
	require.NoError(t, err)

	require.NoError(t, os.Truncate(filepath.Join(dir, "rootcrl.der"), 5<<20))
	v = verifier(t, collateral.Options{Source: collateral.Bundle{Dir: dir}})
	_, err = v.Verify(t.Context(), good, now)
	requireReason(t, api.CollateralMalformed, err)
}

// Files outside of the bundle are not read, whatever its links say.
func TestBundleDoesNotLeadOutOfItsDirectory(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "rootcrl.der")
	require.NoError(t, lab.WriteBundle(dir, now))
	require.NoError(t, os.Rename(filepath.Join(dir, "rootcrl.der"), outside))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "rootcrl.der")))
	_, err := collateral.Bundle{Dir: dir}.Get(t.Context(), lab.FMSPC(), "platform")
	requireReason(t, api.CollateralUnavailable, err)
}

func TestVerifierNeedsASource(t *testing.T) {
	_, err := collateral.New(collateral.Options{})
	require.ErrorContains(t, err, "no source")
}
