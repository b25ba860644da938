package tdx_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func policies(t *testing.T, text string) *tdx.Policies {
	t.Helper()
	p, err := tdx.ParsePolicies([]byte(text))
	require.NoError(t, err)
	return p
}

const accepting = "policies:\n- name: a\n  tcb: {accept: [{status: UpToDate}]}\n"

func pinned(q *tdxlab.Quote, without ...string) string {
	text := accepting
	for key, value := range map[string][48]byte{
		"mrtd": q.MRTD, "rtmr0": q.RTMR[0], "rtmr1": q.RTMR[1], "rtmr2": q.RTMR[2], "rtmr3": q.RTMR[3],
		"mrconfigid": q.MRConfigID, "mrowner": q.MROwner, "mrownerconfig": q.MROwnerConf, "mrseam": q.MRSEAM,
	} {
		if !strings.Contains(strings.Join(without, " "), key) {
			text += fmt.Sprintf("  %s: [%q]\n", key, fmt.Sprintf("%x", value))
		}
	}
	return text
}

func TestNoPolicyAcceptsNothing(t *testing.T) {
	for _, none := range []*tdx.Policies{nil, {}} {
		_, err := tdx.Judge(none, &tdx.Evidence{TCBStatus: "UpToDate"}, time.Now())
		requireReason(t, api.TCBStatusNotAccepted, err)
	}
}

func TestPinnedVMIsAccepted(t *testing.T) {
	q := lab.Describe(report)
	name, err := tdx.Judge(policies(t, pinned(&q)), verify(t, lab.Quote(report)), now)
	require.NoError(t, err)
	require.Equal(t, "a", name)
}

func TestUnpinnedVMIsRefused(t *testing.T) {
	q := lab.Describe(report)
	p := policies(t, pinned(&q))
	for name, c := range map[string]struct {
		reason api.Reason
		edit   quote
	}{
		"mrtd":          {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.MRTD[0] ^= 1 }},
		"rtmr0":         {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.RTMR[0][0] ^= 1 }},
		"rtmr1":         {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.RTMR[1][0] ^= 1 }},
		"rtmr2":         {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.RTMR[2][0] ^= 1 }},
		"rtmr3":         {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.RTMR[3][0] ^= 1 }},
		"mrconfigid":    {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.MRConfigID[0] ^= 1 }},
		"mrowner":       {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.MROwner[0] ^= 1 }},
		"mrownerconfig": {api.MeasurementMismatch, func(q *tdxlab.Quote) { q.MROwnerConf[0] ^= 1 }},
		"mrseam":        {api.SEAMMismatch, func(q *tdxlab.Quote) { q.MRSEAM[0] ^= 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tdx.Judge(p, verify(t, lab.Quote(report, c.edit)), now)
			requireReason(t, c.reason, err)
			require.ErrorContains(t, err, name+" is ")
		})
	}
}

func TestMigratableVMIsRefusedUnlessPolicySaysSo(t *testing.T) {
	e := verify(t, lab.Quote(report, func(q *tdxlab.Quote) { q.TDAttributes[3] |= 0x20 }))
	_, err := tdx.Judge(policies(t, accepting), e, now)
	requireReason(t, api.TDAttributes, err)
	_, err = tdx.Judge(policies(t, accepting+"  td_attributes: {mask: ff00000000000000, value: '0000000000000000'}\n"), e, now)
	require.NoError(t, err)
}

func TestAttributesAndFeaturesAreMasked(t *testing.T) {
	e := verify(t, lab.Quote(report))
	for text, ok := range map[string]bool{
		"  td_attributes: {mask: ff00001000000000, value: '0000001000000000'}\n": true,
		"  td_attributes: {mask: ff00001000000000, value: '0000000000000000'}\n": false,
		"  xfam: {mask: ffffffffffffffff, value: e71a060000000000}\n":            true,
		"  xfam: {mask: '0000040000000000', value: '0000000000000000'}\n":        false,
	} {
		_, err := tdx.Judge(policies(t, accepting+text), e, now)
		if ok {
			require.NoError(t, err, text)
		} else {
			requireReason(t, api.TDAttributes, err)
		}
	}
}

