package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/telemark-otel/telemark/internal/registry/audit"
)

// maxDetail bounds the detail of an audit entry, in bytes of compact JSON.
const maxDetail = 256 << 10

// Audit appends to the audit log. Seq and hashes are set by the store, and At
// when it is zero. Detail is compacted; it may have at most 256 KiB.
func (t *Tx) Audit(e audit.Entry) error {
	if err := t.writable(); err != nil {
		return err
	}
	if err := checkTexts(e.Actor, e.Action, e.Subject); err != nil {
		return fmt.Errorf("an audit entry: %w", err)
	}
	if len(e.Detail) > 0 {
		var compact bytes.Buffer
		if err := json.Compact(&compact, e.Detail); err != nil {
			return fmt.Errorf("%w: the detail of an audit entry: %w", ErrInvalid, err)
		}
		e.Detail = compact.Bytes()
	}
	if len(e.Detail) > maxDetail || !utf8.Valid(e.Detail) {
		return fmt.Errorf("%w: the detail of an audit entry has %d bytes, at most %d of UTF-8 are kept", ErrInvalid, len(e.Detail), maxDetail)
	}
	if e.At.IsZero() {
		e.At = t.db.options.Now()
	}
	at := e.At.UnixMilli()
	e.Seq = t.state.auditSeq + 1
	e.Hash = audit.Hash(t.state.auditHash, &e)
	if err := t.later(`INSERT INTO audit_log (seq, at, actor, action, subject, detail, hash)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.Seq, at, e.Actor, e.Action, e.Subject, string(e.Detail), e.Hash); err != nil {
		return err
	}
	t.state.auditSeq, t.state.auditHash, t.state.auditAt = e.Seq, e.Hash, at
	return nil
}

// AuditEntries returns up to limit (at most 1,000) entries with a number above
// after.
func (t *Tx) AuditEntries(after uint64, limit int) ([]audit.Entry, error) {
	var entries []audit.Entry
	err := t.each(func(scan scanner) error {
		var e audit.Entry
		var at int64
		var detail string
		if err := scan(&e.Seq, &at, &e.Actor, &e.Action, &e.Subject, &detail, &e.Hash); err != nil {
			return err
		}
		e.At = exactMillis(at)
		if detail != "" {
			e.Detail = json.RawMessage(detail)
		}
		entries = append(entries, e)
		return nil
	}, `SELECT seq, at, actor, action, subject, detail, hash FROM audit_log
			WHERE seq > $1 ORDER BY seq LIMIT $2`, bounded(after), page(limit))
	return entries, err
}
