package proxy

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// header is the answer's header with the instance's key.
const header = "X-Instance-Pubkey"

func (p *Proxy) handler(errorLog *log.Logger) http.Handler {
	instance, target := hex.EncodeToString(p.o.Instance), p.upstream()
	reverse := &httputil.ReverseProxy{
		Transport:     p.transport(),
		FlushInterval: -1, // streams are passed on as they come
		ErrorLog:      errorLog,
		BufferPool:    &buffers{},
		ErrorHandler:  p.failed,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			clean(r.Out.Header)
			r.SetXForwarded()
		},
		ModifyResponse: func(resp *http.Response) error {
			own(resp, instance)
			return nil
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w = &writer{ResponseWriter: w, instance: instance}
		switch up := r.Header.Get("Upgrade"); {
		case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
			refuse(w, reason.MethodNotAllowed)
			return
		case up != "" && !strings.EqualFold(up, "websocket"):
			// What came after an upgrade to another protocol would pass unread.
			r.Header.Del("Upgrade")
		}
		// A workload may answer while the request still comes. HTTP/2 always can, and
		// says that it cannot be asked to.
		_ = http.NewResponseController(w).EnableFullDuplex()
		reverse.ServeHTTP(w, r)
	})
}

// clean removes what a proxy says of a client, in every spelling that a
// container might take for it, so that only this one says it.
func clean(h http.Header) {
	for name := range h {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(plain, "x-forwarded") || plain == "forwarded" || plain == "x-real-ip" ||
			plain == strings.ToLower(header) {
			delete(h, name)
		}
	}
}

// own removes the container's word about whose answer it is, also from trailers
// that it announced or did not.
func own(resp *http.Response, instance string) {
	resp.Header.Set(header, instance)
	delete(resp.Trailer, header)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &body{resp.Body, resp}
	}
}

// body looks at trailers when they have come.
type body struct {
	io.ReadCloser
	resp *http.Response
}

// Read implements io.Reader.
func (b *body) Read(to []byte) (int, error) {
	n, err := b.ReadCloser.Read(to)
	if err != nil {
		delete(b.resp.Trailer, header)
	}
	return n, err
}

// writer puts the key into every answer, those of status 100 to 199 and those of
// the proxy itself included.
type writer struct {
	http.ResponseWriter
	instance string
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	w.Header().Set(header, w.instance)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler) // nobody is there to be answered
	}
	p.o.Logger.Info("The workload does not answer", zap.String("method", r.Method), zap.Error(err))
	refuse(w, reason.UpstreamUnavailable)
}

func refuse(w http.ResponseWriter, why reason.Reason) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(why.Status())
	_ = json.NewEncoder(w).Encode(map[string]string{"error": why.Help(), "reason": string(why)})
}

// buffers are for copying bodies.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }
