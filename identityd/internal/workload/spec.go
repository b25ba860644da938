package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
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

const (
	maxMounts = 16
	maxPath   = 1024
)

// reserved are the places in the container that are not for persisted
// directories: what lies there is the kernel's or does not outlive the
// container.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/var/run"}

func (s *Spec) validate() error {
	if err := s.Image.validate(); err != nil {
		return err
	}
	if s.Port == 0 || s.HostPort == 0 {
		return refuse(PortInvalid, "port %d published as %d: want 1 to 65535", s.Port, s.HostPort)
	}
	if len(s.Mounts) > maxMounts {
		return refuse(MountInvalid, "%d persisted directories: at most %d", len(s.Mounts), maxMounts)
	}
	for i, m := range s.Mounts {
		if err := m.validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(s.Mounts[:i], func(o Mount) bool { return o.Target == m.Target || o.Source == m.Source }) {
			return refuse(MountInvalid, "persisted directory %.64q is named twice", m.Target)
		}
	}
	return nil
}

func (m Mount) validate() error {
	t := m.Target
	if !path.IsAbs(t) || path.Clean(t) != t || t == "/" || len(t) > maxPath || strings.ContainsFunc(t, unprintable) {
		return refuse(MountInvalid, "persisted directory %.64q: want an absolute path without . and ..", t)
	}
	for _, r := range append(reserved, "/tmp") {
		if t == r || r != "/tmp" && strings.HasPrefix(t, r+"/") || strings.HasPrefix(r, t+"/") && r != "/var/run" {
			return refuse(MountInvalid, "persisted directory %.64q overlaps %s", t, r)
		}
	}
	if !filepath.IsAbs(m.Source) || filepath.Clean(m.Source) != m.Source || m.Source == "/" {
		return refuse(MountInvalid, "persisted directory %.64q: source is not an absolute path", t)
	}
	return nil
}

func unprintable(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }

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
	}{hardeningVersion, phase, s, opts.Limits, opts.LogPath})
	if err != nil {
		return "", &Error{SpecInvalid, "encode the container's description", err}
	}
	sum := sha256.Sum256(append([]byte("telemark-workload-v1\x00"), b...))
	return hex.EncodeToString(sum[:]), nil
}