func TestStatusIsAcceptedForItsDaysOfGrace(t *testing.T) {
	p := policies(t, "policies:\n- name: a\n  tcb: {accept: [{status: UpToDate}, {status: OutOfDate, grace_days: 30}], advisories: ['*']}\n")
	e := verify(t, lab.Quote(report, certificate(older)))
	require.Equal(t, tdxlab.DateNew, e.BehindSince)
	end := tdxlab.DateNew.Add(30 * 24 * time.Hour)
	_, err := tdx.Judge(p, e, end.Add(-time.Second))
	require.NoError(t, err)
	_, err = tdx.Judge(p, e, end)
	requireReason(t, api.TCBStatusNotAccepted, err)

	without := policies(t, "policies:\n- name: a\n  tcb: {accept: [{status: OutOfDate}], advisories: ['*']}\n")
	_, err = tdx.Judge(without, e, end.AddDate(5, 0, 0))
	require.NoError(t, err)
}

func TestAdvisoryThatNobodyAcceptedIsRefused(t *testing.T) {
	e := verify(t, lab.Quote(report, certificate(older)))
	for list, ok := range map[string]bool{
		"":                               false,
		", advisories: [INTEL-SA-00960]": false,
		", advisories: [INTEL-SA-00960, INTEL-SA-00982]": true,
		", advisories: ['*']":                            true,
	} {
		_, err := tdx.Judge(policies(t, "policies:\n- name: a\n  tcb: {accept: [{status: OutOfDate}]"+list+"}\n"), e, now)
		if ok {
			require.NoError(t, err, list)
		} else {
			requireReason(t, api.AdvisoryNotAccepted, err)
		}
	}
}

func TestFirstPolicyThatAcceptsGivesItsName(t *testing.T) {
	p := policies(t, `
policies:
- {name: other-vm, tcb: {accept: [{status: UpToDate}]}, mrtd: ["`+strings.Repeat("11", 48)+`"]}
- {name: any, tcb: {accept: [{status: UpToDate}]}}
- {name: later, tcb: {accept: [{status: UpToDate}]}}
`)
	require.Equal(t, []string{"other-vm", "any", "later"}, p.Names())
	name, err := tdx.Judge(p, verify(t, lab.Quote(report)), now)
	require.NoError(t, err)
	require.Equal(t, "any", name)
}

func TestRefusalNamesTheClosestPolicy(t *testing.T) {
	wrong := strings.Repeat("11", 48)
	p := policies(t, `
policies:
- {name: far, tcb: {accept: [{status: OutOfDate}]}, mrtd: ["`+wrong+`"], mrseam: ["`+wrong+`"]}
- {name: close, tcb: {accept: [{status: UpToDate}]}, mrtd: ["`+wrong+`"]}
`)
	_, err := tdx.Judge(p, verify(t, lab.Quote(report)), now)
	requireReason(t, api.MeasurementMismatch, err)
	require.ErrorContains(t, err, `policy "close": mrtd is `)
}

func TestUnauthenticatedQuoteNeedsAPolicyThatSaysSo(t *testing.T) {
	o := tdx.Options{AllowEncryptedPPID: true}
	e, err := tdx.Verify(lab.Quote(report, func(q *tdxlab.Quote) { q.InnerType = 2 }), nil, o, now)
	require.NoError(t, err)
	_, err = tdx.Judge(policies(t, accepting), e, now)
	requireReason(t, api.TCBStatusNotAccepted, err)
	_, err = tdx.Judge(policies(t, "policies:\n- {name: a, tcb: {accept: [{status: Unauthenticated}]}}\n"), e, now)
	require.NoError(t, err)
	_, err = tdx.Judge(tdx.DefaultPolicies(tdx.Options{}), e, now)
	requireReason(t, api.TCBStatusNotAccepted, err)
	_, err = tdx.Judge(tdx.DefaultPolicies(o), e, now)
	require.NoError(t, err)
}

