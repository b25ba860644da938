package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

func fullMachine() *Machine {
	return &Machine{
		EKHash: hash(1), Name: "Röntgen-1", Labels: map[string]string{"site": "oslo", "a\"b": "c\\d é", "": ""},
		Evidence: api.EvidenceChain, Membership: api.ByToken, MembershipBy: "token 1", Allowed: true,
		EKPublic: []byte{0, 1}, EKCertificate: []byte{2}, AKName: []byte{3}, Revoked: "lost",
		CreatedAt: clock, SeenAt: clock.Add(time.Hour),
	}
}

func fullKey() *Key {
	return &Key{
		KID: hash(2), EKHash: hash(1), State: api.StateRevoked, Reason: "lost", Public: []byte{4},
		Evidence: []byte(`{"a": 1 }`), PCRs: []byte(`{}`), EnrolledAt: clock, AttestedAt: clock.Add(time.Minute), ExpiresAt: clock.Add(time.Hour),
	}
}

func fullInstance() *Instance {
	party := func(n byte) *api.Party {
		return &api.Party{Pubkey: []byte{n}, InstanceSignature: []byte{n, 1}, IdentitySignature: []byte{n, 2}}
	}
	measured := &api.Measurements{MRTD: api.Hex{1}, MRSEAM: api.Hex{}, MRConfigID: api.Hex{}, MROwner: api.Hex{}, TDAttributes: api.Hex{}, XFAM: api.Hex{2}}
	for i := range measured.RTMRs {
		measured.RTMRs[i] = api.Hex{byte(i)}
	}
	return &Instance{
		Pubkey: hash(3), PPID: []byte{1}, Quote: []byte{2}, Operator: party(5), Owner: party(6), Generation: 2,
		State: api.TDXVerified, Revoked: "no", TCBStatus: "UpToDate", Advisories: []string{"INTEL-SA-1", "x"},
		Measurements: measured, TLSKey: []byte{9}, PolicyName: "p", PPIDProven: true,
		RegisteredAt: clock, VerifiedAt: clock.Add(time.Second), ExpiresAt: clock.Add(time.Hour),
	}
}

// What is written is read, all of it, by the other replica; and so is the
// absence of everything that can be absent.
func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		for round, c := range []struct {
			machine  *Machine
			key      *Key
			instance *Instance
			token    *Token
			policy   *api.Policy
		}{
			{
				fullMachine(), fullKey(), fullInstance(),
				&Token{
					ID: "00ff", SealedKey: []byte{1}, Uses: 5, Used: 2, Name: "n", NamePattern: "n*",
					Labels: map[string]string{"a": "b"}, Note: "note", CreatedAt: clock, CreatedBy: "me", ExpiresAt: clock.Add(time.Hour),
				},
				&api.Policy{
					Scope: "label:site=oslo", Bind: map[string]string{"host.name": "name"}, BindRequired: []string{"x"}, Freshness: "required",
					Location: json.RawMessage(`{"a":[1.50]}`), UpdatedAt: clock, UpdatedBy: "me",
				},
			},
			{
				&Machine{EKHash: hash(1)}, &Key{KID: hash(2), EKHash: hash(1), State: api.StatePending},
				&Instance{Pubkey: hash(3), State: api.TDXRevoked}, &Token{ID: "00ff"}, &api.Policy{Scope: "label:site=oslo"},
			},
		} {
			update(t, a, func(tx *Tx) error {
				return errors.Join(tx.PutMachine(c.machine), tx.PutKey(c.key), tx.PutInstance(c.instance), tx.PutToken(c.token), tx.PutPolicy(c.policy))
			})
			revision := uint64(round + 1)
			for _, r := range []uint64{c.machine.Revision, c.key.Revision, c.instance.Revision, c.policy.Revision} {
				require.Equal(t, revision, r)
			}
			same := func(want, got any, err error) {
				t.Helper()
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			view(t, b, func(tx *Tx) error {
				m, err := tx.Machine(hash(1))
				same(c.machine, m, err)
				k, err := tx.Key(hash(2))
				same(c.key, k, err)
				keys, err := tx.KeysOf(hash(1))
				same([]*Key{c.key}, keys, err)
				i, err := tx.Instance(hash(3))
				same(c.instance, i, err)
				tok, err := tx.Token("00ff")
				same(c.token, tok, err)
				toks, err := tx.Tokens()
				same([]*Token{c.token}, toks, err)
				p, err := tx.Policy(c.policy.Scope)
				same(c.policy, p, err)
				ps, err := tx.Policies()
				same([]*api.Policy{c.policy}, ps, err)

				slimMachine, slimKey := *c.machine, *c.key
				slimMachine.EKPublic, slimMachine.EKCertificate, slimMachine.AKName = nil, nil, nil
				slimKey.Evidence, slimKey.PCRs = nil, nil
				since, err := tx.KeysSince(0, 10)
				same([]KeyAndMachine{{&slimKey, &slimMachine}}, since, err)
				machines, next, err := tx.Machines(MachineFilter{Limit: 1})
				same([]*Machine{&slimMachine}, machines, err)
				require.Empty(t, next)
				instances, next, err := tx.Instances(InstanceFilter{Limit: 1})
				same([]*Instance{c.instance}, instances, err)
				require.Empty(t, next)
				return nil
			})
		}
	})
}

