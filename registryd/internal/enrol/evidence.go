package enrol

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

// Evidence is what is kept of an attestation, so that an auditor can check it
// again without the machine: the qualifying data are api.CertifyData and
// api.QuoteData of Nonce, Session and Key.
type Evidence struct {
	Version int       `json:"version"` // 1
	At      time.Time `json:"at"`
	Nonce   []byte    `json:"nonce"`
	Session []byte    `json:"session"`
	api.Hierarchy
	// EKCertificate and Intermediates are there when they led to a root.
	EKCertificate []byte           `json:"ek_certificate,omitempty"`
	Intermediates [][]byte         `json:"intermediates,omitempty"`
	TPM           *tpmattest.Model `json:"tpm,omitempty"`
	// CertificateRefused is why the EK certificate proved nothing.
	CertificateRefused api.Reason      `json:"ek_certificate_refused,omitempty"`
	Certify            api.Attestation `json:"certify"`
	Quote              *QuoteEvidence  `json:"quote,omitempty"`
}

// QuoteEvidence is a quote without the event log, of which only the hash is
// kept.
type QuoteEvidence struct {
	api.Attestation
	PCRs           map[uint]api.Hex `json:"pcrs"`
	EventLogSize   int              `json:"event_log_size,omitempty"`
	EventLogSHA256 api.Hex          `json:"event_log_sha256,omitempty"`
}

// evidence returns what is kept of a claim; pcrs is nil without a quote.
func (c *claim) evidence() (evidence, pcrs []byte, err error) {
	e := Evidence{
		Version: 1, At: c.at, Nonce: c.session.nonce[:], Session: c.request.Session,
		Hierarchy: c.request.Hierarchy, TPM: c.model, Certify: c.request.Certify,
	}
	if c.chain {
		e.EKCertificate, e.Intermediates = c.request.EKCertificate, c.request.Intermediates
	}
	if c.certificate != nil {
		e.CertificateRefused = c.certificate.Reason
	}
	if q := c.request.Quote; q != nil {
		e.Quote = &QuoteEvidence{Attestation: q.Attestation, PCRs: make(map[uint]api.Hex, len(q.PCRs))}
		for n, v := range q.PCRs {
			e.Quote.PCRs[n] = v
		}
		if len(q.EventLog) > 0 {
			sum := sha256.Sum256(q.EventLog)
			e.Quote.EventLogSize, e.Quote.EventLogSHA256 = len(q.EventLog), sum[:]
		}
		if pcrs, err = json.Marshal(e.Quote.PCRs); err != nil {
			return nil, nil, fmt.Errorf("encode registers: %w", err)
		}
	}
	if evidence, err = json.Marshal(&e); err != nil {
		return nil, nil, fmt.Errorf("encode evidence: %w", err)
	}
	return evidence, pcrs, nil
}
