package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// inventory writes 30 machines, whose names are in another order than their
// hashes and are spelled in both cases; the last three have none.
func inventory(t testing.TB, db *DB) {
	t.Helper()
	update(t, db, func(tx *Tx) error {
		for n := range 30 {
			m := &Machine{EKHash: hash(1000 - n), Labels: map[string]string{"site": []string{"oslo", "bergen"}[n%2], "third": fmt.Sprint(n % 3)}}
			if n < 27 {
				m.Name = []string{"node-%02d", "NODE-%02d", "Rack_%02d"}[n%3]
				m.Name = fmt.Sprintf(m.Name, n)
			}
			if err := tx.PutMachine(m); err != nil {
				return err
			}
			k := &Key{KID: hash(n), EKHash: m.EKHash, State: []api.KeyState{api.StateEnrolled, api.StatePending}[n%2], ExpiresAt: clock.Add(time.Hour)}
			if n%4 == 0 {
				k.ExpiresAt = clock.Add(-time.Hour)
			}
			if n%5 == 4 {
				continue // without a key
			}
			if err := tx.PutKey(k); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestListsOfMachinesPageAndFilter(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		inventory(t, a)
		list := func(tx *Tx, f MachineFilter) (names []string) {
			t.Helper()
			for {
				machines, next, err := tx.Machines(f)
				require.NoError(t, err)
				require.LessOrEqual(t, len(machines), f.Limit)
				for _, m := range machines {
					names = append(names, m.Name+"/"+m.EKHash[61:])
				}
				if next == "" {
					return names
				}
				require.Len(t, machines, f.Limit)
				f.After = next
			}
		}
		view(t, b, func(tx *Tx) error {
			all := list(tx, MachineFilter{Limit: 1000})
			require.Len(t, all, 30)
			require.True(t, slices.IsSortedFunc(all, func(x, y string) int { return strings.Compare(fold(x), fold(y)) }), "%q", all)
			for _, c := range []struct {
				f    MachineFilter
				keep func(n int) bool
			}{
				{MachineFilter{}, func(int) bool { return true }},
				{MachineFilter{Labels: map[string]string{"site": "oslo"}}, func(n int) bool { return n%2 == 0 }},
				{MachineFilter{Labels: map[string]string{"site": "oslo", "third": "1"}}, func(n int) bool { return n%2 == 0 && n%3 == 1 }},
				{MachineFilter{Labels: map[string]string{"site": "rome"}}, func(int) bool { return false }},
				{MachineFilter{Labels: map[string]string{"oslo": "site"}}, func(int) bool { return false }},
				{MachineFilter{Name: "NoDe-1"}, func(n int) bool { return n/10 == 1 && n%3 != 2 }},
				{MachineFilter{Name: "rack_"}, func(n int) bool { return n%3 == 2 && n < 27 }},
				{MachineFilter{Name: "rack%"}, func(int) bool { return false }},
				{MachineFilter{State: api.StatePending}, func(n int) bool { return n%2 == 1 && n%5 != 4 }},
				{MachineFilter{State: api.StateEnrolled}, func(n int) bool { return n%4 == 2 && n%5 != 4 }},
				{MachineFilter{State: api.StateExpired}, func(n int) bool { return n%4 == 0 && n%5 != 4 }},
				{MachineFilter{State: api.StateRevoked}, func(int) bool { return false }},
				{
					MachineFilter{State: api.StatePending, Name: "n", Labels: map[string]string{"site": "bergen"}},
					func(n int) bool { return n%2 == 1 && n%5 != 4 && n%3 != 2 && n < 27 },
				},
			} {
				var want []string
				for _, name := range all {
					var ek int
					_, err := fmt.Sscanf(name[strings.Index(name, "/")+1:], "%x", &ek)
					require.NoError(t, err)
					if c.keep(1000 - ek) {
						want = append(want, name)
					}
				}
				for _, limit := range []int{1, 4, 30, 1000} {
					c.f.Limit = limit
					require.Equal(t, want, list(tx, c.f), "%+v", c.f)
				}
			}
			for _, cursor := range []string{"x", "====", "AAAA", machineCursor("a", "B"), machineCursor("a\xff", "b")} {
				_, _, err := tx.Machines(MachineFilter{After: cursor})
				require.ErrorIs(t, err, ErrInvalid, cursor)
			}
			return nil
		})
		// A new name and other labels are found, the old ones no more.
		update(t, a, func(tx *Tx) error {
			m, err := tx.MachineByName("node-00")
			require.NoError(t, err)
			m.Name, m.Labels = "zz", map[string]string{"site": "rome"}
			return tx.PutMachine(m)
		})
		view(t, b, func(tx *Tx) error {
			require.Equal(t, []string{"zz/3e8"}, list(tx, MachineFilter{Labels: map[string]string{"site": "rome"}, Name: "z", Limit: 10}))
			require.Len(t, list(tx, MachineFilter{Labels: map[string]string{"site": "oslo"}, Limit: 10}), 14)
			return nil
		})
	})
}

func TestListsOfInstancesPageAndFilter(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error {
			for n := range 20 {
				i := &Instance{Pubkey: hash(n), State: api.TDXVerified, ExpiresAt: clock.Add(time.Duration(n%4-1) * time.Hour)}
				if n%2 == 0 {
					i.Operator = &api.Party{Pubkey: []byte{0xAB}}
				}
				if n%5 == 0 {
					i.Owner, i.State = &api.Party{Pubkey: []byte{0xCD}}, api.TDXRevoked
				}
				if err := tx.PutInstance(i); err != nil {
					return err
				}
			}
			return nil
		})
		view(t, b, func(tx *Tx) error {
			for _, c := range []struct {
				f    InstanceFilter
				keep func(n int) bool
			}{
				{InstanceFilter{}, func(int) bool { return true }},
				{InstanceFilter{Operator: "AB"}, func(n int) bool { return n%2 == 0 }},
				{InstanceFilter{Owner: "cd"}, func(n int) bool { return n%5 == 0 }},
				{InstanceFilter{Owner: "cd", Operator: "ab"}, func(n int) bool { return n%10 == 0 }},
				{InstanceFilter{State: api.TDXRevoked}, func(n int) bool { return n%5 == 0 }},
				{InstanceFilter{State: api.TDXVerified}, func(n int) bool { return n%5 != 0 && n%4 > 1 }},
				{InstanceFilter{State: api.TDXExpired}, func(n int) bool { return n%5 != 0 && n%4 <= 1 }},
				{InstanceFilter{State: api.TDXUnverified}, func(int) bool { return false }},
			} {
				var want, got []string
				for n := range 20 {
					if c.keep(n) {
						want = append(want, hash(n))
					}
				}
				for c.f.Limit = 3; ; {
					page, next, err := tx.Instances(c.f)
					require.NoError(t, err)
					for _, i := range page {
						got = append(got, i.Pubkey)
					}
					if c.f.After = next; next == "" {
						break
					}
				}
				require.Equal(t, want, got, "%+v", c.f)
			}
			return nil
		})
	})
}

