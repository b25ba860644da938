package wire

import (
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// The TCTI configurations of tpm2-tools (tpm2-tss, Tss2_TctiLdr_Initialize:
// NAME:KEY=VALUE,…) that name what a device string can name. Their defaults are
// those of tpm2-tss.
//
//	device:/dev/tpmrm0            /dev/tpmrm0
//	swtpm:host=HOST,port=PORT     tcp:HOST:PORT, of a running swtpm
//	swtpm:path=PATH               unix:PATH
//
// swtpm: followed by neither is the directory of an swtpm of our own.

var (
	errSimulator = errors.New("the framing of the Microsoft simulator is not spoken here; start swtpm, and name its port as tcp:HOST:PORT")
	errBroker    = errors.New("the user space resource manager is not spoken to; the kernel has one, /dev/tpmrm0")
	errTCTI      = errors.New("swtpm: takes host=HOST,port=PORT, or path=PATH, each once, or a directory")
)

// tcti returns the address of a TCTI configuration; ok is false when it is none.
func tcti(name, target string) (a Address, ok bool, err error) {
	switch name {
	case "device":
		if !strings.Contains(target, "/") {
			return a, true, errors.New("device: takes the path of a character device, such as /dev/tpmrm0")
		}
		return Address{Path, filepath.Clean(target)}, true, nil
	case "mssim":
		return a, true, errSimulator
	case "tabrmd":
		return a, true, errBroker
	case "swtpm":
		key, _, isPair := strings.Cut(target, "=")
		if !isPair || key != "host" && key != "port" && key != "path" {
			return a, false, nil
		}
		a, err = swtpmTCTI(target)
		return a, true, err
	default:
		return a, false, nil
	}
}

func swtpmTCTI(target string) (Address, error) {
	const defaultHost, defaultPort = "localhost", "2321"
	values := map[string]string{}
	for pair := range strings.SplitSeq(target, ",") {
		key, value, isPair := strings.Cut(pair, "=")
		if _, twice := values[key]; !isPair || twice || value == "" || key != "host" && key != "port" && key != "path" {
			return Address{}, errTCTI
		}
		values[key] = value
	}
	if path, ok := values["path"]; ok {
		if len(values) > 1 {
			return Address{}, errTCTI
		}
		return Address{Unix, filepath.Clean(path)}, nil
	}
	host, port := values["host"], values["port"]
	if host == "" {
		host = defaultHost
	}
	if port == "" {
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Address{}, errPort
	}
	return Address{TCP, net.JoinHostPort(host, port)}, nil
}
