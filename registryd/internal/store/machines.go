package store

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Machine is a TPM. Its key is EKHash; names are unique among all machines,
// allow-list entries included, compared without regard to case.
type Machine struct {
	EKHash        string
	Name          string // "" for none yet
	Labels        map[string]string
	Evidence      api.Evidence // "" before it enrolled
	Membership    api.Membership
	MembershipBy  string // token id, approver
	Allowed       bool   // on the allow-list, whose word also vouches for the EK
	EKPublic      []byte // TPMT_PUBLIC, nil before it enrolled
	EKCertificate []byte // DER
	AKName        []byte // that was activated last
	Revoked       string // why
	CreatedAt     time.Time
	SeenAt        time.Time
	Revision      uint64
}

// Columns of a machine, of the table m.
const (
	machineColumns = `m.ek_hash, m.name, m.labels, m.evidence, m.membership, m.membership_by, m.allowed,
			m.revoked, m.created_at, m.seen_at, m.revision`
	machineBlobs = `, m.ek_public, m.ek_certificate, m.ak_name`
)

// machineRow holds what Scan fills, until it is a Machine.
type machineRow struct {
	Machine
	labels            string
	allowed           int
	createdAt, seenAt int64
}

func (r *machineRow) columns() []any {
	return []any{
		&r.EKHash, &r.Name, &r.labels, &r.Evidence, &r.Membership, &r.MembershipBy, &r.allowed,
		&r.Revoked, &r.createdAt, &r.seenAt, &r.Revision,
	}
}

func (r *machineRow) blobs() []any { return []any{&r.EKPublic, &r.EKCertificate, &r.AKName} }

func (r *machineRow) machine() (*Machine, error) {
	m := r.Machine
	m.Allowed = r.allowed != 0
	m.CreatedAt, m.SeenAt = fromMillis(r.createdAt), fromMillis(r.seenAt)
	return &m, fromJSON(r.labels, &m.Labels)
}

// Machine returns the machine with this EK hash, or ErrNotFound.
func (t *Tx) Machine(ekHash string) (*Machine, error) {
	return t.machine(`m.ek_hash = $1`, ekHash)
}

// MachineByName returns the machine with this name, or ErrNotFound.
func (t *Tx) MachineByName(name string) (*Machine, error) {
	if name == "" || checkTexts(name) != nil {
		return nil, ErrNotFound
	}
	return t.machine(`m.name_key = $1 AND m.name_key <> ''`, fold(name))
}

func (t *Tx) machine(where string, arg string) (m *Machine, err error) {
	if checkTexts(arg) != nil {
		return nil, ErrNotFound
	}
	err = t.one(func(scan scanner) error {
		m, err = scanMachine(scan)
		return err
	}, `SELECT `+machineColumns+machineBlobs+` FROM machines m WHERE `+where, arg)
	return m, err
}

// Known is what the store has of many machines.
type Known struct {
	Machines map[string]*Machine // by EK hash
	names    map[string]bool     // folded
}

// Named reports whether a machine has this name.
func (k *Known) Named(name string) bool { return k.names[fold(name)] }

// asked is how many machines one statement asks for.
const asked = 500

