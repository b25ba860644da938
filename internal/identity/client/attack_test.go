package client_test

import (
	"crypto/tls"
	"errors"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
)

// The published port serves TLS with the same key. The host leads the owner's
// connection there: the attestation, which the workload fetched from the other
// port, fits it, and whatever is sent after it would go to the workload.
func TestWorkloadBehindTheAttestedProxyIsNotTakenForTheInstance(t *testing.T) {
	vm, _ := instance(t)
	var led atomic.Bool
	s := httptest.NewUnstartedServer(vm.Handler())
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if led.Load() && hello.ServerName == api.ServerName { // as the attested proxy does
			return nil, errors.New("this is not the instance's own port")
		}
		return vm.TLSConfig().GetConfigForClient(hello)
	}}
	s.StartTLS()
	t.Cleanup(s.Close)

	c := dial(t, s.URL)
	owner, _ := owned(t, c)
	i := attest(t, c)
	led.Store(true)
	s.CloseClientConnections()
	steps := len(vm.Steps())
	image, port := "app:1", int64(80)
	_, err := i.Configure(t.Context(), owner, api.Configure{Image: &image, Port: &port, PersistDirs: []string{}})
	require.Error(t, err)
	require.Len(t, vm.Steps(), steps, "nothing was sent")
	_, err = dial(t, s.URL).Attest(t.Context())
	require.Error(t, err)
}
