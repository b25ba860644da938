package registrar_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Whoever stands between answers 404 to all of /v1/, so that the disk that was set
// back finds a registry that saw nothing.
func TestPretendedFirstGenerationIsNoWayAroundThePinnedWitness(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	v.configured()
	disk, volume := v.disk.clone(), v.volume
	v.exposed()
	require.NoError(t, x.of(v).Tell(t.Context()))

	x.hooks(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			http.NotFound(w, r)
			return true
		}
		return false
	}, nil)
	old := v.reboot(disk, volume)
	require.NoError(t, old.m.Witness(state.OwnerTool, 0), "the owner's tool knows nothing")
	require.NoError(t, old.m.Renew(role(old.m, 1)))
	r, err := registrar.New(registrar.Options{
		URL: x.front.URL, Pin: x.pin, Machine: old.m, Statement: old.statement, Quote: old.quote, PPID: old.ppid, FirstGeneration: true,
	})
	if err == nil {
		err = r.Tell(t.Context())
	}
	require.Error(t, err)
	require.True(t, old.m.View().RegistryPending, "the registry's word is still wanted")
	require.Zero(t, x.seen("POST /register"))
}

// An event that is recorded between statement and quote is no contradiction that
// is waited out for an hour.
func TestEventBetweenStatementAndQuoteDoesNotKeepTheRegistryInTheDark(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	v.configured()
	raced := false
	r := x.of(v, func(o *registrar.Options) {
		o.Quote = func(ctx context.Context, data [64]byte) ([]byte, error) {
			if !raced {
				raced = true
				v.record(statement.Event{Name: statement.Image, Data: statement.ImageData("other", imageDigest)})
				v.record(statement.Event{Name: statement.Image, Data: statement.ImageData(image, imageDigest)})
			}
			return v.quote(ctx, data)
		}
	})
	require.NoError(t, r.Tell(t.Context()))
	require.NotNil(t, x.instance(v).Facts)
}

// A register that somebody else extended is told all the same, and refused: the
// registry's log has to show it.
func TestForeignRegisterIsTold(t *testing.T) {
	x := newRegistry(t).up()
	v := newVM(t)
	v.owned()
	v.register[0] ^= 1
	refused(t, reason.RegistryRefused, x.of(v).Tell(t.Context()))
	require.Equal(t, 1, x.seen("POST /v1/instances"))
}
