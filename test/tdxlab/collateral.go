package tdxlab

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"time"
)

// Documents is the collateral of a platform as Intel's service answers it.
type Documents struct {
	TCBInfo, TCBInfoChain       []byte // JSON; PEM
	QEIdentity, QEIdentityChain []byte
	PCKCRL, PCKCRLChain         []byte // DER; PEM
	RootCRL                     []byte // DER
}

// Collateral describes what Intel says of a platform; every field may be
// changed, true and forged ones alike.
type Collateral struct {
	TCBInfo    TCBInfo
	QEIdentity QEIdentity
	PCKCRL     CRL
	RootCRL    CRL

	// Signer changes the certificate of the key that signs both documents.
	Signer func(*x509.Certificate)
	// The certificates that the answers carry, in place of the true ones: PEM.
	TCBInfoChain, QEIdentityChain, PCKCRLChain []byte
}

// Signed is what TCB information and enclave identity have in common.
type Signed struct {
	ID         string
	Version    int
	IssueDate  time.Time
	NextUpdate time.Time
	Number     int // tcbEvaluationDataNumber

	// Forgeries.
	Before       func(member string) string // changes the JSON of the signed member
	After        func(answer string) string // changes the whole answer, signed already
	ForeignKey   bool                       // another key signs, under the right certificate
	BadSignature bool
}

// TCBInfo is TCB information, version 3, for TDX.
type TCBInfo struct {
	Signed
	FMSPC, PCEID string
	Type         int
	Module       Module
	Modules      []Module // tdxModuleIdentities; their levels by SVN
	Levels       []Level
}

// Module is a TDX module's signer and attributes.
type Module struct {
	ID                         string
	MRSigner, Attributes, Mask string
	Levels                     []Level
}

// Level is a patch level and what Intel says of it.
type Level struct {
	SGX, TDX   [16]byte // of platforms
	PCESVN     uint16
	SVN        uint16 // of modules and enclaves
	Date       time.Time
	Status     string
	Advisories []string
}

// QEIdentity is the identity of the quoting enclave for TDs.
type QEIdentity struct {
	Signed
	MiscSelect, MiscSelectMask string
	Attributes, AttributesMask string
	MRSigner                   string
	ProdID                     int
	Levels                     []Level
}

// CRL is a revocation list.
type CRL struct {
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	Revoked                []*big.Int
	ForeignKey             bool
	Template               func(*x509.RevocationList)
}

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

// Dates of the levels below.
var (
	DateNew = day(2026, 3, 11)
	DateOld = day(2025, 8, 13)
	DateBad = day(2023, 2, 15)
)

// describe is the good collateral: issued a day before now, for 30 days.
func (l *Lab) describe(now time.Time) Collateral {
	now = now.UTC().Truncate(time.Second)
	issued, next := now.Add(-24*time.Hour), now.Add(29*24*time.Hour)
	p := l.platform
	tdx := [16]byte{3, 0, 5}
	older := p.SGXSVN
	older[0]--
	oldest := older
	oldest[1]--
	zeros := hex.EncodeToString(make([]byte, 48))
	c := Collateral{
		TCBInfo: TCBInfo{
			Signed: Signed{ID: "TDX", Version: 3, IssueDate: issued, NextUpdate: next, Number: 17},
			FMSPC:  l.FMSPC(), PCEID: hex.EncodeToString(p.PCEID[:]),
			Module: Module{MRSigner: zeros, Attributes: "0000000000000000", Mask: "FFFFFFFFFFFFFFFF"},
			Modules: []Module{
				{
					ID: "TDX_03", MRSigner: zeros, Attributes: "0000000000000000", Mask: "FFFFFFFFFFFFFFFF",
					Levels: []Level{{SVN: 3, Date: DateNew, Status: "UpToDate"}},
				},
				{
					ID: "TDX_01", MRSigner: zeros, Attributes: "0000000000000000", Mask: "FFFFFFFFFFFFFFFF",
					Levels: []Level{
						{SVN: 4, Date: DateNew, Status: "UpToDate"},
						{SVN: 2, Date: DateOld, Status: "OutOfDate", Advisories: []string{"INTEL-SA-01036"}},
					},
				},
			},
			Levels: []Level{
				{SGX: p.SGXSVN, TDX: tdx, PCESVN: p.PCESVN, Date: DateNew, Status: "UpToDate"},
				{SGX: older, TDX: tdx, PCESVN: p.PCESVN, Date: DateOld, Status: "OutOfDate", Advisories: []string{"INTEL-SA-00960", "INTEL-SA-00982"}},
				{SGX: oldest, TDX: [16]byte{}, PCESVN: 5, Date: DateBad, Status: "Revoked", Advisories: []string{"INTEL-SA-00837"}},
			},
		},
		QEIdentity: QEIdentity{
			Signed:     Signed{ID: "TD_QE", Version: 2, IssueDate: issued, NextUpdate: next, Number: 17},
			MiscSelect: "00000000", MiscSelectMask: "FFFFFFFF",
			Attributes: "11000000000000000000000000000000", AttributesMask: "FBFFFFFFFFFFFFFF0000000000000000",
			MRSigner: fmt.Sprintf("%X", qeMRSigner), ProdID: 2,
			Levels: []Level{
				{SVN: 4, Date: DateNew, Status: "UpToDate"},
				{SVN: 2, Date: DateOld, Status: "OutOfDate", Advisories: []string{"INTEL-SA-00615"}},
			},
		},
		PCKCRL:  CRL{Number: 7, ThisUpdate: issued, NextUpdate: next},
		RootCRL: CRL{Number: 3, ThisUpdate: issued, NextUpdate: now.Add(300 * 24 * time.Hour)},
	}
	return c
}

