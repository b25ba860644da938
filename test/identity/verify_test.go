package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/ratls"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
)

// quotes verifies quotes as relying parties do, to the lab's root.
func (v *vm) quotes() *collateral.Verifier {
	v.Helper()
	pem, err := os.ReadFile(world.root)
	require.NoError(v, err)
	roots := x509.NewCertPool()
	require.True(v, roots.AppendCertsFromPEM(pem))
	service, err := collateral.NewService(world.lab, nil)
	require.NoError(v, err)
	verifier, err := collateral.New(collateral.Options{Source: service, Roots: roots})
	require.NoError(v, err)
	v.Cleanup(verifier.Close)
	return verifier
}

// ratls is a client's side of TLS that takes this instance only.
func (v *vm) ratls() *tls.Config {
	v.Helper()
	verifier, instance := v.quotes(), v.instance()
	return ratls.Client(func(quote []byte) (*ratls.Quoted, error) {
		q, err := verifier.Verify(v.Context(), quote, time.Now())
		if err != nil {
			return nil, err
		}
		return &ratls.Quoted{ReportData: q.ReportData, RTMR3: [48]byte(q.Measurements.RTMRs[3])}, nil
	}, func(r *ratls.Result) error {
		if string(r.Statement.Instance) != string(instance) {
			return errors.New("another instance")
		}
		return nil
	}, time.Now)
}

// facts waits until the registry's facts about the instance are as they shall be.
func (v *vm) facts(want func(*api.InstanceFacts) error) *api.InstanceFacts {
	v.Helper()
	key := fmt.Sprintf("%x", v.instance())
	var facts *api.InstanceFacts
	v.eventually(func() error {
		i, err := world.registry.Client.Instance(v.Context(), key)
		if err != nil {
			return err
		}
		if i.Facts == nil {
			return errors.New("there are no facts")
		}
		facts = i.Facts
		return want(facts)
	})
	return facts
}

// registryShowsClosed: SSH closed since, image, as verified facts.
func (v *vm) registryShowsClosed() {
	v.Helper()
	f := v.facts(func(f *api.InstanceFacts) error {
		if f.SSH != "closed" {
			return fmt.Errorf("SSH is %s", f.SSH)
		}
		return nil
	})
	s := v.state()
	require.Equal(v, "workload_exposed", f.State)
	require.Equal(v, s.Counter, f.Counter)
	require.Equal(v, app+"@"+s.Workload.Digest, f.Image)
	require.WithinDuration(v, s.SSH.SessionsEnded, f.SSHClosed, time.Second)
	require.Equal(v, api.FactsRTMR3, f.Evidence)
	require.Equal(v, v.Boot, f.Boot)
}
