package pcrpolicy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/registryd/internal/pcrpolicy"
)

func TestPolicyIsRead(t *testing.T) {
	value := strings.Repeat("ab", 32)
	p, err := pcrpolicy.Parse([]byte("event_log: true\npcrs:\n  7: [" + value + "]\n  0: []\n"))
	require.NoError(t, err)
	require.True(t, p.EventLog)
	require.Len(t, p.PCRs, 2)
	require.Len(t, p.PCRs[7], 1)
	require.Empty(t, p.PCRs[0])
	none, err := pcrpolicy.Load("")
	require.NoError(t, err)
	require.Nil(t, none)
}

// A policy that is misread asks for less than its author meant.
func TestPolicyThatIsNotUnderstoodIsRefused(t *testing.T) {
	for text, says := range map[string]string{
		"":                                      "EOF",
		"pcrs: {}":                              "names no register",
		"pcrs: {24: []}":                        "0 to 23",
		"pcrs: {-1: []}":                        "cannot unmarshal",
		"pcrs: {7: [abcd]}":                     "64 hexadecimal digits",
		"pcrs: {7: []}\npcrs: {}":               "already defined",
		"pcrs: {7: [], 7: []}":                  "already defined",
		"pcr: {7: []}":                          "line 1: field pcr not found",
		"pcrs: {7: []}\n---\npcrs: {0: []}":     "behind its first document",
		"pcrs: {7: []}\nevent_log: sometimes\n": "cannot unmarshal",
	} {
		_, err := pcrpolicy.Parse([]byte(text))
		require.ErrorContains(t, err, says, text)
	}
}
