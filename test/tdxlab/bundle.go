package tdxlab

import (
	"os"
	"path/filepath"
	"time"
)

// Files returns the collateral under the names that a bundle directory has:
// see docs/guide/tdx.md.
func (l *Lab) Files(now time.Time, edits ...func(*Collateral)) map[string][]byte {
	d := l.Collateral(now, edits...)
	return map[string][]byte{
		"tcbinfo-" + l.FMSPC() + ".json":   d.TCBInfo,
		"tcbinfo-" + l.FMSPC() + ".pem":    d.TCBInfoChain,
		"qeidentity.json":                  d.QEIdentity,
		"qeidentity.pem":                   d.QEIdentityChain,
		"pckcrl-" + l.platform.CA + ".der": d.PCKCRL,
		"pckcrl-" + l.platform.CA + ".pem": d.PCKCRLChain,
		"rootcrl.der":                      d.RootCRL,
	}
}

// WriteBundle writes them to a directory.
func (l *Lab) WriteBundle(dir string, now time.Time, edits ...func(*Collateral)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range l.Files(now, edits...) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
