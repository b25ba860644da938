package policy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestUnprovenKeyPassesUnderItsOwnWordOrNotAtAll(t *testing.T) {
	for e, word := range map[Evidence]string{Unproven: "unproven_tpm", Vouched: reason.Verified, Chain: reason.Verified, Evidence(9): "unproven_tpm"} {
		require.Equal(t, word, e.Verdict())
		require.Equal(t, word == reason.Verified, e.Genuine())
		f := facts(func(f *Facts) { f.Evidence = e })
		require.NoError(t, (&Policy{}).Judge(f))
		err := (&Policy{Genuine: true}).Judge(f)
		if e.Genuine() {
			require.NoError(t, err)
		} else {
			require.Equal(t, reason.UnprovenTPM, reason.Of(err))
		}
	}
	var forgotten Facts
	require.False(t, forgotten.Evidence.Genuine(), "who says nothing claims nothing")
}

func TestEvidenceWordsRoundTrip(t *testing.T) {
	for _, e := range []Evidence{Unproven, Vouched, Chain} {
		got, err := ParseEvidence(e.String())
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	got, err := ParseEvidence("genuine")
	require.ErrorContains(t, err, "chain, vouched or unproven_tpm")
	require.Equal(t, Unproven, got)
	genuine, err := ParseRequireEvidence("unproven_tpm")
	require.ErrorContains(t, err, "genuine or any")
	require.True(t, genuine, "what cannot be read demands more, not less")
	genuine, err = ParseRequireEvidence("any")
	require.NoError(t, err)
	require.False(t, genuine)
}
