package wire

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Kind says how a device is reached.
type Kind int

// The kinds.
const (
	Path  Kind = iota + 1 // a character device or a unix socket
	Unix                  // a raw TPM stream on a unix socket
	TCP                   // a raw TPM stream on a TCP socket
	SWTPM                 // an swtpm process of our own, over a socket pair
)

// Address is a parsed device string.
type Address struct {
	Kind   Kind
	Target string // path, or host:port
}

const forms = "accepted are the path of a character device or socket (/dev/tpmrm0), unix:PATH, tcp:HOST:PORT and swtpm:DIR, and of TCTI configurations device:PATH and swtpm:host=HOST,port=PORT"

var errPort = errors.New("the port is not between 1 and 65535")

var scheme = regexp.MustCompile(`^[A-Za-z0-9+.-]+:`)

// ParseAddress parses a device string.
func ParseAddress(s string) (Address, error) {
	refuse := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("device %q: %s; %s", s, why, forms)
	}
	if s == "" {
		return refuse("is empty")
	}
	if strings.ContainsAny(s, "\x00\n\r") {
		return refuse("holds a control character")
	}
	name, target, _ := strings.Cut(s, ":")
	switch prefix := scheme.FindString(s); {
	case prefix == "" && strings.Contains(s, "/"):
		return Address{Path, filepath.Clean(s)}, nil
	case prefix == "":
		return refuse("is neither a path (no slash) nor has a known prefix")
	case target == "":
		return refuse("nothing follows " + prefix)
	}
	if a, ok, err := tcti(name, target); ok {
		if err != nil {
			return refuse(err.Error())
		}
		return a, nil
	}
	switch name {
	case "unix":
		return Address{Unix, filepath.Clean(target)}, nil
	case "swtpm":
		if strings.Contains(target, ",") {
			return refuse("swtpm cannot take a directory with a comma in its name")
		}
		return Address{SWTPM, filepath.Clean(target)}, nil
	case "tcp":
		host, port, err := net.SplitHostPort(target)
		if err != nil || host == "" {
			return refuse("tcp: takes HOST:PORT")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return refuse(errPort.Error())
		}
		return Address{TCP, target}, nil
	default:
		return refuse("the prefix " + name + ": is not known")
	}
}

// String returns the device string.
func (a Address) String() string {
	switch a.Kind {
	case Path:
		return a.Target
	case Unix:
		return "unix:" + a.Target
	case TCP:
		return "tcp:" + a.Target
	case SWTPM:
		return "swtpm:" + a.Target
	default:
		return "invalid device"
	}
}

// Shared says whether others may use the TPM at the same time, behind a
// resource manager that keeps their objects apart from ours. Where it is not
// shared, objects and sessions found in the TPM are left over from a user that is gone.
func (a Address) Shared() bool {
	return a.Kind == Path && strings.HasPrefix(filepath.Base(a.Target), "tpmrm")
}
