package api

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

// MaxLabels bounds the labels of a machine, MaxLabel the bytes of a key or value.
const (
	MaxLabels = 64
	MaxLabel  = 256
)

// CheckName refuses what cannot be a machine's name: also what reads like an
// EKHash, in capitals too, since calls take either.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || ekHash.MatchString(strings.ToLower(name)) {
		return Refuse(NameInvalid, "%.160q is no name", name)
	}
	return nil
}

var (
	labelKey   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,255}$`)
	labelValue = regexp.MustCompile(`^[\x20-\x7e]{0,256}$`)
)

// CheckLabels refuses labels that are too many or of the wrong form: keys of
// letters, digits and ._/-, values of printable ASCII, each at most MaxLabel
// bytes.
func CheckLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return Refuse(BadRequest, "%d labels, at most %d are allowed", len(labels), MaxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if !labelKey.MatchString(k) || !labelValue.MatchString(labels[k]) {
			return Refuse(BadRequest, "label %.64q: keys have 1 to %d letters, digits and ._/-, values at most %d printable characters", k, MaxLabel, MaxLabel)
		}
	}
	return nil
}

var ekHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// CheckEKHash refuses what cannot be an EKHash.
func CheckEKHash(hash string) error {
	if !ekHash.MatchString(hash) {
		return Refuse(BadRequest, "%.80q is no EK hash: 64 lower-case hexadecimal digits", hash)
	}
	return nil
}

var printable = regexp.MustCompile(`^[\x20-\x7e]{1,256}$`)

// CheckRevocation refuses what cannot be the reason of a revocation.
func CheckRevocation(why string) error {
	if !printable.MatchString(why) {
		return Refuse(BadRequest, "a revocation needs a reason of 1 to 256 printable characters; %q leaves acceptable what was signed before", Superseded)
	}
	return nil
}
