package lint

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// values is one mapping of the configuration.
type values map[string]any

func asValues(v any) values {
	switch m := v.(type) {
	case map[string]any:
		return m
	case values:
		return m
	default:
		return nil
	}
}

// at walks down keys; nil when one is missing or no mapping.
func (v values) at(keys ...string) values {
	for _, k := range keys {
		v = asValues(v[k])
	}
	return v
}

func (v values) has(key string) bool {
	_, ok := v[key]
	return ok
}

func (v values) text(key string) string {
	switch s := v[key].(type) {
	case nil:
		return ""
	case string:
		return strings.TrimSpace(s)
	default:
		return fmt.Sprint(s)
	}
}

func (v values) texts(key string) []string {
	var out []string
	switch l := v[key].(type) {
	case []any:
		for _, e := range l {
			out = append(out, strings.TrimSpace(fmt.Sprint(e)))
		}
	case []string:
		out = slices.Clone(l)
	case string:
		for e := range strings.SplitSeq(l, ",") {
			out = append(out, strings.TrimSpace(e))
		}
	}
	return out
}

// flag returns a boolean, or otherwise when the key is missing or no boolean.
func (v values) flag(key string, otherwise bool) bool {
	switch b := v[key].(type) {
	case bool:
		return b
	case string:
		if p, err := strconv.ParseBool(b); err == nil {
			return p
		}
	}
	return otherwise
}

// positive reports whether the key holds a number or duration above zero.
func (v values) positive(key string) bool {
	switch n := v[key].(type) {
	case int:
		return n > 0
	case int64:
		return n > 0
	case uint64:
		return n > 0
	case float64:
		return n > 0
	case time.Duration:
		return n > 0
	case string:
		if d, err := time.ParseDuration(n); err == nil {
			return d > 0
		}
		f, err := strconv.ParseFloat(n, 64)
		return err == nil && f > 0
	default:
		return false
	}
}

// loopback reports whether an endpoint (host:port, a URL or a unix socket)
// can be reached from this machine only. An empty host is every interface.
func loopback(endpoint string) bool {
	if strings.HasPrefix(endpoint, "unix:") || strings.HasPrefix(endpoint, "/") || strings.HasPrefix(endpoint, "@") {
		return true
	}
	host := endpoint
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
		host = u.Host
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
