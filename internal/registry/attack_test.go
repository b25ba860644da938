package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
)

// TestAnswersThatAreNotBelieved lies to a verifier in every way that somebody on
// the way, or another registry, can. What a snapshot brings in is refused for the
// reason; no key is ever trusted by it.
func TestAnswersThatAreNotBelieved(t *testing.T) {
	type lie func(reg *registrytest.Registry, t *testing.T) func(answer.Kind, any) []byte
	head := func(change func(*answer.Head)) lie {
		return func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return func(_ answer.Kind, v any) []byte {
				change(headOf(v))
				return nil
			}
		}
	}
	for name, c := range map[string]struct {
		lie  lie
		want Refusal
	}{
		"unsigned": {func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return func(answer.Kind, any) []byte { return []byte(`{"records":[]}`) }
		}, RefusedMalformed},
		"self-signed": {func(_ *registrytest.Registry, t *testing.T) func(answer.Kind, any) []byte {
			own := registrytest.NewSigner(t)
			return func(kind answer.Kind, v any) []byte {
				b, err := own.Sign(kind, v)
				require.NoError(t, err)
				return b
			}
		}, RefusedUnpinned},
		"a bit changed": {func(reg *registrytest.Registry, _ *testing.T) func(answer.Kind, any) []byte {
			return func(kind answer.Kind, v any) []byte {
				b := reg.Sign(kind, v)
				b[len(b)-1] ^= 1
				return b
			}
		}, RefusedSignature},
		"an answer to another question": {func(reg *registrytest.Registry, _ *testing.T) func(answer.Kind, any) []byte {
			return func(kind answer.Kind, v any) []byte {
				return reg.Sign(answer.KindAuditHead, &answer.AuditHead{Head: *headOf(v)})
			}
		}, RefusedKind},
		"nonce of another request":  {head(func(h *answer.Head) { h.Nonce = make([]byte, 32) }), RefusedNonce},
		"no nonce":                  {head(func(h *answer.Head) { h.Nonce = nil }), RefusedNonce},
		"nonce cut short":           {head(func(h *answer.Head) { h.Nonce = h.Nonce[:31] }), RefusedNonce},
		"no store":                  {head(func(h *answer.Head) { h.Store = "" }), RefusedMalformed},
		"store that writes to logs": {head(func(h *answer.Head) { h.Store = "a\nb" }), RefusedMalformed},
		"registry's clock ahead":    {head(func(h *answer.Head) { h.IssuedAt = h.IssuedAt.Add(time.Minute); h.NotAfter = h.NotAfter.Add(time.Hour) }), RefusedClock},
		"registry's clock behind":   {head(func(h *answer.Head) { h.IssuedAt = h.IssuedAt.Add(-time.Minute) }), RefusedClock},
		"over before it arrived": {head(func(h *answer.Head) {
			h.IssuedAt, h.NotAfter = h.IssuedAt.Add(-2*time.Second), h.IssuedAt.Add(-time.Second)
		}), RefusedExpired},
		"ends before it begins": {head(func(h *answer.Head) { h.NotAfter = h.IssuedAt }), RefusedMalformed},
		"no time":               {head(func(h *answer.Head) { h.IssuedAt = time.Time{} }), RefusedMalformed},
		"another range than asked": {func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return snapshots(func(s *answer.Snapshot) { s.Since++ })
		}, RefusedMalformed},
		"records left out at the end": {func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return snapshots(func(s *answer.Snapshot) { s.Through-- })
		}, RefusedMalformed},
		"records out of order": {func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return snapshots(func(s *answer.Snapshot) { s.Records[0], s.Records[1] = s.Records[1], s.Records[0] })
		}, RefusedMalformed},
		"page that leads nowhere": {func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return snapshots(func(s *answer.Snapshot) { s.Records, s.More, s.Through = nil, true, s.Since })
		}, RefusedMalformed},
		"a kid that is none": {func(*registrytest.Registry, *testing.T) func(answer.Kind, any) []byte {
			return snapshots(func(s *answer.Snapshot) { s.Records[0].KID = "../../etc" })
		}, RefusedMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				a, b := machine(t, "edge-a"), machine(t, "edge-b")
				reg.Enrol(a)
				reg.Enrol(b)
				lie := c.lie(reg, t)
				reg.Set(func(s *registrytest.Switches) { s.Mangle = lie })
				r := start(t, reg)
				require.Equal(t, "unavailable", r.state(a))
				require.Positive(t, r.seen.refused(c.want))
				var refused *RefusedError
				require.ErrorAs(t, r.c.Status().Err, &refused)
				require.Equal(t, c.want, refused.Refusal)
				require.False(t, r.c.Status().Up)

				reg.Set(func(s *registrytest.Switches) { s.Mangle = nil })
				require.Less(t, r.after(a, "trusted", time.Minute), 3*time.Second, "the truth is believed again")
			})
		})
	}
}

