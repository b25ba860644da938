package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// "superseded" leaves acceptable what was signed before; of a key that waits
// nothing ever was.
func TestPendingKeyDoesNotBecomeTrustedForThePastByItsRevocation(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *rig, kid string) error{
		"key": func(r *rig, kid string) error {
			_, err := r.RevokeKey(t.Context(), "token:ops", kid, api.Superseded)
			return err
		},
		"machine": func(r *rig, _ string) error {
			_, err := r.RevokeMachine(t.Context(), "token:ops", hash(1), api.Superseded)
			return err
		},
		"replacement": func(r *rig, _ string) error {
			_, err := r.Replace(t.Context(), "token:ops", hash(1), &api.ReplaceRequest{EKHash: hash(2), Reason: api.Superseded})
			return err
		},
	} {
		r := newRig(t)
		kid := r.enrolled(hash(1), "web-1", api.StatePending, nil)
		require.NoError(t, end(r, kid), name)
		record, key := r.record(kid)
		require.Equal(t, api.StateRevoked, record.State, name)
		require.NotEqual(t, api.Superseded, key.Revoked, name)
	}
}

// Names and labels choose policies. Vouching for a TPM is no way to change them.
func TestVouchingForAnEnrolledMachineDoesNotRenameOrRelabelIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enrolled(hash(1), "web-1", api.StateEnrolled, func(m *store.Machine) {
		m.Evidence, m.Labels = api.EvidenceUnproven, map[string]string{"zone": "locked"}
	})
	for name, request := range map[string]*api.ApproveRequest{
		"name":      {Vouch: true, Name: "db-1"},
		"labels":    {Vouch: true, Labels: map[string]string{"zone": "open"}},
		"no labels": {Vouch: true, Labels: map[string]string{}},
	} {
		_, err := r.Approve(t.Context(), "token:desk", hash(1), request)
		refused(t, api.Conflict, err)
		require.ErrorContains(t, err, "waits", name)
	}
	m, err := r.Approve(t.Context(), "token:desk", hash(1), &api.ApproveRequest{Vouch: true})
	require.NoError(t, err)
	require.Equal(t, api.EvidenceVouched, m.Evidence)
	require.Equal(t, "web-1", m.Name)
	require.Equal(t, map[string]string{"zone": "locked"}, m.Labels)
}

func TestAuditLogSaysThatARevokedMachineWasTakenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enrolled(hash(1), "web-1", api.StateEnrolled, nil)
	_, err := r.RevokeMachine(t.Context(), "token:ops", hash(1), "stolen")
	require.NoError(t, err)
	_, err = r.Approve(t.Context(), "token:ops", hash(1), &api.ApproveRequest{Reinstate: true})
	require.NoError(t, err)
	require.Contains(t, string(r.lastAction().Detail), `"was_revoked":"stolen"`)
}

// Whom an import let in has to stand in the log that nobody can change, and
// not in tables alone.
func TestImportNamesEveryMachineInTheAuditLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var request api.ImportRequest
	for i := range 3000 {
		request.Machines = append(request.Machines, api.AllowEntry{
			EKHash: hash(i), Name: fmt.Sprintf("%s-%d", strings.Repeat("n", 100), i), Labels: map[string]string{"rack": "a"},
		})
	}
	_, err := r.Import(t.Context(), "token:ops", &request)
	require.NoError(t, err)
	seen := map[string]string{}
	for _, e := range r.actions("machines.import") {
		require.Equal(t, "token:ops", e.Actor)
		var detail struct {
			Machines []api.AllowEntry
		}
		require.NoError(t, json.Unmarshal(e.Detail, &detail))
		for _, m := range detail.Machines {
			require.Equal(t, map[string]string{"rack": "a"}, m.Labels)
			seen[m.EKHash] = m.Name
		}
	}
	require.Len(t, seen, 3000)
	require.Equal(t, request.Machines[7].Name, seen[hash(7)])

	request.Machines[7].Labels = map[string]string{"rack": "b"}
	before := len(r.actions("machines.import"))
	_, err = r.Import(t.Context(), "token:ops", &request)
	require.NoError(t, err)
	again := r.actions("machines.import")
	require.Len(t, again, before+1)
	require.Contains(t, string(again[before].Detail), hash(7))
	require.NotContains(t, string(again[before].Detail), hash(8), "what did not change")
}

func (r *rig) actions(action string) (out []audit.Entry) {
	r.t.Helper()
	require.NoError(r.t, r.o.Store.View(r.t.Context(), func(tx *store.Tx) error {
		entries, err := tx.AuditEntries(0, 1000)
		for _, e := range entries {
			if e.Action == action {
				out = append(out, e)
			}
		}
		return err
	}))
	return out
}

// A hash in capitals must not find the machine that took it for its name.
func TestMachineCannotBeNamedLikeTheHashOfAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, name := range []string{hash(1), strings.ToUpper(hash(1))} {
		refused(t, api.NameInvalid, api.CheckName(name))
		result, err := r.Import(t.Context(), "token:ops", &api.ImportRequest{Machines: []api.AllowEntry{{EKHash: hash(2), Name: name}}})
		require.NoError(t, err)
		require.Len(t, result.Errors, 1)
		require.Equal(t, api.NameInvalid, result.Errors[0].Reason)
	}
}

// "location": null is no location; it must not take a wider one away.
func TestLocationThatIsNullDoesNotLiftAGeofence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	kid := r.enrolled(hash(1), "web-1", api.StateEnrolled, nil)
	fence := json.RawMessage(`{"within":{"type":"Polygon","coordinates":[[[5,45],[15,45],[15,55],[5,55],[5,45]]]}}`)
	_, err := r.PutPolicy(t.Context(), "token:ops", &api.Policy{Scope: "default", Location: fence})
	require.NoError(t, err)
	want, _ := r.record(kid)
	require.Contains(t, string(want.Entry), "Polygon")
	_, err = r.PutPolicy(t.Context(), "token:ops", &api.Policy{Scope: "name:web-1", Freshness: "live", Location: json.RawMessage(`null`)})
	require.NoError(t, err)
	got, _ := r.record(kid)
	require.Contains(t, string(got.Entry), "Polygon")
	require.Contains(t, string(got.Entry), "live")
}