func TestEmptyBytesAreNone(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error {
			return errors.Join(
				tx.PutMachine(&Machine{EKHash: hash(1), EKPublic: []byte{}}),
				tx.PutToken(&Token{ID: "00ff", SealedKey: []byte{}}),
				tx.PutValue("none", []byte{}),
				tx.PutValue("some", []byte{0}),
			)
		})
		view(t, b, func(tx *Tx) error {
			m, err := tx.Machine(hash(1))
			require.NoError(t, err)
			require.Nil(t, m.EKPublic)
			tok, err := tx.Token("00ff")
			require.NoError(t, err)
			require.Nil(t, tok.SealedKey)
			value, err := tx.Value("none")
			require.NoError(t, err)
			require.Nil(t, value)
			value, err = tx.Value("some")
			require.Equal(t, []byte{0}, value)
			return err
		})
	})
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		for _, id := range []string{"", "00", "\x00", "\xff", strings.Repeat("a", 1<<20)} {
			update(t, a, func(tx *Tx) error {
				_, err := tx.Machine(id)
				require.ErrorIs(t, err, ErrNotFound)
				_, err = tx.MachineByName(id)
				require.ErrorIs(t, err, ErrNotFound)
				_, err = tx.Key(id)
				require.ErrorIs(t, err, ErrNotFound)
				keys, err := tx.KeysOf(id)
				require.NoError(t, err)
				require.Empty(t, keys)
				_, err = tx.Instance(id)
				require.ErrorIs(t, err, ErrNotFound)
				_, err = tx.Token(id)
				require.ErrorIs(t, err, ErrNotFound)
				require.ErrorIs(t, tx.DeleteToken(id), ErrNotFound)
				_, err = tx.Policy(id)
				require.ErrorIs(t, err, ErrNotFound)
				require.ErrorIs(t, tx.DeletePolicy(id), ErrNotFound)
				_, err = tx.Value(id)
				require.ErrorIs(t, err, ErrNotFound)
				return nil
			})
		}
		view(t, a, func(tx *Tx) error {
			head, err := tx.AuditHead()
			require.Zero(t, head)
			return err
		})
	})
}

// A row that one of the two databases would refuse, or that could be spelled in
// two ways, is refused by both; the transaction goes on.
func TestHostileValuesAreRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		long := strings.Repeat("x", 1<<20)
		update(t, a, func(tx *Tx) error {
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(1)}))
			for _, bad := range []string{"a\x00b", "a\xffb", long} {
				for _, err := range []error{
					tx.PutMachine(&Machine{EKHash: bad}),
					tx.PutMachine(&Machine{EKHash: hash(1), Name: bad}),
					tx.PutMachine(&Machine{EKHash: hash(1), Labels: map[string]string{bad: ""}}),
					tx.PutMachine(&Machine{EKHash: hash(1), Labels: map[string]string{"": bad}}),
					tx.PutMachine(&Machine{EKHash: hash(1), Revoked: bad}),
					tx.PutKey(&Key{KID: bad, EKHash: hash(1), State: api.StateEnrolled}),
					tx.PutKey(&Key{KID: hash(1), EKHash: hash(1), State: api.StateRevoked, Reason: bad}),
					tx.PutKey(&Key{KID: hash(1), EKHash: hash(1), State: api.KeyState(bad)}),
					tx.PutInstance(&Instance{Pubkey: bad, State: api.TDXVerified}),
					tx.PutInstance(&Instance{Pubkey: hash(1), State: api.TDXVerified, Advisories: []string{bad}}),
					tx.PutToken(&Token{ID: bad}),
					tx.PutToken(&Token{ID: "1", Note: bad}),
					tx.PutPolicy(&api.Policy{Scope: bad}),
					tx.PutValue(bad, nil),
					tx.Emit(Event{What: bad}),
					tx.Emit(Event{KIDs: []string{bad}}),
				} {
					require.ErrorIs(t, err, ErrInvalid)
					require.Less(t, len(err.Error()), 1000)
				}
				_, _, err := tx.Machines(MachineFilter{Name: bad})
				require.ErrorIs(t, err, ErrInvalid)
				_, _, err = tx.Machines(MachineFilter{After: bad})
				require.ErrorIs(t, err, ErrInvalid)
				_, _, err = tx.Machines(MachineFilter{State: api.KeyState(bad)})
				require.ErrorIs(t, err, ErrInvalid)
				_, _, err = tx.Machines(MachineFilter{Labels: map[string]string{bad: bad}})
				require.ErrorIs(t, err, ErrInvalid)
				_, _, err = tx.Instances(InstanceFilter{After: bad})
				require.ErrorIs(t, err, ErrInvalid)
				_, _, err = tx.Instances(InstanceFilter{State: api.InstanceState(bad)})
				require.ErrorIs(t, err, ErrInvalid)
			}
			require.ErrorIs(t, tx.PutMachine(&Machine{EKHash: "ABCD"}), ErrInvalid)
			require.ErrorIs(t, tx.PutMachine(&Machine{EKHash: hash(1), EKCertificate: make([]byte, maxBlob+1)}), ErrInvalid)
			require.ErrorIs(t, tx.PutKey(&Key{KID: hash(1), EKHash: hash(1), State: api.StateExpired}), ErrInvalid)
			require.ErrorIs(t, tx.PutPolicy(&api.Policy{Scope: "default", Location: json.RawMessage(`{`)}), ErrInvalid)
			require.ErrorIs(t, tx.PutValue("x", make([]byte, maxValue+1)), ErrInvalid)
			_, err := tx.TouchKeys(false, "", "x", "")
			require.ErrorIs(t, err, ErrInvalid)
			// The widest that is accepted fits into the indexes.
			wide := &Machine{EKHash: strings.Repeat("f", maxID), Name: noise(maxName), Labels: map[string]string{noise(maxLabelKey): noise(maxLabelValue)}}
			require.NoError(t, tx.PutMachine(wide))
			require.NoError(t, tx.PutPolicy(&api.Policy{Scope: noise(maxScope)}))
			return tx.PutValue(noise(maxName), make([]byte, maxValue))
		})
	})
}

