package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// An image is kept in the volume as two files named after its digest: the
// archive, and a record of it that is sealed.
const (
	imagePrefix   = "image-"
	archiveSuffix = ".tar"
	nameNewImage  = imagePrefix + "new" // being written; left over, it is removed

	maxImageRecord = 4 << 10
)

// imageRecord is JSON with nothing after it but the seal.
type imageRecord struct {
	Version int     `json:"version"` // 1
	Digest  string  `json:"digest"`
	ID      string  `json:"id"`
	Size    int64   `json:"size"` // of the archive
	SHA256  api.Hex `json:"sha256"`
}

func imageName(digest string) string { return imagePrefix + strings.TrimPrefix(digest, "sha256:") }

// keepImage writes the image into the volume, whole or not at all, unless it is
// there.
func (c *Control) keepImage(ctx context.Context, image workload.Image) error {
	return c.inVolume(ctx, func(ctx context.Context, p *place) error {
		name := imageName(image.Digest)
		if r, err := p.imageRecord(image.Digest); err == nil && r.ID == image.ID {
			if info, err := p.Lstat(name + archiveSuffix); err == nil && info.Mode().IsRegular() && info.Size() == r.Size {
				return nil
			}
		}
		r := &imageRecord{Version: 1, Digest: image.Digest, ID: image.ID}
		if err := p.archive(ctx, c.o.Workload, image, r); err != nil {
			return errors.Join(err, removed(p.Remove(nameNewImage)))
		}
		if err := p.Rename(nameNewImage, name+archiveSuffix); err != nil {
			return reason.Because(reason.DiskFailed, fmt.Errorf("keep the image in the volume: %w", err))
		}
		content, err := json.Marshal(r)
		if err != nil {
			return reason.Because(reason.Internal, err)
		}
		return p.replace(name, content) // and makes the archive's name durable
	})
}

func (p *place) archive(ctx context.Context, m *workload.Manager, image workload.Image, r *imageRecord) error {
	if err := removed(p.Remove(nameNewImage)); err != nil {
		return reason.Because(reason.DiskFailed, fmt.Errorf("remove what a crash left of an image: %w", err))
	}
	f, err := p.OpenFile(nameNewImage, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return reason.Because(reason.DiskFailed, fmt.Errorf("keep the image in the volume: %w", err))
	}
	w := &summed{w: f, sum: sha256.New()}
	if err := m.Export(ctx, image, w); err != nil {
		_ = f.Close()
		if w.err != nil {
			return reason.Because(reason.DiskFailed, fmt.Errorf("keep the image in the volume: %w", w.err))
		}
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return reason.Because(reason.DiskFailed, fmt.Errorf("keep the image in the volume: %w", err))
	}
	r.Size, r.SHA256 = w.n, w.sum.Sum(nil)
	return nil
}

// summed writes through and knows what it wrote.
type summed struct {
	w   io.Writer
	sum hash.Hash
	n   int64
	err error
}

func (s *summed) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.sum.Write(b[:n])
	s.n += int64(n)
	s.err = err
	return n, err
}

func (p *place) imageRecord(digest string) (*imageRecord, error) {
	content, err := p.read(imageName(digest), maxImageRecord)
	if errors.Is(err, errNotThere) {
		return nil, reason.Refuse(reason.ImageNotFound, "the image %.80q is not in the volume", digest)
	}
	if err != nil {
		return nil, err
	}
	var r imageRecord
	if strictjson.Unmarshal(content, &r) != nil || r.Version != 1 || r.Digest != digest || len(r.SHA256) != sha256.Size {
		return nil, reason.Refuse(reason.ImageMismatch, "what the volume says of the image %.80q is malformed", digest)
	}
	return &r, nil
}

// loadImage returns the image of a workload that was configured, which Podman
// gets from the volume where it has lost it.
func (c *Control) loadImage(ctx context.Context, w *state.Workload) (workload.Image, error) {
	ref, err := workload.ParseReference(w.Image)
	if err != nil {
		return workload.Image{}, err
	}
	image := workload.Image{Reference: ref.String(), Digest: w.Digest}
	err = c.inVolume(ctx, func(ctx context.Context, p *place) error {
		r, err := p.imageRecord(w.Digest)
		if err != nil {
			return err
		}
		image.ID = r.ID
		if has, err := c.o.Workload.Has(ctx, image); err != nil || has {
			return err
		}
		f, err := p.OpenFile(imageName(w.Digest)+archiveSuffix, os.O_RDONLY, 0)
		if err != nil {
			return reason.Because(reason.ImageNotFound, fmt.Errorf("read the image from the volume: %w", err))
		}
		defer f.Close() //nolint:errcheck // read only
		c.log.Info("loading the image from the volume", zap.String("image", image.Reference), zap.String("digest", w.Digest))
		err = c.o.Workload.Import(ctx, &checked{r: f, sum: sha256.New(), want: r}, image)
		if errors.Is(err, errArchive) {
			// It would be taken for the image when the owner configures it again.
			return errors.Join(reason.Because(reason.ImageMismatch, err), removed(p.Remove(imageName(w.Digest))))
		}
		return err
	})
	return image, err
}

var errArchive = errors.New("the archive of the image in the volume is not as it was written")

// checked reads an archive, and has no end unless it is the one that was
// written: what reads it never takes another one.
type checked struct {
	r    io.Reader
	sum  hash.Hash
	n    int64
	want *imageRecord
}

func (r *checked) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.sum.Write(b[:n])
	r.n += int64(n)
	switch {
	case r.n > r.want.Size:
		return 0, errArchive
	case errors.Is(err, io.EOF) && (r.n != r.want.Size || !bytes.Equal(r.sum.Sum(nil), r.want.SHA256)):
		return 0, errArchive
	}
	return n, err
}

// tidy removes the images of earlier workloads from the volume. Podman keeps its
// own until it ends: they cost nothing that the volume does.
func (c *Control) tidy(ctx context.Context, keep *state.Workload) {
	err := c.inVolume(ctx, func(_ context.Context, p *place) error {
		dir, err := p.Open(".")
		if err != nil {
			return err
		}
		names, err := dir.Readdirnames(-1)
		if err := errors.Join(err, dir.Close()); err != nil {
			return err
		}
		var errs []error
		for _, name := range names {
			kept := keep != nil && (name == imageName(keep.Digest) || name == imageName(keep.Digest)+archiveSuffix)
			if strings.HasPrefix(name, imagePrefix) && !kept {
				errs = append(errs, removed(p.Remove(name)))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		c.log.Warn("images of earlier workloads stay in the volume", zap.Error(err))
	}
}

func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
