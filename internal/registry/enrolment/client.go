package enrolment

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// Device is the TPM of a machine; *tpm.Device is one.
type Device interface {
	ChooseEK(ctx context.Context) (tpm.EKAlgorithm, error)
	EK(ctx context.Context, algorithm tpm.EKAlgorithm) (*tpm.EK, error)
	EKCertificateChain(ctx context.Context) ([][]byte, error)
	AK(ctx context.Context) (*tpm.AK, error)
	ActivateCredential(ctx context.Context, c tpm.Credential) ([]byte, error)
	QuotePCRs(ctx context.Context, qualifying []byte, pcrs []uint) (*tpm.PCRQuote, error)
}

// Key is the signing key in that TPM; *tpm.Key is one.
type Key interface {
	KID() []byte
	Info() tpm.KeyInfo
	Certify(ctx context.Context, qualifying []byte) (*tpm.Attestation, error)
}

// DefaultTimeout bounds one request and its answer.
const DefaultTimeout = 30 * time.Second

// DefaultEventLog is where Linux shows the boot's event log.
const DefaultEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// Options of New.
type Options struct {
	// Endpoint is the URL under which the registry answers /v1/.
	Endpoint string
	// HTTP sends the requests. Redirects are not followed, whatever it says:
	// configured headers would go to a host that nobody configured.
	HTTP   *http.Client
	Device Device
	Key    Key
	// EK is the endorsement key that names the machine; 0 lets the device choose.
	EK tpm.EKAlgorithm
	// EventLog is the path of the boot's event log; "" is none.
	EventLog string
	// Timeout bounds each request with its answer; 0 is DefaultTimeout.
	Timeout time.Duration
}

// Client enrols one key. It is not safe for concurrent use.
type Client struct {
	endpoint string
	http     *http.Client
	device   Device
	key      Key
	ek       tpm.EKAlgorithm
	eventLog string
	timeout  time.Duration

	machine *machine // kept between attempts, since making keys takes a TPM long
}

// New returns a client. It sends nothing.
func New(o Options) (*Client, error) {
	endpoint, err := baseURL(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.HTTP == nil || o.Device == nil || o.Key == nil {
		return nil, errors.New("enrolment needs an HTTP client, a device and a key")
	}
	bare := *o.HTTP
	bare.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{
		endpoint: endpoint, http: &bare, device: o.Device, key: o.Key,
		ek: o.EK, eventLog: o.EventLog, timeout: o.Timeout,
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	return c, nil
}

func baseURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", errEndpoint
	}
	return strings.TrimSuffix(s, "/"), nil
}

// Request is what one attempt asks for.
type Request struct {
	// Name that the machine wants; "" takes the one that the registry has.
	Name string
	// Token is for a machine that the registry does not know yet; may be nil.
	Token *api.Token
}

// Result is the registry's answer.
type Result struct {
	api.Enrolment
	EK tpm.EKAlgorithm // that names the machine
	// The lease counts from Asked by our own clock. Both are 0 while pending.
	Asked    time.Time
	ValidFor time.Duration
	RenewIn  time.Duration
	// ClockAhead is by how much the registry's clock is ahead of ours, 0 when
	// they agree.
	ClockAhead time.Duration
}

// Enrol makes one attempt, which is also how a lease is renewed. Errors are
// *Error, but for those of a context that ended.
func (c *Client) Enrol(ctx context.Context, r Request) (*Result, error) {
	result, err := c.enrol(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e := asError(err)
		if e.Cause != CauseUnreachable {
			c.machine = nil // it may have been what was wrong
		}
		return nil, e
	}
	return result, nil
}

func (c *Client) enrol(ctx context.Context, r Request) (*Result, error) {
	m, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	start := m.start
	start.Name = r.Name
	challenge, err := c.start(ctx, &start)
	if err != nil {
		return nil, err
	}
	complete := &api.EnrolmentComplete{EnrolmentStart: start, Session: challenge.Session}
	logErr, err := c.answerTo(ctx, m, challenge, complete)
	if err != nil {
		return nil, err
	}
	if r.Token != nil {
		complete.Token = &api.TokenProof{ID: r.Token.ID, Proof: api.JoinProof(r.Token.Key(), challenge.Session, start.Hierarchy)}
	}
	a, err := c.post(ctx, "/v1/enrolments/complete", complete, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return nil, withEventLog(err, logErr)
	}
	return c.result(m, a)
}

func (c *Client) start(ctx context.Context, start *api.EnrolmentStart) (*api.Challenge, error) {
	a, err := c.post(ctx, "/v1/enrolments", start, http.StatusOK)
	if err != nil {
		return nil, err
	}
	var challenge api.Challenge
	if err := a.read(&challenge); err != nil {
		return nil, err
	}
	if err := checkChallenge(&challenge); err != nil {
		return nil, badAnswer(err)
	}
	return &challenge, nil
}

// result holds the answer against the question.
func (c *Client) result(m *machine, a *answer) (*Result, error) {
	r := &Result{EK: m.algorithm, Asked: a.asked}
	if err := a.read(&r.Enrolment); err != nil {
		return nil, err
	}
	if err := r.check(m, hex.EncodeToString(c.key.KID()), a.status); err != nil {
		return nil, badAnswer(err)
	}
	now := a.now()
	r.ClockAhead = now.Sub(a.asked)
	if r.State == api.StatePending {
		return r, nil
	}
	r.ValidFor, r.RenewIn = r.Expires.Sub(now), r.RenewAt.Sub(now)
	if r.ValidFor <= 0 {
		return nil, badAnswer(fmt.Errorf("the lease that the registry gives is over: it ends at %v, and it was %v when it answered", r.Expires, now))
	}
	if r.RenewIn <= 0 || r.RenewIn >= r.ValidFor {
		r.RenewIn = r.ValidFor / 2
	}
	return r, nil
}

// check refuses an answer for another key or machine, and one that says two things.
func (r *Result) check(m *machine, kid string, status int) error {
	switch {
	case r.KID != kid:
		return fmt.Errorf("the registry answers for another key, %.80q", r.KID)
	case r.Machine != m.hash:
		return fmt.Errorf("the registry answers for another machine, %.80q", r.Machine)
	case len(r.Name) > api.MaxName || printable(r.Name) != r.Name:
		return fmt.Errorf("the registry gives a name that is none, %.80q", r.Name)
	case r.Evidence != api.EvidenceChain && r.Evidence != api.EvidenceVouched && r.Evidence != api.EvidenceUnproven:
		return fmt.Errorf("the registry speaks of evidence %.40q, which is not known", r.Evidence)
	case r.State == api.StateEnrolled && status == http.StatusOK, r.State == api.StatePending && status == http.StatusAccepted:
		return nil
	default:
		return fmt.Errorf("the registry answers %d with the state %.40q", status, r.State)
	}
}
