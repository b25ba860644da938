package enrol

import (
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
)

// claim is what a machine has proven of itself in one request. Nothing in it
// depends on what the store holds.
type claim struct {
	request *api.EnrolmentComplete
	peer    string
	at      time.Time
	session *session

	ek  *tpmattest.EK
	ak  *tpmattest.AK
	key *tpmattest.Key
	kid string

	// chain says that the EK certificate leads to a root. certificate is why
	// not: "" when there is none, or when it does.
	chain       bool
	model       *tpmattest.Model
	certificate *api.Error
}

// judge looks at the whole evidence of a request, and at nothing else. The
// order is: session, activation, attributes of the AK, of the key, what the AK
// certified, what it quoted, and last the EK certificate, whose failure alone
// refuses nobody who is ours.
func (s *Service) judge(r *api.EnrolmentComplete, peer string) (*claim, error) {
	if err := checkStart(&r.EnrolmentStart); err != nil {
		return nil, err
	}
	c := &claim{request: r, peer: peer, at: s.now()}
	var err error
	if c.session, err = openSession(s.o.SealKey, r.Session, r.Hierarchy, c.at); err != nil {
		return nil, err
	}
	if c.ek, err = tpmattest.ParseEK(r.EK); err != nil {
		return nil, err
	}
	proof := api.ActivationProof(c.session.secret[:], r.Session, r.Hierarchy)
	if subtle.ConstantTimeCompare(proof, r.Activation) != 1 {
		return nil, api.Refuse(api.ActivationFailed, "the proof was not made with the credential's secret")
	}
	if c.ak, err = tpmattest.ParseAK(r.AK); err != nil {
		return nil, err
	}
	if c.key, err = tpmattest.ParseKey(r.Key); err != nil {
		return nil, err
	}
	c.kid = hex.EncodeToString(c.key.Name)
	if err := tpmattest.VerifyCertify(&r.Certify, c.ak, c.key, api.CertifyData(c.session.nonce[:], r.Session, r.Key)); err != nil {
		return nil, err
	}
	if err := s.judgeQuote(c); err != nil {
		return nil, err
	}
	return c, s.judgeCertificate(c)
}

// judgeQuote holds the platform's registers against the policy.
func (s *Service) judgeQuote(c *claim) error {
	q := c.request.Quote
	if s.o.PCRs == nil {
		if q != nil {
			return api.Refuse(api.PCRQuoteSelection, "no registers were asked for")
		}
		return nil
	}
	if q == nil {
		return api.Refuse(api.PCRQuoteMissing, "registers %d were asked for", s.pcrs)
	}
	if err := tpmattest.VerifyQuote(q, c.ak, api.QuoteData(c.session.nonce[:], c.request.Session, c.request.Key), s.pcrs); err != nil {
		return err
	}
	for _, n := range s.pcrs {
		accepted := s.o.PCRs.PCRs[n]
		is := func(v []byte) bool { return string(v) == string(q.PCRs[n]) }
		if len(accepted) > 0 && !slices.ContainsFunc(accepted, is) {
			return api.Refuse(api.PCRMismatch, "register %d is %x", n, q.PCRs[n])
		}
	}
	if s.o.PCRs.EventLog && len(q.EventLog) == 0 {
		return api.Refuse(api.EventLogMissing, "it was asked for")
	}
	if len(q.EventLog) == 0 {
		return nil
	}
	return tpmattest.VerifyEventLog(q.EventLog, q.PCRs)
}

// judgeCertificate finds out whether the TPM is genuine by its certificate. A
// certificate that proves nothing is as good as none; one for another EK
// contradicts the rest of the evidence.
func (s *Service) judgeCertificate(c *claim) error {
	der := c.request.EKCertificate
	if len(der) == 0 {
		return nil
	}
	trust := s.trust.Load()
	cert, err := tpmattest.VerifyEKCertificate(der, c.ek, trust.roots, trust.intermediates, c.request.Intermediates, c.at)
	if err != nil {
		if api.ReasonOf(err) == api.EKCertificateMismatch {
			return err
		}
		c.certificate = asRefusal(err)
		return nil
	}
	model, err := tpmattest.ModelOf(cert)
	if err != nil {
		return err
	}
	c.chain, c.model = true, &model
	return nil
}
