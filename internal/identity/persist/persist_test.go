package persist_test

import (
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/persist"
)

func some(n int) []string {
	dirs := make([]string, n)
	for i := range dirs {
		dirs[i] = "/data" + strconv.Itoa(i)
	}
	return dirs
}

func TestDirectoriesThatMayBeKept(t *testing.T) {
	for _, dirs := range [][]string{
		nil,
		{"/data"},
		{"/data", "/data2", "/dat"},
		{"/var/lib/postgresql/15/main", "/var/lib/redis", "/srv/a..b", "/.hidden", "/a/..."},
		{"/procfs", "/system", "/devices", "/running", "/var/running", "/tmpfiles"},
		{"/home/some-body@example+1/.config_2"},
		{"/" + strings.Repeat("a", persist.MaxPath-1)},
		some(persist.MaxDirs),
	} {
		require.NoError(t, persist.Validate(dirs), "%q", dirs)
	}
}

func TestDirectoriesThatMayNotBeKept(t *testing.T) {
	for want, lists := range map[persist.Reason][][]string{
		persist.TooMany:    {some(persist.MaxDirs + 1)},
		persist.Empty:      {{""}, {"/data", ""}},
		persist.TooLong:    {{"/" + strings.Repeat("a", persist.MaxPath)}, {strings.Repeat("/..", 1<<16)}},
		persist.Characters: {{"/a b"}, {"/a:b"}, {"/a,b"}, {"/a\x00"}, {"/a\n"}, {"/a%2e"}, {`/a\b`}, {"/a\xff"}, {"/\ufffd"}, {"/straße"}, {"/a\u202eb"}, {"/$HOME"}, {"/*"}, {"~"}},
		persist.Relative:   {{"data"}, {"./data"}, {"../data"}, {"."}},
		persist.Traversal:  {{"/../etc"}, {"/data/.."}, {"/data/../../etc"}, {"/.."}},
		persist.Unclean:    {{"/data/"}, {"//data"}, {"/./data"}, {"/data//x"}, {"/data/."}, {"//"}},
		persist.Root:       {{"/"}},
		persist.Reserved:   {{"/proc"}, {"/proc/1/root"}, {"/sys"}, {"/sys/fs/cgroup"}, {"/dev"}, {"/dev/shm"}, {"/run"}, {"/run/lock"}, {"/var/run"}, {"/var/run/x"}, {"/var"}, {"/tmp"}, {"/tmp/x"}},
		persist.Overlap:    {{"/data", "/data"}, {"/data", "/data/x"}, {"/data/x/y", "/other", "/data/x"}},
	} {
		for _, dirs := range lists {
			err := persist.Validate(dirs)
			require.Equal(t, want, persist.ReasonOf(err), "%q: %v", dirs, err)
			require.Less(t, len(err.Error()), 800, "quoted and bounded")
			require.NotContains(t, err.Error(), "\n")
		}
	}
	require.Empty(t, persist.ReasonOf(nil))
}

// FuzzValidate: what is taken is one way to write one place, outside what is
// reserved.
func FuzzValidate(f *testing.F) {
	f.Fuzz(func(t *testing.T, a, b string) {
		if persist.Validate([]string{a, b}) != nil {
			return
		}
		for _, p := range []string{a, b} {
			require.Equal(t, p, path.Clean("/"+p))
			require.NotContains(t, strings.Split(p, "/"), "..")
			require.NotContains(t, []string{"proc", "sys", "dev", "run", "tmp", ""}, strings.Split(p, "/")[1])
			require.Equal(t, strings.Trim(strconv.QuoteToASCII(p), `"`), p)
		}
		require.False(t, a == b || strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/"))
		require.NoError(t, persist.Validate([]string{b, a}), "the order says nothing")
	})
}
