package workload

import (
	"regexp"
	"strings"
)

// Reference is a normalised image reference, HOST/PATH with a tag or a digest.
type Reference struct {
	Name   string // host and path, such as docker.io/library/nginx
	Tag    string // empty when Digest is set
	Digest string // sha256:…, when the image is pinned
}

const maxReference = 512

var (
	hostShape = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*(:[0-9]{1,5})?$`)
	partShape = regexp.MustCompile(`^[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*$`)
	tagShape  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	hashShape = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ParseReference reads [HOST[:PORT]/]PATH[:TAG][@sha256:HEX]. As elsewhere, an
// absent host is docker.io, a single name there is library/NAME, an absent tag
// is latest, and a tag beside a digest says nothing: the digest is what is
// pinned.
func ParseReference(s string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, refuse(ReferenceInvalid, "image %.64q: %s; want [HOST/]NAME[:TAG][@sha256:…]", s, why)
	}
	if s == "" || len(s) > maxReference {
		return bad("empty or too long")
	}
	rest, digest, pinned := strings.Cut(s, "@")
	if pinned && !hashShape.MatchString(digest) {
		return bad("not a sha256 digest")
	}
	tag := "latest"
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		rest, tag = rest[:colon], rest[colon+1:]
		if !tagShape.MatchString(tag) {
			return bad("not a tag")
		}
	}
	host, path, found := strings.Cut(rest, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, path = "docker.io", rest
	}
	if !hostShape.MatchString(host) {
		return bad("not a host name")
	}
	if host == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	for part := range strings.SplitSeq(path, "/") {
		if !partShape.MatchString(part) {
			return bad("not a name in lower case")
		}
	}
	r := Reference{Name: host + "/" + path, Tag: tag}
	if pinned {
		r.Tag, r.Digest = "", digest
	}
	return r, nil
}

// String is the form that Podman takes and ParseReference reads.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Name + "@" + r.Digest
	}
	return r.Name + ":" + r.Tag
}

// local reports whether no registry can have the image: localhost without a
// port is where Podman files what was imported or built.
func (r Reference) local() bool { return strings.HasPrefix(r.Name, "localhost/") }
