// Package httpd is what the daemons of this house share of serving HTTP (RFC
// 9110, RFC 9112): connections, bodies and answers within bounds, whoever is on
// the other side. It knows no routes and no reasons: what it refuses is a Fault,
// whose word every daemon has among its reasons.
package httpd

import (
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Word is why something was refused here. The same words are reasons of
// registryd and identityd.
type Word string

// The words.
const (
	BadRequest     Word = "bad_request"
	BodyTooLarge   Word = "body_too_large"
	RequestTimeout Word = "request_timeout"
	MediaType      Word = "unsupported_media_type"
	Busy           Word = "busy"
)

// Fault is a refusal. Err stands in logs and is not sent.
type Fault struct {
	Word   Word
	Detail string
	Err    error
}

func (f *Fault) Error() string {
	if f.Err != nil {
		return fmt.Sprintf("%s: %s: %v", f.Word, f.Detail, f.Err)
	}
	return string(f.Word) + ": " + f.Detail
}

func (f *Fault) Unwrap() error { return f.Err }

func fault(w Word, format string, args ...any) *Fault {
	return &Fault{Word: w, Detail: fmt.Sprintf(format, args...)}
}

// Times and sizes of a server.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
)

// New returns a server without a listener. Bodies and answers have deadlines of
// their own (Answer.Deadlines), since some answers go on.
func New(h http.Handler, logger *zap.Logger) *http.Server {
	std, _ := zap.NewStdLogAt(logger.Named("http"), zap.DebugLevel) // fails for levels that do not exist
	return &http.Server{
		DisableGeneralOptionsHandler: true, // it would answer OPTIONS * past the handler
		Handler:                      h,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     std,
	}
}
