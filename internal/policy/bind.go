package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/telemark-otel/telemark/internal/reason"
)

// toName and toLabel are what a binding may refer to: the key's name, or one of
// its labels.
const (
	toName  = "name"
	toLabel = "label:"
)

// Binding ties a resource attribute to what is known of the key.
type Binding struct {
	Attribute string // key of the resource attribute
	Label     string // label of the key that it must equal; "" is the key's name
	Required  bool   // a resource without the attribute is refused too
}

// ParseBind reads the configured form {attribute: "name" | "label:KEY"} and
// the attributes among them that must be there. The result is sorted.
func ParseBind(bind map[string]string, required []string) ([]Binding, error) {
	out := make([]Binding, 0, len(bind))
	for _, attribute := range slices.Sorted(maps.Keys(bind)) {
		if attribute == "" {
			return nil, errors.New("an attribute to bind has no name")
		}
		b := Binding{Attribute: attribute, Required: slices.Contains(required, attribute)}
		switch to := bind[attribute]; {
		case to == toName:
		case strings.HasPrefix(to, toLabel) && len(to) > len(toLabel):
			b.Label = to[len(toLabel):]
		default:
			return nil, fmt.Errorf("%s is bound to %q, bind it to %q or to %q and a label's key", attribute, to, toName, toLabel)
		}
		out = append(out, b)
	}
	for _, attribute := range required {
		if _, ok := bind[attribute]; !ok {
			return nil, fmt.Errorf("%q is required but not bound, add it to the bound attributes", attribute)
		}
	}
	return out, nil
}

// Value returns what the attribute must be for a key, and whether the key has
// such a value at all.
func (b *Binding) Value(name string, labels map[string]string) (string, bool) {
	if b.Label == "" {
		return name, name != ""
	}
	v, ok := labels[b.Label]
	return v, ok
}

func (b *Binding) judge(f *Facts) error {
	want, known := b.Value(f.Name, f.Labels)
	seen := false
	for got := range f.Attributes.Values(b.Attribute) {
		seen = true
		if !known {
			return reason.New(reason.IdentityMismatch, "%s is bound to the label %q, which the key does not have", b.Attribute, b.Label)
		}
		if got != want {
			return reason.New(reason.IdentityMismatch, "%s is %q, the key stands for %q", b.Attribute, clip(got), want)
		}
	}
	if !seen && b.Required {
		return reason.New(reason.IdentityMismatch, "%s is required and not there", b.Attribute)
	}
	return nil
}

// clip bounds what a refused block can write into a log line.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