func headOf(v any) *answer.Head {
	switch v := v.(type) {
	case *answer.Key:
		return &v.Head
	case *answer.Snapshot:
		return &v.Head
	case *answer.Event:
		return &v.Head
	case *answer.Heartbeat:
		return &v.Head
	default:
		panic("another kind")
	}
}

func snapshots(change func(*answer.Snapshot)) func(answer.Kind, any) []byte {
	return func(_ answer.Kind, v any) []byte {
		if s, ok := v.(*answer.Snapshot); ok {
			change(s)
		}
		return nil
	}
}

// TestReplayedAnswersAreRefused records what a verifier was told while a key was
// good, and plays it back after the revocation.
func TestReplayedAnswersAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		old := map[answer.Kind][]byte{}
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = func(kind answer.Kind, v any) []byte {
				old[kind] = reg.Sign(kind, v)
				return old[kind]
			}
		})
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) {
			s.HideEvents = true
			s.Mangle = func(kind answer.Kind, _ any) []byte { return old[kind] }
		})
		reg.Revoke(a, "stolen")
		r.stays(a, "trusted", 14*time.Minute)
		require.Positive(t, r.seen.refused(RefusedNonce))
		require.Positive(t, r.seen.refused(RefusedCount), "heartbeats too")
		time.Sleep(2 * time.Minute)
		require.Equal(t, "unavailable", r.state(a), "who keeps the truth back wins max_stale, no more")
	})
}

// TestOldRevisionUnderAFreshNonceIsRefused: the registry's store was rolled back.
func TestOldRevisionUnderAFreshNonceIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		before := reg.Revision()
		record := reg.Record(a.KID)
		reg.Revoke(a, "stolen")
		r := start(t, reg)
		require.Equal(t, "revoked: stolen", r.state(a))
		reg.Rewind(before)
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = snapshots(func(s *answer.Snapshot) { s.Records = append(s.Records, record) })
			s.MuteStream = true
		})
		time.Sleep(10 * time.Second)
		require.Equal(t, "revoked: stolen", r.state(a))
		require.Positive(t, r.seen.refused(RefusedRollback))
		require.ErrorContains(t, r.c.Status().Err, "remove the cache")
	})
}

// TestRevocationIsNotTakenBack: not even by the registry, at a higher revision.
func TestRevocationIsNotTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b, c := machine(t, "edge-a"), machine(t, "edge-b"), machine(t, "edge-c")
		reg.Enrol(a)
		reg.Revoke(a, "stolen")
		reg.Enrol(c)
		reg.Revoke(c, api.Superseded)
		r := start(t, reg)
		r.streaming()
		reg.Enrol(a)
		reg.Enrol(c)
		reg.Put("gone", answer.Record{KID: a.Entry.KID})
		reg.Enrol(b)
		synctest.Wait()
		require.Equal(t, "trusted", r.state(b), "the others count")
		require.Equal(t, "revoked: stolen", r.state(a))
		require.Equal(t, "revoked: superseded", r.state(c))
		require.Equal(t, 2, r.seen.refused(RefusedTerminal))
		reg.Revoke(c, "stolen after all")
		synctest.Wait()
		require.Equal(t, "revoked: stolen after all", r.state(c))
	})
}

func TestStreamOfAnotherStoreIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a, b := machine(t, "edge-a"), machine(t, "edge-b")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		reg.Set(func(s *registrytest.Switches) { s.Store = "store-2" })
		reg.Enrol(b)
		r.stays(a, "trusted", time.Minute)
		require.Equal(t, "unavailable", r.state(b))
		require.Positive(t, r.seen.refused(RefusedStore))
		require.ErrorContains(t, r.c.Status().Err, "remove the cache")
		require.False(t, r.c.streaming.Load())
	})
}

