package tdx_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func TestGoodQuoteSaysWhatTheTDSaid(t *testing.T) {
	q := lab.Describe(report, func(q *tdxlab.Quote) {
		q.RTMR[3], q.MRConfigID, q.MROwner, q.MROwnerConf = [48]byte{3}, [48]byte{4}, [48]byte{5}, [48]byte{6}
	})
	e := verify(t, lab.Quote(report, func(to *tdxlab.Quote) { *to = q }))
	ppid := lab.Platform().PPID
	require.Equal(t, report, e.ReportData)
	require.Equal(t, ppid[:], e.PPID)
	require.Equal(t, lab.FMSPC(), e.FMSPC)
	m := e.Measurements
	require.EqualValues(t, q.MRTD[:], m.MRTD)
	for i := range q.RTMR {
		require.EqualValues(t, q.RTMR[i][:], m.RTMRs[i])
	}
	require.EqualValues(t, q.MRSEAM[:], m.MRSEAM)
	require.EqualValues(t, q.MRConfigID[:], m.MRConfigID)
	require.EqualValues(t, q.MROwner[:], m.MROwner)
	require.EqualValues(t, q.MROwnerConf[:], e.MROwnerConfig)
	require.EqualValues(t, q.TDAttributes[:], m.TDAttributes)
	require.EqualValues(t, q.XFAM[:], m.XFAM)
	require.Equal(t, "UpToDate", e.TCBStatus)
	require.Equal(t, tdxlab.DateNew, e.TCBDate)
	require.True(t, e.BehindSince.IsZero())
	require.Empty(t, e.Advisories)
}

func TestParseNamesThePlatform(t *testing.T) {
	q, err := tdx.Parse(lab.Quote(report))
	require.NoError(t, err)
	require.Equal(t, &tdx.Quote{FMSPC: lab.FMSPC(), CA: "platform"}, q)

	q, err = tdx.Parse(lab.Quote(report, func(q *tdxlab.Quote) { q.InnerType = 3 }))
	require.NoError(t, err)
	require.Equal(t, &tdx.Quote{EncryptedPPID: true}, q)
}

func TestUpperCaseFMSPCIsTheSamePlatform(t *testing.T) {
	e := verify(t, lab.Quote(report), func(c *tdxlab.Collateral) { c.TCBInfo.FMSPC = strings.ToUpper(c.TCBInfo.FMSPC) })
	require.Equal(t, lab.FMSPC(), e.FMSPC)
}

func TestPlatformOfTheProcessorAuthority(t *testing.T) {
	processor := lab.With(func(p *tdxlab.Platform) { p.CA = tdxlab.ProcessorCA })
	c := tdx.Collateral(*processor.Collateral(now))
	e, err := tdx.Verify(processor.Quote(report), &c, trusted, now)
	require.NoError(t, err)
	require.Equal(t, "UpToDate", e.TCBStatus)
}

func TestNulAfterTheChainIsNoMeaning(t *testing.T) {
	verify(t, lab.Quote(report, func(q *tdxlab.Quote) { q.Chain = append(lab.ChainPEM(), 0) }))
}

// newer is a TDX module of major version 1, whose status stands apart from the
// platform's.
func newer(svn byte) quote {
	return func(q *tdxlab.Quote) { q.TEETCBSVN = [16]byte{svn, 1, 5} }
}

func older(c *tdxlab.Certificate) { c.SGXSVN[0]-- }