func TestPolicyThatWouldNotDoWhatItSaysIsRefused(t *testing.T) {
	q := lab.Describe(report)
	value := strings.Repeat("ab", 48)
	for name, c := range map[string]struct{ text, message string }{
		"nothing":                 {"", "policy file"},
		"no policies":             {"policies: []\n", "0 entries"},
		"unknown key":             {accepting + "  mrdt: [" + value + "]\n", "mrdt"},
		"key twice":               {accepting + "  mrtd: [" + value + "]\n  mrtd: [" + value + "]\n", "already defined"},
		"key without value":       {accepting + "  mrtd:\n", "has no value"},
		"empty list":              {accepting + "  mrtd: []\n", "mrtd: 0 values"},
		"short value":             {accepting + "  mrtd: [abcd]\n", "96 hexadecimal digits"},
		"rtmr3 alone":             {accepting + "  rtmr3: [" + value + "]\n", "rtmr3 is pinned and mrtd is not"},
		"rtmr3 without mrtd":      {pinned(&q, "mrtd"), "rtmr3 is pinned and mrtd is not"},
		"rtmr3 without rtmr0":     {pinned(&q, "rtmr0"), "rtmr3 is pinned and rtmr0 is not"},
		"rtmr3 without rtmr1":     {pinned(&q, "rtmr1"), "rtmr3 is pinned and rtmr1 is not"},
		"rtmr3 without rtmr2":     {pinned(&q, "rtmr2"), "rtmr3 is pinned and rtmr2 is not"},
		"debug not looked at":     {accepting + "  td_attributes: {mask: '0000000000000000', value: '0000000000000000'}\n", "never accepted"},
		"debug wanted":            {accepting + "  td_attributes: {mask: ffffffffffffffff, value: '0100000000000000'}\n", "never accepted"},
		"value beyond the mask":   {accepting + "  xfam: {mask: '0000000000000000', value: '0100000000000000'}\n", "does not look at"},
		"mask of four bytes":      {accepting + "  xfam: {mask: '00000000', value: '00000000'}\n", "16 hexadecimal digits"},
		"no status":               {"policies:\n- {name: a}\n", "tcb::accept"},
		"invented status":         {"policies:\n- {name: a, tcb: {accept: [{status: Fine}]}}\n", "none of Intel's names"},
		"revoked":                 {"policies:\n- {name: a, tcb: {accept: [{status: Revoked}]}}\n", "cannot be accepted"},
		"status twice":            {"policies:\n- {name: a, tcb: {accept: [{status: UpToDate}, {status: UpToDate}]}}\n", "twice"},
		"grace of what is fine":   {"policies:\n- {name: a, tcb: {accept: [{status: UpToDate, grace_days: 5}]}}\n", "grace_days"},
		"grace of no days":        {"policies:\n- {name: a, tcb: {accept: [{status: OutOfDate, grace_days: 0}]}}\n", "grace_days"},
		"grace of what is no TCB": {"policies:\n- {name: a, tcb: {accept: [{status: Unauthenticated, grace_days: 5}]}}\n", "grace_days"},
		"advisory misspelt":       {"policies:\n- {name: a, tcb: {accept: [{status: UpToDate}], advisories: [SA-00837]}}\n", "advisories"},
		"name twice":              {accepting + "- {name: a, tcb: {accept: [{status: UpToDate}]}}\n", "stands twice"},
		"no name":                 {"policies:\n- {tcb: {accept: [{status: UpToDate}]}}\n", "name"},
		"second document":         {accepting + "---\npolicies: []\n", "second document"},
		"alias":                   {"x: &a 1\n", "anchors"},
		"too large":               {strings.Repeat("#", tdx.MaxPolicyFile+1), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := tdx.ParsePolicies([]byte(c.text))
			require.ErrorContains(t, err, c.message)
			require.Nil(t, p)
		})
	}
}

// The example that users copy is a policy file.
func TestDocumentedPolicyIsRead(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guide/tdx.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```yaml\n(policies:.*?)```").FindAllSubmatch(guide, -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		_, err := tdx.ParsePolicies(block[1])
		require.NoError(t, err)
	}
}
