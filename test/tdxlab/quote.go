package tdxlab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"math/big"
)

// Quote describes a quote of version 4; every field may be changed, true and
// forged ones alike. The signatures are made over what it says at the end.
type Quote struct {
	// Header.
	Version  uint16
	KeyType  uint16
	TEEType  uint32
	QEVendor [16]byte
	UserData [20]byte

	// The report of the TD.
	TEETCBSVN                              [16]byte
	MRSEAM, MRSignerSEAM                   [48]byte
	SEAMAttributes, TDAttributes, XFAM     [8]byte
	MRTD, MRConfigID, MROwner, MROwnerConf [48]byte
	RTMR                                   [4][48]byte
	ReportData                             [64]byte

	// The report of the quoting enclave.
	QECPUSVN     [16]byte
	QEMiscSelect uint32
	QEAttributes [16]byte
	QEMREnclave  [32]byte
	QEMRSigner   [32]byte
	QEProdID     uint16
	QESVN        uint16
	QEAuthData   []byte

	// Certification data. Chain is PEM; Certificate changes the platform's
	// certificate instead. InnerType 2 and 3 carry EncryptedPPID.
	OuterType, InnerType uint16
	Chain                []byte
	Certificate          []func(*Certificate)
	EncryptedPPID        []byte

	// Forgeries.
	ForeignKey        bool // the key that signs is not the one the enclave vouches for
	BadSignature      bool // one bit of the quote's signature
	BadQESignature    bool // one bit of the signature of the enclave's report
	BadQEReportData   bool // the enclave vouches for something else
	QEReportPadding   bool // the enclave's report data goes on after the hash
	KeyOffCurve       bool // the attestation key is no point of the curve
	AfterSigning      func(quote []byte)
	AuthDataLength    *uint16 // written in place of the true lengths
	SignatureLength   *uint32
	OuterLength       *uint32
	InnerLength       *uint32
	Trailing          []byte
	MissingLast       int
	InsideCertificate []byte // between inner data and the end of the outer
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Of Intel's quoting enclave, as its identity says.
var (
	intelVendor = [16]byte(mustHex("939a7233f79c4ca9940a0db3957f0607"))
	qeMRSigner  = [32]byte(mustHex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"))
)

// recipe is the good quote.
func (l *Lab) recipe(reportData [64]byte) Quote {
	q := Quote{
		Version: 4, KeyType: 2, TEEType: 0x81, QEVendor: intelVendor,
		TEETCBSVN:    [16]byte{3, 0, 5},
		TDAttributes: [8]byte{3: 0x10}, XFAM: [8]byte{0xe7, 0x1a, 0x06},
		ReportData:   reportData,
		QECPUSVN:     l.platform.CPUSVN,
		QEAttributes: [16]byte{0: 0x15, 8: 0xe7},
		QEMRSigner:   qeMRSigner, QEProdID: 2, QESVN: 4,
		OuterType: 6, InnerType: 5,
	}
	for i := range 32 {
		q.QEAuthData = append(q.QEAuthData, byte(i))
	}
	fill := func(to []byte, label string) {
		for n := 0; n < len(to); n += 32 {
			copy(to[n:], l.bytes(label+string(rune('a'+n/32))))
		}
	}
	fill(q.MRSEAM[:], "mrseam")
	fill(q.MRTD[:], "mrtd")
	fill(q.RTMR[0][:], "rtmr0")
	fill(q.RTMR[1][:], "rtmr1")
	fill(q.RTMR[2][:], "rtmr2")
	fill(q.QEMREnclave[:], "mrenclave")
	return q
}

// Describe returns what a quote with these changes says.
func (l *Lab) Describe(reportData [64]byte, edits ...func(*Quote)) Quote {
	q := l.recipe(reportData)
	for _, edit := range edits {
		edit(&q)
	}
	return q
}

// Quote makes a quote.
//
//	header 48 | TD report 584 | u32 length | signature 64 | attestation key 64 |
//	u16 6 | u32 length | enclave report 384 | its signature 64 |
//	u16 length, authentication data | u16 5 | u32 length | PEM chain
func (l *Lab) Quote(reportData [64]byte, edits ...func(*Quote)) []byte {
	q := l.Describe(reportData, edits...)
	signed := append(q.header(), q.body()...)

	signing, vouched := l.attestation, publicBytes(l.attestation)
	if q.ForeignKey {
		signing = l.key("foreign")
	}
	if q.KeyOffCurve {
		vouched[63] ^= 1
	}
	written := vouched
	if q.ForeignKey {
		written = publicBytes(signing)
	}
	signature := sign(signing, signed)
	if q.BadSignature {
		signature[40] ^= 1
	}
	auth := append(append([]byte(nil), signature...), written...)
	auth = appendData(auth, q.OuterType, q.OuterLength, l.certification(&q, vouched))

	out := binary.LittleEndian.AppendUint32(signed, length(q.SignatureLength, len(auth)))
	out = append(append(out, auth...), q.Trailing...)
	out = out[:len(out)-q.MissingLast]
	if q.AfterSigning != nil {
		q.AfterSigning(out)
	}
	return out
}

func (l *Lab) certification(q *Quote, key []byte) []byte {
	bound := sha256.Sum256(append(append([]byte(nil), key...), q.QEAuthData...))
	if q.BadQEReportData {
		bound[0] ^= 1
	}
	report := q.enclaveReport(bound)
	signature := sign(l.pck, report)
	if q.BadQESignature {
		signature[40] ^= 1
	}
	out := append(report, signature...)
	n := uint16(len(q.QEAuthData))
	if q.AuthDataLength != nil {
		n = *q.AuthDataLength
	}
	out = append(binary.LittleEndian.AppendUint16(out, n), q.QEAuthData...)

	inner := q.Chain
	switch {
	case inner != nil:
	case q.InnerType == 2 || q.InnerType == 3:
		inner = l.encrypted(q)
	default:
		inner = l.chain(q.Certificate...)
	}
	return append(appendData(out, q.InnerType, q.InnerLength, inner), q.InsideCertificate...)
}

// encrypted is certification data of type 2 or 3:
//
//	encrypted PPID 256 or 384 | CPUSVN 16 | u16 PCESVN | u16 PCE-ID
func (l *Lab) encrypted(q *Quote) []byte {
	size := 256
	if q.InnerType == 3 {
		size = 384
	}
	out := make([]byte, size, size+20)
	copy(out, l.bytes("encrypted ppid"))
	if q.EncryptedPPID != nil {
		out = append([]byte(nil), q.EncryptedPPID...)
	}
	out = append(out, l.platform.CPUSVN[:]...)
	out = binary.LittleEndian.AppendUint16(out, l.platform.PCESVN)
	return append(out, l.platform.PCEID[:]...)
}

func length(forged *uint32, n int) uint32 {
	if forged != nil {
		return *forged
	}
	return uint32(n)
}

func appendData(to []byte, kind uint16, forged *uint32, data []byte) []byte {
	to = binary.LittleEndian.AppendUint16(to, kind)
	to = binary.LittleEndian.AppendUint32(to, length(forged, len(data)))
	return append(to, data...)
}

func (q *Quote) header() []byte {
	out := binary.LittleEndian.AppendUint16(nil, q.Version)
	out = binary.LittleEndian.AppendUint16(out, q.KeyType)
	out = binary.LittleEndian.AppendUint32(out, q.TEEType)
	out = append(out, 0, 0, 0, 0) // reserved
	out = append(out, q.QEVendor[:]...)
	return append(out, q.UserData[:]...)
}

func (q *Quote) body() []byte {
	var out []byte
	for _, field := range [][]byte{
		q.TEETCBSVN[:], q.MRSEAM[:], q.MRSignerSEAM[:], q.SEAMAttributes[:], q.TDAttributes[:], q.XFAM[:],
		q.MRTD[:], q.MRConfigID[:], q.MROwner[:], q.MROwnerConf[:],
		q.RTMR[0][:], q.RTMR[1][:], q.RTMR[2][:], q.RTMR[3][:], q.ReportData[:],
	} {
		out = append(out, field...)
	}
	return out
}

// enclaveReport is a report of SGX:
//
//	CPUSVN 16 | u32 MISCSELECT | 28 | attributes 16 | MRENCLAVE 32 | 32 |
//	MRSIGNER 32 | 96 | u16 product | u16 SVN | 60 | report data 64
func (q *Quote) enclaveReport(bound [32]byte) []byte {
	out := append([]byte(nil), q.QECPUSVN[:]...)
	out = binary.LittleEndian.AppendUint32(out, q.QEMiscSelect)
	out = append(out, make([]byte, 28)...)
	out = append(out, q.QEAttributes[:]...)
	out = append(out, q.QEMREnclave[:]...)
	out = append(out, make([]byte, 32)...)
	out = append(out, q.QEMRSigner[:]...)
	out = append(out, make([]byte, 96)...)
	out = binary.LittleEndian.AppendUint16(out, q.QEProdID)
	out = binary.LittleEndian.AppendUint16(out, q.QESVN)
	out = append(out, make([]byte, 60)...)
	out = append(out, bound[:]...)
	rest := make([]byte, 32)
	if q.QEReportPadding {
		rest[31] = 1
	}
	return append(out, rest...)
}

func publicBytes(key *ecdsa.PrivateKey) []byte {
	b, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return b[1:] // without the 04 of an uncompressed point
}

// sign returns r | s, 32 bytes each.
func sign(key *ecdsa.PrivateKey, message []byte) []byte {
	digest := sha256.Sum256(message)
	der, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		panic(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		panic(err)
	}
	out := make([]byte, 64)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out
}