// Known returns which machines of these EK hashes there are, and which of the
// names a machine has, with few statements.
func (t *Tx) Known(ekHashes, names []string) (*Known, error) {
	k := &Known{Machines: map[string]*Machine{}, names: map[string]bool{}}
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = fold(name)
	}
	err := t.eachOf(ekHashes, `SELECT `+machineColumns+machineBlobs+` FROM machines m WHERE m.ek_hash IN `, func(scan scanner) error {
		m, err := scanMachine(scan)
		if err == nil {
			k.Machines[m.EKHash] = m
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = t.eachOf(keys, `SELECT name_key FROM machines WHERE name_key <> '' AND name_key IN `, func(scan scanner) error {
		var key string
		err := scan(&key)
		k.names[key] = true
		return err
	})
	return k, err
}

// eachOf calls row for every row of a statement that ends with IN, asked for some
// values at a time.
func (t *Tx) eachOf(values []string, statement string, row func(scanner) error) error {
	for chunk := range slices.Chunk(values, asked) {
		if err := checkTexts(chunk...); err != nil {
			return err
		}
		var in where
		marks := make([]string, len(chunk))
		for i, v := range chunk {
			marks[i] = in.arg(v)
		}
		if err := t.each(row, statement+"("+strings.Join(marks, ", ")+")", in.args...); err != nil {
			return err
		}
	}
	return nil
}

func scanMachine(scan scanner) (*Machine, error) {
	var r machineRow
	if err := scan(append(r.columns(), r.blobs()...)...); err != nil {
		return nil, err
	}
	return r.machine()
}

// PutMachine writes a machine under the transaction's next revision, which it
// sets in m. A name that another machine has is ErrExists; nothing is written
// then, and the transaction may go on.
func (t *Tx) PutMachine(m *Machine) error {
	if err := checkMachine(m); err != nil {
		return fmt.Errorf("a machine: %w", err)
	}
	key, labels := fold(m.Name), toJSON(m.Labels)
	relabel, taken := true, false
	err := t.each(func(scan scanner) error {
		var ekHash, hasKey, hasLabels string
		if err := scan(&ekHash, &hasKey, &hasLabels); err != nil {
			return err
		}
		if ekHash == m.EKHash {
			relabel = hasKey != key || hasLabels != labels
		} else {
			taken = true
		}
		return nil
	}, `SELECT ek_hash, name_key, labels FROM machines
			WHERE ek_hash = $1 OR (name_key = $2 AND name_key <> '')`, m.EKHash, key)
	if err != nil {
		return err
	}
	if taken {
		return fmt.Errorf("%w: a machine with the name %.64q", ErrExists, m.Name)
	}
	if err := t.writeMachine(m, key, labels, replacing); err != nil || !relabel {
		return err
	}
	if err := t.later(`DELETE FROM machine_labels WHERE ek_hash = $1`, m.EKHash); err != nil {
		return err
	}
	return t.addLabels(m, key)
}

// AddMachine is PutMachine for one that Known does not know, whose name is free
// too: it needs no answer of the database. Otherwise the transaction fails.
func (t *Tx) AddMachine(m *Machine) error {
	if err := checkMachine(m); err != nil {
		return fmt.Errorf("a machine: %w", err)
	}
	key := fold(m.Name)
	if err := t.writeMachine(m, key, toJSON(m.Labels), ""); err != nil {
		return err
	}
	return t.addLabels(m, key)
}

// replacing is what makes an INSERT of a machine one of its next state.
const replacing = ` ON CONFLICT (ek_hash) DO UPDATE SET name = excluded.name, name_key = excluded.name_key,
				labels = excluded.labels, evidence = excluded.evidence, membership = excluded.membership,
				membership_by = excluded.membership_by, allowed = excluded.allowed,
				ek_public = excluded.ek_public, ek_certificate = excluded.ek_certificate,
				ak_name = excluded.ak_name, revoked = excluded.revoked, created_at = excluded.created_at,
				seen_at = excluded.seen_at, revision = excluded.revision`

func (t *Tx) writeMachine(m *Machine, key, labels, conflict string) error {
	revision, err := t.NextRevision()
	if err != nil {
		return err
	}
	if err := t.later(`INSERT INTO machines (ek_hash, name, name_key, labels, evidence, membership,
				membership_by, allowed, ek_public, ek_certificate, ak_name, revoked, created_at, seen_at, revision)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`+conflict,
		m.EKHash, m.Name, key, labels, string(m.Evidence), string(m.Membership), m.MembershipBy, flag(m.Allowed),
		m.EKPublic, m.EKCertificate, m.AKName, m.Revoked, millis(m.CreatedAt), millis(m.SeenAt), revision); err != nil {
		return err
	}
	m.Revision = revision
	return nil
}

// addLabels writes the table that lists are filtered with.
func (t *Tx) addLabels(m *Machine, nameKey string) error {
	if len(m.Labels) == 0 {
		return nil
	}
	rows, args := make([]string, 0, len(m.Labels)), []any{m.EKHash, nameKey}
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		args = append(args, k, m.Labels[k])
		rows = append(rows, fmt.Sprintf("($1, $%d, $%d, $2)", len(args)-1, len(args)))
	}
	return t.later(`INSERT INTO machine_labels (ek_hash, k, v, name_key) VALUES `+strings.Join(rows, ", "), args...)
}

func checkMachine(m *Machine) error {
	if err := checkIDs(m.EKHash); err != nil {
		return err
	}
	if err := checkTexts(m.Name, string(m.Evidence), string(m.Membership), m.MembershipBy, m.Revoked); err != nil {
		return err
	}
	if len(m.Name) > maxName {
		return fmt.Errorf("%w: a name of %d bytes, at most %d are kept", ErrInvalid, len(m.Name), maxName)
	}
	if err := checkLabels(m.Labels); err != nil {
		return err
	}
	return checkBlobs(m.EKPublic, m.EKCertificate, m.AKName)
}

// DeleteMachine deletes a machine and its keys: for pending ones only. One with
// a key that is not pending is ErrInvalid.
func (t *Tx) DeleteMachine(ekHash string) error {
	keys, err := t.KeysOf(ekHash)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.State != api.StatePending {
			return fmt.Errorf("%w: a machine is deleted whose key is %s", ErrInvalid, k.State)
		}
	}
	if _, err := t.NextRevision(); err != nil {
		return err
	}
	n, err := t.exec(`DELETE FROM machines WHERE ek_hash = $1`, ekHash)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// MachineFilter selects machines; zero members select all.
type MachineFilter struct {
	State  api.KeyState      // of the newest key; expired too
	Name   string            // prefix
	Labels map[string]string // all of them, at most 64
	After  string            // cursor that Machines returned
	Limit  int               // 1 to 1,000
}

// Machines returns machines in the order of name and EK hash, and the cursor of
// the next page, "" at the end. EKPublic, EKCertificate and AKName are left out.
func (t *Tx) Machines(f MachineFilter) ([]*Machine, string, error) {
	w, err := t.machineWhere(&f)
	if err != nil {
		return nil, "", err
	}
	limit := page(f.Limit)
	var machines []*Machine
	err = t.each(func(scan scanner) error {
		var r machineRow
		if err := scan(r.columns()...); err != nil {
			return err
		}
		m, err := r.machine()
		machines = append(machines, m)
		return err
	}, w.statement(limit+1), w.args...)
	if err != nil || len(machines) <= limit {
		return machines, "", err
	}
	machines = machines[:limit]
	last := machines[limit-1]
	return machines, machineCursor(fold(last.Name), last.EKHash), nil
}

// where is a query for machines. With labels it goes along the index of the
// first one, else along one of the machines'.
type where struct {
	from, order string
	terms       []string
	args        []any
}

func (w *where) arg(v any) string {
	w.args = append(w.args, v)
	return fmt.Sprintf("$%d", len(w.args))
}

func (w *where) term(format string, values ...any) {
	names := make([]any, len(values))
	for i, v := range values {
		names[i] = w.arg(v)
	}
	w.terms = append(w.terms, fmt.Sprintf(format, names...))
}

func (w *where) statement(limit int) string {
	s := "SELECT " + machineColumns + " FROM " + w.from
	if len(w.terms) > 0 {
		s += " WHERE " + strings.Join(w.terms, " AND ")
	}
	return s + " ORDER BY " + w.order + " LIMIT " + w.arg(limit)
}

func (t *Tx) machineWhere(f *MachineFilter) (*where, error) {
	if err := checkTexts(f.Name); err != nil {
		return nil, err
	}
	if err := checkLabels(f.Labels); err != nil {
		return nil, err
	}
	w := &where{from: "machines m", order: "m.name_key, m.ek_hash"}
	ordered := "m"
	for i, k := range slices.Sorted(maps.Keys(f.Labels)) {
		if i == 0 {
			ordered = "l"
			w.from, w.order = "machine_labels l JOIN machines m ON m.ek_hash = l.ek_hash", "l.name_key, l.ek_hash"
			w.term("l.k = %s AND l.v = %s", k, f.Labels[k])
			continue
		}
		w.term("EXISTS (SELECT 1 FROM machine_labels o WHERE o.ek_hash = m.ek_hash AND o.k = %s AND o.v = %s)", k, f.Labels[k])
	}
	if f.Name != "" {
		prefix := fold(f.Name)
		w.term(ordered+".name_key >= %s AND "+ordered+".name_key < %s", prefix, prefix+"\U0010ffff")
	}
	if f.After != "" {
		name, ekHash, err := parseMachineCursor(f.After)
		if err != nil {
			return nil, err
		}
		w.term("("+ordered+".name_key, "+ordered+".ek_hash) > (%s, %s)", name, ekHash)
	}
	switch f.State {
	case "":
	case api.StateEnrolled:
		w.term("m.key_state = %s AND m.key_expires > %s", string(f.State), millis(t.db.options.Now()))
	case api.StateExpired:
		w.term("m.key_state = %s AND m.key_expires <= %s", string(api.StateEnrolled), millis(t.db.options.Now()))
	case api.StatePending, api.StateSuperseded, api.StateRevoked:
		w.term("m.key_state = %s", string(f.State))
	default:
		return nil, fmt.Errorf("%w: there is no state %.64q", ErrInvalid, f.State)
	}
	return w, nil
}

// A cursor is base64url of name and EK hash with a zero byte between.
func machineCursor(nameKey, ekHash string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(nameKey + "\x00" + ekHash))
}

func parseMachineCursor(s string) (nameKey, ekHash string, err error) {
	if len(s) <= 2*(maxName+maxID) {
		var b []byte
		if b, err = base64.RawURLEncoding.DecodeString(s); err == nil {
			name, hash, ok := strings.Cut(string(b), "\x00")
			if ok && checkTexts(name) == nil && checkIDs(hash) == nil {
				return name, hash, nil
			}
		}
	}
	return "", "", fmt.Errorf("%w: %.64q is no cursor of a list of machines", ErrInvalid, s)
}

// CountPending returns how many machines wait for approval.
func (t *Tx) CountPending() (n int, err error) {
	err = t.one(func(scan scanner) error { return scan(&n) },
		`SELECT COUNT(*) FROM machines WHERE key_state = $1`, string(api.StatePending))
	return n, err
}
