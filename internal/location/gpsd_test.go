package location

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	version = `{"class":"VERSION","release":"3.22","rev":"3.22","proto_major":3,"proto_minor":14}` + "\n"
	devices = `{"class":"DEVICES","devices":[]}` + "\n" + `{"class":"WATCH","enable":true,"json":true}` + "\n"
)

func tpv(at time.Time, more string) string {
	return fmt.Sprintf(`{"class":"TPV","device":"/dev/gps0","mode":3,"time":%q,"lat":52.52,"lon":13.405%s}`+"\n", at.UTC().Format(time.RFC3339Nano), more)
}

// impostor is a gpsd that says what a test wants, to one connection after the other.
type impostor struct {
	net.Listener
	mu    sync.Mutex
	calls int
}

func newImpostor(t *testing.T, serve func(call int, conn net.Conn)) *impostor {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	i := &impostor{Listener: l}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			i.mu.Lock()
			i.calls++
			call := i.calls
			i.mu.Unlock()
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(call, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return i
}

func (i *impostor) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls
}

func runLive(t *testing.T, l Live) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("it does not end")
		}
	})
}

func gpsdAt(t *testing.T, endpoint string, change func(*GPSDOptions)) *GPSD {
	t.Helper()
	o := GPSDOptions{Endpoint: endpoint, MaxAge: time.Minute}
	if change != nil {
		change(&o)
	}
	g, err := NewGPSD(o)
	require.NoError(t, err)
	runLive(t, g)
	return g
}

func eventually(t *testing.T, within time.Duration, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, within, 5*time.Millisecond)
}

func TestFixOfAReceiverIsClaimed(t *testing.T) {
	heard := make(chan string, 1)
	i := newImpostor(t, func(_ int, conn net.Conn) {
		_, _ = io.WriteString(conn, version)
		line := make([]byte, 256)
		n, _ := conn.Read(line)
		heard <- string(line[:n])
		_, _ = io.WriteString(conn, devices+`{"class":"SKY","nSat":12,"uSat":9}`+"\n")
		_, _ = io.WriteString(conn, tpv(time.Now().Add(-3*time.Second), `,"altHAE":85.5,"eph":8,"epx":9,"epy":12`))
		_, _ = io.Copy(io.Discard, conn)
	})
	g := gpsdAt(t, i.Addr().String(), func(o *GPSDOptions) { o.Device = "/dev/gps0" })
	require.Equal(t, `?WATCH={"enable":true,"json":true,"device":"/dev/gps0"};`+"\n", <-heard)
	eventually(t, 5*time.Second, func() bool { return g.Location(time.Now()) != nil })
	l := g.Location(time.Now())
	require.Equal(t, 52.52, l.Latitude)
	require.Equal(t, 13.405, l.Longitude)
	require.Equal(t, 85.5, *l.Altitude)
	require.Equal(t, 15.0, *l.Accuracy, "the larger one of eph and of epx with epy")
	require.Equal(t, SourceGPSD, l.Source)
	require.InDelta(t, 4, *l.Age, 1)
	require.InDelta(t, time.Now().Unix()-3, *l.Timestamp, 2)
	require.Equal(t, Status{Receiver: "/dev/gps0", Quality: "3D", Used: 9, Seen: 12}, g.Status(time.Now()))

	require.Nil(t, g.Location(time.Now().Add(time.Minute)), "too old by then")
	require.Contains(t, g.Status(time.Now().Add(time.Minute)).Problem, "old")
	old := g.Location(time.Now().Add(30 * time.Second))
	require.InDelta(t, 34, *old.Age, 1)
}

