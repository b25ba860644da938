package location

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sentence is one of NMEA 0183 with its checksum.
func sentence(format string, args ...any) string {
	body := fmt.Sprintf(format, args...)
	sum := byte(0)
	for i := range len(body) {
		sum ^= body[i]
	}
	return fmt.Sprintf("$%s*%02X\r\n", body, sum)
}

// log is what a receiver would say from start on, a fix a second, three
// sentences each.
func nmea(start time.Time, seconds int, fixed bool) string {
	var b strings.Builder
	for i := range seconds {
		at := start.UTC().Add(time.Duration(i) * time.Second)
		clock, day := at.Format("150405.00"), at.Format("020106")
		if fixed {
			b.WriteString(sentence("GPRMC,%s,A,5231.2000,N,01324.3000,E,0.0,0.0,%s,,,A", clock, day))
			b.WriteString(sentence("GPGGA,%s,5231.2000,N,01324.3000,E,1,08,1.2,40.0,M,45.0,M,,", clock))
			b.WriteString(sentence("GPGSA,A,3,01,02,03,04,05,06,07,08,,,,,2.0,1.2,1.6"))
			continue
		}
		b.WriteString(sentence("GPRMC,%s,V,,,,,,,%s,,,N", clock, day))
		b.WriteString(sentence("GPGGA,%s,,,,,0,00,99.9,,M,,M,,", clock))
		b.WriteString(sentence("GPGSA,A,1,,,,,,,,,,,,,99.9,99.9,99.9"))
	}
	return b.String()
}

// gpsfake runs the distribution's gpsd on a log and returns its endpoint, and
// what ends it.
func gpsfake(t *testing.T, port, log string) (kill func()) {
	t.Helper()
	for _, tool := range []string{"gpsd", "gpsfake"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err, "this test needs %s: install it (make setup)", tool)
	}
	path := filepath.Join(t.TempDir(), "receiver.nmea")
	require.NoError(t, os.WriteFile(path, []byte("# a receiver\n"+log), 0o644))
	c := exec.Command("gpsfake", "-n", "-q", "-c", "0.3", "-P", port, path)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // gpsd is a child of it
	c.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out := &strings.Builder{}
	c.Stdout, c.Stderr = out, out
	require.NoError(t, c.Start())
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			_ = c.Wait()
		}
	}
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return kill
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// TestRealGPSDWithAFix also takes gpsd away and brings it back.
func TestRealGPSDWithAFix(t *testing.T) {
	port := freePort(t)
	kill := gpsfake(t, port, nmea(time.Now(), 120, true))
	g := gpsdAt(t, "127.0.0.1:"+port, nil)
	eventually(t, 30*time.Second, func() bool { return g.Location(time.Now()) != nil })
	l := g.Location(time.Now())
	require.InDelta(t, 52.52, l.Latitude, 1e-6)
	require.InDelta(t, 13.405, l.Longitude, 1e-6)
	require.Equal(t, SourceGPSD, l.Source)
	require.LessOrEqual(t, *l.Age, int64(20))
	require.InDelta(t, time.Now().Unix(), *l.Timestamp, 30)
	eventually(t, 20*time.Second, func() bool {
		l := g.Location(time.Now())
		return l.Accuracy != nil && *l.Accuracy > 1 && *l.Accuracy < 100 && l.Altitude != nil
	})
	require.InDelta(t, 85, *g.Location(time.Now()).Altitude, 1, "above the ellipsoid, not the sea")
	require.Equal(t, "3D", g.Status(time.Now()).Quality)
	require.Empty(t, g.Status(time.Now()).Problem)

	kill()
	eventually(t, 10*time.Second, func() bool { return g.Status(time.Now()).Problem != "" })
	require.NotNil(t, g.Location(time.Now()), "the last fix is not too old yet")
	taken := *g.Location(time.Now()).Timestamp
	gpsfake(t, port, nmea(time.Now(), 120, true))
	eventually(t, 40*time.Second, func() bool {
		l := g.Location(time.Now())
		return l != nil && *l.Timestamp > taken && g.Status(time.Now()).Problem == ""
	})
}

func TestRealGPSDWithoutAFix(t *testing.T) {
	port := freePort(t)
	gpsfake(t, port, nmea(time.Now(), 120, false))
	g := gpsdAt(t, "127.0.0.1:"+port, nil)
	eventually(t, 30*time.Second, func() bool { return g.Status(time.Now()).Problem == errNoFix.Error() })
	require.Nil(t, g.Location(time.Now()))
}
