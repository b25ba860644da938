package enrol

import (
	"errors"
	"path"
	"strings"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	ownPrefix = "tpm-"
	ownDigits = 12
)

// ownName is what a machine is called that nobody gave a name.
func ownName(ekHash string) string { return ownPrefix + ekHash[:ownDigits] }

// isOwnName reports whether a name has the form of ownName of some machine.
func isOwnName(name string) bool {
	digits, ok := strings.CutPrefix(strings.ToLower(name), ownPrefix)
	return ok && len(digits) == ownDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// retired is what stands in the names of machines that were replaced.
const retired = ".replaced."

// name decides what the machine is called: as it was, else as its token says,
// else as it asks, else by its hash. Another EK never takes a name by itself.
func (d *decision) name() error {
	m, asked := d.machine, d.claim.request.Name
	name := m.Name
	if d.token != nil && d.token.Name != "" {
		name = d.token.Name
	}
	switch {
	case name != "":
		if asked != "" && !strings.EqualFold(asked, name) {
			return api.Refuse(api.NameMismatch, "this is %q, and it asks for %q", name, asked)
		}
	case asked != "":
		if isOwnName(asked) && !strings.EqualFold(asked, ownName(m.EKHash)) {
			return api.Refuse(api.NameInvalid, "%q is what another machine is called that has no name", asked)
		}
		if strings.Contains(strings.ToLower(asked), retired) {
			return api.Refuse(api.NameInvalid, "%q is what a machine is called that was replaced", asked)
		}
		name = asked
	default:
		name = ownName(m.EKHash)
	}
	if d.token != nil && d.token.Name == "" && d.token.NamePattern != "" {
		if ok, err := path.Match(d.token.NamePattern, name); err != nil || !ok {
			return api.Refuse(api.NameMismatch, "%q is not of the form %q that token %s allows", name, d.token.NamePattern, d.token.ID)
		}
	}
	if strings.EqualFold(name, m.Name) {
		return nil
	}
	if err := d.free(name); err != nil {
		return err
	}
	m.Name = name
	return nil
}

// free makes room for a name. A machine that only waits for approval does not
// hold one against a machine that is let in.
func (d *decision) free(name string) error {
	holder, err := d.tx.MachineByName(name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case holder.EKHash == d.machine.EKHash:
		return nil
	case d.state == api.StateEnrolled && !holder.Allowed && holder.Membership == api.ByNothing && holder.Revoked == "":
		holder.Name = ""
		d.freed = holder
		return nil
	default:
		return api.Refuse(api.NameTaken, "%q is machine %s", name, holder.EKHash)
	}
}
