package storage

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/telemark-otel/telemark/internal/strictjson"
)

const (
	headerFormat = 1
	maxHeader    = 16 << 10
	maxConf      = 16 << 10
)

// Header is what stands beside the cipher directory, readable for everybody. As
// JSON, bytes in lower-case hex:
//
//	{"format":1, "id":"…16…", "source":"owner", "sealed":"…", "key_check":"…32…", "conf_mac":"…32…"}
//
//	mac key   = HKDF-SHA256(volume key, salt = id, info = "telemark-storage-mac-v1")
//	key_check = HMAC-SHA256(mac key, "telemark-storage-key-check-v1" 00 | P(id))
//	conf_mac  = HMAC-SHA256(mac key, "telemark-storage-conf-v1" 00 | P(id) | P(source) | P(sealed) | P(gocryptfs.conf))
//	P(x)      = u32 length of x, big endian | x
//
// key_check tells a wrong key from a changed conf. Authenticating the conf is
// needed because gocryptfs encrypts only its master key: a conf whose flags were
// edited, so that names of new files are not encrypted, still mounts.
type Header struct {
	ID     ID
	Source Kind
	Sealed []byte // of the Source

	keyCheck, confMAC []byte
}

type headerJSON struct {
	Format   int    `json:"format"`
	ID       string `json:"id"`
	Source   string `json:"source"`
	Sealed   string `json:"sealed"`
	KeyCheck string `json:"key_check"`
	ConfMAC  string `json:"conf_mac"`
}

func (h *Header) bytes() ([]byte, error) {
	b, err := json.Marshal(headerJSON{
		Format: headerFormat, ID: h.ID.String(), Source: string(h.Source), Sealed: hex.EncodeToString(h.Sealed),
		KeyCheck: hex.EncodeToString(h.keyCheck), ConfMAC: hex.EncodeToString(h.confMAC),
	})
	return append(b, '\n'), err
}

func parseHeader(b []byte) (*Header, error) {
	var j headerJSON
	if err := strictjson.Unmarshal(b, &j); err != nil {
		return nil, because(HeaderMalformed, err, "")
	}
	if j.Format != headerFormat {
		return nil, refuse(HeaderMalformed, "format %d, not %d", j.Format, headerFormat)
	}
	h := &Header{Source: Kind(j.Source)}
	if h.Source != OwnerKey && h.Source != VaultKey && h.Source != LegacyKey {
		return nil, refuse(HeaderMalformed, "source %.64q", j.Source)
	}
	var id []byte
	for _, f := range []struct {
		name, text        string
		shortest, longest int
		into              *[]byte
	}{
		{"id", j.ID, len(h.ID), len(h.ID), &id},
		{"sealed", j.Sealed, 0, maxSealed, &h.Sealed},
		{"key_check", j.KeyCheck, sha256.Size, sha256.Size, &h.keyCheck},
		{"conf_mac", j.ConfMAC, sha256.Size, sha256.Size, &h.confMAC},
	} {
		decoded, err := hex.DecodeString(f.text)
		if err != nil || hex.EncodeToString(decoded) != f.text || len(decoded) < f.shortest || len(decoded) > f.longest {
			return nil, refuse(HeaderMalformed, "%s is not %d to %d bytes in lower-case hex", f.name, f.shortest, f.longest)
		}
		*f.into = decoded
	}
	h.ID = ID(id)
	return h, nil
}

func mac(key []byte, tag string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(tag))
	m.Write([]byte{0})
	for _, p := range parts {
		m.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		m.Write(p)
	}
	return m.Sum(nil)
}

func (h *Header) macs(key *Key, conf []byte) (keyCheck, confMAC []byte, err error) {
	k, err := key.derive(h.ID, "telemark-storage-mac-v1")
	if err != nil {
		return nil, nil, err
	}
	defer clear(k)
	return mac(k, "telemark-storage-key-check-v1", h.ID[:]),
		mac(k, "telemark-storage-conf-v1", h.ID[:], []byte(h.Source), h.Sealed, conf), nil
}

// authenticate binds a new volume's conf.
func (h *Header) authenticate(key *Key, conf []byte) (err error) {
	h.keyCheck, h.confMAC, err = h.macs(key, conf)
	return err
}

// verify says whether key is the volume's and conf as it was when the volume
// was made.
func (h *Header) verify(key *Key, conf []byte) error {
	keyCheck, confMAC, err := h.macs(key, conf)
	if err != nil {
		return err
	}
	if !hmac.Equal(keyCheck, h.keyCheck) {
		return refuse(KeyWrong, "the key is not that of the volume %s", h.ID)
	}
	if !hmac.Equal(confMAC, h.confMAC) {
		detail := "gocryptfs.conf or the header is not as it was when the volume was made"
		if err := checkConf(conf); err != nil {
			detail += " (" + err.Error() + ")"
		}
		return refuse(ConfChanged, "%s", detail)
	}
	return checkConf(conf)
}

// conf is a gocryptfs.conf of on-disk format 2.
type conf struct {
	Creator      string
	EncryptedKey []byte
	ScryptObject struct {
		Salt            []byte
		N, R, P, KeyLen int
	} //nolint:gofumpt // as the file has it
	Version      int
	FeatureFlags []string
}

// flags are those of a volume of ours, all of them: names encrypted with an IV
// per directory, long ones too, contents with 128-bit nonces, keys separated.
var flags = []string{"DirIV", "EMENames", "GCMIV128", "HKDF", "LongNames", "Raw64"}

// checkConf demands a conf that protects contents and names. LongNameMax is a
// limit, and absent as we make it.
func checkConf(b []byte) error {
	var c conf
	if err := strictjson.Unmarshal(b, &c); err != nil {
		return because(ConfUnsafe, err, "gocryptfs.conf")
	}
	got := slices.Sorted(slices.Values(c.FeatureFlags))
	if c.Version != 2 || !slices.Equal(got, flags) {
		return refuse(ConfUnsafe, "gocryptfs.conf of format %d with the flags %.200q, not format 2 with %q", c.Version, got, flags)
	}
	if s := c.ScryptObject; len(c.EncryptedKey) != 64 || len(s.Salt) != 32 || s.N != 1<<scryptN || s.R != 8 || s.P != 1 || s.KeyLen != 32 {
		return refuse(ConfUnsafe, "gocryptfs.conf: key of %d bytes, salt of %d, scrypt with N %d, r %d, p %d, length %d", len(c.EncryptedKey), len(s.Salt), s.N, s.R, s.P, s.KeyLen)
	}
	return nil
}
