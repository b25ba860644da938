package tpmextension

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
)

func TestTwoProcessorsNeverShareAStream(t *testing.T) {
	var names streamNames
	a, closeA := names.acquire("tpmsign/edge:logs")
	b, closeB := names.acquire("tpmsign/edge:logs")
	c, _ := names.acquire("tpmsign/edge:logs")
	require.Equal(t, []string{"tpmsign/edge:logs", "tpmsign/edge:logs#2", "tpmsign/edge:logs#3"}, []string{a, b, c})

	closeB()
	again, _ := names.acquire("tpmsign/edge:logs")
	require.Equal(t, b, again)
	closeB()
	next, _ := names.acquire("tpmsign/edge:logs")
	require.Equal(t, "tpmsign/edge:logs#4", next, "closing twice must not free what another one holds")
	closeA()
	first, _ := names.acquire("tpmsign/edge:logs")
	require.Equal(t, a, first)
}

func TestSuffixedStreamNamesStayWithinTheBound(t *testing.T) {
	var names streamNames
	long := strings.Repeat("x", block.MaxStreamLen)
	for range 12 {
		unique, _ := names.acquire(long)
		require.NoError(t, block.CheckStream(unique))
	}
	require.Len(t, names.open, 12)
}