// A verifier that has seen half of a revision would never ask for the rest.
func TestRevisionIsNeverCutInTwo(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		sizes := []int{1, 5, 1, 1, 7, 2}
		n := 0
		for _, size := range sizes {
			update(t, a, func(tx *Tx) error {
				for range size {
					if err := putKey(tx, n); err != nil {
						return err
					}
					n++
				}
				return nil
			})
		}
		view(t, b, func(tx *Tx) error {
			for limit := 1; limit <= n+1; limit++ {
				after, total := uint64(0), 0
				for {
					page, err := tx.KeysSince(after, limit)
					require.NoError(t, err)
					if len(page) == 0 {
						break
					}
					count := map[uint64]int{}
					for i, k := range page {
						count[k.Key.Revision]++
						require.True(t, i == 0 || page[i-1].Key.Revision < k.Key.Revision || page[i-1].Key.KID < k.Key.KID)
					}
					for revision, keys := range count {
						require.Equal(t, sizes[revision-1], keys)
					}
					require.Less(t, len(page)-count[page[len(page)-1].Key.Revision], limit)
					total += len(page)
					after = page[len(page)-1].Key.Revision
				}
				require.Equal(t, n, total)
			}
			return nil
		})
	})
}

func TestTouchedKeysComeInPages(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		const keys = 2*touchChunk + 10
		update(t, a, func(tx *Tx) error {
			for n := range keys {
				if err := putKey(tx, n); err != nil {
					return err
				}
			}
			return nil
		})
		update(t, a, func(tx *Tx) error {
			kids, err := tx.TouchKeys(true, "", "", "")
			require.NoError(t, err)
			require.Len(t, kids, keys)
			p := &api.Policy{Scope: "default"}
			require.NoError(t, tx.PutPolicy(p))
			require.EqualValues(t, 6, p.Revision, "three for writing them, three for touching them")
			return tx.Emit(Event{What: "policy_changed", KIDs: kids})
		})
		view(t, b, func(tx *Tx) error {
			seen := map[string]uint64{}
			for after := uint64(0); ; {
				page, err := tx.KeysSince(after, 10)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page), touchChunk)
				if len(page) == 0 {
					break
				}
				for _, k := range page {
					seen[k.Key.KID] = k.Key.Revision
				}
				after = page[len(page)-1].Key.Revision
			}
			require.Len(t, seen, keys)
			require.EqualValues(t, 6, slices.Max(slices.Collect(maps.Values(seen))))
			revision, err := tx.Revision()
			require.NoError(t, err)
			require.EqualValues(t, 6, revision)
			events, err := tx.Events(0, 10)
			require.EqualValues(t, 6, events[0].Revision)
			return err
		})
	})
}

