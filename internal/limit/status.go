package limit

// Status is what whoever limits tells about his limits.
type Status struct {
	Name          string            `json:"name"`
	Admitted      uint64            `json:"admitted"`          // requests since the start
	Refused       map[string]uint64 `json:"refused,omitempty"` // the same, by reason
	InFlight      int64             `json:"in_flight"`
	MaxConcurrent int64             `json:"max_concurrent"` // 0: no limit
	Rules         []RuleStatus      `json:"rules"`
}

// RuleStatus is one rule.
type RuleStatus struct {
	Path     string      `json:"path,omitempty"` // none: whatever has no rule of its own
	KeyBy    string      `json:"key_by"`
	Requests string      `json:"requests"` // as ParseRate reads it
	Bytes    string      `json:"bytes"`
	MaxKeys  int         `json:"max_keys"`
	Buckets  int         `json:"buckets"`
	Fullest  []BucketUse `json:"fullest,omitempty"` // nearest to their limit first
}

// BucketUse is how much of one key's limits is used: 1 is all, more is
// overdrawn.
type BucketUse struct {
	Key      string  `json:"key"`
	Requests float64 `json:"requests"`
	Bytes    float64 `json:"bytes"`
}
