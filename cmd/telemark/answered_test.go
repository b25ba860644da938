package main

import (
	"crypto/x509"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

func TestErrorsOfTheRegistrySayWhatToDoOnce(t *testing.T) {
	busy := &api.Error{Reason: api.Busy, Detail: api.Busy.Help()}
	require.EqualError(t, answered(busy), busy.Error())

	unknown := &api.Error{Reason: api.NotFound, Detail: `there is no machine "edge-a"`}
	require.EqualError(t, answered(unknown), unknown.Error()+"\n"+api.NotFound.Help())

	untrusted := fmt.Errorf("call the registry: %w", x509.UnknownAuthorityError{})
	require.ErrorContains(t, answered(untrusted), "with --ca or TELEMARK_REGISTRY_CA")
	require.NoError(t, answered(nil))
}
