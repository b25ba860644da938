package registry

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

// FuzzCache changes a cache in which a key was enrolled and revoked, and in
// which nothing but the whole proves anything. Whatever the file says, the key is
// not trusted.
func FuzzCache(f *testing.F) {
	reg := registrytest.New(f)
	reg.Rekey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))) // the same in all processes
	verifier := reg.Verifier()
	m := registrytest.NewMachine(f, "edge-a", time.Now())
	reg.Enrol(m)
	enrolled := []answer.Record{reg.Record(m.KID)}
	reg.Revoke(m, "stolen")
	first := reg.Sign(answer.KindSnapshot, &answer.Snapshot{Head: reg.Head(nil), Through: 1, More: true, Records: enrolled})
	event := reg.Sign(answer.KindEvent, &answer.Event{Head: reg.Head(nil), Previous: 1, What: "revoked", Records: []answer.Record{reg.Record(m.KID)}})
	beat := reg.Sign(answer.KindHeartbeat, &answer.Heartbeat{Head: reg.Head(nil), Count: 1})
	path := filepath.Join(f.TempDir(), "seed")
	require.NoError(f, writeCache(path, []frame{{frameSnapshot, first}, {frameEvent, event}, {frameHeartbeat, beat}}))
	good, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(cacheMagic))
	f.Add(append([]byte(cacheMagic), 's', 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "cache")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		c, err := New(Options{Endpoint: "http://registry", Verifier: verifier, Cache: path, Refresh: 1, MaxStale: time.Hour, Skew: time.Hour, Timeout: 1})
		require.NoError(t, err)
		k := c.Keys(defaults)
		c.load()
		key, err := k.Lookup(m.KID)
		if bytes.Equal(content, good) {
			require.NoError(t, err)
			require.Equal(t, "stolen", key.Revoked)
		}
		if key != nil {
			require.Equal(t, "stolen", key.Revoked)
		}
	})
}

// FuzzStream reads anything as a stream: nothing that is not signed is a
// heartbeat or a key, and nothing makes the reader fail but an error.
func FuzzStream(f *testing.F) {
	f.Add([]byte("id: 1\nevent: heartbeat\ndata: AAAA\n\n"))
	f.Add([]byte(": comment\n\ndata\n\ndata:\ndata: AA==\n\nevent: revoked\r\ndata: 0oRD\r\n\r\n"))
	verifier := registrytest.New(f).Verifier()
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := New(Options{Endpoint: "http://registry", Verifier: verifier, Refresh: 1, MaxStale: 1, Skew: 1, Timeout: 1})
		require.NoError(t, err)
		q, err := c.question()
		require.NoError(t, err)
		s := &stream{client: c, q: q, watchdog: time.NewTimer(time.Hour)}
		require.Error(t, s.read(bytes.NewReader(content)), "every stream ends")
		require.Zero(t, s.count)
		require.Zero(t, c.Status().Keys)
	})
}

// FuzzRecord reads anything as the entry of a record: a revoked key is revoked
// whatever stands there, and nothing is trusted that was not read in full.
func FuzzRecord(f *testing.F) {
	m := registrytest.NewMachine(f, "edge-a", time.Now())
	f.Add([]byte(registrytest.RecordOf(f, m, api.StateEnrolled, "").Entry))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, entry []byte) {
		r := &answer.Record{KID: m.Entry.KID, State: api.StateRevoked, Evidence: api.EvidenceChain, Entry: entry}
		require.NotEmpty(t, readRecord(string(m.KID), r, defaults).key.Revoked)
		r.State = api.StateEnrolled
		if k := readRecord(string(m.KID), r, defaults); k.broken == nil {
			require.Equal(t, string(m.KID), k.key.KID)
			require.Empty(t, k.key.Revoked)
			require.False(t, k.key.NotAfter.IsZero())
			require.NotNil(t, k.key.Public)
			require.NotNil(t, k.key.Policy)
		}
	})
}
