package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/internal/identity/persist"
)

// Name is the name of the one container.
const Name = "workload"

// Mount is a persisted directory.
type Mount struct {
	Source string // on the host: absolute, without symlinks, checked by the caller
	Target string // in the container: absolute and clean
}

// Spec says which container there is to be.
type Spec struct {
	// Revision tells one configure from the next with the same contents: a
	// higher one makes the container anew.
	Revision uint64
	Image    Image
	Mounts   []Mount
	// Port that the workload listens on in the container, 1 to 65535.
	Port uint16
	// HostPort where it is published, 1 to 65535.
	HostPort uint16
	// HostAddress to publish on; the zero value is every IPv4 address.
	HostAddress netip.Addr
}

func (s *Spec) validate() error {
	if err := s.Image.validate(); err != nil {
		return err
	}
	if s.Port == 0 || s.HostPort == 0 {
		return refuse(PortInvalid, "port %d published as %d: want 1 to 65535", s.Port, s.HostPort)
	}
	targets := make([]string, len(s.Mounts))
	for i, m := range s.Mounts {
		if !filepath.IsAbs(m.Source) || filepath.Clean(m.Source) != m.Source || m.Source == "/" {
			return refuse(MountInvalid, "persisted directory %.64q: source is not an absolute path", m.Target)
		}
		if slices.ContainsFunc(s.Mounts[:i], func(o Mount) bool { return o.Source == m.Source }) {
			return refuse(MountInvalid, "persisted directory %.64q has the source of another", m.Target)
		}
		targets[i] = m.Target
	}
	if err := persist.Validate(targets); err != nil {
		return &Error{MountInvalid, "persisted directories", err}
	}
	return nil
}

// own gives the top of a persisted directory to the container's root, unless
// somebody in the container owns it already: in the container's user namespace
// the host's root is nobody. What lies in it is left alone.
func (m Mount) own() error {
	fd, err := unix.Open(m.Source, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &Error{MountInvalid, "open the source of persisted directory " + m.Target, err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &Error{MountInvalid, "look at the source of persisted directory " + m.Target, err}
	}
	if st.Uid >= idBase && st.Uid < idBase+idCount {
		return nil
	}
	if err := unix.Fchown(fd, idBase, idBase); err != nil {
		return &Error{MountInvalid, "give persisted directory " + m.Target + " to the container", err}
	}
	return nil
}

// Phase is what the container is for.
type Phase string

// The phases of the container.
const (
	Absent     Phase = "absent"
	Configured Phase = "configured" // no port, SSH may be open
	Published  Phase = "published"  // with its port, for good
)

// hash identifies the container that a spec makes in a phase, with the
// hardening that this version applies.
func (s *Spec) hash(phase Phase, opts *Options) (string, error) {
	b, err := json.Marshal(struct {
		Version int
		Phase   Phase
		Spec    *Spec
		Limits  Limits
		LogPath string
		Exec    bool
	}{hardeningVersion, phase, s, opts.Limits, opts.LogPath, opts.Exec})
	if err != nil {
		return "", &Error{SpecInvalid, "encode the container's description", err}
	}
	sum := sha256.Sum256(append([]byte("telemark-workload-v1\x00"), b...))
	return hex.EncodeToString(sum[:]), nil
}
