package smoke

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReasonsOfWhatWasRefusedMeanwhile(t *testing.T) {
	before := progress{reasons: map[string]uint64{"outside": 3, "duplicate": 1}}
	now := progress{reasons: map[string]uint64{"outside": 4, "duplicate": 1, "key_revoked": 2}}
	require.Equal(t, "key_revoked, outside", now.since(before))
	require.Empty(t, before.since(now))
}
