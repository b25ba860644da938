package tpmattest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Model is what an EK certificate says of its TPM.
type Model struct {
	Manufacturer string `json:"manufacturer"` // "id:" and eight hexadecimal digits
	Model        string `json:"model"`
	Version      string `json:"version"` // of the firmware, "id:" and eight hexadecimal digits
}

// The attributes of TCG EK Credential Profile 2.5, section 3.1.2.
var (
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

const (
	maxModelValue   = 128 // bytes
	directoryName   = 4   // of the choices of GeneralName (RFC 5280, section 4.2.1.6)
	maxGeneralNames = 16
)

// ModelOf reads the subjectAltName of an EK certificate, which holds a
// directory name:
//
//	SEQUENCE OF GeneralName { [4] { RDNSequence with 2.23.133.2.1, .2 and .3 } }
func ModelOf(cert *x509.Certificate) (Model, error) {
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return Model{}, api.Refuse(api.EKCertificateUsage, "there is no subjectAltName, which names the TPM")
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(cert.Extensions[i].Value, &names); err != nil || len(rest) > 0 || len(names) > maxGeneralNames {
		return Model{}, api.Refuse(api.EKCertificateMalformed, "subjectAltName is not a list of names")
	}
	var m Model
	for _, n := range names {
		if n.Class != asn1.ClassContextSpecific || n.Tag != directoryName {
			continue
		}
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(n.Bytes, &rdns); err != nil || len(rest) > 0 {
			return Model{}, api.Refuse(api.EKCertificateMalformed, "the directory name in subjectAltName cannot be read")
		}
		if err := m.read(rdns); err != nil {
			return Model{}, err
		}
	}
	if m.Manufacturer == "" || m.Model == "" || m.Version == "" {
		return Model{}, api.Refuse(api.EKCertificateUsage, "subjectAltName does not name manufacturer, model and version of a TPM")
	}
	return m, nil
}

// read takes over the TPM's attributes, each of which may stand there once.
func (m *Model) read(rdns pkix.RDNSequence) error {
	for _, set := range rdns {
		for _, attribute := range set {
			var field *string
			switch {
			case attribute.Type.Equal(oidManufacturer):
				field = &m.Manufacturer
			case attribute.Type.Equal(oidModel):
				field = &m.Model
			case attribute.Type.Equal(oidVersion):
				field = &m.Version
			default:
				continue
			}
			value, ok := attribute.Value.(string)
			if !ok || value == "" || len(value) > maxModelValue || *field != "" {
				return api.Refuse(api.EKCertificateMalformed, "the TPM's attributes in subjectAltName are empty, repeated or not text")
			}
			*field = value
		}
	}
	return nil
}
