package tpm

import (
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// TPM2_Sign (part 3, section 20.2) is the one command that is executed all the
// time, so its bytes are written and read here and not by go-tpm's reflection,
// which costs several times what the command needs otherwise. The arithmetic of
// the session (part 1, section 19) stays go-tpm's.
//
//	command  8002 | u32 size | 0000015D | u32 key
//	         u32 length of ( u32 session | 2B nonce | u8 attributes | 2B HMAC )
//	         2B digest, encrypted | 0010: the key's own scheme | 8024 40000007 0000: no ticket
//	answer   8002 | u32 size | 00000000
//	         u32 length of ( 0018 ECDSA | 000B SHA-256 or 000C SHA-384 | 2B r | 2B s )
//	                    or ( 0016 RSAPSS | 000B SHA-256 | 2B signature )
//	         2B nonce | u8 attributes | 2B HMAC
//
// where 2B stands for a u16 length and as many bytes.
const signCommandSize = 256

// signDigest executes TPM2_Sign with one session, which authorises it and
// encrypts the digest. The signature's numbers may be shorter than the curve.
// Errors are as those of exec.
func (l *link) signDigest(s *suite, key tpm2.AuthHandle, digest []byte) (*signature, error) {
	sig, err := l.trySign(s, key, digest)
	if err != nil {
		return nil, fmt.Errorf("TPM2_Sign: %w", l.judge(err))
	}
	return sig, nil
}

// signature is one as a TPM returns it: r and s, or one number.
type signature struct{ numbers [][]byte }

func (l *link) trySign(s *suite, key tpm2.AuthHandle, digest []byte) (*signature, error) {
	names := []tpm2.TPM2BName{key.Name}
	command, err := signCommand(key, names, digest)
	if err != nil {
		return nil, err
	}
	answer, err := l.Send(command)
	if err != nil {
		return nil, err
	}
	if rc := tpm2.TPMRC(wire.Code(answer)); rc != tpm2.TPMRCSuccess {
		return nil, rc
	}
	return signAnswer(s, answer, key.Auth, names)
}

func signCommand(key tpm2.AuthHandle, names []tpm2.TPM2BName, digest []byte) ([]byte, error) {
	session := key.Auth
	if err := session.NewNonceCaller(); err != nil {
		return nil, err
	}
	parameters := make([]byte, 0, 2+len(digest)+2+8)
	parameters = appendSized(parameters, digest)
	if err := session.Encrypt(parameters[2:]); err != nil {
		return nil, err
	}
	parameters = binary.BigEndian.AppendUint16(parameters, uint16(tpm2.TPMAlgNull))
	parameters = binary.BigEndian.AppendUint16(parameters, uint16(tpm2.TPMSTHashCheck))
	parameters = binary.BigEndian.AppendUint32(parameters, uint32(tpm2.TPMRHNull))
	parameters = appendSized(parameters, nil)
	auth, err := session.Authorize(tpm2.TPMCCSign, parameters, nil, names, 0)
	if err != nil {
		return nil, err
	}

	const authSizeAt = wire.HeaderSize + 4
	b := make([]byte, 0, signCommandSize)
	b = binary.BigEndian.AppendUint16(b, uint16(tpm2.TPMSTSessions))
	b = binary.BigEndian.AppendUint32(b, 0) // the size, below
	b = binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMCCSign))
	b = binary.BigEndian.AppendUint32(b, uint32(key.Handle))
	b = binary.BigEndian.AppendUint32(b, 0) // the length, below
	b = binary.BigEndian.AppendUint32(b, uint32(auth.Handle))
	b = appendSized(b, auth.Nonce.Buffer)
	b = append(b, sessionByte(auth.Attributes))
	b = appendSized(b, auth.Authorization.Buffer)
	binary.BigEndian.PutUint32(b[authSizeAt:], uint32(len(b)-authSizeAt-4))
	b = append(b, parameters...)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	return b, nil
}

// signAnswer reads the answer to a command that succeeded. It believes nothing
// of it before the session's HMAC is right.
func signAnswer(s *suite, answer []byte, session tpm2.Session, names []tpm2.TPM2BName) (*signature, error) {
	if tag := tpm2.TPMST(binary.BigEndian.Uint16(answer)); tag != tpm2.TPMSTSessions {
		return nil, fmt.Errorf("tag %#04x, without a session", tag)
	}
	in := reader{rest: answer[wire.HeaderSize:]}
	parameters := in.take(int(in.u32()))
	auth := tpm2.TPMSAuthResponse{
		Nonce:         tpm2.TPM2BNonce{Buffer: in.sized()},
		Attributes:    sessionAttributes(in.u8()),
		Authorization: tpm2.TPM2BData{Buffer: in.sized()},
	}
	if err := in.end("session"); err != nil {
		return nil, err
	}
	if err := session.Validate(tpm2.TPMRCSuccess, tpm2.TPMCCSign, parameters, names, 0, &auth); err != nil {
		return nil, err
	}
	in = reader{rest: parameters}
	algorithm, hash := tpm2.TPMAlgID(in.u16()), tpm2.TPMAlgID(in.u16())
	sig := &signature{numbers: [][]byte{in.sized()}}
	if s.scheme == tpm2.TPMAlgECDSA {
		sig.numbers = append(sig.numbers, in.sized())
	}
	if err := in.end("signature"); err != nil {
		return nil, err
	}
	if algorithm != s.scheme || hash != s.hashAlg {
		return nil, fmt.Errorf("signature by algorithms %#04x and %#04x, not by %#04x and %#04x", algorithm, hash, s.scheme, s.hashAlg)
	}
	return sig, nil
}

// appendSized appends a 2B.
func appendSized(b, content []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(content))), content...)
}

// Bits of TPMA_SESSION (part 2, section 8.4).
const (
	attrContinueSession = 1 << 0
	attrAuditExclusive  = 1 << 1
	attrAuditReset      = 1 << 2
	attrDecrypt         = 1 << 5
	attrEncrypt         = 1 << 6
	attrAudit           = 1 << 7
)

func sessionByte(a tpm2.TPMASession) (b byte) {
	set := func(bit byte, is bool) {
		if is {
			b |= bit
		}
	}
	set(attrContinueSession, a.ContinueSession)
	set(attrAuditExclusive, a.AuditExclusive)
	set(attrAuditReset, a.AuditReset)
	set(attrDecrypt, a.Decrypt)
	set(attrEncrypt, a.Encrypt)
	set(attrAudit, a.Audit)
	return b
}

func sessionAttributes(b byte) tpm2.TPMASession {
	return tpm2.TPMASession{
		ContinueSession: b&attrContinueSession != 0,
		AuditExclusive:  b&attrAuditExclusive != 0,
		AuditReset:      b&attrAuditReset != 0,
		Decrypt:         b&attrDecrypt != 0,
		Encrypt:         b&attrEncrypt != 0,
		Audit:           b&attrAudit != 0,
	}
}

// reader takes an answer apart. What is asked for beyond its end is empty, and
// end says so.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.rest, r.short = nil, true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) sized() []byte { return r.take(int(r.u16())) }

func (r *reader) end(what string) error {
	if r.short || len(r.rest) > 0 {
		return fmt.Errorf("the %s does not end where it should", what)
	}
	return nil
}
