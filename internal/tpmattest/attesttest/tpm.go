package attesttest

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// TPM is a software TPM of a test's own. It has room for three objects.
type TPM struct {
	t    testing.TB
	conn wire.Conn
}

// New starts a TPM for the length of the test.
func New(t testing.TB) *TPM {
	t.Helper()
	return Dial(t, tpmtest.New(t))
}

// Dial speaks to a TPM that runs already; nobody else may meanwhile.
func Dial(t testing.TB, device string) *TPM {
	t.Helper()
	address, err := wire.ParseAddress(device)
	require.NoError(t, err)
	conn, err := wire.Dial(context.Background(), address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &TPM{t: t, conn: conn}
}

const timeout = time.Minute // making RSA keys takes long

// Send implements go-tpm's transport.TPM. A TPM may ask for a command again.
func (m *TPM) Send(command []byte) ([]byte, error) {
	for {
		answer, err := m.conn.Exchange(command, timeout)
		if err != nil || len(answer) < 10 || tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])) != tpm2.TPMRCRetry {
			return answer, err
		}
	}
}

// Object is a loaded key.
type Object struct {
	Handle tpm2.TPMHandle
	Name   tpm2.TPM2BName
	Public []byte // TPMT_PUBLIC
}

func (o *Object) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: o.Handle, Name: o.Name, Auth: tpm2.PasswordAuth(nil)}
}

// Primary makes a primary key.
func (m *TPM) Primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *Object {
	m.t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(m)
	require.NoError(m.t, err)
	return &Object{Handle: rsp.ObjectHandle, Name: rsp.Name, Public: rsp.OutPublic.Bytes()}
}

// EK makes the endorsement key of a template.
func (m *TPM) EK(template tpm2.TPMTPublic) *Object {
	m.t.Helper()
	return m.Primary(tpm2.TPMRHEndorsement, template)
}

// LoadExternal loads a public area that the TPM has no private area of.
func (m *TPM) LoadExternal(public []byte) (*Object, error) {
	rsp, err := tpm2.LoadExternal{
		InPublic:  tpm2.BytesAs2B[tpm2.TPMTPublic](public),
		Hierarchy: tpm2.TPMRHEndorsement,
	}.Execute(m)
	if err != nil {
		return nil, err
	}
	return &Object{Handle: rsp.ObjectHandle, Name: rsp.Name, Public: public}, nil
}

// Flush unloads keys.
func (m *TPM) Flush(objects ...*Object) {
	m.t.Helper()
	for _, o := range objects {
		_, err := tpm2.FlushContext{FlushHandle: o.Handle}.Execute(m)
		require.NoError(m.t, err)
	}
}

// ownScheme leaves the scheme to the key.
var ownScheme = tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}

// TryCertify lets signer certify object.
func (m *TPM) TryCertify(signer, object *Object, qualifying []byte) (api.Attestation, error) {
	rsp, err := tpm2.Certify{
		ObjectHandle: object.auth(), SignHandle: signer.auth(),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying}, InScheme: ownScheme,
	}.Execute(m)
	if err != nil {
		return api.Attestation{}, err
	}
	return api.Attestation{Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}, nil
}

// Certify is TryCertify where it has to succeed.
func (m *TPM) Certify(signer, object *Object, qualifying []byte) api.Attestation {
	m.t.Helper()
	a, err := m.TryCertify(signer, object, qualifying)
	require.NoError(m.t, err)
	return a
}

// Quote quotes registers of a bank, and reads them from the SHA-256 bank.
func (m *TPM) Quote(signer *Object, qualifying []byte, bank tpm2.TPMAlgID, pcrs ...uint) *api.PCRQuote {
	m.t.Helper()
	rsp, err := tpm2.Quote{
		SignHandle: signer.auth(), QualifyingData: tpm2.TPM2BData{Buffer: qualifying}, InScheme: ownScheme,
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}},
	}.Execute(m)
	require.NoError(m.t, err)
	q := &api.PCRQuote{
		Attestation: api.Attestation{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)},
		PCRs:        map[uint][]byte{},
	}
	for _, n := range pcrs {
		read, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(n),
		}}}}.Execute(m)
		require.NoError(m.t, err)
		q.PCRs[n] = read.PCRValues.Digests[0].Buffer
	}
	return q
}

// Extend extends a register of the SHA-256 bank.
func (m *TPM) Extend(pcr uint, digest []byte) {
	m.t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(m)
	require.NoError(m.t, err)
}

// Sign signs a digest, which a restricted key refuses.
func (m *TPM) Sign(signer *Object, digest []byte) ([]byte, error) {
	rsp, err := tpm2.Sign{
		KeyHandle: signer.auth(), Digest: tpm2.TPM2BDigest{Buffer: digest}, InScheme: ownScheme,
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(m)
	if err != nil {
		return nil, err
	}
	return tpm2.Marshal(rsp.Signature), nil
}

// Activate opens a credential.
func (m *TPM) Activate(ek, ak *Object, c api.Credential) ([]byte, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	if err != nil {
		return nil, err
	}
	key := ek.auth()
	if !public.ObjectAttributes.UserWithAuth {
		session, done, err := tpm2.PolicySession(m, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			return nil, err
		}
		defer func() { _ = done() }()
		_, err = tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session.Handle(), NonceTPM: session.NonceTPM()}.Execute(m)
		if err != nil {
			return nil, err
		}
		key.Auth = session
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: ak.auth(), KeyHandle: key,
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
	}.Execute(m)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}
