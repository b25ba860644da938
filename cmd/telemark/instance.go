package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/idkey"
	"github.com/telemark-otel/telemark/cmd/telemark/internal/instances"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	envInstanceKey    = "TELEMARK_KEY"
	envInstancePolicy = "TELEMARK_TDX_POLICY"
	envInstances      = "TELEMARK_INSTANCES"
	envAgentSocket    = "SSH_AUTH_SOCK"

	maxSmallFile = 64 << 10
)

// instanceFlags say how an instance of identityd is reached, and by what it is
// believed.
type instanceFlags struct {
	key, agentKey, passphraseFile string

	ca, policy, roots, collateralDir, pccs, instance string
	stateDir                                         string
	newMeasurements, skipQuote, plaintext, legacy    bool
	timeout                                          time.Duration
}

// trust adds what every call to an instance needs.
func (o *instanceFlags) trust(f *pflag.FlagSet, patience time.Duration) {
	f.StringVar(&o.policy, "policy", os.Getenv(envInstancePolicy), "TDX policy that the quote has to meet, as a registry's ($"+envInstancePolicy+"); without one: a platform that is up to date. The measurements of the first time have to stay in any case")
	f.BoolVar(&o.newMeasurements, "accept-measurements", false, "take measurements that differ from those at first, and remember them")
	f.StringVar(&o.instance, "instance-key", "", "the instance key that it has to have, as a registry shows it")
	f.StringVar(&o.ca, "ca", "", "check the server's certificate by these CA certificates, instead of by the attestation: for instances behind a proxy, which then sees what is sent")
	f.StringVar(&o.pccs, "pccs-url", "", "service for collateral; Intel's when empty")
	f.StringVar(&o.collateralDir, "collateral-dir", "", "directory of collateral, instead of a service")
	f.StringVar(&o.roots, "quote-roots", "", "root certificates of quotes, instead of Intel's: for laboratories")
	f.BoolVar(&o.skipQuote, "insecure-skip-quote", false, "believe whoever answers: for development without TDX")
	f.BoolVar(&o.legacy, "legacy", false, "speak the older form, to services without /v1/: needs --instance-key, since nothing can be verified")
	f.StringVar(&o.stateDir, "state-dir", instancesDir(), "where it is remembered what was seen of instances, and the keys of their volumes ($"+envInstances+")")
	f.DurationVar(&o.timeout, "timeout", patience, "how long the whole may take")
}

// keyFlags say which key signs.
func (o *instanceFlags) keyFlags(f *pflag.FlagSet) {
	f.StringVar(&o.key, "key", os.Getenv(envInstanceKey), "file with your Ed25519 key: OpenSSH's format, PKCS#8 or the digits of the seed ($"+envInstanceKey+")")
	f.StringVar(&o.agentKey, "agent-key", "", "your key in the ssh-agent, by fingerprint (SHA256:…) or comment, instead of --key")
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "file with the key's passphrase; asked for on the terminal when empty")
}

// signing adds what calls need that are signed.
func (o *instanceFlags) signing(f *pflag.FlagSet, patience time.Duration) {
	o.keyFlags(f)
	f.BoolVar(&o.plaintext, "allow-plaintext", false, "send secrets (the owner's token, credentials) over plain HTTP: whoever is on the way reads them")
	o.trust(f, patience)
}

// instancesDir is where records are when nothing else is said.
func instancesDir() string {
	if dir := os.Getenv(envInstances); dir != "" {
		return dir
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return filepath.Join(".telemark", "instances")
	}
	return filepath.Join(config, "telemark", "instances")
}

func (o *instanceFlags) memory() *instances.Dir {
	return &instances.Dir{Path: o.stateDir, Now: time.Now}
}

// openKey opens the key that signs.
func (o *instanceFlags) openKey() (*idkey.Key, error) {
	if o.agentKey != "" && o.key == os.Getenv(envInstanceKey) {
		o.key = "" // only the environment names it
	}
	if o.key == "" && o.agentKey == "" {
		return nil, errors.New("which key signs? Give --key FILE, --agent-key, or set " + envInstanceKey + "; `telemark owner key new FILE` makes one")
	}
	k, err := idkey.Open(idkey.Source{File: o.key, Agent: o.agentKey, Socket: os.Getenv(envAgentSocket), Passphrase: o.passphrase})
	if err != nil {
		return nil, work(fmt.Errorf("your key: %w", err))
	}
	return k, nil
}

func (o *instanceFlags) passphrase() ([]byte, error) { return readPassphrase(o.passphraseFile, o.key) }

