package tpmextension

import (
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
)

// state is where the signer stands.
type state int

const (
	stateStopped state = iota // not started, or shut down
	stateOpening              // TPM, key or epoch are not there yet
	stateReady                // the last attempt succeeded
	stateFailing              // the last attempt failed, the next may succeed
	stateFailed               // somebody has to repair something and start again
)

func (s state) String() string {
	switch s {
	case stateStopped:
		return "stopped"
	case stateOpening:
		return "opening"
	case stateReady:
		return "ready"
	case stateFailing:
		return "failing"
	case stateFailed:
		return "failed"
	default:
		return "unknown"
	}
}

// health remembers the state and tells the Collector of each change.
type health struct {
	// reporting is held from a change to its report, so that reports arrive in
	// order; mu is not, so that who is told may ask back.
	reporting sync.Mutex

	mu    sync.Mutex
	host  component.Host // nil when stopped
	state state
	err   error
}

// begin starts a life with this host.
func (h *health) begin(host component.Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.host = host
}

// end stops reporting: after it the Collector speaks for the component.
func (h *health) end() {
	h.reporting.Lock()
	defer h.reporting.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.host, h.state, h.err = nil, stateStopped, nil
}

// set moves to s and says whether anything changed.
func (h *health) set(s state, err error) bool {
	h.reporting.Lock()
	defer h.reporting.Unlock()
	host := h.move(s, err)
	if host == nil {
		return false
	}
	componentstatus.ReportStatus(host, event(s, err))
	return true
}

// move returns whom to tell, nil when nothing changed.
func (h *health) move(s state, err error) component.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == stateFailed || h.state == s && message(h.err) == message(err) {
		return nil // and nothing follows a permanent error but the end
	}
	if h.host != nil {
		h.state, h.err = s, err
	}
	return h.host
}

func (h *health) get() (state, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.err
}

func event(s state, err error) *componentstatus.Event {
	switch s {
	case stateReady:
		return componentstatus.NewEvent(componentstatus.StatusOK)
	case stateFailed:
		return componentstatus.NewPermanentErrorEvent(err)
	default:
		return componentstatus.NewRecoverableErrorEvent(err)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