// Collateral makes the collateral of the lab's platform at a time.
func (l *Lab) Collateral(now time.Time, edits ...func(*Collateral)) *Documents {
	c := l.describe(now)
	for _, edit := range edits {
		edit(&c)
	}
	signing := l.tcbSigning
	if c.Signer != nil {
		t := l.template("Intel SGX TCB Signing", signing.key)
		t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
		c.Signer(t)
		signing = &authority{key: signing.key, cert: certify(t, &signing.key.PublicKey, l.root)}
	}
	chain := encode(signing.cert.Raw, l.root.cert.Raw)
	ca := l.ca(l.platform.CA)
	d := &Documents{
		TCBInfo: l.answer("tcbInfo", &c.TCBInfo.Signed, signing, c.TCBInfo.json()), TCBInfoChain: chain,
		QEIdentity: l.answer("enclaveIdentity", &c.QEIdentity.Signed, signing, c.QEIdentity.json()), QEIdentityChain: chain,
		PCKCRL: l.crl(&c.PCKCRL, ca), PCKCRLChain: encode(ca.cert.Raw, l.root.cert.Raw),
		RootCRL: l.crl(&c.RootCRL, l.root),
	}
	for to, forged := range map[*[]byte][]byte{
		&d.TCBInfoChain: c.TCBInfoChain, &d.QEIdentityChain: c.QEIdentityChain, &d.PCKCRLChain: c.PCKCRLChain,
	} {
		if forged != nil {
			*to = forged
		}
	}
	return d
}

// answer is {"tcbInfo":{...},"signature":"hex of r | s over the member's bytes"}.
func (l *Lab) answer(member string, s *Signed, signing *authority, body string) []byte {
	if s.Before != nil {
		body = s.Before(body)
	}
	key := signing.key
	if s.ForeignKey {
		key = l.key("foreign")
	}
	signature := sign(key, []byte(body))
	if s.BadSignature {
		signature[40] ^= 1
	}
	answer := fmt.Sprintf(`{%q:%s,"signature":"%x"}`, member, body, signature)
	if s.After != nil {
		answer = s.After(answer)
	}
	return []byte(answer)
}

func (l *Lab) crl(c *CRL, issuer *authority) []byte {
	t := &x509.RevocationList{
		Number: big.NewInt(c.Number), ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate,
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	for _, serial := range c.Revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: c.ThisUpdate})
	}
	if c.Template != nil {
		c.Template(t)
	}
	key := issuer.key
	if c.ForeignKey {
		key = l.key("foreign")
		issuer = &authority{key: key, cert: withKey(issuer.cert, key)}
	}
	der, err := x509.CreateRevocationList(nil, t, issuer.cert, signer{key})
	if err != nil {
		panic(err)
	}
	return der
}

// Serials of the lab's certificates, to be revoked.
func (l *Lab) Serials() (pck, ca, tcbSigning *big.Int) {
	return l.serial("Intel SGX PCK Certificate"), l.ca(l.platform.CA).cert.SerialNumber, l.tcbSigning.cert.SerialNumber
}

type object = map[string]any

// text writes a value as Intel's service does: without spaces. Maps have their
// keys sorted, which no reader depends on.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (s *Signed) members() object {
	return object{
		"id": s.ID, "version": s.Version, "tcbEvaluationDataNumber": s.Number,
		"issueDate": stamp(s.IssueDate), "nextUpdate": stamp(s.NextUpdate),
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func components(svns [16]byte) []object {
	out := make([]object, len(svns))
	for i, svn := range svns {
		out[i] = object{"svn": svn}
	}
	out[0]["category"], out[0]["type"] = "BIOS", "Early Microcode Update"
	return out
}

func (l *Level) json(platform bool) object {
	o := object{"tcbDate": stamp(l.Date), "tcbStatus": l.Status, "tcb": object{"isvsvn": l.SVN}}
	if platform {
		o["tcb"] = object{"sgxtcbcomponents": components(l.SGX), "tdxtcbcomponents": components(l.TDX), "pcesvn": l.PCESVN}
	}
	if len(l.Advisories) > 0 {
		o["advisoryIDs"] = l.Advisories
	}
	return o
}

func levels(ls []Level, platform bool) []object {
	out := make([]object, len(ls))
	for i := range ls {
		out[i] = ls[i].json(platform)
	}
	return out
}

func (t *TCBInfo) json() string {
	o := t.members()
	o["fmspc"], o["pceId"], o["tcbType"] = t.FMSPC, t.PCEID, t.Type
	o["tdxModule"] = object{"mrsigner": t.Module.MRSigner, "attributes": t.Module.Attributes, "attributesMask": t.Module.Mask}
	o["tcbLevels"] = levels(t.Levels, true)
	if t.Modules != nil {
		var modules []object
		for i := range t.Modules {
			m := &t.Modules[i]
			modules = append(modules, object{"id": m.ID, "mrsigner": m.MRSigner, "attributes": m.Attributes, "attributesMask": m.Mask, "tcbLevels": levels(m.Levels, false)})
		}
		o["tdxModuleIdentities"] = modules
	}
	return text(o)
}

func (q *QEIdentity) json() string {
	o := q.members()
	o["miscselect"], o["miscselectMask"] = q.MiscSelect, q.MiscSelectMask
	o["attributes"], o["attributesMask"] = q.Attributes, q.AttributesMask
	o["mrsigner"], o["isvprodid"] = q.MRSigner, q.ProdID
	o["tcbLevels"] = levels(q.Levels, false)
	return text(o)
}
