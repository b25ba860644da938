package storage

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// FuzzHeader: what is taken has one meaning, which writing and reading it again
// keeps, and every refusal has its reason.
func FuzzHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			refused(t, HeaderMalformed, err)
			require.Less(t, len(err.Error()), 1000)
			return
		}
		require.Contains(t, []Kind{OwnerKey, VaultKey, LegacyKey}, h.Source)
		require.LessOrEqual(t, len(h.Sealed), maxSealed)
		require.Len(t, h.keyCheck, 32)
		require.Len(t, h.confMAC, 32)
		written, err := h.bytes()
		require.NoError(t, err)
		again, err := parseHeader(written)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(h, again, cmp.AllowUnexported(Header{})))
	})
}

// FuzzConf: a conf that is taken says to a lenient reader too, as gocryptfs's is,
// that names and contents are encrypted.
func FuzzConf(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := checkConf(b); err != nil {
			refused(t, ConfUnsafe, err)
			require.Less(t, len(err.Error()), 2000)
			return
		}
		var lenient struct {
			Version      int
			FeatureFlags []string
			EncryptedKey []byte
			ScryptObject struct{ N, R, P, KeyLen int }
		}
		require.NoError(t, json.Unmarshal(b, &lenient))
		require.Equal(t, 2, lenient.Version)
		slices.Sort(lenient.FeatureFlags)
		require.Equal(t, flags, lenient.FeatureFlags)
		require.Len(t, lenient.EncryptedKey, 64)
		require.Equal(t, struct{ N, R, P, KeyLen int }{1024, 8, 1, 32}, lenient.ScryptObject)
	})
}

// FuzzMountinfo: the host names what is mounted, and mounts what has odd names. A
// line is a mount or an error, never left out.
func FuzzMountinfo(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		mounts, err := parseMountinfo(b)
		if err != nil {
			require.ErrorIs(t, err, errMountinfo)
			return
		}
		lines := strings.Count(string(b), "\n")
		if len(b) > 0 && b[len(b)-1] != '\n' {
			lines++
		}
		require.Len(t, mounts, lines)
		for _, m := range mounts {
			require.NotEmpty(t, m.fs)
			got, ok := unescape(escape(m.point))
			require.True(t, ok)
			require.Equal(t, m.point, got)
		}
	})
}

// escape writes a path as the kernel does (mangle() in fs/proc_namespace.c).
func escape(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace(s)
}

// FuzzServes: only a gocryptfs of ours is ended as one.
func FuzzServes(f *testing.F) {
	const cipher, point = "/mnt/private/cipher", "/mnt/private/volume"
	f.Fuzz(func(t *testing.T, line []byte) {
		if !serves(line, cipher, point) {
			return
		}
		first, _, _ := strings.Cut(string(line), "\x00")
		require.Equal(t, "gocryptfs", filepath.Base(first))
		require.True(t, strings.HasSuffix(strings.TrimSuffix(string(line), "\x00"), "\x00"+cipher+"\x00"+point))
	})
}

// TestOtherSpaceInAMountPointDoesNotShiftIt: it would pass for another's.
func TestOtherSpaceInAMountPointDoesNotShiftIt(t *testing.T) {
	for _, space := range []string{"\u00a0", "\v", "\f", "\r", "\u2028", "\x85"} {
		mounts, err := parseMountinfo([]byte("36 35 98:0 / /mnt/private/volume" + space + "x rw - ext4 /dev/vda rw\n"))
		require.NoError(t, err)
		require.Equal(t, "/mnt/private/volume"+space+"x", mounts[0].point)
		require.Equal(t, []string{"rw"}, mounts[0].options)
	}
}

func TestSeedsAreThere(t *testing.T) {
	for target, want := range map[string]int{"FuzzHeader": 5, "FuzzConf": 4, "FuzzMountinfo": 4, "FuzzServes": 3} {
		seeds, err := os.ReadDir(filepath.Join("testdata", "fuzz", target))
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(seeds), want, target)
	}
}

// TestConfOfThisGocryptfsIsTaken holds the fuzz target's best seed to what the
// program writes today.
func TestConfOfThisGocryptfsIsTaken(t *testing.T) {
	path := place(t)
	require.NoError(t, open(t, path).Create(t.Context(), ID{1}, given(1)))
	b, err := os.ReadFile(filepath.Join(path, nameVolume, nameCipher, nameConf))
	require.NoError(t, err)
	require.NoError(t, checkConf(b))
}
