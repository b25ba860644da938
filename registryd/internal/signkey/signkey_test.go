package signkey_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/registryd/internal/signkey"
)

func TestProcessesThatBeginAtOnceGetOneKey(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key.pem")
	prints := make([]string, 20)
	made := make([]bool, 20)
	var wg sync.WaitGroup
	for i := range prints {
		wg.Go(func() {
			key, created, err := signkey.LoadOrCreate(name)
			if err != nil {
				return
			}
			prints[i], _ = signkey.Fingerprint(key)
			made[i] = created
		})
	}
	wg.Wait()
	n := 0
	for i := range prints {
		require.NotEmpty(t, prints[i])
		require.Equal(t, prints[0], prints[i])
		if made[i] {
			n++
		}
	}
	require.Equal(t, 1, n)
	files, err := os.ReadDir(filepath.Dir(name))
	require.NoError(t, err)
	require.Len(t, files, 2, "nothing is left lying around")
	info, err := os.Stat(name)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	key, err := signkey.Load(name)
	require.NoError(t, err)
	pin, err := signkey.Public(key)
	require.NoError(t, err)
	written, err := os.ReadFile(name + ".pub")
	require.NoError(t, err)
	require.Equal(t, string(pin), string(written))
}

func TestKeysThatAreNoneAreRefusedWithoutBeingShown(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"text":    "secret words",
		"empty":   "",
		"garbage": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IHdvcmRz\n-----END PRIVATE KEY-----\n",
		"two":     "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\nsecret words",
	} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		_, _, err := signkey.LoadOrCreate(file)
		require.ErrorContains(t, err, name)
		require.NotContains(t, err.Error(), "secret")
		after, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, content, string(after), "what is there is not overwritten")
	}
}

func TestSealKeyDependsOnTheKeyAlone(t *testing.T) {
	one, _, err := signkey.LoadOrCreate(filepath.Join(t.TempDir(), "a"))
	require.NoError(t, err)
	two, _, err := signkey.LoadOrCreate(filepath.Join(t.TempDir(), "a"))
	require.NoError(t, err)
	first, err := signkey.SealKey(one)
	require.NoError(t, err)
	again, err := signkey.SealKey(one)
	require.NoError(t, err)
	other, err := signkey.SealKey(two)
	require.NoError(t, err)
	require.Len(t, first, 32)
	require.Equal(t, first, again)
	require.NotEqual(t, first, other)
	require.NotContains(t, string(one.Seed()), string(first))
}
