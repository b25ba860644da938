package instances_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/instances"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

func keyOf(n byte) ed25519.PublicKey { return bytes.Repeat([]byte{n}, 32) }

func open(t *testing.T) *instances.Dir {
	t.Helper()
	return &instances.Dir{Path: filepath.Join(t.TempDir(), "deep", "instances"), Now: time.Now}
}

func volume(n byte) instances.Volume {
	return instances.Volume{ID: bytes.Repeat([]byte{n}, 16), Key: bytes.Repeat([]byte{n}, 32), Owner: api.Hex(keyOf(9))}
}

// An answer that was lost: the tool asks again, and the volume is made already.
func TestKeyOfAVolumeIsKeptOnceAndNeverReplaced(t *testing.T) {
	d := open(t)
	kept, err := d.KeepVolume(t.Context(), keyOf(1), volume(5))
	require.NoError(t, err)
	require.Equal(t, []byte(volume(5).Key), kept)
	again := volume(5)
	again.Key = bytes.Repeat([]byte{6}, 32)
	kept, err = d.KeepVolume(t.Context(), keyOf(1), again)
	require.NoError(t, err)
	require.Equal(t, []byte(volume(5).Key), kept)
	_, err = d.KeepVolume(t.Context(), keyOf(1), volume(7))
	require.NoError(t, err)
	r, err := d.OfVolume([16]byte(volume(5).ID))
	require.NoError(t, err)
	require.Len(t, r.Volumes, 2)
	require.Equal(t, api.Hex(keyOf(1)), r.Origin)
	r, err = d.OfVolume([16]byte{})
	require.NoError(t, err)
	require.Nil(t, r)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", volume(5), volume(5), volume(5)), volume(5).Key.String())
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	d := open(t)
	_, err := d.KeepVolume(t.Context(), keyOf(1), volume(5))
	require.NoError(t, err)
	path := filepath.Join(d.Path, api.Hex(keyOf(1)).String()+".json")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	info, err = os.Stat(d.Path)
	require.NoError(t, err)
	require.EqualValues(t, 0o700, info.Mode().Perm())
	require.NoError(t, os.Chmod(path, 0o644))
	_, err = d.Load(keyOf(1))
	require.ErrorIs(t, err, private.ErrExposed)
}

func TestCounterNeverGoesBack(t *testing.T) {
	d := open(t)
	require.NoError(t, d.Remember(keyOf(1), &client.Seen{URL: "https://a", Instance: keyOf(1), Counter: 7}))
	require.NoError(t, d.Remember(keyOf(1), &client.Seen{URL: "https://b", Instance: keyOf(2), Counter: 5, Measurements: &client.Measurements{MRTD: make([]byte, 48)}}))
	known, err := d.Recall(keyOf(1))
	require.NoError(t, err)
	require.EqualValues(t, 7, known.Counter)
	require.NotNil(t, known.Measurements)
	// Without a verified quote the measurements stay.
	require.NoError(t, d.Remember(keyOf(1), &client.Seen{URL: "https://b", Instance: keyOf(2), Counter: 8}))
	known, err = d.Recall(keyOf(1))
	require.NoError(t, err)
	require.NotNil(t, known.Measurements)
	known, err = d.Recall(keyOf(3))
	require.NoError(t, err)
	require.Zero(t, known)
}

// A file that cannot be read may hold the only key of a volume.
func TestDamagedFileIsNeitherReadNorReplaced(t *testing.T) {
	d := open(t)
	_, err := d.KeepVolume(t.Context(), keyOf(1), volume(5))
	require.NoError(t, err)
	path := filepath.Join(d.Path, api.Hex(keyOf(1)).String()+".json")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	other := strings.Replace(string(good), api.Hex(keyOf(1)).String(), api.Hex(keyOf(2)).String(), 1)
	for name, content := range map[string]string{
		"half": string(good[:len(good)/2]), "empty": "", "newer": strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"unknown": strings.Replace(string(good), `"counter"`, `"more": 1, "counter"`, 1), "of another": other, "twice": string(good) + "{}",
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err = d.Load(keyOf(1))
		require.Error(t, err, name)
		require.Error(t, d.Remember(keyOf(1), &client.Seen{Counter: 9}), name)
		_, err = d.OfVolume([16]byte(volume(5).ID))
		require.Error(t, err, name)
		now, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(now), name)
	}
}

func TestSeveralAtOnceLoseNothing(t *testing.T) {
	d := open(t)
	var group sync.WaitGroup
	for n := range byte(20) {
		group.Go(func() {
			_, err := d.KeepVolume(t.Context(), keyOf(1), volume(n+1))
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	r, err := d.Load(keyOf(1))
	require.NoError(t, err)
	require.Len(t, r.Volumes, 20)
	all, err := d.List()
	require.NoError(t, err)
	require.Len(t, all, 1)
	_, err = json.Marshal(r)
	require.NoError(t, err)
}

func TestOtherFilesBesideAreLeftAlone(t *testing.T) {
	d := open(t)
	all, err := d.List()
	require.NoError(t, err)
	require.Empty(t, all)
	require.NoError(t, d.Remember(keyOf(1), &client.Seen{Counter: 1}))
	for _, name := range []string{"notes.txt", "00.json", api.Hex(keyOf(2)).String() + ".known_hosts", "." + api.Hex(keyOf(2)).String() + ".json.tmp-1"} {
		require.NoError(t, os.WriteFile(filepath.Join(d.Path, name), []byte("x"), 0o600))
	}
	all, err = d.List()
	require.NoError(t, err)
	require.Len(t, all, 1)
}
