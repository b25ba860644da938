package instance

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	ppidSize   = 16
	tlsKeySize = 32
)

// check judges a registration by itself: sizes, who needs whom, and who signed
// what. That the PPID has a fixed length keeps bytes from moving between it and
// the operator in the first generation's report data.
func check(r *api.Registration, generation int) error {
	switch {
	case len(r.InstancePubkey) != ed25519.PublicKeySize:
		return api.Refuse(api.InstanceKeyInvalid, "instance_pubkey has %d bytes, not %d", len(r.InstancePubkey), ed25519.PublicKeySize)
	case !isKey(r.InstancePubkey):
		return api.Refuse(api.InstanceKeyInvalid, "instance_pubkey is a point of low order, for which anybody signs")
	case len(r.PPID) != ppidSize:
		return api.Refuse(api.PPIDInvalid, "ppid has %d bytes, not %d", len(r.PPID), ppidSize)
	case len(r.AttestationQuote) == 0:
		return api.Refuse(api.QuoteMalformed, "attestation_quote is empty")
	case r.Owner != nil && r.Operator == nil:
		return api.Refuse(api.OwnerWithoutOperator, "owner without operator")
	case generation == 1 && (len(r.Nonce) > 0 || len(r.TLSKey) > 0 || len(r.Statement) > 0 || len(r.Possession) > 0):
		return api.Refuse(api.BadRequest, "nonce, tls_key and statement belong to /v1/instances: the first generation's report data does not cover them")
	case len(r.TLSKey) != 0 && len(r.TLSKey) != tlsKeySize:
		return api.Refuse(api.BadRequest, "tls_key has %d bytes, not %d", len(r.TLSKey), tlsKeySize)
	}
	if err := checkParty("operator", r.Operator, r.InstancePubkey, api.OperatorSignatureInvalid); err != nil {
		return err
	}
	return checkParty("owner", r.Owner, r.InstancePubkey, api.OwnerSignatureInvalid)
}

func checkParty(role string, p *api.Party, instance []byte, refused api.Reason) error {
	switch {
	case p == nil:
		return nil
	case len(p.Pubkey) != ed25519.PublicKeySize:
		return api.Refuse(refused, "%s.pubkey has %d bytes, not %d", role, len(p.Pubkey), ed25519.PublicKeySize)
	case !isKey(p.Pubkey):
		return api.Refuse(refused, "%s.pubkey is a point of low order, for which anybody signs", role)
	case !ed25519.Verify(ed25519.PublicKey(p.Pubkey), instance, p.InstanceSignature):
		return api.Refuse(refused, "%s.instance_signature", role)
	case !ed25519.Verify(instance, p.Pubkey, p.IdentitySignature):
		return api.Refuse(api.IdentitySignatureInvalid, "%s.identity_signature", role)
	}
	return nil
}

// unchanged refuses a registration that takes back or changes what is known:
// parties are only added, and an instance that has proven when it was attested
// does not go back to saying so without proof.
func unchanged(known *store.Instance, r *api.Registration, generation int) error {
	switch {
	case known.State == api.TDXRevoked:
		return api.Refuse(api.InstanceRevoked, "revoked: %s", known.Revoked)
	case generation < known.Generation:
		return api.Refuse(api.V1Required, "the instance registered through /v1/ before")
	case known.Origin != "" && len(r.Statement) == 0:
		return api.Refuse(api.StatementRequired, "the instance said what it is before")
	case !bytes.Equal(known.PPID, r.PPID):
		return api.Refuse(api.PPIDChanged, "known on another platform")
	case known.Operator != nil && (r.Operator == nil || !bytes.Equal(known.Operator.Pubkey, r.Operator.Pubkey)):
		return api.Refuse(api.OperatorChanged, "known with the operator %s", partyKey(known.Operator))
	case known.Owner != nil && (r.Owner == nil || !bytes.Equal(known.Owner.Pubkey, r.Owner.Pubkey)):
		return api.Refuse(api.OwnerChanged, "known with the owner %s", partyKey(known.Owner))
	}
	return nil
}

// repeated reports whether a registration of the first generation says again
// what is known. It is accepted and changes nothing: nothing in it tells when it
// was made, so that it does not extend the lease either. What was not verified
// when it was said first, since that was switched off, is verified now.
func (s *Service) repeated(known *store.Instance, r *api.Registration, generation int) bool {
	if generation != 1 || known.Generation != 1 || known.Measurements == nil && s.o.Quotes != nil {
		return false
	}
	// One that proves the platform may be the same signature as one that does not.
	same := bytes.Equal(known.Quote, r.AttestationQuote) || known.PPIDProven && tdx.SameSignature(known.Quote, r.AttestationQuote)
	return same &&
		sameParty(known.Operator, r.Operator) && sameParty(known.Owner, r.Owner)
}

func sameParty(a, b *api.Party) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Pubkey, b.Pubkey) && bytes.Equal(a.InstanceSignature, b.InstanceSignature) && bytes.Equal(a.IdentitySignature, b.IdentitySignature)
}

func partyKey(p *api.Party) string {
	if p == nil {
		return ""
	}
	return hex.EncodeToString(p.Pubkey)
}
