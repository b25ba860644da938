package identitylab

import (
	"fmt"
	"path/filepath"
	"slices"
)

// setArgs says how identityd is started.
func (v *VM) setArgs() {
	local := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	args := []string{
		"serve", "--dev", "--boot-id", v.Boot,
		"--listen", local(v.Ports.HTTP), "--tls-listen", local(v.Ports.TLS), "--ssh-listen", local(v.Ports.SSH),
		"--publish", fmt.Sprint(v.Ports.Publish), "--publish-address", "127.0.0.1",
		"--run-dir", filepath.Join(v.Memory, "identityd"),
		"--podman-socket", v.Podman.Socket,
	}
	if v.options.Attested {
		args = append(args, "--publish-tls", local(v.Ports.PublishTLS))
	}
	if v.options.Pin != "" {
		args = append(args, "--registry-key", v.options.Pin)
	}
	v.Args = slices.Concat(args, v.options.Args)
}
