package statement_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
)

func TestOtherSpellingsAreRefused(t *testing.T) {
	raw, err := exposed().Encode()
	require.NoError(t, err)
	_, err = statement.Parse(raw)
	require.NoError(t, err)
	text := string(raw)
	replace := func(old, with string) string {
		require.Contains(t, text, old)
		return strings.Replace(text, old, with, 1)
	}
	for name, other := range map[string]string{
		"white space":         replace(`,"boot"`, `, "boot"`),
		"trailing line":       text + "\n",
		"trailing value":      text + "{}",
		"upper-case digits":   replace(`"owner":"`+hexOf(4), `"owner":"`+strings.ToUpper(hexOf(4))),
		"numbers for bytes":   replace(`"tls_key":"`+strings.Repeat("74", 32)+`"`, `"tls_key":[`+strings.TrimSuffix(strings.Repeat("116,", 32), ",")+`]`),
		"another order":       replace(`{"version":1,`, `{`)[:len(text)-13] + `,"version":1}`,
		"another case":        replace(`"state":`, `"State":`),
		"member twice":        replace(`"counter":14`, `"counter":14,"counter":14`),
		"unknown member":      replace(`"counter":14`, `"counter":14,"more":1`),
		"escaped":             replace(`"boot-1"`, `"boot\u002d1"`),
		"escaped slash":       replace(`localhost/app`, `localhost\/app`),
		"time with an offset": replace(`T12:00:00Z`, `T13:00:00+01:00`),
		"time with zeros":     replace(`T12:00:00Z`, `T12:00:00.000Z`),
		"zero time":           replace(`"opened":"2026-11-21T12:00:00Z"`, `"opened":"0001-01-01T00:00:00Z"`),
		"empty step":          replace(`"counter":14`, `"step":"","counter":14`),
		"counter with point":  replace(`"counter":14`, `"counter":14.0`),
		"no events":           replace(`"events":[`, `"events":null,"x":[`),
		"null link":           replace(`"boot":`, `"link":null,"boot":`),
		"not JSON":            "statement",
		"nothing":             "",
		"too long":            text + strings.Repeat(" ", statement.Max),
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, text, other)
			_, err := statement.Parse([]byte(other))
			require.ErrorIs(t, err, &statement.Error{Kind: statement.Malformed})
		})
	}
}

