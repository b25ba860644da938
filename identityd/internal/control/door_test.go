package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/state"
)

// stuck is a container in which starting something takes until it is let go.
type stuck struct{ entered, gone chan struct{} }

func (s *stuck) Start(context.Context, sshd.Command) (sshd.Process, error) {
	close(s.entered)
	<-s.gone
	return nil, errors.New("gone")
}

// hang puts a door in the place of the one that is open, with a session in it that
// does not end before it is let go.
func (l *lab) hang() (letGo func()) {
	l.t.Helper()
	c, s := l.c, &stuck{make(chan struct{}), make(chan struct{})}
	require.NoError(l.t, c.step.enter(l.t.Context()))
	c.closeDoor(l.t.Context())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(l.t, err)
	c.door, err = sshd.New(listener, sshd.Config{HostKey: c.o.SSHHostKey, Owner: pubOf(l.owner), Container: s})
	require.NoError(l.t, err)
	door := c.door
	go func() { _ = door.Serve() }()
	c.step.leave()
	signer, err := ssh.NewSignerFromSigner(l.owner)
	require.NoError(l.t, err)
	client, err := ssh.Dial("tcp", listener.Addr().String(), &ssh.ClientConfig{
		User: "owner", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(mustKey(l.t, c.o.SSHHostKey)),
	})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = client.Close() })
	session, err := client.NewSession()
	require.NoError(l.t, err)
	go func() { _ = session.Run("anything") }()
	<-s.entered
	return func() { close(s.gone) }
}

func mustKey(t testing.TB, key ed25519.PrivateKey) ssh.PublicKey {
	t.Helper()
	k, err := ssh.NewPublicKey(pubOf(key))
	require.NoError(t, err)
	return k
}

func TestSessionThatDoesNotEndKeepsTheDoorFromBeingSaidClosed(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	letGo := l.hang()
	err := l.expose(app)
	v := l.m.View()
	letGo()
	require.Error(t, err)
	require.True(t, v.SSH.SessionsEnded.IsZero(), "a session is left, and it is said that none is")
	require.Eventually(t, func() bool { return l.m.View().State == state.WorkloadExposed }, 2*eventually, tick)
	l.is(state.WorkloadExposed)
	l.serves("hello")
}

// The next workload's door is not the only one that has to be closed.
func TestSessionOfAnEarlierWorkloadIsNotForgotten(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	letGo := l.hang()
	refused(t, l.configure(app), reason.SSHNotClosed)
	letGo()
	require.Eventually(t, func() bool { return l.sshOpen() }, 2*eventually, tick)
	l.is(state.WorkloadConfigured)
}

func TestStrangersDoNotWaitForAStepAndHoldNoPlace(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.c.step.enter(t.Context())) // a pull, say
	defer l.c.step.leave()
	stranger := keyOf(9)
	began := time.Now()
	signature := ed25519.Sign(stranger, l.m.Instance())
	_, err := l.c.RegisterOperator(t.Context(), &request.Operator{Pubkey: request.Hex(pubOf(stranger)), Signature: signature})
	refused(t, err, reason.OperatorRegistered)
	_, err = l.c.RenewOperator(t.Context(), state.Role{Pubkey: pubOf(stranger), Signature: signature})
	refused(t, err, reason.OperatorRegistered)
	require.Less(t, time.Since(began), patience)
}

func TestNothingComesBackAfterTheEnd(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app))
	require.NoError(t, l.c.Close(t.Context()))
	require.NoError(t, l.c.step.enter(t.Context()))
	l.c.behind, l.c.next = true, time.Now()
	l.c.mend(t.Context())
	l.c.step.leave()
	require.False(t, l.sshOpen())
	require.Nil(t, l.c.volume)
}

// The host owns the network too: with the registry kept away, an owner's tool that
// remembers nothing would take any disk.
func TestOwnerWhoRemembersNothingIsNoWitnessWhileTheRegistryIsKeptAway(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app))
	seen := l.m.Counter()
	l.reboot()
	l.start()
	l.last = 0
	refused(t, l.unlock(), reason.StateUnwitnessed)
	require.False(t, l.sshOpen())
	require.Equal(t, VolumeMounted, l.c.View(t.Context()).Volume)
	l.registry.mu.Lock()
	l.registry.speaks, l.registry.seen = true, seen
	l.registry.mu.Unlock()
	require.Eventually(t, l.sshOpen, 2*eventually, tick)
	l.is(state.WorkloadConfigured)
}
