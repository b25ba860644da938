package store

import "github.com/telemark-otel/telemark/internal/registry/api"

// Stats are counts for metrics. Machines without a key count under "".
type Stats struct {
	Machines  map[api.KeyState]int
	Instances map[api.InstanceState]int
	Tokens    int
	Revision  uint64
	AuditSeq  uint64
}

// Stats counts. It reads all machines and instances.
func (t *Tx) Stats() (Stats, error) {
	s := Stats{
		Machines:  make(map[api.KeyState]int),
		Instances: make(map[api.InstanceState]int),
		Revision:  t.state.revision,
		AuditSeq:  t.state.auditSeq,
	}
	now := millis(t.db.options.Now())
	err := t.each(func(scan scanner) error {
		var state api.KeyState
		var all, lapsed int
		if err := scan(&state, &all, &lapsed); err != nil {
			return err
		}
		if state != api.StateEnrolled {
			lapsed = 0
		}
		s.Machines[state] = all - lapsed
		if lapsed > 0 {
			s.Machines[api.StateExpired] = lapsed
		}
		return nil
	}, `SELECT key_state, COUNT(*), COUNT(CASE WHEN key_expires <= $1 THEN 1 END) FROM machines GROUP BY key_state`, now)
	if err != nil {
		return s, err
	}
	err = t.each(func(scan scanner) error {
		var state api.InstanceState
		var all, lapsed int
		if err := scan(&state, &all, &lapsed); err != nil {
			return err
		}
		if state != api.TDXVerified {
			lapsed = 0
		}
		s.Instances[state] = all - lapsed
		if lapsed > 0 {
			s.Instances[api.TDXExpired] = lapsed
		}
		return nil
	}, `SELECT state, COUNT(*), COUNT(CASE WHEN expires_at <= $1 THEN 1 END) FROM instances GROUP BY state`, now)
	if err != nil {
		return s, err
	}
	err = t.one(func(scan scanner) error { return scan(&s.Tokens) }, `SELECT COUNT(*) FROM join_tokens`)
	return s, err
}