func TestTouchKeysTouchesThoseThatAreMeant(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		inventory(t, a)
		for _, c := range []struct {
			key, value, name string
			count            int
		}{{"site", "oslo", "", 12}, {"site", "rome", "", 0}, {"", "", "NODE-00", 1}, {"", "", "node-04", 0}, {"", "", "nobody", 0}} {
			update(t, a, func(tx *Tx) error {
				before, err := tx.Revision()
				require.NoError(t, err)
				kids, err := tx.TouchKeys(false, c.key, c.value, c.name)
				require.NoError(t, err)
				require.Len(t, kids, c.count)
				touched, err := tx.KeysSince(before, 100)
				require.NoError(t, err)
				var found []string
				for _, k := range touched {
					found = append(found, k.Key.KID)
					require.Equal(t, before+1, k.Key.Revision)
				}
				require.Equal(t, kids, found)
				return nil
			})
		}
	})
}

// Lists are read along an index: a page costs what is on it, however large the
// fleet is. PostgreSQL keeps plans from the time when the tables were empty.
func TestListsAreBackedByIndexes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db, _ *DB) {
		explain, scans, sorts := "EXPLAIN QUERY PLAN ", "SCAN", "TEMP B-TREE"
		if db.Kind() == "postgres" {
			explain, scans, sorts = "EXPLAIN ", "Seq Scan", "Sort"
		}
		plan := func(tx *Tx, statement string, args ...any) string {
			t.Helper()
			var lines []string
			require.NoError(t, tx.each(func(scan scanner) error {
				var detail string
				var ignored [3]int
				into := []any{&ignored[0], &ignored[1], &ignored[2], &detail}
				if db.Kind() == "postgres" {
					into = into[3:]
				}
				err := scan(into...)
				lines = append(lines, detail)
				return err
			}, explain+statement, args...))
			return strings.Join(lines, "\n")
		}
		look := func(t *testing.T, tx *Tx) {
			cursor := machineCursor("node-05", hash(7))
			for _, f := range []MachineFilter{
				{},
				{After: cursor},
				{Name: "node"},
				{State: api.StatePending, After: cursor},
				{State: api.StateEnrolled, Name: "node", After: cursor},
				{Labels: map[string]string{"site": "oslo"}, After: cursor},
				{Labels: map[string]string{"site": "oslo", "third": "1"}, Name: "node", After: cursor},
			} {
				w, err := tx.machineWhere(&f)
				require.NoError(t, err)
				lines := plan(tx, w.statement(10), w.args...)
				require.NotContains(t, lines, sorts, "%+v", f)
				require.Contains(t, strings.ToUpper(lines), "INDEX", "%+v", f)
				if f.After != "" || f.Name != "" {
					require.NotContains(t, lines, scans, "%+v", f)
				}
			}
			for _, statement := range []string{
				`SELECT kid FROM machine_keys k JOIN machines m ON m.ek_hash = k.ek_hash WHERE (k.revision, k.kid) > (1, '') AND k.revision <= 9 ORDER BY k.revision, k.kid LIMIT 3`,
				`SELECT ek_hash FROM machines WHERE ek_hash = 'a' OR (name_key = 'b' AND name_key <> '')`,
				`SELECT id FROM used_sessions WHERE expires_at < 5 ORDER BY expires_at LIMIT 5`,
				`SELECT COUNT(*) FROM machines WHERE key_state = 'pending'`,
				`SELECT seq FROM audit_log WHERE seq > 5 ORDER BY seq LIMIT 5`,
				`SELECT pubkey FROM instances WHERE pubkey > 'a' AND operator_key = 'b' ORDER BY pubkey LIMIT 5`,
			} {
				lines := plan(tx, statement)
				require.NotContains(t, lines, scans, statement)
				require.NotContains(t, lines, sorts, statement)
			}
		}
		view(t, db, func(tx *Tx) error { look(t, tx); return nil })
		inventory(t, db)
		view(t, db, func(tx *Tx) error { look(t, tx); return nil })
	})
}
