package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Bounds of the auth file.
const (
	maxFile    = 1 << 20
	maxEntries = 1000
)

// File is the auth file, in YAML:
//
//	anonymous: [viewer]              # what callers without credentials may; viewer or nothing
//	tokens:
//	  - name: collector-fra          # stands in the audit log
//	    sha256: 9f86d081884c7d65…    # of the whole token, as `registryd token` prints it
//	    roles: [viewer]
//	    expires: 2027-01-01T00:00:00Z
//	mtls:                            # one of subject, dns and uri each
//	  - subject: collector.example   # common name
//	    roles: [viewer]
//	  - uri: spiffe://example/ns/ops # subjectAltName
//	    roles: [approver]
//	oidc:
//	  issuer: https://id.example
//	  audience: telemark
//	  claim: groups                  # a string, or a list of strings
//	  roles:
//	    telemark-admins: [admin]
type File struct {
	Anonymous []string    `yaml:"anonymous"`
	Tokens    []FileToken `yaml:"tokens"`
	MTLS      []FileMTLS  `yaml:"mtls"`
	OIDC      *FileOIDC   `yaml:"oidc"`
}

// FileToken is one bearer token.
type FileToken struct {
	Name    string    `yaml:"name"`
	SHA256  string    `yaml:"sha256"`
	Roles   []string  `yaml:"roles"`
	Expires time.Time `yaml:"expires,omitempty"`
}

// FileMTLS is one client certificate, by one of its names.
type FileMTLS struct {
	Subject string   `yaml:"subject,omitempty"`
	DNS     string   `yaml:"dns,omitempty"`
	URI     string   `yaml:"uri,omitempty"`
	Roles   []string `yaml:"roles"`
}

// FileOIDC is one identity provider.
type FileOIDC struct {
	Issuer   string              `yaml:"issuer"`
	Audience string              `yaml:"audience"`
	Claim    string              `yaml:"claim"`
	Roles    map[string][]string `yaml:"roles"`
}

// Load reads an auth file. One that others than its owner may write is refused,
// since whoever writes it is admin.
func Load(name string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("auth file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("auth file: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("auth file %s has mode %#o: others could make themselves admin; run chmod go-w on it", name, info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("auth file: %w", err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("auth file %s is larger than %d bytes", name, maxFile)
	}
	parsed, err := Parse(content)
	if err != nil {
		return nil, fmt.Errorf("auth file %s: %w", name, err)
	}
	return parsed, nil
}

// Parse reads the content of an auth file. Unknown keys, keys that stand twice
// and a second document are errors that name the line.
func Parse(content []byte) (*File, error) {
	d := yaml.NewDecoder(bytes.NewReader(content))
	d.KnownFields(true)
	var f File
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, readYAML(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("read YAML: the file goes on behind its first document")
	}
	return &f, f.check()
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$`)

func (f *File) check() error {
	roles, err := parseRoles("anonymous", f.Anonymous, true)
	if err != nil {
		return err
	}
	if roles&^Viewer != 0 {
		return fmt.Errorf("anonymous: [%s]: callers without credentials may be viewer or nothing", strings.Join(f.Anonymous, ", "))
	}
	if len(f.Tokens) > maxEntries || len(f.MTLS) > maxEntries {
		return fmt.Errorf("tokens and mtls hold at most %d entries each", maxEntries)
	}
	seenName, seenHash := map[string]bool{}, map[string]bool{}
	for i, t := range f.Tokens {
		key := fmt.Sprintf("tokens[%d]", i)
		hash, err := hex.DecodeString(t.SHA256)
		switch {
		case !nameForm.MatchString(t.Name):
			return fmt.Errorf("%s::name: %.64q: want 1 to 128 letters, digits and . _ @ : -", key, t.Name)
		case seenName[t.Name]:
			return fmt.Errorf("%s::name: %q stands there twice, and the audit log could not tell them apart", key, t.Name)
		case err != nil || len(hash) != 32:
			return fmt.Errorf("%s::sha256: want 64 hexadecimal digits, as `registryd token %s` prints them (never the token itself)", key, t.Name)
		case seenHash[string(hash)]:
			return fmt.Errorf("%s::sha256: another entry has the same token", key)
		}
		seenName[t.Name], seenHash[string(hash)] = true, true
		if _, err := parseRoles(key+"::roles", t.Roles, false); err != nil {
			return err
		}
	}
	return errors.Join(f.checkMTLS(), f.checkOIDC())
}

func (f *File) checkMTLS() error {
	seen := map[string]bool{}
	for i, m := range f.MTLS {
		key := fmt.Sprintf("mtls[%d]", i)
		kind, name, n := m.which()
		if n != 1 {
			return fmt.Errorf("%s: wants exactly one of subject, dns and uri", key)
		}
		if len(name) > 512 || seen[kind+name] {
			return fmt.Errorf("%s::%s: %.64q is too long or stands there twice", key, kind, name)
		}
		seen[kind+name] = true
		if _, err := parseRoles(key+"::roles", m.Roles, false); err != nil {
			return err
		}
	}
	return nil
}

// which returns the name by which a certificate is known, and how many there are.
func (m *FileMTLS) which() (kind, name string, n int) {
	for k, v := range map[string]string{"subject": m.Subject, "dns": m.DNS, "uri": m.URI} {
		if v != "" {
			kind, name, n = k, v, n+1
		}
	}
	return kind, name, n
}

func (f *File) checkOIDC() error {
	o := f.OIDC
	if o == nil {
		return nil
	}
	switch {
	case !strings.HasPrefix(o.Issuer, "https://") && !strings.HasPrefix(o.Issuer, "http://127.0.0.1:") && !strings.HasPrefix(o.Issuer, "http://localhost:"):
		return fmt.Errorf("oidc::issuer: %.128q: want an https:// URL", o.Issuer)
	case o.Audience == "":
		return errors.New("oidc::audience: is missing: tokens that were made for another service would be taken")
	case o.Claim == "":
		return errors.New("oidc::claim: is missing: the claim that roles are taken from, such as groups")
	case len(o.Roles) == 0:
		return errors.New("oidc::roles: is empty: which values of the claim give which roles")
	}
	for value, roles := range o.Roles {
		if _, err := parseRoles("oidc::roles::"+value, roles, false); err != nil {
			return err
		}
	}
	return nil
}

func parseRoles(key string, list []string, empty bool) (Role, error) {
	var out Role
	for _, s := range list {
		r, err := ParseRole(s)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", key, err)
		}
		out |= r
	}
	if out == 0 && !empty {
		return 0, fmt.Errorf("%s: is empty; want one or more of %s", key, strings.Join(Names, ", "))
	}
	return out, nil
}

// readYAML says in one line what is wrong, and where.
func readYAML(err error) error {
	if t, ok := errors.AsType[*yaml.TypeError](err); ok {
		return fmt.Errorf("read YAML: %.300s", strings.Join(t.Errors, "; "))
	}
	return fmt.Errorf("read YAML: %w", err)
}
