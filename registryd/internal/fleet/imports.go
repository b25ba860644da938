package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// errDryRun ends the transaction of a trial.
var errDryRun = errors.New("fleet: dry run")

// Import takes an inventory, as a whole or not at all: with errors, or when it
// is a dry run, nothing is changed. Machines that were revoked are left alone,
// since an inventory is imported again and again.
func (s *Service) Import(ctx context.Context, actor string, r *api.ImportRequest) (*api.ImportResult, error) {
	if len(r.Machines) == 0 || len(r.Machines) > maxImport {
		return nil, api.Refuse(api.BadRequest, "an import has 1 to %d machines, this one has %d", maxImport, len(r.Machines))
	}
	result := &api.ImportResult{DryRun: r.DryRun, Errors: checkEntries(r.Machines)}
	if len(result.Errors) > 0 {
		return result, nil
	}
	err := s.update(ctx, actor, func(c *change) error {
		*result = api.ImportResult{DryRun: r.DryRun}
		known, err := c.known(r.Machines)
		if err != nil {
			return err
		}
		var written []*api.AllowEntry
		for i := range r.Machines {
			before := result.Added + result.Changed
			if err := c.importOne(&r.Machines[i], known, result); err != nil {
				if !isRefusal(err) {
					return err
				}
				result.Errors = append(result.Errors, importError(i, err))
			}
			if result.Added+result.Changed > before {
				written = append(written, &r.Machines[i])
			}
		}
		if len(result.Errors) > 0 || r.DryRun {
			return api.Because(api.Conflict, errDryRun)
		}
		if result.Added+result.Changed == 0 {
			return nil
		}
		if err := c.logImport(written); err != nil {
			return err
		}
		return c.emit("imported")
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	return result, nil
}

// maxImportDetail bounds the machines of one audit entry, in bytes; the store
// keeps 256 KiB. One machine has at most 64 labels of 512 bytes.
const maxImportDetail = 192 << 10

// logImport writes who was let in, and as what, in as many entries as it takes:
// tables can be changed later, the log cannot.
func (c *change) logImport(written []*api.AllowEntry) error {
	for len(written) > 0 {
		size, n := 0, 0
		for n < len(written) {
			encoded, err := json.Marshal(written[n])
			if err != nil {
				return fmt.Errorf("encode the detail of an audit entry: %w", err)
			}
			if size += len(encoded) + 1; n > 0 && size > maxImportDetail {
				break
			}
			n++
		}
		if err := c.log("machines.import", "", map[string]any{"machines": written[:n]}); err != nil {
			return err
		}
		written = written[n:]
	}
	return nil
}

// checkEntries looks at what needs no store.
func checkEntries(entries []api.AllowEntry) []api.ImportError {
	var (
		out    []api.ImportError
		hashes = make(map[string]int, len(entries))
		names  = make(map[string]int, len(entries))
	)
	for i := range entries {
		e := &entries[i]
		err := errors.Join(api.CheckEKHash(e.EKHash), api.CheckName(e.Name), api.CheckLabels(e.Labels))
		if first, twice := hashes[e.EKHash]; err == nil && twice {
			err = api.Refuse(api.BadRequest, "EK hash %s stands there twice, first as machine %d", e.EKHash, first)
		}
		folded := strings.ToLower(e.Name)
		if first, twice := names[folded]; err == nil && twice {
			err = api.Refuse(api.NameTaken, "the name %q stands there twice, first as machine %d", e.Name, first)
		}
		if err != nil {
			out = append(out, importError(i, err))
			continue
		}
		hashes[e.EKHash], names[folded] = i, i
	}
	return out
}

func importError(i int, err error) api.ImportError {
	return api.ImportError{Index: i, Reason: api.ReasonOf(err), Error: err.Error()}
}

// known asks the store what it has of an inventory, at once: a large one is
// imported within a call's time from a database on another machine too.
func (c *change) known(entries []api.AllowEntry) (*store.Known, error) {
	hashes, names := make([]string, len(entries)), make([]string, len(entries))
	for i := range entries {
		hashes[i], names[i] = entries[i].EKHash, entries[i].Name
	}
	return c.Known(hashes, names)
}

// importOne writes one machine of the inventory, and lets it in when it waits.
// What was known at the start decides alone about machines that are new or as they
// should be: the entries' hashes and names differ, so no other entry changes
// these. Everything else is looked at anew.
func (c *change) importOne(e *api.AllowEntry, known *store.Known, result *api.ImportResult) error {
	switch m := known.Machines[e.EKHash]; {
	case m == nil:
		return c.importNew(e, known, result)
	case m.Revoked != "":
		result.Revoked++
	case m.Allowed && m.Name == e.Name && maps.Equal(m.Labels, e.Labels):
		result.Unchanged++
	default:
		return c.importChange(e, result)
	}
	return nil
}

func (c *change) importNew(e *api.AllowEntry, known *store.Known, result *api.ImportResult) error {
	if known.Named(e.Name) {
		if err := freeName(c.Tx, e.Name, e.EKHash); err != nil {
			return err
		}
	}
	m := &store.Machine{EKHash: e.EKHash, CreatedAt: c.at, Evidence: api.EvidenceVouched}
	c.allow(m, e)
	result.Added++
	return c.AddMachine(m)
}

func (c *change) importChange(e *api.AllowEntry, result *api.ImportResult) error {
	m, err := c.Machine(e.EKHash)
	if err != nil {
		return err
	}
	if err := freeName(c.Tx, e.Name, e.EKHash); err != nil {
		return err
	}
	c.allow(m, e)
	result.Changed++
	return c.admit(m)
}

// allow makes m what the inventory says of it.
func (c *change) allow(m *store.Machine, e *api.AllowEntry) {
	m.Name, m.Labels, m.Allowed = e.Name, e.Labels, true
	m.Membership, m.MembershipBy = api.ByAllowList, c.actor
}
