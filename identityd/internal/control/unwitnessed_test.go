package control

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Until somebody outside said which counter was the last, the disk may have been set
// back: no quote vouches for what it says, and the owner can still speak.
func TestStateThatNobodyWitnessedIsNotQuoted(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app))
	identity, err := l.m.Identity()
	require.NoError(t, err)
	l.reboot()
	l.start()
	// As if the service was killed before it kept the owner's word.
	require.NoError(t, l.m.Link(time.Now(), identity, state.Role{Pubkey: pubOf(l.owner), Signature: ed25519.Sign(l.owner, l.m.Instance())}))
	require.False(t, l.m.View().Witnessed)

	facts := l.attests()
	require.Equal(t, statement.Locked, facts.State)
	require.Zero(t, facts.Counter)

	require.NoError(t, l.unlock())
	require.Equal(t, statement.WorkloadConfigured, l.attests().State)
	refused(t, l.unlock(), reason.StateLinked)
}
