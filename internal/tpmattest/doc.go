// Package tpmattest judges evidence of TPMs: endorsement keys and their
// certificates, attestation keys, credentials, certifications, quotes of
// platform registers and boot event logs (TCG TPM 2.0 Library revision 1.59
// parts 1 to 3, TCG EK Credential Profile 2.5, TCG PC Client Platform Firmware
// Profile 1.05). It opens no device and reads no clock; errors are *api.Error.
//
// What a TPM says is read here byte by byte and not with a general decoder: of
// the Library's many forms few are accepted, each has one encoding, and no
// length is believed before it was held against what is there.
//
// Left out: keys of other algorithms than RSA and ECC on NIST curves, PCR banks
// but SHA-256, certificate revocation lists of TPM vendors, platform
// certificates, what the events of a boot log mean, and IMA.
package tpmattest