func TestWorseOfPlatformModuleAndEnclaveCounts(t *testing.T) {
	configure := func(c *tdxlab.Collateral) { c.TCBInfo.Levels[1].Status = "ConfigurationNeeded" }
	harden := func(c *tdxlab.Collateral) { c.TCBInfo.Levels[0].Status = "SWHardeningNeeded" }
	for _, c := range []struct {
		name                             string
		quote                            []quote
		collateral                       []intels
		platform, module, enclave, whole string
		advisories                       []string
		date, behind                     time.Time
	}{
		{
			name: "ModuleAboveZero", quote: []quote{newer(4)},
			platform: "UpToDate", module: "UpToDate", enclave: "UpToDate", whole: "UpToDate", date: tdxlab.DateNew,
		},
		{
			// A module that is up to date must not hide what the platform is.
			name: "ModuleAboveZeroDoesNotHideThePlatform", quote: []quote{newer(4), certificate(older)},
			platform: "OutOfDate", module: "UpToDate", enclave: "UpToDate", whole: "OutOfDate",
			advisories: []string{"INTEL-SA-00960", "INTEL-SA-00982"}, date: tdxlab.DateOld, behind: tdxlab.DateNew,
		},
		{
			name: "ModuleBehind", quote: []quote{newer(3)},
			platform: "UpToDate", module: "OutOfDate", enclave: "UpToDate", whole: "OutOfDate",
			advisories: []string{"INTEL-SA-01036"}, date: tdxlab.DateOld, behind: tdxlab.DateNew,
		},
		{
			name: "PlatformBehind", quote: []quote{certificate(older)},
			platform: "OutOfDate", module: "OutOfDate", enclave: "UpToDate", whole: "OutOfDate",
			advisories: []string{"INTEL-SA-00960", "INTEL-SA-00982"}, date: tdxlab.DateOld, behind: tdxlab.DateNew,
		},
		{
			name: "EnclaveBehind", quote: []quote{func(q *tdxlab.Quote) { q.QESVN = 3 }},
			platform: "UpToDate", module: "UpToDate", enclave: "OutOfDate", whole: "OutOfDate",
			advisories: []string{"INTEL-SA-00615"}, date: tdxlab.DateOld, behind: tdxlab.DateNew,
		},
		{
			name: "ConfigurationAndModuleBehind", quote: []quote{newer(2), certificate(older)}, collateral: []intels{configure},
			platform: "ConfigurationNeeded", module: "OutOfDate", enclave: "UpToDate", whole: "OutOfDateConfigurationNeeded",
			advisories: []string{"INTEL-SA-00960", "INTEL-SA-00982", "INTEL-SA-01036"}, date: tdxlab.DateOld, behind: tdxlab.DateNew,
		},
		{
			name: "HardeningAndEnclaveBehind", quote: []quote{func(q *tdxlab.Quote) { q.QESVN = 2 }}, collateral: []intels{harden},
			platform: "SWHardeningNeeded", module: "SWHardeningNeeded", enclave: "OutOfDate", whole: "OutOfDate",
			advisories: []string{"INTEL-SA-00615"}, date: tdxlab.DateOld, behind: tdxlab.DateNew,
		},
		{
			name: "RevokedLevel", quote: []quote{certificate(func(c *tdxlab.Certificate) { c.SGXSVN[0]--; c.SGXSVN[1]-- }), newer(4)},
			platform: "Revoked", module: "UpToDate", enclave: "UpToDate", whole: "Revoked",
			advisories: []string{"INTEL-SA-00837"}, date: tdxlab.DateBad, behind: tdxlab.DateOld,
		},
		{
			name: "PCESVNBehind", quote: []quote{certificate(func(c *tdxlab.Certificate) { c.PCESVN = 10 })},
			platform: "Revoked", module: "Revoked", enclave: "UpToDate", whole: "Revoked",
			advisories: []string{"INTEL-SA-00837"}, date: tdxlab.DateBad, behind: tdxlab.DateOld,
		},
		{
			name: "TDXMicrocodeBehind", quote: []quote{func(q *tdxlab.Quote) { q.TEETCBSVN = [16]byte{4, 1, 4} }},
			platform: "Revoked", module: "UpToDate", enclave: "UpToDate", whole: "Revoked",
			advisories: []string{"INTEL-SA-00837"}, date: tdxlab.DateBad, behind: tdxlab.DateOld,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := verify(t, lab.Quote(report, c.quote...), c.collateral...)
			require.Equal(t, []string{c.platform, c.module, c.enclave, c.whole}, []string{e.PlatformStatus, e.ModuleStatus, e.QEStatus, e.TCBStatus})
			require.Equal(t, c.advisories, e.Advisories)
			require.Equal(t, c.date, e.TCBDate)
			require.Equal(t, c.behind, e.BehindSince)
		})
	}
}

