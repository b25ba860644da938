package storage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// programs are what gocryptfs needs of the machine.
type programs struct {
	gocryptfs string
	path      string // PATH, where gocryptfs looks for fusermount3
}

var version = regexp.MustCompile(`^gocryptfs v?(\d+)\.(\d+)`)

// Check says everything that this machine lacks, each with the package to
// install. fuse is the device, /dev/fuse when empty.
func Check(ctx context.Context, fuse string) error {
	_, err := find(ctx, fuse)
	return err
}

func find(ctx context.Context, fuse string) (*programs, error) {
	p := &programs{path: os.Getenv("PATH")}
	var missing []error
	if os.Geteuid() != 0 {
		missing = append(missing, refuse(NotRoot, "mounting needs root: run identityd as root"))
	}
	var err error
	if p.gocryptfs, err = exec.LookPath("gocryptfs"); err != nil {
		missing = append(missing, refuse(GocryptfsMissing, "gocryptfs is not in PATH: install it (Debian, Ubuntu: apt-get install gocryptfs)"))
	} else if err := p.recent(ctx); err != nil {
		missing = append(missing, err)
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		missing = append(missing, refuse(FusermountMissing, "fusermount3 is not in PATH: install it (Debian, Ubuntu: apt-get install fuse3)"))
	}
	if fuse == "" {
		fuse = "/dev/fuse"
	}
	if f, err := os.OpenFile(fuse, os.O_RDWR, 0); err != nil {
		missing = append(missing, because(FuseMissing, err, "%s cannot be used: load the module (modprobe fuse), and give the device to the container if identityd runs in one (--device /dev/fuse)", fuse))
	} else {
		_ = f.Close()
	}
	return p, errors.Join(missing...)
}

func (p *programs) recent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.gocryptfs, "-version") //nolint:gosec // found in PATH
	cmd.Env = []string{"PATH=" + p.path}
	out, err := cmd.Output()
	if err != nil {
		return because(GocryptfsMissing, err, "%s -version", p.gocryptfs)
	}
	m := version.FindSubmatch(out)
	if m == nil {
		return refuse(GocryptfsTooOld, "gocryptfs says its version is %.64q: 2.0 or later is needed", out)
	}
	if major, err := strconv.Atoi(string(m[1])); err != nil || major < 2 {
		return refuse(GocryptfsTooOld, "gocryptfs is %s: 2.0 or later is needed", m[0])
	}
	return nil
}
