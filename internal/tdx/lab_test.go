package tdx_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var (
	lab     = tdxlab.New("internal/tdx")
	foreign = tdxlab.New("somebody else")
	now     = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	report  = [64]byte{1, 2, 3, 63: 64}
	trusted = tdx.Options{Roots: lab.Roots()}
)

func collateral(edits ...func(*tdxlab.Collateral)) *tdx.Collateral {
	c := tdx.Collateral(*lab.Collateral(now, edits...))
	return &c
}

func verify(t *testing.T, quote []byte, edits ...func(*tdxlab.Collateral)) *tdx.Evidence {
	t.Helper()
	e, err := tdx.Verify(quote, collateral(edits...), trusted, now)
	require.NoError(t, err)
	return e
}

func requireReason(t *testing.T, want api.Reason, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, api.ReasonOf(err), "%v", err)
}
