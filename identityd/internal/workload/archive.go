package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const defaultMaxArchive = 16 << 30

// An image survives the end of Podman's storage as an archive: an OCI layout in
// a tar (https://github.com/opencontainers/image-spec/blob/main/image-layout.md),
// or for an image of Docker's format Docker's own, since turning one into the
// other would change its configuration and so its ID. Layers are packed anew in
// it, so that its manifest has another digest: ID is what an image is known by
// afterwards.
const (
	formatOCI    = "oci-archive"
	formatDocker = "docker-archive"

	manifestDocker = "application/vnd.docker.distribution.manifest.v2+json"
)

// Has reports whether the very image is on this machine.
func (m *Manager) Has(ctx context.Context, image Image) (bool, error) {
	err := m.present(ctx, image)
	if err != nil && ReasonOf(err) == ImageNotFound {
		return false, nil
	}
	return err == nil, err
}

// Export writes the image as an archive that Import takes. What was written when
// it fails is good for nothing.
func (m *Manager) Export(ctx context.Context, image Image, w io.Writer) error {
	if err := image.validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.opts.PullTimeout)
	defer cancel()
	found, err := m.find(ctx, image.ID)
	if err != nil {
		return err
	}
	if found == nil {
		return refuse(ImageNotFound, "image %q (%s) is not on this machine any more", image.Reference, image.Digest)
	}
	format := formatOCI
	if found.ManifestType == manifestDocker {
		format = formatDocker
	}
	resp, err := m.api.do(ctx, http.MethodGet, "/images/"+image.ID+"/get", url.Values{"format": {format}}, nil, nil)
	if err != nil {
		return &Error{ReasonOf(err), "export the image", err}
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(w, io.LimitReader(resp.Body, m.opts.MaxArchive+1))
	switch {
	case n > m.opts.MaxArchive:
		return refuse(ImageTooLarge, "image %q has more than %d bytes", image.Reference, m.opts.MaxArchive)
	case err != nil && ctx.Err() != nil:
		return &Error{PodmanTimeout, "export the image", ctx.Err()}
	case err != nil:
		return &Error{ImageFailed, "export the image", err}
	}
	return nil
}

// Import takes an archive of Export, which the caller knows to be the one that
// was written, and returns when the very image want is on this machine. An
// archive whose reading fails is not taken at all.
func (m *Manager) Import(ctx context.Context, archive io.Reader, want Image) error {
	if err := want.validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.opts.PullTimeout)
	defer cancel()
	if err := m.api.upload(ctx, "/images/load", io.LimitReader(archive, m.opts.MaxArchive)); err != nil {
		return &Error{reasonOfLoad(err), "load the image", err}
	}
	found, err := m.find(ctx, want.ID)
	if err != nil {
		return err
	}
	if found == nil || strings.TrimPrefix(found.ID, "sha256:") != want.ID {
		return refuse(ImageMismatch, "the archive holds another image than %s", want.ID)
	}
	return nil
}

func reasonOfLoad(err error) Reason {
	if _, ok := errors.AsType[*statusError](err); ok {
		return ImageFailed
	}
	return ReasonOf(err)
}

// upload posts a stream. When reading it fails the request is broken off, so
// that Podman never sees its end.
func (c *client) upload(ctx context.Context, path string, content io.Reader) error {
	source := &source{r: content}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://podman"+c.prefix+path, source)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := c.http.Do(req)
	if source.err != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return fmt.Errorf("read the archive: %w", source.err)
	}
	if err != nil {
		return c.failed(err)
	}
	return c.answer(resp, path, nil)
}

// source keeps why it could not be read, which the transport hides.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
