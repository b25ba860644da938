package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	enrollLong = `Enrol the signing key of this machine at the registry, once: show that the key is
in the machine's TPM, and that the machine is ours. An agent with a section
tpm::registry does this by itself and renews the lease; by hand it serves to try
a registry, and for keys that no agent renews.

The key is that of --key-dir, and is made when there is none, as the agent does.
While an agent runs on the directory it owns the key, and this command stays away.

The machine is ours when the registry knows its EK hash ('telemark ek show'), when
it knows a join token ('telemark fleet token create'), or once somebody approves
it. The token is not sent. TPM and files are those of 'telemark key create'.

Exit code 1 says that the registry refused, or that the machine waits for approval.`

	enrollExample = `  telemark enroll --device /dev/tpmrm0 --key-dir /var/lib/telemark/keys \
      --registry https://registry.example:3000 --token-file join.token --name edge-a
  telemark enroll --device swtpm:/tmp/tpm-a --key-dir /tmp/tpm-a/keys --registry http://localhost:3000 --output json`

	// enrollPatience bounds the whole: a slow chip makes an RSA key more than once.
	enrollPatience = 5 * time.Minute
)

type enrollOptions struct {
	device, dir, tokenFile, name, eventLog string

	handle   handleFlag
	ek       ekFlag
	registry connection
}

func newEnroll() *cobra.Command {
	var o enrollOptions
	cmd := &cobra.Command{
		Use:     "enroll --device DEVICE --key-dir DIR --registry URL",
		Short:   "Enrol this machine's key at a registry, once",
		Long:    enrollLong,
		Example: enrollExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			result, err := enroll(cmd.Context(), &o)
			if err != nil {
				return err
			}
			if err := show(cmd, result, func(w io.Writer) { sayEnrolled(w, result) }); err != nil {
				return err
			}
			if result.State != api.StateEnrolled {
				return errFound
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.device, "device", "", "the TPM")
	f.StringVar(&o.dir, "key-dir", "", "directory of the signing key (--dir is the same)")
	f.Var(&o.handle, "handle", "persistent handle of the key in the TPM, where it has one")
	f.StringVar(&o.registry.url, "registry", os.Getenv(envRegistry), "URL of the registry ($"+envRegistry+")")
	f.StringVar(&o.registry.ca, "ca", os.Getenv(envRegistryCA), "file with the CA certificates that the registry's is checked with; the system's when empty ($"+envRegistryCA+")")
	f.StringVar(&o.registry.cert, "cert", "", "client certificate, where the registry asks for one")
	f.StringVar(&o.registry.key, "key", "", "key of the client certificate")
	f.StringVar(&o.tokenFile, "token-file", "", "file with a join token (tmj1.…), mode 0600; for a machine that the registry does not know")
	f.StringVar(&o.name, "name", "", "name that the machine asks for; the one that the registry has when empty")
	f.Var(&o.ek, "ek", "endorsement key that names the machine: rsa2048, p256 or p384; the certified one when empty")
	f.StringVar(&o.eventLog, "event-log", enrolment.DefaultEventLog, "the boot's event log, for registries that ask for it")
	f.StringVar(&o.dir, "dir", "", "as it is called in the commands about keys")
	cobra.CheckErr(f.MarkHidden("dir")) // it is there
	return cmd
}

func (o *enrollOptions) validate() error {
	if o.device == "" || o.dir == "" || o.registry.url == "" {
		return errors.New("enroll needs --device, --key-dir and --registry (or " + envRegistry + ")")
	}
	if err := tpm.ParseDevice(o.device); err != nil {
		return fmt.Errorf("--device: %w", err)
	}
	return nil
}

// enrolled is what the command prints.
type enrolled struct {
	Machine  string       `json:"machine"`
	EK       string       `json:"ek"`
	KID      string       `json:"kid"`
	Name     string       `json:"name"`
	State    api.KeyState `json:"state"`
	Evidence api.Evidence `json:"evidence"`
	Expires  time.Time    `json:"expires_at,omitzero"`
	RenewAt  time.Time    `json:"renew_after,omitzero"`
}

func enroll(ctx context.Context, o *enrollOptions) (*enrolled, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	token, err := joinToken(o.tokenFile)
	if err != nil {
		return nil, err
	}
	config, err := o.registry.tls()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, enrollPatience)
	defer cancel()
	var algorithm tpm.Algorithm // of a key that is there; a new one has the usual
	if info, err := tpm.ReadKeyInfo(o.dir); err == nil {
		algorithm = tpm.Algorithm(info.Alg)
	}
	dev, err := tpm.Open(ctx, o.device, tpm.Options{Algorithm: algorithm})
	if err != nil {
		return nil, work(ownedHint(openHint(o.device, err)))
	}
	defer func() { _ = dev.Close() }() // nothing was written that closing could lose
	key, err := dev.OpenKey(ctx, tpm.KeyOptions{Dir: o.dir, Handle: uint32(o.handle)})
	if err != nil {
		return nil, work(ownedHint(fmt.Errorf("opening the key in %s: %w", o.dir, err)))
	}
	defer func() { _ = key.Close() }()
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client, err := enrolment.New(enrolment.Options{
		Endpoint: o.registry.url, HTTP: &http.Client{Transport: transport},
		Device: dev, Key: key, EK: tpm.EKAlgorithm(o.ek), EventLog: o.eventLog,
	})
	if err != nil {
		return nil, fmt.Errorf("--registry: %w", err)
	}
	r, err := client.Enrol(ctx, enrolment.Request{Name: o.name, Token: token})
	if err != nil {
		return nil, answered(o.httpHint(err))
	}
	out := &enrolled{
		Machine: r.Machine, EK: r.EK.String(), KID: r.KID, Name: r.Name, State: r.State, Evidence: r.Evidence,
		Expires: r.Expires, RenewAt: r.RenewAt,
	}
	return out, nil
}

