package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Appraise holds an authenticated quote against what Intel says of its
// platform at now.
func (a *Authenticated) Appraise(e *Endorsements, now time.Time) (*Evidence, error) {
	if a.EncryptedPPID {
		return a.unauthenticated(), nil
	}
	if err := e.current(now); err != nil {
		return nil, err
	}
	if err := e.about(a.platform); err != nil {
		return nil, err
	}
	if err := e.qe.matches(a.layout.enclave); err != nil {
		return nil, err
	}
	out := a.evidence()
	out.PPID = a.platform.ppid
	if err := e.standings(a, out); err != nil {
		return nil, err
	}
	return out, nil
}

// about demands that the collateral is that of the platform, and that nothing
// in the platform's chain is revoked.
func (e *Endorsements) about(p *platform) error {
	if e.FMSPC() != p.fmspc || hexOf(e.tcb.pceID) != p.pceID {
		return api.Refuse(api.CollateralMismatch, "TCB information of FMSPC %s, PCE-ID %x for a platform of %s, %s", e.FMSPC(), e.tcb.pceID, p.fmspc, p.pceID)
	}
	if !e.root.Equal(p.root) {
		return api.Refuse(api.CollateralMismatch, "platform and collateral have different roots")
	}
	if e.caCRL.revoked(p.ca) {
		return api.Refuse(api.PCKRevoked, "%s is revoked", p.ca.Subject.CommonName)
	}
	if e.caCRL.revoked(e.ca) {
		return api.Refuse(api.CollateralUntrusted, "the authority that signs the list of revoked platforms is revoked")
	}
	key, ok := p.ca.PublicKey.(*ecdsa.PublicKey)
	if !ok || !key.Equal(e.ca.PublicKey) || !bytes.Equal(p.ca.RawSubject, e.ca.RawSubject) {
		return api.Refuse(api.CollateralMismatch, "the list of revoked platforms is of %.40q, the platform of %.40q", e.ca.Subject.CommonName, p.ca.Subject.CommonName)
	}
	if e.pckCRL.revoked(p.leaf) {
		return api.Refuse(api.PCKRevoked, "the platform's certificate is revoked")
	}
	return nil
}

// matches demands that an enclave is the quoting enclave.
func (q *qeIdentity) matches(r enclaveReport) error {
	switch {
	case !bytes.Equal(r.mrSigner(), q.mrSigner):
		return api.Refuse(api.QEIdentityMismatch, "signed by %x", r.mrSigner())
	case r.product() != q.product:
		return api.Refuse(api.QEIdentityMismatch, "product %d", r.product())
	case !masked(r.miscSelect(), q.miscMask, q.miscSelect):
		return api.Refuse(api.QEIdentityMismatch, "MISCSELECT %x", r.miscSelect())
	case !masked(r.attributes(), q.attributesMask, q.attributes):
		return api.Refuse(api.QEIdentityMismatch, "attributes %x", r.attributes())
	}
	return nil
}

// moduleOf returns what is said of the TDX module of a TD: TEE_TCB_SVN has its
// SVN in byte 0 and its major version in byte 1.
func (t *tcbInfo) moduleOf(teeTCBSVN []byte) (*module, error) {
	if teeTCBSVN[1] == 0 {
		return &t.module, nil
	}
	id := fmt.Sprintf("TDX_%02x", teeTCBSVN[1])
	for i := range t.modules {
		if t.modules[i].id == id {
			return &t.modules[i], nil
		}
	}
	return nil, api.Refuse(api.SEAMMismatch, "Intel's TCB information knows no module %s", id)
}

// standings finds where platform, module and enclave stand. The status of the
// module never replaces that of the platform: the worse counts.
func (e *Endorsements) standings(a *Authenticated, out *Evidence) error {
	l := a.layout
	svn := l.at(offTEETCBSVN, 16)
	m, err := e.tcb.moduleOf(svn)
	if err != nil {
		return err
	}
	if !bytes.Equal(l.measurement(offMRSignerSEAM), m.mrSigner) {
		return api.Refuse(api.SEAMMismatch, "the module is signed by %x", l.measurement(offMRSignerSEAM))
	}
	if !masked(l.at(offSEAMAttr, 8), m.mask, m.attributes) {
		return api.Refuse(api.SEAMMismatch, "the module's attributes are %x", l.at(offSEAMAttr, 8))
	}
	platform, ok := e.tcb.platformStanding(a.platform, svn)
	if !ok {
		return api.Refuse(api.TCBStatusNotAccepted, "the platform is below every level that Intel lists")
	}
	enclave, ok := svnStanding(e.qe.levels, l.enclave.svn())
	if !ok {
		return api.Refuse(api.TCBStatusNotAccepted, "the quoting enclave is below every level that Intel lists")
	}
	out.PlatformStatus, out.QEStatus = platform.status.String(), enclave.status.String()
	all := []standing{platform, enclave}
	out.ModuleStatus = out.PlatformStatus // judged with the platform
	if svn[1] > 0 {
		module, ok := svnStanding(m.levels, uint16(svn[0]))
		if !ok {
			return api.Refuse(api.TCBStatusNotAccepted, "the TDX module is below every level that Intel lists")
		}
		out.ModuleStatus = module.status.String()
		all = append(all, module)
	}
	out.conclude(all...)
	return nil
}