// noise returns text that does not compress.
func noise(n int) string {
	b, x := make([]byte, n), uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = "0123456789abcdefghijklmnopqrstuv"[x>>27]
	}
	return string(b)
}

func TestNameOfAnotherMachineIsRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error {
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(1), Name: "Kiosk-ß-1"}))
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(2)}))
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(3)})) // no name is nobody's
			// The last one has a Kelvin sign and a long s.
			for _, name := range []string{"Kiosk-ß-1", "kiosk-ß-1", "KIOSK-ẞ-1", "\u212aio\u017fk-ß-1"} {
				m := &Machine{EKHash: hash(2), Name: name}
				require.ErrorIs(t, tx.PutMachine(m), ErrExists, name)
				require.Zero(t, m.Revision)
				found, err := tx.MachineByName(name)
				require.NoError(t, err)
				require.Equal(t, hash(1), found.EKHash)
			}
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(1), Name: "KIOSK-ß-1"})) // its own
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(1)}))                    // gives it away
			return tx.PutMachine(&Machine{EKHash: hash(2), Name: "kiosk-ß-1"})
		})
		view(t, b, func(tx *Tx) error {
			found, err := tx.MachineByName("KIOSK-ß-1")
			require.NoError(t, err)
			require.Equal(t, hash(2), found.EKHash)
			_, err = tx.MachineByName("")
			require.ErrorIs(t, err, ErrNotFound)
			return nil
		})
	})
}

// counting counts what waits for an answer of the database.
type counting struct {
	session
	waits int
}

func (c *counting) query(ctx context.Context, statement string, args ...any) (rows, error) {
	c.waits++
	return c.session.query(ctx, statement, args...)
}

func (c *counting) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	c.waits++
	return c.session.exec(ctx, statement, args...)
}

func TestManyMachinesAreKnownAndAddedAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		const n = 2*asked + 1
		hashes, names := make([]string, n), make([]string, n)
		for i := range n {
			hashes[i], names[i] = hash(i), fmt.Sprintf("Edge-%d", i)
		}
		added := &Machine{EKHash: hashes[0], Name: names[0], Labels: map[string]string{"site": "oslo"}, CreatedAt: clock}
		update(t, a, func(tx *Tx) error {
			count := &counting{session: tx.session}
			tx.session = count
			k, err := tx.Known(hashes, names)
			require.NoError(t, err)
			require.Empty(t, k.Machines)
			require.False(t, k.Named(names[0]))
			for i := range n {
				m := *added
				m.EKHash, m.Name = hashes[i], names[i]
				if err := tx.AddMachine(&m); err != nil {
					return err
				}
			}
			tx.session = count.session
			require.Equal(t, 3+3, count.waits, "for the machines, and for the names")
			return nil
		})
		view(t, b, func(tx *Tx) error {
			k, err := tx.Known(append(hashes, hash(n)), append(names, "another"))
			require.NoError(t, err)
			require.Len(t, k.Machines, n)
			require.True(t, k.Named("edge-"+fmt.Sprint(n-1)))
			require.False(t, k.Named("another"))
			require.Equal(t, added.Labels, k.Machines[hashes[0]].Labels)
			page, _, err := tx.Machines(MachineFilter{Labels: added.Labels, Limit: 1000})
			require.NoError(t, err)
			require.Len(t, page, 1000)
			return nil
		})
	})
}