// httpHint says what may be wrong when a registry that does TLS is called
// without: it ends the connection, mostly without a word.
func (o *enrollOptions) httpHint(err error) error {
	if _, refused := errors.AsType[*api.Error](err); refused || !strings.HasPrefix(o.registry.url, "http://") {
		return err
	}
	return fmt.Errorf("%w\nThe URL begins with http: does this registry take https only?", err)
}

// ownedHint says who owns what is in use.
func ownedHint(err error) error {
	if errors.Is(err, tpm.ErrInUse) {
		return fmt.Errorf("%w\nAn agent with a section tpm::registry enrols its key by itself; to do it by hand, stop the agent first", err)
	}
	return err
}

// joinToken reads a join token, nil without a file.
func joinToken(path string) (*api.Token, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // a machine that is known needs none
	}
	content, err := private.ReadSecret(path, maxTokenFile)
	if err != nil {
		return nil, work(fmt.Errorf("--token-file: %w", err))
	}
	token, err := api.ParseToken(string(content))
	if err != nil {
		return nil, work(fmt.Errorf("--token-file %s: %w", path, err))
	}
	return &token, nil
}

func sayEnrolled(w io.Writer, r *enrolled) {
	say(w, "machine   %s (%s)", r.Machine, r.EK)
	say(w, "kid       %s", r.KID)
	say(w, "name      %s", orDash(r.Name))
	say(w, "state     %s", r.State)
	say(w, "evidence  %s", r.Evidence)
	if r.State != api.StateEnrolled {
		say(w, "")
		say(w, "The machine waits for approval: 'telemark fleet approve %s', then enrol again.", r.Machine)
		return
	}
	say(w, "expires   %s", r.Expires.Local().Format(time.RFC3339))
	say(w, "renew     %s", r.RenewAt.Local().Format(time.RFC3339))
	if !r.Evidence.Genuine() {
		say(w, "")
		say(w, "Nothing shows that this key is in a TPM: verdicts on its data say unproven_tpm. The registry needs the")
		say(w, "vendor's root (--ek-roots), or somebody to vouch for the EK hash ('telemark fleet approve --vouch').")
	}
}
