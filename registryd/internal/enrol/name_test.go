package enrol_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

func TestNames(t *testing.T) {
	named := func(name, pattern string) func(*store.Token) {
		return func(t *store.Token) { t.Name, t.NamePattern = name, pattern }
	}
	for label, c := range map[string]struct {
		asked  string
		token  func(*store.Token)
		want   string // "" is its own
		reason api.Reason
	}{
		"asked":                         {"edge-a", named("", "*"), "edge-a", ""},
		"none":                          {"", named("", "*"), "", ""},
		"by the token":                  {"", named("edge-a", "*"), "edge-a", ""},
		"as the token says":             {"edge-a", named("edge-a", "*"), "edge-a", ""},
		"in another case":               {"EDGE-A", named("edge-a", "*"), "edge-a", ""},
		"not as the token says":         {"edge-b", named("edge-a", "*"), "", api.NameMismatch},
		"in the pattern":                {"edge-a", named("", "edge-?"), "edge-a", ""},
		"out of the pattern":            {"core-a", named("", "edge-*"), "", api.NameMismatch},
		"none where there is a pattern": {"", named("", "edge-*"), "", api.NameMismatch},
		"taken":                         {"taken", named("", "*"), "", api.NameTaken},
		"taken in another case":         {"TAKEN", named("", "*"), "", api.NameTaken},
		"taken by the token":            {"", named("taken", "*"), "", api.NameTaken},
		"own name of another":           {"tpm-0123456789ab", named("", "*"), "", api.NameInvalid},
	} {
		t.Run(label, func(t *testing.T) {
			w := newWorld(t)
			tpm := attesttest.New(t)
			holder := w.machineOn(tpm, "holder")
			holder.name, holder.token = "taken", w.newToken(1)
			w.enrolled(holder)
			tpm.Flush(holder.ek, holder.ak, holder.key)
			m := w.machineOn(tpm, "")
			m.name, m.token = c.asked, w.newToken(1, c.token)
			got, err := w.enrol(m)
			if c.reason != "" {
				refusedFor(t, c.reason, err)
				w.view(func(tx *store.Tx) error {
					row, err := tx.Token(m.token.ID)
					require.Zero(t, row.Used, "a refusal takes no use")
					return err
				})
				return
			}
			require.NoError(t, err)
			if c.want == "" {
				c.want = "tpm-" + m.hash(t)[:12]
			}
			require.Equal(t, c.want, got.Name)
		})
	}
}

func TestNameOfAKnownMachineStays(t *testing.T) {
	w, m := withToken(t)
	m.name = "edge-a"
	w.enrolled(m)
	m.name = "edge-b"
	w.refused(api.NameMismatch, m)
	m.name = ""
	require.Equal(t, "edge-a", w.enrolled(m).Name)
	m.name = "Edge-A"
	require.Equal(t, "edge-a", w.enrolled(m).Name)
}

// Its own name is asked for by a machine that was told it.
func TestOwnNameMayBeAskedFor(t *testing.T) {
	w, m := withToken(t)
	m.name = "tpm-" + m.hash(t)[:12]
	require.Equal(t, m.name, w.enrolled(m).Name)
}

// A machine that only waits cannot keep a name from one that is let in.
func TestPendingMachineDoesNotHoldAName(t *testing.T) {
	w := newWorld(t)
	tpm := attesttest.New(t)
	squatter := w.machineOn(tpm, "squatter")
	squatter.name = "edge-a"
	require.Equal(t, "edge-a", w.pending(squatter).Name)
	tpm.Flush(squatter.ek, squatter.ak, squatter.key)

	second := w.machineOn(tpm, "second")
	second.name = "edge-a"
	w.refused(api.NameTaken, second) // waits as well: who came first
	second.token = w.newToken(1)
	require.Equal(t, "edge-a", w.enrolled(second).Name)
	require.Empty(t, w.machineRow(squatter).Name)
	require.Contains(t, string(w.log(2)[0].Detail), `"freed_name_of":"`+squatter.hash(t)+`"`)
}
