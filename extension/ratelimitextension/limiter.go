package ratelimitextension

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/telemark-otel/telemark/internal/limit"
)

// Reason says why a request was refused.
type Reason uint8

// The reasons.
const (
	Admitted    Reason = iota
	RequestRate        // too many requests of this key
	ByteRate           // too many bytes of this key
	Concurrency        // too many requests at the same time, of all keys
	TooDeep            // a value nests too deep; for good
	Malformed          // no JSON of OTLP; for good
	reasons
)

func (r Reason) String() string {
	switch r {
	case Admitted:
		return "admitted"
	case RequestRate:
		return "request_rate"
	case ByteRate:
		return "byte_rate"
	case Concurrency:
		return "concurrency"
	case TooDeep:
		return "too_deep"
	case Malformed:
		return "malformed"
	default:
		return "unknown"
	}
}

// protocol is how a request came.
type protocol uint8

const (
	protocolHTTP protocol = iota
	protocolGRPC
	protocols
)

func (p protocol) String() string { return [...]string{"http", "grpc"}[p] }

// maxDebt is how far bytes may be overdrawn, in the time they take to come
// back: nobody is shut out for longer, whatever he sent at once.
const maxDebt = 5 * time.Minute

// busyRetry is when to come again after a refusal for concurrency: nobody
// knows how long requests take.
const busyRetry = time.Second

// refusal is a verdict other than Admitted, or the zero value.
type refusal struct {
	reason Reason
	retry  time.Duration
}

// rule is a Rule that is in force.
type rule struct {
	path     string // without *
	prefix   bool
	by       keyBy
	requests *limit.Shards[key]
	bytes    *limit.Shards[key]
	rates    [2]limit.Rate // of the two
}

func (r *rule) matches(path string) bool {
	return path == r.path || r.prefix && strings.HasPrefix(path, r.path)
}

// idle says that the rule limits nothing, so that no key need be made.
func (r *rule) idle() bool { return !r.requests.Limits() && !r.bytes.Limits() }

// limiter judges requests. Its methods may be called at the same time.
type limiter struct {
	rules         []rule
	rest          rule // whatever no rule is for
	maxConcurrent int64
	maxKeys       int
	maxNesting    int
	trusted       proxies
	ipv6Prefix    int

	inFlight atomic.Int64
	admitted [protocols]atomic.Uint64
	refused  [protocols][reasons]atomic.Uint64
}

// newLimiter takes a configuration that is valid.
func newLimiter(cfg *Config) (*limiter, error) {
	trusted, err := parseNetworks(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	l := &limiter{
		maxConcurrent: cfg.MaxConcurrent, maxKeys: cfg.MaxKeys, maxNesting: cfg.MaxNesting,
		trusted: trusted, ipv6Prefix: cfg.IPv6PrefixLength,
		rules: make([]rule, len(cfg.Rules)),
	}
	if l.rest, err = newRule(cfg, &Rule{Requests: cfg.Requests, Bytes: cfg.Bytes}); err != nil {
		return nil, err
	}
	for i := range cfg.Rules {
		if l.rules[i], err = newRule(cfg, &cfg.Rules[i]); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func newRule(cfg *Config, r *Rule) (rule, error) {
	by := r.KeyBy
	if by == "" {
		by = cfg.KeyBy
	}
	k, err := parseKeyBy(by)
	if err != nil {
		return rule{}, err
	}
	out := rule{by: k, rates: [2]limit.Rate{r.Requests.limit(), r.Bytes.limit()}}
	out.path, out.prefix = strings.CutSuffix(r.Path, "*")
	out.requests = limit.NewShards[key](out.rates[0], cfg.MaxKeys, 0)
	out.bytes = limit.NewShards[key](out.rates[1], cfg.MaxKeys, maxDebt)
	return out, nil
}

func (l *limiter) rule(path string) *rule {
	for i := range l.rules {
		if l.rules[i].matches(path) {
			return &l.rules[i]
		}
	}
	return &l.rest
}

// enter takes a place among those that are served; leave gives it back.
func (l *limiter) enter() (ok bool) {
	if n := l.inFlight.Add(1); l.maxConcurrent > 0 && n > l.maxConcurrent {
		l.inFlight.Add(-1)
		return false
	}
	return true
}

func (l *limiter) leave() { l.inFlight.Add(-1) }

// admit judges one request or message of size bytes, as far as they are known.
// Who is refused for one limit has used nothing of the other.
func (l *limiter) admit(r *rule, k key, size int, now time.Time) (refusal, bool) {
	if ok, retry := r.bytes.Lend(k, 0, now); !ok {
		return refusal{ByteRate, retry}, false
	}
	if ok, retry := r.requests.Allow(k, 1, now); !ok {
		return refusal{RequestRate, retry}, false
	}
	r.bytes.Take(k, size, now)
	return refusal{}, true
}

func (l *limiter) count(p protocol, why Reason) {
	if why == Admitted {
		l.admitted[p].Add(1)
		return
	}
	l.refused[p][why].Add(1)
}

func (l *limiter) buckets() (n int) {
	n = l.rest.requests.Len() + l.rest.bytes.Len()
	for i := range l.rules {
		n += l.rules[i].requests.Len() + l.rules[i].bytes.Len()
	}
	return n
}

// status is the state of all limits, with the fullest buckets of each rule.
func (l *limiter) status(name string, fullest int, now time.Time) limit.Status {
	s := limit.Status{
		Name: name, InFlight: l.inFlight.Load(), MaxConcurrent: l.maxConcurrent,
		Refused: map[string]uint64{},
	}
	for p := range protocols {
		s.Admitted += l.admitted[p].Load()
		for why := RequestRate; why < reasons; why++ {
			if n := l.refused[p][why].Load(); n > 0 {
				s.Refused[why.String()] += n
			}
		}
	}
	for i := range l.rules {
		s.Rules = append(s.Rules, l.rules[i].status(l.maxKeys, fullest, now))
	}
	s.Rules = append(s.Rules, l.rest.status(l.maxKeys, fullest, now))
	return s
}

func (r *rule) status(maxKeys, fullest int, now time.Time) limit.RuleStatus {
	s := limit.RuleStatus{
		Path: r.path, KeyBy: r.by.config, Requests: r.rates[0].String(), Bytes: r.rates[1].String(),
		MaxKeys: maxKeys, Buckets: max(r.requests.Len(), r.bytes.Len()),
	}
	if r.prefix {
		s.Path += "*"
	}
	if fullest > 0 {
		s.Fullest = r.fullest(fullest, now)
	}
	return s
}

// fullest returns the n keys of which most is used of one of their limits.
func (r *rule) fullest(n int, now time.Time) []limit.BucketUse {
	seen := map[key]bool{}
	var out []limit.BucketUse
	for _, u := range slices.Concat(r.requests.Fullest(n, now), r.bytes.Fullest(n, now)) {
		if !seen[u.Key] {
			seen[u.Key] = true
			out = append(out, limit.BucketUse{Key: u.Key.show(&r.by), Requests: r.requests.Used(u.Key, now), Bytes: r.bytes.Used(u.Key, now)})
		}
	}
	slices.SortFunc(out, func(a, b limit.BucketUse) int {
		return cmp.Or(cmp.Compare(max(b.Requests, b.Bytes), max(a.Requests, a.Bytes)), strings.Compare(a.Key, b.Key))
	})
	return out[:min(n, len(out))]
}
