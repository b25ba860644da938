package tpm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// link is one connection. It implements transport.TPM for go-tpm. Whoever
// holds the Device's slot owns it.
type link struct {
	conn   wire.Conn
	opts   *Options
	life   context.Context
	shared bool
	broken error // why the connection is of no more use
}

// Bounds of the wait before a command is sent again.
const (
	resendMin = 5 * time.Millisecond
	resendMax = 500 * time.Millisecond
)

// Send sends one command, and sends it again while the TPM asks for that. The
// very same bytes are right: nothing was executed, and a session's nonces only move on success.
func (l *link) Send(command []byte) ([]byte, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	timeout := l.opts.CommandTimeout
	switch tpm2.TPMCC(wire.Code(command)) {
	case tpm2.TPMCCCreate, tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreateLoaded:
		timeout = l.opts.CreateTimeout
	default:
	}
	wait := resendMin
	for begun := time.Now(); ; wait = min(2*wait, resendMax) {
		answer, err := l.conn.Exchange(command, timeout)
		if err != nil {
			return nil, l.breakOff(err)
		}
		if !asksAgain(answer) || time.Since(begun)+wait > l.opts.RetryFor {
			return answer, nil
		}
		select {
		case <-time.After(wait):
		case <-l.life.Done():
			return nil, l.breakOff(ErrClosed)
		}
	}
}

// asksAgain says whether an answer asks to send the command again (part 2,
// section 6.6.3).
func asksAgain(answer []byte) bool {
	switch canonical(tpm2.TPMRC(wire.Code(answer))) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	default:
		return false
	}
}

// breakOff notes that the connection is of no more use.
func (l *link) breakOff(err error) error {
	if !isAny(err, ErrTimeout, ErrMalformed, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	l.broken = err
	return err
}

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// exec executes a command. Beside response codes of the TPM it returns errors
// of the connection only: what go-tpm cannot read, be it an error or a panic over a
// length that lies, or whose HMAC it does not accept, is ErrMalformed and ends the connection.
func exec[R any](l *link, cmd tpm2.Command[R, *R], sessions ...tpm2.Session) (rsp *R, err error) {
	name := "TPM2_" + strings.TrimPrefix(fmt.Sprintf("%T", cmd), "tpm2.")
	defer func() {
		if p := recover(); p != nil {
			rsp, err = nil, fmt.Errorf("%s: %w", name, l.breakOff(fmt.Errorf("%w: %v", ErrMalformed, p)))
		}
	}()
	if rsp, err = cmd.Execute(l, sessions...); err != nil {
		return nil, fmt.Errorf("%s: %w", name, l.judge(err))
	}
	return rsp, nil
}

// judge reduces an error of go-tpm to the response code in it, or to the
// reason why the connection is of no more use.
func (l *link) judge(err error) error {
	var rc tpm2.TPMRC
	switch {
	case err == nil:
		return nil
	case l.broken != nil:
		return l.broken
	case errors.As(err, &rc):
		return rc
	default:
		return l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
}

// flush removes an object or session from the TPM. Part 3, section 28.4,
// TPM2_FlushContext.
func (l *link) flush(h tpm2.TPMHandle) error {
	_, err := exec(l, tpm2.FlushContext{FlushHandle: h})
	return err
}

// flushQuietly is for defer: an object that cannot be flushed because the
// connection broke is flushed when it is made again.
func (l *link) flushQuietly(h tpm2.TPMHandle) { _ = l.flush(h) }

// maxHandles bounds how many handles are listed, many times what TPMs hold.
const maxHandles = 256

// handles lists the handles of a kind. Part 3, section 30.2, TPM2_GetCapability.
func (l *link) handles(kind tpm2.TPMHT) ([]tpm2.TPMHandle, error) {
	rsp, err := exec(l, tpm2.GetCapability{
		Capability:    tpm2.TPMCapHandles,
		Property:      uint32(kind) << 24,
		PropertyCount: maxHandles,
	})
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	return list.Handle, nil
}

// properties reads count properties from first on. Part 3, section 30.2,
// TPM2_GetCapability.
func (l *link) properties(first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	rsp, err := exec(l, tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(first),
		PropertyCount: count,
	})
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	m := make(map[tpm2.TPMPT]uint32, len(list.TPMProperty))
	for _, p := range list.TPMProperty {
		m[p.Property] = p.Value
	}
	return m, nil
}

func (l *link) property(p tpm2.TPMPT) (uint32, error) {
	m, err := l.properties(p, 1)
	return m[p], err
}