func TestWithoutAFixNothingIsInvented(t *testing.T) {
	for name, line := range map[string]string{
		"mode 0":             `{"class":"TPV","mode":0,"time":"2026-01-01T00:00:00Z","lat":1,"lon":1}`,
		"mode 1":             `{"class":"TPV","mode":1,"time":"2026-01-01T00:00:00Z","lat":1,"lon":1}`,
		"mode 4":             `{"class":"TPV","mode":4,"time":"2026-01-01T00:00:00Z","lat":1,"lon":1}`,
		"no mode":            `{"class":"TPV","time":"2026-01-01T00:00:00Z","lat":1,"lon":1}`,
		"no longitude":       `{"class":"TPV","mode":3,"time":"2026-01-01T00:00:00Z","lat":1}`,
		"no time":            `{"class":"TPV","mode":3,"lat":1,"lon":1}`,
		"time is none":       `{"class":"TPV","mode":3,"time":"now","lat":1,"lon":1}`,
		"time before all":    `{"class":"TPV","mode":3,"time":"1969-12-31T23:59:59Z","lat":1,"lon":1}`,
		"off the globe":      `{"class":"TPV","mode":3,"time":"2026-01-01T00:00:00Z","lat":91,"lon":1}`,
		"east of all":        `{"class":"TPV","mode":3,"time":"2026-01-01T00:00:00Z","lat":1,"lon":180.1}`,
		"another device":     `{"class":"TPV","device":"/dev/gps1","mode":3,"time":"2026-01-01T00:00:00Z","lat":1,"lon":1}`,
		"members in capital": `{"class":"TPV","mode":3,"time":"2026-01-01T00:00:00Z","Lat":1,"Lon":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			g, err := NewGPSD(GPSDOptions{Endpoint: "localhost:1", Device: "/dev/gps0", MaxAge: time.Hour})
			require.NoError(t, err)
			r, err := parseReport([]byte(line))
			require.NoError(t, err)
			if name != "another device" {
				r.Device = "/dev/gps0"
			}
			require.False(t, g.take(r))
			require.Nil(t, g.Location(time.Now()))
			require.NotEmpty(t, g.Status(time.Now()).Problem)
		})
	}
}

func TestRadiusIsTheLargerEstimate(t *testing.T) {
	for line, want := range map[string]*float64{
		`{}`:                               nil,
		`{"eph":0}`:                        nil,
		`{"eph":-1}`:                       nil,
		`{"eph":3}`:                        new(3.0),
		`{"epx":3,"epy":4}`:                new(5.0),
		`{"eph":6,"epx":3,"epy":4}`:        new(6.0),
		`{"epx":1}`:                        new(1.4142135623730951),
		`{"epy":1}`:                        new(1.4142135623730951),
		`{"eph":1e300}`:                    nil,
		`{"epx":1e308,"epy":1e308}`:        nil,
		`{"eph":5,"epx":1e308,"epy":-1e3}`: nil,
	} {
		r, err := parseReport([]byte(line))
		require.NoError(t, err)
		require.Equal(t, want, r.radius(), line)
	}
}

func TestHostileServerCostsAConnectionAndNothingElse(t *testing.T) {
	flood := strings.Repeat(`{"class":"WATCH"}`+"\n", gpsdPerSec+10)
	for name, text := range map[string]string{
		"not gpsd":        "HTTP/1.1 200 OK\r\n\r\n",
		"other protocol":  `{"class":"VERSION","proto_major":4}` + "\n",
		"no greeting":     tpv(time.Now(), ""),
		"endless line":    version + strings.Repeat("x", 1<<20),
		"endless string":  version + `{"class":"TPV","device":"` + strings.Repeat("x", 1<<20),
		"deep":            version + strings.Repeat(`[`, 12_000) + "\n",
		"member twice":    version + `{"class":"TPV","class":"SKY"}` + "\n",
		"wrong types":     version + `{"class":"TPV","mode":"3"}` + "\n",
		"too many lines":  version + flood,
		"binary":          "\x00\xff\xfe\n",
		"hangs up":        version,
		"number too long": version + `{"class":"TPV","mode":3,"lat":1e999}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newImpostor(t, func(call int, conn net.Conn) {
				if call == 1 {
					_, _ = io.WriteString(conn, text)
					return
				}
				_, _ = io.WriteString(conn, version+devices+tpv(time.Now(), ""))
				_, _ = io.Copy(io.Discard, conn)
			})
			problems := make(chan string, 16)
			g, err := NewGPSD(GPSDOptions{Endpoint: i.Addr().String(), MaxAge: time.Minute})
			require.NoError(t, err)
			g.report = func(problem string) { problems <- problem }
			runLive(t, g)
			problem := <-problems
			require.NotEmpty(t, problem)
			require.Less(t, len(problem), 600)
			require.Nil(t, g.Location(time.Now()))
			eventually(t, 10*time.Second, func() bool { return g.Location(time.Now()) != nil }) // the next one is honest
			require.Equal(t, 2, i.count())
			require.Empty(t, <-problems)
		})
	}
}

func TestClocksThatDisagreeMakeNoFixYounger(t *testing.T) {
	now := time.Now()
	f := &fix{taken: now.Add(-10 * time.Second), arrived: now}
	require.Equal(t, 10*time.Second, f.age(now).Round(time.Millisecond))
	f.taken = now.Add(time.Hour) // the receiver's clock is ahead
	require.Zero(t, f.age(now).Round(time.Millisecond))
	require.Equal(t, time.Minute, f.age(now.Add(time.Minute)).Round(time.Millisecond))
	f.taken = time.Unix(0, 0)
	require.Greater(t, f.age(now), 50*365*24*time.Hour)
	set := now.Round(0).Add(2 * time.Hour) // this machine slept, or its clock was set
	f.taken = now
	require.Equal(t, 2*time.Hour, f.age(set).Round(time.Millisecond))
}

func FuzzReport(f *testing.F) {
	f.Add(tpv(time.Unix(1_700_000_000, 0), `,"eph":5`))
	f.Add(version)
	f.Add(`{"class":"SKY","satellites":[{"used":true},{"used":false}]}`)
	f.Add(`{"class":"ERROR","message":"no"}`)
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseReport([]byte(line))
		if err != nil {
			return
		}
		now := time.Unix(1_700_000_000, 0)
		g, err := NewGPSD(GPSDOptions{Endpoint: "localhost:1", MaxAge: time.Hour, Now: func() time.Time { return now }})
		require.NoError(t, err)
		if !g.take(r) {
			require.Nil(t, g.Location(now))
			return
		}
		if l := g.Location(now); l != nil {
			require.NoError(t, check(l.Latitude, l.Longitude, l.Altitude, l.Accuracy))
			require.GreaterOrEqual(t, *l.Age, int64(0))
			require.LessOrEqual(t, *l.Timestamp, int64(lastTimestamp))
		}
	})
}
