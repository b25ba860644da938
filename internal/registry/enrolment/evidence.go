package enrolment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// machine is what stays the same from attempt to attempt.
type machine struct {
	algorithm tpm.EKAlgorithm
	hash      string // of the EK
	start     api.EnrolmentStart
}

// known reads the machine's keys, once.
func (c *Client) known(ctx context.Context) (*machine, error) {
	if c.machine != nil {
		return c.machine, nil
	}
	algorithm := c.ek
	if algorithm == 0 {
		var err error
		if algorithm, err = c.device.ChooseEK(ctx); err != nil {
			return nil, ofTPM(err)
		}
	}
	ek, err := c.device.EK(ctx, algorithm)
	if err != nil {
		return nil, ofTPM(err)
	}
	ak, err := c.device.AK(ctx)
	if err != nil {
		return nil, ofTPM(err)
	}
	var chain [][]byte
	if ek.Certificate != nil {
		if chain, err = c.device.EKCertificateChain(ctx); err != nil {
			return nil, ofTPM(err)
		}
	}
	hash, err := Hash(ek)
	if err != nil {
		return nil, ofTPM(err)
	}
	m := &machine{algorithm: algorithm, hash: hash, start: api.EnrolmentStart{
		Hierarchy:     api.Hierarchy{EK: ek.Public, AK: ak.Public, Key: c.key.Info().TPMPublic},
		EKCertificate: ek.Certificate,
		Intermediates: chain,
	}}
	c.machine = m
	return m, nil
}

// Hash names the machine of an endorsement key; see api.EKHash.
func Hash(ek *tpm.EK) (string, error) {
	public, err := ek.PublicKey()
	if err != nil {
		return "", err
	}
	return api.EKHash(public)
}

// maxCredential bounds both parts of a credential; the longest is the secret
// for an RSA key.
const maxCredential = 1 << 10

// pcrCount is how many registers there are.
const pcrCount = 24

func checkChallenge(c *api.Challenge) error {
	switch {
	case len(c.Session) == 0 || len(c.Session) > api.MaxSession:
		return fmt.Errorf("the challenge has a session of %d bytes", len(c.Session))
	case len(c.Nonce) != api.NonceSize:
		return fmt.Errorf("the challenge has a nonce of %d bytes, want %d", len(c.Nonce), api.NonceSize)
	case len(c.Credential.Blob) == 0 || len(c.Credential.Blob) > maxCredential,
		len(c.Credential.Secret) == 0 || len(c.Credential.Secret) > maxCredential:
		return fmt.Errorf("the challenge has a credential of %d and %d bytes", len(c.Credential.Blob), len(c.Credential.Secret))
	case len(c.PCRs) > pcrCount || len(c.PCRs) > 0 && slices.Max(c.PCRs) >= pcrCount:
		return fmt.Errorf("the challenge asks for %d PCRs, among them some that do not exist", len(c.PCRs))
	default:
		return nil
	}
}

// answerTo lets the TPM answer a challenge. The first error says why there is
// no event log: whether one is needed is for the registry to say.
func (c *Client) answerTo(ctx context.Context, m *machine, challenge *api.Challenge, into *api.EnrolmentComplete) (logErr, err error) {
	secret, err := c.device.ActivateCredential(ctx, tpm.Credential{
		EK: m.algorithm, Blob: challenge.Credential.Blob, Secret: challenge.Credential.Secret,
	})
	if err != nil {
		return nil, ofTPM(err)
	}
	into.Activation = api.ActivationProof(secret, challenge.Session, into.Hierarchy)
	certify, err := c.key.Certify(ctx, api.CertifyData(challenge.Nonce, challenge.Session, into.Key))
	if err != nil {
		return nil, ofTPM(err)
	}
	into.Certify = attestation(certify)
	if len(challenge.PCRs) == 0 {
		return nil, nil
	}
	quote, err := c.device.QuotePCRs(ctx, api.QuoteData(challenge.Nonce, challenge.Session, into.Key), challenge.PCRs)
	if err != nil {
		return nil, ofTPM(err)
	}
	into.Quote = &api.PCRQuote{Attestation: attestation(&quote.Attestation), PCRs: quote.PCRs}
	if challenge.EventLog {
		into.Quote.EventLog, logErr = readEventLog(c.eventLog)
	}
	return logErr, nil
}

func attestation(a *tpm.Attestation) api.Attestation {
	return api.Attestation{Attest: a.Attest, Signature: a.Signature}
}

var errNoEventLog = errors.New("no event log is configured")

// readEventLog reads the event log whole or not at all. Its file shows no size.
func readEventLog(path string) ([]byte, error) {
	if path == "" {
		return nil, errNoEventLog
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the boot's event log: %w", err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, api.MaxEventLog+1))
	if err != nil {
		return nil, fmt.Errorf("read the boot's event log: %w", err)
	}
	if len(content) > api.MaxEventLog {
		return nil, fmt.Errorf("the boot's event log %s has more than %d bytes", path, api.MaxEventLog)
	}
	return content, nil
}

// withEventLog tells what our own side knows of a missing event log.
func withEventLog(err, logErr error) error {
	e, ok := errors.AsType[*Error](err)
	if logErr == nil || !ok || e.Cause != string(api.EventLogMissing) {
		return err
	}
	return &Error{Cause: e.Cause, Retryable: e.Retryable, RetryAfter: e.RetryAfter, Err: fmt.Errorf("%w (%w)", e.Err, logErr)}
}
