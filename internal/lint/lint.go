package lint

import (
	"slices"
	"strings"

	"github.com/telemark-otel/telemark/internal/block"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	// Error: blocks will be refused, lost, or accepted from the wrong hands.
	Error Severity = "error"
	// Warning: it works, but worse than it could, or only under conditions
	// that the configuration does not show.
	Warning Severity = "warning"
)

// Finding is one place in a configuration that breaks a rule.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Key      string   `json:"key"`     // as Path, in the collector's notation a::b::c
	Found    string   `json:"found"`   // what stands there
	Why      string   `json:"why"`     // what comes of it
	Instead  string   `json:"instead"` // what to write
	Path     []string `json:"-"`       // a list index is an element of the form "[2]"
}

// Options are what the configuration itself cannot tell.
type Options struct {
	// Tolerate is what the signers of the data tolerate that reaches this
	// collector signed. It matters for gateways and receiving collectors; for
	// what is signed here the `tolerate` of tpmsign counts.
	Tolerate block.Tolerance
}

// Run applies every rule to the configuration and returns the findings in the
// order of the rules, and of pipelines within a rule.
func Run(config map[string]any, opts Options) []Finding {
	m := newModel(config, opts)
	var out []Finding
	for _, r := range rules {
		seen := map[string]bool{}
		r.check(m, func(path []string, found string) {
			key := joinPath(path)
			if seen[key+"\x00"+found] {
				return
			}
			seen[key+"\x00"+found] = true
			out = append(out, Finding{
				Rule: r.ID, Severity: r.Severity, Key: key, Path: slices.Clone(path),
				Found: found, Why: r.Why, Instead: r.Instead,
			})
		})
	}
	return out
}

// Rule is one thing that Run looks for. Its ID does not change, so that
// documents can name it.
type Rule struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	Why      string   `json:"why"`
	Instead  string   `json:"instead"`

	check func(*model, reporter)
}

type reporter func(path []string, found string)

// Rules returns the rules in the order in which Run applies them.
func Rules() []Rule { return slices.Clone(rules) }

// joinPath writes a path as the collector's own messages do.
func joinPath(path []string) string {
	var b strings.Builder
	for i, p := range path {
		if i > 0 && !strings.HasPrefix(p, "[") {
			b.WriteString("::")
		}
		b.WriteString(p)
	}
	return b.String()
}
