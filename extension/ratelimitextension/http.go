package ratelimitextension

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/collector/extension/extensionmiddleware"
)

// GetHTTPHandler returns the middleware of HTTP servers. confighttp runs it
// after authentication and decompression.
func (e *Extension) GetHTTPHandler(context.Context) (extensionmiddleware.WrapHTTPHandlerFunc, error) {
	return func(_ context.Context, next http.Handler) (http.Handler, error) {
		return &handler{e, next}, nil
	}, nil
}

type handler struct {
	*Extension
	next http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l := h.limiter
	if !l.enter() {
		h.refuse(w, r, refusal{Concurrency, busyRetry})
		return
	}
	defer l.leave()
	if rule := l.rule(r.URL.Path); !rule.idle() {
		k := l.httpKey(r, &rule.by)
		// The beginning of what a request declares counts at once, the rest as it comes:
		// who declares a terabyte and sends nothing must not put its key into debt.
		size := int(min(max(r.ContentLength, 0), chunk))
		if refused, ok := l.admit(rule, k, size, time.Now()); !ok {
			h.refuse(w, r, refused)
			return
		}
		if rule.bytes.Limits() && r.Body != nil && r.Body != http.NoBody {
			r.Body = &countedBody{ReadCloser: r.Body, rule: rule, key: k, paid: size}
		}
	}
	if why, ok := h.shallow(r); !ok {
		h.refuse(w, r, refusal{reason: why})
		return
	}
	l.count(protocolHTTP, Admitted)
	h.next.ServeHTTP(w, r)
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, why refusal) {
	h.limiter.count(protocolHTTP, why.reason)
	writeRefusal(w, r, h.cfg.RejectedBy, why)
}

// countedBody takes what is read of a body from the bucket, a chunk at a time.
type countedBody struct {
	io.ReadCloser
	rule *rule
	key  key
	paid int // bytes that were taken already
	read int // since the last chunk
}

const chunk = 64 << 10

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	free := min(n, b.paid)
	b.paid -= free
	b.read += n - free
	if b.read >= chunk || err != nil {
		b.settle()
	}
	return n, err
}

func (b *countedBody) Close() error {
	b.settle()
	return b.ReadCloser.Close()
}

func (b *countedBody) settle() {
	if b.read > 0 {
		b.rule.bytes.Take(b.key, b.read, time.Now())
		b.read = 0
	}
}

func (l *limiter) httpKey(r *http.Request, by *keyBy) key {
	switch by.kind {
	case byIdentity:
		if id, ok := identity(r.TLS); ok {
			return textKey(byIdentity, id)
		}
	case byHeader:
		if values := r.Header[by.name]; len(values) > 0 {
			return textKey(byHeader, values[0])
		}
	case byQuery:
		if value, ok := queryValue(r.URL.RawQuery, by.name); ok {
			return textKey(byQuery, value)
		}
	default:
	}
	return addressKey(l.trusted.client(remoteAddr(r.RemoteAddr), r.Header[forwardedFor]), l.ipv6Prefix)
}

// queryValue returns the first value of a parameter, as url.Values.Get does,
// without a map of all.
func queryValue(raw, name string) (string, bool) {
	if strings.ContainsAny(raw, "%+;") { // names can be written in other ways
		values, _ := url.ParseQuery(raw)
		all := values[name]
		if len(all) == 0 || all[0] == "" {
			return "", false
		}
		return all[0], true
	}
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if value, ok := strings.CutPrefix(pair, name); ok && (value == "" || value[0] == '=') {
			value = strings.TrimPrefix(value, "=")
			return value, value != ""
		}
	}
	return "", false
}
