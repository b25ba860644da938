package location

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func positionAt(latitude float64, taken time.Time) string {
	return fmt.Sprintf(`{"latitude":%v,"longitude":13.405,"altitude":40,"accuracy":12.5,"time":%q,"sensor":"modem-1"}`, latitude, taken.UTC().Format(time.RFC3339Nano))
}

func put(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func fileAt(t *testing.T, path string, poll time.Duration) *File {
	t.Helper()
	f, err := NewFile(FileOptions{Path: path, MaxAge: time.Minute, Poll: poll})
	require.NoError(t, err)
	runLive(t, f)
	return f
}

func latitudeIs(f *File, want float64) func() bool {
	return func() bool {
		l := f.Location(time.Now())
		return l != nil && l.Latitude == want
	}
}

func TestPositionInAFileIsClaimedAndFollowed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "position.json")
	f := fileAt(t, path, time.Hour) // notifications alone
	require.Nil(t, f.Location(time.Now()))
	eventually(t, 5*time.Second, func() bool { return strings.Contains(f.Status(time.Now()).Problem, "no such file") })

	put(t, path, positionAt(50, time.Now().Add(-5*time.Second)))
	eventually(t, 5*time.Second, latitudeIs(f, 50))
	l := f.Location(time.Now())
	require.Equal(t, "file:modem-1", l.Source)
	require.Equal(t, 12.5, *l.Accuracy)
	require.Equal(t, 40.0, *l.Altitude)
	require.InDelta(t, 6, *l.Age, 2)
	require.Equal(t, Status{Receiver: "modem-1", Used: -1, Seen: -1}, f.Status(time.Now()))

	other := filepath.Join(dir, "new")
	put(t, other, positionAt(51, time.Now()))
	require.NoError(t, os.Rename(other, path))
	eventually(t, 5*time.Second, latitudeIs(f, 51))

	half := positionAt(52, time.Now())
	put(t, path, half[:40])
	eventually(t, 5*time.Second, func() bool { return f.Status(time.Now()).Problem != "" })
	require.True(t, latitudeIs(f, 51)(), "half a file changes nothing")
	put(t, path, half)
	eventually(t, 5*time.Second, latitudeIs(f, 52))

	require.NoError(t, os.Remove(path))
	eventually(t, 5*time.Second, func() bool { return f.Status(time.Now()).Problem != "" })
	require.True(t, latitudeIs(f, 52)())
	require.Nil(t, f.Location(time.Now().Add(time.Minute)), "and then it is too old")
}

// TestFileBehindASymbolicLinkIsFollowed: where the folder of the path shows
// nothing, the poll finds the change.
func TestFileBehindASymbolicLinkIsFollowed(t *testing.T) {
	elsewhere, path := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "position.json")
	put(t, elsewhere, positionAt(50, time.Now()))
	require.NoError(t, os.Symlink(elsewhere, path))
	f := fileAt(t, path, minPoll)
	eventually(t, 5*time.Second, latitudeIs(f, 50))
	put(t, elsewhere, positionAt(51, time.Now()))
	eventually(t, 5*time.Second, latitudeIs(f, 51))
	other := filepath.Join(t.TempDir(), "b")
	put(t, other, positionAt(52, time.Now()))
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink(other, path))
	eventually(t, 5*time.Second, latitudeIs(f, 52))
}

func TestOldPositionInAFileIsNotClaimed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "position.json")
	put(t, path, positionAt(50, time.Now().Add(-time.Hour)))
	f := fileAt(t, path, minPoll)
	eventually(t, 5*time.Second, func() bool { return strings.Contains(f.Status(time.Now()).Problem, "1h0m") })
	require.Nil(t, f.Location(time.Now()))
}

func TestFileThatIsNotOneIsRefused(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	path := filepath.Join(dir, "position.json")
	_, _, err := readFix(dir, now)
	require.ErrorIs(t, err, ErrNotRegular)
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	_, _, err = readFix(path, now)
	require.ErrorIs(t, err, ErrNotRegular, "and it does not hang")
	require.NoError(t, os.Remove(path))
	_, _, err = readFix(path, now)
	require.ErrorIs(t, err, fs.ErrNotExist)
	put(t, path, positionAt(50, now))
	require.NoError(t, os.Chmod(path, 0o646))
	_, _, err = readFix(path, now)
	require.ErrorIs(t, err, ErrWorldWrites)
	require.NoError(t, os.Chmod(path, 0o644))
	put(t, path, positionAt(50, now)+strings.Repeat(" ", maxFile))
	_, _, err = readFix(path, now)
	require.ErrorIs(t, err, ErrFileTooBig)
}

func TestMalformedPositionIsRefused(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "position.json")
	const good = `{"latitude":50,"longitude":13,"time":"2026-11-22T10:00:00Z"}`
	put(t, path, good)
	f, _, err := readFix(path, now)
	require.NoError(t, err)
	require.Equal(t, "file", f.source)
	require.Nil(t, f.accuracy)
	for name, text := range map[string]string{
		"empty":            ``,
		"null":             `null`,
		"list":             `[` + good + `]`,
		"no latitude":      `{"longitude":13,"time":"2026-11-22T10:00:00Z"}`,
		"no time":          `{"latitude":50,"longitude":13}`,
		"time is none":     `{"latitude":50,"longitude":13,"time":"today"}`,
		"time to come":     `{"latitude":50,"longitude":13,"time":"2026-11-22T10:01:01Z"}`,
		"time before all":  `{"latitude":50,"longitude":13,"time":"1960-11-22T10:01:01Z"}`,
		"off the globe":    `{"latitude":91,"longitude":13,"time":"2026-11-22T10:00:00Z"}`,
		"no accuracy":      `{"latitude":50,"longitude":13,"accuracy":-1,"time":"2026-11-22T10:00:00Z"}`,
		"unknown member":   `{"latitude":50,"longitude":13,"accurracy":1,"time":"2026-11-22T10:00:00Z"}`,
		"member twice":     `{"latitude":50,"latitude":51,"longitude":13,"time":"2026-11-22T10:00:00Z"}`,
		"sensor empty":     `{"latitude":50,"longitude":13,"sensor":"","time":"2026-11-22T10:00:00Z"}`,
		"sensor too long":  `{"latitude":50,"longitude":13,"sensor":"` + strings.Repeat("x", maxSensor+1) + `","time":"2026-11-22T10:00:00Z"}`,
		"sensor of blanks": `{"latitude":50,"longitude":13,"sensor":"a b","time":"2026-11-22T10:00:00Z"}`,
		"two positions":    good + good,
	} {
		t.Run(name, func(t *testing.T) {
			put(t, path, text)
			_, _, err := readFix(path, now)
			require.Error(t, err)
			require.Less(t, len(err.Error()), 600)
		})
	}
}