// An upsert would bring a revoked machine back.
func TestAddingAMachineThatIsThereFails(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		update(t, a, func(tx *Tx) error { return tx.PutMachine(fullMachine()) })
		for _, m := range []*Machine{{EKHash: hash(1), Name: "other"}, {EKHash: hash(2), Name: fullMachine().Name}} {
			m.CreatedAt = clock
			require.Error(t, a.Update(t.Context(), func(tx *Tx) error { return tx.AddMachine(m) }))
		}
		view(t, a, func(tx *Tx) error {
			m, err := tx.Machine(hash(1))
			require.NoError(t, err)
			require.Equal(t, fullMachine().Revoked, m.Revoked)
			return nil
		})
	})
}

func TestKeyOfAnotherMachineIsRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error {
			require.NoError(t, putKey(tx, 1))
			require.NoError(t, putKey(tx, 2))
			require.ErrorIs(t, tx.PutKey(&Key{KID: hash(1), EKHash: hash(2), State: api.StateEnrolled}), ErrExists)
			require.ErrorIs(t, tx.PutKey(&Key{KID: hash(9), EKHash: hash(9), State: api.StateEnrolled}), ErrNotFound)
			return nil
		})
		view(t, b, func(tx *Tx) error {
			k, err := tx.Key(hash(1))
			require.Equal(t, hash(1), k.EKHash)
			return err
		})
	})
}

func TestSessionIsUsedOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		id := [32]byte{1}
		update(t, a, func(tx *Tx) error { return tx.ConsumeSession(id, clock.Add(time.Minute)) })
		require.ErrorIs(t, b.Update(t.Context(), func(tx *Tx) error { return tx.ConsumeSession(id, clock.Add(time.Hour)) }), ErrExists)
		update(t, b, func(tx *Tx) error {
			require.ErrorIs(t, tx.ConsumeSession(id, clock), ErrExists)
			return tx.ConsumeSession([32]byte{2}, clock)
		})
		// What was consumed in a refused change can still be used.
		refused := errors.New("refused")
		require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error {
			require.NoError(t, tx.ConsumeSession([32]byte{3}, clock))
			return refused
		}), refused)
		update(t, b, func(tx *Tx) error { return tx.ConsumeSession([32]byte{3}, clock) })
	})
}

func TestNewestKeyTellsTheStateWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error {
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(1)}))
			return tx.PutKey(&Key{KID: "aa", EKHash: hash(1), State: api.StateEnrolled, EnrolledAt: clock.Add(time.Hour), ExpiresAt: clock.Add(time.Hour)})
		})
		update(t, a, func(tx *Tx) error {
			return tx.PutKey(&Key{KID: "bb", EKHash: hash(1), State: api.StatePending, EnrolledAt: clock})
		})
		update(t, a, func(tx *Tx) error {
			// Another machine's keys say nothing of this one, and the older key
			// is written last.
			return errors.Join(putKey(tx, 2), tx.PutKey(&Key{KID: "aa", EKHash: hash(1), State: api.StateRevoked}))
		})
		view(t, b, func(tx *Tx) error {
			keys, err := tx.KeysOf(hash(1))
			require.NoError(t, err)
			require.Equal(t, []string{"bb", "aa"}, []string{keys[0].KID, keys[1].KID})
			pending, err := tx.CountPending()
			require.NoError(t, err)
			require.Equal(t, 1, pending)
			machines, _, err := tx.Machines(MachineFilter{State: api.StatePending, Limit: 10})
			require.Len(t, machines, 1)
			return err
		})
		require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error { return tx.DeleteMachine(hash(1)) }), ErrInvalid)
		update(t, a, func(tx *Tx) error {
			require.ErrorIs(t, tx.DeleteMachine(hash(77)), ErrNotFound)
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(3), Name: "x", Labels: map[string]string{"a": "b"}}))
			require.NoError(t, tx.PutKey(&Key{KID: "cc", EKHash: hash(3), State: api.StatePending}))
			return tx.DeleteMachine(hash(3))
		})
		view(t, b, func(tx *Tx) error {
			_, err := tx.Key("cc")
			require.ErrorIs(t, err, ErrNotFound)
			machines, _, err := tx.Machines(MachineFilter{Labels: map[string]string{"a": "b"}})
			require.Empty(t, machines)
			return err
		})
	})
}
