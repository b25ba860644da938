//go:build !race

package nonce

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Under the race detector pools drop what they are given, hence the build tag.
func TestCheckAllocatesNothing(t *testing.T) {
	a := authority(t)
	n := mint(t, a, kid, 32)
	require.Less(t, testing.AllocsPerRun(200, func() {
		if _, err := a.Check(n, kid); err != nil {
			t.Fatal(err)
		}
	}), 1.0)
}