func TestEncryptedPPIDProvesNothing(t *testing.T) {
	allowed := tdx.Options{Roots: lab.Roots(), AllowEncryptedPPID: true}
	for _, kind := range []uint16{2, 3} {
		q := lab.Quote(report, func(q *tdxlab.Quote) { q.InnerType = kind })
		_, err := tdx.Verify(q, collateral(), trusted, now)
		requireReason(t, api.PPIDEncrypted, err)

		e, err := tdx.Verify(q, nil, allowed, now)
		require.NoError(t, err)
		require.Nil(t, e.PPID)
		require.Equal(t, report, e.ReportData)
		require.Equal(t, tdx.Unauthenticated, e.TCBStatus)

		// What can be compared is: the key signed it, and nobody debugs it.
		for reason, edit := range map[api.Reason]quote{
			api.QuoteSignature:     func(q *tdxlab.Quote) { q.BadSignature = true },
			api.QEReportInvalid:    func(q *tdxlab.Quote) { q.BadQEReportData = true },
			api.DebugTD:            func(q *tdxlab.Quote) { q.TDAttributes[0] = 1 },
			api.QEIdentityMismatch: func(q *tdxlab.Quote) { q.QEVendor[0] = 0 },
		} {
			_, err := tdx.Verify(lab.Quote(report, edit, func(q *tdxlab.Quote) { q.InnerType = kind }), nil, allowed, now)
			requireReason(t, reason, err)
		}
	}
	// The flag changes nothing for quotes that carry a certificate.
	_, err := tdx.Verify(lab.Quote(report, certificate(func(c *tdxlab.Certificate) { c.SelfMade = true })), collateral(), allowed, now)
	requireReason(t, api.PCKUntrusted, err)
}

// Collateral that was verified once is past its time once its time is past.
func TestCachedCollateralExpires(t *testing.T) {
	e, err := tdx.Open(collateral(), trusted, now)
	require.NoError(t, err)
	a, err := tdx.Authenticate(lab.Quote(report), trusted, now)
	require.NoError(t, err)
	_, err = a.Appraise(e, e.NotAfter())
	require.NoError(t, err)
	_, err = a.Appraise(e, e.NotAfter().Add(time.Second))
	requireReason(t, api.CollateralExpired, err)
	require.Equal(t, map[string]uint64{"tcbinfo-" + lab.FMSPC(): 17, "qeidentity": 17, "rootcrl": 3, "pckcrl-platform": 7}, e.Marks())
}

// The library keeps its working memory in the options; sharing them between
// verifications lets one quote be judged by another's collateral.
func TestParallelVerificationsDoNotMix(t *testing.T) {
	const parallel = 100
	e, err := tdx.Open(collateral(), trusted, now)
	require.NoError(t, err)
	quotes := make([][]byte, parallel)
	for i := range quotes {
		quotes[i] = lab.Quote([64]byte{byte(i)}, certificate(func(c *tdxlab.Certificate) { c.PPID[15] = byte(i) }))
	}
	var group sync.WaitGroup
	failures := make(chan string, 2*parallel)
	for i, q := range quotes {
		group.Go(func() {
			a, err := tdx.Authenticate(q, trusted, now)
			if err != nil {
				failures <- err.Error()
				return
			}
			got, err := a.Appraise(e, now)
			if err != nil || got.ReportData != [64]byte{byte(i)} || got.PPID[15] != byte(i) {
				failures <- fmt.Sprint(i, err)
			}
		})
	}
	group.Wait()
	close(failures)
	for f := range failures {
		t.Error(f)
	}
}

// Evidence does not change when the caller uses the quote's memory again.
func TestEvidenceIsACopy(t *testing.T) {
	q := lab.Quote(report)
	e := verify(t, q)
	mrtd := string(e.Measurements.MRTD)
	clear(q)
	require.Equal(t, mrtd, string(e.Measurements.MRTD))
}