func TestMembersOutOfBoundsAreRefused(t *testing.T) {
	for name, edit := range map[string]func(*statement.Statement){
		"version":             func(s *statement.Statement) { s.Version = 0 },
		"instance":            func(s *statement.Statement) { s.Instance = s.Instance[1:] },
		"origin":              func(s *statement.Statement) { s.Origin = nil },
		"operator":            func(s *statement.Statement) { s.Operator = s.Operator[1:] },
		"owner":               func(s *statement.Statement) { s.Owner = append(s.Owner, 0) },
		"TLS key":             func(s *statement.Statement) { s.TLSKey = s.TLSKey[1:] },
		"host key":            func(s *statement.Statement) { s.SSHHostKey = s.SSHHostKey[1:] },
		"link":                func(s *statement.Statement) { s.Link.Signature = nil },
		"link's counter":      func(s *statement.Statement) { s.Link.Counter = 1 << 53 },
		"boot":                func(s *statement.Statement) { s.Boot = "" },
		"boot with a quote":   func(s *statement.Statement) { s.Boot = `a"b` },
		"state":               func(s *statement.Statement) { s.State = "open" },
		"step":                func(s *statement.Statement) { s.Step = "undo" },
		"counter":             func(s *statement.Statement) { s.Counter = 1 << 53 },
		"storage":             func(s *statement.Statement) { s.Storage = "none" },
		"image":               func(s *statement.Statement) { s.Workload.Image = strings.Repeat("a", 513) },
		"image with a space":  func(s *statement.Statement) { s.Workload.Image = "a b" },
		"image with a quote":  func(s *statement.Statement) { s.Workload.Image = `a"b` },
		"image not ASCII":     func(s *statement.Statement) { s.Workload.Image = "ä" },
		"digest":              func(s *statement.Statement) { s.Workload.Digest = "sha256:AA" },
		"digest upper case":   func(s *statement.Statement) { s.Workload.Digest = strings.ToUpper(digestA) },
		"port":                func(s *statement.Statement) { s.Workload.Port = 0 },
		"year":                func(s *statement.Statement) { s.SSH.Opened = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"register":            func(s *statement.Statement) { s.Log.Register = "rtmr2" },
		"register, no base":   func(s *statement.Statement) { s.Log.Base = nil },
		"base, no register":   func(s *statement.Statement) { s.Log.Register = statement.None },
		"short base":          func(s *statement.Statement) { s.Log.Base = s.Log.Base[1:] },
		"too many events":     func(s *statement.Statement) { s.Log.Events = make([]statement.Event, statement.MaxEvents+1) },
		"unknown event":       func(s *statement.Statement) { s.Log.Events[0].Name = "boot" },
		"event without data":  func(s *statement.Statement) { s.Log.Events[0].Data = "" },
		"event, long":         func(s *statement.Statement) { s.Log.Events[0].Data = strings.Repeat("a", 1025) },
		"event, long image":   func(s *statement.Statement) { s.Log.Events[0].Data = strings.Repeat("a", 513) + "@" + digestA },
		"event, no digest":    func(s *statement.Statement) { s.Log.Events[0].Data = "app:1" },
		"event, no name":      func(s *statement.Statement) { s.Log.Events[0].Data = "@" + digestA },
		"event, other digest": func(s *statement.Statement) { s.Log.Events[0].Data = "app@sha512:" + strings.Repeat("a", 64) },
		"ssh-open, no key":    func(s *statement.Statement) { s.Log.Events[0] = statement.Event{Name: statement.SSHOpen, Data: "00"} },
		"ssh-open, upper": func(s *statement.Statement) {
			s.Log.Events[0] = statement.Event{Name: statement.SSHOpen, Data: strings.Repeat("A", 64)}
		},
		"all of it": func(s *statement.Statement) {
			s.Log.Events = nil
			for range statement.MaxEvents {
				s.Log.Events = append(s.Log.Events, image(strings.Repeat("a", 512), digestA))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := rebooted()
			edit(s)
			_, err := s.Encode()
			require.ErrorIs(t, err, &statement.Error{Kind: statement.Malformed})
		})
	}
}

func TestTimesAreWrittenInUTC(t *testing.T) {
	s := exposed()
	want, err := s.Encode()
	require.NoError(t, err)
	zone := time.FixedZone("", 3600)
	s.SSH.Opened, s.SSH.SessionsEnded = s.SSH.Opened.In(zone), s.SSH.SessionsEnded.In(zone)
	s.Log.Events = append(s.Log.Events[:0:0], s.Log.Events...)
	got, err := s.Encode()
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.Equal(t, zone, s.SSH.Opened.Location(), "the caller's is not written to")
}

// Everything that is hashed is about something, and has lengths: no byte moves
// from one part into the next.
func TestHashesAreSeparate(t *testing.T) {
	require.NotEqual(t, statement.AttestData([]byte("a"), []byte("bc")), statement.AttestData([]byte("ab"), []byte("c")))
	require.NotEqual(t, statement.AttestData(nil, []byte("a")), statement.AttestData([]byte("a"), nil))
	require.NotEqual(t, statement.Event{Name: "a", Data: "bc"}.Digest(), statement.Event{Name: "ab", Data: "c"}.Digest())
}

func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/statements/*.json")
	require.NoError(f, err)
	require.NotEmpty(f, seeds)
	for _, seed := range seeds {
		raw, err := os.ReadFile(seed)
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := statement.Parse(raw)
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		again, err := s.Encode()
		require.NoError(t, err)
		require.Equal(t, string(raw), string(again))
		facts, err := s.Judge(register(s))
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		if facts.SSH == statement.SSHIsClosed {
			last := s.Log.Events[len(s.Log.Events)-1]
			require.Equal(t, statement.SSHClosed, last.Name)
			require.Equal(t, statement.WorkloadExposed, s.State)
			require.Equal(t, facts.Image, last.Data)
			require.False(t, facts.SSHClosed.IsZero())
		}
		if facts.SSH == statement.SSHNeverOpened {
			for _, e := range s.Log.Events {
				require.NotEqual(t, statement.SSHOpen, e.Name)
			}
		}
	})
}
