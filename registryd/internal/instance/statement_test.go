package instance

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func TestFactsFollowFromStatementAndRegister(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		v := newVM(1, 9)
		v.exposed, v.register = true, statement.RTMR3
		reg := r.says(v)
		asOf := r.at
		r.at = r.at.Add(time.Second)
		_, err := r.told(reg)
		require.NoError(t, err)
		i, err := r.Instance(t.Context(), hex.EncodeToString(public(v.instance)))
		require.NoError(t, err)
		require.Equal(t, &api.InstanceFacts{
			Origin: public(v.origin), Boot: v.boot, State: statement.WorkloadExposed, Counter: 9,
			Image: "registry.example/app:1@" + imageDigest, SSH: "closed", SSHClosed: v.closed, SSHClosedSeen: asOf,
			Evidence: api.FactsRTMR3, AsOf: asOf, VerifiedAt: r.at,
		}, i.Facts)
		require.Equal(t, reg.Statement, i.Statement)
		require.Equal(t, 1, r.actions()["instance.ssh_closed"])
		require.Contains(t, string(r.last("instance.ssh_closed").Detail), `"evidence":"rtmr3"`)

		// A renewal says it again, and when it was seen first stays.
		r.at = r.at.Add(time.Hour)
		again := r.mustTell(v)
		require.Equal(t, asOf, again.Facts.SSHClosedSeen)
		require.Equal(t, r.at, again.Facts.AsOf)
		require.Equal(t, 1, r.actions()["instance.ssh_closed"])

		page, err := r.Instances(t.Context(), store.InstanceFilter{Limit: 10})
		require.NoError(t, err)
		require.Nil(t, page.Items[0].Statement, "lists leave it out")
		require.Equal(t, again.Facts, page.Items[0].Facts)
	})
}

func TestStatementThatIsForgedIsRefusedWithItsReason(t *testing.T) {
	r := newRig(t, nil)
	exposed := newVM(1, 9)
	exposed.exposed, exposed.register = true, statement.RTMR3
	plain := newVM(1, 4)
	for name, c := range map[string]struct {
		reason api.Reason
		reg    func() *api.Registration
	}{
		"no JSON": {api.StatementMalformed, func() *api.Registration { return r.speaks(plain, []byte("{"), nil) }},
		"another spelling": {api.StatementMalformed, func() *api.Registration {
			raw, err := plain.statement().Encode()
			require.NoError(t, err)
			return r.speaks(plain, append(raw, '\n'), nil)
		}},
		"larger than any": {api.StatementMalformed, func() *api.Registration {
			return r.speaks(plain, bytes.Repeat([]byte(" "), statement.Max+1), nil)
		}},
		"another instance": {api.StatementMismatch, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.Instance = public(key(8)) })
		}},
		"another operator": {api.StatementMismatch, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.Operator = public(key(8)) })
		}},
		"another owner": {api.StatementMismatch, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.Owner = public(key(8)) })
		}},
		"no owner": {api.StatementMismatch, func() *api.Registration { return r.says(plain, func(s *statement.Statement) { s.Owner = nil }) }},
		"another TLS key": {api.StatementMismatch, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.TLSKey = bytes.Repeat([]byte{1}, 32) })
		}},
		"a locked machine": {api.StatementContradicted, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.State = statement.Locked })
		}},
		"a state set back": {api.StatementContradicted, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.State = statement.RolledBack })
		}},
		"origin, no link": {api.StatementContradicted, func() *api.Registration {
			return r.says(plain, func(s *statement.Statement) { s.Origin = public(key(8)) })
		}},
		"exposed, SSH open": {api.StatementContradicted, func() *api.Registration {
			return r.says(exposed, func(s *statement.Statement) { s.SSH.SessionsEnded = time.Time{} })
		}},
		"link of another": {api.StatementContradicted, func() *api.Registration {
			v := plain.reboot(7, 4)
			v.link.Signature = ed25519.Sign(key(8), statement.LinkMessage(public(v.instance), 4))
			return r.says(v)
		}},
		"link to another": {api.StatementContradicted, func() *api.Registration {
			v := plain.reboot(7, 4)
			v.link.Signature = ed25519.Sign(v.origin, statement.LinkMessage(public(key(8)), 4))
			return r.says(v)
		}},
		"register says something else": {api.StatementContradicted, func() *api.Registration {
			reg := r.says(exposed)
			r.quote(reg, 2, func(q *tdxlab.Quote) { q.RTMR[3] = [48]byte{1} })
			return reg
		}},
		"event that was not measured": {api.StatementContradicted, func() *api.Registration {
			reg := r.says(exposed)
			s := exposed.statement()
			r.quote(reg, 2, func(q *tdxlab.Quote) { q.RTMR[3] = statement.Replay([48]byte{}, s.Log.Events[:2]) })
			return reg
		}},
		"quote for another statement": {api.ReportDataMismatch, func() *api.Registration {
			reg := r.says(plain)
			raw, err := plain.at(5).statement().Encode()
			require.NoError(t, err)
			reg.Statement = raw
			possess(reg, plain.instance)
			return reg
		}},
		"quote for none": {api.ReportDataMismatch, func() *api.Registration {
			reg := r.says(plain)
			raw := reg.Statement
			reg.Statement = nil
			r.quote(reg, 2)
			reg.Statement = raw
			return reg
		}},
		"statement cut off": {api.ReportDataMismatch, func() *api.Registration {
			reg := r.says(plain)
			reg.Statement = nil
			return reg
		}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := c.reg()
			_, err := r.told(reg)
			refused(t, c.reason, err)
			_, err = r.Instance(t.Context(), hex.EncodeToString(reg.InstancePubkey))
			refused(t, api.NotFound, err)
			require.False(t, r.seen(plain).Known())
		})
	}
	reg := r.says(plain)
	_, err := r.Register(t.Context(), reg, 1, "")
	refused(t, api.BadRequest, err)
}