func TestHeartbeatsThatComeTwiceEndTheStream(t *testing.T) {
	for name, change := range map[string]func(*answer.Heartbeat){
		"twice":      func(h *answer.Heartbeat) { h.Count = max(1, h.Count-1) },
		"left out":   func(h *answer.Heartbeat) { h.Count *= 2 },
		"rolled off": func(h *answer.Heartbeat) { h.Revision-- },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				a := machine(t, "edge-a")
				reg.Enrol(a)
				r := start(t, reg)
				r.streaming()
				reg.Set(func(s *registrytest.Switches) {
					s.Mangle = func(_ answer.Kind, v any) []byte {
						if h, ok := v.(*answer.Heartbeat); ok && h.Count > 1 || ok && name != "twice" {
							change(h)
						}
						return nil
					}
				})
				time.Sleep(10 * time.Second)
				require.Positive(t, r.seen.refused(RefusedCount)+r.seen.refused(RefusedRollback))
				require.Equal(t, "trusted", r.state(a))
			})
		})
	}
}

func TestGarbageOnTheStreamEndsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		a := machine(t, "edge-a")
		reg.Enrol(a)
		r := start(t, reg)
		r.streaming()
		other := registrytest.NewSigner(t)
		reg.Set(func(s *registrytest.Switches) {
			s.Mangle = func(kind answer.Kind, v any) []byte {
				if kind != answer.KindEvent {
					return nil
				}
				b, err := other.Sign(kind, v)
				require.NoError(t, err)
				return b
			}
		})
		reg.Revoke(a, "stolen")
		require.LessOrEqual(t, r.after(a, "revoked: stolen", 5*time.Second), time.Second, "by a snapshot")
		require.Positive(t, r.seen.refused(RefusedUnpinned))
	})
}

// TestBadEntryHarmsNobodyElse: one key that cannot be read waits, the others are
// judged; and a revocation counts whatever else stands there.
func TestBadEntryHarmsNobodyElse(t *testing.T) {
	for name, spoil := range map[string]func(*answer.Record){
		"no entry":            func(r *answer.Record) { r.Entry = nil },
		"entry of another":    func(r *answer.Record) { r.KID = "000b" + r.KID[4:66] + "00" },
		"unknown member":      func(r *answer.Record) { r.Entry = append([]byte(`{"new":1,`), r.Entry[1:]...) },
		"no lease":            func(r *answer.Record) { r.Entry = without(r.Entry, "not_after") },
		"evidence overstated": func(r *answer.Record) { r.Evidence = api.EvidenceUnproven },
		"no evidence":         func(r *answer.Record) { r.Evidence = "" },
		"state of the future": func(r *answer.Record) { r.State = "quarantined" },
		"revoked, not stated": func(r *answer.Record) { r.Entry = append([]byte(`{"revoked":"x",`), r.Entry[1:]...) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := registrytest.New(t)
				a, b := machine(t, "edge-a"), machine(t, "edge-b")
				rec := registrytest.RecordOf(t, a, api.StateEnrolled, "")
				spoil(&rec)
				reg.Put("enrolled", rec, registrytest.RecordOf(t, b, api.StateEnrolled, ""))
				r := start(t, reg)
				require.Equal(t, "trusted", r.state(b))
				require.Equal(t, "unavailable", r.state(a))
				require.Positive(t, r.seen.refused(RefusedEntry)+r.seen.lookedUp(OutcomeUnknown))
				if name == "entry of another" {
					return
				}
				rec.State, rec.Entry = api.StateRevoked, nil
				reg.Put("revoked", rec)
				require.Less(t, r.after(a, "revoked: revoked", 5*time.Second), 3*time.Second)
			})
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := registrytest.New(t)
		reg.Enrol(machine(t, "edge-a"))
		elsewhere := 0
		r := prepare(t, reg)
		r.c.o.HTTP = func(ctx context.Context) (*http.Client, error) {
			c, err := r.net.HTTP(ctx)
			c.Transport = redirecting{func() { elsewhere++ }}
			return c, err
		}
		r.c.requests.dial = r.c.o.HTTP
		require.NoError(t, r.c.Start(t.Context(), 3*time.Second))
		require.Zero(t, elsewhere)
		require.ErrorContains(t, r.c.Status().Err, "302")
	})
}

type redirecting struct{ asked func() }

func (t redirecting) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "elsewhere" {
		t.asked()
	}
	return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"https://elsewhere/"}}, Body: http.NoBody, Request: req}, nil
}

func without(entry json.RawMessage, member string) json.RawMessage {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(entry, &all); err != nil {
		panic(err)
	}
	delete(all, member)
	out, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return out
}