// readPassphrase reads a passphrase from a file, or asks for it.
func readPassphrase(file, of string) ([]byte, error) {
	if file != "" {
		content, err := private.ReadSecret(file, 4<<10)
		return bytes.TrimRight(content, "\r\n"), err
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.New("there is no terminal to ask on; give --passphrase-file")
	}
	defer func() { _ = tty.Close() }()
	_, _ = fmt.Fprintf(tty, "Passphrase of %s: ", of)
	words, err := term.ReadPassword(int(tty.Fd()))
	_, _ = fmt.Fprintln(tty)
	return words, err
}

// quotes returns who verifies quotes, and what ends it.
func (o *instanceFlags) quotes() (client.Quotes, func(), error) {
	if o.skipQuote || o.legacy {
		return client.Unverified{}, func() {}, nil
	}
	var c collateral.Options
	if o.policy != "" {
		content, err := readSmall(o.policy, tdx.MaxPolicyFile)
		if err != nil {
			return nil, nil, work(fmt.Errorf("--policy: %w", err))
		}
		if c.Policies, err = tdx.ParsePolicies(content); err != nil {
			return nil, nil, work(fmt.Errorf("--policy %s: %w", o.policy, err))
		}
	}
	if o.collateralDir != "" {
		c.Source = collateral.Bundle{Dir: o.collateralDir}
	} else {
		service, err := collateral.NewService(o.pccs, nil)
		if err != nil {
			return nil, nil, fmt.Errorf("--pccs-url: %w", err)
		}
		c.Source = service
	}
	var err error
	if c.Roots, err = pool("--quote-roots", o.roots); err != nil {
		return nil, nil, err
	}
	v, err := collateral.New(c)
	if err != nil {
		return nil, nil, work(err)
	}
	return v, v.Close, nil
}

// pool reads certificates; nil without a file.
func pool(flag, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	content, err := readSmall(path, maxSmallFile)
	if err != nil {
		return nil, work(fmt.Errorf("%s: %w", flag, err))
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(content) {
		return nil, work(fmt.Errorf("%s: %s holds no certificate in PEM", flag, path))
	}
	return p, nil
}

func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

// session is one conversation with an instance.
type session struct {
	cmd    *cobra.Command
	flags  *instanceFlags
	client *client.Client
	memory *instances.Dir
	close  func()

	instance *client.Instance // verified
}

// withInstance runs fn with an instance that was verified.
func withInstance(o *instanceFlags, fn func(ctx context.Context, s *session) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
		defer cancel()
		s, err := o.dial(cmd, args[0])
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.attest(ctx); err != nil {
			return err
		}
		return fn(ctx, s)
	}
}

// dial prepares a session. Nothing is sent yet.
func (o *instanceFlags) dial(cmd *cobra.Command, at string) (*session, error) {
	known, ok := api.ParseHex(o.instance, 2*ed25519.PublicKeySize)
	if !ok || len(known) != 0 && len(known) != ed25519.PublicKeySize {
		return nil, errors.New("--instance-key: want 64 lower-case hexadecimal digits")
	}
	if o.legacy && len(known) == 0 && !o.skipQuote {
		return nil, errors.New("--legacy: nothing shows which VM a service without /v1/ is in: give --instance-key with what a registry verified, or --insecure-skip-quote")
	}
	roots, err := pool("--ca", o.ca)
	if err != nil {
		return nil, err
	}
	quotes, end, err := o.quotes()
	if err != nil {
		return nil, err
	}
	s := &session{cmd: cmd, flags: o, memory: o.memory()}
	s.client, err = client.New(client.Options{
		URL: at, Roots: roots, Quotes: quotes, Memory: s.memory, Instance: known,
		NewMeasurements: o.newMeasurements, Plaintext: o.plaintext, Legacy: o.legacy,
	})
	if err != nil {
		end()
		return nil, err
	}
	s.close = func() { s.client.Close(); end() }
	return s, nil
}

// attest verifies the instance, and says what is worth saying.
func (s *session) attest(ctx context.Context) error {
	if s.flags.skipQuote {
		say(s.cmd.ErrOrStderr(), "WARNING: the quote is NOT verified (--insecure-skip-quote). Whoever answers is believed, and may be anybody.")
	}
	before, _ := s.memory.List() // only to tell what is new; errors come again
	var err error
	if s.instance, err = s.client.Attest(ctx); err != nil {
		return instanceError(err)
	}
	if m := s.instance.Measurements(); m != nil && s.flags.policy == "" && !s.instance.Locked() && !knows(before, s.instance.Statement.Origin) {
		say(s.cmd.ErrOrStderr(), "Seen for the first time: the VM's measurements (MRTD %.16s…) are remembered, and others will be refused. To say yourself which VM image may run, give --policy.", m.MRTD)
	}
	return nil
}

func knows(records []*instances.Record, origin []byte) bool {
	for _, r := range records {
		if bytes.Equal(r.Origin, origin) {
			return true
		}
	}
	return false
}

