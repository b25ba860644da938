package tpm

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

func TestFilesThatAreNoBlobsSayWhatToGiveInstead(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	dir := t.TempDir()
	soft.Tools(dir, makeKey(toolsECC, `-G ecc256:ecdsa-sha256`)+`
tpm2_load -Q -C p.ctx -u key.pub -r key.priv -c key.ctx; flush
tpm2_readpublic -Q -c key.ctx -f pem -o key.pem; flush
tpm2_evictcontrol -Q -C o -c key.ctx 0x81000041 -o key.handle; flush
mkdir alone; cp key.ctx alone/key.ctx; cp key.handle alone/key.handle`)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	pub, err := os.ReadFile(at("key.pub"))
	require.NoError(t, err)
	require.NoError(t, syscall.Mkfifo(at("pipe"), 0o600))
	for name, tc := range map[string]struct {
		public, private string
		want            error
		detail          string
	}{
		"context for public":    {at("key.ctx"), at("key.priv"), ErrContext, "tpm2_evictcontrol"},
		"context for private":   {at("key.pub"), at("key.ctx"), ErrContext, "key.ctx"},
		"context of an rsa key": {at("p.ctx"), at("key.priv"), ErrContext, "next reset"},
		"reference to a handle": {at("key.handle"), at("key.priv"), ErrReference, "0x81000041"},
		"PEM":                   {at("key.pem"), at("key.priv"), ErrBlobs, "PEM"},
		"exchanged":             {at("key.priv"), at("key.pub"), ErrBlobs, ""},
		"cut short":             {file("short", pub[:len(pub)-1]), at("key.priv"), ErrBlobs, "says that it has"},
		"something behind":      {file("long", append(bytes.Clone(pub), 0)), at("key.priv"), ErrBlobs, "says that it has"},
		"empty":                 {file("empty", nil), at("key.priv"), ErrBlobs, "0 bytes"},
		"empty private":         {at("key.pub"), file("none", []byte{0, 0}), ErrBlobs, "private"},
		"huge":                  {file("huge", make([]byte, 1<<20)), at("key.priv"), nil, "at most"},
		"missing":               {at("nothing"), at("key.priv"), os.ErrNotExist, "nothing"},
		"directory":             {dir, at("key.priv"), nil, "regular"},
		"pipe":                  {at("pipe"), at("key.priv"), nil, "regular"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadBlobs(tc.public, tc.private)
			require.Error(t, err)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
			}
			require.ErrorContains(t, err, tc.detail)
			require.Equal(t, Permanent, Classify(err))
		})
	}

	t.Run("found beside the context", func(t *testing.T) {
		require.NoError(t, os.Symlink(at("key.priv"), at("old.prv")))
		require.NoError(t, os.Symlink(at("key.pub"), at("old.pub")))
		for path, stem := range map[string]string{"key.ctx": "key", "key": "key", "key.pub": "key", "key.priv": "key", "old.ctx": "old", "old": "old"} {
			public, private, err := FindBlobs(at(path))
			require.NoError(t, err, path)
			require.Equal(t, at(stem+".pub"), public)
			_, err = ReadBlobs(public, private)
			require.NoError(t, err)
		}
	})
	t.Run("not found", func(t *testing.T) {
		for path, want := range map[string]error{
			at("alone/key.ctx"): ErrContext, at("alone/key.handle"): ErrReference, "0x81000041": ErrReference,
			at("none.ctx"): os.ErrNotExist, at("alone"): os.ErrNotExist, at("pipe"): os.ErrNotExist,
		} {
			_, _, err := FindBlobs(path)
			require.ErrorIs(t, err, want, path)
			require.ErrorContains(t, err, path)
		}
	})
}

// FuzzBlobs: what is taken for a key is one that verifiers accept, under the
// same Name.
func FuzzBlobs(f *testing.F) {
	f.Fuzz(func(t *testing.T, public, private []byte) {
		if recognise(public) != nil || recognise(private) != nil {
			return
		}
		b, err := parseBlobs(public, private)
		if err != nil {
			require.Equal(t, Permanent, Classify(err))
			return
		}
		require.Equal(t, public[2:], b.public.raw)
		require.Equal(t, private[2:], b.private)
		key, err := tpmattest.ParseKey(b.public.raw)
		require.NoError(t, err)
		require.Equal(t, key.Name, b.KID())
		require.Equal(t, key.Algorithm, string(b.Algorithm()))
		_, err = publicKey(&b.public.public)
		require.NoError(t, err)
	})
}
