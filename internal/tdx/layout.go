package tdx

import (
	"encoding/binary"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// MaxQuote bounds a quote. Real ones have about 5 kB, nearly all of it
// certificates.
const MaxQuote = 64 << 10

// A quote of version 4, all integers little endian:
//
//	  0  header    u16 version | u16 attestation key type | u32 TEE type |
//	               4 reserved | 16 QE vendor | 20 user data
//	 48  TD report 16 TEE_TCB_SVN | 48 MRSEAM | 48 MRSIGNERSEAM |
//	               8 SEAMATTRIBUTES | 8 TDATTRIBUTES | 8 XFAM | 48 MRTD |
//	               48 MRCONFIGID | 48 MROWNER | 48 MROWNERCONFIG |
//	               4 × 48 RTMR | 64 REPORTDATA
//	632  u32 length of all that follows
//	636  64 signature over 0 to 632 | 64 attestation key |
//	764  u16 type (6) | u32 length of all that follows
//	770  384 report of the quoting enclave | 64 its signature |
//	     u16 length, authentication data | u16 type (5) | u32 length, PEM chain
const (
	headerEnd    = 48
	signedEnd    = 632
	authStart    = 636
	authFixed    = 64 + 64 + 6
	enclaveFixed = 384 + 64 + 2

	version4        = 4
	keyTypeP256     = 2
	teeTDX          = 0x81
	typeQEReport    = 6
	typePEMChain    = 5
	typePPID2048    = 2
	typePPID3072    = 3
	sizePPID2048    = 256 + 20
	sizePPID3072    = 384 + 20
	lenVendor       = 16
	offVendor       = 12
	offTEETCBSVN    = headerEnd
	offMRSEAM       = offTEETCBSVN + 16
	offMRSignerSEAM = offMRSEAM + 48
	offSEAMAttr     = offMRSignerSEAM + 48
	offTDAttr       = offSEAMAttr + 8
	offXFAM         = offTDAttr + 8
	offMRTD         = offXFAM + 8
	offMRConfigID   = offMRTD + 48
	offMROwner      = offMRConfigID + 48
	offMROwnerConf  = offMROwner + 48
	offRTMR         = offMROwnerConf + 48
	offReportData   = offRTMR + 4*48
)

// layout is a quote cut into its parts, which are slices of it.
type layout struct {
	raw       []byte
	signature []byte
	key       []byte
	enclave   enclaveReport
	enclaveSg []byte
	authData  []byte
	innerType uint16
	inner     []byte
}

func (l *layout) signed() []byte           { return l.raw[:signedEnd] }
func (l *layout) at(off, n int) []byte     { return l.raw[off : off+n] }
func (l *layout) measurement(o int) []byte { return l.at(o, 48) }

// enclaveReport is a report of SGX, 384 bytes:
//
//	0 CPUSVN 16 | 16 u32 MISCSELECT | 48 attributes 16 | 64 MRENCLAVE 32 |
//	128 MRSIGNER 32 | 256 u16 product | 258 u16 SVN | 320 report data 64
type enclaveReport []byte

func (r enclaveReport) miscSelect() []byte { return r[16:20] }
func (r enclaveReport) attributes() []byte { return r[48:64] }
func (r enclaveReport) mrSigner() []byte   { return r[128:160] }
func (r enclaveReport) product() uint16    { return binary.LittleEndian.Uint16(r[256:]) }
func (r enclaveReport) svn() uint16        { return binary.LittleEndian.Uint16(r[258:]) }
func (r enclaveReport) reportData() []byte { return r[320:384] }

// cut checks every length of a quote before anything reads it, and that no
// byte is left over or missing.
func cut(b []byte) (*layout, error) {
	if len(b) < headerEnd || len(b) > MaxQuote {
		return nil, api.Refuse(api.QuoteLength, "%d bytes are no quote", len(b))
	}
	if v := binary.LittleEndian.Uint16(b); v != version4 {
		return nil, api.Refuse(api.QuoteUnsupported, "version %d, and 4 is accepted", v)
	}
	if t := binary.LittleEndian.Uint32(b[4:]); t != teeTDX {
		return nil, api.Refuse(api.QuoteUnsupported, "TEE type %#x is not TDX", t)
	}
	if k := binary.LittleEndian.Uint16(b[2:]); k != keyTypeP256 {
		return nil, api.Refuse(api.QuoteUnsupported, "attestation key type %d is not ECDSA P-256", k)
	}
	if len(b) < authStart+authFixed {
		return nil, api.Refuse(api.QuoteLength, "%d bytes end before the certification data", len(b))
	}
	if err := exact("signature data", binary.LittleEndian.Uint32(b[signedEnd:]), b[authStart:]); err != nil {
		return nil, err
	}
	l := &layout{raw: b, signature: b[authStart : authStart+64], key: b[authStart+64 : authStart+128]}
	kind, data, err := certificationData(b[authStart+128:], "certification data")
	if err != nil {
		return nil, err
	}
	if kind != typeQEReport {
		return nil, api.Refuse(api.QuoteCertificationData, "type %d in place of 6", kind)
	}
	if err := l.cutEnclave(data); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *layout) cutEnclave(data []byte) error {
	if len(data) < enclaveFixed {
		return api.Refuse(api.QuoteLength, "%d bytes are no enclave report", len(data))
	}
	l.enclave, l.enclaveSg = data[:384], data[384:448]
	n := int(binary.LittleEndian.Uint16(data[448:]))
	rest := data[enclaveFixed:]
	if n > len(rest) {
		return api.Refuse(api.QuoteLength, "authentication data of %d bytes in %d", n, len(rest))
	}
	l.authData = rest[:n]
	var err error
	if l.innerType, l.inner, err = certificationData(rest[n:], "platform data"); err != nil {
		return err
	}
	switch l.innerType {
	case typePEMChain:
		return nil
	case typePPID2048:
		return exact("encrypted PPID", sizePPID2048, l.inner)
	case typePPID3072:
		return exact("encrypted PPID", sizePPID3072, l.inner)
	default:
		return api.Refuse(api.QuoteCertificationData, "type %d within 6; 5 is accepted", l.innerType)
	}
}

func certificationData(b []byte, what string) (kind uint16, data []byte, err error) {
	if len(b) < 6 {
		return 0, nil, api.Refuse(api.QuoteLength, "%s: %d bytes are no head", what, len(b))
	}
	return binary.LittleEndian.Uint16(b), b[6:], exact(what, binary.LittleEndian.Uint32(b[2:]), b[6:])
}

func exact(what string, says uint32, b []byte) error {
	if uint64(says) != uint64(len(b)) {
		return api.Refuse(api.QuoteLength, "%s: says %d bytes and has %d", what, says, len(b))
	}
	return nil
}
