package workload

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	defaultPullTime = 15 * time.Minute
	maxPullLine     = 256 << 10
	maxPullStream   = 64 << 20
)

// Image is a resolved image. Digest and ID are hashes over its contents. ID is
// what is run; that the two belong together is known when it is resolved, and is
// the caller's to keep.
type Image struct {
	Reference string `json:"reference"` // as asked for, normalised
	Digest    string `json:"digest"`    // sha256:… of its manifest, or of the index that was pinned
	ID        string `json:"id"`        // 64 hexadecimal digits, of its configuration
}

// Credentials are for the registry of a private image. They are sent to Podman
// with one pull and kept nowhere.
type Credentials struct {
	Username string
	Password string
}

// header is what Podman takes as X-Registry-Auth: base64url of JSON.
func (c *Credentials) header() http.Header {
	if c == nil {
		return nil
	}
	b, err := json.Marshal(map[string]string{"username": c.Username, "password": c.Password})
	if err != nil {
		return nil // cannot be: two strings
	}
	return http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString(b)}}
}

type imageInspect struct {
	ID           string `json:"Id"`
	Digest       string
	RepoDigests  []string
	ManifestType string
}

// Resolve finds the image or pulls it, and says which it is.
//
// One that is pinned by digest is pulled only when it is not here. A tag is
// asked for at its registry each time; only when that cannot be reached, or is
// localhost, does the image of that tag on this machine do.
func (m *Manager) Resolve(ctx context.Context, reference string, credentials *Credentials) (Image, error) {
	ref, err := ParseReference(reference)
	if err != nil {
		return Image{}, err
	}
	here, err := m.find(ctx, ref.String())
	if err != nil {
		return Image{}, err
	}
	if here != nil && (ref.Digest != "" || ref.local()) {
		return pick(ref, here)
	}
	if ref.local() {
		return Image{}, refuse(ImageNotFound, "image %q is not on this machine", ref)
	}
	if err := m.pull(ctx, ref, credentials); err != nil {
		if here != nil && ReasonOf(err) == ImageUnreachable {
			return pick(ref, here)
		}
		return Image{}, err
	}
	here, err = m.find(ctx, ref.String())
	if err != nil {
		return Image{}, err
	}
	if here == nil {
		return Image{}, refuse(ImageNotFound, "image %q was pulled and is not there", ref)
	}
	return pick(ref, here)
}

// find returns nil when the image is not on this machine.
func (m *Manager) find(ctx context.Context, name string) (*imageInspect, error) {
	var found imageInspect
	err := m.api.call(ctx, http.MethodGet, "/images/"+url.PathEscape(name)+"/json", nil, nil, &found)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &found, nil
}

// pick holds what was found against what was pinned.
func pick(ref Reference, found *imageInspect) (Image, error) {
	image := Image{Reference: ref.String(), Digest: found.Digest, ID: strings.TrimPrefix(found.ID, "sha256:")}
	if ref.Digest != "" {
		if !found.has(ref.Digest) {
			return Image{}, refuse(ImageMismatch, "image %q: found %.80q", ref, found.Digest)
		}
		image.Digest = ref.Digest
	}
	return image, image.validate()
}

func (i *imageInspect) has(digest string) bool {
	return i.Digest == digest || slices.ContainsFunc(i.RepoDigests, func(s string) bool {
		_, d, _ := strings.Cut(s, "@")
		return d == digest
	})
}

func (i Image) validate() error {
	if _, err := ParseReference(i.Reference); err != nil {
		return err
	}
	if !hashShape.MatchString(i.Digest) || !hashShape.MatchString("sha256:"+i.ID) {
		return refuse(SpecInvalid, "image %q is not resolved: digest %.80q, id %.80q", i.Reference, i.Digest, i.ID)
	}
	return nil
}

// present reports whether the very image is on this machine. Its ID is what
// counts: the digest it was resolved from is not that of one which came out of
// an archive.
func (m *Manager) present(ctx context.Context, image Image) error {
	if err := image.validate(); err != nil {
		return err
	}
	found, err := m.find(ctx, image.ID)
	switch {
	case err != nil:
		return err
	case found == nil:
		return refuse(ImageNotFound, "image %q (%s) is not on this machine any more", image.Reference, image.Digest)
	case strings.TrimPrefix(found.ID, "sha256:") != image.ID:
		return refuse(ImageMismatch, "image %s is %.80q here", image.ID, found.ID)
	}
	return nil
}

// pull reads Podman's stream of {"stream"}, {"error"} and {"id"} to its end.
func (m *Manager) pull(ctx context.Context, ref Reference, credentials *Credentials) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.PullTimeout)
	defer cancel()
	query := url.Values{"reference": {ref.String()}, "policy": {"always"}}
	resp, err := m.api.do(ctx, http.MethodPost, "/images/pull", query, nil, credentials.header())
	if err != nil {
		if e, ok := errors.AsType[*statusError](err); ok {
			return pullFailure(ref, e.message)
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := readPull(resp.Body)
	if err != nil {
		return m.api.failed(err)
	}
	if said != "" {
		return pullFailure(ref, said)
	}
	return nil
}

// readPull returns what Podman says went wrong, or nothing.
func readPull(r io.Reader) (string, error) {
	lines := bufio.NewScanner(io.LimitReader(r, maxPullStream))
	lines.Buffer(make([]byte, 4096), maxPullLine)
	said, done := "", false
	for lines.Scan() {
		var line struct {
			Error string `json:"error"`
			ID    string `json:"id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return "", &Error{PodmanFailed, "read podman's progress of a pull", err}
		}
		if line.Error != "" {
			said = line.Error
		}
		done = done || line.ID != ""
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	if said == "" && !done {
		said = "podman ended the pull without an image"
	}
	return said, nil
}

// pullFailure sorts by Podman's words: its API has no codes for them.
func pullFailure(ref Reference, said string) error {
	lower := strings.ToLower(said)
	reason := ImageFailed
	for _, known := range []struct {
		reason Reason
		words  []string
	}{
		{ImageDenied, []string{"unauthorized", "authentication required", "access denied", "requested access", "invalid username", "forbidden", "authorization failed"}},
		{ImageNotFound, []string{"manifest unknown", "name unknown", "not found", "no image found", "name_unknown"}},
		{ImageMismatch, []string{"digest did not match", "does not match expected digest", "doesn't match digest", "manifest digest", "digest mismatch"}},
		{ImageUnreachable, []string{"connection refused", "no such host", "i/o timeout", "network is unreachable", "no route to host", "deadline exceeded", "server misbehaving", "connection reset", "tls handshake"}},
	} {
		if slices.ContainsFunc(known.words, func(w string) bool { return strings.Contains(lower, w) }) {
			reason = known.reason
			break
		}
	}
	return refuse(reason, "pull image %q: %.300q", ref, said)
}