// facts is what the quote vouches for, as commands print it.
type facts struct {
	Instance string `json:"instance_pubkey"`
	Origin   string `json:"origin_pubkey,omitempty"`
	// Verified is false where quotes are not looked at.
	Verified bool             `json:"verified"`
	Policy   string           `json:"policy,omitempty"`
	TCB      string           `json:"tcb_status,omitempty"`
	Channel  client.Channel   `json:"channel"`
	Owner    string           `json:"owner,omitempty"`
	Operator string           `json:"operator,omitempty"`
	Facts    *statement.Facts `json:"facts,omitempty"`

	Measurements *client.Measurements `json:"measurements,omitempty"`
}

func factsOf(i *client.Instance) *facts {
	f := &facts{Instance: api.Hex(i.Key).String(), Verified: i.Verified(), Channel: i.Channel(), Facts: i.Facts, Measurements: i.Measurements()}
	if i.Statement != nil {
		f.Origin = api.Hex(i.Statement.Origin).String()
		f.Owner, f.Operator = api.Hex(i.Statement.Owner).String(), api.Hex(i.Statement.Operator).String()
	}
	if i.Verified() {
		f.Policy, f.TCB = i.Quote.Policy, i.Quote.TCBStatus
	}
	return f
}

// taken is what a step prints.
type taken struct {
	*facts
	OwnerToken string `json:"owner_token,omitempty"`
	TokenFile  string `json:"token_file,omitempty"`
	Registry   string `json:"registry,omitempty"` // pending: it has not heard of it yet
	Reason     string `json:"reason,omitempty"`
	Detail     string `json:"error,omitempty"`
}

// after looks at the instance again when a step was taken: what the quote says now
// is what the step did. The step is taken whatever comes of it, so that there is
// always something to show; an error says that the instance is no more believed.
func (s *session) after(ctx context.Context, done *client.Done) (*taken, error) {
	t := &taken{facts: &facts{Instance: api.Hex(s.instance.Key).String(), Channel: s.instance.Channel()}}
	if done.Pending {
		t.Registry, t.Reason, t.Detail = api.RegistryPending, done.Reason, done.Detail
		say(s.cmd.ErrOrStderr(), "Done and kept. The registry has not heard of it yet, and is tried again: %s", join(": ", t.Reason, t.Detail))
	}
	again, err := s.client.Attest(ctx)
	if _, doubted := errors.AsType[*client.Doubt](err); doubted {
		return t, instanceError(fmt.Errorf("the step was taken, and afterwards the instance is not to be believed: %w", err))
	}
	if err != nil {
		say(s.cmd.ErrOrStderr(), "Done, but the instance could not be looked at afterwards: %v", err)
		return t, nil
	}
	if err := s.sameAs(again); err != nil {
		return t, err
	}
	before := s.instance.Statement
	s.instance, t.facts = again, factsOf(again)
	if before != nil && again.Statement.Counter <= before.Counter {
		return t, refuse("the answer says that the step was taken, and the quote shows that nothing happened: the counter is %d as before\nSomebody on the way answered in the instance's place.", again.Statement.Counter)
	}
	return t, nil
}

// sameAs refuses to show another instance than the one that was signed for: who is
// on the way of a connection without attested TLS can lead to any, as genuine.
func (s *session) sameAs(again *client.Instance) error {
	before := s.instance
	same := bytes.Equal(again.Key, before.Key)
	if st := before.Statement; same && st != nil && !before.Locked() {
		same = again.Statement != nil && bytes.Equal(again.Statement.Origin, st.Origin)
	}
	if !same {
		return refuse("the step was signed for the instance %x, and afterwards another one answers: %x\nNothing shows that the step was taken. Use the https address of the instance.", []byte(before.Key), []byte(again.Key))
	}
	return nil
}

// mine refuses to go on where the instance has another owner.
func (s *session) mine(key ed25519.PublicKey) error {
	st := s.instance.Statement
	if st == nil || len(st.Owner) == 0 || bytes.Equal(st.Owner, key) {
		return nil
	}
	return refuse("the instance's owner is %x, and this key is %x\nGive the owner's key with --key or --agent-key.", []byte(st.Owner), []byte(key))
}

func join(by string, parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, by)
}

// instanceError turns an error of a call into one of the command line: a refusal,
// with what to do next, or work that could not be done.
func instanceError(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*client.Refusal](err); ok {
		help := cmp.Or(nextStep[r.Reason], r.Help)
		if r.RetryAfter > 0 {
			help = join(" ", help, fmt.Sprintf("Try again in %d seconds.", r.RetryAfter))
		}
		return refuse("%s", join("\n", "the instance refused: "+r.Error(), help))
	}
	if d, ok := errors.AsType[*client.Doubt](err); ok {
		return refuse("%s", join("\n", err.Error(), doubtHelp[d.Reason]))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return work(fmt.Errorf("%w\nThe instance may be at it still: look with 'telemark workload status', and give more --timeout", err))
	}
	return work(err)
}
