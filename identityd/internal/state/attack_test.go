package state

import (
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

func TestTokenRacedByAHundredIsUsedOnce(t *testing.T) {
	for name, keys := range map[string]int{"of a hundred owners": 100, "of one owner": 1} {
		t.Run(name, func(t *testing.T) {
			m := newVM(t).start()
			token, err := m.RegisterOperator(role(m, operator), nil)
			require.NoError(t, err)
			var (
				wg      sync.WaitGroup
				gate    = make(chan struct{})
				results [100]error
				winners [100]*Pending
			)
			for i := range results {
				who := role(m, 100+i%keys)
				wg.Go(func() {
					<-gate
					winners[i], results[i] = m.RegisterOwner(t0, token, who)
				})
			}
			close(gate)
			wg.Wait()
			var winner *Pending
			for i, err := range results {
				if err == nil {
					require.Nil(t, winner, "two winners")
					winner = winners[i]
					continue
				}
				if keys == 1 {
					refused(t, err, reason.StepInFlight)
				} else {
					refused(t, err, reason.TokenUsed)
				}
			}
			require.NotNil(t, winner)
			require.NoError(t, winner.Finish())
			require.Equal(t, winner.Step().Owner.Pubkey, m.View().Owner.Pubkey)
			_, err = m.RegisterOwner(t0, token, role(m, 100))
			refused(t, err, reason.TokenUsed)
		})
	}
}

func TestGuessedTokenIsRefused(t *testing.T) {
	v := newVM(t)
	m := v.start()
	_, err := m.RegisterOwner(t0, "00", role(m, owner))
	refused(t, err, reason.OperatorMissing)
	token, err := m.RegisterOperator(role(m, operator), nil)
	require.NoError(t, err)
	require.Len(t, token, 64)
	upper := []byte(token)
	for i, c := range upper {
		if c >= 'a' {
			upper[i] = c - 'a' + 'A'
		}
	}
	changed := []byte(token)
	changed[63] ^= 1
	for _, guess := range []string{string(upper), string(changed), token + "00", token[:62], " " + token, "x" + token[1:]} {
		_, err = m.RegisterOwner(t0, guess, role(m, owner))
		refused(t, err, reason.TokenInvalid)
	}
	_, err = m.RegisterOwner(t0, "", role(m, owner))
	refused(t, err, reason.TokenMissing)
	require.NotContains(t, string(v.run.live[runFile].content), token)
	require.NotContains(t, string(v.file()), token)
}

func TestOnlyTheNamedOwnerMayUseTheToken(t *testing.T) {
	m := newVM(t).start()
	token, err := m.RegisterOperator(role(m, operator), role(m, owner).Pubkey)
	require.NoError(t, err)
	_, err = m.RegisterOwner(t0, token, role(m, stranger))
	refused(t, err, reason.OwnerNotExpected)
	_, err = m.RegisterOwner(t0, token, role(m, owner))
	require.NoError(t, err)
}

func TestInstanceIsNotItsOwnOwner(t *testing.T) {
	m := newVM(t).start()
	_, err := m.RegisterOperator(Role{m.Instance(), m.Sign(m.Instance())}, nil)
	refused(t, err, reason.PubkeyTaken)
}

func TestRolledBackStateIsNoticed(t *testing.T) {
	v := newVM(t)
	m := v.start()
	id := owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	require.True(t, sshAllowed(m))
	older := v.file()
	exposed(t, m, body(2), "app:1")
	seen := m.Counter()
	newer := v.file()

	t.Run("within a boot", func(t *testing.T) {
		v.setFile(older)
		refused(t, v.open(), reason.StateRollback)
		v.setFile(newer)
		require.False(t, sshAllowed(v.start()))
	})
	for _, who := range []Source{Registry, OwnerTool} {
		t.Run("over a reboot, by the "+string(who), func(t *testing.T) {
			v.reboot(false)
			v.setFile(older)
			m := v.start()
			require.NoError(t, m.Link(t0, id, role(m, owner)))
			_, err := m.Configure(t0, body(7), work("app:7"))
			refused(t, err, reason.StateUnwitnessed)
			require.False(t, sshAllowed(m))
			refused(t, m.Witness(who, seen), reason.StateRollback)
			for range 2 {
				require.False(t, sshAllowed(m))
				require.True(t, m.View().RolledBack)
				_, err = m.Configure(t0, body(8), work("app:8"))
				refused(t, err, reason.StateRollback)
				refused(t, m.Witness(who, 0), reason.StateRollback)
				v.restart(false)
				m = v.start()
			}
		})
	}
	t.Run("one by one, though linking raises the counter", func(t *testing.T) {
		v := newVM(t)
		m := v.start()
		id := owned(t, m)
		found := m.Counter()
		v.reboot(false)
		m = v.start()
		require.NoError(t, m.Link(t0, id, role(m, owner)))
		require.Greater(t, m.Counter(), found)
		require.NoError(t, m.Witness(OwnerTool, found))
		require.True(t, m.View().Witnessed)
		require.False(t, m.View().RegistryOwed, "the registry has to say first what it saw")
		refused(t, m.Witness(Registry, found+1), reason.StateRollback)
	})
}

func TestVolumeThatIsNewerThanTheStateIsARollback(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	older := v.file()
	configured(t, m, body(1), "app:1", digestA)
	id, err := m.Identity()
	require.NoError(t, err)
	v.reboot(false)
	v.setFile(older)
	m = v.start()
	refused(t, m.Link(t0, id, role(m, owner)), reason.StateRollback)
}

func TestChangedStateIsRefusedWhereverItIsChanged(t *testing.T) {
	v := newVM(t)
	owned(t, v.start())
	whole := v.file()
	known := []reason.Reason{reason.StateForged, reason.StateMalformed, reason.StateNewer}
	for i := range whole {
		changed := slices.Clone(whole)
		changed[i] ^= 1
		v.setFile(changed)
		require.Contains(t, known, reason.Of(v.open()), "byte %d", i)
	}
	for n := range whole {
		v.setFile(slices.Clone(whole[:n]))
		require.Contains(t, known, reason.Of(v.open()), "%d bytes", n)
	}
	v.setFile(append(slices.Clone(whole), 0))
	refused(t, v.open(), reason.StateMalformed)
	v.setFile(make([]byte, maxFile+1))
	refused(t, v.open(), reason.StateMalformed)
	v.setFile(append([]byte("telemark-state-v2\n"), whole[len(magic):]...))
	refused(t, v.open(), reason.StateNewer)
	delete(v.disk.live, stateFile)
	refused(t, v.open(), reason.StateMissing)
	v.setFile(whole)
	v.start()
}

func TestForeignStateIsRefused(t *testing.T) {
	other := newVM(t)
	otherID := owned(t, other.start())
	v := newVM(t)
	v.start()
	v.setFile(other.file())
	refused(t, v.open(), reason.StateForged)

	delete(v.disk.live, stateFile)
	m := v.start()
	id := owned(t, m)
	mine := v.file()
	v.setFile(other.file())
	refused(t, v.open(), reason.StateForged)

	t.Run("after a reboot", func(t *testing.T) {
		v.reboot(false)
		m = v.start()
		refused(t, m.Link(t0, id, role(m, owner)), reason.StateForged)
		_, err := m.Configure(t0, body(1), work("app:1"))
		refused(t, err, reason.StateUnlinked)
		_, err = m.RegisterOperator(role(m, stranger), nil)
		refused(t, err, reason.StateUnlinked)
		_, err = m.Identity()
		refused(t, err, reason.StateUnlinked)
		refused(t, m.Witness(Registry, 0), reason.StateUnlinked)

		v.reboot(false)
		v.setFile(mine)
		m = v.start()
		refused(t, m.Link(t0, otherID, role(m, owner)), reason.StateForged)
		refused(t, m.Link(t0, []byte(`{"version":1}`), role(m, owner)), reason.IdentityInvalid)
		refused(t, m.Link(t0, id, role(m, stranger)), reason.OwnerRegistered)
		require.NoError(t, m.Link(t0, id, role(m, owner)))
		refused(t, m.Link(t0, id, role(m, owner)), reason.StateLinked)
	})
}

func TestStateOfACopiedVMIsRefused(t *testing.T) {
	v := newVM(t)
	id := owned(t, v.start())
	v.reboot(false)
	copied := &vm{t: t, boot: 77}
	copied.f = &faults{}
	copied.disk, copied.run = v.disk.crash(copied.f, false), newDir(copied.f)
	m, twin := v.start(), copied.start()
	require.NoError(t, m.Link(t0, id, role(m, owner)))
	require.NoError(t, twin.Link(t0, id, role(twin, owner)))
	require.NoError(t, twin.Witness(OwnerTool, 0))
	configured(t, twin, body(1), "app:1", digestA)
	v.setFile(copied.file()) // authentic, and higher
	refused(t, v.open(), reason.StateForged)
}

func TestEarlierWriteOfOneCounterIsARollback(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	// The machine is killed when a configure stands on the disk and is not
	// acknowledged; the disk's owner shows the state before it.
	before := v.file()
	v.f.ops, v.f.at, v.f.kill = 0, 5, true
	_, err := m.Configure(t0, body(1), work("app:1"))
	refused(t, err, reason.StateUnavailable)
	landed := v.file()
	require.NotEqual(t, before, landed)
	v.restart(false)
	v.setFile(before)
	m = v.start()
	_, err = m.Configure(t0, body(2), work("app:2"))
	require.NoError(t, err)
	v.setFile(landed)
	refused(t, v.open(), reason.StateRollback)
}

func TestSecretsAreNotOnTheDisk(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	for _, secret := range [][]byte{m.run.Seed, m.run.MACKey, m.run.TokenHash} {
		text, err := (&Party{Pubkey: secret}).Pubkey.MarshalJSON()
		require.NoError(t, err)
		for _, i := range v.disk.live {
			require.NotContains(t, string(i.content), string(text))
			require.NotContains(t, string(i.content), string(secret))
		}
	}
}

func TestRunFileOfAnotherBootIsNotUsed(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	key := m.Instance()
	v.boot++ // a run directory that outlived the VM
	m = v.start()
	require.NotEqual(t, key, m.Instance())
	require.False(t, m.View().Linked)
}

func TestDamagedRunFileIsRefusedAndNotTold(t *testing.T) {
	v := newVM(t)
	owned(t, v.start())
	v.run.live[runFile].content = append(v.run.live[runFile].content, "secret"...)
	err := v.open()
	refused(t, err, reason.RunDirDamaged)
	require.NotContains(t, err.Error(), "secret")
}

func TestNoTwoFilesBearOneCounter(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	before := m.Counter()
	v.f.ops, v.f.at, v.f.after = 0, 5, true // it stands on the disk, and the directory's fsync failed
	_, err := m.Configure(t0, body(1), work("app:1"))
	refused(t, err, reason.StateUnavailable)
	left, err := decode(v.file(), m.run.MACKey)
	require.NoError(t, err)
	require.Equal(t, before+1, left.Counter)
	require.Equal(t, before, m.Counter())
	p, err := m.Configure(t0, body(2), work("app:2"))
	require.NoError(t, err)
	require.Equal(t, before+2, m.Counter())
	require.Equal(t, before+2, p.Step().Begun)
}

func TestClosedDoorStaysClosedWhateverElseIsSaid(t *testing.T) {
	v := View{State: WorkloadConfigured, Linked: true, Witnessed: true}
	require.True(t, v.SSHAllowed())
	for name, edit := range map[string]func(*View){
		"listener closed": func(v *View) { v.SSH.ListenerClosed = t0 },
		"sessions ended":  func(v *View) { v.SSH.SessionsEnded = t0 },
		"not linked":      func(v *View) { v.Linked = false },
		"not witnessed":   func(v *View) { v.Witnessed = false },
		"rolled back":     func(v *View) { v.RolledBack = true },
		"unknown state":   func(v *View) { v.State = "open" },
	} {
		changed := v
		edit(&changed)
		require.False(t, changed.SSHAllowed(), name)
	}
}
